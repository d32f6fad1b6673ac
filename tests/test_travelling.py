"""A point as one file: carried away and brought in again it is the source as it was, and stands in nobody's way."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path

import apsw
import oracle
import pytest
import zstandard
from pair import FollowedPair
from sources import pull_once, recompute
from test_cli import Place, sentence
from test_keeping import NOTHING, grown, silent
from test_rebuild import without_catalog
from test_replication import SEEDS, Life

from rollrep.core import clock
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.core.moments import Latest
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.expire import expire
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.destination.timeline import read_timeline
from rollrep.destination.travelling import Imported, export_point, import_point, read_exported
from rollrep.source.install import install
from rollrep.source.tables import Limits


def bring_in(store: Store, path: Path, *, accept_source: bool = False) -> Imported:
    store.create()
    with store.locked(), Catalog(store.catalog, create=True) as catalog:
        return import_point(store, catalog, path, accept_source=accept_source, progress=silent)


def restored(store: Store, point: int, output: Path) -> Path:
    with Catalog(store.catalog) as catalog:
        [found] = catalog.points_named(point=point)
        restore(store, catalog, plan(catalog, found), output, force=True, progress=silent)
    return output


def files_of(store: Store) -> list[str]:
    """All but what SQLite makes and removes as it likes."""
    return sorted(str(each) for each in store.folder.rglob("*") if not each.name.endswith(("-shm", "-wal")))


def check_equal(kept: Path, output: Path) -> None:
    recompute(kept)
    oracle.assert_same(kept, output)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:3])
def test_imported_point_equals_the_source_as_it_was_when_applications_are_random(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 9000, tmp_path, monkeypatch) as life:
        for _ in range(life.rng.randrange(4, 8)):
            life.rng.choice([life.write, life.pull_while_writing, life.point, life.compare])()
        life.write()
        life.compare()
        far = Store(tmp_path / "far", "job")
        with Catalog(life.store.catalog) as catalog:
            points = [each for each in restorable(catalog) if (life.keep / f"{each.id}.db").exists()]
            for point in life.rng.sample(points, min(3, len(points))):
                path = tmp_path / f"{point.point}.rollrep"
                export_point(life.store, catalog, plan(catalog, point), path, force=True, progress=silent)
                for store in (far, life.store):
                    done = bring_in(store, path)
                    assert {(each.id, each.label) for each in done.points} >= {(point.id, point.label)}
                    check_equal(life.keep / f"{point.id}.db", restored(store, done.points[0].point, tmp_path / "o.db"))
            newest = find_point(catalog, Latest())
            assert newest.line > 0 and newest.id == points[-1].id
        # What was brought in changes nothing of what is pulled from now on.
        life.write()
        life.compare()
        assert life.compare_points() > 0
        without_catalog(life.store)
        assert rebuild_catalog(life.store, dry_run=False).damaged == []
        assert life.compare_points() > 0
        assert verify_at_rest(life.store, lambda _what, _bytes: None).problems == []
        # Nothing was pulled there, so there is no mirror.
        assert [Path(each.path).name for each in verify_at_rest(far, lambda _w, _b: None).problems] == ["mirror.db"]


def exported(pair: FollowedPair, log_id: int) -> Path:
    path = pair.folder / f"{log_id}.rollrep"
    [point] = pair.points_at(log_id)
    with Catalog(pair.store.catalog) as catalog:
        export_point(pair.store, catalog, plan(catalog, point), path, force=False, progress=silent)
    return path


def test_pull_begins_a_line_of_its_own_when_all_there_is_was_imported(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    path = exported(pair, points[1][0])
    pair.store = Store(pair.folder / "other", "job")
    done = bring_in(pair.store, path)
    assert done.snapshot.line == -1
    check_equal(points[1][1], restored(pair.store, done.points[0].point, pair.folder / "o.db"))
    assert pull_once(pair.store, pair.path).reason == "first"
    with Catalog(pair.store.catalog) as catalog:
        assert [(each.line, each.reason) for each in catalog.line_stories()] == [(-1, "import"), (1, "first")]
        assert catalog.holes() == []
        seen = read_timeline(pair.store, catalog)
        assert [line.story.line for line in seen.lines] == [-1, 1]
    more = grown(pair, 2)
    for each in more:
        pair.same_at(*each)
    check_equal(points[1][1], restored(pair.store, done.points[0].point, pair.folder / "o.db"))


def test_file_is_one_line_when_it_is_imported_twice(pair: FollowedPair) -> None:
    points = grown(pair, 2)
    path = exported(pair, points[0][0])
    first, again = bring_in(pair.store, path), bring_in(pair.store, path)
    assert (first.made, again.made) == (True, False)
    assert first.points == again.points and first.snapshot == again.snapshot
    assert bring_in(pair.store, exported(pair, points[1][0])).snapshot.line == -2


def test_imported_point_stays_when_all_else_is_pruned(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    done = bring_in(pair.store, exported(pair, points[0][0]))
    with Catalog(pair.store.catalog) as catalog:
        expire(pair.store, catalog, NOTHING, clock.now())
    check_equal(points[0][1], restored(pair.store, done.points[0].point, pair.folder / "o.db"))


def test_damage_is_found_and_nothing_changed_when_any_byte_is_flipped(pair: FollowedPair) -> None:
    points = grown(pair, 2)
    path = exported(pair, points[1][0])
    whole = path.read_bytes()
    before = files_of(pair.store)
    rng = random.Random(1)
    for at in [0, len(whole) - 1, *rng.sample(range(len(whole)), 60)]:
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(VerifyFailed):
            bring_in(pair.store, path)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(VerifyFailed):
            bring_in(pair.store, path)
    with Catalog(pair.store.catalog) as catalog:
        assert [each.line for each in catalog.line_stories()] == [1]
    assert files_of(pair.store) == before
    path.write_bytes(whole)
    assert bring_in(pair.store, path).made


def test_point_of_another_database_is_refused_unless_that_is_right(pair: FollowedPair, tmp_path: Path) -> None:
    grown(pair, 1)
    folder = tmp_path / "stranger"
    folder.mkdir()
    other = FollowedPair(folder)
    other.start("CREATE TABLE s(id INTEGER PRIMARY KEY)")
    other.do("INSERT INTO s VALUES (1)")
    log_id, kept = other.point_pulled()
    path = exported(other, log_id)
    with pytest.raises(UsageError, match="another database") as caught:
        bring_in(pair.store, path)
    assert "--accept-source" in caught.value.remedy
    done = bring_in(pair.store, path, accept_source=True)
    check_equal(kept, restored(pair.store, done.points[0].point, tmp_path / "o.db"))
    pair.same()


def test_exported_file_is_a_database_when_any_zstd_unpacks_it(pair: FollowedPair) -> None:
    points = grown(pair, 2)
    path = exported(pair, points[1][0])
    plain = pair.folder / "plain.db"
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())) as reader:
        plain.write_bytes(reader.read())
    with (
        contextlib.closing(apsw.Connection(str(plain))) as db,
        contextlib.closing(apsw.Connection(str(points[1][1]))) as kept,
    ):
        question = "SELECT id, v FROM t ORDER BY id"
        assert db.execute(question).fetchall() == kept.execute(question).fetchall()
    holds = read_exported(path)
    assert (holds.job, holds.position.id) == ("job", points[1][0])


def test_epochs_of_lines_do_not_mix_when_the_log_was_installed_anew(pair: FollowedPair) -> None:
    points = grown(pair, 1)
    done = bring_in(pair.store, exported(pair, points[0][0]))
    install(pair.db, Limits(keep_rows=100_000))
    pair.do("INSERT INTO t VALUES (90, 90)")
    end = pair.point_pulled()
    pair.same_at(*end)
    check_equal(points[0][1], restored(pair.store, done.points[0].point, pair.folder / "o.db"))


# ---------------------------------------------------------------- the commands


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).pulled()


def test_point_travels_when_the_commands_are_typed(place: Place) -> None:
    place.good("source", "point", place.db, "--label", "before the move")
    place.good("pull")
    would = place.run("export", "shop", "p.rollrep", "--at", "label:before the move", "-n", "--json")
    assert json.loads(would.stdout)["dry_run"] and not (place.folder / "p.rollrep").exists()
    done = place.run("export", "shop", "p.rollrep", "--at", "label:before the move", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == (place.folder / "p.rollrep").stat().st_size
    sentence(place.run("export", "shop", "p.rollrep"), 2, "exists already", "give another FILE, or --force")
    assert place.run("export", "shop", "p.rollrep", "--force").returncode == 0
    assert place.run("export", "shop", "p.rollrep", "--at", "label:before the move", "--force").returncode == 0
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\n[jobs.new]\nsource = "local:{place.db}"\n')
    would = place.run("import", "p.rollrep", "--job", "new", "-n", "--json")
    assert json.loads(would.stdout)["exported_from"] == "shop"
    assert not (place.store / "new").exists()
    done = place.run("import", "p.rollrep", "--job", "new", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schema"] == "rollrep.import/1" and told["made"] and told["line"] == -1
    done = place.run("restore", "new", "--at", "label:before the move", "-o", "o.db")
    assert done.returncode == 0, done.stderr
    assert place.run("import", "p.rollrep").returncode == 0
    place.good("pull")
    place.assert_mirrored("new")
    for command in (("timeline", "new"), ("prune", "new", "-n"), ("points", "new"), ("verify", "new")):
        place.good(*command)


def test_import_refuses_what_is_no_point(place: Place) -> None:
    (place.folder / "x").write_bytes(b"no such thing" * 50)
    for name, code in (("nope", 2), (".", 2), ("x", 16)):
        done = place.run("import", name)
        assert done.returncode == code, done.stderr
        assert "next: " in done.stderr
    for size, said in ((0, "x is damaged: it is empty"), (3, "it has 3 bytes, and no such file so few")):
        (place.folder / "x").write_bytes(b"a" * size)
        assert said in place.run("import", "x").stderr
    [snapshot] = list((place.store / "shop" / "snapshots").glob("*.snapshot"))
    assert place.run("import", snapshot).returncode == 16
