"""Mirror again, by the rows behind the forgotten keys or by digests: only what changed moves, and all is right."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import make
import msgspec
import oracle
import pytest
from pair import Pair
from sources import Application, copy_source, pull_once, recompute, session

from rollrep.core.errors import NotRestorable, Temporary, VerifyFailed
from rollrep.core.moments import ByTime
from rollrep.destination import bridging
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.pull import Outcome, Wishes, pull
from rollrep.destination.replay import Replay
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.destination.sweep import Sweep
from rollrep.source import digests, forgotten, leaves, reader, serve
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits
from rollrep.wire import messages
from rollrep.wire.messages import Leaves, Rows, SendRows, SendStretch
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

ACCOUNT = "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city); CREATE INDEX city ON account(city);"
FILLED = (
    ACCOUNT + "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)"
    " INSERT INTO account SELECT i, 'owner ' || i, hex(randomblob(30)) FROM c;"
    "CREATE TABLE pair(k TEXT COLLATE NOCASE, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;"
    "INSERT INTO pair SELECT 'K' || (id % 9), id, city FROM account WHERE id < 500; CREATE TABLE bare(v);"
    "INSERT INTO bare SELECT id FROM account WHERE id < 50"
)


class OverrunPair(Pair):
    """Its log is far smaller than what is written between pulls."""

    def start(self, schema: str = FILLED, *, keep_rows: int = 100, keep_keys: int = 100_000) -> None:
        self.create(schema, Limits(keep_rows=keep_rows, keep_keys=keep_keys))
        pull_once(self.store, self.path)

    def fall_off(self, rows: int = 1_000) -> None:
        """Enough changes for the log to forget where the mirror stands; some rows are swapped, replaced, moved."""
        for n in range(rows // 4):
            self.do("UPDATE account SET city = ? WHERE id = ?", (f"city {n}", 7 * n + 1))
            self.do("REPLACE INTO account VALUES (?, ?, 'replaced')", (30_000 + n, f"owner {11 * n + 3}"))
            self.do("DELETE FROM pair WHERE n = ?", (n + 5,))
            self.do("UPDATE bare SET v = v + 1 WHERE rowid = ?", (n % 50 + 1,))
        # So that no replacement stands in what is left of the log: over one the tables are compared.
        for n in range(150):
            self.do("UPDATE bare SET v = v + 1 WHERE rowid = ?", (n % 50 + 1,))

    def pull(self, **how: object) -> Outcome:
        return pull_once(self.store, self.path, **how)  # type: ignore[arg-type]

    def same(self) -> None:
        oracle.assert_same(self.path, self.store.mirror)

    def same_at(self, log_id: int, kept: Path) -> None:
        assert len(self.points_at(log_id)) == 1
        super().same_at(log_id, kept)

    def whole(self) -> None:
        with self.store.locked():
            found = verify_at_rest(self.store, lambda _name, _bytes: None)
        assert (found.problems, found.notes) == ([], [])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[OverrunPair]:
    made = OverrunPair(tmp_path)
    yield made
    made.db.close()


def answers_of(first: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small table as many answers as of a large one."""
    for module in (digests, leaves):
        monkeypatch.setattr(module, "FIRST_CHUNK_ROWS", first)
        monkeypatch.setattr(module, "STRETCH_ROWS", rows)


def rungs(outcome: Outcome) -> set[str]:
    return {each.rung for each in outcome.moved}


def test_only_rows_that_changed_move_when_their_keys_are_remembered(pair: OverrunPair) -> None:
    pair.start()
    before = pair.point()
    pair.pull()
    pair.fall_off()
    inside = pair.point()
    pair.fall_off()
    late = pair.point()
    pair.do("UPDATE account SET city = 'after the late point' WHERE id = 8")
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason) == ("mirror", "pruned")
    assert rungs(outcome) == {bridging.RUNG}
    moved = {each.table: each.rows for each in outcome.moved}
    assert moved["pair"] == 250
    assert 700 <= moved["account"] < 1_000, "a key may come once with each stretch of ids"
    assert 50 <= moved["bare"] <= 100
    assert outcome.snapshot is not None, "nothing leads across the hole"
    pair.same()
    pair.whole()
    pair.do("UPDATE account SET city = 'later' WHERE id = 1")
    after = pair.point()
    pair.pull()
    pair.same_at(*before)
    pair.same_at(*after)
    with Catalog(pair.store.catalog) as catalog:
        points = restorable(catalog)
        # The late point's rows are all here, but rows fetched after it were newer than it.
        assert {inside[0], late[0]}.isdisjoint(point.id for point in points)
        [hole] = catalog.holes()
        [first] = [point for point in points if point.id == before[0]]
        [second] = [point for point in points if point.id == outcome.position.id]  # type: ignore[union-attr]
        assert first.id == hole.after < inside[0] < hole.until <= second.id
        with pytest.raises(NotRestorable, match="lies in a hole"):
            find_point(catalog, ByTime(first.time + (second.time - first.time) / 2))


@pytest.mark.parametrize("asked", [SendStretch, SendRows])
def test_source_is_refused_when_it_says_that_there_is_more_and_does_not_go_on(
    asked: type[SendStretch] | type[SendRows], pair: OverrunPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(20, 20, monkeypatch)
    pair.start(keep_keys=0)
    pair.pull()
    pair.fall_off()
    honest, lies = serve._Server._read, []

    def stands_still(self: Any, meta: Any, shape: Any, wanted: Any) -> Any:
        tail, found = honest(self, meta, shape, wanted)
        if isinstance(wanted, asked) and found and not isinstance(found[0], Leaves):
            after = wanted.after_key if isinstance(wanted, SendStretch) else wanted.ranges[0].after
            if after is not None:
                nothing = {"answered": 0} if isinstance(found[0], Rows) else {}
                found = (msgspec.structs.replace(found[0], last_key=after, **nothing), found[1])
                lies.append(found[0])
                assert len(lies) < 100, "it is asked for ever"
        return tail, found

    monkeypatch.setattr(serve._Server, "_read", stands_still)
    with pytest.raises(VerifyFailed, match="go on"):
        pair.pull()
    assert lies


@pytest.mark.parametrize("keep_keys", [0, 200])
def test_tables_are_compared_when_the_keys_are_forgotten_too(pair: OverrunPair, keep_keys: int) -> None:
    pair.start(keep_keys=keep_keys)
    before = pair.point()
    pair.pull()
    pair.fall_off()
    outcome = pair.pull()
    assert rungs(outcome) == {"digests"}
    assert outcome.rows_mirrored < 1_100, "rows that are only here count too"
    assert {each.table for each in outcome.moved if each.rows} == {"account", "pair", "bare"}
    assert sum(each.bytes or 0 for each in outcome.moved) < 150_000, "the tables are 1.5 MB"
    pair.same()
    after = pair.point()
    pair.pull()
    pair.same_at(*before)
    pair.same_at(*after)
    pair.whole()


@pytest.mark.parametrize("change", ["UPDATE account SET city = hex(randomblob(30))", "DELETE FROM account", "VACUUM"])
def test_tables_are_right_when_everything_or_nothing_changed_beyond_the_keys(pair: OverrunPair, change: str) -> None:
    pair.start(keep_keys=0)
    pair.fall_off()
    pair.do(change)
    assert rungs(pair.pull()) == {"digests"}
    pair.same()


def test_only_what_differs_moves_when_a_mirror_is_asked_for(pair: OverrunPair) -> None:
    pair.start()
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute("UPDATE account SET owner = 'by hand' WHERE id = 77; DELETE FROM pair WHERE n = 9").fetchall()
    with session() as talk, pair.store.locked():
        outcome = pull(pair.store, talk, Wishes(str(pair.path), mirror=True), lambda _table, _rows: None)
    assert {each.table: (each.rung, each.rows) for each in outcome.moved} == {
        "account": ("digests", 1),
        "pair": ("digests", 1),
        "bare": ("digests", 0),
    }
    pair.same()


def test_rows_beyond_a_stretch_are_compared_when_the_key_has_another_collation_than_its_column(
    pair: OverrunPair,
) -> None:
    schema = "CREATE TABLE odd(k TEXT, n INT, v, PRIMARY KEY(k COLLATE NOCASE, n)) WITHOUT ROWID"
    pair.start(f"{FILLED}; {schema}; INSERT INTO odd SELECT 'K' || (id % 7), id, city FROM account", keep_keys=0)
    pair.do("UPDATE odd SET v = 'changed' WHERE n % 4000 = 1")
    pair.fall_off()
    assert rungs(pair.pull()) == {"digests"}
    pair.same()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_comparing_is_gone_on_from_when_the_line_was_cut_and_rows_change_meanwhile(
    pair: OverrunPair, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(300, 300, monkeypatch)
    pair.start(keep_keys=0)
    pair.fall_off()
    rng = random.Random(str(share))
    hear = Sweep._hear
    written = iter(range(200))

    def write_first(self: Sweep) -> None:
        if next(written, None) is not None:
            a, b = rng.sample(range(1, 20_000), 2)
            pair.do("UPDATE OR REPLACE account SET owner = 'moving' WHERE id = ?", (a,))
            pair.do("UPDATE OR REPLACE account SET owner = 'owner ' || ? WHERE id = ?", (a, b))
            pair.do("UPDATE OR REPLACE account SET owner = 'owner ' || ? WHERE id = ?", (b, a))
        hear(self)

    monkeypatch.setattr(Sweep, "_hear", write_first)
    with contextlib.suppress(Temporary):
        pair.pull(cut_after=int(90_000 * share))
    assert pair.pull().answer in ("mirror", "resume", "up_to_date")
    pair.same()
    after = pair.point()
    pair.pull()
    pair.same_at(*after)


@pytest.mark.parametrize(("keep_keys", "reason"), [(100_000, "diverged"), (0, "pruned")])
def test_old_keys_are_not_believed_when_the_source_was_restored_and_its_log_went_past_the_mirror(
    pair: OverrunPair, keep_keys: int, reason: str
) -> None:
    """By number alone the keys seem to reach back; the row at the position was another one.

    What the source has lost stays: as a line of its own where its key tells, else before the hole.
    """
    pair.start(keep_keys=keep_keys)
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    for n in range(20):
        pair.do("UPDATE account SET city = 'lost' WHERE id = ?", (n + 1,))
    lost = pair.point()
    pair.pull()
    pair.db.close()
    for ending in ("-wal", "-shm"):
        pair.path.with_name(f"app.db{ending}").unlink(missing_ok=True)
    backup.replace(pair.path)
    pair.db = apsw.Connection(str(pair.path))
    for n in range(900):
        pair.do("UPDATE account SET city = 'new' WHERE id = ?", (n + 1_000,))
    outcome = pair.pull()
    assert (outcome.reason, rungs(outcome)) == (reason, {"digests"})
    pair.same()
    pair.same_at(*lost)
    with Catalog(pair.store.catalog) as catalog:
        assert [story.reason for story in catalog.line_stories()] == ["first", "diverged"][: 1 + (reason == "diverged")]
        snapshots = [(each.line, each.id) for each in catalog.snapshots()]
    assert ((1, lost[0]) in snapshots) == (reason == "diverged")


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("keep_keys", [100_000, 1])
def test_nothing_is_left_in_the_wal_when_a_mirror_operation_is_over(
    keep_keys: int, reads: bool, pair: OverrunPair, tmp_path: Path
) -> None:
    pair.start(keep_keys=keep_keys)
    alone = tmp_path / "alone.db"
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as reader:
        if reads:
            assert reader.execute("SELECT count(*) FROM account").get
        pair.fall_off()
        assert pair.pull().answer == "mirror"
        alone.write_bytes(pair.store.mirror.read_bytes())
    oracle.assert_same(pair.path, alone)
    pair.same()


def test_log_goes_on_where_it_begins_when_the_mirror_stands_just_before_it(pair: OverrunPair) -> None:
    pair.start(keep_rows=31)
    pair.do("UPDATE account SET city = 1 WHERE id = 1")
    position = pair.pull().position
    assert position is not None
    while pair.db.execute("SELECT min(id) FROM _rollrep_log").fetchone()[0] <= position.id:
        pair.do("UPDATE account SET city = city + 1 WHERE id = 2")
    outcome = pair.pull()
    assert rungs(outcome) <= {bridging.RUNG}
    pair.same()
    pair.whole()


@pytest.mark.parametrize(("ids", "image_rows"), [(1, 65_536), (40, 3), (16_384, 65_536)])
def test_mirror_is_the_source_when_rows_and_unique_values_move_while_keys_are_fetched(
    pair: OverrunPair, ids: int, image_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgotten, "FIRST_IDS", ids)
    monkeypatch.setattr(forgotten, "MOST_IDS", ids)
    monkeypatch.setattr(reader, "IMAGE_ROWS", image_rows)
    rng = random.Random(ids * image_rows)
    pair.start()
    pair.fall_off(400)
    asked = Session.forgotten
    moments = iter(range(150))

    def write_first(self: Session, wanted: object) -> object:
        if next(moments, None) is not None:
            a, b = rng.sample(range(1, 700), 2)
            with pair.db:
                found = dict(pair.db.execute("SELECT id, owner FROM account WHERE id IN (?, ?)", (a, b)))
                for key in found:
                    pair.do("UPDATE account SET owner = 'moving ' || id WHERE id = ?", (key,))
                for key, other in zip(found, reversed(found.values()), strict=True):
                    pair.do("UPDATE account SET owner = ? WHERE id = ?", (other, key))
            pair.do("DELETE FROM account WHERE id = ?", (rng.randrange(700),))
        return asked(self, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "forgotten", write_first)
    outcome = pair.pull()
    assert rungs(outcome) == {bridging.RUNG}
    pair.same()
    after = pair.point()
    pair.pull()
    pair.same_at(*after)
    pair.whole()


def test_fewer_rows_are_looked_up_at_a_time_when_that_takes_long(
    pair: OverrunPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start()
    pair.fall_off(400)
    asked, forgotten_rows = [], Session.forgotten
    monkeypatch.setattr(Session, "forgotten", lambda self, ask: asked.append(ask) or forgotten_rows(self, ask))
    monkeypatch.setattr(forgotten, "FIRST_IDS", 300)
    monkeypatch.setattr(forgotten, "LOOKING_S", 1e-9)
    assert rungs(pair.pull()) == {bridging.RUNG}
    first, second, *more = asked
    assert second.after - first.after == 300
    assert {later.after - each.after for each, later in zip([second, *more], more, strict=False)} == {1}
    pair.same()


def test_tables_are_compared_when_a_row_was_replaced_behind_the_forgotten_keys(pair: OverrunPair) -> None:
    """Rows of several moments may collide in order, and in order is the only way to tell what a REPLACE removed."""
    pair.start()
    pair.fall_off()
    pair.do("REPLACE INTO account SELECT id + 50000, owner, 'r' FROM account WHERE id < 20")
    assert rungs(pair.pull()) == {"digests"}
    pair.same()


@pytest.mark.parametrize("share", [n / 6 for n in range(1, 6)])
def test_bridge_is_gone_on_from_when_the_line_was_cut(
    pair: OverrunPair, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgotten, "FIRST_IDS", 60)
    monkeypatch.setattr(forgotten, "MOST_IDS", 60)
    pair.start()
    before = pair.point()
    pair.pull()
    pair.fall_off()
    with contextlib.suppress(Temporary):
        pair.pull(cut_after=int(40_000 * share))
    pair.do("UPDATE account SET city = 'meanwhile' WHERE id % 700 = 0")
    outcome = pair.pull()
    assert rungs(outcome) == {bridging.RUNG}
    pair.same()
    after = pair.point()
    pair.pull()
    pair.same_at(*before)
    pair.same_at(*after)
    pair.whole()


def test_points_of_archived_rows_stay_when_a_bridge_follows_a_pull_that_died(
    pair: OverrunPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start()
    pair.do("UPDATE account SET city = 'archived' WHERE id < 9")
    archived = pair.point()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Replay, "window", interrupted)
        pair.pull()
    pair.fall_off()
    inside = pair.point()
    pair.fall_off()
    assert rungs(pair.pull()) == {bridging.RUNG}
    pair.same()
    pair.same_at(*archived)
    assert pair.points_at(inside[0]) == []
    pair.whole()


def interrupted(*_: object) -> int:
    raise KeyboardInterrupt


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(5))
def test_mirror_is_the_source_when_applications_outrun_the_log(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real applications with every kind of statement, logs of 60 rows, chunks of a few ids."""
    rng = random.Random(seed)
    for name in ("FIRST_IDS", "MOST_IDS"):
        monkeypatch.setattr(forgotten, name, rng.choice([3, 50, 5_000]))
    schema = ("django", "rails", "bookmarks", "recorder", "notes")[seed % 5]
    keep = tmp_path / "keep"
    keep.mkdir()
    path = make.build(schema, tmp_path / "app.db", rows=300, seed=seed)
    with contextlib.closing(open_source(path)) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        install(db, Limits(keep_rows=60))
    application = Application(path, schema, seed, keep)
    store = Store(tmp_path / "store", "job")
    pull_once(store, path)
    try:
        for _ in range(6):
            application.run(60)
            application.start(30)
            with contextlib.suppress(Temporary):
                pull_once(store, path, cut_after=rng.choice([None, None, 9_000]))
            application.wait()
            outcome = pull_once(store, path)
            kept = keep / f"{outcome.position.id}.db"  # type: ignore[union-attr]
            kept.unlink(missing_ok=True)
            copy_source(path, kept)
            recompute(kept)
            oracle.assert_same(kept, store.mirror)
    finally:
        application.close()
    compared = 0
    with Catalog(store.catalog) as catalog:
        for point in restorable(catalog):
            kept = keep / f"{point.id}.db"
            if kept.exists():
                output = tmp_path / "restored.db"
                restore(store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
                recompute(kept)
                oracle.assert_same(kept, output)
                compared += 1
    assert compared >= 6


def test_compared_ranges_are_not_compared_again_when_the_line_was_cut(
    pair: OverrunPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(300, 300, monkeypatch)
    pair.start(keep_keys=0)
    kept = pair.folder / "kept.db"
    copy_source(pair.store.mirror, kept)
    pair.fall_off()
    asked: list[messages.SendStretch] = []
    ask = Session.ask

    def noted(self: Session, wanted: messages.Ask) -> None:
        if isinstance(wanted, messages.SendStretch):
            asked.append(wanted)
        ask(self, wanted)

    monkeypatch.setattr(Session, "ask", noted)
    with pytest.raises(Temporary):
        pair.pull(cut_after=20_000)
    oracle.assert_same(kept, pair.store.mirror)
    assert pair.store.changes.exists()
    assert not pair.store.staging.exists(), "the mirror is not copied"
    before = len(asked)
    pair.do("UPDATE account SET city = 'meanwhile' WHERE id < 40")
    pair.pull()
    assert asked[before].after_key is not None
    assert not pair.store.changes.exists()
    pair.same()
    pair.whole()


def test_each_table_goes_its_own_way_when_the_schema_changed_and_the_log_is_gone(pair: OverrunPair) -> None:
    pair.start(keep_keys=0)
    pair.fall_off()
    pair.do("ALTER TABLE bare ADD COLUMN w DEFAULT 5; CREATE TABLE fresh(x); INSERT INTO fresh VALUES (1)")
    outcome = pair.pull()
    found = {each.table: each.rung for each in outcome.moved}
    assert found == {"account": "digests", "pair": "digests", "bare": "copy", "fresh": "copy"}
    assert sum(each.rows for each in outcome.moved if each.rung == "digests") < 3_000
    pair.same()
    pair.do("CREATE TRIGGER own AFTER INSERT ON pair BEGIN UPDATE account SET city = new.v WHERE id = new.n; END")
    pair.do("INSERT INTO pair VALUES ('new', 17, 'moved'); UPDATE account SET city = 'x' WHERE id = 9")
    outcome = pair.pull()
    assert outcome.reason == "schema"
    assert {each.rung for each in outcome.moved} == {"digests"}, "the text of no table changed"
    pair.same()
    after = pair.point()
    pair.pull()
    pair.same_at(*after)


@pytest.mark.parametrize("share", [3, 1])
@pytest.mark.parametrize("width", [20, 2_000])
def test_tables_are_right_when_rows_are_wide_or_most_of_them_changed(
    pair: OverrunPair, share: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of(100, 200, monkeypatch)
    wide = f"CREATE TABLE wide(id INTEGER PRIMARY KEY, a UNIQUE, b BLOB); INSERT INTO wide SELECT id * {share}, id,"
    pair.start(f"{FILLED}; {wide} randomblob({width}) FROM account WHERE id <= 4000", keep_keys=0)
    pair.do(f"UPDATE wide SET a = -a, b = randomblob({width}) WHERE id % {share * 3} < 2 * {share}")
    pair.do("DELETE FROM wide WHERE id % 41 = 0")
    pair.do(f"INSERT INTO wide SELECT id + 100000, -id - 10000, randomblob({width}) FROM wide WHERE id % 43 = 0")
    pair.fall_off(400)
    outcome = pair.pull()
    assert rungs(outcome) == {"digests"}
    [moved] = [each for each in outcome.moved if each.table == "wide"]
    assert moved.rows < 4_200
    pair.same()


@pytest.mark.parametrize("ends", [LogOverrun(1), SchemaChanged()])
def test_pull_goes_on_when_the_log_rolls_over_with_a_question_under_way(
    pair: OverrunPair, ends: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to what was asked ahead comes all the same; it is none to the Hello that follows."""
    answers_of(300, 300, monkeypatch)
    pair.start(keep_keys=0)
    pair.fall_off()
    read, answers = Session.read, iter([None, None, ends])

    def fail(self: Session, after: int, kind: type) -> object:
        found = read(self, after, kind)
        if error := next(answers, None):
            assert self._unread, "else nothing was under way"
            raise error
        return found

    monkeypatch.setattr(Session, "read", fail)
    assert pair.pull().answer == "mirror"
    assert next(answers, "none left") == "none left"
    pair.same()
