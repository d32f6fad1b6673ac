"""The mirror and every restore equal the source: random applications against an oracle.

Each seed is one life of a source: its schema, its limits, its applications (one or two processes), and
pulls at random moments, also while they write, also cut after a random number of bytes.  Whenever all
stand still, mirror.db must equal the source; at the end every restorable point must equal what the source
was when the point was written.

    ROLLREP_SEEDS=500 pytest tests/test_replication.py        more lives
    ROLLREP_SEED=17   pytest tests/test_replication.py        this one
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import apsw
import make
import oracle
import pytest
from sources import Application, copy_source, pull_once, recompute

from rollrep.core.errors import MirrorNeeded, Temporary
from rollrep.destination import changes, compaction, indexes
from rollrep.destination import pull as puller
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.source import reader
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.log import write_point
from rollrep.source.tables import Limits

SCHEMAS = ("django", "rails", "bookmarks", "recorder", "notes")
ONLY = os.environ.get("ROLLREP_SEED")
SEEDS = [int(ONLY)] if ONLY else range(int(os.environ.get("ROLLREP_SEEDS", "10")))


class Life:
    """One seed."""

    def __init__(self, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = random.Random(seed)
        # Small images and windows: so that transactions, and single statements, are cut at every place.
        image_rows = self.rng.choice([1, 7, 60, 65_536])
        monkeypatch.setattr(reader, "IMAGE_ROWS", image_rows)
        monkeypatch.setattr(puller, "WINDOW_ROWS", self.rng.choice([1, 13, 100, 65_536]))
        monkeypatch.setattr(indexes, "LEAST_CHANGES", self.rng.choice([1, 20_000]))
        # A whole snapshot of so small a database is hardly larger than a change.
        monkeypatch.setattr(changes, "LARGEST_SHARE", self.rng.choice([0.5, 1000.0, 1000.0]))
        monkeypatch.setattr(changes, "MOST_CHANGES", self.rng.choice([2, 100]))
        monkeypatch.setattr(compaction, "TOGETHER", random.Random(f"together {seed}").choice([2, 3, 32]))
        self.folder = folder
        self.keep = folder / "keep"
        self.keep.mkdir()
        self.schema = SCHEMAS[seed % len(SCHEMAS)]
        self.db = make.build(self.schema, folder / "app.db", rows=self.rng.choice([100, 400]), seed=seed)
        self.store = Store(folder / "store", "job")
        with contextlib.closing(open_source(self.db)) as db:
            if self.rng.random() < 0.8:
                db.execute("PRAGMA journal_mode = WAL").fetchall()
            keep_rows = self.rng.choice([60, 300, 2_000, 100_000])
            install(db, Limits(keep_rows=keep_rows))
        self.said: list[str] = [f"seed {seed}, {self.schema}, keep_rows {keep_rows}, image_rows {image_rows}"]
        self.applications = [
            Application(self.db, self.schema, seed * 2 + n, self.keep) for n in range(self.rng.choice([1, 1, 2]))
        ]

    def __enter__(self) -> Life:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            print("\n".join(self.said))
        for application in self.applications:
            application.close()

    def write(self) -> None:
        for application in self.applications:
            application.start(self.rng.choice([1, 3, 20, 60]))
        for application in self.applications:
            application.wait()

    def pull(self, cut_after: int | None = None) -> None:
        try:
            outcome = pull_once(
                self.store, self.db, cut_after=cut_after, snapshot_s=self.rng.choice([0.0, 0.5, 3600.0])
            )
            self.said.append(f"{outcome.answer} {outcome.reason} {outcome.operations} -> {outcome.position}")
        except (Temporary, MirrorNeeded) as error:
            # With images of one row and a log of sixty, writers may outrun the copy; it must say so, and the
            # next comparison, when they stand still, must find the mirror equal all the same.
            self.said.append(f"{error.kind}: {error}")

    def pull_while_writing(self) -> None:
        for application in self.applications:
            application.start(self.rng.choice([5, 30, 80]))
        for _ in range(self.rng.choice([1, 2, 4])):
            self.pull()
        for application in self.applications:
            application.wait()

    def compare(self) -> None:
        self.pull()
        with Catalog(self.store.catalog) as catalog:
            kept = self.keep / f"{catalog.points()[-1].id}.db"
        kept.unlink(missing_ok=True)
        copy_source(self.db, kept)
        recompute(kept)
        oracle.assert_same(kept, self.store.mirror)

    def point(self) -> None:
        with contextlib.closing(open_source(self.db)) as db:
            point = write_point(db, "by hand", "operator")
        copy_source(self.db, self.keep / f"{point.id}.db")

    def compare_points(self) -> int:
        compared = 0
        with Catalog(self.store.catalog) as catalog:
            for point in restorable(catalog):
                kept = self.keep / f"{point.id}.db"
                if not kept.exists():
                    continue
                output = self.folder / "restored.db"
                restore(self.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
                recompute(kept)
                oracle.assert_same(kept, output)
                with contextlib.closing(apsw.Connection(str(output))) as db:
                    ours = db.execute("SELECT name FROM sqlite_schema WHERE name LIKE '\\_rollrep%' ESCAPE '\\'")
                    assert ours.fetchall() == []
                compared += 1
        return compared


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_mirror_and_restores_equal_source_when_applications_are_random(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed, tmp_path, monkeypatch) as life:
        moves = [life.write, life.write, life.pull_while_writing, life.compare, life.point, life.pull]
        for _ in range(life.rng.randrange(5, 12)):
            if life.rng.random() < 0.15:
                life.pull(cut_after=life.rng.choice([10, 500, 5_000, 40_000]))
            life.rng.choice(moves)()
        life.write()
        life.compare()
        assert life.compare_points() > 0
