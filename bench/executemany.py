"""The peer of replay: an application that has the rows in Python and writes them.

    python -m bench.executemany SOURCE TARGET sqlite3|apsw

Prints {"cpu_s": ...} of the writing alone.  Reads rollrep's log as a table: op 1 holds a whole row, op 0
the key of a deleted one.
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

GONE, PUT = 0, 1
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
    put = INSERT.replace("INSERT", "INSERT OR REPLACE", 1)
    began = time.process_time()
    db.execute("BEGIN")
    for op, rows in runs:
        db.executemany(put if op == PUT else DELETE, rows)
    db.execute("COMMIT")
    print(json.dumps({"cpu_s": time.process_time() - began}))
    db.close()


def _decode(path: str) -> list[tuple[int, list[tuple[object, ...]]]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT op, v0, v1, v2, v3, v4, v5, v6 FROM _rollrep_log WHERE shape > 0 AND op IN (?, ?) ORDER BY id",
            (PUT, GONE),
        )
        return [
            (op, [row[1:] if op == PUT else row[1:2] for row in run])
            for op, run in itertools.groupby(rows, key=lambda row: row[0])
        ]


if __name__ == "__main__":
    main()
