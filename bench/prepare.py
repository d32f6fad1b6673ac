"""What the log adds to a statement that SQLite prepares anew, by the width of its table.

Preparing a statement compiles the triggers of its table.  A program that keeps its prepared statements pays once; one
that sends each statement as text (a PHP page, an ORM with many different texts) pays every time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Figure
from bench.stage import Stage, rollrep

WIDTHS = (6, 30, 200)
STATEMENTS: dict[str, Callable[[int, int], str]] = {
    "insert": lambda n, width: f"INSERT INTO t(id, u, c0) VALUES ({n + 5000}, 'x{n}', {n})",
    "update": lambda n, width: f"UPDATE t SET c{n % width} = {n} WHERE id = {n % 1000 + 1}",
    "delete": lambda n, width: f"DELETE FROM t WHERE id = {n + 5000}",
}


def measure(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    count = stage.pick(2_000, 300)
    for width in WIDTHS:
        plain = stage.prepared(f"wide{width}", lambda path, width=width: _make(path, width))
        logged = stage.prepared(f"wide{width}-log", lambda path, width=width: _make(path, width, log=True))
        runs = [(_run(stage.copy(plain), count, width), _run(stage.copy(logged), count, width))
                for _ in range(stage.pick(5, 2))]  # fmt: skip
        figures += [
            Figure(
                f"{kind}, {width} columns: CPU added", [log[kind] - base[kind] for base, log in runs], "us/statement"
            )
            for kind in STATEMENTS
        ]
    return figures


def _make(path: Path, width: int, *, log: bool = False) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        columns = ", ".join(f"c{n}" for n in range(width))
        db.execute(f"CREATE TABLE t(id INTEGER PRIMARY KEY, u TEXT UNIQUE, {columns})")
        db.execute("CREATE INDEX i ON t(c0)")
        db.executemany("INSERT INTO t(id, u) VALUES (?, ?)", ((n, f"u{n}") for n in range(1, 1001)))
    if log:
        rollrep("source", "install", str(path))


def _run(path: Path, count: int, width: int) -> dict[str, float]:
    """Microseconds of CPU per statement, each prepared anew, all in one transaction."""
    used: dict[str, float] = {}
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, cached_statements=0)) as db:
        for kind, statement in STATEMENTS.items():
            texts = [statement(n, width) for n in range(count)]
            db.execute("BEGIN")
            began = time.process_time()
            for text in texts:
                db.execute(text)
            used[kind] = (time.process_time() - began) / count * 1e6
            db.execute("COMMIT")
    return used
