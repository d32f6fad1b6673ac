"""Where a command may write the file that it was asked for.

    nothing there      ──► written
    a regular file     ──► replaced, with --force alone; never a database that somebody has open
    a link to one      ──► what it leads to is replaced; the link stays
    anything else      ──► refused: a rename would take the place of a device, a pipe, or somebody's link

Knows: the file system.  Does not know: what is written, the command line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from rollrep.core.errors import Locked, UsageError
from rollrep.destination.in_use import user_of

OTHER = "another --output"
MAGIC = b"SQLite format 3\0"
LEFT = ("-wal", "-journal")
NOTHING_YET = (errno.ENOENT, errno.ENOTDIR)


def output_file(asked: Path, *, force: bool, give: str = OTHER, database: bool = False) -> Path:
    """The path to write for `asked`, links followed.  Raises UsageError where nothing may or can be written there.

    Locked where it is a database that another process has open.  `give` is what else the person can give, in words;
    `database` says that what is written is one.
    """
    if require_regular(asked, give) and not force:
        raise UsageError(
            f"{asked} exists already", remedy=f"give {give}, or --force to replace it (nothing was written)"
        )
    target = asked.resolve()
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target.parent} is no folder that can be written", remedy=f"give {give}")
    if (_is_database(target) or (database and not target.exists())) and (user := user_of(target)):
        raise Locked(
            f"{asked} is a database that {user} has open, and would go on with when it was replaced",
            remedy=f"stop that process and type it again, or give {give} (nothing was written)",
        )
    if database and not force:
        _refuse_left(target, give)
    return target


def _refuse_left(target: Path, give: str) -> None:
    """Raises UsageError where a file of a database that is gone lies beside: SQLite would take it for the new one's."""
    for path in (target.with_name(target.name + ending) for ending in LEFT):
        if path.exists():
            raise UsageError(
                f"{path} is left of a database that is gone, and SQLite would read it as a part of the new one",
                remedy=f"move it away, give {give}, or --force to remove it (nothing was written)",
            )


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def as_before(part: Path, output: Path) -> None:
    """Gives `part` the mode of the file that it is about to replace, and its owner where that is allowed.

    Where it replaces none it is its owner's alone: a copy is as secret as what it is a copy of.
    """
    try:
        found = output.stat()
    except FileNotFoundError:
        found = None
    # A file system without modes and owners has none to give.
    if found:
        with contextlib.suppress(PermissionError):
            # First, or a mode that was meant for one group would be another's for a moment.
            os.chown(part, found.st_uid, found.st_gid)
    with contextlib.suppress(PermissionError):
        part.chmod(found.st_mode & 0o777 if found else 0o600)


def require_regular(path: Path, give: str) -> bool:
    """Whether a regular file is there, perhaps behind links.  Raises UsageError where anything else is."""
    try:
        # Through the link, not by its text: the kernel does not follow one that was planted in /tmp.
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in NOTHING_YET:
            raise UsageError(f"{path} can't be written: {error.strerror}", remedy=f"give {give}") from error
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link to {path.readlink()}, which is not there",
                remedy=f"give {give}, or remove the link (nothing was written)",
            ) from error
        return False
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder", remedy=f"give {give}: the path of a file")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path} is {_kind(mode)}, not a regular file, and is never replaced",
            remedy=f"give {give} (nothing was written)",
        )
    return True


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"), (stat.S_ISFIFO, "a pipe"))
    return next((name for test, name in kinds if test(mode)), "a socket")
