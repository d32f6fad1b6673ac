"""What the log costs the application: its CPU, its time and its WAL, with and without.

    none       no log                                 the base of all but the session
    log        rollrep's, default limits              nothing is pruned yet
    pruning    rollrep's, --keep-rows 20000, full     every insert into it prunes: the figure that counts
    json       triggers with json_object              the log that one would write oneself
    apsw       no log, through apsw                   the base of the session
    session    SQLite's session extension

Each repetition runs all of them, in another order, on fresh copies; its ratios are within it.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bench import workload
from bench.report import Figure
from bench.stage import Stage, application

KEEP_ROWS = 20_000
TARGETS = {("1", ""): 1.6, ("1000", ""): 2.5, ("1000", "memory"): 2.0}
BASE = {"session": "apsw"}
NAMES = {
    "pruning": "log, pruning",
    "log": "log, default limits",
    "json": "JSON log",
    "session": "session extension",
}
Run = dict[str, float]


def measure(stage: Stage) -> list[Figure]:
    sources = {
        "none": stage.plain(),
        "log": stage.with_log("log"),
        "pruning": stage.prepared("pruning", lambda path: _make_full_log(stage, path)),
        "json": stage.prepared("json", lambda path: _make_json(stage, path)),
        "apsw": stage.plain(),
        "session": stage.plain(),
    }
    figures: list[Figure] = []
    for kind in ("insert", "update"):
        for size, temp in TARGETS:
            figures += _workload(stage, sources, kind, int(size), temp)
    return figures


def _workload(stage: Stage, sources: dict[str, Path], kind: str, size: int, temp: str) -> list[Figure]:
    count = stage.pick(20_000, 6_000) if size == 1 else stage.pick(40_000, 20_000)
    more = ("--temp-store-memory",) if temp else ()
    runs: list[dict[str, Run]] = []
    order = list(sources)
    for repetition in range(stage.pick(7, 2)):
        random.Random(repetition).shuffle(order)
        runs.append({})
        for name in order:
            driver = name if name in ("apsw", "session") else "sqlite3"
            db = stage.copy(sources[name])
            runs[-1][name] = application(
                db, kind, count, size, *more, "--driver", driver, "--seed", str(repetition + 7)
            )
    told = f"{kind}, {size} per transaction" + (f", temp_store={temp}" if temp else "")
    figures = []
    for name, label in NAMES.items():
        target = TARGETS[str(size), temp] if name == "pruning" else None
        figures.append(Figure(f"CPU, {told}: {label}", list(_ratios(runs, name, "cpu_s")), at_most=target))
    for name, label in NAMES.items():
        figures.append(Figure(f"wall, {told}: {label}", list(_ratios(runs, name, "wall_s"))))
    if not temp:
        figures += _wal(stage, sources, kind, count, size, told)
    return figures


def _ratios(runs: list[dict[str, Run]], name: str, what: str) -> Iterator[float]:
    for run in runs:
        yield run[name][what] / run[BASE.get(name, "none")][what]


def _wal(stage: Stage, sources: dict[str, Path], kind: str, count: int, size: int, told: str) -> list[Figure]:
    """Counted, not timed: once is enough.  Without checkpoints the WAL's size is what was written to it."""
    found = {}
    for name in ("none", "log", "pruning", "json"):
        run = application(stage.copy(sources[name]), kind, count, size, "--keep-wal")
        found[name] = run["wal_bytes"] / run["transactions"] / 1000
    figures = [Figure(f"WAL, {told}: no log", [found["none"]], "kB/transaction")]
    for name in ("pruning", "log", "json"):
        figures.append(Figure(f"WAL, {told}: {NAMES[name]}", [found[name]], "kB/transaction"))
    return figures


def _make_full_log(stage: Stage, path: Path) -> None:
    """A log at its limit: written to until it prunes, so that it prunes all the time from here on."""
    shutil.copy(stage.with_log("small", "--keep-rows", str(KEEP_ROWS)), path)
    application(path, "update", KEEP_ROWS * 3 // 2, 1000, "--seed", "99")
    with contextlib.closing(sqlite3.connect(path)) as db:
        (pruned,) = db.execute("SELECT pruned_through FROM _rollrep_meta").fetchone()
    if pruned < 1:
        raise RuntimeError("the log was to prune, and did not")


def _make_json(stage: Stage, path: Path) -> None:
    shutil.copy(stage.plain(), path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        for statement in workload.JSON_LOG:
            db.execute(statement)
