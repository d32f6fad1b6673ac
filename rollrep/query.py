"""Four ways to ask SQLite something and get it as a plain value, and SQLite's digests.

apsw types every column as "one of five"; here what comes back is Any, and the caller, who wrote the
SELECT, says what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import apsw.sqlite_extra

Bindings = Sequence[Any]


def all_rows(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> list[tuple[Any, ...]]:
    """Every row."""
    return list(db.execute(sql, bindings))


def find_row(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> tuple[Any, ...] | None:
    """The first row, or None."""
    return db.execute(sql, bindings).fetchone()


def one_row(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> tuple[Any, ...]:
    """The first row of a query that always has one."""
    found = find_row(db, sql, bindings)
    assert found is not None, f"no row: {sql}"
    return found


def one_value(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> Any:
    """The first column of the first row, or None where there is no row."""
    found = find_row(db, sql, bindings)
    return found[0] if found else None


def load_digests(db: apsw.Connection) -> None:
    """Gives `db` SQLite's own SHA-1 functions (they ship inside apsw's wheel)."""
    db.enable_load_extension(True)
    apsw.sqlite_extra.load(db, "sha1")
    db.enable_load_extension(False)
