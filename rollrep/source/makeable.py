"""Whether a table can be made in a mirror, where nothing of the application's own is there.

    CREATE TABLE and CREATE INDEX of the table ──► an empty database in memory ──► what SQLite says of them

A generated column or an index may use a function or a collation that only the application registers.  The mirror's
schema is made without it (unless a plugin supplies it, see rollrep/hooks.py), so such a table can't be there; better
said by `install` than by the first pull.  Where only what CREATE INDEX made needs it, the table goes without that.

And whether foreign keys refer to keys: SQLite asks that of empty tables as well, so the same way tells.

Knows: SQLite's schema table.  Does not know: capture, the log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows
from rollrep.strangers import Strangers, missing_collation

_MISSING = re.compile(r"no such (function|collation sequence): (.*)")
_MISMATCH = re.compile(r'foreign key mismatch - "(.*)" referencing "(.*)"')
_CALLED = {"function": "function", "collation sequence": "collation"}


Texts = Sequence[tuple[str, str]]
"""name and text of a table and then of its indexes"""


def texts_by_table(db: apsw.Connection) -> dict[str, list[tuple[str, str]]]:
    """What each table of the application is made by; read at once, because each reading reads the whole schema."""
    rows = all_rows(
        db,
        "SELECT tbl_name, name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL"
        f" AND substr(name, 1, {len(PREFIX)}) <> '{PREFIX}' ORDER BY type DESC, rowid",
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for table, name, text in rows:
        found.setdefault(table, []).append((name, text))
    return found


def what_is_missing(table: str, texts: Texts) -> dict[str, str]:
    """Why `table` or an index of it can't be made by an SQLite without the application: name to words for the person.

    Other reasons than a function or a collation that is not there are no matter of this: the mirror names them.
    """
    missing: dict[str, str] = {}
    with contextlib.closing(apsw.Connection(":memory:")) as empty:
        for name, text in texts:
            if complaint := _complaint(empty, text):
                if found := _MISSING.search(complaint):
                    missing[name] = f"it uses the application's own {_CALLED[found[1]]} {found[2]}"
                if name == table:
                    break
        if needed := missing_collation(empty, table):
            collation, needs = needed
            missing[table] = f"{needs} the application's own collation {collation}"
    return missing


def _complaint(empty: apsw.Connection, text: str) -> str:
    """What SQLite has against making it; nothing where it can be made as the mirror would make it."""
    with Strangers(empty) as strangers:
        while True:
            try:
                empty.execute(text)
            except apsw.SQLError as error:
                if not strangers.supply(str(error), text):
                    return str(error)
            else:
                return ""


def references_to_no_key(db: apsw.Connection) -> list[tuple[str, str]]:
    """(table, the table it refers to) of each foreign key whose other end is no key ("foreign key mismatch").

    With `foreign_keys` on, SQLite lets such a table only take single rows, and no row at all once it has a trigger
    (https://www.sqlite.org/foreignkeys.html, 3).
    """
    texts = all_rows(
        db,
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL"
        f" AND substr(tbl_name, 1, {len(PREFIX)}) <> '{PREFIX}' AND upper(substr(sql, 1, 14)) <> 'CREATE VIRTUAL'"
        " ORDER BY type DESC, rowid",
    )
    found: list[tuple[str, str]] = []
    with contextlib.closing(apsw.Connection(":memory:")) as empty:
        for _, _, text in texts:
            with contextlib.suppress(apsw.SQLError):
                empty.execute(text)
        for kind, name, _ in texts:
            try:
                if kind == "table":
                    empty.execute(f"PRAGMA foreign_key_check({sql.name(name)})").fetchall()
            except apsw.SQLError as error:
                if mismatch := _MISMATCH.search(str(error)):
                    found.append((mismatch[1], mismatch[2]))
    return found
