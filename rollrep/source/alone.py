"""Who migrates a database now: a kernel lock on its folder, and a word in the log.

    _rollrep_meta.schema_text is NULL    capture was taken away for a migration
    and the folder's lock is held        ... which runs: nobody else captures anything now
    and the lock is free                 ... which died: whoever comes next captures again

The lock is on the folder, not on the file: closing the file a second time would drop the locks that SQLite has on
it (https://www.sqlite.org/howtocorrupt.html, 2.2.1).  The kernel frees the lock of a process that dies.

Knows: SQL of the log's meta row.  Does not know: what a migration does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from rollrep.core.errors import Locked, Temporary
from rollrep.query import one_value
from rollrep.source.tables import META

PATIENCE_S = 2.0
"""Whoever only asks about the lock holds it for an instant, and must not look like a migration."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds the lock of whoever migrates the database `path`.  Raises Locked where another does."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _taken(folder, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise Locked(
                    f"another migration of a database in {path.resolve().parent} runs",
                    remedy="start this one when it is over",
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(folder)


def is_taken_away(db: apsw.Connection) -> bool:
    """Whether capture was taken away for a migration, and nothing has captured again since."""
    return bool(one_value(db, f"SELECT schema_text IS NULL FROM {META}"))


def refuse_while_migrated(db: apsw.Connection) -> None:
    """Raises Temporary where capture was taken away for a migration that still runs."""
    if is_taken_away(db) and migration_runs(db):
        raise Temporary(f"{db.filename} is being migrated", remedy="try again when the migration is over")


def migration_runs(db: apsw.Connection) -> bool:
    """Whether somebody holds the lock; a database in the same folder counts as this one."""
    folder = os.open(Path(db.filename).parent, os.O_RDONLY)
    try:
        return not _taken(folder, fcntl.LOCK_SH)
    finally:
        os.close(folder)


def _taken(folder: int, how: int) -> bool:
    try:
        fcntl.flock(folder, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
