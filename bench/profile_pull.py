"""Where the CPU time of a pull goes: statement by statement, of both processes.

One pull of the backlog of `replay`, with a clock around every statement; the clock itself costs little,
because the statements are few and large.
"""

from __future__ import annotations

import json
import shlex
import sys

from bench import processes
from bench.backlog import backlog
from bench.report import Figure
from bench.stage import Stage, environment

LEAST_S = 0.01


def measure(stage: Stage) -> list[Figure]:
    made = backlog(stage, stage.pick(1_000_000, 200_000))
    config = made.fresh()
    found = {side: stage.folder / f"profile-{side}.json" for side in ("pull", "serve")}
    profiled = [sys.executable, "-m", "bench.profiled"]
    serve = shlex.join([*profiled, str(found["serve"]), "source", "serve"])
    config.write_text(config.read_text() + f'\nremote_command = "{serve}"\n')
    command = [*profiled, str(found["pull"]), "pull", "bench", "--json"]
    processes.run(command, env=environment(ROLLREP_CONFIG=str(config)))
    figures = []
    for side, path in found.items():
        told: dict[str, tuple[float, int]] = json.loads(path.read_text())
        total = sum(cpu for cpu, _ in told.values())
        figures.append(Figure(f"{side}: in all", [total / made.operations * 1e6], "us/operation"))
        for label, (cpu, calls) in sorted(told.items(), key=lambda item: -item[1][0]):
            if cpu >= LEAST_S:
                figures.append(Figure(f"{side}: {label} ({calls:.0f})", [cpu / made.operations * 1e6], "us/operation"))
    return figures
