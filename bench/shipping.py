"""What it costs in all: the application, its log, and the processes that carry the log away.

    none          the application alone
    every second  the log, and `rollrep pull` every second: both of its processes counted
    every 10 s    the log, and a pull every 10 s, which is what `rollrep init` writes
    at the end    the log, and one pull
    Litestream    the application, and `litestream replicate` to a folder on the same disk

1000 transactions per second of one row, the mix of 60 % insert, 30 % update, 10 % delete.  The
first copy of the database is made before the clock starts, for all.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from pathlib import Path

from bench import litestream, processes
from bench.report import Figure
from bench.stage import (
    Stage,
    add_job,
    application_command,
    environment,
    mirror_of,
    pull,
    require_same,
)

RATE = 1000
WAYS = {"every second": 1.0, "every 10 s": 10.0, "at the end": float("inf")}


def measure(stage: Stage) -> list[Figure]:
    count = RATE * stage.pick(30, 10)
    ways = ["none", *WAYS, "Litestream"]
    runs: list[dict[str, tuple[float, float]]] = []
    for repetition in range(stage.pick(3, 1)):
        random.Random(repetition).shuffle(ways)
        runs.append({way: _run(stage, way, count) for way in ways})
    figures = [
        Figure(f"CPU in all, {way}", [sum(run[way]) / count * 1e6 for run in runs], "us/transaction")
        for way in ("none", *WAYS, "Litestream")
    ]
    figures += [
        Figure(f"CPU of what ships, {way}", [run[way][1] / count * 1e6 for run in runs], "us/transaction")
        for way in (*WAYS, "Litestream")
    ]
    for way in WAYS:
        ratios = [sum(run[way]) / sum(run["Litestream"]) for run in runs]
        figures.append(Figure(f"CPU in all against Litestream, {way}", ratios, at_most=1.0))
    return figures


def _run(stage: Stage, way: str, count: int) -> tuple[float, float]:
    """CPU seconds of (the application, what ships)."""
    if way == "none":
        return _application(stage.copy(stage.plain()), count), 0.0
    if way == "Litestream":
        return _with_litestream(stage, count)
    db = stage.copy(stage.with_log("log"))
    config = stage.folder / "shipping" / "rollrep.toml"
    shutil.rmtree(config.parent, ignore_errors=True)
    add_job(config, db)
    pull(config)
    puller = _Puller(config, WAYS[way])
    puller.start()
    application = _application(db, count)
    ships = puller.stop()
    require_same(db, mirror_of(config))
    return application, ships


def _with_litestream(stage: Stage, count: int) -> tuple[float, float]:
    db = stage.copy(stage.plain())
    replica = stage.folder / "replica"
    with litestream.replicating(db, litestream.on_file(replica), replica) as pid:
        before = processes.cpu_s(pid)
        application = _application(db, count)
        time.sleep(2.0)  # its interval is a second: what is left is shipped now
        ships = processes.cpu_s(pid) - before
    return application, ships


def _application(db: Path, count: int) -> float:
    command = application_command(db, "mix", count, 1, "--rate", str(RATE))
    return float(json.loads(processes.run(command, env=environment()).stdout)["cpu_s"])


class _Puller:
    """Pulls again and again until it is stopped, and once more then."""

    def __init__(self, config: Path, every_s: float) -> None:
        self._config = config
        self._every_s = every_s
        self._cpu_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pull_on, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> float:
        """CPU seconds of all pulls."""
        self._stop.set()
        self._thread.join()
        self._once()
        return self._cpu_s

    def _pull_on(self) -> None:
        due = time.monotonic() + min(self._every_s, threading.TIMEOUT_MAX)
        while not self._stop.wait(min(max(0.0, due - time.monotonic()), 3600.0)):
            self._once()
            due += self._every_s

    def _once(self) -> None:
        self._cpu_s += pull(self._config)[0].cpu_s
