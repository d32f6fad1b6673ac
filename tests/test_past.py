"""All that is asked of the past, of lives in which anything happens to source and store.

    source   statements of any application, points, changes of the schema, bursts that the log forgets (a mirror
             operation, and a hole), a backup that is restored (another line)
    store    pulls, snapshots as changes, compaction, labels and pins, pruning, trash, an export that comes back in,
             the catalog made again

The model is a copy of the source at every point.  At the end, of whatever can still be restored:

    restore, query    equal the copy
    diff A B          applied to A gives B, and is what the copies differ in
    undo A B          run on B gives A
    history           has, at every point, the row that the copy has

    ROLLREP_PAST=200 pytest tests/test_past.py        more lives (4 by default)
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
from pathlib import Path

import apsw
import oracle
import pytest
from draws import SeededDraw, create, migrate, write
from pair import FollowedPair
from sources import pull_once
from test_diff import make_alike
from test_history import Model
from test_keeping import FAR, silent
from test_properties import take_header
from test_rebuild import without_catalog
from test_travelling import bring_in
from test_undo import drop_triggers, run_here, script_of

from rollrep.core.clock import now
from rollrep.core.errors import MirrorNeeded
from rollrep.destination import changes, compaction
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire
from rollrep.destination.keeping import annotate, make_snapshot
from rollrep.destination.mirror_db import state_of
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan
from rollrep.destination.retention import Grid
from rollrep.destination.states import point_file
from rollrep.destination.trash import empty_trash
from rollrep.destination.travelling import export_point
from rollrep.query import all_rows
from rollrep.source.install import install
from rollrep.source.tables import Limits

LIVES = range(int(os.environ.get("ROLLREP_PAST", "4")))


class Life(Model):
    """A Model whose store is kept, pruned, joined and made again, and whose source may be set back."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.pair = FollowedPair(folder)
        self.draw = SeededDraw(seed)
        self.copies: dict[tuple[int, int], Path] = {}
        """of the source at each point, by line and log id"""
        self.fresh: dict[int, Path] = {}
        """the same by log id, where no pull has come to the point yet"""
        self.migrated = False
        self.said = [f"seed {seed}"]
        create(self.pair.db, self.draw)
        write(self.pair.db, self.draw, 10)
        self.pair.do("PRAGMA journal_mode = WAL")
        install(self.pair.db, Limits(keep_rows=self.draw.pick([40, 5_000, 5_000])))
        self.pull()

    def live(self, moves: int) -> None:
        often = [self.work, self.point, self.point, self.point, self.pull, self.snapshot]
        seldom = [self.migrate, self.burst, self.prune, self.pin, self.rebuild, self.carry, self.set_back, self.mirror]
        for _ in range(moves):
            move = self.draw.pick(seldom if self.draw.chance(4) else often)
            self.said.append(move.__name__)
            move()
        while not self.points():  # a hole may have taken all of them
            self.pull()
            self.point()

    # ------------------------------------------------------------ the source

    def work(self) -> None:
        write(self.pair.db, self.draw, self.draw.count(1, 12))

    def point(self) -> None:
        self.work()
        log_id, kept = self.pair.point()
        number = len(self.copies) + len(self.fresh)
        self.fresh[log_id] = kept.rename(kept.with_name(f"copy-{number}-{log_id}.db"))
        if self.draw.chance(2):
            self.pull()

    def migrate(self) -> None:
        self.migrated = True
        migrate(self.pair.db, self.draw, len(self.said))

    def burst(self) -> None:
        """More than a small log keeps."""
        write(self.pair.db, self.draw, 100)

    def set_back(self) -> None:
        """The source is restored from a copy, log and all, and goes on from there."""
        self.pull()
        if self.copies and not self.fresh:
            backup = self.draw.pick(list(self.copies.values()))
            with (
                contextlib.closing(apsw.Connection(str(backup))) as copy,
                self.pair.db.backup("main", copy, "main") as b,
            ):
                b.step(-1)
            self.pair.do("PRAGMA journal_mode = WAL")
            self.point()
            self.pull()

    # ------------------------------------------------------------ the store

    def pull(self, *, snapshot_s: float = 3600.0, mirror: bool = False) -> None:
        with contextlib.suppress(MirrorNeeded):
            outcome = pull_once(self.pair.store, self.pair.path, snapshot_s=snapshot_s, mirror=mirror)
            self.said.append(f"  {outcome.answer} {outcome.reason} -> {outcome.position}")
            state = state_of(self.pair.store.mirror)
            assert state is not None
            self.copies |= {(state.line, log_id): kept for log_id, kept in self.fresh.items()}
            self.fresh.clear()

    def snapshot(self) -> None:
        self.pull(snapshot_s=0.0)

    def mirror(self) -> None:
        self.pull(mirror=True)

    def prune(self) -> None:
        with Catalog(self.pair.store.catalog) as catalog:
            keep = Grid(last=self.draw.count(1, 3), operations_s=self.draw.pick([1e-6, 1e9]))
            self.said += expire(self.pair.store, catalog, keep, now())
        if self.draw.chance(2):
            empty_trash(self.pair.store, catalog, now() + FAR)

    def pin(self) -> None:
        with Catalog(self.pair.store.catalog) as catalog:
            point = self.draw.pick(restorable(catalog))
            made = make_snapshot(self.pair.store, catalog, point, silent)
            annotate(self.pair.store, catalog, point, made, "kept", pin=self.draw.pick([True, None]))

    def rebuild(self) -> None:
        without_catalog(self.pair.store)
        assert rebuild_catalog(self.pair.store, dry_run=False).damaged == []

    def carry(self) -> None:
        """A point leaves as a file, and comes back as a line of its own."""
        path = self.pair.folder / "carried.rollrep"
        with Catalog(self.pair.store.catalog) as catalog:
            point = self.draw.pick(restorable(catalog))
            export_point(self.pair.store, catalog, plan(catalog, point), path, force=True, progress=silent)
        line = bring_in(self.pair.store, path).snapshot.line
        if kept := self.copies.get((point.line, point.id)):
            self.copies[line, point.id] = kept

    # ------------------------------------------------------------ what is asked

    def points(self) -> list[tuple[CatalogPoint, Path]]:
        with Catalog(self.pair.store.catalog) as catalog:
            found = restorable(catalog)
        return [(each, self.copies[each.line, each.id]) for each in found if (each.line, each.id) in self.copies]

    def compare_all(self) -> int:
        assert verify_at_rest(self.pair.store, lambda _what, _bytes: None).problems == []
        points = self.points()
        for point, kept in points:
            restored = self.pair.restored(point)
            take_header(kept, restored)
            oracle.assert_same(kept, restored)
        chosen = self.draw.some(points, min(2, len(points)), 5)
        with Catalog(self.pair.store.catalog) as catalog:
            for (one, _), (other, kept) in itertools.pairwise(chosen):
                before, after = (self.asked(catalog, each, name) for each, name in ((one, "a.db"), (other, "b.db")))
                oracle.assert_same(kept, after)
                self.compare_two(before, after)
        return len(points) + self.compare(4)

    def asked(self, catalog: Catalog, point: CatalogPoint, name: str) -> Path:
        """A copy of the file that a question is asked of."""
        with point_file(self.pair.store, catalog, point, silent) as found:
            return Path(shutil.copy(found, self.pair.folder / name))

    def compare_two(self, before: Path, after: Path) -> None:
        first = Path(shutil.copy(before, self.pair.folder / "first.db"))
        make_alike(before, after)
        oracle.assert_same(before, after)
        for path in (first, after):
            drop_triggers(path)
        if indexes_of(first) != indexes_of(after):
            return  # undo makes no schema again, so rows of A may collide on an index that only B has
        text, refused, _ = script_of(first, after)
        said = run_here(after, text)
        assert said is None or "conflict" not in "".join(said)
        if said is not None:
            left, right = oracle.dump(first)["tables"], oracle.dump(after)["tables"]
            for name in left.keys() & right.keys() - refused.keys():
                assert left[name] == right[name], (name, text)


def indexes_of(path: Path) -> set[str]:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        return {text for (text,) in all_rows(db, "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql <> ''")}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", LIVES)
def test_every_answer_about_the_past_agrees_when_anything_happens(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(f"past {seed}")
    monkeypatch.setattr(changes, "LARGEST_SHARE", chance.choice([0.5, 1000.0, 1000.0]))
    monkeypatch.setattr(changes, "MOST_CHANGES", chance.choice([2, 100]))
    monkeypatch.setattr(compaction, "TOGETHER", chance.choice([2, 3, 32]))
    life = Life(tmp_path, seed)
    try:
        life.live(chance.randrange(15, 40))
        assert life.compare_all() > 0
    except BaseException:
        print("\n".join(life.said))
        raise
    finally:
        life.pair.db.close()
