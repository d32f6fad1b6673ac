"""Standard streams that can always be written, whatever the program was started with.

    started with    rollrep 2>&-            rollrep >&-            LC_ALL=C, PYTHONIOENCODING=latin-1
    without this    sys.stderr is None      a database gets fd 1   UnicodeEncodeError
    with this       the null device         the null device        what can't be shown is written as \\u20ac

Knows: POSIX file descriptors, Python's streams.  Does not know: any command.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rollrep.core.errors import UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a stream into a file says where the disk has no room; /dev/full says it always."""


def mend_streams() -> None:
    """To be called before any file is opened that stays open."""
    # A stray print() of whatever library would end up in the database that got one of these numbers
    # (https://www.sqlite.org/howtocorrupt.html, "file descriptor being closed then reused").
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)  # ssh and other children are no better off without them
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """For the last words of a command: where they find no room, its exit code still says what it was."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
    # Python writes once more what is left, and would end with 120 in place of the command's own code.
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def refuse_bytes(values: Iterable[object]) -> None:
    """Raises UsageError for an argument that isn't text: Python smuggles its bytes in, SQLite and TOML take none."""
    for value in values:
        if isinstance(value, tuple | list):
            refuse_bytes(value)
        if isinstance(value, str | Path):
            refuse_if_bytes(str(value))


def refuse_if_bytes(text: str) -> None:
    """Raises UsageError where `text` came as bytes that the locale could not read.

    >>> refuse_if_bytes("Müller")
    >>> refuse_if_bytes("x\\udcff")
    Traceback (most recent call last):
    rollrep.core.errors.UsageError: the argument b'x\\xff' is not UTF-8; type it in UTF-8
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        given = text.encode(errors="surrogateescape")
    else:
        return
    try:
        shown = given.decode()
    except UnicodeDecodeError:
        raise UsageError(f"the argument {given!r} is not UTF-8", remedy="type it in UTF-8") from None
    raise UsageError(f"the argument {shown!r} can't be read in this locale", remedy="set one of UTF-8: LC_ALL=C.UTF-8")
