"""A first copy by pages: received into a file, made an ordinary mirror of it, or given up for rows.

    parts ──► pages.db.part ──► its schema is what the layout says? ──► ours is taken out ──► mirror.next.db

It is a database that somebody else wrote, so nothing in it runs before its schema is known to be the layout's, to
the letter, and its b-trees are checked.  What the layout says has been made here once, under an authorizer.

Knows: the wire's session and pages, SQL of sqlite_schema.  Does not know: state, lines.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import PREFIX, Facts, Layout
from rollrep.destination.container import disk_room, unpack
from rollrep.destination.schema import carried, evolve
from rollrep.query import all_rows, one_value
from rollrep.wire.messages import SendPages
from rollrep.wire.pages import MOST_PAGES, PENDING_BYTE, unpack_pages
from rollrep.wire.session import Session

CACHE_KIB = 16_384
MOST_TIMES = 4
"""how often a page may come: SQLite's backup writes the first ones more than once"""


def receive(
    session: Session, path: Path, layout: Layout, schema_digest: str, progress: Callable[[float], None]
) -> Facts | None:
    """Makes `path` the source's database as of the facts, without what is ours; None where rows have to travel.

    Raises SchemaChanged.  `progress` is told which part of all came, again and again.
    """
    size = layout.page_size
    with disk_room(path), path.open("wb") as file:
        told = session.ask_pages(SendPages(schema_digest))
        if told is None:
            return None
        if not 0 < told.pages < MOST_PAGES:
            raise VerifyFailed(f"the source offered {told.pages} pages")
        missing = bytearray(b"\1" * told.pages)
        if (unused := PENDING_BYTE // size) < told.pages:
            missing[unused] = 0
        received = 0
        for part, packed in session.pages():
            received += part.pages
            if received > MOST_TIMES * told.pages:
                raise VerifyFailed("the source sends pages without end")
            try:
                raw = unpack_pages(unpack(packed, part.image.raw_bytes), size)
            except ValueError as error:
                raise VerifyFailed(f"the source sent pages that are none: {error}") from error
            if len(raw) != part.pages * size or not 0 < part.first <= told.pages - part.pages + 1:
                raise VerifyFailed("the source sent other pages than it had announced")
            file.seek((part.first - 1) * size)
            file.write(raw)
            missing[part.first - 1 : part.first - 1 + part.pages] = bytes(part.pages)
            progress(part.pages / told.pages)
        if any(missing):
            return None
        file.truncate(told.pages * size)
        file.flush()
        os.fsync(file.fileno())
    return told.facts if make_ordinary(path, layout) else None


def make_ordinary(path: Path, layout: Layout) -> bool:
    """Takes out what is ours; False where it is not a sound database with exactly that schema."""
    _try_schema(layout)
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
        for pragma in ("cell_size_check = ON", "synchronous = NORMAL", f"cache_size = -{CACHE_KIB}"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        try:
            if not _is_same_schema(db, layout) or one_value(db, "PRAGMA quick_check(1)") != "ok":
                return False
            _take_out_ours(db)
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError):
            return False
    return True


def count_rows(db: apsw.Connection, table: str) -> int:
    return int(one_value(db, f"SELECT count(*) FROM main.{sql.name(table)}"))


def _try_schema(layout: Layout) -> None:
    """Raises SchemaProblem where an object's text does anything but create it."""
    with contextlib.closing(apsw.Connection(":memory:")) as scratch:
        evolve(scratch, None, layout)


def _is_same_schema(db: apsw.Connection, layout: Layout) -> bool:
    there = all_rows(db, "SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL")
    others = {row for row in there if not row[1].startswith((PREFIX, "sqlite_"))}
    return others == {(each.type, each.name, each.table, each.sql) for each in carried(layout)}


def _take_out_ours(db: apsw.Connection) -> None:
    # What the log held is overwritten, so that no page that is free keeps it.
    db.execute("PRAGMA secure_delete = ON").fetchall()
    with db:
        for kind in ("trigger", "view", "index", "table"):
            found = all_rows(
                db,
                "SELECT name FROM main.sqlite_schema WHERE type = ? AND sql IS NOT NULL"
                " AND (name GLOB ? OR name GLOB 'sqlite_stat*')",
                (kind, f"{PREFIX}*"),
            )
            for (name,) in found:
                db.execute(f"DROP {kind.upper()} main.{sql.name(name)}")
    db.execute("PRAGMA journal_mode = WAL").fetchall()
