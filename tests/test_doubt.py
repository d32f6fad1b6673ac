"""Indexes and triggers that came and went between two pulls: the schema is as it was, the rows are not as the log says.

pull ──► CREATE UNIQUE INDEX ──► a REPLACE that nobody announced ──► DROP INDEX ──► pull
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anything
import oracle
import pytest
from draws import SeededDraw, attempt, create, write
from pair import FollowedPair

from rollrep.source.tables import NEWEST_OBJECTS, Limits

TABLES = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, name, n); INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2);"
    "CREATE TABLE other(id INTEGER PRIMARY KEY, n); INSERT INTO other VALUES (1, 1)"
)
INDEX = ("CREATE UNIQUE INDEX once ON t(name)", "INSERT OR REPLACE INTO t VALUES (3, 'a', 3)", "DROP INDEX once")
PASSING = {
    "index": INDEX,
    "trigger": (
        "CREATE TRIGGER once AFTER INSERT ON t BEGIN UPDATE t SET n = 7 WHERE id = new.id; END",
        "INSERT INTO t VALUES (3, 'c', 3)",
        "DROP TRIGGER once",
    ),
    "index_behind_newer_tables": (
        INDEX[0],
        *(f"CREATE TABLE newer{n}(a)" for n in range(NEWEST_OBJECTS - 1)),
        INDEX[1],
        *(f"DROP TABLE newer{n}" for n in range(NEWEST_OBJECTS - 1)),
        INDEX[2],
    ),
    "index_in_one_transaction": ("BEGIN", *INDEX, "COMMIT"),
    "index_and_vacuum": (*INDEX, "VACUUM"),
    "index_and_a_column_that_stays": (*INDEX, "ALTER TABLE other ADD COLUMN more DEFAULT 5"),
    "index_and_a_row_of_the_same_key_later": (*INDEX, "INSERT INTO t VALUES (4, 'd', 4)", "DELETE FROM t WHERE id = 3"),
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


@pytest.mark.parametrize("what", PASSING)
def test_rows_are_right_when_an_index_or_trigger_came_and_went(pair: FollowedPair, what: str) -> None:
    pair.start(TABLES)
    before = pair.point_pulled()
    for statement in PASSING[what]:
        pair.do(statement)
    assert pair.pull() == ("mirror", "schema")
    assert "t" in pair.tables_mirrored
    pair.latest_is_the_source()
    pair.same_at(*before)
    pair.do("UPDATE t SET n = n + 1")
    assert pair.pull() == ("resume", "")
    pair.latest_is_the_source()


def test_only_tables_that_were_written_meanwhile_are_mirrored_again(pair: FollowedPair) -> None:
    pair.start(TABLES)
    for statement in INDEX:
        pair.do(statement)
    pair.do("INSERT INTO other VALUES (2, 2)")
    pair.pull()
    assert pair.tables_mirrored == ["t"]
    pair.latest_is_the_source()


def test_rows_are_right_when_another_table_was_captured_anew_before_the_pull(pair: FollowedPair) -> None:
    pair.start(TABLES)
    for statement in INDEX:
        pair.do(statement)
    pair.do("CREATE UNIQUE INDEX lasting ON other(n)")
    pair.install()
    pair.pull()
    pair.latest_is_the_source()


def test_rows_are_right_when_even_their_keys_are_forgotten(pair: FollowedPair) -> None:
    pair.create(TABLES, Limits(keep_rows=40, keep_keys=40))
    pair.pull()
    for statement in INDEX:
        pair.do(statement)
    for n in range(300):
        pair.do(f"INSERT INTO other(n) VALUES ({n})")
    pair.pull()
    pair.latest_is_the_source()


@pytest.mark.parametrize(
    "meanwhile",
    [
        ("VACUUM", "INSERT INTO t VALUES (3, 'c', 3)", "VACUUM", "VACUUM"),
        (
            "CREATE TABLE scratch(a UNIQUE, b)",
            "CREATE UNIQUE INDEX by_b ON scratch(b)",
            "INSERT INTO t VALUES (3, 'c', 3)",
            "DROP TABLE scratch",
        ),
        ("CREATE INDEX once ON t(name)", "INSERT OR REPLACE INTO t VALUES (3, 'a', 3)", "DROP INDEX once"),
        ("CREATE UNIQUE INDEX once ON t(name)", "DROP INDEX once", "INSERT OR REPLACE INTO t VALUES (3, 'a', 3)"),
    ],
    ids=["vacuum", "scratch_table", "index_that_is_not_unique", "nothing_written_meanwhile"],
)
def test_nothing_is_mirrored_again_when_nothing_could_have_acted_unseen(
    pair: FollowedPair, meanwhile: tuple[str, ...]
) -> None:
    pair.start(TABLES.replace("n)", "n NOT NULL DEFAULT 0)"))
    for statement in meanwhile:
        pair.do(statement)
    assert pair.pull() == ("resume", "")
    pair.latest_is_the_source()


@pytest.mark.parametrize("seed", range(290, 314))
def test_mirror_is_the_source_when_anything_came_and_went(pair: FollowedPair, seed: int) -> None:
    draw = SeededDraw(seed)
    create(pair.db, draw)
    write(pair.db, draw, 15)
    pair.install()
    pair.pull()
    tables = anything.read_tables(pair.db)
    for _ in range(draw.count(1, 4)):
        table = draw.pick(tables)
        index = anything.create_index(draw, table, "passing")
        trigger = anything.create_trigger(draw, table, draw.pick(tables), "passing")
        made = draw.pick([sql for sql in (index, trigger) if "RAISE(IGNORE)" not in sql])
        if attempt(pair.db, made):
            for _ in range(draw.count(1, 6)):
                attempt(pair.db, anything.insert(draw, table, "OR REPLACE"))
                write(pair.db, draw, 1)
            attempt(pair.db, f"DROP {'INDEX' if made == index else 'TRIGGER'} passing")
        if draw.chance(3):
            pair.pull()
    pair.pull()
    oracle.assert_same(pair.path, pair.store.mirror)
