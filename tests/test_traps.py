"""Traps that SQLite sets for whoever replicates it, one test each: the mirror must equal the source.

Each was tried by hand first, and each of these tests was seen red with its rule broken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import copy_source, pull_once, session

from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, Temporary
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.pull import Wishes, pull
from rollrep.source import reader
from rollrep.source.inspect import inspect
from rollrep.source.log import write_point


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


ACCOUNT = "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city);"


def test_row_removed_by_replace_is_gone_when_the_replacing_row_changes_again(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x')")
    pair.do("REPLACE INTO account VALUES (2, 'a', 'y')")
    pair.do("UPDATE account SET owner = 'b' WHERE id = 2")
    pair.same()


def test_row_removed_by_replace_is_gone_when_its_cascade_removes_the_updated_row(pair: FollowedPair) -> None:
    pair.start(
        "CREATE TABLE f(uuid TEXT PRIMARY KEY, parent REFERENCES f(uuid) ON DELETE CASCADE ON UPDATE CASCADE);"
        "INSERT INTO f VALUES ('a', 'a'), ('b', 'a'), ('z', NULL)"
    )
    pair.do("PRAGMA foreign_keys = ON")
    pair.do("UPDATE OR REPLACE f SET uuid = 'a' WHERE uuid = 'b'")
    assert pair.db.execute("SELECT group_concat(uuid) FROM f").fetchone() == ("z",)
    pair.same()


def test_unique_values_that_swap_arrive_when_both_rows_are_in_one_batch(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x'), (2, 'b', 'y')")
    pair.do("BEGIN")
    pair.do("UPDATE account SET owner = NULL WHERE id = 1")
    pair.do("UPDATE account SET owner = 'a' WHERE id = 2")
    pair.do("UPDATE account SET owner = 'b' WHERE id = 1")
    pair.do("COMMIT")
    pair.same()


@pytest.mark.parametrize(
    ("before", "after"),
    [("1", "1.0"), ("0.0", "-0.0"), ("'1'", "1"), ("NULL", "''"), ("''", "x''"), ("1", "NULL"), ("'a'", "'A'")],
)
def test_value_arrives_when_only_its_storage_class_or_case_changes(pair: FollowedPair, before: str, after: str) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, n COLLATE NOCASE, w TEXT COLLATE NOCASE, empty);"
        f"INSERT INTO t VALUES (1, {before}, 'x', 'x', NULL)"
    )
    pair.do(f"UPDATE t SET v = {after}, n = 'X', w = 'X'")
    pair.same()
    pair.do(f"REPLACE INTO t VALUES (1, {before}, 'X', 'x', NULL)")
    pair.same()


def test_text_arrives_when_it_is_not_valid_utf8_or_holds_nul(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID")
    pair.do("INSERT INTO t VALUES (CAST(x'ff00fe' AS TEXT), CAST(x'610062' AS TEXT)), ('plain', zeroblob(3))")
    pair.same()
    pair.do("UPDATE t SET v = 1 WHERE k = CAST(x'ff00fe' AS TEXT)")
    pair.do("DELETE FROM t WHERE k = 'plain'")
    pair.same()


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_mirror_and_restore_equal_source_when_the_database_is_utf16(pair: FollowedPair, encoding: str) -> None:
    pair.do(f"PRAGMA encoding = '{encoding}'")
    pair.start("CREATE TABLE t(k TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID; INSERT INTO t VALUES ('ä', 1)")
    pair.do("CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)")
    assert pair.pull() == ("mirror", "schema")
    pair.do("INSERT INTO t VALUES ('日本', 2)")
    pair.do("INSERT INTO auto(v) VALUES ('x'), ('y')")
    at = pair.point()
    pair.do("DELETE FROM auto")
    pair.same()
    pair.same_at(*at)


def test_mirror_equals_source_when_it_is_made_in_many_chunks_of_every_kind_of_key(pair: FollowedPair) -> None:
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) INSERT INTO {} SELECT {} FROM n"
    pair.start(
        "CREATE TABLE plain(v); CREATE TABLE txt(k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID;"
        "CREATE TABLE two(a REAL, b BLOB, PRIMARY KEY(b, a)) WITHOUT ROWID;"
        + rows.format("plain", "hex(i)")
        + ";"
        + rows.format("txt", "CASE i % 3 WHEN 0 THEN CAST(x'ff' || i AS TEXT) ELSE 'Key' || i END, i")
        + ";"
        + rows.format("two", "i / 7.0, CAST(hex(i % 10) AS BLOB)")
    )
    oracle.assert_same(pair.path, pair.store.mirror)


def test_key_moves_arrive_when_it_is_set_by_the_name_rowid(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x'), (2, 'b', 'y')")
    pair.do("UPDATE account SET rowid = 17 WHERE id = 1")
    pair.do("UPDATE account SET _rowid_ = 1 WHERE id = 2")
    pair.same()


def test_application_trigger_that_changes_the_same_row_is_seen_when_made_after_ours(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v, n)")
    pair.do("CREATE TRIGGER later AFTER INSERT ON t BEGIN UPDATE t SET n = new.v * 2 WHERE id = new.id; END")
    pair.do("INSERT INTO t(v) VALUES (1)")
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("INSERT INTO t(v) VALUES (2)")
    pair.do("CREATE TRIGGER back AFTER DELETE ON t WHEN old.id = 1 BEGIN INSERT INTO t VALUES (1, 'again', 0); END")
    assert pair.pull() == ("mirror", "schema")
    pair.do("DELETE FROM t")
    pair.same()


def test_row_is_right_when_a_trigger_changes_first_what_the_statement_sets_back(pair: FollowedPair) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, n); INSERT INTO t VALUES (1, 'a', 1);"
        "CREATE TRIGGER first BEFORE UPDATE ON t BEGIN UPDATE t SET n = 2 WHERE id = new.id; END"
    )
    pair.do("UPDATE t SET v = 'b', n = 1")
    assert pair.db.execute("SELECT v, n FROM t").fetchall() == [("b", 1)]
    pair.same()


def test_row_arrives_when_another_trigger_that_ends_the_statement_was_made_after_ours(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(v); CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END")
    pair.do("CREATE TRIGGER b AFTER INSERT ON t WHEN new.v = 13 BEGIN SELECT RAISE(IGNORE); END")
    assert pair.pull() == ("mirror", "schema")
    pair.do("INSERT INTO t VALUES (13), (14)")
    assert pair.db.execute("SELECT v FROM t").fetchall() == [(13,), (14,)]
    pair.same()


def test_rowids_stay_when_a_table_without_any_index_is_vacuumed(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(v); INSERT INTO t VALUES ('a'), ('b'), ('c'); DELETE FROM t WHERE v = 'a'")
    pair.do("VACUUM")
    pair.do("UPDATE t SET v = 'changed' WHERE v = 'c'")
    pair.same()


def test_only_the_table_concerned_is_mirrored_when_the_schema_changes(pair: FollowedPair) -> None:
    pair.start(
        ACCOUNT + "CREATE TABLE other(x); INSERT INTO other VALUES (1); INSERT INTO account VALUES (1, 'a', 'x')"
    )
    before = pair.point()
    pair.do("ALTER TABLE account ADD COLUMN zip DEFAULT '00'")
    pair.do("UPDATE account SET zip = '12'")
    pair.do("INSERT INTO other VALUES (2)")
    assert pair.pull() == ("mirror", "schema")
    assert pair.tables_mirrored == ["account"]
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same_at(*before)


def test_point_is_not_offered_when_the_log_could_not_tell_all_that_led_to_it(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x'), (2, 'b', 'y')")
    before = pair.point()
    pair.do("ALTER TABLE account ADD COLUMN zip DEFAULT '00'")
    pair.do("UPDATE account SET zip = '12' WHERE id = 1")
    after, _ = pair.point()
    pair.do("CREATE TABLE new__account AS SELECT 1 AS x; DROP TABLE new__account")
    assert pair.pull() == ("mirror", "schema")
    pair.same_at(*before)
    with Catalog(pair.store.catalog) as catalog:
        assert after not in {point.id for point in catalog.points()}
    later = pair.point()
    pair.same()
    pair.same_at(*later)


def test_point_has_its_own_schema_or_is_not_offered_when_capture_was_made_anew_twice(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE account(id TEXT PRIMARY KEY, city) WITHOUT ROWID")
    pair.do("ALTER TABLE account RENAME COLUMN city TO town")
    with pytest.raises(Temporary):
        pull_once(pair.store, pair.path, cut_after=300)  # captured anew, and the destination never hears of it
    between, kept = pair.point()
    pair.do("CREATE VIEW accounts AS SELECT id FROM account")
    assert pair.pull() == ("mirror", "schema")
    with Catalog(pair.store.catalog) as catalog:
        offered = {point.id for point in restorable(catalog)}
    if between in offered:
        pair.same_at(between, kept)
    pair.same_at(*pair.point_pulled())


def test_mirror_equals_source_when_a_table_is_rebuilt_as_django_does(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x'), (2, 'b', 'y')")
    pair.do(
        "BEGIN; CREATE TABLE new__account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city, age INT);"
        "INSERT INTO new__account(id, owner, city) SELECT id, owner, city FROM account; DROP TABLE account;"
        "ALTER TABLE new__account RENAME TO account; COMMIT"
    )
    pair.do("INSERT INTO account VALUES (3, 'c', 'z', 9)")
    assert pair.pull() == ("mirror", "schema")
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE account SET age = 10")
    pair.same()


def test_rows_arrive_once_when_foreign_keys_cascade_and_triggers_write(pair: FollowedPair) -> None:
    pair.start(
        "CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE);"
        "CREATE TABLE audit(what); CREATE TRIGGER a AFTER DELETE ON c BEGIN INSERT INTO audit VALUES (old.id); END;"
        "INSERT INTO p VALUES (1), (2); INSERT INTO c VALUES (1, 1), (2, 1), (3, 2)"
    )
    pair.do("PRAGMA foreign_keys = ON")
    pair.do("DELETE FROM p WHERE id = 1")
    pair.same()


def test_new_epoch_is_mirrored_when_somebody_empties_the_log(pair: FollowedPair) -> None:
    pair.start(ACCOUNT)
    pair.do("INSERT INTO account VALUES (1, 'a', 'x')")
    pair.same()
    pair.do("DELETE FROM _rollrep_log")
    pair.do("INSERT INTO account VALUES (2, 'b', 'y')")
    assert pair.pull() == ("mirror", "epoch"), pair
    oracle.assert_same(pair.path, pair.store.mirror)


@pytest.mark.parametrize("more", [0, 40])
def test_old_line_stays_restorable_when_the_source_was_restored_from_a_backup(pair: FollowedPair, more: int) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x')")
    backup = pair.folder / "backup.db"
    copy_source(pair.path, backup)
    for n in range(10):
        pair.do("INSERT INTO account VALUES (?, ?, 'lost')", (n + 10, f"lost{n}"))
    lost = pair.point()
    pair.same()
    pair.db.close()
    for ending in ("-wal", "-shm"):
        pair.path.with_name(f"app.db{ending}").unlink(missing_ok=True)
    backup.replace(pair.path)
    pair.db = apsw.Connection(str(pair.path))
    for n in range(more):
        pair.do("INSERT INTO account VALUES (?, ?, 'new')", (n + 100, f"new{n}"))
    assert pair.pull() == ("mirror", "diverged" if more else "ahead")
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same_at(*lost)
    pair.do("INSERT INTO account VALUES (999, 'z', 'goes on')")
    pair.same()


def test_readers_see_each_new_state_when_they_never_close_their_connection(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x')", keep_rows=50)
    count: Callable[[apsw.Connection], int] = lambda db: db.execute("SELECT count(*) FROM account").fetchone()[0]  # noqa: E731
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as reader:
        assert count(reader) == 1
        pair.do("INSERT INTO account VALUES (2, 'b', 'y')")
        pair.same()
        assert count(reader) == 2
        for n in range(300):
            pair.do("INSERT INTO account VALUES (?, ?, 'many')", (n + 10, f"o{n}"))
        reader.execute("BEGIN")
        assert count(reader) == 2
        assert pair.pull() == ("mirror", "pruned")
        assert count(reader) == 2, "a reader inside a transaction keeps its state"
        reader.execute("COMMIT")
        assert count(reader) == 302
        oracle.assert_same(pair.path, pair.store.mirror)


def test_position_edges_are_told_apart_when_the_log_has_just_lost_the_row(pair: FollowedPair) -> None:
    pair.start(ACCOUNT, keep_rows=31)
    pair.do("INSERT INTO account VALUES (1, 'a', 'x')")
    pair.same()
    position = pull_once(pair.store, pair.path).position
    assert position is not None
    n = 10
    while pair.db.execute("SELECT min(id) FROM _rollrep_log").fetchone()[0] <= position.id:
        pair.do("INSERT INTO account VALUES (?, ?, 'many')", (n, f"o{n}"))
        n += 1
    assert pair.pull() == ("mirror", "pruned")
    oracle.assert_same(pair.path, pair.store.mirror)


def test_point_keeps_its_label_when_a_mirror_operation_ends_on_it(pair: FollowedPair) -> None:
    pair.do(ACCOUNT)
    pair.install()
    point = write_point(pair.db, "before-deploy", "operator")
    assert pair.pull() == ("mirror", "first")
    with Catalog(pair.store.catalog) as catalog:
        assert [(each.id, each.label, each.kind) for each in catalog.points()] == [
            (point.id, "before-deploy", "operator")
        ]


def test_sequence_arrives_when_an_insert_of_no_row_began_it(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)")
    pair.do("INSERT INTO t(v) SELECT 1 WHERE 0")
    assert pair.db.execute("SELECT name, seq FROM sqlite_sequence").fetchall() == [("t", 0)]
    pair.same()


def test_sequence_arrives_when_the_application_sets_it(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO t(v) VALUES (1), (2)")
    pair.do("UPDATE sqlite_sequence SET seq = 77")
    at = pair.point_pulled()
    pair.do("DELETE FROM sqlite_sequence")
    pair.same()
    pair.same_at(*at)


@pytest.mark.parametrize("pulled", [True, False], ids=["pulled", "not_pulled"])
def test_points_and_renames_succeed_when_the_last_autoincrement_is_dropped_before_a_vacuum(
    pair: FollowedPair, pulled: bool
) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE TABLE u(n); INSERT INTO t(v) VALUES (1)"
    )
    pair.do("DROP TABLE t")
    if pulled:
        pair.pull()
    pair.do("VACUUM")
    pair.do("INSERT INTO _rollrep_point(label) VALUES ('vacuumed')")
    pair.do("ALTER TABLE u RENAME TO w")
    pair.do("INSERT INTO w VALUES (1)")
    assert pair.pull() == ("mirror", "schema")
    pair.do("INSERT INTO w VALUES (2)")
    pair.same()
    pair.same_at(*pair.point_pulled())


def test_sequence_arrives_when_a_row_of_it_has_no_name(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO t(v) VALUES (1)")
    pair.do("INSERT INTO sqlite_sequence VALUES (NULL, 5), (x'74', 9)")
    at = pair.point_pulled()
    pair.do("INSERT INTO t(v) VALUES (2)")
    pair.same()
    pair.same_at(*at)


def test_rows_arrive_when_columns_are_called_what_our_own_are(pair: FollowedPair) -> None:
    names = (
        "k0, v0, id, op, mask, patch, patched, is_there, is_odd, last, whole, least, most, shape, at, size, g, n, l, t"
    )
    pair.start(f"CREATE TABLE t({names}); CREATE TABLE k(key INTEGER PRIMARY KEY, {names}, UNIQUE (last, most))")
    for table in ("t", "k"):
        pair.do(f"INSERT INTO {table}(k0, last, most) VALUES (1, 'a', 'b'), (2, 'c', 'd')")
        pair.same()
        pair.do(f"UPDATE {table} SET last = 'e', v0 = 3, whole = NULL WHERE k0 = 1")
        pair.do(f"UPDATE {table} SET mask = 'x' WHERE k0 = 1")
        pair.same()
        pair.do(f"DELETE FROM {table} WHERE k0 = 2")
        pair.same()


def test_user_version_arrives_when_nothing_else_has_changed(pair: FollowedPair) -> None:
    pair.start(ACCOUNT)
    pair.do("PRAGMA user_version = 7")
    pair.do("PRAGMA application_id = 99")
    pair.same()


def test_points_keep_the_source_times_to_the_millisecond_when_archived(pair: FollowedPair) -> None:
    pair.start(ACCOUNT)
    written = []
    for n in range(20):
        pair.do("INSERT INTO account VALUES (?, ?, 1)", (n, str(n)))
        written.append(write_point(pair.db, None, "operator"))
    pair.do("UPDATE account SET city = 2")
    pair.same()
    with Catalog(pair.store.catalog) as catalog:
        recorded = {point.id: iso(point.time) for point in catalog.points()}
    assert {point.id: point.time for point in written}.items() <= recorded.items()


def test_restore_is_right_when_a_mirror_was_asked_for_and_nothing_had_been_logged(pair: FollowedPair) -> None:
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x')")
    with contextlib.closing(apsw.Connection(str(pair.path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute("UPDATE account SET city = 'unseen'")
    with session() as talk, pair.store.locked():
        pull(pair.store, talk, Wishes(str(pair.path), mirror=True), lambda _table, _rows: None)
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("INSERT INTO account VALUES (2, 'b', 'y')")
    later = pair.point()
    pair.same()
    pair.same_at(*later)


def test_point_keeps_its_user_version_when_only_that_changed_since(pair: FollowedPair) -> None:
    pair.start(ACCOUNT)
    pair.do("PRAGMA user_version = 3; INSERT INTO account VALUES (1, 'a', 'x')")
    before = pair.point()
    pair.same()
    pair.do("PRAGMA user_version = 8; PRAGMA application_id = 2")
    pull_once(pair.store, pair.path, snapshot_s=0.0)
    pair.same()
    pair.same_at(*before)
    after = pair.point()
    pair.same()
    pair.same_at(*after)
    pair.same_at(*before)


@pytest.mark.parametrize("default", ["-0.0", "abc", '"it\'s"', "(1 + 1)", "TRUE", "x'00'"])
def test_row_is_gone_when_the_default_of_a_replacing_row_collides_with_it(pair: FollowedPair, default: str) -> None:
    pair.start(
        f"CREATE TABLE t(id INTEGER PRIMARY KEY, p NOT NULL DEFAULT {default} UNIQUE); INSERT INTO t(id) VALUES (1)"
    )
    pair.do("INSERT OR REPLACE INTO t VALUES (2, NULL)")
    pair.same()
    pair.do("INSERT INTO t VALUES (3, 'other')")
    pair.same()
    pair.do("UPDATE OR REPLACE t SET p = NULL WHERE id = 3")
    pair.same()
    assert pair.db.execute("SELECT id FROM t").fetchall() == [(3,)]


def test_keys_equal_to_their_column_only_are_all_copied_when_a_chunk_ends_between_them(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "IMAGE_ROWS", 3)
    pair.start(
        "CREATE TABLE word(w TEXT COLLATE NOCASE, n, PRIMARY KEY (w COLLATE BINARY, n)) WITHOUT ROWID;"
        'INSERT INTO word SELECT value, 1 FROM json_each(\'["a","A","b","B","c","C","d","D"]\')'
    )
    oracle.assert_same(pair.path, pair.store.mirror)


def test_point_has_no_sequence_when_the_first_row_was_ignored_after_it(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a CHECK (a IS NOT 3))")
    at, kept = pair.point()
    pair.do("INSERT OR IGNORE INTO t VALUES (2, 3)")
    assert pair.db.execute("SELECT seq FROM sqlite_sequence").fetchall() == [(2,)]
    pair.same()
    pair.same_at(at, kept)


WORDS = "('a', 1, 'x'), ('A', 1, 'y'), ('a ', 1, 'z'), ('b', 1, 'v')"
FEWER = "('a', 1, 'x'), ('c ', 1, 'z'), ('b', 1, 'v')"
"""what a key lets in that finds more values equal"""


@pytest.mark.parametrize("rereads", [False, True])
@pytest.mark.parametrize(
    ("column", "key", "rows"),
    [
        ("NOCASE", "BINARY", WORDS), ("RTRIM", "BINARY", WORDS), ("RTRIM", "NOCASE", FEWER),
        ("BINARY", "NOCASE", FEWER), ("BINARY", "RTRIM", FEWER),
    ],
)  # fmt: skip
def test_rows_are_told_apart_when_the_key_has_another_collation_than_its_column(
    pair: FollowedPair, column: str, key: str, rows: str, rereads: bool
) -> None:
    trigger = "CREATE TRIGGER acts AFTER UPDATE ON word BEGIN UPDATE word SET u = u || '' WHERE u = 'v'; END;"
    pair.start(
        f"CREATE TABLE word(k TEXT COLLATE {column}, n, u UNIQUE, PRIMARY KEY (k COLLATE {key}, n)) WITHOUT ROWID;"
        + trigger * rereads
    )
    for work in (
        "DELETE FROM word WHERE u = 'x'",
        "UPDATE word SET k = k || ' ' WHERE u = 'v'",
        "UPDATE word SET k = upper(k) WHERE u = 'v'",
        "UPDATE word SET u = 'other' WHERE u = 'x'",
        "UPDATE OR REPLACE word SET u = 'x' WHERE u = 'z'",
        "REPLACE INTO word VALUES ('d', 1, 'x')",
        "REPLACE INTO word VALUES ('d', 1, 'x'); DELETE FROM word WHERE u = 'z'",
    ):
        pair.do(f"DELETE FROM word; INSERT INTO word VALUES {rows}")
        pair.same()
        pair.do(work)
        pair.same()


HALL = "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, n, x, y); CREATE UNIQUE INDEX other ON t(x, y);"
MIDWAY = {
    "inserts, before insert": (
        "CREATE TRIGGER b BEFORE INSERT ON t WHEN new.n = 7 BEGIN INSERT INTO t VALUES (new.id + 100, new.u, 1, 0, 0); END",
        "INSERT OR REPLACE INTO t VALUES (3, 'z', 7, 3, 3)",
    ),
    "inserts into a view": (
        "CREATE VIEW v AS SELECT id, u FROM t;"
        "CREATE TRIGGER i INSTEAD OF INSERT ON v BEGIN INSERT INTO t VALUES (new.id, new.u, 1, 0, 0); END;"
        "CREATE TRIGGER b INSERT ON t WHEN new.n = 7 BEGIN INSERT INTO v VALUES (new.id + 100, new.u); END",
        "INSERT OR REPLACE INTO t VALUES (3, 'z', 7, 3, 3)",
    ),
    "updates, before insert": (
        "CREATE TRIGGER b BEFORE INSERT ON t WHEN new.n = 7 BEGIN UPDATE t SET x = new.x, y = new.y WHERE id = 1; END",
        "INSERT OR REPLACE INTO t VALUES (3, 'z', 7, 3, 3)",
    ),
    "updates, before an upsert": (
        "CREATE TRIGGER b BEFORE INSERT ON t WHEN new.n = 7 BEGIN UPDATE t SET u = new.u WHERE id = 1; END",
        "INSERT INTO t VALUES (3, 'z', 7, 3, 3) ON CONFLICT(u) DO UPDATE SET id = 3, x = excluded.x",
    ),
    "updates, before update": (
        "CREATE TRIGGER b BEFORE UPDATE ON t WHEN new.n = 7 BEGIN UPDATE t SET u = new.u WHERE id = 1; END",
        "UPDATE OR REPLACE t SET u = 'z', n = 7, id = 3 WHERE id = 2",
    ),
    "replaces, before update of another": (
        "CREATE TRIGGER b BEFORE UPDATE OF n ON t WHEN new.n = 7 BEGIN"
        " INSERT OR REPLACE INTO t VALUES (9, new.u, 0, 5, 5); END",
        "UPDATE OR REPLACE t SET u = 'z', n = 7, id = 3 WHERE id = 2",
    ),
    "a child's trigger": (
        "CREATE TABLE child(p REFERENCES t(u) ON DELETE CASCADE); INSERT INTO child VALUES ('x');"
        "CREATE TRIGGER c AFTER DELETE ON child BEGIN INSERT INTO t VALUES (1, 'z', 0, 5, 5); END",
        "INSERT OR REPLACE INTO t VALUES (3, 'z', 7, 1, 1)",
    ),
    "a foreign key": (
        "ALTER TABLE t ADD COLUMN p REFERENCES t ON DELETE SET NULL; CREATE UNIQUE INDEX top ON t(y) WHERE p IS NULL;"
        "INSERT INTO t VALUES (9, 'n', 0, 9, 7, 1)",
        "INSERT OR REPLACE INTO t VALUES (1, 'z', 7, 3, 7, NULL)",
    ),
}


@pytest.mark.parametrize("recursive", ["OFF", "ON"])
@pytest.mark.parametrize("each", [False, True], ids=["pulled at the end", "pulled each time"])
@pytest.mark.parametrize("midway", MIDWAY)
def test_replaced_row_is_gone_when_a_trigger_put_it_there_midway(
    midway: str, each: bool, recursive: str, pair: FollowedPair
) -> None:
    """Our BEFORE trigger runs first, and sees none of what the application's then puts in the new row's way."""
    triggers, replacing = MIDWAY[midway]
    pair.start(f"{HALL} INSERT INTO t VALUES (1, 'x', 0, 1, 1), (2, 'y', 0, 2, 2); {triggers}")
    pair.do(f"PRAGMA recursive_triggers = {recursive}; PRAGMA foreign_keys = ON")
    for statement in (
        replacing,
        "UPDATE t SET u = 'q', x = 9 WHERE u = 'z'",
        "INSERT INTO t(id, u, x, y) VALUES (60, 'z', 3, 30)",
    ):
        pair.do(statement)
        if each:
            pair.same()
    kept = pair.point_pulled()
    pair.same_at(*kept)


def test_points_are_what_they_were_when_an_older_rollrep_took_removals_for_announced(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    triggers, replacing = MIDWAY["inserts, before insert"]
    with monkeypatch.context() as older:
        older.setattr("rollrep.source.inspect._unannounced", lambda plan: plan)
        pair.start(f"{HALL} INSERT INTO t VALUES (1, 'x', 0, 1, 1), (2, 'y', 0, 2, 2); {triggers}")
        pair.do(replacing)
        points = [pair.point()]
        pair.do("UPDATE t SET u = 'q', x = 9 WHERE u = 'z'")
        points.append(pair.point())
        pair.pull()
    pair.do("INSERT INTO t(id, u, x, y) VALUES (60, 'z', 3, 30)")
    points.append(pair.point())
    pair.install()
    assert pair.pull() == ("mirror", "schema")
    pair.same()
    for kept in points:
        pair.same_at(*kept)


@pytest.mark.parametrize(
    ("schema", "announced"),
    [
        (HALL + "CREATE TRIGGER b BEFORE INSERT ON t BEGIN SELECT RAISE(IGNORE) FROM t WHERE u = new.u; END", True),
        (HALL + "CREATE TRIGGER b AFTER INSERT ON t BEGIN UPDATE t SET n = 1; END", True),
        (HALL + "CREATE TRIGGER b BEFORE DELETE ON t BEGIN UPDATE t SET n = 1; END", True),
        (HALL + "CREATE TABLE o(u); CREATE TRIGGER b BEFORE INSERT ON t BEGIN DELETE FROM t; INSERT INTO o VALUES (1); END", True),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, p REFERENCES t ON DELETE CASCADE ON UPDATE CASCADE)", True),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, p REFERENCES t ON DELETE SET NULL)", False),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX i ON t(v) WHERE id > 0", True),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX i ON t(lower(v), id)", True),
        ("CREATE TABLE t(id INT PRIMARY KEY, v); CREATE UNIQUE INDEX i ON t(v, id > 0)", True),
        ("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX i ON t(v, \"ID\" > 0)", False),
    ],
)  # fmt: skip
def test_table_is_replayed_in_order_only_when_a_removal_may_go_unannounced(
    schema: str, announced: bool, pair: FollowedPair
) -> None:
    pair.do(schema)
    plans, refused = inspect(pair.db, ["t"], [])
    assert ([plan.shape.touches_logged for plan in plans], refused) == ([announced], [])


@pytest.mark.parametrize("each", [False, True], ids=["pulled at the end", "pulled each time"])
@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX i ON t(v, id > 0)",
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); CREATE UNIQUE INDEX i ON t(iif(id > 0, v, NULL))",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, g AS (id > 0)); CREATE UNIQUE INDEX i ON t(v, g)",
        'CREATE TABLE t(id INTEGER PRIMARY KEY, v, g AS (v || h), "h" AS ([Id] > 0)); CREATE UNIQUE INDEX i ON t(lower(g))',
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, g AS (id > 0) STORED, UNIQUE(v, g))",
    ],
)
def test_replaced_row_is_gone_when_an_index_uses_the_key_that_sqlite_chooses(
    schema: str, each: bool, pair: FollowedPair
) -> None:
    """NEW's key is -1 before the row is put."""
    pair.start(schema)
    for statement in (
        "INSERT INTO t(v) VALUES ('a')",
        "INSERT OR REPLACE INTO t(v) VALUES ('a')",
        "UPDATE t SET v = 'b'",
        "INSERT INTO t(v) VALUES ('a')",
        "UPDATE OR REPLACE t SET v = 'b' WHERE v = 'a'",
        "UPDATE t SET v = 'c'",
    ):
        pair.do(statement)
        if each:
            pair.same()
    pair.same()
    assert pair.db.execute("SELECT count(*) FROM t").get == 1


def test_replaced_row_is_gone_when_a_generated_column_is_made_of_the_default(pair: FollowedPair) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v NOT NULL DEFAULT 'a', g AS (v || 'x')); CREATE UNIQUE INDEX i ON t(g)"
    )
    pair.do("INSERT INTO t(id) VALUES (1)")
    pair.do("INSERT OR REPLACE INTO t VALUES (2, NULL); UPDATE t SET v = 'b'")
    pair.same()
    assert pair.db.execute("SELECT * FROM t").fetchall() == [(2, "b", "bx")]


def test_row_removed_by_replace_is_gone_when_a_foreign_key_changes_the_updated_row_at_once(pair: FollowedPair) -> None:
    """It collided by p = 'a', and 'b' is what our AFTER trigger reads."""
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, u UNIQUE, p UNIQUE REFERENCES t(u) ON UPDATE CASCADE);"
        "INSERT INTO t VALUES (1, 'a', NULL), (2, 'c', 'a')"
    )
    pair.do("PRAGMA foreign_keys = ON")
    pair.do("UPDATE OR REPLACE t SET u = 'b', p = 'a' WHERE id = 1")
    assert pair.db.execute("SELECT * FROM t").fetchall() == [(1, "b", "b")]
    pair.same()


def test_restore_names_the_other_points_when_log_rows_before_its_own_can_not_be_replayed(pair: FollowedPair) -> None:
    """To mirror again, as a pull says, brings no point back."""
    pair.start(ACCOUNT + "INSERT INTO account VALUES (1, 'a', 'x')")
    put = "INSERT INTO _rollrep_log(at, shape, op, size, v0, v1) VALUES (julianday('now'), 1, 1, 9, 2, ?)"
    pair.do(put, ("a",))
    unreachable, _ = pair.point()
    pair.do(put, ("b",))
    pair.do("DELETE FROM account")
    pair.do("INSERT INTO _rollrep_log(at, shape, op, size, v0) VALUES (julianday('now'), 1, 0, 9, 2)")
    pair.same()
    with pytest.raises(NotRestorable, match="can't be replayed on table account: UNIQUE") as refused:
        pair.restored(pair.points_at(unreachable)[0])
    assert refused.value.remedy == "choose an earlier or a later point: rollrep points JOB"
    pair.same_at(*pair.point_pulled())
