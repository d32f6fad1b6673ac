"""The last 4 KiB of somebody's stderr, kept for messages.

A stderr that nobody reads fills its pipe, or the window that it shares with stdout, and the other side
stops for ever: so each transport has a thread that reads it into one of these.
"""

from __future__ import annotations

import threading

KEEP_BYTES = 4096


class Tail:
    """Bytes in, the last 4 KiB out as text.  For one thread that feeds and any that ask."""

    def __init__(self) -> None:
        self._bytes = b""
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        with self._lock:
            self._bytes = (self._bytes + data)[-KEEP_BYTES:]

    def text(self) -> str:
        """What was fed last, as UTF-8, without the control characters that could steer a terminal."""
        with self._lock:
            text = self._bytes.decode("utf-8", "replace")
        return "".join(c for c in text if c in "\n\t" or c.isprintable()).strip()
