"""The simulation: a few seeds of tests/sim.py, the same each time, and what it found once, found again.

ROLLREP_SIM=1000 pytest tests/test_sim.py      more seeds; `make sim SEEDS=N` runs them faster
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from sim import Run, patched, simulate, trace_of
from sim_bugs import BUGS, Bug, put_into_a_copy, simulate_in
from sim_disk import DiskFault, Unsynced
from sim_faults import INJECTIONS

from rollrep.destination.in_place import InPlace
from rollrep.destination.mirror_db import State
from rollrep.destination.replay import OrderNeeded
from rollrep.destination.verify import Asked
from rollrep.jobs import verify as verifying
from rollrep.source.tables import Limits

pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")  # newer tenacity
PARTS = 4
SEEDS = int(os.environ.get("ROLLREP_SIM", "24"))


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_wrong_when_anything_fails_at_any_step(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        simulate(seed)


def test_mirror_does_not_go_back_when_power_took_the_staging_mirror_back_to_what_it_began_with() -> None:
    """Found once by this seed: published, but not yet removed."""
    simulate(2890)


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


def collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror is not compared in place: its operation goes by way of a staging mirror."""
    finish = InPlace.finish

    def refuse(self: InPlace, *arguments: Any) -> State:
        if self.reached.mirror == "mirror.db":
            raise OrderNeeded
        return finish(self, *arguments)

    monkeypatch.setattr(InPlace, "finish", refuse)


@pytest.mark.parametrize("rng", range(3))
@pytest.mark.parametrize("where", ["mirror_db.transaction", "mirroring.publish"])
def test_mirror_is_the_source_when_power_fails_while_it_gets_what_was_compared(
    where: str, rng: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that a mirror operation begins with has to be on the disk before anything is said about it."""
    if where == "mirroring.publish":
        collide(monkeypatch)

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


@pytest.mark.parametrize("at", [1, 2, 3])
def test_disk_is_said_to_be_full_when_there_is_no_room_for_the_first_folder(at: int, tmp_path: Path) -> None:
    def live(run: Run) -> None:
        assert not run.store.folder.exists()
        run.disk.fault = DiskFault(errno.ENOSPC, at, 1)
        error = run.pull().error
        assert error is not None and (error.kind, error.exit_code) == ("disk_full", 18)

    lived(tmp_path, Limits(keep_rows=10_000), live)


class NothingStays(random.Random):
    """What a loss of power takes: all that was not synced."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        return 0.9


def powerless_at(run: Run, where: str, *, after: str) -> Path:
    """Plans that the power goes before the step called `where`, the first after one called `after`; what is left then."""
    image = run.folder / "image"

    def armed() -> None:
        run.at_name = (where, lambda: run.disk.image(image, power=True, rng=NothingStays()))

    run.disk.unsynced = Unsynced()
    run.at_name = (after, armed)
    return image


def test_half_a_copy_is_not_taken_up_when_power_fails_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of itself what the mirror says, that it is whole, and would be published.  Of what seed 4 leaves, this was so."""
    collide(monkeypatch)

    def live(run: Run) -> None:
        run.honest()
        run.source.burst(120)
        image = run.folder / "image"
        unsynced = "container.sync_file: fsync mirror.next.db"
        run.at_name = (unsynced, lambda: run.disk.image(image, power=True, rng=random.Random(4)))
        run.pull()
        run.exchange_store(image)
        run.honest()

    lived(tmp_path, Limits(keep_rows=31, keep_keys=31), live)


def test_repair_is_there_when_power_fails_at_once_after_it(tmp_path: Path) -> None:
    """No archived operation would bring it back: it is on the disk before its snapshot is in the catalog."""

    def live(run: Run) -> None:
        run.honest()
        with run.disk.acting("judge"), contextlib.closing(apsw.Connection(str(run.store.mirror))) as db:
            db.execute("UPDATE bank SET money = 7 WHERE id = 3")
        run.reader.paused = True
        image = powerless_at(run, "mirror_db.remove_database: unlink snapshot.db.part", after="parts.replace_rows")
        with run.disk.acting("pull"):
            found = verifying.verify_source(run.config, run.job, Asked((), True), lambda *_: None)
        assert found.verified.rows_differing == 1 and image.exists()
        run.exchange_store(image)
        run.reader.paused = False
        assert run.reader.shown() == run.source.shown()

    lived(tmp_path, Limits(keep_rows=10_000), live)


def test_what_was_published_is_there_when_power_fails_at_once_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader holds the old state, so that nothing is checkpointed; the staging mirror goes only when all is synced."""

    def live(run: Run) -> None:
        run.honest()
        run.source.burst(120)
        collide(monkeypatch)
        image = powerless_at(run, "mirror_db.remove_database: unlink mirror.next.db", after="mirroring.publish")
        with run.disk.acting("judge"), contextlib.closing(apsw.Connection(str(run.store.mirror))) as reader:
            reader.execute("BEGIN; SELECT count(*) FROM bank").fetchall()
            run.pull()
        assert image.exists()
        run.exchange_store(image)
        assert run.reader.shown() == run.source.shown()

    lived(tmp_path, Limits(keep_rows=31, keep_keys=31), live)


def test_segment_is_there_when_power_fails_once_the_catalog_has_it(tmp_path: Path) -> None:
    """Its bytes and its name: a file that is synced is still lost where its folder is not."""

    def live(run: Run) -> None:
        run.honest()
        run.source.burst(20)
        image = powerless_at(run, "mirror_db.transaction: write mirror.db-wal", after="catalog.add_segment")
        run.pull()
        assert image.exists()
        assert {path.suffix for path in image.rglob("archive/1/*")} == {".segment"}
        run.exchange_store(image)
        run.honest()

    lived(tmp_path, Limits(keep_rows=10_000), live)


@pytest.mark.parametrize("mirror", [False, True])
def test_wal_can_be_checkpointed_when_the_destination_is_slow(mirror: bool, tmp_path: Path) -> None:
    """serve waits after every frame of many, with a burst to send or with all tables; it must hold nothing meanwhile."""

    def live(run: Run) -> None:
        run.honest()
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
