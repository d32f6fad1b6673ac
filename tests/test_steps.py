"""The steps of a pull, each interrupted: archive, replay and position, seen by a reader beside it.

archive ──✗  replay ──✗  position ──✗ commit        whatever dies, the mirror is of one commit of the source
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import copy_source, pull_once

from rollrep.core.errors import RollrepError, Temporary, UsageError, VerifyFailed
from rollrep.core.moments import Latest
from rollrep.core.nouns import Shape
from rollrep.destination import changes
from rollrep.destination import pull as puller
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.images import attach_image, attach_log
from rollrep.destination.mirror_db import read_state, remove_database
from rollrep.destination.replay import Replay
from rollrep.source import reader
from rollrep.source.install import uninstall
from rollrep.source.tables import Limits
from rollrep.wire.images import log_table, log_width, rows_table

BANK = "CREATE TABLE bank(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, money INT);"
FILLED = BANK + "INSERT INTO bank VALUES (1, 'a', 50), (2, 'b', 50)"


class Died(Exception):
    """Stands for the process that ends here."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def transfer(pair: FollowedPair, times: int = 20) -> None:
    """One transaction of many rows, in the middle of which the money is not all there."""
    pair.do("BEGIN")
    pair.do("UPDATE bank SET money = 0 WHERE id = 1")
    for n in range(times):
        pair.do("INSERT INTO bank VALUES (?, ?, 0)", (n + 10, f"o{n}"))
    pair.do("UPDATE bank SET money = 100 WHERE id = 2")
    pair.do("COMMIT")


def mirrored(pair: FollowedPair) -> tuple[int, int, int]:
    """(money, rows, log id of the position) that a reader of the mirror sees now."""
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        state = read_state(db)
        assert state is not None
        [(money, rows)] = db.execute("SELECT sum(money), count(*) FROM bank").fetchall()
        return money, rows, state.position.id


def test_reader_never_sees_half_a_transaction_when_it_is_replayed_in_windows(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller, "WINDOW_ROWS", 5)
    pair.start(FILLED)
    before = mirrored(pair)
    transfer(pair)
    seen = []
    replay_window = Replay.window

    def looked_at(self: Replay, first: int, last: int) -> int:
        done = replay_window(self, first, last)
        seen.append(mirrored(pair))
        return done

    monkeypatch.setattr(Replay, "window", looked_at)
    pair.same()
    assert len(seen) > 3
    assert set(seen) == {before}


@pytest.mark.parametrize("cut_after", [1_500, 2_000, 2_500, 3_000, 3_500])
def test_mirror_stands_at_a_commit_when_the_line_is_cut_between_images(
    pair: FollowedPair, cut_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IMAGE_ROWS", 5)
    pair.start(FILLED)
    before = mirrored(pair)
    transfer(pair)
    with pytest.raises(Temporary):
        pull_once(pair.store, pair.path, cut_after=cut_after)
    assert mirrored(pair) == before
    pair.same()


def test_rows_stay_out_when_the_process_dies_before_the_position_is_written(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(FILLED)
    before = mirrored(pair)
    transfer(pair)

    def died(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(puller, "write_state", died)
        pair.pull()
    assert mirrored(pair) == before
    pair.same()


def test_batch_is_archived_when_the_process_dies_in_its_replay(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(FILLED)
    transfer(pair)
    [(newest,)] = pair.db.execute("SELECT max(id) FROM _rollrep_log").fetchall()

    def died(*_: object) -> int:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(Replay, "window", died)
        pair.pull()
    with Catalog(pair.store.catalog) as catalog:
        line = catalog.newest_line()
        assert line is not None
        assert catalog.archived_through(line.line) == newest
    pair.same()


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
def test_key_is_one_when_its_collation_says_so(pair: FollowedPair, collation: str) -> None:
    """Two spellings of one key: the first log row names the row by the one, the last by the other."""
    one, other = ("a", "A") if collation == "NOCASE" else ("a", "a  ")
    pair.start(
        f"CREATE TABLE t(k TEXT COLLATE {collation} PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO t VALUES ('z', 0)"
    )
    pair.do("INSERT INTO t VALUES (?, 1)", (one,))
    pair.do("DELETE FROM t WHERE k = ?", (other,))
    pair.do("INSERT INTO t VALUES (?, 3)", (other,))
    pair.same()
    pair.do("UPDATE t SET k = ? WHERE k = ?", (one, other))
    pair.do("UPDATE t SET v = 4 WHERE k = ?", (other,))
    pair.same()
    pair.do("REPLACE INTO t VALUES (?, 5)", (other,))
    pair.do("DELETE FROM t WHERE k = ?", (one,))
    pair.same()


@pytest.mark.parametrize("ids", [[1, 3], [2, 3], [1, 2], [1, 2, 3, 4], []])
def test_image_is_refused_when_its_ids_are_others_than_announced(ids: list[int]) -> None:
    shape = Shape(1, "t", ("id",), 1, False, False, ("BINARY",), (), False, True)
    with contextlib.closing(apsw.Connection(":memory:")) as made, contextlib.closing(apsw.Connection("")) as db:
        made.execute(log_table("log", log_width([shape])))
        for log_id in ids:
            made.execute("INSERT INTO log(id, at, shape, op, v0) VALUES (?, 0, 1, 1, 1)", (log_id,))
        db.execute("ATTACH ':memory:' AS batch")
        with pytest.raises(VerifyFailed, match="not 1 to 3"):
            attach_log(db, made.serialize("main"), 1, 3, [shape])


def test_image_is_refused_when_a_byte_of_its_schema_is_no_text() -> None:
    shape = Shape(1, "t", ("id",), 1, False, False, ("BINARY",), (), False, True)
    with contextlib.closing(apsw.Connection(":memory:")) as made, contextlib.closing(apsw.Connection("")) as db:
        made.execute("CREATE TABLE rows(marked)")
        raw = made.serialize("main").replace(b"marked", b"mark\xff\xff")
        db.execute("ATTACH ':memory:' AS image")
        with pytest.raises(VerifyFailed, match="is no database"):
            attach_image(db, "image", raw, rows_table("rows", shape.width))


def test_old_line_stays_restorable_when_its_first_pull_died_before_the_snapshot(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.do(FILLED)
    pair.install()
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    transfer(pair)
    lost = pair.point()

    def died(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(puller, "take_next", died)
        pair.pull()
    pair.db.close()
    backup.replace(pair.path)
    pair.db = apsw.Connection(str(pair.path))
    assert pair.pull() == ("mirror", "ahead")
    pair.same_at(*lost)


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("next_is", ["resume", "mirror", "bridge"])
@pytest.mark.parametrize("step", ["record_points", "take_next", "take_snapshot"])
def test_no_recorded_point_is_lost_when_pulls_die_before_their_snapshot(
    pair: FollowedPair, step: str, next_is: str, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows leads to later states alone: the snapshot that was due is taken before the mirror moves on."""
    pair.start(FILLED, keep_rows=31 if next_is == "bridge" else 100_000)
    kept = {}

    def died(*_: object) -> None:
        raise Died

    for _ in range(3):
        if writes:
            pay(pair, 2)
        made = pair.point()
        kept[made[0]] = made[1]
        with monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr(changes if step == "take_snapshot" else puller, step, died)
            pull_once(pair.store, pair.path, mirror=True)
        if next_is == "mirror":
            continue
        if next_is == "bridge":
            pay(pair, 90)
        kept.update([pair.point()])
        pull_once(pair.store, pair.path)
    pull_once(pair.store, pair.path, mirror=True)
    with Catalog(pair.store.catalog) as catalog:
        assert catalog.points() == restorable(catalog)
        points = [point for point in catalog.points() if point.id in kept]
    if step != "record_points":
        assert {point.id for point in points} == kept.keys()
    for point in points:
        oracle.assert_same(kept[point.id], pair.restored(point))


def pay(pair: FollowedPair, times: int) -> None:
    for _ in range(times):
        pair.do("UPDATE bank SET money = money + 1")


def lose_mirror(pair: FollowedPair) -> None:
    remove_database(pair.store.mirror)


def damage_mirror(pair: FollowedPair) -> None:
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    pair.store.mirror.write_bytes(bytes(100) + pair.store.mirror.read_bytes()[100:])


def lines(pair: FollowedPair) -> list[str]:
    with Catalog(pair.store.catalog) as catalog:
        return [story.reason for story in catalog.line_stories()]


@pytest.mark.parametrize("lose", [lose_mirror, damage_mirror])
@pytest.mark.parametrize("archived", [False, True])
def test_restored_point_is_the_source_when_the_mirror_was_lost_and_the_source_put_back(
    pair: FollowedPair, archived: bool, lose: Callable[[FollowedPair], None]
) -> None:
    """The new history goes past where a snapshot, or rows in the archive, of the old one stand."""
    pair.start(FILLED)
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    transfer(pair)
    lost = pair.point()
    if archived:
        pair.same()
    else:
        assert pull_once(pair.store, pair.path, mirror=True).reason == "requested"
        with Catalog(pair.store.catalog) as catalog:
            assert [each.line for each in catalog.segments()] == []
    pair.db.close()
    remove_database(pair.path)
    backup.replace(pair.path)
    lose(pair)
    pair.db = apsw.Connection(str(pair.path))
    pay(pair, 30 if archived else 5)
    pull_once(pair.store, pair.path, mirror=True)
    pay(pair, 40)
    new = pair.point_pulled()
    pay(pair, 2)
    pair.same()
    oracle.assert_same(new[1], pair.restored(pair.points_at(new[0])[-1]))
    pair.same_at(*lost)
    assert lines(pair) == ["first", "first"]


@pytest.mark.parametrize("lose", [lose_mirror, damage_mirror])
@pytest.mark.parametrize("goes_on", [True, False])
def test_line_goes_on_when_the_mirror_was_lost_and_the_source_still_has_its_last_row(
    pair: FollowedPair, goes_on: bool, lose: Callable[[FollowedPair], None]
) -> None:
    """Where the log has forgotten it, nothing proves that the source's history is the line's."""
    pair.start(FILLED, keep_rows=31)
    pay(pair, 2)
    before = pair.point_pulled()
    lose(pair)
    pay(pair, 3 if goes_on else 400)
    pull_once(pair.store, pair.path, mirror=True)
    after = pair.point_pulled()
    assert lines(pair) == (["first"] if goes_on else ["first", "first"])
    with Catalog(pair.store.catalog) as catalog:
        assert [hole.after for hole in catalog.holes()] == ([before[0]] if goes_on else [])
    pair.same_at(*before)
    pair.same_at(*after)


def test_first_pull_goes_through_when_one_before_died_and_left_nothing_but_a_line(pair: FollowedPair) -> None:
    pair.create(FILLED, Limits())
    pair.store.create()
    with Catalog(pair.store.catalog, create=True) as catalog:
        catalog.begin_line("an epoch", "first")
    assert pair.pull() == ("mirror", "first")
    pair.same()


def test_mirror_again_repairs_when_a_forgotten_row_was_removed_from_the_mirror(pair: FollowedPair) -> None:
    """The error of the pull says so; over the forgotten keys alone the row would be missing once more."""
    pair.start(FILLED, keep_rows=31)
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute("DELETE FROM bank WHERE id = 2")
    for _ in range(80):
        pair.do("UPDATE bank SET money = money + 1 WHERE id = 1")
    for _ in range(9):
        pair.do("UPDATE bank SET money = money + 1 WHERE id = 2")
    with pytest.raises(RollrepError, match="which the mirror does not have") as refused:
        pair.pull()
    assert "rollrep mirror" in refused.value.remedy
    assert pull_once(pair.store, pair.path, mirror=True).reason == "pruned"
    pair.same()


@pytest.mark.parametrize("history", ["another database", "ahead"])
def test_nothing_is_captured_again_and_again_when_the_position_is_of_another_history(
    pair: FollowedPair, history: str
) -> None:
    """What the log says behind such a position is not what the destination has missed."""
    pair.start(FILLED)
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    transfer(pair, 400)
    pair.same()
    if history == "ahead":
        pair.db.close()
        backup.replace(pair.path)
        for ending in ("-wal", "-shm"):
            pair.path.with_name(f"app.db{ending}").unlink(missing_ok=True)
        pair.db = apsw.Connection(str(pair.path))
    else:
        uninstall(pair.db)
        pair.install()
    for number in range(4):
        pair.do(f"ALTER TABLE bank ADD COLUMN c{number}")
    if history == "ahead":
        assert pair.pull() == ("mirror", "ahead")
    else:
        with pytest.raises(UsageError, match="another database"):
            pair.pull()
        pull_once(pair.store, pair.path, mirror=True, accept_source=True)
    pair.same()


def test_latest_is_the_source_when_the_mirror_was_put_back_from_before_its_line_ended(pair: FollowedPair) -> None:
    pair.start(FILLED)
    older = pair.folder / "older.db"
    copy_source(pair.store.mirror, older)
    transfer(pair)
    pair.same()
    assert pull_once(pair.store, pair.path, mirror=True).reason == "requested"
    pair.store.mirror.write_bytes(older.read_bytes())
    for ending in ("-wal", "-shm"):
        pair.store.mirror.with_name(f"mirror.db{ending}").unlink(missing_ok=True)
    pair.do("UPDATE bank SET money = money + 1")
    pair.same()
    with Catalog(pair.store.catalog) as catalog:
        assert [story.reason for story in catalog.line_stories()] == ["first", "requested", "put_back"]
        newest = find_point(catalog, Latest())
    oracle.assert_same(pair.path, pair.restored(newest))
    pair.same()
    with Catalog(pair.store.catalog) as catalog:
        assert len(catalog.line_stories()) == 3


def test_latest_has_the_schema_of_the_source_when_the_row_of_its_change_was_deleted(pair: FollowedPair) -> None:
    pair.start(FILLED)
    pair.same()
    with Catalog(pair.store.catalog) as catalog:
        before = find_point(catalog, Latest())
    old = pair.folder / "old.db"
    copy_source(pair.path, old)
    pair.do("ALTER TABLE bank RENAME COLUMN money TO cents")
    pair.do("INSERT INTO bank VALUES (3, 'c', 1)")
    pair.install()
    pair.do("DELETE FROM _rollrep_log WHERE id > ?", (before.id,))
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    with Catalog(pair.store.catalog) as catalog:
        newest = find_point(catalog, Latest())
    assert newest.id == before.id
    oracle.assert_same(pair.path, pair.restored(newest))
    oracle.assert_same(old, pair.restored(before))
