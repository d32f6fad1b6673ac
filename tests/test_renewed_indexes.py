"""Indexes that were away between two pulls and are there again by the same text; and changes of which keys tell nothing.

pull ──► DROP INDEX ──► rows that it would not have let in, or VACUUM ──► CREATE INDEX ──► pull
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import features
import pytest
from pair import FollowedPair

from rollrep.source import reader
from rollrep.source.install import install
from rollrep.source.tables import CAPTURE, NEWER_INDEXES, SCHEMA_TEXT, WRITE_POINT, Limits

NOTES = "CREATE TABLE note(text, n); CREATE INDEX by_n ON note(n);" + "".join(
    f"INSERT INTO note VALUES ('t{n}', {n});" for n in range(10)
)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def loaded_without_its_index(pair: FollowedPair) -> None:
    pair.do("DROP INDEX by_u")
    pair.do("INSERT INTO t VALUES (2, 'a', 2), (3, 'e', 3)")
    pair.do("DELETE FROM t WHERE id NOT IN (SELECT min(id) FROM t GROUP BY u)")
    pair.do("CREATE UNIQUE INDEX by_u ON t(u)")


@pytest.mark.parametrize("image_rows", [1, 65_536])
def test_rows_stay_when_they_were_loaded_while_a_unique_index_was_away(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch, image_rows: int
) -> None:
    monkeypatch.setattr(reader, "IMAGE_ROWS", image_rows)
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, u, n); CREATE UNIQUE INDEX by_u ON t(u); CREATE TABLE other(n)")
    pair.do("INSERT INTO t VALUES (1, 'a', 1), (5, 'e', 5), (7, 'g', 7)")
    before = pair.point_pulled()
    loaded_without_its_index(pair)
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["t"]
    pair.latest_is_the_source()
    pair.same_at(*before)
    pair.do("INSERT OR REPLACE INTO t VALUES (9, 'e', 9)")
    pair.same()


def test_rows_stay_when_the_schema_was_captured_anew_before_the_pull(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, u, n); CREATE UNIQUE INDEX by_u ON t(u)")
    pair.do("INSERT INTO t VALUES (1, 'a', 1), (5, 'e', 5), (7, 'g', 7)")
    pair.same()
    loaded_without_its_index(pair)
    pair.install()
    assert pair.pull() == ("mirror", "schema")
    pair.latest_is_the_source()


@pytest.mark.parametrize("again", ["by_n ON note(n)", "by_text ON note(text)"], ids=["the_same", "another"])
def test_rows_keep_their_numbers_when_the_only_index_was_away_for_a_vacuum(pair: FollowedPair, again: str) -> None:
    pair.start(NOTES)
    pair.do("DELETE FROM note WHERE n < 3")
    pair.same()
    for statement in ("DROP INDEX by_n", "VACUUM", f"CREATE INDEX {again}", "DELETE FROM note WHERE n = 5"):
        pair.do(statement)
    assert pair.pull() == ("mirror", "schema")
    pair.latest_is_the_source()


def test_nothing_is_mirrored_when_an_index_came_and_the_database_was_vacuumed(pair: FollowedPair) -> None:
    pair.start(NOTES)
    pair.do("CREATE INDEX by_text ON note(text)")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == []
    for _ in range(2):
        pair.do("DELETE FROM note WHERE n = 5")
        pair.do("VACUUM")
        pair.same()


@pytest.mark.parametrize("how", ["column", "vacuum"])
def test_change_that_no_row_tells_arrives_when_the_keys_are_forgotten(pair: FollowedPair, how: str) -> None:
    pair.create(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, c); CREATE TABLE busy(id INTEGER PRIMARY KEY, v); INSERT INTO busy VALUES (2, 'stays');"
        f"INSERT INTO t VALUES (1, 'x', 'old'), (9000000, 'y', 'old'); {NOTES} DELETE FROM note WHERE n = 1",
        Limits(keep_rows=64, keep_keys=64),
    )
    assert pair.pull() == ("mirror", "first")
    if how == "column":
        pair.do("ALTER TABLE t DROP COLUMN c")
        pair.do("ALTER TABLE t ADD COLUMN c")
        pair.do("UPDATE t SET c = 'new' WHERE id = 9000000")
    else:
        for statement in ("DROP INDEX by_n", "VACUUM", "CREATE INDEX by_n ON note(n)"):
            pair.do(statement)
    for n in range(1_000):
        pair.do("INSERT OR REPLACE INTO busy(id, v) VALUES (1, ?)", (n,))
    assert pair.pull()[0] == "mirror"
    pair.latest_is_the_source()


def captured_by_an_older_version(pair: FollowedPair, index: str) -> None:
    """Its text of the schema has no line for the newer indexes, and its trigger stays where it stood, before `index`."""
    newest = f" || char(10) || ifnull((SELECT group_concat(name) FROM ({NEWER_INDEXES}"
    older = SCHEMA_TEXT[: SCHEMA_TEXT.index(newest)]
    (text,) = next(pair.db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (WRITE_POINT,)))
    (made,) = next(pair.db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (index,)))
    for statement in (
        f"DROP INDEX {index}",
        f"DROP TRIGGER {WRITE_POINT}",
        text.replace(SCHEMA_TEXT, older),
        made,
        f"UPDATE _rollrep_meta SET schema_text = {older}",
    ):
        pair.do(statement)


def test_no_table_is_mirrored_and_no_point_lost_when_an_older_version_captured_the_log(pair: FollowedPair) -> None:
    pair.start(NOTES)
    pair.do("CREATE INDEX by_text ON note(text)")
    pair.pull()
    captured_by_an_older_version(pair, "by_text")
    pair.do("UPDATE note SET text = 'later' WHERE n = 2")
    before = pair.point()
    pair.do("UPDATE note SET text = 'last' WHERE n = 2")
    pair.same()
    pair.latest_is_the_source()
    pair.same_at(*before)
    pair.do("DROP INDEX by_text")
    pair.do("CREATE INDEX by_text ON note(text)")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["note"]


def test_triggers_are_made_anew_by_the_first_pull_when_an_older_capture_differs_in_them_alone(
    pair: FollowedPair,
) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE u(v)")
    trigger = "_rollrep_insert_t"
    (text,) = next(pair.db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (trigger,)))
    for statement in (f"DROP TRIGGER {trigger}", text.replace("julianday('now')", "julianday('2000-01-01')")):
        pair.do(statement)
    older = SCHEMA_TEXT.replace(f"'capture {CAPTURE}'", f"'capture {CAPTURE - 1}'")
    pair.do(f"UPDATE _rollrep_meta SET schema_text = {older}")
    pair.do("INSERT INTO t VALUES (1, 1)")
    pair.pull()
    assert pair.tables_mirrored == ["t"]
    assert next(pair.db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (trigger,)))[0] != text.replace(
        "julianday('now')", "julianday('2000-01-01')"
    )
    pair.latest_is_the_source()


def test_number_of_capture_is_raised_when_a_trigger_says_something_else() -> None:
    """Where this is red: raise CAPTURE, and put what it says here."""
    texts: list[str] = []
    for schema, _ in features.CARRIED.values():
        with contextlib.closing(apsw.Connection(":memory:")) as db:
            try:
                db.execute(schema)
                install(db, Limits())
            except apsw.Error:
                continue  # what only a plugin or a file gives
            texts += [
                sql.replace(f"'capture {CAPTURE}'", "")
                for (sql,) in db.execute(
                    "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '_rollrep_*' ORDER BY name"
                )
            ]
    assert len(texts) > 300
    assert (CAPTURE, hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]) == (2, "2bdd1afc0f4c8974")
