"""Virtual tables: searching the mirror and a restore gives what searching the source gives.

    a random application ──► pulls in between ──► mirror, and a restore of every point
    oracle: shadow tables row for row (tests/oracle.py), searches with ranks, and the modules' own checks

What only the ends of pulls see is compared there; what a point in between can't have must be said, and what it
does have must be a state that the source had.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import oracle
import pytest
from sources import copy_source, pull_once

from rollrep.core.errors import RollrepError
from rollrep.destination import pull as puller
from rollrep.destination import shadow_pull
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.pull import Outcome
from rollrep.destination.restore import Restored, plan, restore
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.store import Store
from rollrep.source import reader, shadows
from rollrep.source.install import install
from rollrep.source.log import write_point
from rollrep.source.tables import Limits

ONLY = os.environ.get("ROLLREP_SEED")
SEEDS = [int(ONLY)] if ONLY else range(int(os.environ.get("ROLLREP_SEEDS", "8")))

SCHEMA = """
CREATE TABLE note(id INTEGER PRIMARY KEY, title TEXT, body TEXT);
CREATE VIRTUAL TABLE own USING fts5(title, body, extra UNINDEXED, prefix='2', tokenize='porter unicode61');
CREATE VIRTUAL TABLE outer5 USING fts5(title, body, content='note', content_rowid='id');
CREATE TRIGGER note_i AFTER INSERT ON note BEGIN
  INSERT INTO outer5(rowid, title, body) VALUES (new.id, new.title, new.body); END;
CREATE TRIGGER note_d AFTER DELETE ON note BEGIN
  INSERT INTO outer5(outer5, rowid, title, body) VALUES ('delete', old.id, old.title, old.body); END;
CREATE TRIGGER note_u AFTER UPDATE ON note BEGIN
  INSERT INTO outer5(outer5, rowid, title, body) VALUES ('delete', old.id, old.title, old.body);
  INSERT INTO outer5(rowid, title, body) VALUES (new.id, new.title, new.body); END;
CREATE VIRTUAL TABLE bare USING fts5(a, content='', contentless_delete=1);
CREATE VIRTUAL TABLE old4 USING fts4(a, b, notindexed=b);
CREATE VIRTUAL TABLE place USING rtree(id, x0, x1, y0, y1, +name);
CREATE VIRTUAL TABLE grid USING rtree_i32(id, a, b);
CREATE VIRTUAL TABLE shape USING geopoly(label);
"""
WORDS = [
    "ash",
    "birch",
    "cedar",
    "elm",
    "fir",
    "hazel",
    "larch",
    "maple",
    "oak",
    "pine",
    "rowan",
    "willow",
    "yew",
    "??",
    "--",
    "ÄRGER",
    "東京",
]
SEARCHES = {
    "own": "SELECT rowid, *, rank FROM own WHERE own MATCH ? ORDER BY rank, rowid",
    "outer5": "SELECT rowid, *, bm25(outer5, 2, 1) FROM outer5 WHERE outer5 MATCH ? ORDER BY rowid",
    "bare": "SELECT rowid, rank FROM bare WHERE bare MATCH ? ORDER BY rowid",
    "old4": "SELECT docid, *, hex(matchinfo(old4)) FROM old4 WHERE old4 MATCH ? ORDER BY docid",
}
BOXES = {
    "place": "SELECT * FROM place WHERE x0 < ?1 + 40 AND x1 > ?1 ORDER BY id",
    "grid": "SELECT * FROM grid WHERE a < ?1 + 40 AND b > ?1 ORDER BY id",
}


def rollrep(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rollrep", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def searched(db: apsw.Connection) -> dict[str, Any]:
    """What an application would see."""
    found: dict[str, Any] = {}
    for table, query in SEARCHES.items():
        for word in ("oak", "pine OR elm", "wil*", "東京", "ärger"):
            found[f"{table} {word}"] = db.execute(query, (word,)).fetchall()
    for table, query in BOXES.items():
        for at in (-20, 0, 30):
            found[f"{table} {at}"] = db.execute(query, (at,)).fetchall()
    found["shape"] = db.execute("SELECT rowid, label, geopoly_area(_shape) FROM shape ORDER BY rowid").fetchall()
    found["vocabulary"] = db.execute("SELECT * FROM words ORDER BY 1").fetchall() if has(db, "words") else None
    return found


def has(db: apsw.Connection, name: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone() is not None


def assert_searches_alike(one: Path, other: Path) -> None:
    with contextlib.closing(apsw.Connection(str(one))) as a, contextlib.closing(apsw.Connection(str(other))) as b:
        assert searched(a) == searched(b)
        for db in (a, b):
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for table in ("own", "outer5", "bare", "old4"):
                db.execute(f"INSERT INTO {table}({table}) VALUES ('integrity-check')").fetchall()
            for table in ("place", "grid"):
                assert db.execute("SELECT rtreecheck('main', ?)", (table,)).fetchone() == ("ok",)


class Indexed:
    """A source with virtual tables, and its mirror."""

    def __init__(self, folder: Path, schema: str = SCHEMA, seed: int = 0, journal: str = "WAL") -> None:
        self.folder = folder
        self.path = folder / "app.db"
        self.store = Store(folder / "store", "job")
        self.rng = random.Random(seed)
        self.kept: dict[int, Path] = {}
        self.snapshot_s = [0.0, 3600.0]
        self.db = apsw.Connection(str(self.path))
        self.db.set_busy_timeout(20_000)
        self.do(f"PRAGMA page_size = {self.rng.choice([1024, 4096])}")
        self.do(schema)
        self.do(f"PRAGMA journal_mode = {journal}")
        install(self.db, Limits())

    def do(self, sql: str, bindings: tuple[object, ...] = ()) -> None:
        self.db.execute(sql, bindings or None).fetchall()

    def pull(self, *, cut_after: int | None = None) -> Outcome:
        outcome = pull_once(self.store, self.path, cut_after=cut_after, snapshot_s=self.rng.choice(self.snapshot_s))
        assert outcome.position
        self.keep(outcome.position.id)
        return outcome

    def keep(self, log_id: int) -> None:
        """The oracle of a point, for as long as nobody writes."""
        kept = self.kept.setdefault(log_id, self.folder / f"{log_id}.db")
        kept.unlink(missing_ok=True)
        copy_source(self.path, kept)

    def point(self) -> int:
        point = write_point(self.db, f"p{len(self.kept)}", "operator")
        self.keep(point.id)
        return point.id

    def same(self) -> None:
        outcome = self.pull()
        assert outcome.position
        oracle.assert_same(self.kept[outcome.position.id], self.store.mirror)
        assert_searches_alike(self.kept[outcome.position.id], self.store.mirror)

    def restored(self, log_id: int) -> Restored:
        with Catalog(self.store.catalog) as catalog:
            point = next(point for point in restorable(catalog) if point.id == log_id)
            output = self.folder / "restored.db"
            return restore(self.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)

    def earlier(self, log_id: int) -> set[str]:
        with Catalog(self.store.catalog) as catalog:
            line = max(point.line for point in catalog.points())
            return {each.table for each in ShadowArchive(self.store, catalog).earlier(line, log_id)}

    # what an application does

    def text(self, most: int = 6) -> str:
        return " ".join(self.rng.choices(WORDS, k=self.rng.randrange(most)))

    def row(self, table: str, key: str = "rowid") -> int | None:
        found = self.db.execute(f"SELECT {key} FROM {table} ORDER BY random() LIMIT 1").fetchone()
        return found[0] if found else None

    def write_once(self) -> None:
        rng, n = self.rng, self.rng.randrange(1, 10_000)
        box = (rng.randrange(-50, 50), rng.randrange(51, 99), rng.randrange(-50, 50), rng.randrange(51, 99))
        square = "[[0,0],[{0},0],[{0},{0}],[0,0]]".format(rng.randrange(1, 9))
        rng.choice([
            lambda: self.do("INSERT INTO own VALUES (?, ?, ?)", (self.text(), self.text(40), rng.choice([1, 1.0, "1"]))),
            lambda: self.do("UPDATE own SET body = ? WHERE rowid = ?", (self.text(), self.row("own"))),
            lambda: self.do("UPDATE own SET extra = ? WHERE rowid = ?", (n, self.row("own"))),
            lambda: self.do("DELETE FROM own WHERE rowid = ?", (self.row("own"),)),
            lambda: self.do("INSERT OR REPLACE INTO note VALUES (?, ?, ?)", (n % 50, self.text(), self.text(30)))
            if not self.row_exists(n % 50) else None,
            lambda: self.do("UPDATE note SET body = ? WHERE id = ?", (self.text(30), self.row("note"))),
            lambda: self.do("DELETE FROM note WHERE id = ?", (self.row("note"),)),
            lambda: self.do("INSERT INTO bare(rowid, a) VALUES (?, ?)", (self.next_bare(), self.text(20))),
            lambda: self.do("DELETE FROM bare WHERE rowid = ?", (rng.randrange(1, 60),)),
            lambda: self.do("INSERT INTO old4 VALUES (?, ?)", (self.text(9), self.text())),
            lambda: self.do("UPDATE old4 SET a = ? WHERE docid = ?", (self.text(9), self.row("old4", "docid"))),
            lambda: self.do("DELETE FROM old4 WHERE docid = ?", (self.row("old4", "docid"),)),
            lambda: self.do("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?, ?)", (n % 300, *box, self.text(2))),
            lambda: self.do("UPDATE place SET name = ? WHERE id = ?", (self.text(2), self.row("place", "id"))),
            lambda: self.do("DELETE FROM place WHERE id = ?", (self.row("place", "id"),)),
            lambda: self.do("INSERT OR REPLACE INTO grid VALUES (?, ?, ?)", (n % 200, box[0], box[1])),
            lambda: self.do("INSERT INTO shape(_shape, label) VALUES (?, ?)", (square, self.text(2))),
            lambda: self.do("INSERT INTO own(own) VALUES (?)", (rng.choice(["optimize", "rebuild"]),)),
            lambda: self.do("INSERT INTO old4(old4) VALUES ('optimize')"),
            lambda: self.do("INSERT INTO own(own, rank) VALUES ('automerge', ?)", (rng.choice([2, 4, 8]),)),
        ])()  # fmt: skip

    def row_exists(self, key: int) -> bool:
        return self.db.execute("SELECT 1 FROM note WHERE id = ?", (key,)).fetchone() is not None

    def next_bare(self) -> int:
        self.bare = getattr(self, "bare", 0) + 1
        return self.bare

    def write(self, transactions: int) -> None:
        for _ in range(transactions):
            self.do("BEGIN")
            for _ in range(self.rng.choice([1, 3, 30])):
                self.write_once()
            self.do("COMMIT" if self.rng.random() < 0.9 else "ROLLBACK")

    def close(self) -> None:
        self.db.close()


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[Indexed]:
    made = Indexed(tmp_path)
    yield made
    made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_searches_find_the_same_when_applications_are_random(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    # Small images, ranges and steps: so that a change is cut at every place.
    monkeypatch.setattr(reader, "IMAGE_ROWS", rng.choice([5, 65_536]))
    monkeypatch.setattr(shadows, "STEP_ROWS", rng.choice([2, 2_000]))
    monkeypatch.setattr(shadows, "IMAGE_BYTES", rng.choice([1, 8 << 20]))
    monkeypatch.setattr("rollrep.destination.mirroring.SHADOW_BYTES", rng.choice([300_000, 64 << 20]))
    monkeypatch.setattr("rollrep.destination.shadows.RANGE_BYTES", rng.choice([1, 500, 16_384]))
    monkeypatch.setattr(puller, "WINDOW_ROWS", rng.choice([3, 65_536]))
    life = Indexed(tmp_path, seed=seed, journal=rng.choice(["WAL", "WAL", "DELETE"]))
    try:
        for _ in range(rng.randrange(4, 9)):
            life.write(rng.choice([1, 3, 8]))
            move = rng.random()
            if move < 0.2:
                life.point()
            elif move < 0.3:
                with contextlib.suppress(RollrepError):
                    life.pull(cut_after=rng.choice([100, 3_000, 20_000]))
            else:
                life.same()
        life.write(3)
        life.same()
        compared = 0
        for log_id, kept in life.kept.items():
            with Catalog(life.store.catalog) as catalog:
                known = {point.id for point in restorable(catalog)}
            if log_id not in known:
                continue
            said = life.restored(log_id)
            if not said.earlier and not said.rebuilt:
                oracle.assert_same(kept, said.output)
                assert_searches_alike(kept, said.output)
                compared += 1
            assert {each.table for each in said.earlier} | set(said.rebuilt) == life.earlier(log_id)
        assert compared > 0
    finally:
        life.close()


def test_change_is_seen_when_a_text_without_words_changes(indexed: Indexed) -> None:
    indexed.do("INSERT INTO own VALUES ('??', '', 'x')")
    indexed.same()
    before = indexed.db.execute("SELECT block FROM own_data WHERE id IN (1, 10)").fetchall()
    indexed.do("UPDATE own SET title = '--'")
    assert indexed.db.execute("SELECT block FROM own_data WHERE id IN (1, 10)").fetchall() == before, "no sign of it"
    indexed.same()


def test_change_is_seen_when_an_index_is_rebuilt_to_the_same_structure(indexed: Indexed) -> None:
    indexed.do("DROP TRIGGER note_u")
    indexed.do("INSERT INTO note VALUES (1, 'oak', 'elm')")
    indexed.do("INSERT INTO outer5(outer5) VALUES ('rebuild')")
    indexed.same()
    before = indexed.db.execute("SELECT block FROM outer5_data WHERE id IN (1, 10)").fetchall()
    indexed.do("UPDATE note SET title = 'fir'")
    indexed.do("INSERT INTO outer5(outer5) VALUES ('rebuild')")
    assert indexed.db.execute("SELECT block FROM outer5_data WHERE id IN (1, 10)").fetchall() == before, "no sign of it"
    indexed.same()


def test_state_gets_its_own_log_id_when_only_virtual_tables_changed(indexed: Indexed) -> None:
    indexed.same()
    ids = []
    for word in ("oak", "elm", "fir"):
        indexed.do("INSERT INTO own VALUES (?, '', '')", (word,))
        outcome = indexed.pull()
        assert outcome.position and outcome.virtual_tables == ["own"]
        ids.append(outcome.position.id)
    assert len(set(ids)) == 3
    for log_id in ids:
        said = indexed.restored(log_id)
        assert not said.earlier
        oracle.assert_same(indexed.kept[log_id], said.output)


def test_nothing_is_written_when_nothing_changed(indexed: Indexed) -> None:
    indexed.write(5)
    indexed.same()
    before = indexed.db.execute("SELECT max(id) FROM _rollrep_log").fetchone()
    outcome = indexed.pull()
    assert (outcome.answer, outcome.virtual_tables) == ("up_to_date", [])
    assert indexed.db.execute("SELECT max(id) FROM _rollrep_log").fetchone() == before
    assert not list(indexed.store.folder.glob("*.part"))


def test_few_bytes_travel_when_one_row_of_a_large_index_changes(indexed: Indexed) -> None:
    indexed.do(
        "INSERT INTO own SELECT hex(randomblob(4)), hex(randomblob(200)), n FROM"
        " (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) SELECT n FROM c)"
    )
    indexed.same()
    indexed.do("INSERT INTO own VALUES ('oak', 'elm', 0)")
    indexed.pull()
    files = sorted((indexed.store.archive / "1").glob("*.shadows"))
    assert files[-1].stat().st_size < 20_000
    assert indexed.path.stat().st_size > 10 << 20


def test_point_between_pulls_says_which_tables_are_of_an_earlier_moment(indexed: Indexed) -> None:
    indexed.do("INSERT INTO place VALUES (1, 0, 1, 0, 1, 'here')")
    indexed.do("INSERT INTO own VALUES ('oak', '', '')")
    indexed.same()
    indexed.do("INSERT INTO place VALUES (2, 0, 1, 0, 1, 'there')")
    indexed.do("INSERT INTO note VALUES (1, 'larch', '')")
    middle = indexed.point()
    indexed.do("INSERT INTO note VALUES (2, 'yew', '')")
    indexed.same()
    assert indexed.earlier(middle) == {"place", "outer5"}, "what did not change between the pulls is exact"
    said = indexed.restored(middle)
    assert [each.table for each in said.earlier] == ["place"]
    assert said.rebuilt == ("outer5",)
    with contextlib.closing(apsw.Connection(str(said.output))) as db:
        assert db.execute("SELECT id FROM place").fetchall() == [(1,)], "as it was seen before the point"
        assert db.execute("SELECT rowid FROM outer5 WHERE outer5 MATCH 'larch'").fetchall() == [(1,)]
        assert db.execute("SELECT rowid FROM outer5 WHERE outer5 MATCH 'yew'").fetchall() == []
        db.execute("INSERT INTO outer5(outer5, rank) VALUES ('integrity-check', 1)").fetchall()


def test_index_is_not_rebuilt_when_the_application_indexes_only_some_rows(indexed: Indexed) -> None:
    indexed.do("DROP TRIGGER note_i")
    indexed.do("INSERT INTO note VALUES (1, 'oak', ''), (2, 'elm', '')")
    indexed.do("INSERT INTO outer5(rowid, title, body) VALUES (1, 'oak', '')")
    indexed.same()
    indexed.do("INSERT INTO note VALUES (3, 'fir', '')")
    middle = indexed.point()
    indexed.do("INSERT INTO outer5(rowid, title, body) VALUES (3, 'fir', '')")
    indexed.same()
    said = indexed.restored(middle)
    assert (said.rebuilt, [each.table for each in said.earlier]) == ((), ["outer5"])
    with contextlib.closing(apsw.Connection(str(said.output))) as db:
        assert db.execute("SELECT rowid FROM outer5 WHERE outer5 MATCH 'elm'").fetchall() == []


def test_archived_change_is_made_anew_when_the_mirror_never_got_it(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed.snapshot_s = [3600.0]
    indexed.do("INSERT INTO own VALUES ('oak', '', '')")
    indexed.same()
    indexed.do("UPDATE own SET title = 'elm'")
    indexed.do("INSERT INTO own VALUES ('fir', '', '')")

    def dies(_self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shadow_pull.ShadowPull, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            indexed.pull()
    # Back to what the mirror has, in part: a change that led on from the lost one would not say so.
    indexed.do("UPDATE own SET title = 'oak' WHERE rowid = 1")
    indexed.do("INSERT INTO note VALUES (1, '', '')")
    indexed.same()
    with Catalog(indexed.store.catalog) as catalog:
        newest = catalog.points()[-1].id
    said = indexed.restored(newest)
    assert not said.earlier
    oracle.assert_same(indexed.kept[newest], said.output)


def test_virtual_table_is_carried_when_its_tokenizer_or_module_is_not_known_here(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path, schema="CREATE TABLE t(a)")
    try:
        # As an application with extensions of its own leaves them: text in the schema, ordinary tables beside.
        indexed.do("CREATE VIRTUAL TABLE mine USING fts5(a)")
        indexed.do("INSERT INTO mine VALUES ('oak')")
        indexed.do("PRAGMA writable_schema = ON")
        indexed.do("UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE mine USING fts5(a, tokenize=''klingon'')'"
                   " WHERE name = 'mine'")  # fmt: skip
        indexed.do("INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES ('table', 'vec', 'vec', 0,"
                   " 'CREATE VIRTUAL TABLE vec USING vec0(embedding float[3])')")  # fmt: skip
        indexed.do("PRAGMA writable_schema = RESET")
        indexed.do("CREATE TABLE vec_chunks(id INTEGER PRIMARY KEY, data); CREATE TABLE vector(a)")
        indexed.do("INSERT INTO vec_chunks VALUES (1, x'00ff')")
        report = json.loads(rollrep("source", "install", indexed.path, "--json").stdout)
        assert {each["module"] for each in report["virtual"]} == {"fts5", "vec0"}
        assert set(report["captured"]) | set(report["kept"]) == {"t", "vector"}
        for n in range(3):
            indexed.do("INSERT INTO vec_chunks(data) VALUES (randomblob(9))")
            indexed.do("INSERT INTO t VALUES (?)", (n,))
            outcome = indexed.pull()
            assert outcome.position and outcome.refused == []
            oracle.assert_same(indexed.kept[outcome.position.id], indexed.store.mirror)
            said = indexed.restored(outcome.position.id)
            assert said.complaints == ()
            oracle.assert_same(indexed.kept[outcome.position.id], said.output)
    finally:
        indexed.close()


def test_virtual_table_comes_and_goes_when_the_schema_changes(indexed: Indexed) -> None:
    indexed.write(6)
    indexed.same()
    indexed.do("CREATE VIRTUAL TABLE words USING fts5vocab(own, row)")
    indexed.same()
    indexed.do("CREATE VIRTUAL TABLE late USING fts5(a)")
    indexed.do("INSERT INTO late VALUES ('oak')")
    outcome = indexed.pull()
    assert outcome.reason == "schema" and outcome.tables_mirrored == []
    indexed.same()
    indexed.do("ALTER TABLE late RENAME TO later")
    indexed.same()
    indexed.do("DROP TABLE later")
    indexed.write(2)
    indexed.same()
    with contextlib.closing(apsw.Connection(str(indexed.store.mirror))) as db:
        assert not has(db, "later_data")


def test_virtual_table_is_left_out_when_it_is_excluded(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path)
    try:
        install(indexed.db, Limits(), exclude=("own", "place"))
        indexed.write(3)
        outcome = indexed.pull()
        assert outcome.position
        with contextlib.closing(apsw.Connection(str(indexed.store.mirror))) as db:
            names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema").fetchall()}
        assert "outer5_data" in names
        assert not {name for name in names if name.startswith(("own", "place"))}
    finally:
        indexed.close()


def test_index_of_the_source_is_given_back_as_it_is_when_it_is_out_of_step(indexed: Indexed) -> None:
    indexed.do("INSERT INTO old4 VALUES ('oak', '')")
    indexed.do("UPDATE old4_content SET c0a = 'elm'")
    outcome = indexed.pull()
    assert outcome.position
    said = indexed.restored(outcome.position.id)
    assert len(said.complaints) == 1 and "old4" in said.complaints[0]
    oracle.assert_same(indexed.kept[outcome.position.id], said.output)


def test_value_is_seen_to_change_when_only_its_storage_class_does(indexed: Indexed) -> None:
    indexed.do("INSERT INTO own VALUES ('oak', '', 1), ('elm', '', 0.0)")
    indexed.same()
    indexed.do("UPDATE own SET extra = 1.0 WHERE rowid = 1")
    indexed.do("UPDATE own SET extra = -0.0 WHERE rowid = 2")
    indexed.same()


def test_index_and_table_are_of_one_moment_when_somebody_writes_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of each is written in one transaction, between the log's head and the first digest."""
    indexed = Indexed(tmp_path, schema="CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE VIRTUAL TABLE ft USING fts5(a);")
    digest = shadows.Shadows._digest

    def writes_first(self: shadows.Shadows, *arguments: Any) -> str:
        with indexed.db:
            indexed.do("INSERT INTO t DEFAULT VALUES")
            indexed.do("INSERT INTO ft(rowid, a) VALUES (?, 'oak elm')", (indexed.db.last_insert_rowid(),))
        return digest(self, *arguments)

    monkeypatch.setattr(shadows.Shadows, "_digest", writes_first)
    try:
        for _ in range(3):
            pull_once(indexed.store, indexed.path)
            with contextlib.closing(apsw.Connection(str(indexed.store.mirror))) as db:
                rows = db.execute("SELECT count(*), max(id) FROM t").fetchall()
                assert rows == db.execute("SELECT count(*), max(rowid) FROM ft").fetchall()
                assert rows == db.execute("SELECT count(*), max(rowid) FROM ft WHERE ft MATCH 'oak'").fetchall()
        assert rows[0][0] > 0
    finally:
        indexed.close()


def test_restore_ends_with_3_when_a_virtual_table_is_of_an_earlier_moment(indexed: Indexed, tmp_path: Path) -> None:
    config = tmp_path / "rollrep.toml"
    config.write_text(f'store = "{tmp_path / "store"}"\n[jobs.job]\nsource = "local:{indexed.path}"\n')
    indexed.pull()
    indexed.do("INSERT INTO place VALUES (2, 0, 1, 0, 1, 'there')")
    indexed.point()
    indexed.do("INSERT INTO note VALUES (2, 'yew', '')")
    indexed.pull()
    listed = rollrep("points", "job", "-c", config)
    assert "(of an earlier moment: outer5, place)" in listed.stdout
    restored = rollrep("restore", "job", "-c", config, "--at", "label:p1", "-o", tmp_path / "x.db", "--json")
    assert restored.returncode == 3, restored.stderr
    assert "the virtual table place is as of log id" in restored.stderr
    assert [each["table"] for each in json.loads(restored.stdout)["earlier"]] == ["place"]
    whole = rollrep("restore", "job", "-c", config, "-o", tmp_path / "y.db")
    assert whole.returncode == 0, whole.stderr
