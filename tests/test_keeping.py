"""What stays and what goes: pins, snapshots of older points, pruning with its reasons, the trash.

Whatever is let go of, every point younger than `keep.operations` is still the source as it was, and so is every
pinned one; a restore that was planned, or runs, finds its files.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import oracle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pair import FollowedPair
from sources import copy_source, pull_once, recompute, session
from test_cli import Place, refusal
from test_replication import SEEDS, Life
from test_retention import DAY, HOUR, NOW, Snapshot, snapshot

from rollrep.core import clock
from rollrep.core.clock import from_iso
from rollrep.core.errors import VerifyFailed
from rollrep.destination import catalog as catalogs
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Segment
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire, expiry_of, plan_expiry, run_expiry
from rollrep.destination.keeping import annotate, make_snapshot, snapshot_of
from rollrep.destination.notes import note_path
from rollrep.destination.pull import Wishes, pull
from rollrep.destination.restore import plan, restore
from rollrep.destination.retention import Grid, plan_snapshots
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.destination.trash import GRACE, empty_trash, nobody_reads, reading

FAR = dt.timedelta(days=1000)
NOTHING = Grid(last=1, operations_s=1)


def silent(_text: str) -> None:
    pass


# ---------------------------------------------------------------- the plan


def test_pinned_stays_when_no_rule_keeps_it() -> None:
    taken = [snapshot(NOW - 100 * DAY), snapshot(NOW - 50 * DAY), snapshot(NOW)]
    verdicts = plan_snapshots(taken, NOTHING, NOW, pinned={taken[0].key})
    assert [each.reason for each in verdicts] == ["pinned", "base of the kept operations", "newest, one of the last 1"]
    assert not plan_snapshots(taken, NOTHING, NOW)[0].kept


def test_snapshot_behind_a_hole_stays_when_operations_after_it_are_kept() -> None:
    keys = ["1", "2", "3", "4"]
    taken = [Snapshot(NOW - ago, key) for ago, key in zip((9 * DAY, 5 * DAY, 4 * DAY, HOUR), keys, strict=True)]
    grid = Grid(last=1, operations_s=7 * 86400)
    reasons = {each.item.key: each.reason for each in plan_snapshots(taken, grid, NOW, begins={"2"})}
    assert reasons["1"] == "base of the kept operations"
    assert reasons["2"] == "base of the kept operations"
    later = plan_snapshots(taken, grid, NOW + 4 * DAY, begins={"2"})
    assert [each.kept for each in later] == [False, False, True, True], "the stretch before the hole is over"


@st.composite
def pasts(draw: st.DrawFn) -> tuple[list[catalogs.Snapshot], list[Segment], list[CatalogPoint]]:
    """A line: pulls, each a segment and a point; some end in a snapshot, some are behind a hole."""
    snapshots, segments, points = [], [], []
    at, time = 0, NOW - draw(st.integers(1, 40)) * DAY
    for number in range(draw(st.integers(1, 25))):
        hole = number == 0 or draw(st.integers(0, 5)) == 0
        first, at = at + 1, at + draw(st.integers(1, 9))
        time += dt.timedelta(seconds=draw(st.integers(1, 3 * 86400)))
        if not hole:
            segments.append(Segment(1, first, at, "", f"archive/{first}", 10))
        if hole or draw(st.booleans()):
            snapshots.append(catalogs.Snapshot(1, at, time, f"snapshots/{at}", 10, 10))
        points.append(CatalogPoint(number + 1, 1, "e", at, "pull", None, time))
    return snapshots, segments, points


@given(pasts(), st.integers(0, 3), st.integers(0, 3), st.integers(1, 30 * 86400), st.data())
def test_points_younger_than_operations_stay_when_anything_is_pruned_again_and_again(
    past: tuple[list[catalogs.Snapshot], list[Segment], list[CatalogPoint]],
    last: int,
    daily: int,
    operations_s: int,
    data: st.DataObject,
) -> None:
    snapshots, segments, points = past
    keep = Grid(last=last, daily=daily, operations_s=operations_s)
    pinned = frozenset(data.draw(st.sets(st.sampled_from([each.path for each in snapshots]))))
    now = points[-1].time
    for _ in range(data.draw(st.integers(1, 4))):
        found = plan_expiry(snapshots, segments, points, pinned, keep, now)
        young = [each for each in found.lost if now - each.time <= dt.timedelta(seconds=operations_s)]
        assert young == []
        snapshots = [each.item for each in found.files if each.kept and isinstance(each.item, catalogs.Snapshot)]
        segments = [each.item for each in found.files if each.kept and isinstance(each.item, Segment)]
        assert pinned <= {each.path for each in snapshots}
        again = plan_expiry(snapshots, segments, points, pinned, keep, now)
        assert not again.going, "a plan that was carried out leaves nothing to do"
        now += dt.timedelta(seconds=data.draw(st.integers(0, 5 * 86400)))


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 100),
    st.sampled_from(["source", "destination"]),
    st.integers(-4000 * 24, 4000 * 24),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_points_younger_than_operations_stay_when_a_clock_was_wrong_for_some_pulls(
    wrong_at: int, clock_of: str, hours: int, pulls: int, every: int
) -> None:
    """A pull each hour for nine days; `pulls` of them with a clock that is wrong by `hours`."""
    # A line that begins with a clock that is behind, and goes on so, looks like a source that slept.
    assume(wrong_at > 1 or hours >= 0 or pulls == 1)
    keep = Grid(last=2, operations_s=2 * 86400)
    snapshots: list[catalogs.Snapshot] = []
    segments: list[Segment] = []
    points: list[CatalogPoint] = []
    for at in range(1, 9 * 24):
        now = NOW + at * HOUR
        wrong = now + (hours * HOUR if wrong_at <= at < wrong_at + pulls else 0 * HOUR)
        told, here = (wrong, now) if clock_of == "source" else (now, wrong)
        segments.append(Segment(1, at, at, "", f"archive/{at}", 10))
        points.append(CatalogPoint(at, 1, "e", at, "pull", None, told))
        if at % every == 0 or at == 1 or told != now:
            snapshots.append(catalogs.Snapshot(1, at, told, f"snapshots/{at}", 10, 10))
        found = plan_expiry(snapshots, segments, points, frozenset(), keep, min(here, told))
        assert [each.id for each in found.lost if NOW + each.id * HOUR > now - 2 * DAY] == []
        snapshots = [each.item for each in found.files if each.kept and isinstance(each.item, catalogs.Snapshot)]
        segments = [each.item for each in found.files if each.kept and isinstance(each.item, Segment)]
    late = hours if 0 < hours <= 9 * 24 else 0
    assert len(segments) <= 4 * 24 + every + late + 1, "once a wrong time is behind, operations go as ever"


def test_oldest_that_stays_is_so_by_its_time_when_a_younger_one_was_imported() -> None:
    old, young = NOW - 9 * DAY, NOW - DAY
    taken = [catalogs.Snapshot(line, 5, time, f"s{line}", 10, 10) for line, time in ((-1, young), (1, old))]
    points = [CatalogPoint(n, each.line, "e", each.id, "pull", None, each.time) for n, each in enumerate(taken)]
    found = plan_expiry(taken, [], points, frozenset(), NOTHING, NOW)
    assert found.oldest_kept == points[1]


def test_oldest_that_stays_is_the_first_of_the_log_when_the_clock_stepped_back() -> None:
    times = [NOW - 2 * DAY, NOW - 3 * DAY, NOW]
    points = [CatalogPoint(at, 1, "e", at, "pull", None, time) for at, time in enumerate(times, 1)]
    points.append(CatalogPoint(4, 2, "f", 1, "pull", None, NOW - 4 * DAY))
    taken = [catalogs.Snapshot(1, 1, times[0], "s1", 10, 10), catalogs.Snapshot(2, 1, NOW - 4 * DAY, "s2", 10, 10)]
    found = plan_expiry(taken, [Segment(1, 2, 3, "", "a", 10)], points, frozenset(), Grid(), NOW)
    assert found.oldest_kept == points[0]


@pytest.mark.parametrize("by", ["-3000 days", "+3000 days"])
def test_points_stay_when_the_clock_of_the_source_was_wrong_for_one_pull(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    keep = Grid(last=1, operations_s=7 * 86400)
    points = []
    for number in range(6):
        pair.do("INSERT INTO t(v) VALUES (?)", (number,))
        points.append(pair.point())
        with monkeypatch.context() as patched:
            if number == 3:
                patched.setattr("rollrep.source.log.TIME", f"strftime('%Y-%m-%dT%H:%M:%fZ', {{0}}, '{by}')")
            with session() as talk, pair.store.locked():
                told = pull(pair.store, talk, Wishes(str(pair.path), keep=keep, snapshot_s=0), lambda *_: None).time
        assert (abs(from_iso(told) - clock.now()) > 2000 * DAY) == (number == 3)
        for each in points:
            pair.same_at(*each)


# ---------------------------------------------------------------- snapshots that were asked for


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:3])
def test_every_pinned_point_equals_the_source_when_all_else_is_pruned(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 5000, tmp_path, monkeypatch) as life:
        for _ in range(life.rng.randrange(5, 9)):
            life.rng.choice([life.write, life.pull_while_writing, life.point, life.compare])()
        life.write()
        life.compare()
        with Catalog(life.store.catalog) as catalog:
            points = [each for each in restorable(catalog) if (life.keep / f"{each.id}.db").exists()]
            for point in life.rng.sample(points, min(4, len(points))):
                made = make_snapshot(life.store, catalog, point, silent)
                assert (made.line, made.id) == (point.line, point.id)
                annotate(life.store, catalog, point, made, f"kept {point.id}", pin=life.rng.random() < 0.8)
            # The new snapshots are bases now of what lies behind them.
            assert life.compare_points() > 0
            now = points[-1].time + life.rng.choice([dt.timedelta(0), FAR])
            found = expiry_of(life.store, catalog, NOTHING, now)
            assert run_expiry(life.store, catalog, found) is not None
            left = {point.point for point in restorable(catalog)}
            assert not left & {point.point for point in found.lost}
        at_rest = verify_at_rest(life.store, lambda _what, _bytes: None)
        assert at_rest.problems == []
        assert life.compare_points() > 0
        life.write()
        life.compare()
        assert life.compare_points() > 0


def grown(pair: FollowedPair, count: int) -> list[tuple[int, Path]]:
    """Points with their oracles, each in a pull of its own."""
    kept = []
    for number in range(count):
        pair.do("INSERT OR REPLACE INTO t(id, v) VALUES (?, ?)", (number % 3, number))
        kept.append(pair.point_pulled())
    return kept


def test_snapshot_inside_a_transaction_is_a_base_when_a_replace_follows(pair: FollowedPair) -> None:
    pair.do("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    # A trigger of the application's own writes a point in the middle of its statement.
    pair.do("CREATE TRIGGER noted BEFORE INSERT ON t BEGIN INSERT INTO _rollrep_point(label) VALUES ('inside'); END")
    pair.install()
    pair.pull()
    pair.do("INSERT OR REPLACE INTO t VALUES (3, 'b')")
    end, kept = pair.point()
    pair.pull()
    with Catalog(pair.store.catalog) as catalog:
        [inside] = [each for each in restorable(catalog) if each.label == "inside"]
        assert snapshot_of(catalog, inside) is None
        make_snapshot(pair.store, catalog, inside, silent)
        [point] = [each for each in restorable(catalog) if each.id == end]
        assert plan(catalog, point).snapshot.id == inside.id
    pair.same_at(end, kept)


def test_files_lie_in_the_trash_for_a_day_when_they_are_pruned(pair: FollowedPair) -> None:
    points = grown(pair, 4)
    with Catalog(pair.store.catalog) as catalog:
        take_snapshot(pair.store, catalog)
        [point] = pair.points_at(points[1][0])
        chosen = plan(catalog, point)
        gone = expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        assert len(gone) >= 4
        assert pair.points_at(points[1][0]) == []
        # It was planned before: what it needs is found in the trash.
        output = pair.folder / "late.db"
        restore(pair.store, catalog, chosen, output, force=False, progress=silent)
        oracle.assert_same(points[1][1], output)
        assert empty_trash(pair.store, catalog, clock.now() + GRACE / 2) == 0
        assert empty_trash(pair.store, catalog, clock.now() + GRACE) > 0
        assert list(pair.store.trash.iterdir()) == []
        with pytest.raises(VerifyFailed, match="missing"):
            restore(pair.store, catalog, chosen, output, force=True, progress=silent)
    pair.same_at(*points[3])


def test_nothing_goes_when_a_restore_is_running(pair: FollowedPair) -> None:
    points = grown(pair, 4)
    with Catalog(pair.store.catalog) as catalog:
        take_snapshot(pair.store, catalog)
        found = expiry_of(pair.store, catalog, NOTHING, clock.now() + FAR)
        seen: list[str] = []

        def meanwhile(step: str) -> None:
            seen.append(step)
            assert run_expiry(pair.store, catalog, found) is None
            assert not pair.store.trash.exists()

        [point] = pair.points_at(points[1][0])
        output = pair.folder / "out.db"
        restore(pair.store, catalog, plan(catalog, point), output, force=False, progress=meanwhile)
        assert seen
        oracle.assert_same(points[1][1], output)
        assert run_expiry(pair.store, catalog, found)
        with reading(pair.store):
            assert empty_trash(pair.store, catalog, clock.now() + FAR) == 0
        with nobody_reads(pair.store) as free:
            assert free
        assert empty_trash(pair.store, catalog, clock.now() + FAR) > 0


def test_trash_goes_at_once_when_the_disk_is_short(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        take_snapshot(pair.store, catalog)
        assert expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        assert empty_trash(pair.store, catalog, clock.now()) == 0
    monkeypatch.setattr("rollrep.destination.trash.is_disk_short", lambda _store: True)
    pair.pull()
    assert list(pair.store.trash.iterdir()) == []


def test_snapshot_stays_when_its_note_is_damaged(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        [point] = pair.points_at(points[0][0])
        made = make_snapshot(pair.store, catalog, point, silent)
        annotate(pair.store, catalog, point, made, None, pin=True)
        (pair.store.folder / note_path(made.path)).write_bytes(b'{"pinn')
        take_snapshot(pair.store, catalog)
        expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        assert snapshot_of(catalog, point) == made
    assert any("counts as pinned" in each.text for each in verify_at_rest(pair.store, lambda _w, _b: None).problems)
    pair.same_at(*points[0])


def test_pinned_file_comes_back_when_a_prune_died_half_way(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    points = grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        [point] = pair.points_at(points[0][0])
        made = make_snapshot(pair.store, catalog, point, silent)
        take_snapshot(pair.store, catalog)

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(Catalog, "drop_snapshot", dies)
            expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        assert list(pair.store.trash.rglob("*.snapshot"))
        annotate(pair.store, catalog, point, make_snapshot(pair.store, catalog, point, silent), None, pin=True)
        expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        empty_trash(pair.store, catalog, clock.now() + FAR)
        assert snapshot_of(catalog, point) == made
    pair.same_at(*points[0])


@pytest.mark.parametrize("dies_in", ["drop_snapshot", "drop_segment"])
def test_what_the_catalog_names_comes_back_with_its_note_when_a_prune_died_and_its_trash_is_due(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    points = grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        [point] = pair.points_at(points[0][0])
        made = make_snapshot(pair.store, catalog, point, silent)
        annotate(pair.store, catalog, point, made, "before the move", pin=False)
        take_snapshot(pair.store, catalog)

        def dies(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(Catalog, dies_in, dies)
            expire(pair.store, catalog, NOTHING, clock.now() + FAR)
        assert list(pair.store.trash.rglob("*.*"))
        empty_trash(pair.store, catalog, clock.now() + FAR)
        assert list(pair.store.trash.iterdir()) == []
        for each in (*catalog.snapshots(), *catalog.segments()):
            assert (pair.store.folder / each.path).is_file()
        assert (pair.store.folder / note_path(made.path)).is_file() == (snapshot_of(catalog, point) == made)
    assert verify_at_rest(pair.store, lambda _w, _b: None).problems == []
    pair.same_at(*points[2])


# ---------------------------------------------------------------- the commands


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).pulled()


def counts(place: Place, at: str) -> str:
    done = place.run("query", "shop", "--at", at, "SELECT count(*) FROM sqlite_schema")
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(place: Place, *arguments: object) -> dict[str, object]:
    done = place.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_snapshot_is_made_labelled_and_pinned_when_asked_for(place: Place) -> None:
    made = told(place, "snapshot", "shop", "--label", "before the move", "--pin")
    assert made["schema"] == "rollrep.snapshot/1"
    assert (made["labels"], bool(made["pinned"])) == (["before the move"], True)
    assert (place.store / "shop" / str(made["snapshot"])).is_file()
    counts(place, "label:before the move")
    assert told(place, "snapshot", "shop")["made"] is False
    again = told(place, "snapshot", "shop", "--at", "label:before the move", "--unpin")
    assert (again["made"], again["pinned"], again["labels"]) == (False, None, ["before the move"])
    refusal_of_unpin = place.run("snapshot", "shop", "--unpin")
    assert refusal_of_unpin.returncode == 2
    assert "rollrep prune shop -n" in refusal_of_unpin.stderr


def test_snapshot_of_an_older_point_is_made_when_it_is_named(place: Place) -> None:
    place.good("source", "point", place.db, "--label", "then")
    place.good("pull")
    place.write("CREATE TABLE more(x)")
    place.good("pull")
    before = place.files()
    would = told(place, "snapshot", "shop", "--at", "label:then", "-n")
    assert (would["dry_run"], would["made"]) == (True, True)
    changed = {name for name, data in place.files().items() if before.get(name) != data}
    assert {name for name in changed if not name.endswith("lock")} == set()
    made = told(place, "snapshot", "shop", "--at", "label:then", "--pin")
    assert made["made"] is True
    counts(place, "label:then")


def test_prune_says_what_goes_and_why_when_it_is_tried(place: Place) -> None:
    for number in range(3):
        place.good("source", "point", place.db, "--label", f"p{number}")
        place.good("pull")
        assert told(place, "snapshot", "shop")["made"] in (True, False)
    place.configure(
        f'[jobs.shop]\nsource = "local:{place.db}"\nsnapshot = "1h"\nkeep = {{ operations = "1ms", last = 1 }}\n'
    )
    before = place.files()
    would = told(place, "prune", "shop", "-n")
    assert would["schema"] == "rollrep.prune/1"
    assert place.files() == before
    files: Sequence[dict[str, object]] = would["files"]  # type: ignore[assignment]
    going = [each for each in files if not each["kept"]]
    assert going
    assert all(each["reason"] for each in files)
    said = place.good("prune", "shop", "-n").stdout
    assert "no rule keeps it" in said and "newest, one of the last 1" in said
    assert "would no longer be restorable" in said and "p0 (to keep one: rollrep snapshot shop" in said
    done = told(place, "prune", "shop")
    assert done["points_lost"] == would["points_lost"]
    for each in files:
        assert (place.store / "shop" / str(each["path"])).exists() == each["kept"]
    assert told(place, "prune", "shop")["bytes_going"] == 0
    assert place.run("restore", "shop", "--at", "label:p0", "-o", place.folder / "o.db").returncode == 17
    place.good("verify", "shop")


def test_prune_advises_only_points_that_can_be_a_file_when_there_is_a_virtual_table(tmp_path: Path) -> None:
    place = Place(tmp_path).installed()
    place.write("CREATE VIRTUAL TABLE search USING fts5(a)")
    place.good("pull")
    lets_go = 'snapshot = "1h"\nkeep = { operations = "1ms", last = 1 }\n'

    def labelled(label: str, *statements: str) -> str:
        """What prune would say when such a point is about to go."""
        place.configure()
        place.write("UPDATE posts SET title = title || 'x'", *statements)
        place.good("source", "point", place.db, "--label", label)
        for _ in range(2):
            place.write("UPDATE posts SET title = title || 'y'")
            place.good("pull")
            told(place, "snapshot", "shop")
        place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\n{lets_go}')
        said = place.good("prune", "shop", "-n").stdout
        assert f"among them {label}" in said
        return said

    said = labelled("it's between", "INSERT INTO search VALUES ('y')")
    assert "--pin" not in said
    [advice] = re.findall(r"to have one as a file: (.*)\)", said)
    assert place.run(*shlex.split(advice.replace("FILE", "out.db"))[1:]).returncode == 3
    assert place.run("snapshot", "shop", "--at", "label:it's between", "--pin").returncode == 17
    said = labelled("it's between")
    [advice] = re.findall(r"to keep one: (.*)\)", said)
    assert place.run(*shlex.split(advice)[1:]).returncode == 0
    assert ", 1 pinned" in place.good("status").stdout


def test_prune_waits_for_nobody_when_a_restore_runs_or_a_pull_holds_the_job(place: Place) -> None:
    place.good("source", "point", place.db)
    place.good("pull")
    told(place, "snapshot", "shop")
    place.good("source", "point", place.db)
    place.good("pull")
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nkeep = {{ operations = "1ms", last = 1 }}\n')
    store = Store(place.store, "shop")
    with reading(store):
        done = place.run("prune", "shop")
        assert done.returncode == 75
        assert "a restore of shop is running" in done.stderr
    with store.locked():
        assert place.run("prune", "shop").returncode == 11
        assert place.run("snapshot", "shop").returncode == 11
    assert told(place, "prune", "shop")["bytes_going"]


@pytest.mark.parametrize("command", ["snapshot", "prune"])
def test_keeping_refuses_when_nothing_was_pulled(tmp_path: Path, command: str) -> None:
    refusal(Place(tmp_path).installed(), 10, (command, "shop"), "rollrep pull shop")


def test_newest_stays_when_everything_may_go(place: Place) -> None:
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nkeep = {{ operations = "1ms", last = 1 }}\n')
    for _ in range(3):
        place.good("source", "point", place.db)
        place.good("pull")
        place.good("prune", "shop")
    done = place.run("restore", "shop", "--at", "latest", "-o", place.folder / "o.db")
    assert done.returncode == 0, done.stderr
    copy = place.folder / "oracle.db"
    copy_source(place.db, copy)
    recompute(copy)
    oracle.assert_same(copy, place.folder / "o.db")


def test_pull_lets_go_by_itself_when_keep_says_so(pair: FollowedPair) -> None:
    grown(pair, 3)
    with Catalog(pair.store.catalog) as catalog:
        take_snapshot(pair.store, catalog)
        before = len(catalog.segments())
    pull_once(pair.store, pair.path)
    with Catalog(pair.store.catalog) as catalog:
        assert len(catalog.segments()) == before, "no rule is configured"
