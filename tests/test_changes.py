"""Snapshots as changes: what comes out of a chain is the source as it was, whatever goes in between.

The lives of `test_replication` take changes too, and so does every test that is made of them; here are the rules
of changes alone.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import pull_once, recompute
from test_keeping import FAR, NOTHING, silent
from test_rebuild import without_catalog
from test_replication import SEEDS, Life

from rollrep.core import clock
from rollrep.destination import changes, expire
from rollrep.destination import snapshots as wholes
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Snapshot
from rollrep.destination.chains import chain_of
from rollrep.destination.choosing import restorable
from rollrep.destination.keeping import annotate, make_snapshot
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan, restore
from rollrep.destination.snapshots import SnapshotHolds
from rollrep.destination.trash import empty_trash
from rollrep.source.tables import Limits


@pytest.fixture(autouse=True)
def changes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole snapshot of so small a database is hardly larger than a change."""
    monkeypatch.setattr(changes, "LARGEST_SHARE", 1000.0)


def snapshots(pair: FollowedPair) -> list[Snapshot]:
    with Catalog(pair.store.catalog) as catalog:
        return catalog.snapshots()


def grown(pair: FollowedPair, count: int) -> list[tuple[int, Path]]:
    """Points with their oracles, a snapshot at each."""
    kept = []
    for number in range(count):
        pair.do("INSERT OR REPLACE INTO t(id, v) VALUES (?, ?)", (number % 5, number))
        pair.do("UPDATE t SET v = v || 'x' WHERE id = ?", ((number + 2) % 5,))
        if number % 4 == 3:
            pair.do("DELETE FROM t WHERE id = ?", (number % 5,))
        kept.append(pair.point())
        pull_once(pair.store, pair.path, snapshot_s=0)
    return kept


def prune(pair: FollowedPair, pinned: list[int]) -> None:
    """Lets go of all operations, and of all snapshots but those at the log ids in `pinned` and the newest."""
    with Catalog(pair.store.catalog) as catalog:
        for point in restorable(catalog):
            here = next((each for each in catalog.snapshots() if each.id == point.id), None)
            if point.id in pinned and here:
                annotate(pair.store, catalog, point, here, None, pin=True)
        expire.expire(pair.store, catalog, NOTHING, clock.now() + FAR)


def problems(pair: FollowedPair) -> list[str]:
    return [f"{each.path}: {each.text}" for each in verify_at_rest(pair.store, lambda _what, _bytes: None).problems]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:2])
def test_every_snapshot_is_the_source_as_it_was_when_operations_are_let_go_of(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 11_000, tmp_path, monkeypatch) as life:
        monkeypatch.setattr(changes, "LARGEST_SHARE", 1000.0)
        for _ in range(life.rng.randrange(4, 8)):
            life.write()
            life.rng.choice([life.point, life.pull_while_writing])()
            pull_once(life.store, life.db, snapshot_s=0)
            life.compare()
        for _ in range(2):
            with Catalog(life.store.catalog) as catalog:
                stay = life.rng.sample(catalog.snapshots(), max(1, len(catalog.snapshots()) // 2))
                points = {(each.line, each.id): each for each in restorable(catalog)}
                for each in stay:
                    annotate(life.store, catalog, points[each.line, each.id], each, None, pin=True)
                expire.expire(life.store, catalog, NOTHING, clock.now() + FAR)
                empty_trash(life.store, catalog, clock.now() + FAR)
                assert {(each.line, each.id) for each in stay} <= {(e.line, e.id) for e in catalog.snapshots()}
                for each in stay:
                    compare(life, catalog, each)
            assert verify_at_rest(life.store, lambda _what, _bytes: None).problems == []
        assert life.compare_points() > 0


def compare(life: Life, catalog: Catalog, snapshot: Snapshot) -> None:
    """What is restored at a snapshot is what was kept of the source then, where it was kept."""
    kept = life.keep / f"{snapshot.id}.db"
    if kept.exists():
        [point, *_] = [each for each in catalog.points_named(log_id=snapshot.id) if each.line == snapshot.line]
        output = life.folder / "restored.db"
        restore(life.store, catalog, plan(catalog, point), output, force=True, progress=silent)
        recompute(kept)
        oracle.assert_same(kept, output)


def test_snapshots_are_changes_when_they_follow_one_another(pair: FollowedPair) -> None:
    points = grown(pair, 6)
    whole, *rest = snapshots(pair)
    assert whole.base is None and [each.base for each in rest] == [whole.id, *(each.id for each in rest[:-1])]
    assert problems(pair) == []
    for each in points:
        pair.same_at(*each)


def test_snapshot_is_whole_when_changes_grow_too_large_or_too_many(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_CHANGES", 2)
    grown(pair, 6)
    assert [each.base is None for each in snapshots(pair)] == [True, False, False, True, False, False, True]
    monkeypatch.setattr(changes, "LARGEST_SHARE", 0.0)
    grown(pair, 1)
    assert snapshots(pair)[-1].base is None
    assert problems(pair) == []


def test_no_row_is_read_for_a_change_when_its_keys_alone_are_too_many(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LARGEST_SHARE", 0.5)
    monkeypatch.setattr(changes, "put_rows", lambda _db, _shapes: pytest.fail("what will be too large is made"))
    rows = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 5000)"
    pair.do(f"INSERT INTO t(id, v) {rows} SELECT i + 100, 'row ' || i FROM c")
    pull_once(pair.store, pair.path, snapshot_s=0)
    assert [each.base for each in snapshots(pair)] == [None, None]


@pytest.mark.parametrize(
    "schema",
    ["CREATE VIRTUAL TABLE words USING fts5(word)", "CREATE TABLE u(a INTEGER PRIMARY KEY, b, c AS (b + 1) UNIQUE)"],
    ids=["virtual table", "unprobed index"],
)
def test_snapshot_is_whole_when_rows_do_not_tell_all(pair: FollowedPair, schema: str) -> None:
    pair.do(schema)
    pair.pull()
    points = grown(pair, 2)
    assert [each.base for each in snapshots(pair)] == [None] * 4
    for each in points:
        pair.same_at(*each)


def test_snapshot_is_whole_when_the_one_before_may_stand_inside_a_transaction(pair: FollowedPair) -> None:
    pair.do("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    pair.do("CREATE TRIGGER noted BEFORE INSERT ON t BEGIN INSERT INTO _rollrep_point(label) VALUES ('inside'); END")
    pair.install()
    pair.pull()
    pair.do("INSERT OR REPLACE INTO t VALUES (3, 'b')")
    pair.pull()
    with Catalog(pair.store.catalog) as catalog:
        [inside] = [each for each in restorable(catalog) if each.label == "inside"]
        make_snapshot(pair.store, catalog, inside, silent)
    end = pair.point()
    pull_once(pair.store, pair.path, snapshot_s=0)
    inner, newest = snapshots(pair)[-2:]
    assert (inner.id, newest.base) == (inside.id, None)
    pair.same_at(*end)


def test_snapshot_is_whole_when_the_one_before_says_nothing_of_its_layout(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # As an older rollrep wrote it.
        patched.setattr(wholes, "SnapshotHolds", lambda *holds: SnapshotHolds(*holds[:3], "", *holds[4:]))
        pair.do("INSERT INTO t VALUES (1, 'a')")
        pair.pull()
        with Catalog(pair.store.catalog) as catalog:
            wholes.take_snapshot(pair.store, catalog)
    grown(pair, 2)
    assert [each.base is None for each in snapshots(pair)][1:] == [True, True, False]


def test_changes_become_one_when_those_between_go(pair: FollowedPair) -> None:
    points = grown(pair, 9)
    before = snapshots(pair)
    prune(pair, [points[2][0], points[6][0]])
    whole, second, sixth, newest = snapshots(pair)
    assert whole == before[0], "changes lead on from it"
    assert (second.base, sixth.base, newest.base) == (whole.id, second.id, sixth.id)
    assert (second.id, sixth.id) == (points[2][0], points[6][0])
    with Catalog(pair.store.catalog) as catalog:
        assert empty_trash(pair.store, catalog, clock.now() + FAR) > 0
        assert len(restorable(catalog)) >= 3
    assert problems(pair) == []
    for number in (2, 6, 8):
        pair.same_at(*points[number])


@pytest.mark.parametrize(
    "statement",
    ["UPDATE t SET v = v || 'y'", "INSERT OR REPLACE INTO t SELECT id, v || 'y' FROM t"],
    ids=["patch", "put"],
)
def test_merged_change_has_each_row_once_when_the_same_rows_change_again(pair: FollowedPair, statement: str) -> None:
    points = grown(pair, 3)
    for _ in range(3):
        pair.do(statement)
        points.append(pair.point())
        pull_once(pair.store, pair.path, snapshot_s=0)
    prune(pair, [points[2][0]])
    merged = snapshots(pair)[-1]
    assert merged.base == points[2][0]
    with contextlib.closing(apsw.Connection(":memory:")) as db:
        db.execute("ATTACH ':memory:' AS batch")
        with changes.attached_change(pair.store, merged, db, pair.folder / "change.db"):
            [rows] = db.execute("SELECT count(*), count(DISTINCT v0) FROM batch.log").fetchall()
    assert rows == (3, 3)
    pair.same_at(*points[-1])


@pytest.mark.parametrize("dies_in", ["throw_away", "merge_changes", "drop_snapshot", "add_snapshot"])
def test_prune_is_finished_by_the_next_when_it_died(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    points = grown(pair, 8)
    with Catalog(pair.store.catalog) as catalog:
        for number in (2, 5):
            here = next(each for each in catalog.snapshots() if each.id == points[number][0])
            [point] = pair.points_at(points[number][0])
            annotate(pair.store, catalog, point, here, None, pin=True)
    for after in range(3):
        left = [after]

        def dying(real: object, left: list[int] = left) -> object:
            def one(*arguments: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return real(*arguments)  # type: ignore[operator]

            return one

        place = Catalog if dies_in in ("drop_snapshot", "add_snapshot") else expire
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(place, dies_in, dying(getattr(place, dies_in)))
            prune(pair, [])
        with Catalog(pair.store.catalog) as catalog:
            for each in catalog.snapshots():
                chain_of(each, catalog.snapshots())
        for number in (2, 5, 7):
            pair.same_at(*points[number])
    prune(pair, [])
    assert [each.id for each in snapshots(pair)[1:]] == [points[number][0] for number in (2, 5, 7)]
    assert problems(pair) == []
    assert verify_at_rest(pair.store, lambda _what, _bytes: None).notes == []


def test_pinned_points_stay_when_a_merge_died_and_its_trash_is_due(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair, 8)
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(Catalog, "add_snapshot", Mock(side_effect=KeyboardInterrupt))
        prune(pair, [points[5][0]])
    with Catalog(pair.store.catalog) as catalog:
        empty_trash(pair.store, catalog, clock.now() + FAR)
    assert problems(pair) == []
    pair.same_at(*points[5])


def test_changes_come_back_when_the_catalog_was_made_again(pair: FollowedPair) -> None:
    points = grown(pair, 8)
    prune(pair, [points[3][0]])
    before = snapshots(pair)
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert (rebuilt.damaged, rebuilt.not_used) == ([], [])
    assert snapshots(pair) == before
    for number in (3, 7):
        pair.same_at(*points[number])


def test_merged_change_is_used_when_the_one_it_came_of_is_still_there(pair: FollowedPair) -> None:
    points = grown(pair, 5)
    old = {each.path: (pair.store.folder / each.path).read_bytes() for each in snapshots(pair)}
    prune(pair, [points[3][0]])
    before = snapshots(pair)
    for path, data in old.items():
        (pair.store.folder / path).write_bytes(data)
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert rebuilt.damaged == [] and len(rebuilt.not_used) == 1
    assert {each.path for each in before} <= {each.path for each in snapshots(pair)}
    assert problems(pair) == []


@pytest.fixture
def flipped(pair: FollowedPair) -> Iterator[tuple[FollowedPair, list[tuple[int, Path]], Path]]:
    points = grown(pair, 4)
    yield pair, points, pair.store.folder / snapshots(pair)[2].path


def test_damage_is_named_and_the_rest_restores_when_any_byte_of_a_change_is_flipped(
    flipped: tuple[FollowedPair, list[tuple[int, Path]], Path],
) -> None:
    pair, points, path = flipped
    sound = path.read_bytes()
    rng = random.Random(3)
    for at in [0, len(sound) - 1, *rng.sample(range(len(sound)), 40)]:
        data = bytearray(sound)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        # The archive leads there, too.
        pair.same_at(*points[1])
        assert pair.damaged == [path.name] and not list(pair.folder.glob(".*"))
    assert any(path.name in each for each in problems(pair))
    pair.same_at(*points[0])
    for length in (0, 10, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with Catalog(pair.store.catalog) as catalog:
            catalog.know_damaged(())
        pair.same_at(*points[1])
        assert pair.damaged == [path.name]
    path.write_bytes(sound)
    pair.same_at(*points[1])
    assert pair.damaged == []


def test_other_changes_go_when_one_is_damaged(pair: FollowedPair) -> None:
    points = grown(pair, 6)
    path = pair.store.folder / snapshots(pair)[2].path
    path.write_bytes(path.read_bytes()[:-1])
    prune(pair, [points[0][0]])
    left = {each.id for each in snapshots(pair)}
    assert {each.id for each in snapshots(pair) if each.base} >= {points[number][0] for number in (0, 1, 2, 5)}, left
    pair.same_at(*points[0])


def test_chain_is_refused_when_what_comes_out_is_not_what_the_mirror_was(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair, 1)
    with monkeypatch.context() as patched:
        # A rule that was broken: rows that the log names are left out.
        patched.setattr(changes, "put_rows", lambda _db, _shapes: None)
        pair.do("UPDATE t SET v = 'another'")
        wrong = pair.point()
        pull_once(pair.store, pair.path, snapshot_s=0)
    pair.same_at(*wrong)
    assert len(pair.damaged) == 1
    assert any("table t" in each for each in problems(pair))
    pair.same_at(*points[0])


def test_change_stands_in_for_no_other_when_it_has_its_name(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    _, _, second, third = snapshots(pair)
    (pair.store.folder / third.path).write_bytes((pair.store.folder / second.path).read_bytes())
    pair.same_at(*points[2])
    assert pair.damaged == [Path(third.path).name]


@pytest.mark.parametrize("kind", ["first copy", "whole snapshot", "change"])
def test_point_has_its_own_sequence_when_an_insert_of_nothing_raised_it_before_the_pull(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = FollowedPair(tmp_path)
    if kind == "whole snapshot":
        monkeypatch.setattr(changes, "LARGEST_SHARE", 0.0)
    pair.create(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v NOT NULL ON CONFLICT IGNORE); INSERT INTO t VALUES (3, 'a')",
        Limits(),
    )
    if kind != "first copy":
        pull_once(pair.store, pair.path)
        pair.do("INSERT INTO t VALUES (4, 'b')")
    at, kept = pair.point()
    pair.do("INSERT INTO t VALUES (70, NULL)")
    pull_once(pair.store, pair.path, snapshot_s=0)
    with Catalog(pair.store.catalog) as catalog:
        newest = catalog.snapshots()[-1]
    assert (newest.id, newest.base is not None) == (at, kind == "change"), "else nothing is tried"
    pair.same_at(at, kept)
    assert pair.db.execute("SELECT seq FROM sqlite_sequence").get == 70
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("INSERT INTO t(v) VALUES ('c')")
    pair.same()
    later, kept = pair.point_pulled()
    pair.same_at(later, kept)
