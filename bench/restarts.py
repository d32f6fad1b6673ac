"""Restarts of what replicates, while the application writes with SQLite's defaults: how many leave a wrong copy.

    application  ──writes──────────────────────────────────────────────►   its own process, its own sqlite3
    rollrep      ──pull──✗      ──pull──✗       ──pull──✗ ...  pull        ✗ a signal at any moment of a pull
    litestream   ──replicate──✗      ──replicate──✗       ...  sync        down 1 to 4 s in between

rollrep: the puller, or `serve` alone, gets SIGTERM or SIGKILL; after each restart the application stands still, one
pull is let end, and the mirror is compared with the source by SQLite's own dbhash.  Litestream: its one process gets
SIGINT or SIGKILL; after two of them the application stands still, the replica is restored, and compared likewise.

RESTARTS=1000 in the environment says how many there are.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw.sqlite_extra
import psutil

from bench import litestream
from bench.report import Figure
from bench.stage import Stage, add_job, environment, mirror_of, pull, rollrep

RATE_S = 0.005
"""between two transactions of the application, at best"""
WRITE = f"""
import random, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1])
dice = random.Random()
while True:
    with db:
        db.execute("INSERT INTO t(a) VALUES (?)", (dice.random(),))
        db.execute("UPDATE t SET a = a + 1 WHERE id = ?", (dice.randrange(1, 2000),))
        db.execute("DELETE FROM t WHERE id = ?", (dice.randrange(1, 9000),))
    time.sleep({RATE_S})
"""


def measure(stage: Stage) -> list[Figure]:
    restarts = int(os.environ.get("RESTARTS", stage.pick(100, 6)))
    figures = [
        Figure(f"wrong of {restarts} restarts, rollrep's {who}, {'SIGKILL' if hard else 'SIGTERM'}",
               [_rollrep(stage, restarts, hard=hard, serve=serve)], "")
        for who, serve in (("puller", False), ("serve", True)) for hard in (False, True)
    ]  # fmt: skip
    if litestream.program():
        for hard in (False, True):
            wrong = _litestream(stage, restarts, hard=hard)
            figures.append(
                Figure(f"wrong of {restarts} restarts, Litestream, {'SIGKILL' if hard else 'SIGINT'}", [wrong], "")
            )
    return figures


@contextlib.contextmanager
def _application(db: Path) -> Iterator[psutil.Process]:
    """Writing from its first line on; `suspend` between two calls of it makes it stand still."""
    with subprocess.Popen([sys.executable, "-c", WRITE, str(db)], env=environment()) as child:
        try:
            yield psutil.Process(child.pid)
        finally:
            child.kill()


def _made(stage: Stage, name: str) -> Path:
    folder = stage.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        db.executemany("INSERT INTO t(a) VALUES (?)", [(n,) for n in range(2_000)])
        db.commit()
    return path


def _rollrep(stage: Stage, restarts: int, *, hard: bool, serve: bool) -> float:
    db = _made(stage, "rollrep")
    config = db.parent / "at" / "rollrep.toml"
    rollrep("source", "install", str(db))
    add_job(config, db)
    pull(config)
    takes_s = pull(config)[0].wall_s
    dice, wrong = random.Random(1), 0
    command = [sys.executable, "-m", "rollrep", "pull", "bench"]
    env = environment(ROLLREP_CONFIG=str(config))
    for _ in range(restarts):
        with _application(db) as application:
            time.sleep(_pause_s(stage, dice))
            with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as puller:
                time.sleep(dice.uniform(0, takes_s))
                _end(puller.pid, hard=hard, serve=serve)
            time.sleep(_pause_s(stage, dice))
            _stand_still(application)
            pull(config)
            wrong += _hash(db) != _hash(mirror_of(config))
    return wrong


def _end(pid: int, *, hard: bool, serve: bool) -> None:
    """The signal for the puller, or for the serve that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        puller = psutil.Process(pid)
        for each in puller.children() if serve else [puller]:
            each.send_signal(signal.SIGKILL if hard else signal.SIGTERM)


def _litestream(stage: Stage, restarts: int, *, hard: bool) -> float:
    db = _made(stage, "litestream")
    replica, restored, config = db.parent / "replica", db.parent / "restored.db", db.parent / "litestream.yml"
    config.write_text(f"dbs:\n  - path: {db}\n    replica:\n{litestream.on_file(replica)}")
    dice, wrong = random.Random(1), 0
    program = str(litestream.program())
    for _ in range(restarts):
        with _application(db) as application:
            for _ in range(2):
                with subprocess.Popen(
                    [program, "replicate", "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                ) as child:
                    time.sleep(2 + _pause_s(stage, dice))
                    child.send_signal(signal.SIGKILL if hard else signal.SIGINT)
                time.sleep(_pause_s(stage, dice))
            with subprocess.Popen(
                [program, "replicate", "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as child:
                time.sleep(2)
                _stand_still(application)
                time.sleep(4)
                child.send_signal(signal.SIGINT)
            restored.unlink(missing_ok=True)
            done = subprocess.run(
                [program, "restore", "-config", str(config), "-o", str(restored), str(db)],
                capture_output=True, check=False,
            )  # fmt: skip
            wrong += done.returncode != 0 or _hash(db) != _hash(restored)
    return wrong


def _pause_s(stage: Stage, dice: random.Random) -> float:
    return dice.uniform(0.1, 0.5) if stage.quick else dice.uniform(1, 4)


def _stand_still(application: psutil.Process) -> None:
    application.kill()
    application.wait()


def _hash(path: Path) -> str:
    """Of the table's content; a copy that can't be read has none."""
    program = apsw.sqlite_extra.path("sqlite3_dbhash")
    done = subprocess.run(
        [program, "--like", "t", "--without-schema", str(path)], capture_output=True, text=True, check=False
    )
    return done.stdout.split()[0] if done.stdout else f"unreadable {path}"
