"""ALTER TABLE ... DROP COLUMN on a captured table: SQLite takes it as it would without us, and the mirror follows.

Whoever drops the column is another program with another SQLite than ours: Python's own, or the shell.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair

SHOP = """
    CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city TEXT, zip, rate REAL DEFAULT 2.5);
    CREATE TABLE item(sku TEXT COLLATE NOCASE, lot, name TEXT, price, PRIMARY KEY (sku, lot)) WITHOUT ROWID;
    CREATE TABLE note(text, mood);
    CREATE TABLE child(id INTEGER PRIMARY KEY, account REFERENCES account ON DELETE CASCADE, x UNIQUE, y);
    CREATE TABLE made(a, b INT, c TEXT AS (a || 'g') STORED, d AS (b + 1), e);
    CREATE TABLE "new"("old", "new" TEXT, "a b");
    CREATE TABLE wide(id INTEGER PRIMARY KEY, COLUMNS);
    INSERT INTO account VALUES (1, 'a', 'x', '1', 1), (2, 'b', 'y', '2', 2), (3, 'c', 'z', '3', 3);
    INSERT INTO item VALUES ('s1', 1, 'screw', 1.5), ('s2', 1, 'nut', x'00');
    INSERT INTO note VALUES ('hello', 1), ('there', 2);
    INSERT INTO child VALUES (1, 1, 'c', 1), (2, 2, 'd', 2);
    INSERT INTO made(a, b, e) VALUES (1, 2, 3), ('x', 5, -0.0);
    INSERT INTO "new" VALUES (1, 2, 3), ('x', 'y', 'z');
    INSERT INTO wide(id, c3, c69) VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3);
""".replace("COLUMNS", ", ".join(f"c{n}" for n in range(70)))
WORK = {
    "account": "UPDATE account SET owner = 'w' WHERE id = 1; REPLACE INTO account(id, owner) VALUES (9, 'w'); DELETE FROM account WHERE id = 2",
    "item": "UPDATE item SET sku = upper(sku); UPDATE item SET lot = 2 WHERE sku = 's1'; INSERT INTO item(sku, lot) VALUES ('s3', 1)",
    "note": "UPDATE note SET rowid = rowid + 10; INSERT INTO note DEFAULT VALUES; DELETE FROM note WHERE rowid = 11",
    "child": "UPDATE child SET id = id + 5; INSERT OR REPLACE INTO child(id, x) VALUES (1, 'd'); UPDATE OR REPLACE child SET x = 'd'",
    "made": "UPDATE made SET rowid = 7 WHERE rowid = 1; INSERT INTO made DEFAULT VALUES; DELETE FROM made WHERE rowid = 2",
    "new": 'UPDATE "new" SET rowid = rowid + 10; INSERT INTO "new" DEFAULT VALUES; DELETE FROM "new" WHERE rowid = 11',
    "wide": "UPDATE wide SET c3 = c3 + 1; INSERT INTO wide(c3) VALUES (4); UPDATE wide SET id = 8 WHERE id = 1; DELETE FROM wide WHERE id = 2",
}
"""what goes on with each table after any of its columns is gone"""
DROPS = {
    "plain": ("account", "ALTER TABLE account DROP COLUMN zip"),
    "with_a_default": ("account", "ALTER TABLE account DROP COLUMN rate"),
    "without_rowid": ("item", "ALTER TABLE item DROP COLUMN name"),
    "last_of_without_rowid": ("item", "ALTER TABLE item DROP COLUMN price"),
    "first_of_a_table_without_key": ("note", "ALTER TABLE note DROP COLUMN text"),
    "last_of_a_table_without_key": ("note", "ALTER TABLE note DROP COLUMN mood"),
    "where_rows_are_read_again": ("child", "ALTER TABLE child DROP COLUMN y"),
    "a_reference_that_acts": ("child", "ALTER TABLE child DROP COLUMN account"),
    "beside_generated_ones": ("made", "ALTER TABLE made DROP COLUMN e"),
    "generated_and_stored": ("made", "ALTER TABLE made DROP COLUMN c"),
    "generated_and_then_what_it_was_made_of": (
        "made",
        "ALTER TABLE made DROP COLUMN d; ALTER TABLE made DROP COLUMN b",
    ),
    "named_as_the_table_and_a_trap": ("new", 'ALTER TABLE "new" DROP COLUMN "new"'),
    "named_old_and_the_first": ("new", 'ALTER TABLE "new" DROP COLUMN "old"'),
    "with_a_space": ("new", 'ALTER TABLE "new" DROP COLUMN "a b"'),
    "of_many": ("wide", "ALTER TABLE wide DROP COLUMN c0; ALTER TABLE wide DROP COLUMN c69"),
    "all_but_one": ("note", "ALTER TABLE note DROP COLUMN text; ALTER TABLE note RENAME COLUMN mood TO text"),
    "all_but_the_constraints": (
        "account",
        "ALTER TABLE account DROP COLUMN zip; ALTER TABLE account DROP COLUMN city; ALTER TABLE account DROP rate",
    ),
}
INDEXES = {
    "plain": "CREATE INDEX i ON account(city)",
    "unique": "CREATE UNIQUE INDEX i ON account(city)",
    "unique_of_two": "CREATE UNIQUE INDEX i ON account(zip, city)",
    "partial": "CREATE INDEX i ON account(zip) WHERE city IS NOT NULL",
    "unique_partial": "CREATE UNIQUE INDEX i ON account(zip) WHERE account.city IS NOT NULL",
    "expression": "CREATE UNIQUE INDEX i ON account(lower(city))",
}
SCRIPT = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
con.execute("PRAGMA trusted_schema = OFF")
con.executescript(sys.argv[2])
"""
WRITERS = {
    "stdlib": [sys.executable, "-c", SCRIPT],
    "shell": ["sqlite3", "-bail", "-cmd", ".dbconfig defensive on"],
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def written(pair: FollowedPair, statements: str, writer: str = "stdlib") -> None:
    done = subprocess.run(
        [*WRITERS[writer], str(pair.path), statements], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("drop", DROPS)
def test_mirror_and_both_sides_of_it_are_right_when_a_column_is_dropped(pair: FollowedPair, drop: str) -> None:
    table, statement = DROPS[drop]
    pair.start(SHOP)
    pair.do("UPDATE note SET text = 'unpulled' WHERE rowid = 1")
    before = pair.point()
    written(pair, f"{statement}; {WORK[table]}")
    between, _ = pair.point()
    assert pair.pull() == ("mirror", "schema")
    # Once no reference acts on them, rows of the other table need not be read again.
    assert pair.tables_mirrored == (["child", "account"] if drop == "a_reference_that_acts" else [table])
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE note SET rowid = rowid + 100")
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)
    assert pair.points_at(between) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_writers_are_in_no_one_s_way_when_one_of_them_drops_a_column(pair: FollowedPair, writer: str) -> None:
    """Each statement a transaction; every writer has prepared its statements before."""
    pair.start(SHOP)
    pair.do("INSERT INTO account(id, owner) VALUES (5, 'prepared')")
    written(pair, "ALTER TABLE account DROP COLUMN zip; INSERT INTO account(id, owner) VALUES (7, 'q')", writer)
    pair.do("INSERT INTO account(id, owner) VALUES (6, 'prepared again')")
    pair.pull()
    oracle.assert_same(pair.path, pair.store.mirror)


@pytest.mark.parametrize("index", INDEXES)
def test_column_goes_when_its_index_went_first(pair: FollowedPair, index: str) -> None:
    pair.start(f"{SHOP}; {INDEXES[index]}")
    before = pair.point()
    written(pair, f"DROP INDEX i; ALTER TABLE account DROP COLUMN city; {WORK['account']}")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["account"]
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE account SET owner = id; REPLACE INTO account(id, owner) VALUES (10, 3)")
    pair.same()
    pair.same_at(*before)


def test_row_removed_by_replace_is_gone_when_the_index_was_made_by_create_index(pair: FollowedPair) -> None:
    """What an index that can be dropped makes of a REPLACE is logged by another text than for a constraint."""
    pair.start(
        "CREATE TABLE t(k TEXT, j, a, b, PRIMARY KEY (k, j)) WITHOUT ROWID; CREATE UNIQUE INDEX i ON t(a);"
        "CREATE UNIQUE INDEX n ON t(lower(b)) WHERE a > 0; CREATE TABLE new(id INTEGER PRIMARY KEY, a, b);"
        "CREATE UNIQUE INDEX o ON new(a); CREATE UNIQUE INDEX p ON new(lower(b)) WHERE a > 0"
    )
    pair.do("INSERT INTO t VALUES ('x', 1, 1, 'A'), ('y', 1, 2, 'B'), ('z', 1, 3, 'C')")
    pair.do("INSERT INTO new VALUES (1, 1, 'A'), (2, 2, 'B'), (3, 3, 'C')")
    pair.same()
    for table in ("t", "new"):
        pair.do(f"UPDATE OR REPLACE {table} SET a = 2 WHERE a = 1; UPDATE {table} SET a = 9 WHERE a = 2")
        pair.do(f"REPLACE INTO {table} SELECT * FROM (SELECT * FROM {table} WHERE a = 9)")
    pair.do("REPLACE INTO t VALUES ('w', 1, 4, 'c'); UPDATE t SET b = 'd' WHERE k = 'w'")
    pair.do("REPLACE INTO new VALUES (8, 4, 'c'); UPDATE new SET b = 'd' WHERE id = 8")
    pair.same()


@pytest.mark.parametrize("transaction", ["BEGIN; {}; COMMIT", "{}"], ids=["in_one_transaction", "one_by_one"])
@pytest.mark.parametrize(
    "again",
    ["zip", "zip INT", "zip DEFAULT 7", "zip AS (id + 1)"],
    ids=["as_it_was", "of_another_type", "with_a_default", "generated"],
)
def test_new_column_is_carried_when_it_has_the_name_of_one_that_was_dropped(
    pair: FollowedPair, again: str, transaction: str
) -> None:
    pair.start(SHOP)
    before = pair.point()
    swap = "ALTER TABLE account DROP COLUMN zip; INSERT INTO account(id, owner) VALUES (7, 'q');"
    swap += f"ALTER TABLE account ADD COLUMN {again}; UPDATE account SET city = 'w' WHERE id = 2"
    written(pair, transaction.format(swap))
    if "AS" not in again:
        pair.do("UPDATE account SET zip = '22' WHERE id = 2")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["account"]
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do(WORK["account"])
    pair.same()
    pair.same_at(*before)


@pytest.mark.parametrize("filled", [False, True], ids=["left_empty", "filled_again"])
@pytest.mark.parametrize("table", ["note", "item", "child"])
def test_table_is_mirrored_again_when_a_column_was_dropped_and_added_as_it_was(
    pair: FollowedPair, table: str, filled: bool
) -> None:
    """The last one: then the schema is the same to the letter, and no trigger has seen what became of the values."""
    pair.start("CREATE TABLE note(text, mood); CREATE TABLE item(sku PRIMARY KEY, n) WITHOUT ROWID;"
               "CREATE TABLE child(id INTEGER PRIMARY KEY, up REFERENCES child ON DELETE CASCADE, n);"
               "CREATE TABLE other(id INTEGER PRIMARY KEY, v)")  # fmt: skip
    pair.do(
        "INSERT INTO note VALUES (1, 1), (2, 2); INSERT INTO item VALUES (1, 1), (2, 2); INSERT INTO other VALUES (1, 1)"
    )
    pair.do("INSERT INTO child VALUES (1, NULL, 1), (2, 1, 2)")
    before = pair.point_pulled()
    column = "mood" if table == "note" else "n"
    schema = pair.db.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    written(pair, f"ALTER TABLE {table} DROP COLUMN {column}; ALTER TABLE {table} ADD COLUMN {column}")
    assert pair.db.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall() == schema
    if filled:
        pair.do(
            f"UPDATE {table} SET {column} = 3 WHERE rowid = 2"
            if table != "item"
            else "UPDATE item SET n = 3 WHERE sku = 2"
        )
    between, _ = pair.point()
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == [table]
    oracle.assert_same(pair.path, pair.store.mirror)
    assert pair.points_at(between) == []
    pair.do(f"INSERT INTO {table} VALUES (8, {'NULL, 8' if table == 'child' else 8})")
    after = pair.point_pulled()
    pair.same_at(*after)
    pair.same_at(*before)
    assert pair.pull()[0] == "up_to_date"


def test_table_is_mirrored_again_when_its_key_was_renamed_after_a_column_was_dropped_and_added(
    pair: FollowedPair,
) -> None:
    pair.start("CREATE TABLE t(k TEXT PRIMARY KEY, a, b) WITHOUT ROWID; INSERT INTO t VALUES ('x', 1, 2)")
    pair.do("ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b; ALTER TABLE t RENAME COLUMN k TO key")
    assert pair.pull() == ("mirror", "schema")
    pair.same()


def test_nothing_is_mirrored_when_the_schema_changed_and_changed_back(pair: FollowedPair) -> None:
    """A row that nobody wrote to still has a value in the last column: so that one was not dropped meanwhile."""
    pair.start("CREATE TABLE note(text, mood); INSERT INTO note VALUES (1, NULL), (2, 2), (3, 3)")
    pair.do("UPDATE note SET mood = 4 WHERE text = 3; CREATE TABLE x(y); DROP TABLE x; CREATE TABLE x(y); DROP TABLE x")
    assert pair.pull() == ("resume", "")
    pair.do("CREATE TABLE x(y); DROP TABLE x; VACUUM; INSERT INTO note VALUES (8, NULL)")
    assert pair.pull() == ("resume", "")
    oracle.assert_same(pair.path, pair.store.mirror)


def test_nothing_remains_when_a_drop_was_rolled_back(pair: FollowedPair) -> None:
    pair.start(SHOP)
    pair.do(f"BEGIN; ALTER TABLE account DROP COLUMN zip; {WORK['account']}; ROLLBACK; {WORK['account']}")
    assert pair.pull() == ("resume", "")
    oracle.assert_same(pair.path, pair.store.mirror)


def test_column_goes_under_its_new_name_when_a_pull_came_between(pair: FollowedPair) -> None:
    """Renamed, it is a name that our triggers know nothing to put in the place of, until they are made again."""
    pair.start(SHOP)
    pair.do("ALTER TABLE note RENAME COLUMN mood TO feeling; UPDATE note SET feeling = 'renamed' WHERE text = 'hello'")
    with pytest.raises(apsw.SQLError, match="error in trigger _rollrep_insert_note after drop column: no such column"):
        pair.do("ALTER TABLE note DROP COLUMN feeling")
    pair.do(WORK["note"])
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("ALTER TABLE note DROP COLUMN feeling; UPDATE note SET text = 'later'")
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)


@pytest.mark.parametrize("column", ["id", "owner"])
def test_application_gets_sqlite_s_own_error_when_the_column_can_not_be_dropped(
    pair: FollowedPair, column: str
) -> None:
    pair.start(SHOP)
    with apsw.Connection(":memory:") as db:
        db.execute(SHOP)
        with pytest.raises(apsw.SQLError) as expected:
            db.execute(f"ALTER TABLE account DROP COLUMN {column}")
    with pytest.raises(apsw.SQLError) as found:
        pair.do(f"ALTER TABLE account DROP COLUMN {column}")
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO account(id, owner) VALUES (77, 'z')",
        "INSERT OR REPLACE INTO account(id, owner) VALUES (1, 'z')",
        "UPDATE account SET city = 'z', owner = 'y'",
        "UPDATE account SET id = id + 1",
        "DELETE FROM account",
    ],
)
def test_no_temporary_table_is_made_when_the_log_is_written(pair: FollowedPair, statement: str) -> None:
    """One costs twenty thousand instructions each time a trigger is run, which is more than all else it does."""
    pair.start("CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT, city, zip)")
    program: str = ""
    made = []
    for _, opcode, _, _, _, told, *_ in pair.db.execute(f"EXPLAIN {statement}"):
        program = str(told) if opcode == "Init" else program
        if opcode == "OpenEphemeral":
            made.append(program)
    # What _rollrep_watch makes, it makes only while there is an object that capture doesn't know.
    assert set(made) <= {"-- TRIGGER _rollrep_prune", "-- TRIGGER _rollrep_watch", "None"}


@pytest.mark.parametrize("made", ["t(c, z)", "t(c PRIMARY KEY, b) WITHOUT ROWID"])
@pytest.mark.parametrize("before", ["t(a INTEGER PRIMARY KEY, b, c)", "t(b, c)"])
def test_pull_goes_on_when_a_table_was_made_anew_without_its_key(pair: FollowedPair, before: str, made: str) -> None:
    pair.start(f"CREATE TABLE {before}; CREATE TABLE other(x); INSERT INTO t(b, c) VALUES (1, 2)")
    pair.do(f"DROP TABLE t; CREATE TABLE {made}; INSERT INTO t(c) VALUES (5)")
    for _ in range(3):
        pair.do("CREATE INDEX i ON other(x); DROP INDEX i")
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
