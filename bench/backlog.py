"""A source with a backlog, and a mirror that has all of it still before it.

    100,000 rows ──► log installed ──► first pull ──► N operations ──► kept, to pull from again and again

The source is only read by a pull, so each repetition begins with the same source and a fresh copy of the
destination's folder.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from bench import processes, stage
from bench.stage import KEEP_ALL, Stage


@dataclasses.dataclass(frozen=True)
class Backlog:
    operations: int
    source: Path
    kept: Path
    """the destination's folder as it was after the first pull"""

    @property
    def mirror(self) -> Path:
        return stage.mirror_of(self.kept / "rollrep.toml")

    def pull(self, *, peaks: bool = False) -> tuple[processes.Usage, dict[str, Any]]:
        """Pulls all of it into a fresh copy; raises RuntimeError where the mirror is not the source then."""
        used = self.fresh()
        taken, told = stage.pull(used, peaks=peaks)
        if told["operations"] != self.operations:
            raise RuntimeError(f"{self.operations} operations were to be pulled: {told}")
        stage.require_same(self.source, stage.mirror_of(used))
        return taken, told

    def fresh(self) -> Path:
        """The configuration of a fresh copy of the destination."""
        used = self.kept.with_name("pulled")
        shutil.rmtree(used, ignore_errors=True)
        shutil.copytree(self.kept, used)
        return used / "rollrep.toml"


_made: dict[int, Backlog] = {}


def backlog(where: Stage, operations: int) -> Backlog:
    """Made by the first who asks."""
    if operations not in _made:
        source = where.folder / f"backlog-{operations}.db"
        kept = where.folder / f"backlog-{operations}"
        shutil.copy(where.with_log("roomy", *KEEP_ALL), source)
        stage.add_job(kept / "rollrep.toml", source)
        stage.pull(kept / "rollrep.toml")
        # A rate that is never reached: then nothing is left out of the count as a warming up.
        stage.application(source, "mix", operations, 1000, "--temp-store-memory", "--rate", "100000")
        stage.settle(source)
        _made[operations] = Backlog(operations, source, kept)
    return _made[operations]
