"""A stream that receives no more than so many bytes a second.

    source ══ window of half a second ══▶ here ── pieces, with pauses between them ──▶ reader

What is not read stays where it is: SSH's window, or the pipe, is full soon, and the source waits.  It waits with
nothing open: what it sends was read and compressed before, so a slow link makes no writer wait.

In any stretch of time, what is read is at most the rate times its length and one piece.  Knows: the Stream
interface.  Does not know: what flows through.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rollrep.transport.base import Stream

PIECE_S = 0.05
"""a piece is what may be received in this time"""
WINDOW_S = 0.5
"""so much may lie on the way: enough for any round trip, and no burst"""


class PacedStream:
    """`stream`, read slowly.  A source that was silent for a while has saved nothing up."""

    def __init__(
        self,
        stream: Stream,
        bytes_per_s: int,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._bytes_per_s = bytes_per_s
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._free_at_s = 0.0
        self._piece = max(1, int(bytes_per_s * PIECE_S))

    def read(self, limit: int) -> bytes:
        while (wait_s := self._free_at_s - self._monotonic_s()) > 0:
            self._sleep(wait_s)
        data = self._stream.read(min(limit, self._piece))
        self._free_at_s = self._monotonic_s() + len(data) / self._bytes_per_s
        return data

    def write(self, data: bytes) -> None:
        self._stream.write(data)

    def close(self) -> None:
        self._stream.close()

    def diagnosis(self) -> str:
        return self._stream.diagnosis()

    def exit_status(self) -> int | None:
        return self._stream.exit_status()
