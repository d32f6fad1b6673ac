"""The catalog is an index: gone, it is made again from the files, and every point still restores."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import apsw
import pytest
from pair import FollowedPair
from sources import copy_source, pull_once
from test_cli import Place, refusal
from test_keeping import NOTHING, grown, silent
from test_replication import SEEDS, Life

from rollrep.core.errors import VerifyFailed
from rollrep.destination import rebuild
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.changes import unpack_snapshot
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire
from rollrep.destination.keeping import annotate, make_snapshot
from rollrep.destination.mirror_db import remove_database
from rollrep.destination.notes import read_note
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan
from rollrep.destination.store import Store


def without_catalog(store: Store) -> None:
    for path in store.folder.glob("catalog.db*"):
        path.unlink()


def places(points: list[CatalogPoint]) -> set[tuple[int, str, int, str, str | None]]:
    """What must come back of a point: everything but its number."""
    return {(each.line, each.epoch, each.id, each.kind, each.label) for each in points}


def points_in(store: Store) -> list[CatalogPoint]:
    with Catalog(store.catalog) as catalog:
        return restorable(catalog)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:2])
def test_every_point_restores_when_the_catalog_was_made_again(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 7000, tmp_path, monkeypatch) as life:
        moves = [life.write, life.pull_while_writing, life.point, life.compare, life.pull]
        for _ in range(life.rng.randrange(5, 10)):
            if life.rng.random() < 0.2:
                life.pull(cut_after=life.rng.choice([500, 5_000, 40_000]))
            life.rng.choice(moves)()
        life.write()
        life.compare()
        before = points_in(life.store)
        with Catalog(life.store.catalog) as catalog:
            chosen = life.rng.choice(before)
            annotate(life.store, catalog, chosen, make_snapshot(life.store, catalog, chosen, silent), "kept", pin=True)
            before = restorable(catalog)
            if life.rng.random() < 0.5:
                expire(life.store, catalog, NOTHING, before[-1].time)
                before = restorable(catalog)
            holes = {(each.line, each.after, each.until) for each in catalog.holes()}
            segments = catalog.segments()
        without_catalog(life.store)
        with pytest.raises(VerifyFailed, match="is gone"):
            pull_once(life.store, life.db)
        rebuilt = rebuild_catalog(life.store, dry_run=False)
        assert rebuilt.damaged == []
        after = points_in(life.store)
        assert places(before) - places(after) == set()
        assert {each.label for each in after if each.kind == "snapshot"} == {
            each.label for each in before if each.kind == "snapshot"
        }
        with Catalog(life.store.catalog) as catalog:
            found = {(each.line, each.after, each.until) for each in catalog.holes()}
            assert catalog.segments() == segments or rebuilt.not_used
        # A hole is known by what is missing behind the first segment that is left.
        assert all(any(hole[0] == one[0] and hole[1] >= one[1] for one in holes) for hole in found), (holes, found)
        assert verify_at_rest(life.store, lambda _what, _bytes: None).problems == []
        assert life.compare_points() > 0
        life.write()
        life.compare()
        life.point()
        life.compare()
        assert life.compare_points() > 0


def test_label_and_pin_come_back_when_the_catalog_was_made_again(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        [point] = pair.points_at(points[1][0])
        made = make_snapshot(pair.store, catalog, point, silent)
        annotate(pair.store, catalog, point, made, "kept", pin=True)
    without_catalog(pair.store)
    rebuild_catalog(pair.store, dry_run=False)
    with Catalog(pair.store.catalog) as catalog:
        [labelled] = catalog.points_named(label="kept")
        assert labelled.id == point.id
        assert [each for each in catalog.snapshots() if read_note(pair.store, each).pinned] == [made]
        assert catalog.confirmed() is not None
    for each in points:
        pair.same_at(*each)
    pair.same()


def test_damage_is_not_called_a_hole_when_the_catalog_is_made_again(pair: FollowedPair) -> None:
    points = grown(pair, 4)
    with Catalog(pair.store.catalog) as catalog:
        path = pair.store.folder / catalog.segments()[1].path
    data = bytearray(path.read_bytes())
    data[-60] ^= 1
    path.write_bytes(data)
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert [path.name in each for each in rebuilt.damaged] == [True]
    with Catalog(pair.store.catalog) as catalog:
        assert catalog.holes() == []
    problems = [each.text for each in verify_at_rest(pair.store, lambda _w, _b: None).problems]
    assert any("missing, and no hole is recorded" in each for each in problems)
    pair.same_at(*points[0])
    pair.same()


def test_younger_segment_is_used_when_two_overlap(pair: FollowedPair) -> None:
    grown(pair, 2)
    with Catalog(pair.store.catalog) as catalog:
        first = catalog.segments()[-1]
        # What a pull leaves that died before its row was written: the next one asks for the same rows, and more.
        catalog.drop_segment(first)
        catalog.connection.execute("PRAGMA wal_checkpoint").fetchall()
    older = pair.store.folder / first.path
    kept = older.read_bytes()
    older.unlink()
    with Catalog(pair.store.catalog) as catalog:
        before = catalog.segments()[-1]
    [point] = pair.points_at(before.last)
    with Catalog(pair.store.catalog) as catalog:
        made = make_snapshot(pair.store, catalog, point, silent)
        assert plan(catalog, point).snapshot == made
    # The mirror is as it was there, and pulls more than the segment that was lost held.
    remove_database(pair.store.mirror)
    unpack_snapshot(pair.store, (made,), pair.store.mirror)
    pair.do("INSERT INTO t VALUES (77, 77)")
    end = pair.point_pulled()
    older.write_bytes(kept)
    os.utime(older, (1, 1))
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert rebuilt.damaged == []
    assert len(rebuilt.not_used) == 1 and older.name in rebuilt.not_used[0]
    with Catalog(pair.store.catalog) as catalog:
        assert first not in catalog.segments()
    pair.same_at(*end)


def test_rows_of_another_history_are_named_when_two_segments_overlap(
    pair: FollowedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(pair, 1)
    other = tmp_path / "other"
    shutil.copytree(pair.store.folder, other / "job")
    backup = tmp_path / "backup.db"
    copy_source(pair.path, backup)
    pair.do("INSERT INTO t VALUES (50, 'one history')")
    pair.same()
    with Catalog(pair.store.catalog) as catalog:
        stray = catalog.segments()[-1]
    data = (pair.store.folder / stray.path).read_bytes()
    shutil.rmtree(pair.store.folder)
    shutil.copytree(other / "job", pair.store.folder)
    pair.db.close()
    for ending in ("", "-wal", "-shm"):
        pair.path.with_name(pair.path.name + ending).unlink(missing_ok=True)
    shutil.copy(backup, pair.path)
    pair.db = apsw.Connection(str(pair.path))
    pair.do("INSERT INTO t VALUES (50, 'another')")
    pair.do("INSERT INTO t VALUES (51, 'another still')")
    end = pair.point_pulled()
    path = pair.store.folder / stray.path
    assert not path.exists()
    path.write_bytes(data)
    os.utime(path, (1, 1))
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert len(rebuilt.damaged) == 1 and "other rows" in rebuilt.damaged[0]
    pair.same_at(*end)


def test_old_catalog_is_still_there_when_the_new_one_is(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    points = grown(pair, 2)
    before = pair.store.catalog.read_bytes()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(rebuild, "fill", dies)
        rebuild_catalog(pair.store, dry_run=False)
    assert pair.store.catalog.read_bytes() == before
    would = rebuild_catalog(pair.store, dry_run=True)
    assert pair.store.catalog.read_bytes() == before and would.points > 0
    done = rebuild_catalog(pair.store, dry_run=False)
    assert done.old is not None and done.old.is_file()
    assert not list(pair.store.folder.glob("*.part*"))
    pair.same_at(*points[0])


# ---------------------------------------------------------------- the command


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).pulled()


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage"])
def test_command_is_named_and_works_when_the_catalog_is(place: Place, damage: str) -> None:
    place.good("source", "point", place.db, "--label", "then")
    place.good("pull")
    store = Store(place.store, "shop")
    without_catalog(store)
    if damage != "gone":
        store.catalog.write_bytes(b"" if damage == "empty" else b"no database at all " * 100)
    for command in (("pull",), ("points", "shop"), ("restore", "shop", "-o", place.folder / "o.db")):
        done = place.run(*command)
        assert done.returncode == 16, (command, done.stderr)
        assert "next: " in done.stderr and "rollrep catalog shop --rebuild" in done.stderr
    would = json.loads(place.good("catalog", "shop", "--rebuild", "-n", "--json").stdout)
    assert would["schema"] == "rollrep.catalog/1" and would["dry_run"] and would["points"]
    assert place.run("points", "shop").returncode == 16
    done = json.loads(place.good("catalog", "shop", "--rebuild", "--json").stdout)
    assert done["points"] == would["points"] and done["damaged"] == []
    assert bool(done["old"]) == (damage != "gone")
    assert place.run("restore", "shop", "--at", "label:then", "-o", place.folder / "o.db").returncode == 0
    place.good("pull")
    place.good("verify", "shop")
    place.assert_mirrored()


def test_catalog_refuses_when_it_is_not_said_what_to_do_or_nothing_is_there(place: Place) -> None:
    refusal(place, 2, ("catalog", "shop"), "rollrep catalog shop --rebuild")
    shutil.rmtree(place.store)
    refusal(place, 10, ("catalog", "shop", "--rebuild"), "rollrep pull shop")
