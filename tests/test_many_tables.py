"""Databases with very many tables: what reads the whole schema does so as often as with few.

    sqlite_schema   one row per table, index and trigger: with a thousand tables 10 MB
    read once for each table, that is 10 GB

Counted are statements and pages, not seconds: those stand in `bench/large.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from pair import FollowedPair
from sources import pull_once

from rollrep.destination.differences import beside, compare
from rollrep.destination.pull import Outcome
from rollrep.source.database import open_source
from rollrep.source.install import install, release_all, uninstall
from rollrep.source.tables import Limits

FEW, MANY = 3, 30
SCHEMA = re.compile(r"\bsqlite_(schema|master)\b", re.IGNORECASE)


def tables(count: int) -> str:
    return "".join(
        f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, name UNIQUE, a); CREATE UNIQUE INDEX a{n} ON t{n}(a) WHERE a > 0;"
        f"INSERT INTO t{n} VALUES (1, 'one', {n});"
        # Without a key it gets a pin.
        f"CREATE TABLE note{n}(text, b); INSERT INTO note{n} VALUES ('one', {n});"
        for n in range(count)
    )


def followed(folder: Path, count: int) -> FollowedPair:
    folder.mkdir()
    pair = FollowedPair(folder)
    pair.start(tables(count))
    return pair


@contextlib.contextmanager
def statements(path: Path) -> Iterator[list[str]]:
    """Those of connections to `path` that are opened meanwhile."""
    found: list[str] = []

    def watch(db: apsw.Connection) -> None:
        if db.filename == str(path):
            db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: found.append(event["sql"]))

    apsw.connection_hooks.append(watch)
    try:
        yield found
    finally:
        apsw.connection_hooks.remove(watch)


def readings(found: list[str]) -> int:
    """How many of them read SQLite's schema table; without a row of it they only ask whether it is as it was."""
    return sum(1 for sql in found if SCHEMA.search(sql) and not sql.endswith(" LIMIT 0"))


def pulled(pair: FollowedPair, answer: str) -> Outcome:
    outcome = pull_once(pair.store, pair.path)
    assert outcome.answer == answer
    return outcome


def installed(pair: FollowedPair) -> None:
    with contextlib.closing(open_source(pair.path)) as db:
        assert not install(db, Limits()).captured


def pulled_after_doubtful_changes(pair: FollowedPair) -> None:
    """They leave no trace, so that each table has to show by a row that its last column is what it was."""
    for _ in range(2):
        pair.do("CREATE VIEW v AS SELECT 1")
        pair.do("DROP VIEW v")
    pulled(pair, "up_to_date")


def pulled_after_a_change(pair: FollowedPair) -> None:
    pair.do("ALTER TABLE t1 ADD COLUMN more")
    assert pulled(pair, "mirror").tables_mirrored == ["t1"]


@pytest.mark.parametrize(
    "done",
    [installed, pulled_after_a_change, pulled_after_doubtful_changes],
    ids=["install again", "a pull after a change", "a pull after doubtful changes"],
)
def test_schema_is_read_as_often_when_tables_are_many(tmp_path: Path, done: Callable[[FollowedPair], object]) -> None:
    counted = []
    for count in (FEW, MANY):
        pair = followed(tmp_path / str(count), count)
        with statements(pair.path) as found:
            done(pair)
        counted.append(readings(found))
        assert not any("instr(" in sql and "schema_text" in sql for sql in found), (
            "that is all of the text for each object"
        )
    assert counted[0] == counted[1] > 0


def test_no_table_is_looked_at_when_nothing_has_changed(tmp_path: Path) -> None:
    counted = []
    for count in (FEW, MANY):
        pair = followed(tmp_path / str(count), count)
        with statements(pair.path) as found:
            pulled(pair, "up_to_date")
        counted.append(len(found))
    assert counted[0] == counted[1] > 0


def test_no_table_costs_a_reading_of_the_schema_when_each_is_compared(tmp_path: Path) -> None:
    counted = []
    for count in (FEW, MANY):
        pair = followed(tmp_path / str(count), count)
        with contextlib.closing(open_source(pair.path)) as db:
            install(db, Limits(), in_doubt=[f"t{n}" for n in range(count)])
        with statements(pair.path) as at_source, statements(pair.store.staging) as at_mirror:
            assert len(pulled(pair, "mirror").tables_mirrored) == count
        counted.append((readings(at_source), readings(at_mirror)))
    assert counted[0] == counted[1]
    assert min(counted[0]) > 0


def test_tables_are_listed_as_often_when_many_are_compared(tmp_path: Path) -> None:
    """To ask SQLite of one by its name lists all of them."""
    counted = []
    for count in (FEW, MANY):
        before, after = tmp_path / f"{count}.db", tmp_path / f"{count} later.db"
        for path in (before, after):
            with contextlib.closing(apsw.Connection(str(path))) as db:
                db.execute(tables(count))
        found: list[str] = []
        with beside(before, after) as db:
            db.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event, found=found: found.append(event["sql"]))
            assert compare(db).is_empty
        counted.append(sum("table_list" in sql for sql in found))
    assert counted[0] == counted[1] > 0


def test_schema_is_kept_in_memory_when_capture_of_many_tables_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(tables(MANY))
    for change in (lambda db: install(db, Limits()), lambda db: install(db, Limits()), release_all, uninstall):
        with contextlib.closing(open_source(path)) as db:
            db.execute("PRAGMA cache_size = 10")
            change(db)
            missed = db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
            assert missed <= 2 * db.pragma("page_count"), "each of its pages is read once, or nearly"
            assert db.pragma("cache_size") == 10
