"""Frames: how messages and data are cut on a stream of bytes.

    offset  bytes  what
    0       2      magic, b"RR"
    2       1      protocol version, 1
    3       1      kind: 1 a message (JSON), 2 data (a piece of an image)
    4       4      length of the payload, big-endian
    8       4      CRC-32 of bytes 2 to 7 and the payload, big-endian
    12      n      payload

A stream that ends inside a frame, or before the message that ends an answer, is a cut stream and
never a short answer.  The CRC finds accidents of the line; images carry a SHA-256 of their own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

PROTOCOL = 2
MAGIC = b"RR"
MESSAGE = 1
DATA = 2
READ_BYTES = 64 << 10
HEAD = struct.Struct(">2sBBII")
LIMITS = {MESSAGE: 16 << 20, DATA: 1 << 20}
"""the longest payload of each kind, bytes: a longer one is refused before it is read"""


class FrameError(Exception):
    """The bytes are not frames of this protocol.  `seen` is how they begin."""

    def __init__(self, why: str, seen: bytes = b"") -> None:
        super().__init__(why)
        self.seen = seen


@dataclass(frozen=True)
class Frame:
    kind: int
    payload: bytes


def encode(kind: int, payload: bytes | memoryview) -> bytes:
    """One frame.

    >>> encode(MESSAGE, b"hi").hex()
    '52520201000000021bbe3f9d6869'
    """
    body = struct.pack(">BBI", PROTOCOL, kind, len(payload))
    return HEAD.pack(MAGIC, PROTOCOL, kind, len(payload), zlib.crc32(payload, zlib.crc32(body))) + payload


class Decoder:
    """Feed it bytes as they come; it gives the frames that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes.  Raises FrameError at the first byte that can't be right."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def at_boundary(self) -> bool:
        """Whether everything fed so far has come out as whole frames."""
        return not self._buffer

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if not MAGIC.startswith(bytes(buffer[:2])):
            raise FrameError("these are not frames of rollrep", bytes(buffer[:200]))
        if len(buffer) < HEAD.size:
            return None
        _, version, kind, length, checksum = HEAD.unpack_from(buffer)
        if version != PROTOCOL:
            raise FrameError(f"protocol version {version} is not known here, {PROTOCOL} is")
        if length > LIMITS.get(kind, -1):
            raise FrameError(f"a frame of kind {kind} and {length} bytes is not allowed")
        if len(buffer) < HEAD.size + length:
            return None
        payload = bytes(memoryview(buffer)[HEAD.size : HEAD.size + length])
        if zlib.crc32(payload, zlib.crc32(buffer[2:8])) != checksum:
            raise FrameError("a frame arrived damaged (CRC-32)")
        del buffer[: HEAD.size + length]
        return Frame(kind, payload)


def messages_in(stdin: BinaryIO) -> Iterator[bytes]:
    """The payloads of the messages that come, until the stream ends.  Raises FrameError at all else."""
    decoder = Decoder()
    # read1 gives what is there; read would wait until its limit is full.
    while data := stdin.read1(READ_BYTES):  # type: ignore[attr-defined]
        for frame in decoder.feed(data):
            if frame.kind != MESSAGE:
                raise FrameError("a source takes messages only")
            yield frame.payload
