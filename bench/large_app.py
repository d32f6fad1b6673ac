"""Applications of `large`: each a process of its own with Python's `sqlite3`, which says what it took as JSON.

    python -m bench.large_app DB operations               a line with a number on stdin: so many, then a line on stdout
    python -m bench.large_app DB transaction --count N    N rows of about 500 bytes in one transaction
    python -m bench.large_app DB columns --table T --count N    N inserts, N updates of one column, 200 per transaction

Rows are made as they are written, so that the peak is SQLite's and not that of a list; where CPU is measured, those
of a transaction are made before it.  Knows: sqlite3, the tables of `large`.  Does not know: rollrep.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench import workload
from bench.processes import peak_bytes

PER_TRANSACTION = 20_000
INSERTED, UPDATED = 0.4, 0.5
"""shares of the operations; the rest are deletes of the oldest rows"""
NOTE = 460
ROW_BYTES = 2000
"""of a row of `columns`, however many those are"""
WIDE_ROWS = 200
"""of those per transaction"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("db")
    parser.add_argument("what", choices=("operations", "transaction", "columns"))
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--table", default="")
    asked = parser.parse_args()
    db = sqlite3.connect(asked.db, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    if asked.what == "operations":
        entries = Entries(db)
        for line in sys.stdin:
            entries.write(int(line))
            print(json.dumps({"operations": int(line), "peak_bytes": peak_bytes()}), flush=True)
    elif asked.what == "transaction":
        began = time.perf_counter()
        transaction(db, asked.count)
        print(json.dumps({"wall_s": time.perf_counter() - began, "peak_bytes": peak_bytes()}))
    else:
        print(json.dumps(columns(db, asked.table, asked.count)))
    db.close()


class Entries:
    """A ledger: new entries at its end, random ones changed, the oldest ones gone; every statement is one operation."""

    SCHEMA = (
        "CREATE TABLE entry(id INTEGER PRIMARY KEY, account INTEGER, amount INTEGER, memo TEXT)",
        "CREATE INDEX entry_account ON entry(account)",
    )

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        found = db.execute("SELECT coalesce(min(id), 1), coalesce(max(id), 0) + 1 FROM entry").fetchone()
        self._first, self._next = found
        self._draws = random.Random(self._next)

    def write(self, operations: int) -> None:
        for done in range(0, operations, PER_TRANSACTION):
            count = min(PER_TRANSACTION, operations - done)
            inserted, updated = int(count * INSERTED), int(count * UPDATED)
            gone = range(self._first, self._first + count - inserted - updated)
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO entry VALUES (?, ?, ?, ?)", self._new(inserted))
            self._db.executemany("DELETE FROM entry WHERE id = ?", ((key,) for key in gone))
            self._first = gone.stop
            self._db.executemany("UPDATE entry SET amount = ? WHERE id = ?", self._changed(updated))
            self._db.execute("COMMIT")

    def _new(self, count: int) -> Iterator[tuple[object, ...]]:
        for key in range(self._next, self._next + count):
            drawn = self._draws.getrandbits(60)
            yield key, drawn % 100_000, drawn >> 30, f"order {drawn % 9973} of {key}"
        self._next += count

    def _changed(self, count: int) -> Iterator[tuple[int, int]]:
        span = self._next - self._first
        for _ in range(count):
            drawn = self._draws.getrandbits(60)
            yield drawn & 0xFFFFFF, self._first + drawn % span


def transaction(db: sqlite3.Connection, count: int) -> None:
    """Rows, and at both ends of them what a reader sees at a glance: `marker` first, the oldest row last."""
    first = db.execute("SELECT max(id) + 1 FROM account").fetchone()[0]
    db.execute("BEGIN")
    db.execute("UPDATE marker SET n = n + 1")
    db.executemany(workload.INSERT, fat_accounts(count, first))
    db.execute("DELETE FROM account WHERE id = (SELECT min(id) FROM account)")
    db.execute("COMMIT")


def fat_accounts(count: int, first: int) -> Iterator[tuple[Any, ...]]:
    """Accounts of about 560 bytes, of which some 250 are information; their e-mails ascend, as a time would."""
    draws = random.Random(first)
    for key in range(first, first + count):
        email, token = f"{key:010d}-{draws.getrandbits(32):08x}@mail.example", draws.randbytes(20).hex()
        note, seen = draws.randbytes(NOTE // 2).hex(), 1_700_000_000 + key % 100_000_000
        yield key, email, token, note, draws.getrandbits(30), seen, draws.random()


def columns(db: sqlite3.Connection, table: str, count: int) -> dict[str, float]:
    """CPU seconds of the inserts and of the updates."""
    width = len(db.execute(f"PRAGMA table_info({table})").fetchall()) - 1
    each = ROW_BYTES // width
    draws = random.Random(width)
    first = db.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0]
    insert = f"INSERT INTO {table} VALUES ({', '.join('?' * (width + 1))})"
    update = f"UPDATE {table} SET c{width // 2} = ? WHERE id = ?"

    def new(keys: range) -> list[tuple[Any, ...]]:
        texts = (draws.randbytes(ROW_BYTES // 2).hex() for _ in keys)
        return [
            (key, *(text[n * each : (n + 1) * each] for n in range(width)))
            for key, text in zip(keys, texts, strict=True)
        ]

    def changed(keys: range) -> list[tuple[Any, ...]]:
        return [(draws.randbytes(each // 2 + 1).hex()[:each], key) for key in keys]

    taken = []
    for sql, make in ((insert, new), (update, changed)):
        cpu = 0.0
        for at in range(first, first + count, WIDE_ROWS):
            rows = make(range(at, min(at + WIDE_ROWS, first + count)))
            began = time.process_time()
            db.execute("BEGIN")
            db.executemany(sql, rows)
            db.execute("COMMIT")
            cpu += time.process_time() - began
        taken.append(cpu)
    return {"insert_cpu_s": taken[0], "update_cpu_s": taken[1], "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    main()
