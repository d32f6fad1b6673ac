"""What every benchmark needs: prepared databases to copy, the application, and rollrep's own commands.

Databases are made once and copied for each repetition.  rollrep is only ever used by its commands, as
its users do; nothing of it is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import processes, workload

ROOT = Path(__file__).resolve().parent.parent
KEEP_ALL = ("--keep-rows", "5000000", "--keep-bytes", "4GiB")


class Stage:
    """A folder for one run, and how thorough the run is."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder = folder
        self.quick = quick
        self._made: dict[str, Path] = {}

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def prepared(self, name: str, make: Callable[[Path], None]) -> Path:
        """The database `name`, made by the first who asks; never write to it, `copy` it."""
        if name not in self._made:
            path = self.folder / f"{name}.db"
            make(path)
            settle(path)
            self._made[name] = path
        return self._made[name]

    def plain(self) -> Path:
        """The table with its 100,000 rows, and no log."""
        return self.prepared("plain", _make_plain)

    def with_log(self, name: str, *options: str) -> Path:
        def make(path: Path) -> None:
            shutil.copy(self.plain(), path)
            rollrep("source", "install", str(path), *options)

        return self.prepared(name, make)

    def copy(self, source: Path) -> Path:
        """A fresh copy under one and the same name, with no WAL."""
        path = self.folder / "used.db"
        for each in (path, wal(path), path.with_name(path.name + "-shm")):
            each.unlink(missing_ok=True)
        shutil.copy(source, path)
        return path


def application(db: Path, kind: str, count: int, per_transaction: int, *more: str) -> dict[str, float]:
    """What the application says of itself: cpu_s, wall_s, transactions, rows, wal_bytes."""
    used = processes.run(application_command(db, kind, count, per_transaction, *more), env=environment())
    told: dict[str, float] = json.loads(used.stdout)
    return told


def application_command(db: Path, kind: str, count: int, per_transaction: int, *more: str) -> list[str]:
    numbers = ["--count", str(count), "--per-transaction", str(per_transaction)]
    return [sys.executable, "-m", "bench.app", str(db), "--kind", kind, *numbers, *more]


def environment(**more: str) -> dict[str, str]:
    # pip compiles what it installs; where this is set, each of our processes would compile anew what no user's does.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def rollrep(*arguments: str, config: Path | None = None, peaks: bool = False) -> processes.Usage:
    """Runs one of rollrep's commands; `config` is the rollrep.toml it shall use."""
    env = environment(ROLLREP_CONFIG=str(config)) if config else environment()
    return processes.run([sys.executable, "-m", "rollrep", *arguments], env=env, peaks=peaks)


def add_job(config: Path, source: Path) -> None:
    """A job `bench` that pulls `source` through a local child process."""
    config.parent.mkdir(parents=True, exist_ok=True)
    rollrep("init", "bench", f"local:{source}", config=config)


def pull(config: Path, *, peaks: bool = False) -> tuple[processes.Usage, dict[str, Any]]:
    """One pull of the job `bench`: what it took, and what it said of itself."""
    used = rollrep("pull", "bench", "--json", config=config, peaks=peaks)
    return used, json.loads(used.stdout)["jobs"][0]


def mirror_of(config: Path) -> Path:
    return config.parent / "rollrep-data" / "bench" / "mirror.db"


def require_same(source: Path, mirror: Path) -> None:
    """A figure of work that was not done would be a nice one."""
    query = (
        "SELECT count(*), sum(balance), sum(length(note)), max(id), (SELECT count(*) FROM item),"
        " (SELECT sum(amount) FROM item) FROM account"
    )
    found = []
    for path in (source, mirror):
        with contextlib.closing(sqlite3.connect(path)) as db:
            found.append(db.execute(query).fetchone())
    if found[0] != found[1]:
        raise RuntimeError(f"{mirror} is not {source}: {found}")


def settle(path: Path) -> None:
    """Everything into the database file, nothing left in its WAL."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def wal(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _make_plain(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in workload.SCHEMA:
            db.execute(statement)
        db.executemany(workload.INSERT, workload.accounts(workload.PREFILLED, seed=0))
        db.commit()
