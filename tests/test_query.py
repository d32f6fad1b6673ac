"""Looking at the past: parts of it, the newest state of it, and questions to it.

What a question is asked of must be the source as it was, at every point; nothing that is asked may change it,
and the cache may be emptied, filled and overfilled at any moment.
"""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import io
import json
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source, pull_once, recompute
from test_cli import Place, only_object, refusal
from test_replication import SEEDS, Life

from rollrep.core import sql
from rollrep.core.errors import NotRestorable, UsageError
from rollrep.core.moments import ById, ByLabel, ByPoint, ByTime, Latest, Moment
from rollrep.destination import cache as caching
from rollrep.destination.cache import Cache
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import choose, find_point, restorable
from rollrep.destination.mirror_db import open_mirror
from rollrep.destination.reading import ask, reader
from rollrep.destination.restore import Plan, plan, plan_newest, restore
from rollrep.destination.store import Store


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).pulled()


def never(path: Path) -> None:
    raise AssertionError(f"{path} was made again")


def write_restored(life: Life, catalog: Catalog, chosen: Plan, output: Path) -> None:
    restore(life.store, catalog, chosen, output, force=True, progress=lambda _: None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:2])
def test_past_equals_the_source_as_it_was_when_applications_are_random(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 1000, tmp_path, monkeypatch) as life:
        moves = [life.write, life.pull_while_writing, life.point, life.compare]
        for _ in range(life.rng.randrange(5, 9)):
            life.rng.choice(moves)()
        life.write()
        life.compare()
    compared = 0
    with Catalog(life.store.catalog) as catalog:
        points = restorable(catalog)
        for point in points:
            kept = tmp_path / "keep" / f"{point.id}.db"
            if kept.exists():
                recompute(kept)
                compare_question(life, catalog, point, kept)
                compare_some_tables(life, catalog, point, kept)
                compared += 1
        newest = plan_newest(life.store, catalog, points[-1])
        assert newest.from_mirror
        write_restored(life, catalog, newest, tmp_path / "newest.db")
        oracle.assert_same(tmp_path / "keep" / f"{points[-1].id}.db", tmp_path / "newest.db")
    assert compared


def compare_question(life: Life, catalog: Catalog, point: CatalogPoint, kept: Path) -> None:
    cache = Cache(life.store)
    with cache.file(point, lambda path: write_restored(life, catalog, plan(catalog, point), path)) as path:
        oracle.assert_same(kept, path)
        with reader(path) as db, contextlib.closing(apsw.Connection(str(kept))) as right:
            for table in oracle.dump(kept)["tables"]:
                question = f"SELECT count(*) FROM {sql.name(table)}"
                assert list(ask(db, question)[1]) == right.execute(question).fetchall()
    with cache.file(point, never):
        pass


def compare_some_tables(life: Life, catalog: Catalog, point: CatalogPoint, kept: Path) -> None:
    whole = oracle.dump(kept)
    with contextlib.closing(open_mirror(life.store.mirror)) as db:
        carried = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    tables = [name for name in whole["tables"] if name in carried]
    some = tuple(life.rng.sample(tables, min(len(tables), life.rng.choice([1, 2]))))
    chosen = Plan(**{**vars(plan(catalog, point)), "tables": tuple(name.upper() for name in some)})
    output = life.folder / "some.db"
    write_restored(life, catalog, chosen, output)
    part = oracle.dump(output)
    assert part["tables"] == {name: whole["tables"][name] for name in some}
    assert part["header"] == whole["header"]
    assert part["sequence"] == {name: seq for name, seq in whole["sequence"].items() if name in some}
    expected = [row for row in whole["schema"] if row[0] in ("table", "index") and row[2] in some]
    assert part["schema"] == expected


def test_point_is_the_one_found_among_all_when_it_is_named(place: Place) -> None:
    for label in ("a", "b", "a"):
        place.good("source", "point", place.db, "--label", label)
        place.good("pull")
    with Catalog(store_of(place).catalog) as catalog:
        points = restorable(catalog)
        moments: list[Moment] = [Latest(), ByLabel("a"), ByLabel("b"), ByLabel("c"), ById(points[0].id), ById(10**9)]
        moments += [ByPoint(point.point) for point in points] + [ByPoint(999)]
        for moment in moments:
            assert found_or_refused(lambda m: find_point(catalog, m), moment) == found_or_refused(
                lambda m: choose(points, m, None), moment
            )


def test_moment_before_the_first_point_is_told_by_the_first_of_the_log_when_the_clock_stepped_back() -> None:
    noon = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
    hours = (0, -2, 1)
    points = [CatalogPoint(n, 1, "e", n, "pull", None, noon + dt.timedelta(hours=by)) for n, by in enumerate(hours, 1)]
    with pytest.raises(NotRestorable, match="before the first point, which is of 2026-11-22T12:00") as refused:
        choose(points, ByTime(noon - dt.timedelta(hours=1)), None)
    assert refused.value.remedy.endswith("--at point:1")


def found_or_refused(find: Callable[[Moment], CatalogPoint], moment: Moment) -> CatalogPoint | str:
    try:
        return find(moment)
    except NotRestorable as error:
        return str(error)


# ---------------------------------------------------------------- restore: tables, the mirror


def test_restore_refuses_and_guesses_when_a_table_is_unknown(place: Place) -> None:
    table = next(iter(oracle.dump(place.db)["tables"]))
    out = place.folder / "out.db"
    done = place.run("restore", "shop", "--table", f"{table}x", "-o", out)
    assert done.returncode == 2
    assert f"did you mean {table}?" in done.stderr
    assert not list(place.folder.glob("*out.db*")) + list(place.folder.glob(".out*"))


def test_restore_plan_says_what_it_would_read_when_run_dry(place: Place) -> None:
    place.write("CREATE TABLE IF NOT EXISTS zz(a)")
    place.good("pull")
    place.write("INSERT INTO zz VALUES (1), (2)")
    place.good("pull")
    out = place.folder / "out.db"
    newest = only_object(place.run("restore", "shop", "-o", out, "-n", "--json").stdout)
    assert newest["from"] == "mirror"
    by_id = only_object(place.run("restore", "shop", "--at", f"id:{newest['id']}", "-o", out, "-n", "--json").stdout)
    segments = sum(path.stat().st_size for path in place.store.rglob("*.segment"))
    assert (by_id["from"], by_id["operations"], by_id["segments"]) == ("archive", 2, 1)
    assert by_id["bytes_read"] == (place.store / "shop" / by_id["snapshot"]).stat().st_size + segments
    assert not out.exists()


def test_newest_state_comes_from_the_archive_when_the_mirror_moved_on(tmp_path: Path, place: Place) -> None:
    store = store_of(place)
    copy_source(place.db, tmp_path / "then.db")
    with Catalog(store.catalog) as catalog:
        chosen = plan_newest(store, catalog, restorable(catalog)[-1])
        assert chosen.from_mirror
        place.write("CREATE TABLE later(a)")
        place.good("pull")
        restore(store, catalog, chosen, tmp_path / "out.db", force=False, progress=lambda _: None)
        assert not plan_newest(store, catalog, chosen.point).from_mirror
    oracle.assert_same(tmp_path / "then.db", tmp_path / "out.db")


def test_restore_names_what_still_works_when_the_mirror_is_damaged(place: Place) -> None:
    out = place.folder / "out.db"
    data = bytearray(place.mirror().read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = bytes(64)
    place.mirror().write_bytes(data)
    done = place.run("restore", "shop", "-o", out)
    if done.returncode:
        assert done.returncode == 16, done.stderr
        assert not out.exists()
    copy_source(place.db, place.folder / "right.db")
    point = place.told("points", "shop")["points"][-1]
    assert place.run("restore", "shop", "--at", f"point:{point['point']}", "-o", out, "--force").returncode == 0
    oracle.assert_same(place.folder / "right.db", out)


def store_of(place: Place):

    return Store(place.store, "shop")


# ---------------------------------------------------------------- query


def test_query_answers_from_then_when_the_source_went_on(place: Place) -> None:
    place.write(
        "CREATE TABLE q(id INTEGER PRIMARY KEY, a, b)", "INSERT INTO q VALUES (1, 'it''s', x'00ff'), (2, NULL, 1.5)"
    )
    place.good("pull")
    at = f"point:{place.told('points', 'shop')['points'][-1]['point']}"
    place.write("DELETE FROM q")
    place.good("pull")
    for _ in range(2):
        done = place.run("query", "shop", "SELECT a, b FROM q ORDER BY id", "--at", at, "--json")
        told = only_object(done.stdout)
        assert (told["schema"], told["columns"]) == ("rollrep.query/1", ["a", "b"])
        assert told["rows"] == [["it's", {"blob": "00ff"}], [None, 1.5]]
        assert at.replace(":", " ") in done.stderr
    assert (
        place.run("query", "shop", "SELECT a, b FROM q ORDER BY id", "--at", at).stdout
        == "a\tb\nit's\tX'00ff'\n\t1.5\n"
    )
    shown = place.run("query", "shop", "SELECT 'a,\"b' AS \"x,y\", 'c\nd' AS z", "--at", at, "--csv").stdout
    assert list(csv.reader(io.StringIO(shown, newline=""))) == [["x,y", "z"], ['a,"b', "c\nd"]]
    assert place.run("query", "shop", "SELECT count(*) AS n FROM q").stdout == "n\n0\n"
    folder = place.store / "shop" / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.suffix for path in folder.iterdir()} == {".db", ".in-use", ".lock"}


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM q", "INSERT INTO q VALUES (1)", "DROP TABLE q", "CREATE TABLE r(a)", "CREATE TEMP TABLE r(a)",
     "ATTACH 'other.db' AS o", "VACUUM INTO 'other.db'", "VACUUM", "PRAGMA user_version = 7", "PRAGMA writable_schema = 1",
     "PRAGMA journal_mode = WAL", "SELECT load_extension('x')", "REINDEX", "ANALYZE", "PRAGMA temp_store_directory = '/'",
     "CREATE VIRTUAL TABLE v USING fts5(a)", "DETACH main", "PRAGMA query_only = 0", "UPDATE q SET a = 1 RETURNING a"],
)  # fmt: skip
def test_query_refuses_and_changes_nothing_when_it_would_do_more_than_read(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA journal_mode = WAL; CREATE TABLE q(a UNIQUE); INSERT INTO q VALUES (5)").fetchall()
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with reader(path) as db, pytest.raises(UsageError) as refused:
        list(ask(db, statement)[1])
    assert "read" in str(refused.value) or "not authorized" in str(refused.value)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_reader_can_not_write_and_leaves_no_file_when_no_authorizer_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA journal_mode = WAL; CREATE TABLE q(a)").fetchall()
    with reader(path) as db:
        db.authorizer = None
        assert list(ask(db, "SELECT count(*) FROM q")[1]) == [(0,)]
        with pytest.raises(apsw.ReadOnlyError):
            db.execute("INSERT INTO q VALUES (1)")
        assert [each.name for each in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize(
    "statement",
    ["WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
     "SELECT name FROM pragma_table_info('q')", "PRAGMA table_info(q)", "PRAGMA user_version", "PRAGMA integrity_check",
     "SELECT a, row_number() OVER (ORDER BY a) FROM q", "SELECT json_group_array(a) FROM q", "EXPLAIN QUERY PLAN SELECT * FROM q",
     "SELECT sql FROM sqlite_schema", "VALUES (1)"],
)  # fmt: skip
def test_query_answers_when_it_only_reads(tmp_path: Path, statement: str) -> None:
    with contextlib.closing(apsw.Connection(str(tmp_path / "a.db"))) as db:
        db.execute("CREATE TABLE q(a); INSERT INTO q VALUES (5)").fetchall()
    with reader(tmp_path / "a.db") as db:
        names, rows = ask(db, statement)
        assert names
        assert list(rows)


def test_query_ends_with_2_and_a_sentence_when_the_question_is_none(place: Place) -> None:
    place.write("CREATE TABLE q(a)")
    place.good("pull")
    for statement, holding in (
        ("SELECT nope", "nope"),
        ("SELEC 1", "syntax"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("SELECT CAST(x'ff' AS TEXT)", "UTF-8"),
        ("DELETE FROM q", "rollrep restore shop"),
    ):
        done = place.run("query", "shop", statement)
        assert done.returncode == 2
        assert holding in done.stderr
        assert done.stdout == ""


def test_query_refuses_with_what_exists_when_the_moment_does_not(place: Place) -> None:
    refusal(place, 17, ("query", "shop", "SELECT 1", "--at", "point:999"), "point 999")
    assert place.run("query", "shop", "SELECT 1", "--csv", "--json").returncode == 2


def test_shell_reads_and_does_not_write_when_commands_come_from_a_script(place: Place) -> None:
    place.write("CREATE TABLE q(a)", "INSERT INTO q VALUES (41)")
    place.good("pull")
    program = Path(sys.executable).with_name("rollrep")
    done = subprocess.run(
        [program, "shell", "shop", "-c", place.config], input="SELECT a + 1 FROM q;\nDELETE FROM q;\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "42" in done.stdout
    assert "not authorized" in done.stderr
    assert place.run("query", "shop", "SELECT a FROM q").stdout == "a\n41\n"


def test_shell_leads_to_no_other_database_of_ours_when_it_is_asked_to(place: Place) -> None:
    program = Path(sys.executable).with_name("rollrep")
    before = place.good("points", "shop").stdout
    done = subprocess.run(
        [program, "shell", "shop", "-c", place.config], input=".connection 0\nDELETE FROM point;\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'Unknown command "connection"' in done.stderr
    assert place.good("points", "shop").stdout == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_question_that_never_ends_is_stopped_by_a_signal(place: Place, number: signal.Signals, code: int) -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    program = Path(sys.executable).with_name("rollrep")
    with subprocess.Popen(
        [program, "query", "shop", endless, "-c", place.config], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        child.stderr.readline()  # which point it is asked of
        time.sleep(0.3)
        child.send_signal(number)
        child.communicate(timeout=20)
    assert child.returncode == code


def test_restore_gives_its_own_point_when_another_writes_the_same_output_meanwhile(place: Place) -> None:
    place.write("CREATE TABLE q(a)")
    place.good("pull")
    place.write("INSERT INTO q VALUES (41)")
    place.good("pull")
    output, store = place.folder / "out.db", Store(place.store, "shop")
    with Catalog(store.catalog) as catalog:
        older = find_point(catalog, ByPoint(2))

        def meanwhile(what: str) -> None:
            if what == "checking":
                done = place.run("restore", "shop", "--at", "latest", "--output", output, "--force")
                assert done.returncode == 0, done.stderr

        restore(store, catalog, plan(catalog, older), output, force=True, progress=meanwhile)
    with contextlib.closing(apsw.Connection(str(output))) as db:
        assert db.execute("SELECT count(*) FROM q").fetchall() == [(0,)]
    assert not list(place.folder.glob(".out.db*"))


# ---------------------------------------------------------------- the cache


def test_cache_lets_go_of_the_least_recently_read_but_never_of_one_being_read_when_full(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "MOST_FILES", 2)
    store = store_of(place)
    place.write("CREATE TABLE c(a)")
    for n in range(4):
        place.write(f"INSERT INTO c VALUES ({n})")
        pull_once(store, place.db)
    with Catalog(store.catalog) as catalog:
        points = restorable(catalog)[-4:]

        def look(point: CatalogPoint):
            return Cache(store).file(
                point,
                lambda path: restore(store, catalog, plan(catalog, point), path, force=True, progress=lambda _: None),
            )

        def there() -> list[int]:
            return sorted(int(path.stem.rpartition("-")[2]) for path in store.cache.glob("*.db"))

        with look(points[0]) as reading:
            for point in points[1:]:
                with look(point):
                    pass
            assert reading.exists()
            assert there() == [points[n].id for n in (0, 2, 3)]
            with reader(reading) as db:
                assert list(ask(db, "SELECT count(*) FROM c")[1]) == [(1,)]
        with look(points[1]):
            pass
        assert there() == sorted([points[3].id, points[1].id])
        monkeypatch.setattr(caching, "MOST_BYTES", 1)
        with look(points[2]):
            assert there() == [points[2].id]


def test_cache_is_swept_by_itself_and_not_by_a_pull_when_a_reader_was_killed(place: Place) -> None:
    place.run("query", "shop", "SELECT 1")
    folder = place.store / "shop" / "cache"
    left = folder / ".e-1-2.db.part"
    left.write_bytes(b"half")
    place.write("CREATE TABLE c(a)")
    place.good("pull")
    assert left.exists()
    place.run("query", "shop", "SELECT 1")
    assert not left.exists()


def test_cache_is_right_when_it_was_removed_or_its_store_began_anew(place: Place) -> None:
    place.write("CREATE TABLE c(a)", "INSERT INTO c VALUES (1)")
    place.good("pull")
    first = json.loads(place.run("query", "shop", "SELECT a FROM c", "--json").stdout)
    place.good("source", "uninstall", place.db)
    place.write("UPDATE c SET a = 2")
    place.good("source", "install", place.db)
    assert place.run("mirror", "shop", "--accept-source").returncode == 0
    assert place.run("query", "shop", "SELECT a FROM c").stdout == "a\n2\n"
    again = json.loads(
        place.run("query", "shop", "SELECT a FROM c", "--at", f"point:{first['point']}", "--json").stdout
    )
    assert again["rows"] == [[1]]
