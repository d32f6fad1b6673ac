"""The simulation: a few seeds of tests/sim.py, the same each time, and what it found once, found again.

ROLLREP_SIM=1000 pytest tests/test_sim.py      more seeds; `make sim SEEDS=N` runs them faster
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sim import Run, patched, simulate, trace_of
from sim_bugs import BUGS, Bug, put_into_a_copy, simulate_in
from sim_faults import INJECTIONS

from rollrep.destination.in_place import InPlace
from rollrep.destination.replay import OrderNeeded
from rollrep.source.tables import Limits

pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")  # newer tenacity
PARTS = 4
SEEDS = int(os.environ.get("ROLLREP_SIM", "24"))


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_wrong_when_anything_fails_at_any_step(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        simulate(seed)


def test_run_is_the_same_when_its_seed_is() -> None:
    first, second = simulate(7), simulate(7)
    assert first.said == second.said
    assert trace_of(first) == trace_of(second)
    assert trace_of(first) != trace_of(simulate(8))


def lived(folder: Path, limits: Limits, live: Callable[[Run], None]) -> None:
    """A run whose moves a test chooses."""
    run = Run(1, folder)
    with patched(run):
        try:
            run.begin(limits)
            live(run)
            run.end()
        finally:
            run.reader.forget()
            run.source.close()


@pytest.mark.parametrize("rng", range(3))
@pytest.mark.parametrize("where", ["mirror_db.transaction", "mirroring.publish"])
def test_mirror_is_the_source_when_power_fails_while_it_gets_what_was_compared(
    where: str, rng: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that a mirror operation begins with has to be on the disk before anything is said about it."""
    if where == "mirroring.publish":

        def collide(*_: object) -> None:
            raise OrderNeeded

        monkeypatch.setattr(InPlace, "finish", collide)

    def live(run: Run) -> None:
        run.honest()
        run.source.burst(120)
        image = run.folder / "image"
        die = lambda: run.disk.image(image, power=True, rng=random.Random(rng))  # noqa: E731
        run.at_name = (f"{where}: write mirror.db-wal", die)
        assert run.pull().outcome.moved[0].rung == "digests"
        run.exchange_store(image)
        run.honest()

    lived(tmp_path, Limits(keep_rows=31, keep_keys=31), live)


@pytest.mark.parametrize("mirror", [False, True])
def test_wal_can_be_checkpointed_when_the_destination_is_slow(mirror: bool, tmp_path: Path) -> None:
    """serve waits after every frame of many, with a burst to send or with all tables; it must hold nothing meanwhile."""

    def live(run: Run) -> None:
        for _ in range(3):
            INJECTIONS["slow_destination"].do(run)
        run.source.burst(120)
        INJECTIONS["slow_destination"].do(run)

    lived(tmp_path, Limits(keep_rows=31 if mirror else 100_000, keep_keys=31), live)


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.seed is not None], ids=lambda bug: bug.name)
def test_simulation_finds_a_bug_that_was_put_in_on_purpose(bug: Bug, tmp_path: Path) -> None:
    """With one seed that is known to find it; `python tests/sim_bugs.py` searches for such seeds."""
    done = simulate_in(put_into_a_copy(bug, tmp_path), bug, bug.seed)
    assert done.returncode == 1, f"seed {bug.seed} finds nothing any more: search one with sim_bugs.py"
    assert re.search(r"Finding|AssertionError", done.stderr), done.stderr[-2_000:]
