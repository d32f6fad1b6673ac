"""Forgotten ranges: of what nobody remembers the keys, only where it was written to is compared."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import Pair
from sources import copy_source, pull_once

from rollrep.core.errors import RollrepError
from rollrep.core.nouns import PREFIX
from rollrep.destination.catalog import Catalog
from rollrep.destination.pull import Outcome
from rollrep.source import forgotten_ranges as source_ranges
from rollrep.source import tables
from rollrep.source.install import install
from rollrep.source.log import read_meta
from rollrep.source.tables import LONGEST_STEP, Limits
from rollrep.wire import forgotten_ranges, messages
from rollrep.wire.forgotten_ranges import RANGES, SLOTS
from rollrep.wire.session import Session

WIDTH = 64
ROWS = 20_000
SCHEMA = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city);"
    f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})"
    " INSERT INTO account SELECT i, 'owner ' || i, hex(randomblob(20)) FROM c;"
    "CREATE TABLE cold(v); INSERT INTO cold SELECT id FROM account WHERE id < 500;"
    "CREATE TABLE named(name TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO named SELECT owner, id FROM account"
    " WHERE id < 500"
)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten_ranges, "LEAST_WIDTH", WIDTH)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.db.close()


def start(pair: Pair, schema: str = SCHEMA, *, keep_keys: int = 50) -> None:
    pair.create(schema, Limits(keep_rows=100, keep_keys=keep_keys))
    pair.do("PRAGMA synchronous = OFF")
    pull_once(pair.store, pair.path)
    # So that a row before the position is still known: ranges say of most ids only that there were newer ones.
    for n in range(300):
        pair.do("UPDATE account SET city = 'early' WHERE id = ?", (ROWS - 40 * n,))
        if n % 60 == 59:
            assert pull_once(pair.store, pair.path).answer == "resume"


def write(pair: Pair, ids: range, times: int = 400) -> None:
    for n in range(times):
        pair.do("UPDATE account SET city = ? WHERE id = ?", (f"city {n}", ids[n % len(ids)]))


class Asked:
    """What a pull asks the source to compare: the keys of each table."""

    def __init__(self) -> None:
        self.spans: dict[int, list[tuple[int | None, int | None]]] = {}

    def note(self, message: object) -> None:
        if isinstance(message, messages.SendStretch):
            ends = [int(key[0][2:]) if key and key[0][0] == "i" else None for key in
                    (message.after_key, message.through_key)]  # fmt: skip
            self.spans.setdefault(message.shape, []).append((ends[0], ends[1]))

    def within(self, shape: int, first: int, last: int) -> bool:
        return all(
            after is not None and through is not None and first - WIDTH <= after and through <= last + WIDTH
            for after, through in self.spans[shape]
        )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found, say = Asked(), Session._say
    monkeypatch.setattr(Session, "_say", lambda self, message: (found.note(message), say(self, message))[1])
    return found


def pulled(pair: Pair, asked: Asked) -> Outcome:
    asked.spans.clear()
    outcome = pull_once(pair.store, pair.path)
    oracle.assert_same(pair.path, pair.store.mirror)
    return outcome


def test_only_ranges_that_were_written_to_are_compared(pair: Pair, asked: Asked) -> None:
    start(pair)
    write(pair, range(5_000, 5_300))
    outcome = pulled(pair, asked)
    assert {each.table: (each.rung, each.rows) for each in outcome.moved} == {
        "account": ("digests", 300),
        "cold": ("digests", 0),
        "named": ("digests", 0),
    }
    assert len(asked.spans) == 1, "nobody wrote to the others"
    # The anchor lies before the position: what was written between counts too.
    [spans] = asked.spans.values()
    compared = sum((through or ROWS) - (after or 0) for after, through in spans)
    assert compared < ROWS // 4
    write(pair, range(100, 200))
    pair.do("UPDATE named SET v = -v WHERE name = 'owner 7'")
    write(pair, range(9_000, 9_010))
    outcome = pulled(pair, asked)
    assert {each.table: each.rows for each in outcome.moved} == {"account": 110, "cold": 0, "named": 1}
    assert len(asked.spans) == 2


@pytest.mark.parametrize("archived", [0, 70])
def test_ranges_are_known_when_no_row_up_to_the_position_left_one(
    archived: int, pair: Pair, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every so many ids one is remembered, the first of all among them."""
    monkeypatch.setattr(tables, "ANCHOR_IDS", 50)
    pair.create(SCHEMA, Limits(keep_rows=100, keep_keys=50))
    pull_once(pair.store, pair.path)
    write(pair, range(5_000, 5_300), archived)
    pull_once(pair.store, pair.path)
    write(pair, range(5_000, 5_300), 600)
    pulled(pair, asked)
    [spans] = asked.spans.values()
    assert all(5_000 - WIDTH < after < through < 5_300 + WIDTH for after, through in spans if after and through)


def test_ranges_behind_the_position_count_when_its_key_is_known_and_a_row_was_replaced(
    pair: Pair, asked: Asked
) -> None:
    """The forgotten keys reach back; a REPLACE behind them makes the tables be compared all the same."""
    start(pair, keep_keys=100_000)
    write(pair, range(7_000, 7_200))
    pair.do("REPLACE INTO account VALUES (12345, 'owner 15000', 'replaced')")
    assert {each.rung for each in pulled(pair, asked).moved} == {"digests"}
    [shape] = asked.spans
    for lost in (7_000, 12_345, 15_000):
        assert any((after or 0) < lost <= (through or ROWS) for after, through in asked.spans[shape])
    assert sum((through or ROWS) - (after or 0) for after, through in asked.spans[shape]) < 1_000


def test_rows_that_only_the_lost_history_wrote_are_compared_when_the_source_was_put_back(
    pair: Pair, asked: Asked
) -> None:
    """Its new rows have ids like the lost ones, and lie elsewhere: what is archived here says where those lay."""
    start(pair)
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    for n in range(20):
        pair.do("UPDATE account SET city = 'lost' WHERE id = ?", (15_000 + n,))
    pull_once(pair.store, pair.path)
    pair.db.close()
    for ending in ("-wal", "-shm"):
        pair.path.with_name(f"app.db{ending}").unlink(missing_ok=True)
    backup.replace(pair.path)
    pair.db = apsw.Connection(str(pair.path))
    write(pair, range(1_000, 1_400), 900)
    assert pulled(pair, asked).reason == "pruned"
    [spans] = asked.spans.values()
    assert any((after or 0) < 15_000 <= (through or ROWS) for after, through in spans)
    assert sum((through or ROWS) - (after or 0) for after, through in spans) < ROWS // 2


def test_everything_is_compared_when_the_anchor_is_not_archived(pair: Pair, asked: Asked) -> None:
    start(pair)
    # Where the position's own range is written to again, the row that is known lies before it.
    pair.do("UPDATE account SET city = 'at the position' WHERE id = 5000")
    pull_once(pair.store, pair.path)
    with Catalog(pair.store.catalog) as catalog:
        for segment in catalog.segments_after(1, catalog.segments()[0].first - 1):
            catalog.drop_segment(segment)
            (pair.store.folder / segment.path).unlink()
    write(pair, range(5_000, 5_300))
    pulled(pair, asked)
    assert len(asked.spans) == 3
    assert all(spans[0] == (None, None) for spans in asked.spans.values())


def test_everything_is_compared_when_a_mirror_is_asked_for(pair: Pair, asked: Asked) -> None:
    start(pair)
    write(pair, range(5_000, 5_300))
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute("UPDATE account SET city = 'by hand' WHERE id = 17000")
    pull_once(pair.store, pair.path, mirror=True)
    oracle.assert_same(pair.path, pair.store.mirror)
    assert all(spans[0] == (None, None) for spans in asked.spans.values())


def test_removed_row_is_gone_when_its_table_does_not_announce_removals(pair: Pair, asked: Asked) -> None:
    """A UNIQUE index that can't be probed: a REPLACE elsewhere in the table removes a row that nothing speaks of."""
    start(pair, SCHEMA + "; CREATE TABLE odd(id INTEGER PRIMARY KEY, v, w AS (v % 100000) UNIQUE)")
    pair.do("INSERT INTO odd(id, v) SELECT id, id FROM account")
    for n in range(100):
        pair.do("UPDATE odd SET v = v + 100000 WHERE id = ?", (3_000 + n,))
    pull_once(pair.store, pair.path)
    pair.do("REPLACE INTO odd(id, v) VALUES (30, 9000)")
    write(pair, range(5_000, 5_300))
    pulled(pair, asked)
    assert not pair.db.execute("SELECT 1 FROM odd WHERE id = 9000").fetchall()


@pytest.mark.parametrize("first", [-(1 << 63), -5, 1, ROWS * 40, (1 << 63) - 400])
def test_mirror_is_the_source_when_keys_lie_anywhere(pair: Pair, asked: Asked, first: int) -> None:
    start(pair)
    for n in range(350):
        pair.do("INSERT OR REPLACE INTO account VALUES (?, ?, 'new')", (first + n, f"new {n}"))
    pair.do("DELETE FROM account WHERE city = 'new' AND id % 3 = 0")
    assert {each.rung for each in pulled(pair, asked).moved} == {"digests"}


def test_mirror_is_the_source_when_the_largest_key_was_there_from_the_start(pair: Pair, asked: Asked) -> None:
    start(pair, SCHEMA + f"; INSERT INTO account VALUES ({(1 << 63) - 1}, 'last', 'old')")
    write(pair, range((1 << 63) - 1, 1 << 63))
    pulled(pair, asked)
    assert [spans[-1][1] for spans in asked.spans.values()] == [None]


@pytest.mark.parametrize("limit", ["MOST_OF_ONE", "MOST"])
def test_all_is_compared_when_too_many_ranges_were_written_to(
    limit: str, pair: Pair, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of them must fit into a message, however many tables there are."""
    monkeypatch.setattr(source_ranges, limit, 3)
    start(pair)
    write(pair, range(2_000, 18_000, 100))
    pulled(pair, asked)
    assert len(asked.spans) == (1 if limit == "MOST_OF_ONE" else 3)
    assert all(spans[0] == (None, None) for spans in asked.spans.values())


@pytest.mark.parametrize("seed", range(2))
def test_each_forgotten_key_lies_in_a_range_that_is_as_new(seed: int, tmp_path: Path) -> None:
    """Every id that was pruned: its key's range has this id or a later one, and that one's time."""
    rng = random.Random(seed)
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE a(id INTEGER PRIMARY KEY, v)")
        db.execute("CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID")
        db.executemany("INSERT INTO a VALUES (?, 0)", ((n,) for n in range(2_000)))
    with contextlib.closing(apsw.Connection(str(path))) as log:
        install(log, Limits(keep_rows=40, keep_keys=60))
        [(width,)] = log.execute(f"SELECT range_width FROM {PREFIX}shape WHERE tbl = 'a'")
        assert width == WIDTH
        written: dict[int, int] = {}
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA synchronous = OFF")
            for _ in range(700):
                key = rng.choice([rng.randrange(2_000), rng.randrange(-300, 0), rng.randrange(1 << 40)])
                if rng.random() < 0.1:
                    db.execute("INSERT OR REPLACE INTO b VALUES (?, ?)", (f"k{key % 9}", key))
                else:
                    db.execute("INSERT OR IGNORE INTO a VALUES (?, 1)", (key,))
                    db.execute("UPDATE a SET v = v + 1 WHERE id = ?", (key,))
                    [(newest,)] = db.execute(f"SELECT max(id) FROM {PREFIX}log")
                    written[newest] = key
                db.commit()
        fallen = read_meta(log).forgotten_through
        assert fallen > 500
        found = log.execute(f"SELECT key, id, at FROM {PREFIX}range").fetchall()
        ranges = {key: (newest, at) for key, newest, at in found if key > 0}
        assert [(key, oldest) for key, oldest, _ in found if key < 0] == [(-1, 1)]
        assert len(ranges) <= 2 * (RANGES + 1)
        for log_id, key in written.items():
            if log_id <= fallen:
                number = max(0, min(RANGES - 1, int(key / WIDTH)))
                assert ranges[SLOTS + number][0] >= log_id
        assert 2 * SLOTS + RANGES in ranges, "of text keys only that there were some"
        assert all(newest <= fallen and at > 2_400_000 for newest, at in ranges.values())


def test_log_of_an_older_rollrep_says_what_to_do(pair: Pair) -> None:
    start(pair)
    pair.do(f"UPDATE {PREFIX}meta SET format = 2; DROP TABLE {PREFIX}range; DROP TRIGGER {PREFIX}prune")
    with pytest.raises(RollrepError, match="made by an older rollrep") as refused:
        pull_once(pair.store, pair.path)
    assert "rollrep source install" in refused.value.remedy
    install(pair.db, Limits())
    pair.do("UPDATE account SET city = 'later' WHERE id = 1")
    assert pull_once(pair.store, pair.path).answer == "mirror"
    oracle.assert_same(pair.path, pair.store.mirror)


def test_steps_of_pruning_are_as_long_as_they_were() -> None:
    """One range for each key of a step at most, so a step stays one of some thousand rows."""
    assert Limits().step <= LONGEST_STEP
