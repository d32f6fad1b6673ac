"""Whether somebody else has a file open that is about to be replaced.

    locks          what SQLite holds of the file and of its -shm: in WAL mode for as long as it is open
    open files     of every process that this user may look into: a database in another mode is locked only while used

Whoever has a replaced database open goes on with a file that has no name any more, and loses what is written there;
its -wal would be taken for that of the new one (https://www.sqlite.org/howtocorrupt.html, 2.4, "unlinking or renaming
a database file while in use").  What is not seen: an idle connection to a database that is not in WAL mode, of another
user or from inside a container.

Knows: kernel locks, /proc.  Does not know: SQL, what is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

SIDE_FILES = ("-wal", "-shm", "-journal")
PROCESSES = Path("/proc")

_FLOCK = "@hhqqi0q"
"""struct flock as Linux has it on 64 bits: type, whence, start, length, process"""
_LOCK_BYTES = {"": (0x40000000, 512), "-shm": (120, 9)}
"""where SQLite's locks are: https://www.sqlite.org/walformat.html, 2.3.2, and os.h"""


def user_of(database: Path) -> str:
    """Who has the database or a file beside it open, this process aside, in words; empty where nobody is seen."""
    paths = [database.with_name(database.name + ending) for ending in ("", *SIDE_FILES)]
    opener = next(openers([path for path in paths if path.is_file()]), None)
    if opener is not None:
        return f"process {opener} ({_name(opener)})"
    holders = [
        _lock_holder(database.with_name(database.name + ending), *where) for ending, where in _LOCK_BYTES.items()
    ]
    return "another process" if any(holders) else ""


def openers(paths: list[Path]) -> Iterator[int]:
    """The numbers of the processes that have one of these files open, as far as this user may see, this one aside."""
    sought = {(found.st_dev, found.st_ino) for found in (path.stat() for path in paths)}
    with contextlib.suppress(OSError):
        for process in PROCESSES.iterdir() if sought else ():
            if process.name.isdecimal() and int(process.name) != os.getpid() and _has_open(process / "fd", sought):
                yield int(process.name)


def _has_open(descriptors: Path, sought: set[tuple[int, int]]) -> bool:
    # Processes end meanwhile, and of other users' nothing may be read.
    with contextlib.suppress(OSError):
        for each in descriptors.iterdir():
            with contextlib.suppress(OSError):
                if each.readlink().is_absolute():
                    found = each.stat()
                    if (found.st_dev, found.st_ino) in sought:
                        return True
    return False


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return (PROCESSES / str(process) / "comm").read_text(errors="replace").strip()
    return "it has just ended"


def _lock_holder(path: Path, start: int, length: int) -> bool:
    """Whether another process holds any lock there; nothing is locked for asking."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        kind: int = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))[0]
        return kind != fcntl.F_UNLCK
    return False
