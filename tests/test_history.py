"""The history of a row agrees with what the source was at every point that was kept.

The model is a copy of the source at each point.  Any statement of any application is drawn; so rows are replaced
unseen, keys move, logs overrun and leave holes, and sources are set back and leave lines.
"""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import anything
import apsw
import oracle
import pytest
from draws import SeededDraw, create, migrate, write
from pair import FollowedPair
from sources import pull_once
from test_diff import oracle_row

from rollrep.core.errors import MirrorNeeded
from rollrep.core.nouns import Op, Shape
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Segment
from rollrep.destination.history import RowHistory, Version
from rollrep.destination.keys import KeyIndex
from rollrep.destination.mirror_db import read_state
from rollrep.destination.stretches import Window
from rollrep.source.install import install
from rollrep.source.tables import Limits


def token(value: tuple[str, object]) -> str:
    kind, held = value
    if kind == "real":
        return "r:" + struct.unpack(">d", bytes.fromhex(str(held)))[0].hex()
    return {"null": "n:", "integer": f"i:{held}"}.get(kind, f"{kind[0]}:{held}")


def versions_of(
    pair: FollowedPair, table: str, columns: tuple[str, ...], key: tuple[str, ...], window: Window | None = None
) -> list[Version]:
    with Catalog(pair.store.catalog) as catalog:
        found = RowHistory(
            pair.store, catalog, table, lambda _layout, shape, _db: key if shape.key == columns else None
        )
        return list(found.versions(window or Window()))


def version_at(versions: list[Version], line: int, log_id: int) -> Version:
    known = [each for each in versions if each.what != "hole"]
    return [each for each in known if each.line == line and each.id <= log_id][-1]


def same_key(columns: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """The oracle calls an INTEGER PRIMARY KEY by a name of the rowid."""
    return columns == other or (len(columns) == 1 and other[0] in anything.ROWID_NAMES)


class Model:
    """One random life, with a copy of the source at each point."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.pair = FollowedPair(folder)
        self.draw = SeededDraw(seed)
        self.kept: dict[int, Path] = {}
        self.migrated = False
        """history shows an added column from a row's next change on"""
        if self.draw.chance(4):
            self.pair.db.execute("PRAGMA encoding = 'UTF-16le'")
        create(self.pair.db, self.draw)
        write(self.pair.db, self.draw, 10)
        self.pair.do("PRAGMA journal_mode = WAL")
        install(self.pair.db, Limits(keep_rows=self.draw.pick([60, 5_000, 5_000])))
        self.pair.pull()

    def live(self, moves: int) -> None:
        for number in range(moves):
            write(self.pair.db, self.draw, self.draw.count(1, 15))
            if self.draw.chance(8):
                self.migrated = True
                migrate(self.pair.db, self.draw, number)
            if self.draw.chance(2):
                log_id, kept = self.pair.point()
                self.kept[log_id] = kept
            if self.draw.chance(3):
                with contextlib.suppress(MirrorNeeded):
                    self.pair.pull()
        self.pair.pull()

    def points(self) -> list[tuple[CatalogPoint, Path]]:
        """The points that can be restored, each with the copy of the source as it was there."""
        return [(point, kept) for log_id, kept in self.kept.items() for point in self.pair.points_at(log_id)]

    def compare(self, most_rows: int) -> int:
        states = [(point, oracle.dump(path)["tables"]) for point, path in self.points()]
        with contextlib.closing(apsw.Connection(str(self.pair.store.mirror))) as db:
            state = read_state(db)
        assert state is not None
        carried = {shape.table: set(shape.columns) for shape in state.layout.shapes}
        rows = {
            (shape.table, shape.key, key)
            for shape in state.layout.shapes
            for _, tables in states
            if shape.table in tables and same_key(shape.key, tables[shape.table].key)
            for key in tables[shape.table].rows
        }
        chosen = random.Random(1).sample(sorted(rows, key=repr), min(len(rows), most_rows))
        compared = 0
        for table, columns, key in chosen:
            versions = versions_of(self.pair, table, columns, tuple(map(token, key)))
            assert not [each for each in versions if each.what == "differs"], versions
            for point, tables in states:
                if table in tables and not same_key(columns, tables[table].key):
                    continue
                found = version_at(versions, point.line, point.id)
                if found.detail.startswith("the key of"):
                    continue
                # Of a table WITHOUT ROWID, keys that SQLite finds equal are one row: 0 and 0.0, 'a' and 'A'.
                there = tables.get(table)
                own = oracle_row({name: found.row[name] for name in columns}) if there and found.row else key
                expected = there.rows.get(own) if there else None
                assert (found.row is None) == (expected is None), (table, key, point, versions)
                if expected is not None and found.row is not None:
                    right = dict(zip(tables[table].columns, expected, strict=True))
                    mine = {name: value for name, value in found.row.items() if name in right}
                    assert self.migrated or carried[table] & right.keys() <= mine.keys(), (table, key, point)
                    assert oracle_row(mine) == tuple(right[name] for name in mine), (table, key, point)
                compared += 1
        return compared


@pytest.mark.parametrize("seed", range(16))
def test_history_agrees_with_the_source_when_anything_happens(seed: int, tmp_path: Path) -> None:
    model = Model(tmp_path, seed)
    try:
        model.live(14)
        model.compare(10)
    finally:
        model.pair.db.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    made.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE u(k COLLATE NOCASE PRIMARY KEY, a) WITHOUT ROWID"
    )
    for n in range(60):
        made.do("INSERT OR REPLACE INTO t VALUES (?, ?)", (n % 7, n))
        made.do("INSERT OR REPLACE INTO u VALUES (?, ?)", ("aA"[n % 2], n))
        if n % 9 == 0:
            made.pull()
    made.pull()
    yield made
    made.db.close()


ASKED = (("t", ("id",), ("i:3",)), ("t", ("id",), ("i:4",)), ("u", ("k",), ("t:61",)), ("u", ("k",), ("t:41",)))


def asked(pair: FollowedPair) -> list[list[Version]]:
    return [versions_of(pair, *each) for each in ASKED]


def test_history_is_the_same_when_the_index_of_keys_is_damaged_or_gone(pair: FollowedPair) -> None:
    right = asked(pair)
    assert [len(each) for each in right] == [10, 9, 61, 61]
    for keys in (b" ", b" 3 ", b"garbage", b""):
        with contextlib.closing(apsw.Connection(str(pair.store.keys))) as db:
            db.execute("UPDATE seen SET keys = ?", (keys,))
            assert db.changes() > 20
        assert asked(pair) == right
    with contextlib.closing(apsw.Connection(str(pair.store.keys))) as db:
        db.execute("UPDATE seen SET keys = (SELECT keys FROM seen s WHERE s.shape = seen.shape LIMIT 1)")
    assert asked(pair) == right
    with contextlib.closing(apsw.Connection(str(pair.store.keys))) as db:
        db.execute("DELETE FROM seen WHERE shape > 0 AND first % 2")
    assert asked(pair) == right
    pair.store.keys.write_bytes(b"no database at all" * 100)
    assert asked(pair) == right
    pair.store.keys.unlink()
    assert asked(pair) == right
    pair.store.keys.unlink()
    pair.store.keys.mkdir()
    assert asked(pair) == right


def test_history_reads_only_segments_that_hold_the_row_when_their_keys_are_known(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.do("INSERT INTO t VALUES (100, 1)")
    pair.pull()
    right = versions_of(pair, "t", ("id",), ("i:100",))
    read: list[str] = []
    attach = Archive.attach
    monkeypatch.setattr(
        Archive, "attach", lambda self, db, segment: (read.append(segment.path), attach(self, db, segment))[1]
    )
    assert versions_of(pair, "t", ("id",), ("i:100",)) == right
    assert len(read) == 1


def test_hole_is_named_when_operations_were_let_go_of(pair: FollowedPair) -> None:
    pair.do("UPDATE t SET a = 'late' WHERE id = 3")
    pull_once(pair.store, pair.path, snapshot_s=0)
    pair.do("UPDATE t SET a = 'later' WHERE id = 3")
    pair.pull()
    whole = versions_of(pair, "t", ("id",), ("i:3",))
    with Catalog(pair.store.catalog) as catalog:
        [_, last] = catalog.snapshots()
        for segment in [each for each in catalog.segments() if each.last <= last.id][2:]:
            catalog.drop_segment(segment)
            (pair.store.folder / segment.path).unlink()
    cut = versions_of(pair, "t", ("id",), ("i:3",))
    [at] = [number for number, each in enumerate(cut) if each.what == "hole"]
    assert "let go of" in cut[at].detail and "not kept any more" in cut[at].detail
    assert cut[:at] == whole[:at] and len(cut[:at]) > 1
    assert [each.row and each.row["a"] for each in cut[at + 1 :]] == ["t:6C617465", "t:6C61746572"]


def test_keys_of_all_segments_are_never_in_memory_together_when_they_are_many(tmp_path: Path) -> None:
    shape = Shape(1, "t", ("id", "a"), 1, False, False, ("BINARY",), (), False, True)
    segments = [Segment(1, n * 10_000 + 1, (n + 1) * 10_000, f"proof {n}", "", 1) for n in range(100)]
    with contextlib.closing(KeyIndex(tmp_path / "keys.db")) as index, contextlib.closing(apsw.Connection("")) as db:
        db.execute("ATTACH ':memory:' AS batch; CREATE TABLE batch.log(id, shape, op, v0)")
        counted = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)"
        db.execute(f"{counted} INSERT INTO batch.log SELECT i, 1, {Op.PUT:d}, 1000000 + i FROM n")
        for segment in segments:
            index.learn(db, segment, [shape])
    with contextlib.closing(KeyIndex(tmp_path / "keys.db")) as index:
        tracemalloc.start()
        try:
            assert [list(index.may_hold(segments, shape, [f"i:{key}"])) for key in (7, 1_000_001)] == [
                [],
                [(segment, True) for segment in segments],
            ]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 100 * 10_000 * 8 / 4
