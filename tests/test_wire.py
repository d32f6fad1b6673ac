"""The wire alone: bytes that are cut, altered, split, reordered or simply not ours never become data.

A real conversation is recorded once; everything here is that recording, made worse.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollrep.core.errors import RollrepError, Temporary, UsageError
from rollrep.core.nouns import Position
from rollrep.source import reader as source_reader
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.log import Ends, Meta
from rollrep.source.serve import choose, serve
from rollrep.source.tables import Limits
from rollrep.wire import frames, messages
from rollrep.wire.messages import Batch, Chunk, Hello, SendBatches, SendChunk
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

HELLO = Hello(version="test", database="shop")
Item = tuple[str, Any]


class Recorded:
    """A stream that says what was recorded, in pieces of any size, and then nothing more."""

    def __init__(self, data: bytes, piece: int | None = None) -> None:
        self._rest = memoryview(data)
        self._piece = piece
        self.written = bytearray()

    def read(self, limit: int) -> bytes:
        size = min(limit, self._piece or limit)
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data

    def write(self, data: bytes) -> None:
        self.written += data

    def diagnosis(self) -> str:
        return ""

    def exit_status(self) -> int | None:
        return None


def say(*said: messages.Message) -> bytes:
    return b"".join(frames.encode(frames.MESSAGE, messages.encode(each)) for each in said)


def served(databases: dict[str, Path] | None, request: bytes) -> bytes:
    out = io.BytesIO()
    serve(io.BytesIO(request), out, databases)
    return out.getvalue()


def cut_frames(data: bytes) -> list[frames.Frame]:
    decoder = frames.Decoder()
    found = list(decoder.feed(data))
    assert decoder.at_boundary()
    return found


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What a source said in one pull: hello, all batches, then a table's rows behind the log's tail."""

    data: bytes
    head: int
    shape: int
    digest: str
    items: tuple[Item, ...]

    def replay(self, data: bytes, piece: int | None = None) -> tuple[list[Item], BaseException | None]:
        """(what was believed, in order; how it ended)."""
        believed: list[Item] = []
        session = Session(Recorded(data, piece), "the source")
        try:
            believed.append(("answer", session.hello(HELLO)))
            for batch in session.batches(0, self.head):
                believed.append(("batch", batch))
            session.ask_chunk(SendChunk(self.shape, None, self.head - 2, self.digest))
            believed.append(("chunk", session.read_chunk(self.head - 2)))
        except (RollrepError, SchemaChanged, LogOverrun) as error:
            return believed, error
        return believed, None


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "IMAGE_ROWS", 3)
    monkeypatch.setattr(source_reader, "IMAGE_PAGE_SIZE", 512)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "app.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a); INSERT INTO t VALUES (1, 'one'), (2, x'02')")
    with contextlib.closing(open_source(path)) as db:
        install(db, Limits())
        for n in range(7):
            db.execute("INSERT INTO t(a) VALUES (?)", (n / 2,))
    return path


@pytest.fixture
def conversation(source: Path, small_batches: None) -> Conversation:
    named = {"shop": source}
    answer = messages.decode_from_source(cut_frames(served(named, say(HELLO)))[0].payload)
    assert isinstance(answer, messages.Answer)
    assert answer.layout is not None
    head, [shape] = answer.facts.head.id, answer.layout.shapes
    ask = SendChunk(shape.id, None, head - 2, answer.schema_digest)
    data = served(named, say(HELLO, SendBatches(0, head), ask))
    whole = Conversation(data, head, shape.id, answer.schema_digest, ())
    items, error = whole.replay(data)
    assert error is None
    assert [kind for kind, _ in items] == ["answer", *["batch"] * 3, "chunk"]
    return dataclasses.replace(whole, items=tuple(items))


# ---------------------------------------------------------------- cut, altered, out of order


def test_session_believes_nothing_more_when_the_stream_is_cut_anywhere(conversation: Conversation) -> None:
    ends = {}
    for size in range(len(conversation.data)):
        believed, error = conversation.replay(conversation.data[:size])
        assert isinstance(error, Temporary), f"cut at {size}: {error!r}"
        assert believed == list(conversation.items[: len(believed)])
        ends[len(believed)] = size
    # Each item was believed before the next, and the last one only when all of it was there.
    assert sorted(ends) == [0, 1, 2, 3, 4]


def test_session_never_believes_other_data_when_any_byte_is_altered(conversation: Conversation) -> None:
    rng = random.Random(20261122)
    for at in range(len(conversation.data)):
        for flip in {1 << rng.randrange(8), rng.randrange(1, 256)}:
            altered = bytearray(conversation.data)
            altered[at] ^= flip
            believed, error = conversation.replay(bytes(altered))
            assert isinstance(error, RollrepError), f"byte {at} ^ {flip:#x}: {error!r}"
            assert believed == list(conversation.items[: len(believed)]), f"byte {at} ^ {flip:#x}"


def test_session_never_believes_other_data_when_bytes_are_lost_or_added(conversation: Conversation) -> None:
    rng = random.Random(7)
    for _ in range(600):
        at = rng.randrange(len(conversation.data))
        size = rng.choice((1, 1, 2, 12, 100, 1000))
        if rng.random() < 0.5:
            data = conversation.data[:at] + conversation.data[at + size :]
        else:
            data = conversation.data[:at] + rng.randbytes(size) + conversation.data[at:]
        believed, error = conversation.replay(data)
        assert isinstance(error, RollrepError)
        assert believed == list(conversation.items[: len(believed)])


def groups(data: bytes) -> list[bytes]:
    """Each message with the data frames that follow it."""
    found: list[bytes] = []
    for frame in cut_frames(data):
        piece = frames.encode(frame.kind, frame.payload)
        if frame.kind == frames.MESSAGE:
            found.append(piece)
        else:
            found[-1] += piece
    return found


def test_session_refuses_batches_when_they_come_twice_or_out_of_order_or_not_at_all(
    conversation: Conversation,
) -> None:
    parts = groups(conversation.data)
    hello, first, second, third, done, tail, chunk = parts
    wrong = (
        [hello, second, first, third, done],
        [hello, first, first, second, third, done],
        [hello, second, third, done],
        [hello, first, third, done],
        [hello, first, second, done],
        [hello, done],
        [hello, first, second, third, third, done],
        [first, hello],
        [done],
        [hello, first, hello],
        [hello, chunk],
        [hello, first, second, third, done, tail, tail, chunk],
        [hello, first, second, third, done, done, tail],
    )
    for order in wrong:
        believed, error = conversation.replay(b"".join(order))
        assert isinstance(error, RollrepError | LogOverrun) or believed[-1] == ("chunk", (None, None))
        kept = [item for item in believed if item != ("chunk", (None, None))]
        assert kept == list(conversation.items[: len(kept)])


def test_session_refuses_the_log_when_it_ends_before_what_was_offered() -> None:
    """Else the mirror would be said to stand where the rows do not reach."""

    ended = say(messages.Done())
    with pytest.raises(RollrepError, match="sent the log up to 3 and not to 5"):
        list(Session(Recorded(ended), "the source").batches(3, 5))
    assert list(Session(Recorded(ended), "the source").batches(5, 5)) == []


def test_session_refuses_an_image_when_its_bytes_are_of_another(conversation: Conversation) -> None:
    _, first, second, *_ = (cut_frames(part) for part in groups(conversation.data))
    hello = groups(conversation.data)[0]
    swapped = frames.encode(frames.MESSAGE, first[0].payload) + b"".join(
        frames.encode(frame.kind, frame.payload) for frame in second[1:]
    )
    believed, error = conversation.replay(hello + swapped)
    assert len(believed) == 1
    assert isinstance(error, RollrepError)


def test_session_refuses_an_image_when_one_of_its_bytes_is_another_in_a_frame_that_is_whole(
    conversation: Conversation,
) -> None:
    hello, first, *_ = groups(conversation.data)
    said, data, *rest = cut_frames(first)
    altered = frames.encode(data.kind, data.payload[:-1] + bytes([data.payload[-1] ^ 1]))
    parts = [hello, frames.encode(said.kind, said.payload), altered, *(frames.encode(f.kind, f.payload) for f in rest)]
    believed, error = conversation.replay(b"".join(parts))
    assert len(believed) == 1
    assert isinstance(error, RollrepError)
    assert "damaged" in str(error)


def image_of(packed: bytes, **changes: Any) -> messages.Image:
    image = messages.Image(1000, len(packed), hashlib.sha256(packed).hexdigest())
    return msgspec.structs.replace(image, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"raw_bytes": (1 << 30) + 1}, {"raw_bytes": 0}, {"raw_bytes": -1}, {"packed_bytes": (1 << 30) + 1},
     {"packed_bytes": 0}, {"packed_bytes": -5}, {"packed_bytes": 1 << 62}],
)  # fmt: skip
def test_session_refuses_an_image_at_once_when_its_size_is_not_allowed(changes: dict[str, int]) -> None:
    batch = Batch("e", 1, 1, "p", (), image_of(b"x" * 10, **changes))
    stream = Recorded(say(batch) + frames.encode(frames.DATA, b"x" * 10) * 3)
    with pytest.raises(RollrepError, match="not allowed") as refused:
        list(Session(stream, "the source").batches(0, 1))
    assert not isinstance(refused.value, Temporary)


@pytest.mark.parametrize(
    "follows",
    [frames.encode(frames.DATA, b"x" * 11), say(messages.Done()), frames.encode(frames.DATA, b"x" * 9) + say(messages.Done()),
     frames.encode(frames.DATA, b"y" * 10)],
    ids=["more", "a message", "a message inside", "another"],
)  # fmt: skip
def test_session_refuses_an_image_when_other_data_follows_than_announced(follows: bytes) -> None:
    batch = Batch("e", 1, 1, "p", (), image_of(b"x" * 10))
    with pytest.raises(RollrepError):
        list(Session(Recorded(say(batch) + follows), "the source").batches(0, 1))


WHERE: dict[str, Callable[[Session], object]] = {
    "hello": lambda session: session.hello(HELLO),
    "batches": lambda session: list(session.batches(0, 5)),
    "chunk": lambda session: session.read_chunk(5),
    "shadows": lambda session: list(session.shadows(messages.SendShadows(5, 0, "", {}))),
}
SAID: dict[str, messages.Message] = {
    "done": messages.Done(),
    "overrun": messages.Overrun(3),
    "changed": messages.Changed(),
    "batch": Batch("e", 1, 5, "p", (), image_of(b"x")),
    "refusal": messages.Refusal("UsageError", "no", "yes"),
    "hello": HELLO,
    "send_batches": SendBatches(0, 5),
}
RIGHT = {("batches", "overrun"), ("chunk", "overrun"), ("chunk", "changed"), ("chunk", "done"),
         ("shadows", "overrun"), ("shadows", "changed")}  # fmt: skip


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("what", SAID)
def test_session_refuses_a_message_when_it_means_nothing_there(where: str, what: str) -> None:
    session = Session(Recorded(say(SAID[what])), "the source")
    if (where, what) == ("chunk", "done"):
        assert WHERE[where](session) == (None, None)
    elif (where, what) in RIGHT:
        with pytest.raises((LogOverrun, SchemaChanged)):
            WHERE[where](session)
    else:
        with pytest.raises(RollrepError):
            WHERE[where](session)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"null", b"[]", b"\xff\xfe", b'{"say":"Nonsense"}', b'{"say":"Done"', b'{"say":"Overrun"}',
     b'{"say":"Overrun","oldest":"3"}', b'{"say":"Overrun","oldest":3.5}', b'{"say":"Overrun","oldest":null}',
     b'{"say":"Overrun","oldest":9223372036854775808}', b'{"s\xff":1}', b'{"say":"Do\xffne"}',
     b'{"oldest":3}', b'{"say":"Refusal","error":5,"facts":"x"}', b"[" * 100_000],
)  # fmt: skip
def test_session_refuses_a_message_when_its_type_is_wrong(payload: bytes) -> None:
    stream = Recorded(frames.encode(frames.MESSAGE, payload))
    with pytest.raises(RollrepError, match="does not understand"):
        Session(stream, "the source").read_chunk(1)


@pytest.mark.parametrize("depth", [10_000, 4 << 20])
def test_message_is_refused_when_a_field_that_nobody_knows_is_nested_deep(source: Path, depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    stream = Recorded(frames.encode(frames.MESSAGE, b'{"say":"Done","more":' + nested + b"}"))
    with pytest.raises(RollrepError, match="does not understand"):
        Session(stream, "the source").read_chunk(1)
    request = frames.encode(frames.MESSAGE, b'{"say":"Hello","version":"","database":"shop","more":' + nested + b"}")
    [refusal] = heard_by(source, request)
    assert isinstance(refusal, messages.Refusal) and "not understood" in refusal.facts


def test_session_says_what_was_printed_when_text_comes_before_the_frames(conversation: Conversation) -> None:
    for noise in (b"hello\n", b"Welcome to shop-prod!\r\nLast login: today\n", b"R", b"\n", b"\xff\xfe\x00", b"RR"):
        believed, error = conversation.replay(noise + conversation.data)
        assert believed == []
        assert isinstance(error, RollrepError)
        assert "\n" not in str(error)


# ---------------------------------------------------------------- frames

SOME_FRAMES = st.lists(st.tuples(st.sampled_from([frames.MESSAGE, frames.DATA]), st.binary(max_size=300)), max_size=8)


@given(SOME_FRAMES, st.data())
def test_frames_are_the_same_when_the_stream_is_split_anywhere(
    said: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(frames.encode(kind, payload) for kind, payload in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = frames.Decoder()
    heard: list[frames.Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        heard += decoder.feed(stream[start:end])
    assert [(frame.kind, frame.payload) for frame in heard] == said
    assert decoder.at_boundary()


def test_conversation_is_the_same_when_it_comes_byte_by_byte(conversation: Conversation) -> None:
    for piece in (1, 2, 7, 4096):
        assert conversation.replay(conversation.data, piece) == (list(conversation.items), None)


@settings(max_examples=400)
@given(st.binary(max_size=400), st.binary(max_size=40))
@example(b"R", b"")
@example(b"RR\x01\x01\x00\x00\x00\x00", b"\x00\x00\x00\x00")
def test_decoder_raises_nothing_but_frame_error_when_bytes_are_random(first: bytes, second: bytes) -> None:
    for head in (b"", b"R", frames.MAGIC, frames.MAGIC + bytes([frames.PROTOCOL, frames.DATA])):
        decoder = frames.Decoder()
        with contextlib.suppress(frames.FrameError):
            for _ in decoder.feed(head + first):
                pass
            for _ in decoder.feed(second):
                pass


@settings(max_examples=300)
@given(SOME_FRAMES.filter(bool), st.data())
def test_decoder_never_gives_another_frame_when_a_byte_is_altered(
    said: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = bytearray(b"".join(frames.encode(kind, payload) for kind, payload in said))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = frames.Decoder()
    heard: list[tuple[int, bytes]] = []
    with contextlib.suppress(frames.FrameError):
        heard += [(frame.kind, frame.payload) for frame in decoder.feed(bytes(stream))]
    assert heard == said[: len(heard)]
    assert len(heard) < len(said)


def head_of(kind: int, length: int, version: int = frames.PROTOCOL, magic: bytes = frames.MAGIC) -> bytes:
    return magic + bytes([version, kind]) + struct.pack(">I", length)


@pytest.mark.parametrize("kind", [frames.MESSAGE, frames.DATA])
def test_frame_is_refused_before_it_is_read_when_it_is_too_long(kind: int) -> None:
    for length in (frames.LIMITS[kind] + 1, 2**31, 2**32 - 1):
        with pytest.raises(frames.FrameError, match="not allowed"):
            list(frames.Decoder().feed(head_of(kind, length) + bytes(4)))


@pytest.mark.parametrize("kind", [frames.MESSAGE, frames.DATA])
def test_frame_passes_when_it_is_as_long_as_allowed(kind: int) -> None:
    payload = bytes(frames.LIMITS[kind])
    assert list(frames.Decoder().feed(frames.encode(kind, payload))) == [frames.Frame(kind, payload)]


@pytest.mark.parametrize("kind", [0, 3, 128, 255])
def test_frame_is_refused_when_its_kind_is_unknown(kind: int) -> None:
    body = head_of(kind, 0)
    whole = body + struct.pack(">I", zlib.crc32(body[2:]))
    with pytest.raises(frames.FrameError):
        list(frames.Decoder().feed(whole))


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_frame_is_refused_when_its_protocol_is_another(version: int) -> None:
    with pytest.raises(frames.FrameError, match=f"version {version}"):
        list(frames.Decoder().feed(head_of(frames.MESSAGE, 0, version) + bytes(4)))


# ---------------------------------------------------------------- the source's ear


def heard_by(source: Path, request: bytes) -> list[messages.FromSource]:
    return [
        messages.decode_from_source(frame.payload)
        for frame in cut_frames(served({"shop": source}, request))
        if frame.kind == frames.MESSAGE
    ]


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(frames.encode(frames.DATA, b"x"), id="data"),
        pytest.param(say(messages.Done()), id="a source's message"),
        pytest.param(say(SendBatches(0, 1)), id="batches before hello"),
        pytest.param(say(SendChunk(1, None, 0, "")), id="chunk before hello"),
        pytest.param(frames.encode(frames.MESSAGE, b"[" * 50_000), id="deep"),
        pytest.param(frames.encode(frames.MESSAGE, b'{"say":"Hello"}'), id="incomplete"),
        pytest.param(frames.encode(frames.MESSAGE, b'{"say":"SendBat\xff"}'), id="no text"),
        pytest.param(head_of(frames.DATA, 2**32 - 1) + bytes(4), id="oversized"),
        pytest.param(say(Hello("v", "shop", Position("e", 2**63, "p"))), id="too large"),
        pytest.param(say(Hello("v", "other")), id="not named"),
        pytest.param(say(Hello("v", "/etc/passwd")), id="a path"),
        pytest.param(say(Hello("v", "../shop")), id="a way up"),
        pytest.param(say(Hello("v", "")), id="nothing"),
    ],
)
def test_source_refuses_when_the_request_is_not_one(source: Path, request_bytes: bytes) -> None:
    before = source.read_bytes()
    [said] = heard_by(source, request_bytes)
    assert isinstance(said, messages.Refusal)
    assert said.facts
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "after_key", [(), ("i:1", "i:2"), ("x:1",), ("i:",), ("t:zz",), ("r:nan!",), ("r:7p99999",), ("i:" + "9" * 40,)]
)
def test_source_refuses_a_chunk_when_its_key_is_no_key(source: Path, after_key: tuple[str, ...]) -> None:
    [answer] = heard_by(source, say(HELLO))
    assert isinstance(answer, messages.Answer)
    assert answer.layout is not None
    ask = SendChunk(answer.layout.shapes[0].id, after_key, answer.facts.head.id, answer.schema_digest)
    _, said = heard_by(source, say(HELLO, ask))
    assert isinstance(said, messages.Refusal)


def test_source_says_changed_when_shape_or_schema_is_not_its_own(source: Path) -> None:
    [answer] = heard_by(source, say(HELLO))
    assert isinstance(answer, messages.Answer)
    assert answer.layout is not None
    shape, head = answer.layout.shapes[0].id, answer.facts.head.id
    for ask in (SendChunk(shape + 99, None, head, answer.schema_digest), SendChunk(shape, None, head, "another")):
        _, said = heard_by(source, say(HELLO, ask))
        assert said == messages.Changed()


def test_source_says_changed_when_the_schema_changes_while_a_chunk_is_read(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [answer] = heard_by(source, say(HELLO))
    assert isinstance(answer, messages.Answer) and answer.layout is not None
    chunk = source_reader.Reader.chunk

    def chunk_and_change(*how: Any) -> Any:
        with contextlib.closing(apsw.Connection(str(source))) as db:
            db.execute("CREATE TABLE later(a)")
        return chunk(*how)

    monkeypatch.setattr(source_reader.Reader, "chunk", chunk_and_change)
    ask = SendChunk(answer.layout.shapes[0].id, None, answer.facts.head.id, answer.schema_digest)
    _, said = heard_by(source, say(HELLO, ask))
    assert said == messages.Changed()


@pytest.mark.parametrize(("after", "beyond"), [(-5, 0), (0, 1), (0, 10**6), (10**18, 10**18), (-(2**63), 0)])
def test_source_says_overrun_when_batches_are_asked_for_that_it_does_not_have(
    source: Path, after: int, beyond: int
) -> None:
    [answer] = heard_by(source, say(HELLO))
    assert isinstance(answer, messages.Answer)
    _, *said = heard_by(source, say(HELLO, SendBatches(after, answer.facts.head.id + beyond)))
    last = said[-1]
    assert isinstance(last, messages.Overrun) or (isinstance(last, messages.Done) and after > answer.facts.head.id)


def test_source_reads_no_more_when_nobody_listens(
    source: Path, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HungUp(io.BytesIO):
        def write(self, data: Any) -> int:
            if read:
                raise BrokenPipeError
            return super().write(data)

    read: list[int] = []
    batch = source_reader.Reader.batch
    monkeypatch.setattr(source_reader.Reader, "batch", lambda *how: read.append(1) or batch(*how))
    serve(io.BytesIO(say(HELLO, SendBatches(0, 8), SendBatches(0, 8))), HungUp(), {"shop": source})
    assert read == [1]


def test_source_tells_a_destination_nothing_but_names_when_names_are_given(source: Path) -> None:
    [said] = heard_by(source, say(Hello("v", str(source))))
    assert isinstance(said, messages.Refusal)
    assert said.error == UsageError.__name__
    assert "shop" not in f"{said.facts} {said.remedy}"


# ---------------------------------------------------------------- choosing the answer

META = Meta(**{field.name: None for field in dataclasses.fields(Meta)} | {"epoch": "epoch", "pruned_through": 9})  # type: ignore[arg-type]
ENDS = Ends(10, 20)


@pytest.mark.parametrize(
    ("position", "proof", "expected"),
    [
        (None, None, ("mirror", "first")),
        (Position("other", 15, "p"), "p", ("mirror", "epoch")),
        (Position("other", 20, "p"), "p", ("mirror", "epoch")),
        (Position("other", 99, "p"), None, ("mirror", "epoch")),
        (Position("epoch", 20, "p"), "p", ("up_to_date", "")),
        (Position("epoch", 20, "p"), "q", ("mirror", "diverged")),
        (Position("epoch", 20, "p"), None, ("mirror", "diverged")),
        (Position("epoch", 19, "p"), "p", ("resume", "")),
        (Position("epoch", 15, "p"), "p", ("resume", "")),
        (Position("epoch", 15, "p"), "P", ("mirror", "diverged")),
        (Position("epoch", 15, ""), None, ("mirror", "diverged")),
        (Position("epoch", 10, "p"), "p", ("resume", "")),
        (Position("epoch", 10, "p"), "q", ("mirror", "diverged")),
        (Position("epoch", 9, "p"), None, ("mirror", "pruned")),
        (Position("epoch", 0, "p"), None, ("mirror", "pruned")),
        (Position("epoch", -1, "p"), None, ("mirror", "pruned")),
        (Position("epoch", 21, "p"), None, ("mirror", "ahead")),
        (Position("epoch", 2**63 - 1, "p"), None, ("mirror", "ahead")),
    ],
)  # fmt: skip
def test_answer_is_the_safe_one_when_the_position_is(
    position: Position | None, proof: str | None, expected: tuple[str, str]
) -> None:
    assert choose(position, META, ENDS, proof) == expected


@pytest.mark.parametrize(
    ("stands_ms", "forgotten_ms", "reason"),
    [(7, 7, "pruned"), (7, 8, "diverged"), (7, None, "pruned"), (None, 8, "pruned"), (None, None, "pruned")],
)
def test_forgotten_row_is_another_history_when_it_was_written_at_another_time(
    stands_ms: int | None, forgotten_ms: int | None, reason: str
) -> None:
    assert choose(Position("epoch", 9, "p", stands_ms), META, ENDS, None, forgotten_ms) == ("mirror", reason)


@pytest.mark.parametrize("row", [1, 5])
@pytest.mark.parametrize("column", ["at", "shape", "op", "v0", "v1"])
def test_answer_is_diverged_when_the_row_at_the_position_is_another(source: Path, row: int, column: str) -> None:
    with contextlib.closing(open_source(source)) as db:
        log_id = 2 + row
        [answer] = heard_by(source, say(HELLO))
        assert isinstance(answer, messages.Answer)
        replies = cut_frames(served({"shop": source}, say(HELLO, SendBatches(0, log_id))))
        batch = next(b for f in replies if f.kind == frames.MESSAGE
                     for b in [messages.decode_from_source(f.payload)] if isinstance(b, Batch))  # fmt: skip
        position = Position(answer.facts.head.epoch, log_id, batch.proof)
        hello = Hello("v", "shop", position=position, schema_digest=answer.schema_digest)
        [good] = heard_by(source, say(hello))
        assert isinstance(good, messages.Answer)
        assert (good.kind, good.reason) == ("resume", "")
        change = {"at": "at + 1e-9", "shape": "0", "op": "0", "v0": "CAST(v0 AS REAL)", "v1": "CAST(v1 AS TEXT)"}[
            column
        ]
        db.execute(f"UPDATE _rollrep_log SET {column} = {change} WHERE id = {log_id}")
        [bad] = heard_by(source, say(hello))
        assert isinstance(bad, messages.Answer)
        assert (bad.kind, bad.reason) == ("mirror", "diverged")


def test_chunk_is_complete_only_when_no_row_is_left(source: Path) -> None:
    [answer] = heard_by(source, say(HELLO))
    assert isinstance(answer, messages.Answer)
    assert answer.layout is not None
    shape, head = answer.layout.shapes[0].id, answer.facts.head.id
    _, said = heard_by(source, say(HELLO, SendChunk(shape, ("i:8",), head, answer.schema_digest)))
    assert isinstance(said, Chunk)
    assert (said.rows, said.last_key, said.complete) == (1, ("i:9",), True)
    _, said = heard_by(source, say(HELLO, SendChunk(shape, ("i:9",), head, answer.schema_digest)))
    assert isinstance(said, Chunk)
    assert (said.rows, said.complete) == (0, True)
