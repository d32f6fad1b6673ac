"""Collations and functions that only the application has: a music player's, as an example.

What needs them here is left out, by name; what does not is carried, and the player opens what is restored with its
own collation and functions, and finds it sound.  With a plugin that gives them, nothing is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
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

ROLLREP = Path(sys.executable).with_name("rollrep")
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
        self.con.execute("INSERT INTO indexed(name) SELECT name FROM artist WHERE id % 2")
        self.con.execute("UPDATE indexed SET name = 'the ' || name WHERE id % 5 = 0")

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
    assert set(report.captured) == {"artist", "song", "indexed"}
    assert {each.name: "localeaware" in each.reason for each in report.refused} == {
        "indexed_by_name": True,
        "keyed": True,
    }
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
            restored = restore(store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
        assert [each.sql for each in restored.left_out] == ["CREATE INDEX indexed_by_name ON indexed(name)"]
        again = Player(output)
        assert again.finds() == found
        for table in ("artist", "song", "indexed"):
            rows = f"SELECT rowid, * FROM {table}"
            with contextlib.closing(Player(then).con) as con:
                assert again.con.execute(rows).fetchall() == con.execute(rows).fetchall()
                text = "SELECT sql FROM sqlite_master WHERE name = ?"
                assert again.con.execute(text, (table,)).fetchone() == con.execute(text, (table,)).fetchone()
        again.close()
        compared += 1
    assert compared == 3


FUNCTION = "it uses the application's own function sort_title"
WITHOUT = "; without it, t is carried"


@pytest.mark.parametrize(
    ("schema", "refused"),
    [
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a)) STORED)", f"t: {FUNCTION}"),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a)) VIRTUAL)", f"t: {FUNCTION}"),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b AS (sort_title(a))); CREATE INDEX i ON t(b)",
            f"t: {FUNCTION}",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a COLLATE localeaware UNIQUE)",
            "t: its keys use the application's own collation localeaware",
        ),
        (
            "CREATE TABLE t(a PRIMARY KEY COLLATE 'Locale Aware', id) WITHOUT ROWID",
            "t: its keys use the application's own collation Locale Aware",
        ),
        (
            "CREATE TABLE t(id DEFAULT 1 PRIMARY KEY, a COLLATE localeaware, b) WITHOUT ROWID; CREATE INDEX i ON t(b)",
            "t: it is WITHOUT ROWID and uses the application's own collation localeaware",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(sort_title(a))",
            f"i: {FUNCTION}{WITHOUT}",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a CHECK (sort_title(a) > '')); CREATE INDEX i ON t(sort_title(a))",
            f"i: {FUNCTION}{WITHOUT}",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE INDEX i ON t(a) WHERE sort_title(a) > 'm'",
            f"i: {FUNCTION}{WITHOUT}",
        ),
        (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TRIGGER g AFTER UPDATE ON t BEGIN SELECT 1; END;"
            "CREATE UNIQUE INDEX i ON t(a COLLATE localeaware)",
            "t: rows must be unique in its index i, which only the application can make, and the table has triggers or"
            " foreign keys that act",
        ),
    ],
)
def test_what_the_application_alone_can_make_is_left_out_by_name(tmp_path: Path, schema: str, refused: str) -> None:
    path, store = tmp_path / "app.db", Store(tmp_path / "store", "job")
    player = Player(path)
    player.con.executescript(schema)
    player.con.execute("INSERT INTO t(a) VALUES ('The X')")
    installed(path)
    player.con.execute("CREATE TABLE other(a)")
    assert pull_once(store, path).refused == [refused]
    with contextlib.closing(apsw.Connection(str(store.mirror))) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'index')")}
        if "t" in names:
            assert db.execute("SELECT a FROM t").fetchall() == [("The X",)]
    assert names == {"other", "_rollrep_state", *(["t"] if WITHOUT in refused else [])}
    player.close()


UNIQUE = """
CREATE TABLE t(id INTEGER PRIMARY KEY, name, path UNIQUE, n);
CREATE UNIQUE INDEX by_name ON t(name COLLATE "Locale Aware");
CREATE UNIQUE INDEX by_title ON t(sort_title(path)) WHERE n > 2;
CREATE TABLE w(a, b, name, PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE UNIQUE INDEX w_by_name ON w(name COLLATE localeaware, b);
"""


def random_statement(rng: random.Random) -> str:
    name = rng.choice(["'a'", "'A'", "'b'", "'B'", "'c'", "NULL", "1"])
    path = rng.choice(["'x'", "'The x'", "'y'", "'The y'", "'z'"])
    key, n = rng.randrange(9), rng.randrange(6)
    how = rng.choice(["INSERT", "REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR REPLACE"])
    which = rng.choice(["", " OR REPLACE", " OR REPLACE", " OR IGNORE"])
    return rng.choice(
        [
            f"{how} INTO t(name, path, n) VALUES ({name}, {path}, {n})",
            f"{how} INTO t VALUES ({key}, {name}, {path}, {n}), ({key + 1}, upper({name}), {path}, {n})",
            f"INSERT INTO t(name, path) VALUES ({name}, {path}) ON CONFLICT DO UPDATE SET n = {n}",
            f"UPDATE{which} t SET name = {name}, n = {n} WHERE id > {key}",
            f"UPDATE{which} t SET id = {key}, path = {path} WHERE id = {n}",
            f"DELETE FROM t WHERE id = {key}",
            f"{how} INTO w VALUES ({key % 3}, {n % 2}, {name})",
            f"UPDATE{which} w SET name = {name}, b = {n % 2} WHERE a = {key % 3}",
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_a_replace_removes_go_when_only_the_application_knows_that_they_collide(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    path, store = tmp_path / "app.db", Store(tmp_path / "store", "job")
    player = Player(path)
    player.con.executescript(UNIQUE)
    player.con.execute(f"PRAGMA recursive_triggers = {seed % 2}")
    assert {each.name for each in installed(path).refused} == {"by_name", "by_title", "w_by_name"}
    kept: dict[int, list[list[tuple[object, ...]]]] = {}

    def rows(con: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
        return [con.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("t", "w")]

    for _ in range(25):
        for _ in range(rng.randrange(1, 5)):
            with contextlib.suppress(sqlite3.IntegrityError):
                player.con.execute(random_statement(rng))
        player.con.execute("INSERT INTO _rollrep_point(label) VALUES ('here')")
        [(at,)] = player.con.execute("SELECT max(id) FROM _rollrep_log")
        kept[at] = rows(player.con)
        if rng.random() < 0.6:
            assert pull_once(store, path).answer in ("mirror" if not store.mirror.exists() else "resume", "mirror")
            with contextlib.closing(sqlite3.connect(store.mirror)) as mirror:
                assert rows(mirror) == kept[at]
    pull_once(store, path)
    with Catalog(store.catalog) as catalog:
        points = [point for point in restorable(catalog) if point.id in kept]
        assert len(points) > 15
        for point in points:
            restored = restore(
                store, catalog, plan(catalog, point), tmp_path / "r.db", force=True, progress=lambda _: None
            )
            again = Player(tmp_path / "r.db")
            assert rows(again.con) == kept[point.id]
            for each in restored.left_out:
                again.con.execute(each.sql)
            assert again.con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            again.close()
    player.close()


PLUGIN = """
import apsw

def connected(connection):
    for name in ("localeaware", "Locale Aware"):
        connection.create_collation(name, lambda a, b: (a.casefold() > b.casefold()) - (a.casefold() < b.casefold()))
    connection.create_scalar_function("sort_title", lambda text: text and text.removeprefix("The "), 1,
                                      deterministic=True, flags=apsw.SQLITE_INNOCUOUS)

def broken(connection):
    raise LookupError("no such player")
"""
EVERYTHING = (
    PLAYER
    + UNIQUE
    + """
CREATE TABLE tag(name TEXT COLLATE localeaware, kind, n, PRIMARY KEY(name, kind)) WITHOUT ROWID;
CREATE TABLE field(type, ord, name TEXT COLLATE localeaware, PRIMARY KEY(type, ord)) WITHOUT ROWID;
CREATE UNIQUE INDEX field_by_name ON field(name, type);
CREATE TABLE label(name TEXT COLLATE "Locale Aware" UNIQUE, short AS (sort_title(name)), long AS (sort_title(name)) STORED);
CREATE INDEX label_by_short ON label(short);
CREATE TABLE shelf(id INTEGER PRIMARY KEY, name, n);
CREATE UNIQUE INDEX shelf_by_name ON shelf(sort_title(name));
CREATE TABLE box(id INTEGER PRIMARY KEY, shelf REFERENCES shelf ON DELETE CASCADE);
CREATE TRIGGER shelf_is_new AFTER INSERT ON shelf BEGIN
  UPDATE shelf SET n = n + 1 WHERE id % 2; INSERT INTO box(shelf) VALUES (new.id); END;
"""
)


NOT_KNOWN = r"the application's own collation \S.* is not known here\n  next: install the plugin"


def plugged(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which these functions of the plugin are installed."""
    about = folder / "player-1.dist-info"
    about.mkdir(parents=True)
    (folder / "player.py").write_text(PLUGIN)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: player\nVersion: 1\n")
    entries = "\n".join(f"{name} = player:{name}" for name in names)
    (about / "entry_points.txt").write_text(f"[rollrep.connections]\n{entries}\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT COLLATE localeaware UNIQUE)",
        "CREATE TABLE t(id PRIMARY KEY, name TEXT COLLATE localeaware) WITHOUT ROWID",
    ],
)
def test_pull_says_what_is_missing_when_only_the_source_has_the_plugin(tmp_path: Path, table: str) -> None:
    path, config = tmp_path / "app.db", tmp_path / "rollrep.toml"
    player = Player(path)
    player.con.execute(table)
    player.con.execute("INSERT INTO t VALUES (1, 'The X')")
    environment = plugged(tmp_path / "plugin", "connected")
    done = subprocess.run([ROLLREP, "source", "install", path], env=environment, capture_output=True, check=True)
    assert b"NOT CARRIED" not in done.stdout
    subprocess.run([ROLLREP, "init", "app", f"local:{path}", "-c", config], capture_output=True, check=True)
    pull = [ROLLREP, "pull", "app", "-c", config]
    failed = subprocess.run(pull, capture_output=True, text=True, check=False)
    assert failed.returncode == 15
    assert re.search(NOT_KNOWN, failed.stderr) and "localeaware" in failed.stderr
    subprocess.run(pull, env=environment, capture_output=True, check=True)
    with contextlib.closing(Player(tmp_path / "rollrep-data" / "app" / "mirror.db").con) as con:
        assert con.execute("SELECT * FROM t").fetchall() == [(1, "The X")]
    player.close()


def test_all_is_carried_when_a_plugin_gives_what_the_application_has(tmp_path: Path) -> None:
    path, config, output = tmp_path / "app.db", tmp_path / "rollrep.toml", tmp_path / "restored.db"
    environment = plugged(tmp_path / "plugin", "broken", "connected")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROLLREP, *map(str, arguments)], env=environment, capture_output=True, text=True, check=True
        )

    def adds(start: int) -> None:
        player.plays(start)
        rng = random.Random(start)
        for n in range(start, start + 20):
            with contextlib.suppress(sqlite3.IntegrityError):
                player.con.execute(random_statement(rng))
            for table, row in (("tag", ("aAbBcC"[n % 6], n % 3, n)), ("field", (n % 3, n, "nNoOpP"[n % 6]))):
                player.con.execute(f"REPLACE INTO {table} VALUES (?, ?, ?)", row)
            player.con.execute("REPLACE INTO label(name) VALUES (?)", (f"{'The ' * (n % 2)}{'xXyY'[n % 4]} {n % 5}",))
            # What REPLACE removes takes its boxes along, beside triggers that write to the same rows.
            player.con.execute("PRAGMA foreign_keys = ON")
            player.con.execute("REPLACE INTO shelf(name, n) VALUES (?, ?)", (f"{'The ' * (n % 3 == 0)}{n % 7}", n))
            player.con.execute("UPDATE OR REPLACE shelf SET name = ? WHERE id % 5 = ?", (f"{n % 4}", n % 5))
            player.con.execute("PRAGMA foreign_keys = OFF")
        player.con.execute("UPDATE tag SET name = upper(name) WHERE n % 5 = 0")

    player = Player(path)
    player.con.executescript(EVERYTHING)
    player.con.execute("PRAGMA journal_mode = WAL")
    adds(0)
    # Left out first, and carried from the next `install` on.
    subprocess.run([ROLLREP, "source", "install", path], capture_output=True, check=True)
    done = run("source", "install", path)
    assert "NOT CARRIED" not in done.stdout
    assert "plugin broken failed with a connection: LookupError('no such player')" in done.stderr
    run("init", "app", f"local:{path}", "-c", config)
    run("pull", "app", "-c", config)
    for start in (20, 40):
        adds(start)
        assert json.loads(run("pull", "app", "-c", config, "--json").stdout)["jobs"][0]["answer"] == "resume"
    run("mirror", "app", "-c", config)
    run("verify", "app", "--against-source", "-c", config)
    adds(60)
    run("pull", "app", "-c", config)
    run("restore", "app", "--at", "latest", "--output", output, "-c", config)
    for command in (["mirror", "app"], ["restore", "app", "--at", "latest", "--output", tmp_path / "none.db"]):
        failed = subprocess.run([ROLLREP, *command, "-c", config], capture_output=True, text=True, check=False)
        assert failed.returncode == 15
        assert re.search(NOT_KNOWN, failed.stderr)
    again = Player(output)
    assert again.finds() == player.finds()
    for (table,) in player.con.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB '_rollrep_*'"
    ):
        rows = f"SELECT * FROM {table} ORDER BY 1"
        assert again.con.execute(rows).fetchall() == player.con.execute(rows).fetchall()
    text = "SELECT type, name, sql FROM sqlite_master WHERE name NOT GLOB '_rollrep_*' ORDER BY 1, 2"
    assert again.con.execute(text).fetchall() == player.con.execute(text).fetchall()
    again.close()
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
