"""Plain indexes of the mirror: left out while much of their table changes, and built again before the commit.

    rows replayed ≥ rows of the table ──► DROP INDEX ... ──► replay goes on without ──► CREATE INDEX ──► commit

Putting one entry into an index at a random place costs several times what sorting it in with all others does.
All of it is inside the transaction that replays, so nobody ever sees the mirror without them.  UNIQUE indexes
stay: replay relies on them.

Knows: SQL of the mirror's schema, core.  Does not know: the log.
"""

from __future__ import annotations

import apsw

from rollrep.core import sql
from rollrep.query import all_rows, find_row

LEAST_CHANGES = 20_000
"""below it the choice makes no difference that anybody could notice"""

SORT_KIB = 16_384


class LeftOut:
    """Which indexes of `db` are left out just now."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._changes: dict[str, int] = {}
        self._sql: list[str] = []
        self._tables: set[str] = set()

    def announce(self, table: str, changes: int) -> None:
        """`changes` more rows of `table` are about to change: its plain indexes are dropped when that pays."""
        total = self._changes[table] = self._changes.get(table, 0) + changes
        if table in self._tables or total < LEAST_CHANGES or self._is_larger(table, total):
            return
        self._tables.add(table)
        plain = all_rows(
            self._db,
            "SELECT s.name, s.sql FROM pragma_index_list(?1, 'main') i JOIN main.sqlite_schema s"
            " ON s.type = 'index' AND s.name = i.name WHERE i.origin = 'c' AND NOT i.\"unique\" ORDER BY s.rowid",
            (table,),
        )
        for name, text in plain:
            self._db.execute(f"DROP INDEX main.{sql.name(name)}")
            self._sql.append(text)

    def build(self) -> None:
        """Builds again what was left out.  Call it in the transaction that dropped them, at its end."""
        if not self._sql:
            return
        # SQLite sorts in as much memory as the cache may take, and beside it.
        cache_size = self._db.pragma("cache_size")
        self._db.execute(f"PRAGMA main.cache_size = -{SORT_KIB}").fetchall()
        for text in self._sql:
            self._db.execute(text)
        self._db.execute(f"PRAGMA main.cache_size = {cache_size:d}").fetchall()
        self._sql.clear()
        self._tables.clear()

    def _is_larger(self, table: str, rows: int) -> bool:
        # Counting a large table would read all of it; skipping `rows` entries reads only so many.
        return find_row(self._db, f"SELECT 1 FROM main.{sql.name(table)} LIMIT 1 OFFSET ?", (rows,)) is not None
