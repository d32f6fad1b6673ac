"""The rolling log beside a living application: put in, kept within its limits, unseen, taken out.

The application of these tests is always another process with its own SQLite (Python's `sqlite3`, often years
older than ours), because two SQLite libraries must not hold one file in one process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import forked
import make
import oracle
import pytest
from forked import ROLLREP
from pair import FollowedPair
from sources import copy_source, pull_once, recompute

from rollrep.core.errors import UsageError
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.pull import Outcome
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.source.database import open_source
from rollrep.source.install import install, uninstall
from rollrep.source.log import has_log
from rollrep.source.tables import Limits

SCHEMAS = ("django", "rails", "bookmarks", "recorder", "notes")
LOG_IDS = "SELECT min(id), max(id), count(*) FROM _rollrep_log"


def rollrep(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run(*arguments, timeout=60)


def told(*arguments: object) -> dict[str, Any]:
    """The JSON object of a command that succeeds."""
    done = rollrep(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


def application(db: Path, script: str, **values: object) -> Any:
    """What the body of `script` leaves in `out`, run by the stdlib's sqlite3 in a process of its own.

    It has `con` (autocommit) and `values`.
    """
    head = """
        import json, sqlite3, sys
        con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
        con.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug here
        values, out = json.loads(sys.argv[2]), None
    """
    tail = "\nassert 'apsw' not in sys.modules\ncon.close()\nprint(json.dumps(out))"
    text = textwrap.dedent(head) + textwrap.dedent(script) + tail
    done = subprocess.run(
        [sys.executable, "-c", text, db, json.dumps(values)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def write(db: Path, *statements: str) -> None:
    """The statements, each a transaction, by an application."""
    application(db, "for statement in values['statements']: con.execute(statement).fetchall()", statements=statements)


@contextlib.contextmanager
def opened(db: Path) -> Iterator[apsw.Connection]:
    with contextlib.closing(open_source(db)) as con:
        yield con


def asked(db: Path, query: str, *bindings: Any) -> list[tuple[Any, ...]]:
    with opened(db) as con:
        return list(con.execute(query, bindings))


def schema_of(db: Path) -> list[tuple[Any, ...]]:
    return asked(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")


def put_log(db: Path, **limits: Any) -> None:
    with opened(db) as con:
        install(con, Limits(**limits))


def new_database(db: Path, *statements: str, wal: bool = True) -> Path:
    write(db, *(["PRAGMA journal_mode = WAL"] if wal else []), *statements)
    return db


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "job")


def assert_mirrored(store: Store, db: Path) -> None:
    copy = store.folder.parent / "oracle.db"
    copy.unlink(missing_ok=True)
    copy_source(db, copy)
    recompute(copy)
    oracle.assert_same(copy, store.mirror)


def pulled(store: Store, db: Path, **more: Any) -> Outcome:
    """One pull; the mirror equals the source afterwards."""
    outcome = pull_once(store, db, **more)
    assert_mirrored(store, db)
    return outcome


def restored(store: Store, catalog: Catalog, point: CatalogPoint, output: Path) -> None:
    restore(store, catalog, plan(catalog, point), output, force=False, progress=lambda _: None)


# ---------------------------------------------------------------- one transaction


@pytest.mark.parametrize("denied", [0, 1, 7, 20])
def test_install_leaves_no_trace_when_a_trigger_can_not_be_created(tmp_path: Path, denied: int) -> None:
    db = make.build("notes", tmp_path / "app.db", rows=100)
    before = db.read_bytes()
    left = denied

    def judge(action: int, *_: str | None) -> int:
        nonlocal left
        if action != apsw.SQLITE_CREATE_TRIGGER:
            return apsw.SQLITE_OK
        left -= 1
        return apsw.SQLITE_DENY if left < 0 else apsw.SQLITE_OK

    with opened(db) as con:
        con.authorizer = judge
        with pytest.raises(apsw.AuthError):
            install(con, Limits())
        assert left == -1
        con.authorizer = None
        assert not con.in_transaction
    assert db.read_bytes() == before
    write(db, "INSERT INTO recent_words VALUES ('still works')")


def test_install_leaves_no_trace_when_the_disk_has_no_room(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    before, hashed = schema_of(db), oracle.dbhash(db)
    with opened(db) as con:
        (pages,) = con.execute("PRAGMA page_count").fetchone() or (0,)
        con.execute(f"PRAGMA max_page_count = {pages + 2}").fetchall()
        with pytest.raises(apsw.FullError):
            install(con, Limits())
    assert (schema_of(db), oracle.dbhash(db)) == (before, hashed)


def test_install_names_the_tables_it_can_not_capture_when_there_are_some(tmp_path: Path, store: Store) -> None:
    columns = ", ".join(f"c{n}" for n in range(1_950))
    db = new_database(
        tmp_path / "app.db",
        f"CREATE TABLE wide({columns})",
        "CREATE TABLE hidden(rowid, oid, _rowid_)",
        "CREATE VIRTUAL TABLE words USING fts5(word)",
        "CREATE TABLE plain(id INTEGER PRIMARY KEY, a)",
        "INSERT INTO words VALUES ('found')",
    )
    report = told("source", "install", db)
    assert report["captured"] == ["plain"]
    assert {each["table"] for each in report["refused"]} == {"wide", "hidden"}
    assert report["virtual"] == [{"table": "words", "module": "fts5"}]
    assert all(each["reason"] for each in report["refused"])
    write(db, "INSERT INTO wide(c0) VALUES (1)", "INSERT INTO words VALUES ('x')", "INSERT INTO plain VALUES (1, 2)")
    outcome = pull_once(store, db)
    assert outcome.tables_mirrored == ["plain"]
    assert len(outcome.refused) == 2


def test_wide_table_is_captured_when_it_has_1800_columns(tmp_path: Path, store: Store) -> None:
    columns = ", ".join(f"c{n} TEXT" for n in range(1_800))
    db = new_database(tmp_path / "app.db", f"CREATE TABLE wide(id INTEGER PRIMARY KEY, {columns})")
    put_log(db)
    write(db, "INSERT INTO wide(id, c0, c1799) VALUES (1, 'first', 'last')")
    pull_once(store, db)
    write(db, "UPDATE wide SET c900 = 'middle', c1799 = NULL", "INSERT INTO wide(id, c5) VALUES (7, x'00')")
    assert pull_once(store, db).answer == "resume"
    # Two result columns for each of the table's are more than the oracle may ask for.
    source, mirror = asked(db, "SELECT * FROM wide"), asked(store.mirror, "SELECT * FROM wide")
    assert len(source) == 2
    assert mirror == source


@pytest.mark.parametrize("schema", SCHEMAS)
def test_install_writes_nothing_when_done_a_second_time(tmp_path: Path, schema: str) -> None:
    db = make.build(schema, tmp_path / "app.db", rows=100)
    with opened(db) as con:
        assert install(con, Limits()).statements
    before, files = db.read_bytes(), sorted(tmp_path.iterdir())
    with opened(db) as con:
        report = install(con, Limits())
    assert report.statements == ()
    assert not report.created and not report.captured and not report.released
    assert (db.read_bytes(), sorted(tmp_path.iterdir())) == (before, files)
    assert "nothing was changed" in rollrep("source", "install", db).stdout
    assert db.read_bytes() == before


def test_install_keeps_what_was_chosen_when_it_is_not_given_again(tmp_path: Path) -> None:
    db = make.build("django", tmp_path / "app.db", rows=100)
    first = told("source", "install", db, "--keep-rows", 777, "--keep-bytes", "2MiB", "--keep-age", "3h",
                 "--keep-keys", 999, "--exclude", "django_*")  # fmt: skip
    again = told("source", "install", db)
    assert again["limits"] == first["limits"] == {"rows": 777, "bytes": 2 << 20, "age_s": 10_800.0, "keys": 999}
    assert again["statements"] == 0
    assert sorted(again["kept"]) == sorted(first["captured"])


def test_writer_is_never_broken_when_the_log_comes_and_goes(tmp_path: Path) -> None:
    db = new_database(
        tmp_path / "app.db",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b)",
        "CREATE TABLE stop(x)",
        "CREATE TRIGGER theirs AFTER UPDATE ON t BEGIN SELECT 1; END",
    )
    script = """
        import sqlite3, sys, time
        con = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
        n = 0
        print("ready", flush=True)
        while not con.execute("SELECT count(*) FROM stop").fetchone()[0]:
            n += 1
            con.execute("BEGIN IMMEDIATE")
            con.execute("INSERT INTO t VALUES (?, ?, 0)", (n, f"a{n}"))
            con.execute("UPDATE t SET b = b + 1 WHERE id > ?", (n - 3,))
            con.execute("COMMIT")
            con.execute("INSERT OR REPLACE INTO t VALUES (?, ?, 9)", (n, f"a{n - 1}"))
            con.execute("DELETE FROM t WHERE id = ?", (n - 50,))
            # Without a gap nobody else gets the lock on a busy machine: SQLite's busy handler sleeps.
            time.sleep(0.002)
        print(n)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), db], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout and child.stdout.readline() == "ready\n"
        for turn in range(12):
            with opened(db) as con:
                install(con, Limits(keep_rows=100 + turn))
            # SQLite's busy handler sleeps: who asks for the lock again and again would always be first.
            time.sleep(0.1)
            with opened(db) as con:
                install(con, Limits(keep_rows=100 + turn))
            if turn % 3 == 2:
                with opened(db) as con:
                    uninstall(con)
    finally:
        write(db, "INSERT INTO stop VALUES (1)")
        out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    assert int(out) > 20


# ---------------------------------------------------------------- nothing left


@pytest.mark.parametrize("schema", SCHEMAS)
def test_uninstall_leaves_the_database_as_it_was_when_nothing_was_written(tmp_path: Path, schema: str) -> None:
    db = make.build(schema, tmp_path / "app.db", rows=150)
    before, hashed, content = schema_of(db), oracle.dbhash(db), oracle.dump(db)
    put_log(db)
    assert schema_of(db) != before
    done = rollrep("source", "uninstall", db)
    assert (done.returncode, done.stderr) == (0, "")
    assert schema_of(db) == before
    assert oracle.dbhash(db) == hashed
    assert oracle.dump(db, skip_prefix="\x00none") == {**content}
    assert asked(db, "PRAGMA integrity_check") == [("ok",)]


def test_uninstall_leaves_no_trace_when_tables_were_renamed_and_dropped_meanwhile(tmp_path: Path) -> None:
    statements = (
        "CREATE TABLE a(x)",
        'CREATE TABLE "b ""odd"" one"(x UNIQUE, y)',
        "CREATE TABLE c(id INTEGER PRIMARY KEY)",
    )
    changes = (
        "ALTER TABLE a RENAME TO aa",
        "DROP TABLE c",
        'ALTER TABLE "b ""odd"" one" RENAME COLUMN y TO "y z"',
        "CREATE TABLE d(x)",
        "INSERT INTO aa VALUES (1)",
        'INSERT INTO "b ""odd"" one" VALUES (1, 2)',
    )
    db, plain = (new_database(tmp_path / name, *statements) for name in ("app.db", "plain.db"))
    put_log(db)
    write(db, *changes)
    write(plain, *changes)
    with opened(db) as con:
        uninstall(con)
    assert schema_of(db) == schema_of(plain)
    assert oracle.dbhash(db) == oracle.dbhash(plain)


# ---------------------------------------------------------------- what is chosen, what is said


def test_globs_choose_tables_when_given(tmp_path: Path) -> None:
    db = make.build("django", tmp_path / "app.db", rows=100)
    report = told("source", "install", db, "--tables", "auth_*", "--tables", "shop_o?der", "--exclude", "*_groups")
    wanted = ["auth_group", "auth_permission", "auth_user", "shop_order"]
    assert sorted(report["captured"]) == wanted
    triggered = asked(db, "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1")
    ours = [name for (name,) in triggered if not name.startswith("_rollrep_")]
    assert ours == wanted

    narrower = told("source", "install", db, "--tables", "auth_*", "--exclude", "auth_p*")
    assert sorted(narrower["released"]) == ["auth_permission", "shop_order"]
    assert narrower["captured"] == ["auth_user_groups"]
    assert sorted(narrower["kept"]) == ["auth_group", "auth_user"]
    assert (report["unmatched"], narrower["unmatched"]) == ([], [])


def test_log_is_widened_before_there_are_triggers_when_tables_are_wide(tmp_path: Path) -> None:
    """ALTER TABLE parses every trigger: 200 columns behind a thousand tables' triggers took minutes."""
    db = tmp_path / "app.db"
    with contextlib.closing(apsw.Connection(str(db))) as made:
        made.execute("CREATE TABLE narrow(id INTEGER PRIMARY KEY, v)")
        made.execute(f"CREATE TABLE wide(id INTEGER PRIMARY KEY, {', '.join(f'c{n}' for n in range(30))})")
    statements = told("source", "install", db, "--print-sql")["statements"]
    kinds = [statement.split()[0] + statement.split()[1] for statement in statements]
    assert kinds.count("ALTERTABLE") > 20
    assert "CREATETRIGGER" not in kinds[: len(kinds) - kinds[::-1].index("ALTERTABLE")]


def test_pattern_is_named_when_no_table_matches_it(tmp_path: Path) -> None:
    db = make.build("bookmarks", tmp_path / "app.db", rows=10)
    assert told("source", "install", db, "-n", "--tables", "tags", "--tables", "tgas*")["unmatched"] == ["tgas*"]
    assert "--tables tgas*: no table" in rollrep("source", "install", db, "--tables", "tgas*").stdout


@pytest.mark.parametrize("installed", [False, True])
def test_dry_run_changes_no_byte_when_there_is_much_to_do(tmp_path: Path, installed: bool) -> None:
    db = make.build("bookmarks", tmp_path / "app.db", rows=100)
    if installed:
        put_log(db)
    before, files = db.read_bytes(), sorted(tmp_path.iterdir())
    done = rollrep("source", "install", db, "-n", "--keep-rows", 5, "--exclude", "tags", "--print-sql")
    assert done.returncode == 0
    assert "would" in done.stderr
    assert "CREATE TRIGGER" in done.stdout
    assert (db.read_bytes(), sorted(tmp_path.iterdir())) == (before, files)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_printed_sql_makes_the_same_schema_when_run_by_another_sqlite(tmp_path: Path, schema: str) -> None:
    db = make.build(schema, tmp_path / "app.db", rows=100)
    copy = make.build(schema, tmp_path / "copy.db", rows=100)
    before = db.read_bytes()
    done = rollrep("source", "install", db, "--print-sql")
    assert db.read_bytes() == before, "to look first is not to install"
    application(copy, "con.executescript(values['text'])", text=done.stdout)
    put_log(db)
    assert schema_of(copy) == schema_of(db)


def test_printed_sql_makes_a_log_that_works_when_run_by_another_sqlite(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    copy = make.build("rails", tmp_path / "copy.db", rows=100)
    done = rollrep("source", "install", db, "--print-sql", "--keep-rows", 300)
    application(copy, "con.executescript(values['text'])", text=done.stdout)
    status = told("source", "status", copy)
    assert status["limits"]["rows"] == 300
    assert status["epoch"] in done.stdout


def test_limits_are_printed_when_installed(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    arguments = ("--keep-rows", 12_345, "--keep-bytes", "5MiB", "--keep-age", "36h", "--keep-keys", 67_890)
    done = rollrep("source", "install", db, *arguments)
    keeps = next(line for line in done.stdout.splitlines() if "keeps" in line)
    for part in ("12,345 rows", "5 MiB", "1 d 12 h", "67,890 keys"):
        assert part in keeps


@pytest.mark.parametrize(
    "arguments",
    [("--keep-rows", "0"), ("--keep-rows", "-5"), ("--keep-bytes", "0"), ("--keep-bytes", "lots"),
     ("--keep-age", "10"), ("--keep-age", "0s"), ("--keep-keys", "0")],
)  # fmt: skip
def test_install_refuses_a_limit_when_it_makes_no_sense(tmp_path: Path, arguments: tuple[str, str]) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    before = db.read_bytes()
    done = rollrep("source", "install", db, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 2 and "  next: " in done.stderr
    assert db.read_bytes() == before


def test_status_has_its_promised_keys_when_asked_for_json(tmp_path: Path) -> None:
    db = make.build("notes", tmp_path / "app.db", rows=100)
    put_log(db, keep_rows=100)
    write(db, *(f"INSERT INTO recent_words VALUES ('w{n}')" for n in range(300)))
    status = told("source", "status", db)
    assert status["schema"] == "rollrep.source.status/1"
    assert {"epoch", "oldest_id", "newest_id", "pruned_through", "rows", "bytes", "limits", "keys", "forgotten_through",
            "log_reaches", "keys_reach", "points", "tables", "journal_mode", "database_id", "now"} <= status.keys()  # fmt: skip
    assert set(status["limits"]) == {"rows", "bytes", "age_s", "keys"}
    oldest, newest, rows = asked(db, LOG_IDS)[0]
    [(size,)] = asked(db, "SELECT sum(size) FROM _rollrep_log")
    assert (status["oldest_id"], status["newest_id"], status["rows"], status["bytes"]) == (oldest, newest, rows, size)
    assert status["pruned_through"] == oldest - 1 > 0
    assert status["keys"] == asked(db, "SELECT count(*) FROM _rollrep_forgotten")[0][0] > 0
    assert status["tables"]["recent_words"] == "captured"


# ---------------------------------------------------------------- rolling


def rows_step(keep_rows: int) -> int:
    return max(31, keep_rows // 8) | 1


@pytest.mark.parametrize("keep_rows", [1, 40, 1_000])
def test_log_never_holds_more_than_its_rows_and_a_step_when_written_to(tmp_path: Path, keep_rows: int) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=keep_rows)
    script = """
        most, ids = 0, []
        def look():
            global most
            oldest, newest, rows = con.execute(values["ids"]).fetchone()
            assert rows == newest - oldest + 1, "a hole"
            assert not ids or newest > ids[-1], "an id came again"
            ids.append(newest)
            most = max(most, rows)
        for n in range(1, 900):
            con.execute("INSERT INTO t(a) VALUES (?)", (n,))
            look()
        con.execute("BEGIN")
        for n in range(1500):
            con.execute("UPDATE t SET a = a + 1 WHERE id = ?", (n % 900,))
        look()
        con.execute("COMMIT")
        con.execute("UPDATE t SET a = -a")
        look()
        con.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO t(a) SELECT i FROM n")
        look()
        con.execute("DELETE FROM t")
        look()
        out = [most, con.execute("SELECT count(*), min(id) FROM _rollrep_log").fetchone()]
    """
    most, (rows, oldest) = application(db, script, ids=LOG_IDS)
    assert most <= keep_rows + rows_step(keep_rows)
    assert rows >= 1
    assert oldest == asked(db, "SELECT pruned_through + 1 FROM _rollrep_meta")[0][0]


def test_log_shrinks_to_its_rows_when_the_limit_is_lowered(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=100_000)
    fill = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) INSERT INTO t(a) SELECT i FROM n"
    )
    write(db, fill.format(20_000))
    told("source", "install", db, "--keep-rows", 2_000)
    write(db, fill.format(60_000))
    assert asked(db, LOG_IDS)[0][2] <= 2_000 + rows_step(2_000)


BLOB = 300_000


def test_log_never_holds_more_than_its_bytes_and_a_row_when_blobs_are_large(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)")
    put_log(db, keep_bytes=5_000_000)
    script = """
        out = []
        for n in range(60):
            con.execute("INSERT INTO t(a) VALUES (randomblob(?))", (values["blob"],))
            out.append(con.execute("SELECT sum(length(v1)), sum(size) FROM _rollrep_log WHERE op = 1").fetchone())
    """
    seen = application(db, script, blob=BLOB)
    assert max(held for held, _ in seen) <= 5_000_000 + BLOB
    assert all(held <= size <= held * 1.01 + 1_000 for held, size in seen)


def test_log_holds_most_of_what_it_may_when_blobs_are_large(tmp_path: Path) -> None:
    # A log that forgets nearly all of it at each step covers a far shorter outage than its limit says.
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a BLOB)")
    put_log(db, keep_bytes=5_000_000)
    script = """
        out = []
        for n in range(60):
            con.execute("INSERT INTO t(a) VALUES (randomblob(?))", (values["blob"],))
            out.append(con.execute("SELECT sum(size) FROM _rollrep_log").fetchone()[0])
    """
    full = application(db, script, blob=BLOB)[20:]
    assert min(full) >= 5_000_000 // 2


def test_log_stays_near_its_bytes_when_row_sizes_are_mixed(tmp_path: Path) -> None:
    # "outgrow its bytes by a few MiB at most", says the pruning trigger of itself.
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_bytes=3_000_000)
    script = """
        import random
        rng, most = random.Random(7), 0
        for n in range(700):
            con.execute("BEGIN")
            for _ in range(rng.choice((1, 1, 5, 40))):
                size = rng.choice((0, 10, 200, 1000, 1025, 5_000, 16_385, 60_000, 200_000))
                con.execute("INSERT INTO t(a) VALUES (zeroblob(?))", (size,))
            con.execute("COMMIT")
            most = max(most, con.execute("SELECT sum(ifnull(length(v1), 0)) FROM _rollrep_log").fetchone()[0])
            if n % 40 == 39:
                con.execute("DELETE FROM t")
        out = most
    """
    assert application(db, script) <= 3_000_000 + (4 << 20)


def test_rows_go_when_they_are_older_than_the_log_may_be(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=2_000, keep_age_s=3_600.0)
    script = """
        for n in range(500):
            con.execute("INSERT INTO t(a) VALUES (?)", (n,))
        con.execute("UPDATE _rollrep_log SET at = at - 2.0 / 24 WHERE id <= 300")
        for n in range(values["steps"] * values["step"]):
            con.execute("INSERT INTO t(a) VALUES (?)", (n,))
        out = con.execute(values["ids"]).fetchone()
    """
    oldest, newest, rows = application(db, script, ids=LOG_IDS, steps=2, step=rows_step(2_000))
    assert oldest == 301
    assert rows == newest - 300


def test_a_write_does_as_much_when_the_log_is_long(tmp_path: Path) -> None:
    """Counted are the steps of SQLite's machine: a pruning step that reads the whole log shows, a slow machine does not."""
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=100_000)
    script = """
        def insert(count):
            before = steps
            con.execute("BEGIN")
            con.executemany("INSERT INTO t(a) VALUES (?)", ((n,) for n in range(count)))
            con.execute("COMMIT")
            return steps - before

        def step():
            global steps
            steps += 1

        steps = 0
        con.set_progress_handler(step, 1)
        out = [insert(values["step"]), insert(8 * values["step"]), insert(values["step"])][::2]
    """
    short, long = application(db, script, step=Limits(keep_rows=100_000).step)
    assert long <= 1.05 * short


def test_log_is_there_or_not_as_it_is_now_when_somebody_else_changed_that(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    with opened(db) as con, opened(db) as other:
        for change, there in ((lambda: install(other, Limits()), True), (lambda: uninstall(other), False)) * 2:
            change()
            assert has_log(con) is there


def test_newest_row_is_never_pruned_when_every_limit_is_tiny(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=1, keep_bytes=1, keep_age_s=0.001, keep_keys=1)
    script = """
        newest = con.execute("SELECT max(id) FROM _rollrep_log").fetchone()[0]
        for n in range(700):
            con.execute("INSERT INTO t(a) VALUES (zeroblob(?))", (300_000 if n % 50 == 0 else n,))
            last = con.execute("SELECT max(id) FROM _rollrep_log").fetchone()[0]
            assert last == newest + 1, (n, last, newest)
            newest = last
        out = [con.execute(values["ids"]).fetchone(), con.execute("SELECT count(*) FROM _rollrep_forgotten").fetchone()]
    """
    (oldest, newest, rows), (keys,) = application(db, script, ids=LOG_IDS)
    assert rows == newest - oldest + 1 <= 1 + 31 + 1
    assert keys <= 1 + 2 * 47


@pytest.mark.parametrize("schema", ["notes", "bookmarks"])
@pytest.mark.parametrize("seed", [3, 4])
def test_forgotten_keys_are_those_of_the_pruned_rows_when_work_was_random(
    tmp_path: Path, schema: str, seed: int
) -> None:
    db = make.build(schema, tmp_path / "app.db", rows=150)
    put_log(db, keep_rows=90)
    with opened(db) as con:
        columns = [name for (_, name, *_) in con.execute("PRAGMA table_info(_rollrep_log)")]
        listed = ", ".join(columns)
        con.execute(f"CREATE TABLE shadow({listed})")
        con.execute(
            f"CREATE TRIGGER shadowed AFTER INSERT ON _rollrep_log BEGIN INSERT INTO shadow({listed})"
            f" SELECT {listed} FROM _rollrep_log WHERE id = new.id; END"
        )
        con.execute(f"INSERT INTO shadow({listed}) SELECT {listed} FROM _rollrep_log")
    script = f"""
        sys.path.insert(0, values["fixtures"])
        import workload
        look = workload.read_schema
        workload.read_schema = lambda con: {{name: t for name, t in look(con).items() if name != "shadow"}}
        workload.Workload(con, {seed}, schema="{schema}").run(250)
    """
    application(db, script, fixtures=str(Path(make.__file__).parent))
    with opened(db) as con:
        [(pruned, forgotten)] = con.execute("SELECT pruned_through, forgotten_through FROM _rollrep_meta")
        widths = dict(con.execute("SELECT id, key_width FROM _rollrep_shape"))
        most = max(widths.values())

        def exact(letter: str) -> str:
            columns = (f"{letter}{n}" for n in range(most))
            return ", ".join(f"typeof({c}) || ifnull(hex(CAST({c} AS BLOB)), '')" for c in columns)

        expected = [
            (log_id, shape, at, *(values[n] if n < widths.get(shape, 0) else "null" for n in range(most)))
            for log_id, shape, at, *values in con.execute(
                f"SELECT id, shape, at, {exact('v')} FROM shadow WHERE id > ? AND id <= ? ORDER BY id",
                (forgotten, pruned),
            )
        ]
        found = list(con.execute(f"SELECT id, shape, at, {exact('k')} FROM _rollrep_forgotten ORDER BY id"))
        assert pruned > 90
        assert len(found) > 50
        assert found == expected
        oldest, newest, rows = con.execute(LOG_IDS).fetchone() or (0, 0, 0)
        assert (oldest, rows) == (pruned + 1, newest - pruned)
        kept = con.execute(
            "SELECT count(*) FROM _rollrep_log l JOIN shadow s ON s.id = l.id AND s.op = l.op"
        ).fetchall()
        assert kept == [(rows,)]


def test_keys_are_forgotten_at_last_when_there_are_more_than_wanted(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=100, keep_keys=500)
    script = """
        out = 0
        for n in range(4000):
            con.execute("INSERT INTO t(a) VALUES (?)", (n,))
            out = max(out, con.execute("SELECT count(*) FROM _rollrep_forgotten").fetchone()[0])
    """
    assert 500 - 47 <= application(db, script) <= 500 + 2 * 47
    [(first, last, count)] = asked(db, LOG_IDS.replace("_log", "_forgotten"))
    [(forgotten, pruned)] = asked(db, "SELECT forgotten_through, pruned_through FROM _rollrep_meta")
    assert (first, last) == (forgotten + 1, pruned)
    assert count == last - first + 1


# ---------------------------------------------------------------- points


def test_point_leaves_no_trace_when_its_transaction_is_rolled_back(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    put_log(db)
    before = asked(db, "SELECT * FROM _rollrep_log"), asked(db, "SELECT * FROM _rollrep_meta")
    script = """
        con.execute("BEGIN")
        con.execute("UPDATE users SET admin = 1")
        con.execute("INSERT INTO _rollrep_point(label) VALUES ('taken back')")
        seen = con.execute("SELECT count(*) FROM _rollrep_point").fetchone()[0]
        con.execute("ROLLBACK")
        con.execute("BEGIN")
        con.execute("SAVEPOINT s")
        con.execute("INSERT INTO _rollrep_point(label) VALUES ('taken back too')")
        con.execute("ROLLBACK TO s")
        con.execute("COMMIT")
        out = seen
    """
    assert application(db, script) == 1
    after = asked(db, "SELECT * FROM _rollrep_log"), asked(db, "SELECT * FROM _rollrep_meta")
    assert after == before


def test_point_is_restorable_when_the_application_wrote_it_in_its_transaction(tmp_path: Path, store: Store) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    put_log(db)
    pulled(store, db)
    script = """
        import rollrep
        con.execute("BEGIN")
        con.execute("UPDATE users SET admin = 1 - admin")
        out = [rollrep.point(con, "it's \\u65e5\\u672c"), rollrep.point(con)]
        con.execute("COMMIT")
        copy = sqlite3.connect(values["copy"])
        con.backup(copy)
        copy.close()
        con.execute("UPDATE users SET admin = 7")
    """
    labelled, bare = application(db, script, copy=str(tmp_path / "then.db"))
    assert bare == labelled + 1
    pulled(store, db)
    with Catalog(store.catalog) as catalog:
        found = {point.id: point for point in catalog.points()}
        assert (found[labelled].label, found[labelled].kind) == ("it's 日本", "application")
        assert (found[bare].label, found[bare].kind) == (None, "application")
        restored(store, catalog, found[labelled], tmp_path / "out.db")
    oracle.assert_same(tmp_path / "then.db", tmp_path / "out.db")


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_point_is_pulled_when_its_label_is_no_text(encoding: str, tmp_path: Path) -> None:
    """At the head of the log, where the answer says it, and behind it, where only the log does."""
    pair = FollowedPair(tmp_path)
    pair.do(f"PRAGMA encoding = '{encoding}'")
    pair.start("CREATE TABLE t(a)")
    for label in ("CAST(x'61ff00d8' AS TEXT)", "42", "x'00d8'", "1.5"):
        pair.do(f"INSERT INTO _rollrep_point(label) VALUES ({label})")
        assert pair.pull()[0] == "resume"
        pair.do(f"INSERT INTO _rollrep_point(label) VALUES ({label})")
        pair.do("INSERT INTO t VALUES (1)")
        pair.same()
    with Catalog(pair.store.catalog) as catalog:
        labels = [str(point.label) for point in catalog.points() if point.label is not None]
    assert len(labels) == 8 and labels[2:4] == ["42", "42"] and labels[6:] == ["1.5", "1.5"]
    assert all("\N{REPLACEMENT CHARACTER}" in label for label in labels[:2])
    pair.db.close()


def test_point_says_what_is_missing_when_no_log_is_there(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    script = """
        import rollrep
        try:
            rollrep.point(con, "x")
        except sqlite3.OperationalError as error:
            out = str(error)
    """
    assert application(db, script) == "no such table: _rollrep_point"


# ---------------------------------------------------------------- unseen by the application

TABLES = {
    "alias": ("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b INT CHECK (b <> 13), c NOT NULL)",),
    "alias_two_uniques": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b INT CHECK (b <> 13), c NOT NULL)",
        "CREATE UNIQUE INDEX u ON t(b, c)",
    ),
    "autoincrement": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE ON CONFLICT REPLACE, b INT CHECK (b <> 13),"
        " c NOT NULL ON CONFLICT IGNORE)",
    ),
    "without_rowid": (
        "CREATE TABLE t(id INT, a COLLATE NOCASE, b INT CHECK (b <> 13), c NOT NULL, PRIMARY KEY (a, id)) WITHOUT ROWID",
        "CREATE UNIQUE INDEX u ON t(b, c)",
    ),
    "no_key": ("CREATE TABLE t(id, a, b INT CHECK (b <> 13), c NOT NULL)", "CREATE UNIQUE INDEX u ON t(a) WHERE b > 3"),
    "expression": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b INT CHECK (b <> 13), c NOT NULL, d AS (lower(a)) STORED)",
        "CREATE UNIQUE INDEX u ON t(lower(a), b) WHERE b < 9",
        "CREATE UNIQUE INDEX v ON t(d, c)",
    ),
    "own_triggers": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b INT CHECK (b <> 13), c NOT NULL)",
        "CREATE TABLE tally(what PRIMARY KEY, n)",
        "CREATE TRIGGER before_insert BEFORE INSERT ON t WHEN new.b = 5 BEGIN SELECT raise(IGNORE); END",
        "CREATE TRIGGER after_insert AFTER INSERT ON t BEGIN INSERT INTO tally VALUES ('i', 1)"
        " ON CONFLICT DO UPDATE SET n = n + 1; END",
        "CREATE TRIGGER same_row AFTER UPDATE OF b ON t WHEN new.b = 6 BEGIN UPDATE t SET c = 'six' WHERE id = new.id; END",
        "CREATE TRIGGER no_delete BEFORE DELETE ON t WHEN old.b = 7 BEGIN SELECT raise(FAIL, 'seven stays'); END",
        "CREATE TRIGGER no_update BEFORE UPDATE ON t WHEN new.b = 8 BEGIN SELECT raise(ROLLBACK, 'eight ends it'); END",
    ),
    "cascades": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b INT CHECK (b <> 13), c NOT NULL)",
        "CREATE TABLE child(t REFERENCES t(a) ON UPDATE CASCADE ON DELETE SET NULL, of INT REFERENCES t(id)"
        " ON DELETE CASCADE ON UPDATE SET DEFAULT)",
        "CREATE TRIGGER grows AFTER INSERT ON t BEGIN INSERT INTO child VALUES (new.a, new.id); END",
    ),
}
LATER_TRIGGERS = (
    "CREATE TRIGGER later_insert AFTER INSERT ON t WHEN new.b = 2 BEGIN UPDATE t SET c = 'two' WHERE a = new.a; END",
    "CREATE TRIGGER later_ignore AFTER UPDATE ON t WHEN new.b = 3 BEGIN SELECT raise(IGNORE); END",
    "CREATE TRIGGER later_fail AFTER DELETE ON t WHEN old.b = 4 BEGIN SELECT raise(FAIL, 'four'); END",
)
RUN = """
    con.execute("PRAGMA foreign_keys = ON")
    for pragma in values["pragmas"]:
        con.execute(pragma).fetchall()
    out = []
    for sql in values["statements"]:
        try:
            cursor = con.execute(sql)
            said = [list(map(repr, row)) for row in cursor.fetchall()], cursor.rowcount, cursor.lastrowid
        except sqlite3.Error as error:
            said = type(error).__name__, str(error), error.sqlite_errorname
        out.append([sql, said, con.in_transaction,
                    con.execute("SELECT changes(), last_insert_rowid()").fetchone()])
    if con.in_transaction:
        con.execute("COMMIT")
"""


def random_statements(rng: random.Random, count: int) -> list[str]:
    def value() -> str:
        return rng.choice(("NULL", "1", "2", "'a'", "'A'", "'b'", "3.5", "x'61'", "'c d'"))

    def number() -> str:
        return str(rng.randrange(15))

    def clause() -> str:
        return rng.choice(("", "", "OR IGNORE", "OR ABORT", "OR FAIL", "OR ROLLBACK", "OR REPLACE"))

    def where() -> str:
        return rng.choice((f"id = {number()}", f"b = {number()}", f"a = {value()}", f"id > {number()}", "1"))

    def returning() -> str:
        return rng.choice(("", "", " RETURNING *", " RETURNING id, a || 'x'"))

    def row() -> str:
        key = rng.choice(("NULL", number(), number(), number()))
        return f"({key}, {value()}, {number()}, {rng.choice((value(), number()))})"

    def statement() -> str:
        kind = rng.randrange(12)
        rows = ", ".join(row() for _ in range(rng.choice((1, 1, 1, 3))))
        if kind < 5:
            return f"INSERT {clause()} INTO t(id, a, b, c) VALUES {rows}{returning()}"
        if kind == 5:
            ends = ("DO NOTHING", f"DO UPDATE SET b = excluded.b + 1, c = {number()}",
                    f"DO UPDATE SET a = {value()}, id = {number()} WHERE b < {number()}")  # fmt: skip
            return f"INSERT INTO t(id, a, b, c) VALUES {rows} ON CONFLICT {rng.choice(ends)}{returning()}"
        if kind == 6:
            return f"INSERT {clause()} INTO t(a, b, c) SELECT c, b + 1, a FROM t WHERE {where()} ORDER BY a, b, c, id"
        if kind < 10:
            change = rng.choice((f"b = {number()}", f"a = {value()}", f"id = id + {number()}", f"c = {value()}, b = b + 1",
                                 f"a = {value()}, b = {number()}, c = 'n'"))  # fmt: skip
            return f"UPDATE {clause()} t SET {change} WHERE {where()}{returning()}"
        return f"DELETE FROM t WHERE {where()}{returning()}"

    def control() -> str:
        return rng.choice(("BEGIN", "COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s"))

    return [control() if rng.random() < 0.15 else statement() for _ in range(count)]


@pytest.mark.parametrize("later", [False, True], ids=["", "later_triggers"])
@pytest.mark.parametrize("recursive", [False, True], ids=["", "recursive"])
@pytest.mark.parametrize("kind", TABLES)
def test_application_sees_no_difference_when_a_log_is_there(
    tmp_path: Path, store: Store, kind: str, recursive: bool, later: bool
) -> None:
    db, plain = (new_database(tmp_path / name, *TABLES[kind]) for name in ("app.db", "plain.db"))
    put_log(db, keep_rows=200)
    pragmas = [f"PRAGMA recursive_triggers = {recursive:d}"]
    for turn in range(2):
        statements = random_statements(random.Random(f"{kind} {recursive} {later} {turn}"), 220)
        if turn == 1 and later:
            statements = [*LATER_TRIGGERS, *statements]
        with_log, without = (application(each, RUN, statements=statements, pragmas=pragmas) for each in (db, plain))
        for ours, theirs in zip(with_log, without, strict=True):
            assert ours == theirs
        oracle.assert_same(db, plain)
        pulled(store, db)
    errors = {said[1][2] for said in without if isinstance(said[1][0], str)}
    assert errors >= {"SQLITE_CONSTRAINT_CHECK"} or errors >= {"SQLITE_CONSTRAINT_NOTNULL"}


def test_application_sees_its_own_error_when_the_disk_is_full(tmp_path: Path) -> None:
    db = new_database(tmp_path / "app.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    put_log(db, keep_rows=100)
    script = """
        pages = con.execute("PRAGMA page_count").fetchone()[0]
        con.execute(f"PRAGMA max_page_count = {pages + 20}")
        try:
            for n in range(10_000):
                con.execute("INSERT INTO t(a) VALUES (zeroblob(1000))")
        except sqlite3.OperationalError as error:
            out = [str(error), n]
    """
    said, _ = application(db, script)
    assert said == "database or disk is full"
    write(db, "DELETE FROM t", "INSERT INTO t(a) VALUES (1)")


PRAGMAS = (
    "trusted_schema = OFF", "recursive_triggers = ON", "reverse_unordered_selects = ON", "legacy_alter_table = ON",
    "case_sensitive_like = ON", "count_changes = ON", "ignore_check_constraints = ON", "cell_size_check = ON",
    "defer_foreign_keys = ON", "full_column_names = ON", "temp_store = MEMORY", "locking_mode = EXCLUSIVE",
)  # fmt: skip


@pytest.mark.parametrize("pragma", PRAGMAS)
def test_triggers_record_everything_when_the_application_sets_a_pragma(
    tmp_path: Path, store: Store, pragma: str
) -> None:
    db = make.build("notes", tmp_path / "app.db", rows=150)
    with opened(db) as con:
        con.execute("PRAGMA journal_mode = WAL").fetchall()
    put_log(db)
    pulled(store, db)
    name = pragma.partition(" ")[0]
    script = f"""
        con.execute("PRAGMA {pragma}").fetchall()
        sys.path.insert(0, values["fixtures"])
        from workload import Workload
        work = Workload(con, 11, schema="notes", recursive_triggers={name == "recursive_triggers"})
        work.run(120)
        out = len(work.counts)
    """
    assert application(db, script, fixtures=str(Path(make.__file__).parent)) > 5
    assert pulled(store, db).answer == "resume"


def test_triggers_record_everything_when_the_shell_is_defensive(tmp_path: Path, store: Store) -> None:
    db = make.build("bookmarks", tmp_path / "app.db", rows=150)
    put_log(db)
    pulled(store, db)
    commands = """.dbconfig defensive on
.dbconfig trusted_schema off
.dbconfig dqs_dml off
.dbconfig dqs_ddl off
PRAGMA foreign_keys = ON;
UPDATE tags SET name = name || '!';
INSERT OR REPLACE INTO tags SELECT id + 1, name, 0 FROM tags WHERE id % 3 = 0;
DELETE FROM bookmarks WHERE id % 4 = 0;
INSERT INTO _rollrep_point(label) VALUES ('from the shell');
DELETE FROM popular WHERE id % 5 = 0;
"""
    done = subprocess.run(["sqlite3", "-bail", str(db)], input=commands, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    outcome = pulled(store, db)
    assert outcome.answer == "resume" and outcome.operations > 30
    assert "from the shell" in [point.label for point in outcome.points]


def test_rowids_stay_when_a_table_without_key_or_index_is_vacuumed(tmp_path: Path, store: Store) -> None:
    db = make.build("notes", tmp_path / "app.db", rows=300)
    plain = make.build("notes", tmp_path / "plain.db", rows=300)
    put_log(db)
    pulled(store, db)
    write(db, "DELETE FROM clipboard WHERE rowid % 3 = 0", "INSERT INTO clipboard(content) VALUES ('before')")
    rowids = asked(db, "SELECT rowid FROM clipboard ORDER BY 1")
    write(db, "VACUUM")
    assert asked(db, "SELECT rowid FROM clipboard ORDER BY 1") == rowids
    write(db, "UPDATE clipboard SET kind = 'after' WHERE rowid % 2", "INSERT INTO clipboard(content) VALUES ('after')")
    assert pulled(store, db).tables_mirrored == []
    # Without the pin this SQLite would have renumbered them: the test can fail.
    write(plain, "DELETE FROM clipboard WHERE rowid % 3 = 0", "VACUUM")
    [(most, count)] = asked(plain, "SELECT max(rowid), count(*) FROM clipboard")
    assert most == count


# ---------------------------------------------------------------- the schema changes

FIRST = (
    "CREATE TABLE author(id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
    "CREATE TABLE book(id INTEGER PRIMARY KEY AUTOINCREMENT, author INT REFERENCES author(id), title TEXT, price)",
    "CREATE TABLE note(text, at)",
    "CREATE INDEX book_title ON book(title)",
    "CREATE VIEW titles AS SELECT title FROM book",
    "INSERT INTO author VALUES (1, 'Abe'), (2, 'Berg'), (3, NULL)",
    "INSERT INTO book(author, title, price) VALUES (1, 'one', 1.5), (1, 'two', NULL), (2, 'three', x'00')",
    "INSERT INTO note VALUES ('a', 1), (NULL, 2), ('c', 3)",
)
CHANGES: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "table_renamed": (("ALTER TABLE note RENAME TO memo", "INSERT INTO memo VALUES ('d', 4)"), {"memo"}),
    "referenced_table_renamed": (
        (
            "ALTER TABLE author RENAME TO writer",
            "INSERT INTO writer VALUES (9, 'Nine')",
            "DELETE FROM book WHERE id = 1",
        ),
        {"writer"},
    ),
    "column_added": (("ALTER TABLE note ADD COLUMN more DEFAULT 'x'", "UPDATE note SET more = at"), {"note"}),
    "column_added_to_referenced": (
        ("ALTER TABLE author ADD COLUMN born INT", "UPDATE author SET born = id"),
        {"author"},
    ),
    "generated_column_added": (
        ("ALTER TABLE note ADD COLUMN shout AS (upper(text)) VIRTUAL", "UPDATE note SET text = 'q' WHERE at = 1"),
        set(),
    ),
    "column_renamed": (("ALTER TABLE note RENAME COLUMN at TO moment", "UPDATE note SET moment = 9"), {"note"}),
    "referenced_column_renamed": (
        ("ALTER TABLE author RENAME COLUMN id TO number", "INSERT INTO author VALUES (7, 'Seven')"),
        {"author"},
    ),
    "table_rebuilt_as_django_does": (
        (
            "PRAGMA foreign_keys = OFF",
            "BEGIN",
            'CREATE TABLE "new__book" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "title" varchar(99) NOT NULL,'
            ' "author" integer REFERENCES "author" ("id") DEFERRABLE INITIALLY DEFERRED, "stars" INT DEFAULT 3)',
            'INSERT INTO "new__book" ("id", "title", "author") SELECT "id", "title", "author" FROM "book"',
            "DROP VIEW titles",
            'DROP TABLE "book"',
            'ALTER TABLE "new__book" RENAME TO "book"',
            "CREATE INDEX book_author ON book(author)",
            "CREATE VIEW titles AS SELECT title, stars FROM book",
            "COMMIT",
            "INSERT INTO book(title, author) VALUES ('four', 3)",
        ),
        {"book"},
    ),
    "index_added": (("CREATE INDEX note_at ON note(at)", "INSERT INTO note VALUES ('i', 5)"), set()),
    "unique_index_added": (("CREATE UNIQUE INDEX note_at ON note(at)", "INSERT INTO note VALUES ('i', 5)"), {"note"}),
    "index_dropped": (("DROP INDEX book_title", "INSERT INTO book(title) VALUES ('five')"), set()),
    "table_added": (
        ("CREATE TABLE fresh(id INTEGER PRIMARY KEY, x)", "INSERT INTO fresh(x) VALUES (1), (2)"),
        {"fresh"},
    ),
    "table_dropped": (("DROP TABLE note",), set()),
    "table_dropped_and_made_again": (
        ("DROP TABLE note", "CREATE TABLE note(text, at)", "INSERT INTO note VALUES ('again', 1)"),
        {"note"},
    ),
    "view_and_trigger_added": (
        (
            "CREATE VIEW cheap AS SELECT * FROM book WHERE price < 2",
            "CREATE TRIGGER loud AFTER INSERT ON note BEGIN UPDATE note SET text = upper(text) WHERE rowid = new.rowid; END",
            "INSERT INTO note VALUES ('shout', 8)",
        ),
        {"note"},
    ),
    "vacuumed": (("DELETE FROM note WHERE at = 1", "VACUUM"), set()),
    "analyzed": (("ANALYZE",), set()),
    "everything_at_once": (
        (
            "ALTER TABLE author RENAME TO writer",
            "ALTER TABLE writer RENAME COLUMN name TO title",
            "ALTER TABLE note ADD COLUMN z DEFAULT 5",
            "DROP INDEX book_title",
            "CREATE TABLE fresh(id INTEGER PRIMARY KEY, x REFERENCES writer(title))",
            "INSERT INTO fresh VALUES (1, 'Abe')",
        ),
        {"writer", "note", "fresh"},
    ),
}

MAY_BE_MIRRORED_TOO = {
    "referenced_table_renamed": {"book"},
    "referenced_column_renamed": {"book"},
    "generated_column_added": {"note"},
    "everything_at_once": {"book"},
}
"""Only the text of these tables changed, by SQLite's own hand: copied again or kept, their rows are the source's."""


@pytest.mark.parametrize("written_between", [False, True], ids=["", "written_between"])
@pytest.mark.parametrize("change", CHANGES)
def test_next_pull_is_right_when_the_schema_has_changed(
    tmp_path: Path, store: Store, change: str, written_between: bool
) -> None:
    statements, concerned = CHANGES[change]
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    pulled(store, db)
    write(db, "UPDATE book SET price = 2 WHERE id = 2", "INSERT INTO _rollrep_point(label) VALUES ('before')")
    copy_source(db, tmp_path / "before.db")
    if not written_between:
        pulled(store, db)
    write(db, *statements)
    outcome = pulled(store, db)
    assert concerned <= set(outcome.tables_mirrored) <= concerned | MAY_BE_MIRRORED_TOO.get(change, set())
    if written_between:
        assert concerned == set() or outcome.answer == "mirror"
    write(db, "INSERT INTO book(title) VALUES ('last')", "INSERT INTO _rollrep_point(label) VALUES ('after')")
    copy_source(db, tmp_path / "after.db")
    assert pulled(store, db).answer == "resume"
    with Catalog(store.catalog) as catalog:
        by_label = {point.label: point for point in catalog.points()}
        for label in ("before", "after") if not written_between else ("after",):
            output = tmp_path / f"{label}-restored.db"
            restored(store, catalog, by_label[label], output)
            oracle.assert_same(tmp_path / f"{label}.db", output)


def test_mirror_follows_when_migrations_and_work_alternate(tmp_path: Path, store: Store) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    pulled(store, db)
    rng = random.Random(5)
    names = ["note"]
    for turn in range(12):
        table = rng.choice(names)
        new = f"n{turn}"
        change = rng.choice((
            f"ALTER TABLE {table} ADD COLUMN c{turn} DEFAULT {turn}",
            f"ALTER TABLE {table} RENAME TO {new}",
            f"CREATE TABLE {new}(text, at)",
            f"CREATE INDEX i{turn} ON {table}(text)",
        ))  # fmt: skip
        if "RENAME TO" in change:
            names.remove(table)
        if new in change:
            names.append(new)
        write(db, change, *(f"INSERT INTO {each}(text, at) VALUES ('{turn}', {turn})" for each in names))
        pulled(store, db)


# ---------------------------------------------------------------- somebody's hand


def test_mirror_is_made_again_when_the_log_was_emptied(tmp_path: Path, store: Store) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db, keep_rows=100)
    write(db, *(f"INSERT INTO note VALUES ('n', {n})" for n in range(300)))
    pulled(store, db)
    epoch = asked(db, "SELECT epoch FROM _rollrep_meta")[0][0]
    write(db, "DELETE FROM _rollrep_log", "UPDATE note SET at = 7", "DELETE FROM _rollrep_log")
    outcome = pulled(store, db)
    assert (outcome.answer, outcome.reason) == ("mirror", "epoch")
    assert outcome.position is not None
    assert outcome.position.epoch != epoch
    write(db, "UPDATE note SET at = 8 WHERE rowid = 1")
    assert pulled(store, db).answer == "resume"


def test_mirror_is_made_again_when_a_young_log_was_emptied(tmp_path: Path, store: Store) -> None:
    # Nothing was pruned or counted yet, so the ids of the log are all that said how far it had come.
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    write(db, "UPDATE note SET at = 7")
    outcome = pulled(store, db)
    assert outcome.position is not None
    write(db, "DELETE FROM _rollrep_log")
    again = pulled(store, db)
    assert (again.answer, again.reason) == ("mirror", "epoch")
    assert again.position is not None
    assert again.position.epoch != outcome.position.epoch


@pytest.mark.parametrize(
    ("cut", "pulled_before"),
    [("id = 150", False), ("id BETWEEN 60 AND 90", False), ("id < 250", False), ("id = 150", True), ("id < 250", True),
     ("id > 200", True), ("id = (SELECT max(id) FROM _rollrep_log)", True)],
)  # fmt: skip
def test_mirror_becomes_right_when_rows_were_cut_out_of_the_log(
    tmp_path: Path, store: Store, cut: str, pulled_before: bool
) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    write(db, *(f"INSERT INTO note VALUES ('n', {n})" for n in range(40)))
    pulled(store, db)
    write(db, *(f"INSERT INTO note VALUES ('m', {n})" for n in range(260)))
    if pulled_before:
        pulled(store, db)
    write(db, f"DELETE FROM _rollrep_log WHERE {cut}", "UPDATE note SET at = at + 1 WHERE at % 7 = 0")
    pulled(store, db)
    write(db, *(f"INSERT INTO note VALUES ('o', {n})" for n in range(100)))
    pulled(store, db)


def test_install_mends_the_log_when_its_table_was_dropped(tmp_path: Path, store: Store) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    pulled(store, db)
    write(db, "DROP TABLE _rollrep_log")
    done = rollrep("source", "install", db)
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stderr) == (0, "")
    write(db, "UPDATE note SET at = 7")
    assert pulled(store, db).answer == "mirror"


@pytest.mark.parametrize("command", ["status", "uninstall", "point"])
@pytest.mark.parametrize("gone", ["_rollrep_log", "_rollrep_shape", "_rollrep_forgotten"])
def test_commands_say_a_sentence_when_a_table_of_the_log_was_dropped(tmp_path: Path, command: str, gone: str) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    write(db, f"DROP TABLE {gone}")
    done = rollrep("source", command, db)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert len(done.stderr.splitlines()) == 2 and "  next: " in done.stderr
    if command == "uninstall":
        assert done.returncode == 0
        write(db, "UPDATE note SET at = 7")


def test_pull_refuses_with_a_sentence_when_the_log_was_taken_out_and_put_in_again(tmp_path: Path, store: Store) -> None:
    db = new_database(tmp_path / "app.db", *FIRST)
    put_log(db)
    pulled(store, db)
    before = oracle.dbhash(store.mirror)
    with opened(db) as con:
        uninstall(con)
    write(db, "UPDATE note SET at = 7")
    put_log(db)
    with pytest.raises(UsageError) as refused:
        pull_once(store, db)
    assert "\n" not in str(refused.value)
    assert "untouched" in refused.value.facts
    assert "--accept-source" in refused.value.remedy
    assert oracle.dbhash(store.mirror) == before


def test_install_says_whose_the_file_is_when_it_can_not_be_read(tmp_path: Path) -> None:
    db = make.build("rails", tmp_path / "app.db", rows=100)
    db.chmod(0o000)
    # Root reads everything; without its capabilities it is an owner like any other.
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*powerless, ROLLREP, "source", "install", db], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert "can't be read by this user" in done.stderr
