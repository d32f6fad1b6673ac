"""Tables that may not be what their log says: the schema was changed and changed back since a destination was here.

    t(a, b, c)   DROP COLUMN c        ADD COLUMN c            t(a, b, c)    rollrep.source.readded
    t(a, b, c)   CREATE UNIQUE INDEX  REPLACE    DROP INDEX   t(a, b, c)    the rows that were logged meanwhile: WATCH

The schema's text is the same then, but each change raises `schema_version` by one.  So where that number has grown by
two more than can be accounted for, tables are asked, and one that can't be believed is captured anew.

Knows: the log, SQLite's schema pragmas.  Does not know: the wire.
"""

from __future__ import annotations

import sys
from collections.abc import Set

import apsw
import msgspec

from rollrep.core.nouns import Op, Shape
from rollrep.query import all_rows, find_row, one_value
from rollrep.source.capture import EVENTS, trigger_name
from rollrep.source.captured_schema import captured_schema, count_new_objects
from rollrep.source.log import CHANGES_KNOWN, schema_version
from rollrep.source.readded import readded_tables
from rollrep.source.tables import FORGOTTEN, LOG, META, RANGE, SHAPE, WATCHED


def tables_in_doubt(db: apsw.Connection, version: int, position_id: int) -> list[str]:
    """Captured tables of which it can't be told, for who knows all up to `position_id`, at `schema_version` `version`.

    None of those that are captured anew since: they are mirrored again anyway.
    """
    accounted = one_value(
        db,
        f"SELECT ifnull(sum(json_extract(v1, '$.{CHANGES_KNOWN}')), 0) FROM {LOG} WHERE id > ? AND op = {Op.MARK:d}"
        " AND json_valid(v1)",
        (position_id,),
    )
    unaccounted = schema_version(db) - version - accounted
    # Nearly always nothing has changed; then the thousand tables that there may be are not looked at.
    if unaccounted < 2 or unaccounted - count_changes(db) < 2:
        return []
    shapes = _shapes(db, position_id)
    readded = set(readded_tables(db, shapes, position_id, captured_schema(db)))
    watched = _watched_shapes(db, position_id)
    return [shape.table for shape in shapes if shape.table in readded or watched is None or shape.id in watched]


def count_changes(db: apsw.Connection) -> int:
    """So many changes at least have made the schema that was captured last what it is now."""
    triggers: dict[str, set[str]] = {}
    for name, table in all_rows(db, "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger'"):
        triggers.setdefault(table, set()).add(name)
    known = sum(_count_changes(db, each, triggers.get(each.table, set())) for each in _shapes(db, sys.maxsize))
    return known + count_new_objects(db, captured_schema(db))


def _watched_shapes(db: apsw.Connection, position_id: int) -> set[int] | None:
    """Shapes with rows since then that were logged up to the newest that was watched; None where it can't be told."""
    watched = find_row(db, f"SELECT id FROM {RANGE} WHERE key = ? AND id > ?", (WATCHED, position_id))
    if watched is None:
        return set()
    if one_value(db, f"SELECT forgotten_through FROM {META}") > position_id:
        return None
    rows = all_rows(
        db,
        " UNION ".join(f"SELECT shape FROM {place} WHERE id > ?1 AND id <= ?2" for place in (LOG, FORGOTTEN)),
        (position_id, watched[0]),
    )
    return {shape for (shape,) in rows}


def _shapes(db: apsw.Connection, since: int) -> list[Shape]:
    """Of the tables that are there, and have been captured since then."""
    rows = all_rows(
        db,
        f"SELECT body FROM {SHAPE} WHERE is_current AND since <= ?"
        " AND tbl IN (SELECT name FROM sqlite_schema WHERE type = 'table') ORDER BY id",
        (since,),
    )
    return [msgspec.json.decode(body, type=Shape) for (body,) in rows]


def _count_changes(db: apsw.Connection, shape: Shape, triggers: Set[str]) -> int:
    """So many changes at least have made a table, on which these `triggers` stand, what it is now."""
    if triggers.isdisjoint(trigger_name(event, shape.table) for event in EVENTS):
        # Dropped and made again; to drop our triggers one by one takes more.
        return 2
    stored = all_rows(db, "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (shape.table,))
    before, now = set(shape.columns[shape.hidden_key :]), {name for (name,) in stored}
    return max(len(before - now), len(now - before))
