"""Opening an application's database so that the application never notices.

Knows: apsw, core.  Does not know: the log's tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import apsw

from rollrep.core.errors import DiskFull, RollrepError, Temporary, UsageError
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows, closed_on_error
from rollrep.strangers import unknown_here

BUSY_TIMEOUT_MS = 10_000
PAUSES_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.025, 0.025, 0.05, 0.05, 0.1)
"""those of sqliteDefaultBusyCallback in SQLite's main.c"""
SCHEMA_CACHE_KIB = 65_536


def open_source(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection to the application's database that never checkpoints and never creates a file.

    Raises UsageError where there is no file, or no database in it; Temporary where it is locked.
    SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when several processes checkpoint
    (https://www.sqlite.org/wal.html#walresetbug), so checkpoints stay the application's alone.
    """
    if not path.is_file():
        raise UsageError(
            f"there is no file {path}",
            remedy="give the path of the application's SQLite database on its own machine",
        )
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} can't be read by this user", remedy=f"see: ls -l {quote(str(path))}")
    flags = apsw.SQLITE_OPEN_READWRITE if os.access(path, os.W_OK) else apsw.SQLITE_OPEN_READONLY
    with translated(path):
        connection = apsw.Connection(str(path.resolve()), flags=flags, vfs=vfs)
        with closed_on_error(connection):
            connection.set_busy_handler(_patience(BUSY_TIMEOUT_MS / 1000))
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            connection.wal_autocheckpoint(0)
            all_rows(connection, "SELECT count(*) FROM sqlite_schema")
    return connection


def _patience(timeout_s: float) -> Callable[[int], bool]:
    """Waits as SQLite's own busy handler does, but in Python: that one sleeps its time out before a signal is heard."""
    deadline = 0.0

    def wait(tries: int) -> bool:
        nonlocal deadline
        now = time.monotonic()
        deadline = deadline if tries else now + timeout_s
        if now >= deadline:
            return False
        time.sleep(min(PAUSES_S[min(tries, len(PAUSES_S) - 1)], deadline - now))
        return True

    return wait


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors about `path` into ours, cut by what the person does next."""
    try:
        yield
    except apsw.NotADBError as error:
        raise UsageError(
            f"{path} is not a SQLite database", remedy="give the path of the application's database file"
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise Temporary(
            f"{path} is locked by another process",
            remedy="try again; if it lasts, see who holds it: fuser -v",
        ) from error
    except apsw.FullError as error:
        raise DiskFull(
            f"no room on the disk of {path}", remedy=f"make room, see: df -h {quote(str(path.parent))}"
        ) from error
    except apsw.ReadOnlyError as error:
        raise UsageError(
            f"{path} can't be written by this user",
            remedy=f"run as the user who owns it, see: ls -l {quote(str(path))}",
        ) from error
    except apsw.CantOpenError as error:
        raise UsageError(
            f"{path} can't be opened: {error}",
            remedy=f"SQLite needs to write beside the file too, see: ls -ld {quote(str(path.parent))}",
        ) from error
    except apsw.SQLError as error:
        if unknown := unknown_here(error):
            raise unknown from error
        if PREFIX not in str(error):
            raise
        raise RollrepError(
            f"the rolling log of {path} is not whole: {error}",
            remedy=f"mend it: rollrep source install {quote(str(path))}",
        ) from error
    except apsw.CorruptError as error:
        raise RollrepError(
            f"{path} is damaged: {error}",
            remedy="nothing was believed; check it: sqlite3 FILE 'PRAGMA integrity_check'",
        ) from error


@contextlib.contextmanager
def writing(connection: apsw.Connection) -> Iterator[None]:
    """One immediate transaction: all of it or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # SQLite has done so already where the disk was full or could not be read.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextlib.contextmanager
def changing_schema(connection: apsw.Connection) -> Iterator[None]:
    """`writing`, with room for the whole schema in SQLite's cache.

    Each CREATE TRIGGER and each DROP reads all of sqlite_schema.  With a thousand tables that is 10 MB, ten thousand
    times, of which the 2 MB that SQLite keeps by default hold nothing when the next one begins.
    """
    (before,) = all_rows(connection, "PRAGMA cache_size")[0]
    connection.execute(f"PRAGMA cache_size = -{SCHEMA_CACHE_KIB}")
    try:
        with writing(connection):
            yield
    finally:
        connection.execute(f"PRAGMA cache_size = {before}")


@contextlib.contextmanager
def reading(connection: apsw.Connection) -> Iterator[None]:
    """One transaction that only reads the application's tables: all of it is of one moment.

    It ends by COMMIT, so that what was copied into an attached image stays.
    """
    connection.execute("BEGIN")
    try:
        yield
    except BaseException:
        # SQLite has done so already where the disk was full or could not be read.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def instance_of(path: Path) -> str:
    """Which copy of a database this is: 16 hex digits of the machine and the path.

    Two machines that go on with copies of one file hold the same log; this tells them apart.
    """
    machine = platform.node()
    for place in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        with contextlib.suppress(OSError):
            machine = place.read_text().strip() or machine
            break
    return hashlib.sha256(f"{machine}\0{path.resolve()}".encode()).hexdigest()[:16]
