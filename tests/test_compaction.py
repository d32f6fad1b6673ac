"""Compaction: what could be restored can be restored, and what was told of the past is told, after segments were joined.

The lives of `test_replication` join segments too; here are the rules of compaction alone.
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import apsw
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair import FollowedPair
from sources import pull_once
from test_history import versions_of
from test_keeping import silent
from test_rebuild import without_catalog

from rollrep.core import clock
from rollrep.core.errors import VerifyFailed
from rollrep.destination import compaction
from rollrep.destination.archive import Archive
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Segment
from rollrep.destination.choosing import restorable
from rollrep.destination.compaction import compact, plan_compaction
from rollrep.destination.keeping import make_snapshot
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.trash import GRACE, reading


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FollowedPair:
    """Ten pulls, and nothing was joined yet."""
    monkeypatch.setattr(compaction, "TOGETHER", 1000)
    made = FollowedPair(tmp_path)
    made.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE TABLE u(k PRIMARY KEY, w) WITHOUT ROWID"
    )
    return made


def grown(pair: FollowedPair, count: int = 10) -> list[tuple[int, Path]]:
    """Points with their oracles, each in a pull of its own; a bare end of a pull after every one."""
    kept = []
    for number in range(count):
        pair.do("INSERT OR REPLACE INTO t(id, v) VALUES (?, ?)", (number % 4, number))
        pair.do("INSERT OR REPLACE INTO u VALUES (?, ?)", (number % 3, f"{number}"))
        pair.do(f"PRAGMA user_version = {number}")
        kept.append(pair.point_pulled())
    return kept


def segments(pair: FollowedPair) -> list[Segment]:
    with Catalog(pair.store.catalog) as catalog:
        return catalog.segments()


def join(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, together: int = 5) -> int:
    with monkeypatch.context() as patched, Catalog(pair.store.catalog) as catalog:
        patched.setattr(compaction, "TOGETHER", together)
        return compact(pair.store, catalog)


def problems(pair: FollowedPair) -> list[str]:
    found = verify_at_rest(pair.store, lambda _what, _bytes: None)
    return [f"{each.path}: {each.text}" for each in found.problems]


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=150), st.integers(2, 9))
def test_rows_stay_one_after_the_other_when_anything_is_joined(pulls: list[tuple[int, bool]], together: int) -> None:
    mine: list[Segment] = []
    at, line = 0, 1
    for rows, breaks in pulls:
        at, line = (at + 3, line + rows % 2) if breaks and rows < 300 else (at, line)
        mine.append(Segment(line, at + 1, at + rows, str(at), "", 100))
        at += rows
    rows_before = [(each.line, row) for each in mine for row in (each.first, each.last)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compaction, "TOGETHER", together)
        rounds = 0
        while runs := plan_compaction(mine):
            rounds += 1
            for run in runs:
                assert len(run) == together and {each.line for each in run} == {run[0].line}
                place = mine.index(run[0])
                assert mine[place : place + together] == list(run)
                mine[place : place + together] = [
                    Segment(run[0].line, run[0].first, run[-1].last, run[-1].proof, "", sum(each.bytes for each in run))
                ]
            assert rounds < 40
    left = {(each.line, row) for each in mine for row in (each.first, each.last)}
    assert left <= set(rows_before)
    assert all(sum(one.line == each.line and one.first <= row <= one.last for one in mine) == 1
               for each in mine for row in (each.first, each.last))  # fmt: skip


def test_every_point_and_every_row_is_as_before_when_segments_are_joined(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair)
    asked = [("t", ("id",), ("i:1",)), ("u", ("k",), ("i:2",))]
    history = [versions_of(pair, *each) for each in asked]
    with Catalog(pair.store.catalog) as catalog:
        before = restorable(catalog)
    assert join(pair, monkeypatch) == 8
    assert len(segments(pair)) == 2
    for each in points:
        pair.same_at(*each)
    assert [versions_of(pair, *each) for each in asked] == history
    assert problems(pair) == []
    with Catalog(pair.store.catalog) as catalog:
        assert restorable(catalog) == before
        # Its proof is that of a pull's end inside, so what follows it need not go in order.
        [point] = pair.points_at(points[2][0])
        assert make_snapshot(pair.store, catalog, point, silent).id == point.id
    pair.same_at(*points[3])
    pair.do("UPDATE t SET v = 'more'")
    pair.same()


def test_ends_of_pulls_come_back_when_the_catalog_was_made_again(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for number in range(6):
        pair.do("INSERT INTO t(v) VALUES (?)", (number,))
        pair.do(f"PRAGMA user_version = {number + 1}")
        pull_once(pair.store, pair.path)
        with Catalog(pair.store.catalog) as catalog:
            ends.append((restorable(catalog)[-1].id, number + 1))
    join(pair, monkeypatch, 3)
    join(pair, monkeypatch, 2)
    assert len(segments(pair)) == 1
    without_catalog(pair.store)
    assert rebuild_catalog(pair.store, dry_run=False).damaged == []
    for log_id, version in ends:
        [point] = pair.points_at(log_id)
        with contextlib.closing(apsw.Connection(str(pair.restored(point)))) as db:
            assert (db.pragma("user_version"), db.execute("SELECT count(*) FROM t").fetchall()) == (
                version,
                [(version,)],
            )


@pytest.mark.parametrize("dies_in", ["throw_away", "drop_segment", "add_segment"])
def test_compaction_is_finished_by_the_next_when_it_died(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    points = grown(pair)
    for after in range(4):
        left = [after]

        def dying(real: object, left: list[int] = left) -> object:
            def one(*arguments: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return real(*arguments)  # type: ignore[operator]

            return one

        place = compaction if dies_in == "throw_away" else Catalog
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            patched.setattr(place, dies_in, dying(getattr(place, dies_in)))
            join(pair, monkeypatch)
        for each in points[::3]:
            pair.same_at(*each)
    join(pair, monkeypatch)
    assert len(segments(pair)) == 2
    assert problems(pair) == []
    for each in points:
        pair.same_at(*each)


def test_every_point_is_as_before_when_a_compaction_died_and_the_next_pull_came_days_later(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(Catalog, "drop_segment", dies)
        join(pair, monkeypatch)
    assert list(pair.store.trash.rglob("*.segment"))
    later = clock.now() + 2 * GRACE
    monkeypatch.setattr("rollrep.destination.pull.now", lambda: later)
    pair.pull()
    assert list(pair.store.trash.iterdir()) == []
    assert problems(pair) == []
    join(pair, monkeypatch)
    assert len(segments(pair)) == 2
    for each in points:
        pair.same_at(*each)


def test_both_are_told_apart_when_the_joined_ones_are_still_there_and_the_catalog_is_gone(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair)
    old = {each.path: (pair.store.folder / each.path).read_bytes() for each in segments(pair)}
    join(pair, monkeypatch)
    for path, data in list(old.items())[:4]:
        (pair.store.folder / path).write_bytes(data)
    without_catalog(pair.store)
    rebuilt = rebuild_catalog(pair.store, dry_run=False)
    assert rebuilt.damaged == []
    assert len(rebuilt.not_used) == 4
    for each in points:
        pair.same_at(*each)


def test_damage_is_named_and_the_rest_restores_when_any_byte_of_a_joined_segment_is_flipped(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = grown(pair)
    join(pair, monkeypatch)
    with Catalog(pair.store.catalog) as catalog:
        # What lies behind the damage has a snapshot of its own to begin from.
        [point] = pair.points_at(points[6][0])
        make_snapshot(pair.store, catalog, point, silent)
    path = pair.store.folder / segments(pair)[0].path
    sound = path.read_bytes()
    rng = random.Random(5)
    for at in [0, len(sound) - 1, *rng.sample(range(len(sound)), 30)]:
        data = bytearray(sound)
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with pytest.raises(VerifyFailed, match=path.name):
            pair.same_at(*points[1])
        assert any(path.name in each for each in problems(pair))
        assert not pair.points_at(points[1][0])
        with Catalog(pair.store.catalog) as catalog:
            catalog.know_damaged(())
    for each in points[6:]:
        pair.same_at(*each)
    # It is left alone by the next compaction, and so is what stands beside it.
    assert join(pair, monkeypatch, 2) == 0
    path.write_bytes(sound)
    pair.same_at(*points[1])


def test_nothing_is_joined_when_somebody_reads_or_columns_were_renamed(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(pair, 4)
    with reading(pair.store):
        assert join(pair, monkeypatch, 2) == 0
    assert len(segments(pair)) == 4
    with Catalog(pair.store.catalog) as catalog:
        archive = Archive(pair.store, catalog)
        one, other = catalog.segments()[:2]
        with monkeypatch.context() as patched:
            real = archive.holds
            patched.setattr(archive, "holds", lambda each: real(each) if each == one else renamed(real(each)))
            assert archive.join([one, other]) is None


def renamed(holds: object) -> object:
    """As a segment of the same shape would be, had a column been renamed."""
    import msgspec

    shapes = tuple(msgspec.structs.replace(shape, columns=("x", *shape.columns[1:])) for shape in holds.shapes)  # type: ignore[attr-defined]
    return msgspec.structs.replace(holds, shapes=shapes)  # type: ignore[type-var]


def test_trash_holds_what_was_joined_when_a_restore_was_planned_before(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rollrep.destination.restore import plan, restore

    points = grown(pair)
    with Catalog(pair.store.catalog) as catalog:
        [point] = pair.points_at(points[4][0])
        chosen = plan(catalog, point)
        join(pair, monkeypatch)
        output = pair.folder / "late.db"
        restore(pair.store, catalog, chosen, output, force=False, progress=silent)
    oracle.assert_same(points[4][1], output)
