"""The seal of the catalog: how many rows each table has and what their numbers add up to, kept by triggers.

    INSERT, UPDATE, DELETE ──► seal(tbl, rows, total), in the same transaction
    whoever opens it       ──► counts and adds up again

A page's own checksum says that it is as it was written, not that it lies where it belongs, or is the newest: a disk may
write to another place than it was told, or not at all.  Then a table has other rows than its seal says.

Knows: SQL of the catalog's tables.  Does not know: who asks.
"""

from __future__ import annotations

import apsw

from rollrep.query import all_rows

NUMBERS = {
    "line": "{0}line * 31 + length({0}epoch)",
    "segment": "{0}line * 31 + {0}first * 7 + {0}last * 13 + {0}bytes",
    "point": "{0}point * 31 + {0}line * 7 + {0}id * 13 + length({0}kind) + ifnull(length({0}label), 0)",
    "snapshot": "{0}line * 31 + {0}id * 13 + {0}bytes + {0}raw_bytes",
    "hole": "{0}line * 31 + {0}after * 7 + {0}until * 13",
    "state": "{0}points_line * 31 + {0}points_through * 7"
    " + ifnull(CAST(julianday({0}confirmed) * 86400000 AS INTEGER), 0)",
    "event": "{0}id * 31 + length({0}at) * 7 + length({0}kind) + length({0}detail)",
    "freshness": "{0}pulls * 31 + length({0}hour) * 7 + CAST({0}longest_s * 1000 AS INTEGER)",
}
"""by table, what of each row is added up"""
WAYS = {"point": ("NOT INDEXED", "INDEXED BY sqlite_autoindex_point_1")}
"""a table may be right where its index, by which it is read, is not"""


def put_seal(db: apsw.Connection, file_format: int) -> None:
    """Seals the tables that are not; a rollrep that does not know of seals can't read what is sealed."""
    if _sealed(db) == list(NUMBERS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        sealed = _sealed(db)
        db.execute("CREATE TABLE IF NOT EXISTS seal(tbl TEXT PRIMARY KEY, rows, total) WITHOUT ROWID")
        for table in NUMBERS:
            if table not in sealed:
                _seal(db, table)
        db.pragma("user_version", file_format)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _seal(db: apsw.Connection, table: str) -> None:
    total = f"ifnull(sum({_number(table)}), 0)"
    db.execute(f"INSERT OR REPLACE INTO seal SELECT '{table}', count(*), {total} FROM {table}")
    old, new = _number(table, "old."), _number(table, "new.")
    for event, change in (
        ("INSERT", f"rows = rows + 1, total = total + {new}"),
        ("DELETE", f"rows = rows - 1, total = total - {old}"),
        ("UPDATE", f"total = total - {old} + {new}"),
    ):
        db.execute(
            f"CREATE TRIGGER seal_{table}_{event.lower()} AFTER {event} ON {table}"
            f" BEGIN UPDATE seal SET {change} WHERE tbl = '{table}'; END"
        )


def broken_seal(db: apsw.Connection) -> str:
    """What is wrong where a table has other rows than its seal says; empty where all are as sealed."""
    found = " UNION ALL ".join(
        f"SELECT '{table}' AS tbl, count(*) AS rows, ifnull(sum({_number(table)}), 0) AS total FROM {table} {way}"
        for table in _sealed(db)
        for way in WAYS.get(table, ("NOT INDEXED",))
    )
    # One statement, so that all of it is of one moment.
    other = f"SELECT 1 FROM ({found}) f LEFT JOIN seal USING (tbl, rows, total) WHERE seal.tbl IS NULL"
    try:
        is_broken = bool(found) and all_rows(db, other) != []
    except apsw.SQLError as error:
        # The schema speaks of what is not there: its own page is an older one.
        return str(error)
    return "a page is an older one, or another's" if is_broken else ""


def _sealed(db: apsw.Connection) -> list[str]:
    """The tables whose changes are counted."""
    triggers = {name for (name,) in all_rows(db, "SELECT name FROM sqlite_schema WHERE type = 'trigger'")}
    return [table for table in NUMBERS if f"seal_{table}_insert" in triggers]


def _number(table: str, row: str = "") -> str:
    return f"ifnull({NUMBERS[table].format(row)}, 0)"
