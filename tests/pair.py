"""A source written to by hand, and its mirror: what the tests of single rules are made of."""

from __future__ import annotations

from pathlib import Path

import apsw
import oracle
from sources import copy_source, pull_once

from rollrep.core.moments import Latest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.source.install import install
from rollrep.source.log import write_point
from rollrep.source.tables import Limits


class Pair:
    """`db` is the application's connection; each test says what it does and when the mirror is pulled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "app.db"
        self.store = Store(folder / "store", "job")
        self.db = apsw.Connection(str(self.path))
        self.damaged: list[str] = []
        """names of the files that the last restore went around"""

    def create(self, schema: str, limits: Limits) -> None:
        """Creates the schema and installs the log."""
        self.do(schema)
        self.do("PRAGMA journal_mode = WAL")
        install(self.db, limits)

    def do(self, sql: str, bindings: tuple[object, ...] = ()) -> None:
        self.db.execute(sql, bindings or None).fetchall()

    def point(self) -> tuple[int, Path]:
        point = write_point(self.db, None, "operator")
        kept = self.folder / f"{point.id}.db"
        copy_source(self.path, kept)
        return point.id, kept

    def points_at(self, log_id: int) -> list[CatalogPoint]:
        """The restorable points with that log id, of the oldest line first."""
        with Catalog(self.store.catalog) as catalog:
            return [point for point in restorable(catalog) if point.id == log_id]

    def restored(self, point: CatalogPoint) -> Path:
        output = self.folder / "restored.db"
        with Catalog(self.store.catalog) as catalog:
            made = restore(self.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
        self.damaged = [path.name for path in made.damaged]
        return output

    def latest_is_the_source(self) -> None:
        """The mirror, and what is restored of the newest point."""
        oracle.assert_same(self.path, self.store.mirror)
        with Catalog(self.store.catalog) as catalog:
            newest = find_point(catalog, Latest())
        oracle.assert_same(self.path, self.restored(newest))

    def same_at(self, log_id: int, kept: Path) -> None:
        oracle.assert_same(kept, self.restored(self.points_at(log_id)[0]))


class FollowedPair(Pair):
    """Its mirror is pulled by resuming."""

    def start(self, schema: str, *, keep_rows: int = 100_000) -> None:
        """Creates the schema, installs the log, pulls for the first time."""
        self.create(schema, Limits(keep_rows=keep_rows))
        assert self.pull() == ("mirror", "first")

    def install(self, *, keep_rows: int = 100_000) -> None:
        install(self.db, Limits(keep_rows=keep_rows))

    def pull(self) -> tuple[str, str]:
        outcome = pull_once(self.store, self.path)
        self.tables_mirrored = outcome.tables_mirrored
        return outcome.answer, outcome.reason

    def same(self) -> None:
        """The mirror is the source now, by resuming."""
        assert self.pull()[0] in ("resume", "up_to_date")
        oracle.assert_same(self.path, self.store.mirror)

    def point_pulled(self) -> tuple[int, Path]:
        made = self.point()
        self.same()
        return made
