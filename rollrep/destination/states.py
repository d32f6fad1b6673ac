"""States of a database as files that nobody changes: points out of the cache, and any database as a copy.

A database that is somebody's is copied in one read transaction first: so what is compared is of one moment, and its
application neither waits nor has its write-ahead log held back for long.

Knows: the cache, restore.  Does not know: what is done with a state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import apsw

from rollrep.core.errors import Temporary, UsageError
from rollrep.destination.cache import Cache
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.store import Store


@contextlib.contextmanager
def point_file(store: Store, catalog: Catalog, point: CatalogPoint, progress: Callable[[str], None]) -> Iterator[Path]:
    """The restored file of a point; it stays while inside."""

    def build(path: Path) -> None:
        from rollrep.destination.restore import plan_newest, restore  # a point that lies here needs neither

        restore(store, catalog, plan_newest(store, catalog, point), path, force=True, progress=progress)

    with Cache(store).file(point, build) as path:
        yield path


@contextlib.contextmanager
def copied_file(path: Path) -> Iterator[Path]:
    """A copy of the database at `path` as it is now.  Raises UsageError where there is none."""
    import tempfile

    if not path.is_file():
        raise UsageError(f"there is no file {path}", remedy="write file:PATH of an SQLite database, or a moment")
    with tempfile.TemporaryDirectory(prefix="rollrep-") as folder:
        copy = Path(folder) / "copy.db"
        try:
            _copy(path, copy)
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise UsageError(
                f"{path} is no sound SQLite database: {error}", remedy="write file:PATH of an SQLite database"
            ) from error
        except apsw.BusyError as error:
            raise Temporary(f"{path} is being written to: {error}", remedy="ask again") from error
        except apsw.CantOpenError as error:
            raise UsageError(f"{path} can't be opened: {error}", remedy=f"see: ls -l {quote(str(path))}") from error
        yield copy


def _copy(path: Path, copy: Path) -> None:
    from rollrep.destination.container import disk_room
    from rollrep.destination.snapshots import full_disk_as_oserror

    # Read-write, because a WAL can't be read without its shared memory; nothing is written and no checkpoint done.
    with (
        disk_room(copy),
        full_disk_as_oserror(),
        contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as db,
        contextlib.closing(apsw.Connection(str(copy))) as target,
    ):
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        db.set_busy_timeout(10_000)
        db.execute("PRAGMA query_only = ON").fetchall()
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with target.backup("main", db, "main") as backup:
            backup.step(-1)
        db.execute("COMMIT")
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
