"""Collations and functions that only the application has, in a form that does nothing, for as long as a table is made.

A table's text may name collations and functions of the application's own where no row ever needs them here: in a
column without an index, a CHECK, a DEFAULT.  SQLite wants to know them only while the table is
created, so they exist just then.  One that is called all the same raises, and nothing is written.

An index, a partial index and a generated column do need them: nothing is supplied for these.

Knows: apsw.  Does not know: whose table it is.
"""

from __future__ import annotations

import re
from typing import Never

import apsw


class Strangers:
    """Collations and functions that exist while a table is created, and are gone afterwards."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._collations: list[str] = []
        self._functions: list[str] = []

    def __enter__(self) -> Strangers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._collations:
            self._db.create_collation(name, None)
        for name in self._functions:
            self._db.create_scalar_function(name, None)

    def supply(self, complaint: str, text: str) -> bool:
        """Makes what SQLite misses, if `text` can do with an inert one; whether it is worth trying again."""
        found = re.fullmatch(r"no such (collation sequence|function): (.+)", complaint, re.DOTALL)
        if found is None or not text.upper().startswith("CREATE TABLE"):
            return False
        kind, name = found.groups()
        if name in (*self._collations, *self._functions):
            return False
        if kind == "function":
            # Generated columns, VIRTUAL ones too, are computed where a row is written, so here they would be.
            if re.search(r"\bAS\s*\(", text, re.IGNORECASE):
                return False
            self._functions.append(name)
            self._db.create_scalar_function(name, _uncalled, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)
        else:
            self._collations.append(name)
            self._db.create_collation(name, _uncalled)
        return True


def _uncalled(*_: object) -> Never:
    raise NotImplementedError("only the application has this")
