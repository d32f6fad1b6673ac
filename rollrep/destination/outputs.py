"""Where a command may write the file that it was asked for.

    nothing there      ──► written
    a regular file     ──► replaced, with --force alone
    a link to one      ──► what it leads to is replaced; the link stays
    anything else      ──► refused: a rename would take the place of a device, a pipe, or somebody's link

Knows: the file system.  Does not know: what is written, the command line.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from rollrep.core.errors import UsageError

OTHER = "another --output"
NOTHING_YET = (errno.ENOENT, errno.ENOTDIR)


def output_file(asked: Path, *, force: bool, give: str = OTHER) -> Path:
    """The path to write for `asked`, links followed.  Raises UsageError where nothing may or can be written there.

    `give` is what else the person can give, in words.
    """
    if require_regular(asked, give) and not force:
        raise UsageError(
            f"{asked} exists already", remedy=f"give {give}, or --force to replace it (nothing was written)"
        )
    target = asked.resolve()
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(f"{target.parent} is no folder that can be written", remedy=f"give {give}")
    return target


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
