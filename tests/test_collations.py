"""Collations and functions that only the application has: a music player's, as an example.

What needs them here is left out, by name; what does not is carried, and the player opens what is restored with its
own collation and functions, and finds it sound.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source, pull_once

from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.source.database import open_source
from rollrep.source.install import Report, install
from rollrep.source.tables import Limits

PLAYER = """
CREATE TABLE artist(id INTEGER PRIMARY KEY, name TEXT COLLATE localeaware NOT NULL, mood);
CREATE TABLE song(id INTEGER PRIMARY KEY, artist REFERENCES artist, title TEXT COLLATE "Locale Aware",
  rating CHECK (is_rating(rating)), added DEFAULT (uuid()), path TEXT UNIQUE);
CREATE TABLE indexed(id INTEGER PRIMARY KEY, name TEXT COLLATE localeaware);
CREATE INDEX indexed_by_name ON indexed(name);
CREATE TABLE keyed(name TEXT COLLATE localeaware PRIMARY KEY) WITHOUT ROWID;
CREATE VIEW sorted AS SELECT * FROM song ORDER BY title, sort_title(title);
CREATE TRIGGER song_added AFTER INSERT ON song WHEN new.title IS NULL BEGIN
  UPDATE song SET title = sort_title(new.path) WHERE id = new.id; END;
"""


class Player:
    """The application: its connection has what nobody else's has."""

    def __init__(self, path: Path) -> None:
        self.con = sqlite3.connect(path, isolation_level=None)
        for name in ("localeaware", "Locale Aware"):
            self.con.create_collation(name, lambda a, b: (a.casefold() > b.casefold()) - (a.casefold() < b.casefold()))
        self.con.create_function("sort_title", 1, lambda text: text and text.removeprefix("The "), deterministic=True)
        self.con.create_function("is_rating", 1, lambda value: value is None or 0 <= value <= 5, deterministic=True)
        self.con.create_function("uuid", 0, lambda: "a4c0")

    def plays(self, start: int) -> None:
        for n in range(start, start + 20):
            self.con.execute("INSERT INTO artist(name) VALUES (?)", (f"The {chr(65 + n % 26)}s {n}",))
            self.con.execute("INSERT INTO song(artist, rating, path) VALUES (?, ?, ?)", (n + 1, n % 6, f"/{n}"))
            self.con.execute("REPLACE INTO song(artist, title, path) VALUES (?, 'Again', ?)", (n + 1, f"/{n // 2}"))
        self.con.execute("UPDATE artist SET name = upper(name) WHERE id % 3 = 0")
        self.con.execute("DELETE FROM song WHERE id % 7 = 0")

    def finds(self) -> list[object]:
        assert self.con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return self.con.execute("SELECT * FROM sorted").fetchall() + self.con.execute("SELECT * FROM artist").fetchall()

    def close(self) -> None:
        self.con.close()


def installed(path: Path) -> Report:
    with contextlib.closing(open_source(path)) as db:
        return install(db, Limits())


def test_player_finds_the_same_in_a_restore_when_only_it_has_its_collation(tmp_path: Path) -> None:
    path, store = tmp_path / "app.db", Store(tmp_path / "store", "job")
    player = Player(path)
    player.con.executescript(PLAYER)
    player.con.execute("PRAGMA journal_mode = WAL")
    report = installed(path)
    assert set(report.captured) == {"artist", "song"}
    assert {each.table: "localeaware" in each.reason for each in report.refused} == {"indexed": True, "keyed": True}
    kept: dict[int, tuple[Path, list[object]]] = {}
    for start in (0, 20, 40):
        player.plays(start)
        outcome = pull_once(store, path)
        assert outcome.position and len(outcome.refused) == (0 if start else 2)
        kept[outcome.position.id] = tmp_path / f"{start}.db", player.finds()
        copy_source(path, tmp_path / f"{start}.db")
    player.close()
    compared = 0
    for log_id, (then, found) in kept.items():
        with Catalog(store.catalog) as catalog:
            point = next(point for point in restorable(catalog) if point.id == log_id)
            output = tmp_path / "restored.db"
            restore(store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
        again = Player(output)
        assert again.finds() == found
        for table in ("artist", "song"):
            rows = f"SELECT rowid, * FROM {table}"
            with contextlib.closing(Player(then).con) as con:
                assert again.con.execute(rows).fetchall() == con.execute(rows).fetchall()
                text = "SELECT sql FROM sqlite_master WHERE name = ?"
                assert again.con.execute(text, (table,)).fetchone() == con.execute(text, (table,)).fetchone()
        again.close()
        compared += 1
    assert compared == 3


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a)) STORED)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a)) VIRTUAL)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(sort_title(a))",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a CHECK (sort_title(a) > '')); CREATE INDEX i ON t(sort_title(a))",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a))); CREATE INDEX i ON t(b)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(a) WHERE sort_title(a) > 'm'",
    ],
)
def test_table_is_left_out_by_name_when_what_it_stores_needs_the_function(tmp_path: Path, schema: str) -> None:
    path, store = tmp_path / "app.db", Store(tmp_path / "store", "job")
    player = Player(path)
    player.con.executescript(schema)
    player.con.execute("INSERT INTO t(a) VALUES ('The X')")
    installed(path)
    player.con.execute("CREATE TABLE other(a)")
    assert pull_once(store, path).refused == ["t: it uses the application's own function sort_title"]
    with contextlib.closing(apsw.Connection(str(store.mirror))) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert names == {"other", "_rollrep_state"}
    player.close()


def test_restore_is_given_when_a_row_breaks_a_check(tmp_path: Path) -> None:
    path, store = tmp_path / "app.db", Store(tmp_path / "store", "job")
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a CHECK (a > 0)); PRAGMA ignore_check_constraints = ON")
        db.execute("INSERT INTO t(a) VALUES (-1)")
        installed(path)
        pull_once(store, path)
        with Catalog(store.catalog) as catalog:
            [point] = restorable(catalog)
            restore(store, catalog, plan(catalog, point), tmp_path / "r.db", force=False, progress=lambda _: None)
    oracle.assert_same(path, tmp_path / "r.db")
