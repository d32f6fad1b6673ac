"""Restarts of what replicates, while the application writes with SQLite's defaults: how many leave a wrong copy.

    application   ──writes────────────────────┤stands still├──writes────►    a process of its own, Python's sqlite3
    rollrep       ──pull──pull──✗    1..4 s      pull, compare   pull──✗     ✗ a signal at any moment of a pull
    Litestream    ──replicate───✗    1..4 s      replicate, restore, compare

rollrep: the puller, or `serve` alone, gets SIGTERM or SIGKILL, in turn.  Litestream: its one process gets SIGINT, which
its manual calls a shutdown, or SIGKILL; a copy that is wrong is made anew, so that it counts once.

Many pairs of an application and its copy side by side, so that most of the time is waiting.  RESTARTS=1000 says how
many, RESTARTS_MINUTES=30 when to begin no other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw.sqlite_extra
import psutil

from bench import litestream
from bench.report import Figure
from bench.stage import Stage, add_job, environment, mirror_of, pull, rollrep

PAIRS = 8
HEALING_PULLS = 3
"""after a restart one of so many must end well"""
SYNC_S = 3.0
"""Litestream's own interval is a second"""
SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
WRITE = """
import random, select, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1])
while True:
    with db:
        db.execute("INSERT INTO t(a) VALUES (?)", (random.random(),))
        db.execute("UPDATE t SET a = a + 1 WHERE id = ?", (random.randrange(1, 2000),))
        db.execute("DELETE FROM t WHERE id = ?", (random.randrange(1, 9000),))
    time.sleep(0.005)
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.stdin.readline()
        print("stands still", flush=True)
        sys.stdin.readline()
"""
Told = Counter[str]


def measure(stage: Stage) -> list[Figure]:
    restarts = int(os.environ.get("RESTARTS", stage.pick(1_000, 40)))
    until = time.monotonic() + 60 * float(os.environ.get("RESTARTS_MINUTES", "1e9"))
    told = _side_by_side(stage, restarts, until, _rollrep)
    figures = [
        Figure(f"rollrep, {name}: wrong of {told[name]:,} restarts", [told[f"{name} wrong"]], "", at_most=0)
        for name in _KINDS
    ]
    figures.append(Figure("rollrep: pulls that failed after a restart, and went well when typed again",
                          [told["failed"]], ""))  # fmt: skip
    if litestream.program():
        told = _side_by_side(stage, stage.pick(48, 16), float("inf"), _litestream)
        figures += [
            Figure(f"Litestream, {name}: wrong of {told[name]:,} restarts", [told[f"{name} wrong"]], "")
            for name in ("SIGINT", "SIGKILL")
        ]
    return figures


_KINDS = [f"{who}, {name}" for who in ("puller", "serve") for name in SIGNALS]


def _side_by_side(
    stage: Stage, restarts: int, until: float, run: Callable[[Stage, Path, int, int, float], Told]
) -> Told:
    shares = [restarts // PAIRS + (number < restarts % PAIRS) for number in range(PAIRS)]
    with concurrent.futures.ThreadPoolExecutor(PAIRS) as pool:
        folders = [_made(stage.folder / f"{run.__name__}{number}") for number in range(PAIRS)]
        return sum(pool.map(run, [stage] * PAIRS, folders, range(PAIRS), shares, [until] * PAIRS), Told())


def _rollrep(stage: Stage, folder: Path, number: int, restarts: int, until: float) -> Told:
    db, config, dice, told = folder / "app.db", folder / "at" / "rollrep.toml", random.Random(number), Told()
    rollrep("source", "install", str(db))
    add_job(config, db)
    pull(config)
    with _Application(db) as application:
        takes_s = pull(config)[0].wall_s
        for turn in range(restarts):
            if time.monotonic() > until:
                break
            kind = _KINDS[(number + turn) % len(_KINDS)]
            who, _, name = kind.partition(", ")
            _pull_until(time.monotonic() + dice.uniform(0, 2 * takes_s), config, SIGNALS[name], serve=who == "serve")
            time.sleep(_pause_s(stage, dice))
            with application.standing_still():
                for _ in range(HEALING_PULLS):
                    try:
                        pull(config)
                        break
                    except RuntimeError:
                        told["failed"] += 1
                told[kind] += 1
                told[f"{kind} wrong"] += _hash(db) != _hash(mirror_of(config))
            print(f"restarts: pair {number}, {turn + 1} of {restarts}: {dict(told)}", file=sys.stderr, flush=True)
    return told


def _pull_until(moment: float, config: Path, number: int, *, serve: bool) -> None:
    """One pull after another; at the moment the signal, for the one at work or for the serve that it has started."""
    command = [sys.executable, "-m", "rollrep", "pull", "bench"]
    env = environment(ROLLREP_CONFIG=str(config))
    hit = False
    while not hit:
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as puller:
            while puller.poll() is None:
                if not hit and time.monotonic() >= moment:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process = psutil.Process(puller.pid)
                        for each in process.children() if serve else [process]:
                            each.send_signal(number)
                            hit = True
                time.sleep(0.005)


def _litestream(stage: Stage, folder: Path, number: int, restarts: int, until: float) -> Told:
    db, replica, restored, config = (folder / each for each in ("app.db", "replica", "restored.db", "litestream.yml"))
    config.write_text(f"dbs:\n  - path: {db}\n    replica:\n{litestream.on_file(replica)}")
    dice, told = random.Random(number), Told()
    with _Application(db) as application:
        for turn in range(restarts):
            if time.monotonic() > until:
                break
            name, signalled = [("SIGINT", signal.SIGINT), ("SIGKILL", signal.SIGKILL)][(number + turn) % 2]
            with _replicating(config, signalled):
                time.sleep(2 + _pause_s(stage, dice))
            time.sleep(_pause_s(stage, dice))
            with contextlib.ExitStack() as still:
                with _replicating(config, signal.SIGINT):
                    time.sleep(_pause_s(stage, dice))
                    still.enter_context(application.standing_still())
                    time.sleep(SYNC_S)
                right = _restored(config, db, restored) and _hash(db) == _hash(restored)
            told[name] += 1
            if not right:
                told[f"{name} wrong"] += 1
                shutil.rmtree(replica, ignore_errors=True)
                shutil.rmtree(db.with_name(f".{db.name}-litestream"), ignore_errors=True)
    return told


@contextlib.contextmanager
def _replicating(config: Path, ends_with: int) -> Iterator[None]:
    command = [str(litestream.program()), "replicate", "-config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            yield
        finally:
            child.send_signal(ends_with)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(litestream.PATIENCE_S)
            child.kill()


def _restored(config: Path, db: Path, output: Path) -> bool:
    output.unlink(missing_ok=True)
    command = [str(litestream.program()), "restore", "-config", str(config), "-o", str(output), str(db)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class _Application:
    """Writes from its first line on; where it is asked to stand still, it does so between two transactions."""

    def __init__(self, db: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", WRITE, str(db)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> _Application:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.communicate()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write("stand still\n")
        self._child.stdin.flush()
        if not self._child.stdout.readline():
            raise RuntimeError("the application has ended")
        yield
        self._child.stdin.write("go on\n")
        self._child.stdin.flush()


def _made(folder: Path) -> Path:
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        db.executemany("INSERT INTO t(a) VALUES (?)", [(n,) for n in range(2_000)])
        db.commit()
    return folder


def _pause_s(stage: Stage, dice: random.Random) -> float:
    return dice.uniform(0.2, 1) if stage.quick else dice.uniform(1, 4)


def _hash(path: Path) -> str:
    """Of the table's content; a copy that can't be read has none."""
    program = str(apsw.sqlite_extra.path("sqlite3_dbhash"))
    command = [program, "--like", "t", "--without-schema", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split()[0] if done.stdout else f"unreadable {path}"
