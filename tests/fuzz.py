"""What comes from another machine or from a disk, fuzzed with coverage: `pip install atheris`, then

    PYTHONPATH=tests:fixtures python tests/fuzz.py TARGET [CORPUS] [-max_total_time=300]

    frames      bytes of a stream, cut anywhere                      session    messages to a destination that pulls
    request     messages to a source that serves one database        container  files at rest, their checksums put right
    image       databases that carry rows and operations             pages      pages of a first copy
    tokens      key values

Checksums and digests are made right before each try, else nothing behind them would ever be reached.  What may come out is
what each door's docstring says; all else is a find, and libFuzzer keeps the input.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec

try:
    atheris: Any = importlib.import_module("atheris")
except ModuleNotFoundError:
    sys.exit("atheris is not installed; on Linux: pip install atheris")

with atheris.instrument_imports(include=["rollrep"]):
    from rollrep.core import tokens
    from rollrep.core.errors import RollrepError, VerifyFailed
    from rollrep.core.nouns import Shape
    from rollrep.destination import archive, changes, container, images, snapshots, travelling
    from rollrep.source.database import open_source
    from rollrep.source.install import install
    from rollrep.source.serve import serve
    from rollrep.source.tables import Limits
    from rollrep.wire import frames, messages, pages
    from rollrep.wire.session import LogOverrun, SchemaChanged, Session

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
HELLO = messages.Hello("fuzz", "shop")


class Recorded:
    """A stream that says what it was given, and then nothing more."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def read(self, limit: int) -> bytes:
        return self._rest.read(limit)

    def write(self, data: bytes) -> None:
        pass

    def diagnosis(self) -> str:
        return ""

    def exit_status(self) -> int | None:
        return None


def framed(data: bytes) -> bytes:
    """Each line a message; what follows a line that begins with NUL is data."""
    said = [(frames.DATA, line[1:]) if line[:1] == b"\0" else (frames.MESSAGE, line) for line in data.split(b"\n")]
    return b"".join(frames.encode(kind, payload) for kind, payload in said)


def fuzz_frames(data: bytes) -> None:
    decoder = frames.Decoder()
    with contextlib.suppress(frames.FrameError):
        for start in range(0, len(data), 7):
            list(decoder.feed(data[start : start + 7]))


def fuzz_session(data: bytes) -> None:
    session = Session(Recorded(framed(data)), "the source")
    try:
        session.hello(HELLO)
        list(session.batches(0, 5))
        session.ask_chunk(messages.SendChunk(1, None, 5, ""))
        session.read_chunk(5)
        list(session.shadows(messages.SendShadows(5, 0, "", {})))
        session.forgotten(messages.SendForgotten(5, 0, ""))
        session.ask_pages(messages.SendPages(""))
        list(session.pages())
    except (RollrepError, SchemaChanged, LogOverrun):
        pass


def fuzz_request(data: bytes) -> None:
    hello = frames.encode(frames.MESSAGE, messages.encode(HELLO))
    serve(io.BytesIO(hello + framed(data)), io.BytesIO(), {"shop": shop()})


def shop() -> Path:
    path = FOLDER / "shop.db"
    if not path.exists():
        with contextlib.closing(apsw.Connection(str(path))) as db:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE VIRTUAL TABLE f USING fts5(b)")
        with contextlib.closing(open_source(path)) as db:
            install(db, Limits())
            db.execute("INSERT INTO t(a) VALUES ('one'), (x'02'); INSERT INTO f VALUES ('words')").fetchall()
    return path


KINDS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    (archive.KIND, archive.SegmentHolds), (snapshots.KIND, snapshots.SnapshotHolds),
    (changes.KIND, changes.ChangeHolds), (travelling.KIND, travelling.PointHolds),
)  # fmt: skip


def fuzz_container(data: bytes) -> None:
    """The first line is what the manifest says it holds; the rest is packed."""
    text, _, packed = data.partition(b"\n")
    kind, holds = KINDS[len(text) % len(KINDS)]
    manifest = container.Manifest(
        container.FORMAT,
        kind,
        hashlib.sha256(packed).hexdigest(),
        len(packed),
        packed[0] if packed else 0,
        msgspec.Raw(b"0"),
    )
    told = msgspec.json.encode(manifest).replace(b'"holds":0', b'"holds":' + text)
    path = FOLDER / "file"
    path.write_bytes(
        packed + struct.pack("<II", container.SKIPPABLE, len(told) + 36) + told + hashlib.sha256(told).digest()
        + struct.pack("<I", len(told))
    )  # fmt: skip
    for door in (
        lambda: container.read_holds(path, kind, holds), lambda: container.read_raw(path, kind),
        lambda: container.unpack_to(path, kind, FOLDER / "raw"),
    ):  # fmt: skip
        with contextlib.suppress(VerifyFailed):
            door()


SHAPE = Shape(1, "t", ("id", "a"), 1, False, False, ("BINARY",), (), False, True)


def fuzz_image(data: bytes) -> None:
    with images.scratch(images.encoding_of(data)) as db:
        db.execute("ATTACH ':memory:' AS chunk")
        for attach in (
            lambda: images.attach_log(db, data, 1, 5, [SHAPE], sparse=True), lambda: images.points_in(db),
            lambda: images.attach_rows(db, data, SHAPE), lambda: db.execute("SELECT * FROM chunk.rows").fetchall(),
        ):  # fmt: skip
            with contextlib.suppress(VerifyFailed, apsw.Error, UnicodeDecodeError):
                attach()


def fuzz_pages(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        pages.unpack_pages(data[: len(data) // 513 * 513], 512)


def fuzz_tokens(data: bytes) -> None:
    with contextlib.suppress(RollrepError):
        tokens.bind_token(data.decode(errors="replace"))


SEEDS: dict[str, list[bytes]] = {
    "session": [messages.encode(each) for each in (
        messages.Done(), messages.Changed(), messages.Overrun(3), messages.Refusal("Temporary", "no", "yes"),
    )],
    "request": [messages.encode(each) for each in (
        HELLO, messages.SendBatches(0, 5), messages.SendChunk(1, ("i:1",), 2, "x"), messages.SendForgotten(1, 1, ""),
        messages.SendStretch(1, None, 1, "x", 3), messages.SendRows(1, (messages.KeyRange(("i:1",), None),), 1, ""),
        messages.SendPages(""), messages.SendShadows(1, 1, "", {"f_data": (messages.Range(("i:1",), "x"),)}),
    )],
    "tokens": [b"i:17", b"r:0x1.8p+3", b"t:6162", b"b:00", b"n:"],
}  # fmt: skip


def main() -> None:
    targets: dict[str, Callable[[bytes], None]] = {
        name.removeprefix("fuzz_"): each for name, each in globals().items() if name.startswith("fuzz_")
    }
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"say what is fuzzed: {', '.join(sorted(targets))}")
    name = sys.argv.pop(1)
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, seed in enumerate([*SEEDS.get(name, []), b"\n".join(SEEDS.get(name, []))]):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], atheris.instrument_func(targets[name]))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
