"""Schema changes: what the next pull makes of each, and `rollrep source migrate` for those we stand in the way of.

The command that migrates is always another process with Python's own sqlite3, and so are other writers: two SQLite
libraries must not hold one file in one process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import forked
import oracle
import pytest
from forked import ROLLREP
from pair import FollowedPair

from rollrep.core.errors import Temporary
from rollrep.destination.catalog import Catalog

SHOP = """
    CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city TEXT, zip);
    CREATE TABLE item(sku TEXT PRIMARY KEY, name TEXT, price) WITHOUT ROWID;
    CREATE TABLE note(text, mood);
    CREATE TABLE child(id INTEGER PRIMARY KEY, account REFERENCES account ON DELETE CASCADE, x);
    INSERT INTO account VALUES (1, 'a', 'x', '1'), (2, 'b', 'y', '2');
    INSERT INTO item VALUES ('s1', 'screw', 1.5), ('s2', 'nut', 2);
    INSERT INTO note VALUES ('hello', 1), ('there', 2);
    INSERT INTO child VALUES (1, 1, 'c')
"""
SCRIPT = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for statement in sys.argv[2:]:
    con.execute(statement).fetchall()
"""
WAITING = "import sys; print('started', flush=True); sys.stdin.read()"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def written(db: Path, *statements: str) -> list[str]:
    """The command of another process that runs the statements, each a transaction."""
    return [sys.executable, "-c", SCRIPT, str(db), *statements]


def rollrep(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run(*arguments, timeout=60)


def migrated(db: Path, command: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
    return rollrep("source", "migrate", *options, db, "--", *command)


def status(db: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(rollrep("source", "status", db, "--json").stdout)
    return told


def our_objects(pair: FollowedPair) -> list[tuple[Any, ...]]:
    return list(pair.db.execute("SELECT name, sql FROM sqlite_schema WHERE name GLOB '_rollrep_*' ORDER BY 1"))


class Running:
    """`source migrate` with a command that waits until its input ends."""

    def __init__(self, db: Path) -> None:
        self.process = subprocess.Popen(
            [ROLLREP, "source", "migrate", db, "--", sys.executable, "-c", WAITING],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdout.readline() == "started\n"

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


@pytest.fixture
def running(pair: FollowedPair) -> Iterator[Running]:
    pair.start(SHOP)
    made = Running(pair.path)
    yield made
    made.end()


# ---------------------------------------------------------------- rollrep source migrate


RENAMED_AND_DROPPED = {
    "item": ("ALTER TABLE item RENAME COLUMN name TO called", "ALTER TABLE item DROP COLUMN called"),
    "note": ("ALTER TABLE note RENAME COLUMN text TO told", "ALTER TABLE note DROP COLUMN told"),
}


@pytest.mark.parametrize("table", RENAMED_AND_DROPPED)
def test_column_is_dropped_when_the_command_is_run_by_migrate(pair: FollowedPair, table: str) -> None:
    """One that was renamed just before: everything else may be dropped without us."""
    pair.start(SHOP)
    before = pair.point()
    renamed, dropped = (written(pair.path, statement) for statement in RENAMED_AND_DROPPED[table])
    subprocess.run(renamed, check=True, timeout=60)
    refused = subprocess.run(dropped, capture_output=True, text=True, check=False, timeout=60)
    assert "_rollrep_" in refused.stderr
    statement = RENAMED_AND_DROPPED[table][1]
    done = migrated(pair.path, written(pair.path, statement, "INSERT INTO account(id, owner) VALUES (9, 'meanwhile')"))
    assert done.returncode == 0, done.stderr
    pair.do("DELETE FROM item WHERE sku = 's1'")
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE account SET city = 'later'")
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(7)", 7), ("sys.exit(75)", 75), ("os.kill(os.getpid(), 9)", 128 + 9)]
)
def test_capture_is_back_when_the_command_fails(pair: FollowedPair, end: str, code: int) -> None:
    pair.start(SHOP)
    script = SCRIPT + f"import os; {end}"
    done = migrated(pair.path, [sys.executable, "-c", script, str(pair.path), "DELETE FROM note"])
    assert done.returncode == code, done.stderr
    assert status(pair.path)["migration"] is None
    assert set(status(pair.path)["tables"].values()) == {"captured"}
    pair.pull()
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE account SET city = 'later'")
    pair.same()


def test_output_and_input_are_the_command_s_own_when_it_is_run_by_migrate(pair: FollowedPair) -> None:
    pair.start(SHOP)
    command = [sys.executable, "-c", "import sys; print(sys.stdin.read() + '!'); print('oh', file=sys.stderr)"]
    done = subprocess.run(
        [ROLLREP, "source", "migrate", pair.path, "--json", "--", *command],
        input="in", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    first, told = done.stdout.splitlines()
    assert (done.returncode, first, done.stderr.splitlines()[0]) == (0, "in!", "oh")
    found = json.loads(told)
    assert (found["schema"], found["command_exit_code"]) == ("rollrep.source.migrate/1", 0)
    assert sorted(found["released"]) == sorted(found["captured"]) == ["account", "child", "item", "note"]


def test_nothing_changes_when_migrate_is_only_tried(pair: FollowedPair) -> None:
    pair.start(SHOP)
    before, rows = our_objects(pair), pair.db.execute("SELECT * FROM _rollrep_log").fetchall()
    done = migrated(pair.path, written(pair.path, "DELETE FROM note"), "-n", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["released"] == ["account", "child", "item", "note"]
    assert our_objects(pair) == before
    assert pair.db.execute("SELECT * FROM _rollrep_log").fetchall() == rows
    assert pair.db.execute("SELECT count(*) FROM note").fetchall() == [(2,)]


def test_migrate_says_what_is_missing_when_it_can_not_begin(pair: FollowedPair) -> None:
    pair.do(SHOP)
    done = migrated(pair.path, ["true"])
    assert (done.returncode, "has no rolling log" in done.stderr) == (10, True)
    pair.install()
    before = our_objects(pair)
    assert migrated(pair.path, ["no-such-program"]).returncode == 2
    assert our_objects(pair) == before


def test_nobody_captures_when_a_migration_runs(pair: FollowedPair, running: Running) -> None:
    assert status(pair.path)["migration"] == "running"
    with pytest.raises(Temporary, match="is being migrated"):
        pair.pull()
    assert rollrep("source", "install", pair.path).returncode == 75
    assert migrated(pair.path, ["true"]).returncode == 11
    triggers = [name for name, _ in our_objects(pair) if name.endswith(("_account", "_note"))]
    assert triggers == []
    point, _ = pair.point()
    assert running.end() == 0
    assert pair.pull() == ("mirror", "schema")
    with Catalog(pair.store.catalog) as catalog:
        assert point not in {each.id for each in catalog.points()}


def test_capture_is_back_when_migrate_is_told_to_end(pair: FollowedPair, running: Running) -> None:
    pair.do("INSERT INTO note VALUES ('meanwhile', 3)")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 128 + signal.SIGTERM
    assert status(pair.path)["migration"] is None
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)


@pytest.mark.parametrize("mended_by", ["pull", "install", "migrate"])
def test_next_one_captures_again_when_migrate_was_killed(pair: FollowedPair, running: Running, mended_by: str) -> None:
    running.process.kill()
    running.process.wait(60)
    pair.do("INSERT INTO note VALUES ('uncaptured', 3)")
    assert status(pair.path)["migration"] == "interrupted"
    if mended_by == "install":
        assert rollrep("source", "install", pair.path).returncode == 0
    elif mended_by == "migrate":
        assert migrated(pair.path, written(pair.path, "ALTER TABLE note DROP COLUMN mood")).returncode == 0
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    assert status(pair.path)["migration"] is None
    pair.do("INSERT INTO note(text) VALUES ('captured')")
    pair.same()


def test_history_before_stays_when_a_migration_follows_unpulled_work(pair: FollowedPair) -> None:
    pair.start(SHOP)
    points = []
    for n in range(3):
        pair.do("UPDATE account SET city = ?", (f"city {n}",))
        points.append(pair.point())
    assert migrated(pair.path, written(pair.path, "ALTER TABLE account DROP COLUMN city")).returncode == 0
    assert pair.pull() == ("mirror", "schema")
    for point in points:
        pair.same_at(*point)


# ---------------------------------------------------------------- what needs nothing

REBUILDS = {
    "rails": (
        'CREATE TEMPORARY TABLE "anote"("text", "mood")', 'INSERT INTO "anote" SELECT * FROM "note"',
        'DROP TABLE "note"', 'CREATE TABLE "note"("text" varchar, "mood" integer DEFAULT 3)',
        'INSERT INTO "note" SELECT * FROM "anote"', 'DROP TABLE "anote"',
    ),
    "alembic": (
        "CREATE TABLE _alembic_tmp_note(text VARCHAR, mood INTEGER, more)",
        "INSERT INTO _alembic_tmp_note(text, mood) SELECT note.text, note.mood FROM note",
        "DROP TABLE note", "ALTER TABLE _alembic_tmp_note RENAME TO note",
    ),
    "knex": (
        "PRAGMA foreign_keys = OFF", "BEGIN", "CREATE TABLE `_knex_temp_alter123`(`text`)",
        "INSERT INTO `_knex_temp_alter123` SELECT `text` FROM `note`", "DROP TABLE `note`",
        "ALTER TABLE `_knex_temp_alter123` RENAME TO `note`", "COMMIT",
    ),
    "django": (
        "BEGIN", 'CREATE TABLE "new__note"("text" text NOT NULL, "mood" integer)',
        'INSERT INTO "new__note"("text", "mood") SELECT coalesce("text", \'\'), "mood" FROM "note"',
        'DROP TABLE "note"', 'ALTER TABLE "new__note" RENAME TO "note"', "COMMIT",
    ),
}  # fmt: skip

CHANGES = {
    "add column": ("ALTER TABLE note ADD COLUMN more DEFAULT 'd'",),
    "rename column": ("ALTER TABLE note RENAME COLUMN mood TO feeling",),
    "drop and make again": ("DROP TABLE note", "CREATE TABLE note(text, mood)", "INSERT INTO note VALUES ('new', 1)"),
    **REBUILDS,
}

UNCONCERNED = {
    "index": ("CREATE INDEX by_mood ON note(mood)", "CREATE INDEX by_price ON item(price)"),
    "view": ("CREATE VIEW v AS SELECT * FROM note",),
    "drop": ("DROP TABLE note",),
    "user version": ("PRAGMA user_version = 7", "PRAGMA application_id = 9"),
    "vacuum": ("VACUUM",),
    "auto vacuum": ("PRAGMA auto_vacuum = 2", "VACUUM"),
}


def changed(pair: FollowedPair, statements: Sequence[str]) -> None:
    """By another process, on one connection, as migrations are; work before and after."""
    subprocess.run(written(pair.path, *statements), check=True, timeout=60)


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_changed_table_is_mirrored_when_a_migration_touches_one(pair: FollowedPair, change: str) -> None:
    pair.start(SHOP)
    before = pair.point()
    changed(pair, CHANGES[change])
    pair.do("UPDATE item SET price = 9")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["note"]
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("INSERT INTO note(text) VALUES ('later')")
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)


@pytest.mark.parametrize("change", UNCONCERNED)
def test_no_table_is_mirrored_when_a_change_touches_no_row(pair: FollowedPair, change: str) -> None:
    pair.start(SHOP)
    before = pair.point()
    changed(pair, UNCONCERNED[change])
    pair.do("UPDATE item SET price = 9")
    pair.pull()
    assert pair.tables_mirrored == []
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE account SET city = 'later'")
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)


def test_table_is_mirrored_under_its_new_name_when_it_is_renamed(pair: FollowedPair) -> None:
    pair.start(SHOP)
    before = pair.point()
    changed(pair, ("ALTER TABLE note RENAME TO remark", "INSERT INTO remark VALUES ('renamed', 1)"))
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["remark"]
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same_at(*before)
