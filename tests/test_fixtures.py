"""The fixtures are what they say they are, and the oracle sees every kind of difference.

If the workload stopped doing an operation, or the oracle stopped seeing one, every other test would go on
passing; so both are counted here.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "fixtures"), str(ROOT / "tests")]

import make  # noqa: E402
import oracle  # noqa: E402
import workload  # noqa: E402

SEEDS = (0, 1, 2, 3)  # foreign keys off, on, off, on; recursive triggers off, off, on, on
TRANSACTIONS = 300

# What must have been committed, at the least, by the four seeds together.
KEPT = {
    "business": 200, "insert": 150, "insert_many": 40, "insert_select": 30, "insert_ignore": 40,
    "replace_key": 40, "replace_unique": 8, "replace_two": 8, "upsert_key": 40, "upsert_unique": 4,
    "upsert_nothing": 30, "update_one": 200, "update_many": 50, "update_replace": 25, "update_ignore": 25,
    "move_key": 30, "swap_keys": 45, "delete_one": 80, "delete_many": 20, "delete_all": 1, "returning": 100,
    "savepoint_release": 50, "savepoint_rollback": 80,
}  # fmt: skip


@contextmanager
def application(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as con:
        con.execute("PRAGMA synchronous = OFF")
        yield con


def run(path: Path, seed: int, transactions: int = TRANSACTIONS, **options: Any) -> workload.Workload:
    with application(path) as con:
        work = workload.Workload(con, seed, **options)
        work.run(transactions)
    return work


def sound(path: Path) -> tuple[str, int]:
    """What integrity_check says, and how many rows foreign_key_check complains of."""
    with application(path) as con:
        [(said,)] = con.execute("PRAGMA integrity_check(1)").fetchall()
        return said, len(con.execute("PRAGMA foreign_key_check").fetchall())


@pytest.fixture(scope="module", params=make.NAMES)
def worked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """One schema, worked on by each seed on a database of its own: seed → (path, workload)."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = {seed: make.build(request.param, folder / f"{seed}.db") for seed in SEEDS}
    return {seed: (path, run(path, seed)) for seed, path in paths.items()}


# ---------------------------------------------------------------- make


@pytest.mark.parametrize("name", make.NAMES)
def test_build_is_sound_and_of_the_size_asked_for(name: str, tmp_path: Path) -> None:
    path = make.build(name, tmp_path / "a.db", rows=1500)
    assert sound(path) == ("ok", 0)
    rows = sum(len(table.rows) for table in oracle.dump(path)["tables"].values())
    assert 900 < rows < 3000


@pytest.mark.parametrize("name", make.NAMES)
def test_build_gives_the_same_content_when_seed_is_the_same(name: str, tmp_path: Path) -> None:
    first = make.build(name, tmp_path / "first.db", seed=5)
    oracle.assert_same(first, make.build(name, tmp_path / "second.db", seed=5))
    with pytest.raises(AssertionError):
        oracle.assert_same(first, make.build(name, tmp_path / "third.db", seed=6))


def test_build_refuses_when_file_exists(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    with pytest.raises(FileExistsError):
        make.build("django", tmp_path / "a.db")


def test_make_command_writes_the_named_ones(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "fixtures" / "make.py"), "--out", str(tmp_path), "notes", "rails"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path / "notes.db"), str(tmp_path / "rails.db")]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "exists" in again.stderr


# ---------------------------------------------------------------- workload


def test_workload_does_every_kind_of_operation_on_every_schema(worked: dict[int, Any]) -> None:
    kept: Counter[str] = Counter()
    for _, work in worked.values():
        kept.update({kind: count.kept for kind, count in work.counts.items()})
    assert {kind: kept[kind] for kind, least in KEPT.items() if kept[kind] < least} == {}


def test_workload_mostly_succeeds(worked: dict[int, Any]) -> None:
    meant_to_fail = ("refused_null", "refused_unique", "update_or_fail")
    for seed, (_, work) in worked.items():
        done = [count for kind, count in work.counts.items() if kind not in meant_to_fail]
        failed, total = sum(c.failed for c in done), sum(c.ok + c.failed for c in done)
        assert failed < 0.05 * total, seed
        assert work.outcomes["commit"] > 0.8 * TRANSACTIONS, work.outcomes
        assert work.outcomes["refused"] < 0.05 * TRANSACTIONS, work.outcomes


def test_workload_has_statements_refused_and_transactions_rolled_back(worked: dict[int, Any]) -> None:
    for _, work in worked.values():
        refused = work.counts["refused_unique"]
        assert refused.failed > 5
        assert refused.ok < refused.failed / 5
        assert work.outcomes["rollback"] > 10
    # OR FAIL leaves behind what it did before it failed: the hardest of them to follow.
    left = sum(work.counts[kind].rows for _, work in worked.values() for kind in ("update_or_fail", "refused_unique"))
    assert left > 20


def test_workload_collides_when_it_replaces(worked: dict[int, Any]) -> None:
    removed: Counter[str] = Counter()
    for _, work in worked.values():
        removed.update({kind: count.removed for kind, count in work.counts.items()})
    assert removed["replace_key"] > 40
    assert removed["replace_unique"] > 8
    assert removed["replace_two"] > 16
    assert removed["update_replace"] > 20


def test_workload_leaves_a_sound_database(worked: dict[int, Any]) -> None:
    for path, work in worked.values():
        said, orphans = sound(path)
        assert said == "ok"
        assert orphans == 0 or not work.enforced


def test_workload_enforces_foreign_keys_in_some_runs_only(worked: dict[int, Any]) -> None:
    assert [work.enforced for _, work in worked.values()] == [False, True, False, True]


@pytest.mark.parametrize("name", make.NAMES)
def test_workload_ends_in_the_same_content_when_seed_is_the_same(name: str, tmp_path: Path) -> None:
    paths = [make.build(name, tmp_path / f"{n}.db") for n in range(3)]
    for path, seed in zip(paths, (11, 11, 12), strict=True):
        run(path, seed, 150)
    oracle.assert_same(paths[0], paths[1])
    assert oracle.dbhash(paths[0]) == oracle.dbhash(paths[1]) != oracle.dbhash(paths[2])


def test_workload_writes_values_of_every_storage_class_and_edge(tmp_path: Path) -> None:
    path = make.build("notes", tmp_path / "a.db")
    run(path, 2, 600)
    seen = {value for table in oracle.dump(path)["tables"].values() for row in table.rows.values() for value in row}
    reals = {
        "8000000000000000",
        "0000000000000000",
        "7ff0000000000000",
        "fff0000000000000",
        "0000000000000001",
    }
    assert reals <= {held for kind, held in seen if kind == "real"}
    assert {2**63 - 1, -(2**63), 2**53 + 1, 0} <= {held for kind, held in seen if kind == "integer"}
    texts = {bytes.fromhex(held) for kind, held in seen if kind == "text"}
    assert b"" in texts
    assert b"nul\0inside" in texts
    assert any(text.startswith(b"\xff\xfe") for text in texts)
    assert {("null", None), ("blob", "")} <= seen


def test_workload_ends_every_nth_commit_with_a_point_when_the_view_exists(tmp_path: Path) -> None:
    path = make.build("rails", tmp_path / "a.db")
    with application(path) as con:
        con.executescript(
            "CREATE TABLE _rollrep_seen(label);"
            "CREATE VIEW _rollrep_point AS SELECT label FROM _rollrep_seen;"
            "CREATE TRIGGER _rollrep_t INSTEAD OF INSERT ON _rollrep_point BEGIN"
            "  INSERT INTO _rollrep_seen VALUES (new.label); END;"
        )
        work = workload.Workload(con, 3, points_every=10)
        records = work.run(200)
        labels = [label for (label,) in con.execute("SELECT label FROM _rollrep_seen ORDER BY rowid")]
    assert labels == work.points == [record.point for record in records if record.point]
    assert len(labels) == work.outcomes["commit"] // 10


def test_workload_writes_no_points_when_there_is_no_view(tmp_path: Path) -> None:
    assert run(make.build("rails", tmp_path / "a.db"), 3, 50, points_every=5).points == []


def test_workload_never_touches_tables_of_rollrep(tmp_path: Path) -> None:
    path = make.build("bookmarks", tmp_path / "a.db")
    with application(path) as con:
        con.executescript(
            "CREATE TABLE _rollrep_log(id INTEGER PRIMARY KEY, v0); INSERT INTO _rollrep_log VALUES (1, 2)"
        )
    run(path, 4)
    assert list(oracle.dump(path, skip_prefix="-")["tables"]["_rollrep_log"].rows) == [(("integer", 1),)]


def test_workload_follows_the_schema_when_it_changes(tmp_path: Path) -> None:
    path = make.build("recorder", tmp_path / "a.db")
    with application(path) as con:
        work = workload.Workload(con, 5)
        work.run(20)
        con.execute("ALTER TABLE states ADD COLUMN added TEXT")
        con.execute("CREATE TABLE later(id INTEGER PRIMARY KEY, word TEXT UNIQUE)")
        records = work.run(100)
        assert con.execute("SELECT count(*) FROM states WHERE added IS NOT NULL").fetchall() != [(0,)]
    assert any(operation.table == "later" for record in records for operation in record.operations)


def test_workload_waits_when_others_write(tmp_path: Path) -> None:
    path = make.build("recorder", tmp_path / "a.db")
    with application(path) as con:
        con.execute("PRAGMA journal_mode = WAL")
    script = str(ROOT / "fixtures" / "workload.py")
    running = [
        subprocess.Popen([sys.executable, script, str(path), "--seed", str(seed), "--transactions", "120"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]  # fmt: skip
    for process in running:
        out, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (0, "")
        assert '"transactions": 120' in out
    assert sound(path)[0] == "ok"


ODD_SCHEMAS = {
    "utf16": "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(a PRIMARY KEY, b TEXT COLLATE NOCASE UNIQUE, c);",
    "rowid names": "CREATE TABLE t(rowid, _rowid_, oid); CREATE TABLE u(rowid, _rowid_, oid UNIQUE);",
    "keys only": """
        CREATE TABLE t(id INTEGER PRIMARY KEY);
        CREATE TABLE u(id INTEGER PRIMARY KEY DESC, x UNIQUE);""",
    "pairs": """
        CREATE TABLE p(a INT, b TEXT, PRIMARY KEY (a, b));
        CREATE TABLE d(x INT NOT NULL, y TEXT NOT NULL, n, PRIMARY KEY (x, y),
            FOREIGN KEY (x, y) REFERENCES p DEFERRABLE INITIALLY DEFERRED) WITHOUT ROWID;""",
    "virtual": "CREATE VIRTUAL TABLE f USING fts5(a); CREATE TABLE g(a);",
    "generated": """
        CREATE TABLE t(a INT, b AS (a * 2) STORED UNIQUE, c AS (b + 1));
        CREATE TABLE u(v, k AS (v || '!') UNIQUE);""",
    "conflict clauses": """
        CREATE TABLE t(a INTEGER PRIMARY KEY ON CONFLICT REPLACE, b UNIQUE ON CONFLICT IGNORE,
            c NOT NULL ON CONFLICT REPLACE DEFAULT 5, d UNIQUE ON CONFLICT ROLLBACK);""",
    "checks": """
        CREATE TABLE t(a INT CHECK (a IN (1, 2, 3)), b TEXT NOT NULL CHECK (length(b) < 5),
            UNIQUE (a, b)) STRICT;""",
    "unsound references": """
        CREATE TABLE t(a REFERENCES missing(x));
        CREATE TABLE p(x);
        CREATE TABLE q(y REFERENCES p(x));""",
    "partial": """
        CREATE TABLE t(k, gone);
        CREATE UNIQUE INDEX i ON t(k) WHERE gone IS NULL;
        CREATE UNIQUE INDEX j ON t(lower(k), gone);""",
    "raising": """
        CREATE TABLE t(id INTEGER PRIMARY KEY, a);
        CREATE TRIGGER r AFTER UPDATE ON t WHEN new.a > 9000 BEGIN SELECT raise(ROLLBACK, 'no'); END;
        CREATE TRIGGER i BEFORE INSERT ON t WHEN new.a = 1 BEGIN SELECT raise(IGNORE); END;""",
}


@pytest.mark.parametrize("name", ODD_SCHEMAS)
def test_workload_copes_when_the_schema_is_odd(name: str) -> None:
    for seed in range(4):
        with closing(sqlite3.connect(":memory:")) as con:
            con.executescript(ODD_SCHEMAS[name])
            work = workload.Workload(con, seed)
            work.run(120)
            assert con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert sum(count.kept for count in work.counts.values()) > 120


# ---------------------------------------------------------------- the oracle sees


TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)"
ROWS = "INSERT INTO t VALUES (1, 1, 'one'), (2, -0.0, x'00ff'), (3, CAST(x'ff00fe' AS TEXT), NULL)"


def differing(tmp_path: Path, left: str, right: str) -> str:
    """What assert_same says of two databases made by these statements."""
    for name, sql in (("a.db", left), ("b.db", right)):
        with application(tmp_path / name) as con:
            con.executescript(sql)
    with pytest.raises(AssertionError) as caught:
        oracle.assert_same(tmp_path / "a.db", tmp_path / "b.db")
    return str(caught.value)


def test_oracle_sees_no_difference_when_there_is_none(tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        with application(tmp_path / name) as con:
            con.executescript(f"{TABLE}; {ROWS}")
    oracle.assert_same(tmp_path / "a.db", tmp_path / "b.db")
    assert oracle.dbhash(tmp_path / "a.db") == oracle.dbhash(tmp_path / "b.db")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE t SET v = 2 WHERE id = 1", "rowid=integer:1: v integer:1 / integer:2"),
        ("UPDATE t SET v = 1.0 WHERE id = 1", "v integer:1 / real:1.0"),
        ("UPDATE t SET v = '1' WHERE id = 1", "v integer:1 / text:31"),
        ("UPDATE t SET v = 0.0 WHERE id = 2", "v real:-0.0(8000000000000000) / real:0.0(0000000000000000)"),
        ("UPDATE t SET w = x'00fe' WHERE id = 2", "w blob:00FF / blob:00FE"),
        ("UPDATE t SET w = CAST(x'00ff' AS TEXT) WHERE id = 2", "w blob:00FF / text:00FF"),
        ("UPDATE t SET v = CAST(x'ff00fd' AS TEXT) WHERE id = 3", "v text:FF00FE / text:FF00FD"),
        ("UPDATE t SET w = '' WHERE id = 3", "w null:None / text:"),
        ("DELETE FROM t WHERE id = 3", "rowid=integer:3: only in the first"),
        ("INSERT INTO t VALUES (4, 1, 1)", "rowid=integer:4: only in the second"),
        ("UPDATE t SET id = 9 WHERE id = 1", "rowid=integer:9: only in the second"),
        ("CREATE INDEX i ON t(v)", "schema, only in the second: ('index', 'i'"),
        ("CREATE VIEW x AS SELECT 1", "schema, only in the second: ('view', 'x'"),
        ("PRAGMA user_version = 3", "header user_version: 0 / 3"),
        ("PRAGMA application_id = 3", "header application_id: 0 / 3"),
    ],
)
def test_oracle_sees_each_kind_of_difference(change: str, said: str, tmp_path: Path) -> None:
    assert said in differing(tmp_path, f"{TABLE}; {ROWS}", f"{TABLE}; {ROWS}; {change}")


def test_oracle_sees_another_rowid_when_the_table_has_no_key(tmp_path: Path) -> None:
    rows = "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2)"
    said = differing(tmp_path, rows, f"{rows}; UPDATE t SET rowid = 7 WHERE a = 2")
    assert "rowid=integer:2: only in the first" in said
    assert oracle.dbhash(tmp_path / "a.db") == oracle.dbhash(tmp_path / "b.db")  # so it needs a second witness


def test_oracle_sees_rows_without_rowid_and_generated_columns(tmp_path: Path) -> None:
    rows = "CREATE TABLE t(a TEXT COLLATE NOCASE PRIMARY KEY, n, g AS (n + 1)) WITHOUT ROWID"
    rows += "; INSERT INTO t VALUES ('x', 1)"
    said = differing(tmp_path, rows, f"{rows}; UPDATE t SET n = 2")
    assert "a=text:78: n integer:1 / integer:2; g integer:2 / integer:3" in said


def test_oracle_counts_equal_rows_when_no_name_is_left_for_the_rowid(tmp_path: Path) -> None:
    rows = "CREATE TABLE t(rowid, _rowid_, oid); INSERT INTO t VALUES (1, 2, 3), (1, 2, 3)"
    assert "2 rows / 3 rows" in differing(tmp_path, rows, f"{rows}; INSERT INTO t VALUES (1, 2, 3)")


def test_oracle_sees_the_sequence_and_the_page_size(tmp_path: Path) -> None:
    rows = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO t VALUES (5)"
    said = differing(tmp_path, rows, f"PRAGMA page_size = 1024; {rows}; UPDATE sqlite_sequence SET seq = 9")
    assert "header page_size: 4096 / 1024" in said
    assert "sequence t: [('integer', 5)] / [('integer', 9)]" in said


def test_oracle_overlooks_what_is_named_with_the_prefix_only(tmp_path: Path) -> None:
    ours = (
        "CREATE TABLE _rollrep_log(x); CREATE INDEX ours ON _rollrep_log(x);"
        "CREATE TRIGGER _rollrep_t AFTER INSERT ON t BEGIN SELECT 1; END"
    )
    for name, more in (("a.db", ""), ("b.db", ours)):
        with application(tmp_path / name) as con:
            con.executescript(f"{TABLE}; {ROWS}; {more}")
    oracle.assert_same(tmp_path / "a.db", tmp_path / "b.db")
    with pytest.raises(AssertionError):
        oracle.assert_same(tmp_path / "a.db", tmp_path / "b.db", skip_prefix="-")


def test_oracle_knows_virtual_tables_by_their_shadows(tmp_path: Path) -> None:
    for name, word in (("a.db", "word"), ("b.db", "ward")):
        with application(tmp_path / name) as con:
            con.executescript(f"{TABLE}; CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES ('{word}')")
    found = oracle.dump(tmp_path / "a.db")["tables"]
    assert list(found) == ["f_config", "f_content", "f_data", "f_docsize", "f_idx", "t"]
    with pytest.raises(AssertionError, match="f_content"):
        oracle.assert_same(tmp_path / "a.db", tmp_path / "b.db")


def test_oracle_agrees_with_itself_on_random_single_changes(tmp_path: Path) -> None:
    """Any one byte of any text or blob, anywhere in a real database."""
    rng = random.Random(8)
    path = make.build("notes", tmp_path / "a.db")
    for n in range(10):
        copy = oracle.snapshot(path, tmp_path / f"{n}.db")
        with application(copy) as con:
            where = f"uuid = (SELECT uuid FROM attachments WHERE size > 0 LIMIT 1 OFFSET {rng.randrange(100)})"
            data = "CAST(substr(data, 1, size - 1) || x'aa' AS BLOB)"
            con.execute(f"UPDATE attachments SET data = {data} WHERE {where}")
        with pytest.raises(AssertionError, match="table attachments"):
            oracle.assert_same(path, copy)


def test_snapshot_is_of_one_moment_when_the_source_is_open_and_in_wal(tmp_path: Path) -> None:
    path = make.build("django", tmp_path / "a.db")
    with application(path) as con:
        con.execute("PRAGMA journal_mode = WAL")
        work = workload.Workload(con, 1)
        work.run(40)
        first = oracle.snapshot(path, tmp_path / "first.db")
        con.execute("BEGIN IMMEDIATE")
        con.execute("DELETE FROM shop_orderline")
        second = oracle.snapshot(path, tmp_path / "second.db")  # what is not committed is not there
        con.execute("ROLLBACK")
        oracle.assert_same(first, second)
        work.run(40)
    oracle.assert_same(path, oracle.snapshot(path, tmp_path / "third.db"))
    with pytest.raises(AssertionError):
        oracle.assert_same(first, path)
