"""The stream that every transport gives, and the address that says which one.

    ssh://backup@shop-prod:2222/shop       the database the key may pull under the name "shop"
    ssh://shop-prod//srv/shop/app.db       a path, absolute on that host
    local:/srv/shop/app.db                 a child process on this machine

Knows: core.  Does not know: frames, messages, what a job is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a source is.  `host` is None for a child process on this machine.

    `database` is a name that the source's key may pull, or an absolute path there.
    """

    database: str
    host: str | None = None
    user: str | None = None
    port: int | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """How to reach it.  None means: as the person's own ssh_config says."""

    identity: Path | None = None
    known_hosts: Path | None = None
    ssh_config: Path | None = None
    remote_command: str = "rollrep source serve"
    connect_timeout_s: float = 20.0
    stall_timeout_s: float = 60.0
    window_bytes: int = 8 << 20
    bandwidth: int | None = None
    """bytes a second that are received at most"""


class Stream(Protocol):
    """A duplex stream of bytes to one `rollrep source serve`."""

    def read(self, limit: int) -> bytes:
        """1 to `limit` bytes, or b"" at the end of the stream.

        Raises Temporary when nothing arrives for `stall_timeout_s`.
        """

    def write(self, data: bytes) -> None:
        """Sends all of `data`, or raises Temporary."""

    def close(self) -> None:
        """Ends the other side; never raises, never blocks for long.  May be called twice."""

    def diagnosis(self) -> str:
        """What the other side wrote to its stderr lately (the last 4 KiB), for messages."""

    def exit_status(self) -> int | None:
        """The other side's exit status once it ended (waits for it 2 seconds at most), else None."""
