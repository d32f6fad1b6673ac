"""Peak memory of both processes while a backlog is pulled, small and large.

Resident memory at its highest, of `rollrep pull` and of the `rollrep source serve` it starts, as the
kernel keeps it (VmHWM).  The file system's cache of mapped files counts in, as it does in `ps`.
"""

from __future__ import annotations

from bench.backlog import backlog
from bench.report import Figure
from bench.stage import Stage


def measure(stage: Stage) -> list[Figure]:
    figures: list[Figure] = []
    for operations in (100_000, stage.pick(1_000_000, 200_000)):
        made = backlog(stage, operations)
        larger, together = [], []
        for _ in range(stage.pick(3, 1)):
            used, _told = made.pull(peaks=True)
            larger.append(used.peaks[0] / 1e6)
            together.append(sum(used.peaks) / 1e6)
        figures += [
            Figure(f"the larger process, {operations:,} operations", larger, "MB", at_most=200),
            Figure(f"both peaks added, {operations:,} operations", together, "MB", at_most=200),
        ]
    return figures
