"""The peer of replay: an application that has the rows in Python and writes them.

    python -m bench.executemany SOURCE TARGET sqlite3|apsw

Prints {"cpu_s": ...} of the writing alone.  Reads rollrep's log as a table: op 1 holds a whole row, op 5 the
values that an UPDATE changed and a mask of which, op 0 the key of a deleted row.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import sys
import time
from typing import Any

from bench.workload import DELETE, INSERT

PUT, PATCH = 1, 5
COLUMNS = ("id", "email", "token", "note", "balance", "seen", "score")
PUT_ROW = INSERT.replace("INSERT", "INSERT OR REPLACE", 1)
CACHE_KIB = 32_768
"""the mirror's"""


def main() -> None:
    source, target, driver = sys.argv[1:]
    runs = _decode(source)
    db: Any
    if driver == "apsw":
        import apsw

        db = apsw.Connection(target)
    else:
        db = sqlite3.connect(target, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"cache_size = -{CACHE_KIB}"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    began = time.process_time()
    db.execute("BEGIN")
    for statement, rows in runs:
        db.executemany(statement, rows)
    db.execute("COMMIT")
    print(json.dumps({"cpu_s": time.process_time() - began}))
    db.close()


def _decode(path: str) -> list[tuple[str, list[tuple[object, ...]]]]:
    """Statements with the rows to run them with, in the log's order."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT op, CASE WHEN op = 5 THEN v7 END, v0, v1, v2, v3, v4, v5, v6 FROM _rollrep_log WHERE shape > 0"
            " AND op IN (0, 1, 5) ORDER BY id"
        )
        return [
            (_statement(op, mask), [_values(op, mask, row[2:]) for row in run])
            for (op, mask), run in itertools.groupby(rows, key=lambda row: row[:2])
        ]


def _statement(op: int, mask: int) -> str:
    if op == PATCH:
        changed = ", ".join(f"{column} = ?" for n, column in enumerate(COLUMNS) if mask >> n & 1)
        return f"UPDATE account SET {changed} WHERE id = ?"
    return PUT_ROW if op == PUT else DELETE


def _values(op: int, mask: int, row: tuple[object, ...]) -> tuple[object, ...]:
    if op == PATCH:
        return (*(value for n, value in enumerate(row) if mask >> n & 1), row[0])
    return row if op == PUT else row[:1]


if __name__ == "__main__":
    main()
