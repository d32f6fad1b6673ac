"""One conversation with a source, seen from the destination: requests go out, typed answers come in.

    session = Session(stream, host)
    answer  = session.hello(...)
    for batch, packed in session.batches(after, through): ...
    ...     = session.chunk(...)

Everything read is checked before it is given on: frames by CRC, messages by type, images by length and
SHA-256.  A stream that ends early raises Temporary and gives nothing.

Knows: frames, messages, the Stream interface.  Does not know: SSH, SQLite, what is done with a batch.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterator
from typing import Protocol, TypeVar

import msgspec

from rollrep.core import errors
from rollrep.core.errors import NotSetUp, RollrepError, Temporary
from rollrep.wire import frames, messages
from rollrep.wire.messages import Answer, Batch, Chunk, Done, Image, Message, Overrun, Refusal, ShadowRows, Shadows

MAX_RAW_BYTES = 1 << 30
"""the largest image we unpack; a source never makes one this large unless a single row is"""
READ_BYTES = 256 << 10
_SAME = "install the same rollrep version on both machines"
BACKLOGS, ANSWERS = 8, 40
"""so many times the log that was to be caught up with, in so many answers, and nothing but log: it is never over"""

M = TypeVar("M", bound=Message)
P = TypeVar("P", Chunk, messages.Stretch, messages.Leaves, messages.Cells, messages.Groups, messages.Rows)
Tail = tuple[Batch, bytes] | None


class Stream(Protocol):
    def read(self, limit: int) -> bytes: ...
    def write(self, data: bytes) -> None: ...
    def diagnosis(self) -> str: ...
    def exit_status(self) -> int | None: ...


class SchemaChanged(Exception):
    """The source's schema changed since its Answer; say hello again."""


class LogOverrun(Exception):
    """Rows asked for were pruned while they were read; the log begins at `oldest`."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"the log begins at {oldest} now")
        self.oldest = oldest


class Session:
    """Not thread-safe; one request at a time, except that `ask` may be said before it is needed."""

    def __init__(self, stream: Stream, where: str) -> None:
        self._stream = stream
        self._where = where
        self._decoder = frames.Decoder()
        self._frames: deque[frames.Frame] = deque()
        self._head = 0
        self._unread = 0
        """questions that were asked and whose answers were not read"""
        self._stale = 0
        """those of them whose answers nobody waits for any more"""
        self._only_log: list[int] = []
        """the first id, and then the last of each answer, of answers that were nothing but log"""
        self.bytes_received = 0

    def hello(self, hello: messages.Hello) -> Answer:
        """The source's Answer.  Raises what it refuses with, as one of core's errors."""
        self.abandon()
        self._say(hello)
        answer = self._expect(Answer)
        self._head, self._only_log = answer.facts.head.id, []
        return answer

    def batches(self, after: int, through: int) -> Iterator[tuple[Batch, bytes]]:
        """Batches that follow on one another without a hole, each with its packed image.

        Raises LogOverrun when the log rolled over meanwhile; what was given before stays good.
        """
        self._say(messages.SendBatches(after, through))
        while True:
            message = self._hear()
            if isinstance(message, Done):
                break
            if isinstance(message, Overrun):
                raise LogOverrun(message.oldest)
            if not isinstance(message, Batch):
                raise self._nonsense(message)
            before, after = after, message.last
            yield message, self._follow_on(message, before)
        if after != through:
            raise RollrepError(
                f"{self._where} sent the log up to {after} and not to {through}, as it had offered", remedy=_SAME
            )

    def ask(self, wanted: messages.Ask | messages.SendCells) -> None:
        """Says what is wanted next of a table; `read` reads the answer."""
        self._say(wanted)
        self._unread += 1

    def abandon(self) -> None:
        """What was asked ahead is not waited for: its answers are skipped before the next question."""
        self._stale += self._unread
        self._unread = 0

    def forgotten(self, wanted: messages.SendForgotten) -> tuple[messages.Bridge, bytes] | None:
        """The next rows behind forgotten keys with their packed image; None where the keys don't reach back so far.

        Raises SchemaChanged.
        """
        self._say(wanted)
        message = self._hear()
        if isinstance(message, messages.Bridge):
            if message.last < wanted.after:
                raise self._nonsense(message)
            return message, self._image(message.image)
        if isinstance(message, messages.Changed):
            raise SchemaChanged
        if isinstance(message, Done):
            return None
        raise self._nonsense(message)

    def ranges(self, wanted: messages.SendRanges) -> messages.Ranges | None:
        """Where the source was written to; None where it does not know.  Raises SchemaChanged."""
        self._say(wanted)
        message = self._hear()
        if isinstance(message, messages.Ranges):
            return message
        if isinstance(message, messages.Changed):
            raise SchemaChanged
        if isinstance(message, Done):
            return None
        raise self._nonsense(message)

    def ask_chunk(self, wanted: messages.SendChunk) -> None:
        self.ask(wanted)

    def read_chunk(self, after: int) -> tuple[Tail, tuple[Chunk, bytes] | None]:
        """(the log after `after`, the table's rows as of its end); as `read`."""
        return self.read(after, Chunk)

    def read(self, after: int, kind: type[P] | tuple[type[P], ...]) -> tuple[Tail, tuple[P, bytes] | None]:
        """(the log after `after`, what was asked for, as of its end, with its packed image); either may be None.

        Nothing but the log comes when so much of it has to be caught up with that it fills a batch of its own.
        Raises SchemaChanged, LogOverrun; that also where log comes, and nothing else, as if for ever.
        """
        tail: Tail = None
        self._unread -= 1
        while True:
            message = self._hear()
            if isinstance(message, Batch) and tail is None:
                tail = (message, self._follow_on(message, after))
            elif isinstance(message, kind):
                self._only_log = []
                image = None if isinstance(message, messages.Stretch) else message.image
                return tail, (message, self._image(image) if image else b"")
            elif isinstance(message, Done):
                self._bear(tail)
                return tail, None
            elif isinstance(message, Overrun):
                raise LogOverrun(message.oldest)
            elif isinstance(message, messages.Changed):
                raise SchemaChanged
            else:
                raise self._nonsense(message)

    def ask_pages(self, wanted: messages.SendPages) -> messages.Pages | None:
        """What is said of the pages that follow; None where rows have to travel.  Raises SchemaChanged."""
        self._say(wanted)
        message = self._hear()
        if isinstance(message, messages.Pages):
            return message
        if isinstance(message, Done):
            return None
        if isinstance(message, messages.Changed):
            raise SchemaChanged
        raise self._nonsense(message)

    def pages(self) -> Iterator[tuple[messages.PagePart, bytes]]:
        """The pages that were said to follow, each part with its packed image; not all where the line is too slow."""
        while not isinstance(message := self._hear(), Done):
            if not isinstance(message, messages.PagePart):
                raise self._nonsense(message)
            yield message, self._image(message.image)

    def shadows(self, ask: messages.SendShadows) -> Iterator[tuple[Batch | ShadowRows, bytes] | Shadows]:
        """The log after `ask.position`, then what differs of the shadow tables, then Shadows.

        Without Shadows at the end there was too much log: take it, and ask again.  Raises SchemaChanged, LogOverrun.
        """
        self._say(ask)
        tail: Tail = None
        while True:
            message = self._hear()
            if isinstance(message, Batch):
                tail = (message, self._follow_on(message, ask.position))
                yield tail
            elif isinstance(message, ShadowRows):
                yield message, self._image(message.image)
            elif isinstance(message, Shadows):
                self._only_log = []
                yield message
                return
            elif isinstance(message, Done) and tail:
                self._bear(tail)
                return
            elif isinstance(message, Overrun):
                raise LogOverrun(message.oldest)
            elif isinstance(message, messages.Changed):
                raise SchemaChanged
            else:
                raise self._nonsense(message)

    def _bear(self, tail: Tail) -> None:
        """An answer of nothing but log: raises LogOverrun where the source writes faster than it is read."""
        if tail is None:
            return
        batch, seen = tail[0], self._only_log
        seen += [batch.last] if seen else [batch.first, batch.last]
        backlog = max(0, self._head - seen[0])
        if len(seen) > ANSWERS and batch.last - seen[0] > BACKLOGS * backlog:
            raise LogOverrun(batch.first)

    def _follow_on(self, batch: Batch, after: int) -> bytes:
        if batch.first != after + 1 or batch.last < batch.first:
            raise RollrepError(
                f"{self._where} sent log rows {batch.first} to {batch.last} where {after + 1} was next", remedy=_SAME
            )
        return self._image(batch.image)

    def _image(self, image: Image) -> bytes:
        if not 0 < image.raw_bytes <= MAX_RAW_BYTES or not 0 < image.packed_bytes <= MAX_RAW_BYTES:
            raise RollrepError(
                f"{self._where} offered an image of {image.raw_bytes} bytes; that is not allowed", remedy=_SAME
            )
        packed, digest = io.BytesIO(), hashlib.sha256()  # whose bytes are given out without a copy
        while packed.tell() < image.packed_bytes:
            frame = self._frame()
            if frame.kind != frames.DATA or packed.tell() + len(frame.payload) > image.packed_bytes:
                raise RollrepError(f"{self._where} sent other data than it had announced", remedy=_SAME)
            packed.write(frame.payload)
            digest.update(frame.payload)
        if digest.hexdigest() != image.sha256:
            raise Temporary(f"an image from {self._where} arrived damaged", remedy="it will be fetched again")
        return packed.getvalue()

    def _skip(self) -> None:
        """Reads an answer of `read` to its end, and forgets it."""
        while isinstance(message := self._hear(), Batch):
            self._image(message.image)
        if isinstance(message, Chunk | messages.Leaves | messages.Cells | messages.Groups | messages.Rows):
            if message.image:
                self._image(message.image)
        elif not isinstance(message, messages.Stretch | Done | Overrun | messages.Changed):
            raise self._nonsense(message)

    def _say(self, message: Message) -> None:
        while self._stale:
            self._stale -= 1
            self._skip()
        self._stream.write(frames.encode(frames.MESSAGE, messages.encode(message)))

    def _expect(self, kind: type[M]) -> M:
        message = self._hear()
        if not isinstance(message, kind):
            raise self._nonsense(message)
        return message

    def _hear(self) -> messages.FromSource:
        frame = self._frame()
        if frame.kind != frames.MESSAGE:
            raise RollrepError(f"{self._where} sent data that it had not announced", remedy=_SAME)
        try:
            message = messages.decode_from_source(frame.payload)
        except msgspec.DecodeError as error:
            raise RollrepError(
                f"{self._where} says something this rollrep does not understand ({error})", remedy=_SAME
            ) from error
        if isinstance(message, Refusal):
            raise refused(message, self._where)
        return message

    def _frame(self) -> frames.Frame:
        while not self._frames:
            data = self._stream.read(READ_BYTES)
            if not data:
                raise self._ended()
            self.bytes_received += len(data)
            try:
                self._frames.extend(self._decoder.feed(data))
            except frames.FrameError as error:
                raise self._not_frames(error) from error
        return self._frames.popleft()

    def _ended(self) -> RollrepError:
        said = self._stream.diagnosis().strip()
        last_line = said.splitlines()[-1] if said else ""
        if self._stream.exit_status() in (126, 127):
            return NotSetUp(
                f"rollrep can't be started on {self._where}: {last_line or 'command not found'}",
                remedy='install it there, or name it in the job: remote_command = "/path/to/rollrep source serve"',
            )
        return Temporary(
            f"{self._where} ended the connection early" + (f": {last_line}" if last_line else ""),
            remedy="nothing was lost; the next pull goes on from here",
        )

    def _not_frames(self, error: frames.FrameError) -> RollrepError:
        if not error.seen:
            return Temporary(f"the connection to {self._where}: {error}", remedy="the next pull goes on from here")
        line = error.seen.decode(errors="replace").splitlines()[0][:80]
        return RollrepError(
            f"{self._where} prints text before rollrep speaks: {line!r}",
            remedy="make the login shell there silent (its .bashrc or .profile), or see what the remote command prints",
        )

    def _nonsense(self, message: Message) -> RollrepError:
        return RollrepError(f"{self._where} said {type(message).__name__} where that means nothing", remedy=_SAME)


def refused(refusal: Refusal, where: str) -> RollrepError:
    """The source's refusal as the same error that was raised there; `where` is named, because its paths are meant."""
    by_name = {kind.__name__: kind for kind in errors.ALL_ERRORS}
    return by_name.get(refusal.error, RollrepError)(f"{where} says: {refusal.facts}", remedy=refusal.remedy)
