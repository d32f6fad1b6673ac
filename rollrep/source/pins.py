"""Pins: an index over no row at all, on a table without INTEGER PRIMARY KEY and without any other index.

    CREATE INDEX "_rollrep_pin_note" ON "note"(1) WHERE 0

VACUUM renumbers the rowids of a table without INTEGER PRIMARY KEY unless it has an index
(https://www.sqlite.org/lang_vacuum.html), and the rowid is the key that the log knows the row by.  One with
`WHERE 0` costs nothing to keep, and over a constant it is in no column's way when the application drops that.

Knows: SQLite's schema table, core.  Does not know: the log.
"""

from __future__ import annotations

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows


def is_pinned(db: apsw.Connection, table: str) -> bool:
    return _pins(db, table).get(_name(table)) == _index(table)


def pin(db: apsw.Connection, table: str) -> None:
    """Puts the pin in, and takes those out that a renamed table has brought along."""
    found = _pins(db, table)
    for name, text in found.items():
        if (name, text) != (_name(table), _index(table)):
            db.execute(f"DROP INDEX {sql.name(name)}")
    if found.get(_name(table)) != _index(table):
        db.execute(_index(table))


def _name(table: str) -> str:
    return f"{PREFIX}pin_{table}"


def _index(table: str) -> str:
    return f"CREATE INDEX {sql.name(_name(table))} ON {sql.name(table)}(1) WHERE 0"


def _pins(db: apsw.Connection, table: str) -> dict[str, str]:
    """Name to text of the indexes of ours that are on the table, or are named after it on another."""
    rows = all_rows(
        db,
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND name GLOB ?"
        " AND (tbl_name = ? COLLATE NOCASE OR name = ?)",
        (f"{PREFIX}*", table, _name(table)),
    )
    return dict(rows)
