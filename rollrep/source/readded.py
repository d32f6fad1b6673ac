"""Columns that may have been dropped and added again since a destination was here, which no schema tells.

    t(a, b, c)   DROP COLUMN c   ADD COLUMN c   t(a, b, c)      the same text, and every c is what ADD COLUMN put there

Our triggers live through both (rollrep.source.dropping), and neither fires them.  But who adds a column puts it last,
behind a comma and a space.  So where the schema may have changed unseen (rollrep.source.doubt), a table is believed
only if its text could not have come about so, or if some row shows that its last column is what it was: by a value
that is not the default, and with nothing logged of the row since.

Knows: the log, SQLite's schema pragmas.  Does not know: the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import apsw

from rollrep.core import sql
from rollrep.core.nouns import Shape
from rollrep.query import all_rows, find_row, one_value, own_collations
from rollrep.source.captured_schema import CapturedSchema
from rollrep.source.inspect import can_be_dropped, default_as_sql
from rollrep.source.tables import FORGOTTEN, LOG, META

ROWS = 1_000
"""so many are looked at from either end of a table"""


def readded_tables(
    db: apsw.Connection, shapes: Iterable[Shape], position_id: int, before: CapturedSchema | None
) -> Iterator[str]:
    """Those whose last column may be another one, for who knows all up to `position_id`.

    Where the log and its forgotten keys don't reach back so far, no row shows what it was.
    """
    now = _tables(db)
    reached = one_value(db, f"SELECT forgotten_through FROM {META}") <= position_id
    seen = position_id if reached else None
    return (shape.table for shape in shapes if _is_readded(db, shape, seen, before, now))


def _tables(db: apsw.Connection) -> dict[str, str]:
    """The text of each; at once, because each reading reads the whole schema."""
    return dict(all_rows(db, "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL"))


def _columns(db: apsw.Connection, table: str) -> list[str]:
    return [name for (name,) in all_rows(db, "SELECT name FROM pragma_table_xinfo(?) ORDER BY cid", (table,))]


def _is_readded(
    db: apsw.Connection, shape: Shape, seen: int | None, before: CapturedSchema | None, now: Mapping[str, str]
) -> bool:
    """`seen`: the position up to which it is known; None where what was written since is forgotten."""
    column = shape.columns[-1]
    if shape.width == shape.key_width:
        return False
    if column not in _columns(db, shape.table) or not _has_key(db, shape):
        return True
    if not can_be_dropped(db, shape.table, column):
        return False
    text = now[shape.table]
    # By another text nothing is to be learned from it.
    if before and before.has("table", shape.table, text) and not _may_be_added_again(db, shape.table, column, text):
        return False
    return seen is None or not _is_as_it_was(db, shape, seen)


def _is_as_it_was(db: apsw.Connection, shape: Shape, position_id: int) -> bool:
    """Whether some row shows it: by a value of the last column that is not the default, and nothing logged of it since.

    So it is where there is no row, and never was one.
    """
    column, table = shape.columns[-1], sql.name(shape.table)
    default = default_as_sql(db, shape.table, column)
    keys = [f"k{n}" for n in range(shape.key_width)]
    own = own_collations(db, shape.table, shape.key) if shape.without_rowid else shape.key_collations
    terms = sql.collated((f"t.{sql.name(part)}" for part in shape.key), own, shape.key_collations)
    named = ", ".join(f"{term} AS {key}" for term, key in zip(terms, keys, strict=True))
    logged = " UNION ALL ".join(
        f"SELECT {', '.join(f'{letter}{n}' for n in range(shape.key_width))} FROM {place}"
        f" WHERE id > {position_id:d} AND shape = {shape.id:d}"
        for place, letter in ((LOG, "v"), (FORGOTTEN, "k"))
    )
    if not one_value(db, f"SELECT EXISTS (SELECT 1 FROM {table}) OR EXISTS ({logged})"):
        return True
    rows = f"SELECT {named}, t.{sql.name(column)} AS value FROM {table} t ORDER BY"
    return any(
        find_row(
            db,
            f"SELECT 1 FROM ({rows} {', '.join(f'{key} {order}' for key in keys)} LIMIT {ROWS})"
            f" WHERE value COLLATE BINARY IS NOT {default} AND ({', '.join(keys)}) NOT IN ({logged}) LIMIT 1",
        )
        for order in ("ASC", "DESC")
    )


def _has_key(db: apsw.Connection, shape: Shape) -> bool:
    """Whether rows can be asked for by the key that was captured: the table may have been made anew since."""
    try:
        all_rows(db, f"SELECT {sql.names(shape.key, 't.')} FROM {sql.name(shape.table)} t LIMIT 0")
    except apsw.SQLError:
        return False
    return True


def _may_be_added_again(db: apsw.Connection, table: str, column: str, text: str) -> bool:
    """Whether dropping `column`, and all behind it, and adding them again could lead to the very same text."""
    columns = _columns(db, table)
    with contextlib.closing(apsw.Connection(":memory:")) as empty:
        try:
            empty.execute(text)
            for last in reversed(columns[columns.index(column) :]):
                before = text
                empty.execute(f"ALTER TABLE {sql.name(table)} DROP COLUMN {sql.name(last)}")
                text = str(one_value(empty, "SELECT sql FROM sqlite_schema WHERE name = ?", (table,)))
                if not _is_added(before, text):
                    return False
        except apsw.SQLError:
            # It uses something that is only here, or can't be dropped at all.
            return True
    return True


def _is_added(text: str, without: str) -> bool:
    """Whether ALTER TABLE ... ADD COLUMN can make `text` of `without`.

    >>> _is_added("CREATE TABLE t(a, b)", "CREATE TABLE t(a)"), _is_added("CREATE TABLE t(a,b)", "CREATE TABLE t(a)")
    (True, False)
    """
    longer = len(text) - len(without)
    return any(
        text[:at] + text[at + longer :] == without and text[at : at + 2] == ", " and not text[at + 2].isspace()
        for at in range(len(without))
    )
