"""Indexes that were dropped and made again since the schema was captured, by the very same text.

    capture   ... index by_u, trigger _rollrep_..., trigger _rollrep_write_point
    DROP INDEX by_u    VACUUM    INSERT ...    CREATE UNIQUE INDEX by_u
    now       ... trigger _rollrep_..., trigger _rollrep_write_point, index by_u

While a UNIQUE index is away, rows come together that replay under it would take for replaced ones; while the only
index of a table without a key of its own is away, VACUUM may number its rows anew.  Neither fires a trigger.  But what
is made anew comes last in sqlite_schema, and after each capture WRITE_POINT does.  An older rollrep left that where it
stood: behind it lies every index that came after it was installed.

Knows: the captured schema, sqlite_schema.  Does not know: the log, what becomes of the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apsw

from rollrep.core.nouns import PREFIX, Shape
from rollrep.query import all_rows, find_row
from rollrep.source.captured_schema import captured_schema
from rollrep.source.tables import NEWER_INDEXES, WRITE_POINT


def tables_with_renewed_indexes(db: apsw.Connection, shapes: Iterable[Shape]) -> Iterator[str]:
    """Those of the captured tables one of whose indexes was away for a while, as far as can be told.

    None of those that were dropped and made again, our triggers with them: nothing was logged of these since.
    """
    newer: dict[str, set[str]] = {}
    for name, table in all_rows(db, NEWER_INDEXES) if _was_put_last(db) else ():
        if not name.startswith(PREFIX):
            newer.setdefault(table, set()).add(name)
    before = captured_schema(db) if newer else None
    if before is None:
        return
    for shape in shapes:
        names = newer.get(shape.table, set())
        if not names or not _has_triggers(db, shape.table):
            continue
        if any(before.has("index", name) for name in names) or (
            # One by another name took its place, and there may have been none in between.
            shape.hidden_key and not _indexes(db, shape.table) - names
        ):
            yield shape.table


def _was_put_last(db: apsw.Connection) -> bool:
    """Whether WRITE_POINT was, when the schema was captured: it is then the one that asks for newer indexes itself."""
    query = "SELECT 1 FROM sqlite_schema WHERE name = ? AND instr(sql, ?)"
    return find_row(db, query, (WRITE_POINT, NEWER_INDEXES)) is not None


def _has_triggers(db: apsw.Connection, table: str) -> bool:
    """Whether one of ours stands on the table."""
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? AND name GLOB ?"
    return find_row(db, query, (table, f"{PREFIX}*")) is not None


def _indexes(db: apsw.Connection, table: str) -> set[str]:
    """Those of its constraints and our pin included."""
    return {
        name
        for (name,) in all_rows(db, "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?", (table,))
    }
