"""The application: a process of its own that writes, and says what that cost it.

    python -m bench.app DB --kind insert --count 20000 --per-transaction 1

Everything is made before the clock starts.  CPU is the process's own, user and system, its checkpoints
included.  Knows: sqlite3 (or apsw, where asked), the workload.  Does not know: rollrep.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.workload import KINDS, Statement

BURST_S = 0.01
SESSION_ROWS = 1000
Write = Callable[[Sequence[Statement]], None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("db")
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--per-transaction", type=int, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rows", type=int, help="of updates: how many rows stand there  [default: 100,000]")
    parser.add_argument("--rate", type=float, help="transactions per second; without it, as fast as it goes")
    parser.add_argument("--temp-store-memory", action="store_true")
    parser.add_argument("--driver", choices=("sqlite3", "apsw", "session"), default="sqlite3")
    parser.add_argument("--keep-wal", action="store_true", help="never checkpoint: then wal_bytes is what was written")
    asked = parser.parse_args()

    db: Any
    if asked.driver == "sqlite3":
        db = sqlite3.connect(asked.db)
        write = _with_sqlite3(db)
    else:
        import apsw

        db = apsw.Connection(asked.db)
        db.set_busy_timeout(5000)
        write = _with_apsw(db) if asked.driver == "apsw" else _with_session(db)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    if asked.temp_store_memory:
        db.execute("PRAGMA temp_store = memory").fetchall()
    if asked.keep_wal:
        db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    more = {"rows": asked.rows} if asked.rows else {}
    statements = KINDS[asked.kind](asked.count, seed=asked.seed, **more)
    size = asked.per_transaction
    transactions = [statements[n : n + size] for n in range(0, len(statements), size)]
    warm, timed = transactions[: len(transactions) // 10], transactions[len(transactions) // 10 :]
    if asked.rate:
        warm, timed = [], transactions

    for each in warm:
        write(each)
    wal_before = _wal_bytes(asked.db)
    wall, cpu = time.perf_counter(), time.process_time()
    if asked.rate:
        _paced(write, timed, asked.rate)
    else:
        for each in timed:
            write(each)
    told = {
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "transactions": len(timed),
        "rows": sum(map(len, timed)),
        "wal_bytes": _wal_bytes(asked.db) - wal_before,
    }
    print(json.dumps(told))
    db.close()


def _with_sqlite3(db: sqlite3.Connection) -> Write:
    """As its documentation has it: the module begins a transaction, the application commits it."""

    def write(statements: Sequence[Statement]) -> None:
        for sql, values in statements:
            db.execute(sql, values)
        db.commit()

    return write


def _with_apsw(db: Any) -> Write:
    def write(statements: Sequence[Statement]) -> None:
        db.execute("BEGIN")
        for sql, values in statements:
            db.execute(sql, values)
        db.execute("COMMIT")

    return write


def _with_session(db: Any) -> Write:
    """SQLite's session extension: a changeset is taken every 1000 rows, and goes nowhere."""
    import apsw

    plain = _with_apsw(db)
    session = apsw.Session(db, "main")
    session.attach()
    recorded = 0

    def write(statements: Sequence[Statement]) -> None:
        nonlocal session, recorded
        plain(statements)
        recorded += len(statements)
        if recorded >= SESSION_ROWS:
            session.changeset()
            session.close()
            session = apsw.Session(db, "main")
            session.attach()
            recorded = 0

    return write


def _paced(write: Write, transactions: Sequence[Sequence[Statement]], rate: float) -> None:
    """In bursts of 10 ms, so that the pauses are few and cost next to nothing."""
    began = time.perf_counter()
    burst = max(1, round(rate * BURST_S))
    for first in range(0, len(transactions), burst):
        pause = began + first / rate - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        for each in transactions[first : first + burst]:
            write(each)


def _wal_bytes(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(f"{path}-wal").stat().st_size
    return 0


if __name__ == "__main__":
    main()
