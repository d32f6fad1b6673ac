"""Copying a database as its file lies there, where nothing of it lies elsewhere: by the kernel, not page by page.

    mirror.db      pages ─────────► copied, or shared by both files where the file system can (reflink)
    mirror.db-wal  empty

Inside a read transaction, an empty WAL means that all the transaction sees is in the file, and that the file stays as
it is to the end of it: a checkpoint would move nothing into it that the transaction does not see
(https://www.sqlite.org/walformat.html, 2.3.3).

The file is not opened a second time: to close it would take the locks of each connection of this process
(https://www.sqlite.org/howtocorrupt.html, 2.2).  What is read is what SQLite has open.

Knows: files, apsw.  Does not know: what is in the database.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw

from rollrep.destination.store import NO_ROOM
from rollrep.query import one_value

OPEN_FILES = Path("/proc/self/fd")


def copy_file(db: apsw.Connection, target: Path) -> bool:
    """Whether the main database of `db`, which is inside a read transaction, is now `target` too.

    False where it can't be had so: the WAL is in use, or the system can't.  What is at `target` is then worth nothing.
    """
    size = int(one_value(db, "PRAGMA page_count")) * int(one_value(db, "PRAGMA page_size"))
    if one_value(db, "PRAGMA journal_mode") != "wal" or not _is_wal_empty(db):
        return False
    source = _open_file(Path(db.filename))
    if source is None or os.fstat(source).st_size < size:
        return False
    try:
        with target.open("wb") as file:
            done = 0
            while done < size and (some := os.copy_file_range(source, file.fileno(), size - done, done, done)):
                done += some
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        return False
    return done == size


def _is_wal_empty(db: apsw.Connection) -> bool:
    with contextlib.suppress(OSError):
        return Path(db.filename_wal).stat().st_size == 0
    return False


def _open_file(path: Path) -> int | None:
    """The number under which this process has the file open; None where that can't be told."""
    try:
        sought = path.stat()
        numbers = [int(each.name) for each in OPEN_FILES.iterdir()]
    except OSError:
        return None
    for number in numbers:
        with contextlib.suppress(OSError):  # the folder's own, which is closed again
            if os.path.samestat(sought, os.fstat(number)):
                return number
    return None
