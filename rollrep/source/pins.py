"""Pins: an index over no row at all, on a table without INTEGER PRIMARY KEY and without any other index.

    CREATE INDEX "_rollrep_pin_note" ON "note"(1) WHERE 0

VACUUM renumbers the rowids of a table without INTEGER PRIMARY KEY unless it has an index
(https://www.sqlite.org/lang_vacuum.html), and the rowid is the key that the log knows the row by.  One with
`WHERE 0` costs nothing to keep, and over a constant it is in no column's way when the application drops that.

Knows: SQLite's schema table, core.  Does not know: the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows

Pins = Mapping[str, tuple[str, str]]
"""the name of each index of ours, with its table and its text"""


def read_pins(db: apsw.Connection) -> Pins:
    """Of all tables at once, because each reading reads the whole schema."""
    rows = all_rows(
        db, "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND name GLOB ?", (f"{PREFIX}*",)
    )
    return {name: (table, text) for name, table, text in rows}


def is_pinned(pins: Pins, table: str) -> bool:
    return _name(table) in pins and pins[_name(table)][1] == _index(table)


def pin(db: apsw.Connection, tables: Sequence[str]) -> None:
    """Puts the pins in, and takes those out that a renamed table has brought along."""
    wanted = {_name(table): _index(table) for table in tables}
    folded = {sql.fold(table) for table in tables}
    there = set()
    for name, (table, text) in read_pins(db).items():
        if wanted.get(name) == text:
            there.add(name)
        elif name in wanted or sql.fold(table) in folded:
            db.execute(f"DROP INDEX {sql.name(name)}")
    for name, text in wanted.items():
        if name not in there:
            db.execute(text)


def _name(table: str) -> str:
    return f"{PREFIX}pin_{table}"


def _index(table: str) -> str:
    return f"CREATE INDEX {sql.name(_name(table))} ON {sql.name(table)}(1) WHERE 0"
