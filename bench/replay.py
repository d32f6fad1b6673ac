"""Pull and replay of a backlog: operations per CPU second, beside `executemany` of the same rows.

    rollrep      everything: both processes from their start, reading, packing, archive, replay, catalog
    executemany  only the writing: the rows are Python's already, in log order, INSERT OR REPLACE,
                 UPDATE of what changed and DELETE in runs as they come, one transaction, the mirror's own settings

Both begin with the same mirror of 100,000 rows.
"""

from __future__ import annotations

import json
import shutil
import sys

from bench import processes
from bench.backlog import Backlog, backlog
from bench.report import Figure
from bench.stage import Stage, environment

PEERS = ("apsw", "sqlite3")


def measure(stage: Stage) -> list[Figure]:
    operations = stage.pick(1_000_000, 200_000)
    made = backlog(stage, operations)
    rates: dict[str, list[float]] = {"rollrep": [], **{peer: [] for peer in PEERS}}
    walls: list[float] = []
    for _ in range(stage.pick(3, 2)):
        used, _told = made.pull()
        rates["rollrep"].append(operations / used.cpu_s)
        walls.append(operations / used.wall_s)
        for peer in PEERS:
            rates[peer].append(operations / _executemany(stage, made, peer))
    best = [max(run) for run in zip(*(rates[peer] for peer in PEERS), strict=True)]
    against = [ours / theirs for ours, theirs in zip(rates["rollrep"], best, strict=True)]
    told = f"{operations:,} operations"
    return [
        Figure(f"pull, {told}, both processes", rates["rollrep"], "operations/CPU s", at_least=120_000),
        Figure(f"pull, {told}, by the clock", walls, "operations/s"),
        *(Figure(f"executemany through {peer}, {told}", rates[peer], "operations/CPU s") for peer in PEERS),
        Figure("pull against the better executemany", against, at_least=0.7),
    ]


def _executemany(stage: Stage, made: Backlog, driver: str) -> float:
    """CPU seconds of writing."""
    target = stage.folder / "executemany.db"
    target.unlink(missing_ok=True)
    shutil.copy(made.mirror, target)
    command = [sys.executable, "-m", "bench.executemany", str(made.source), str(target), driver]
    return float(json.loads(processes.run(command, env=environment()).stdout)["cpu_s"])
