"""Checksums in the pages of a database: a byte that changed on the disk is an error when its page is read.

    page of 4,096 bytes   content ........................ checksum
                          4,088                             8          SQLite's own checksum VFS, out of apsw's wheel

SQLite itself would believe another number in a row, and so would we (https://www.sqlite.org/cksumvfs.html).  Any SQLite
reads such a file; one that writes to it without this leaves pages that are taken for damaged.

Byte 20 of the file says how many bytes are kept free in each page, and nothing is looked at where they are not 8: who
opens a file that must have checksums asks `has_checksums`.

Knows: apsw's virtual file systems.  Does not know: what is in the database.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from rollrep.query import closed_on_error, one_value

RESERVED = 8
VFS = "cksmvfs"
"""goes through to what was the default when it was loaded"""


def open_checked(path: Path, *, create: bool) -> apsw.Connection:
    """A connection that reads no page whose checksum is wrong; a file that it creates has checksums."""
    _load()
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(str(path), flags=flags, vfs=VFS)
    if create:
        with closed_on_error(db):
            db.reserve_bytes("main", RESERVED)
    return db


def has_checksums(db: apsw.Connection) -> bool:
    """Whether what was read through `db` was looked at."""
    return db.reserve_bytes("main") == RESERVED


def give_checksums(db: apsw.Connection) -> None:
    """Writes every page of a file that has none anew, with one."""
    db.reserve_bytes("main", RESERVED)
    db.execute("VACUUM").fetchall()


def is_damage(error: BaseException | None) -> bool:
    """Whether a page was read that is not what was written."""
    return isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA


def is_whole(db: apsw.Connection) -> bool:
    """Whether all of it can be read."""
    try:
        return bool(one_value(db, "PRAGMA integrity_check(1)") == "ok")
    except apsw.Error:
        return False


def _load() -> None:
    """Makes the VFS known.  It would be everybody's default from then on, and only one database here is of its kind."""
    names = apsw.vfs_names()
    if VFS in names:
        return
    with contextlib.closing(apsw.Connection(":memory:")) as loader:
        loader.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
        # Not by apsw.sqlite_extra: to import it takes longer than to answer a question.
        loader.load_extension(str(Path(apsw.__file__).parent / "sqlite_extra_binaries" / "cksumvfs"))
    apsw.set_default_vfs(names[0])
