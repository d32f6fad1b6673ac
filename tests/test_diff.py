"""What differs between two databases: told exactly, and as SQL that makes the one the other.

Two databases of one random life are compared; the script is run on the first, and then nothing may tell it from
the second: neither the oracle, value for value, nor SQLite's own dbhash.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
import subprocess
from pathlib import Path

import apsw
import oracle
import pytest
from draws import SeededDraw, create, migrate, write
from test_replication import SEEDS, Life

from rollrep.core.literals import literal, read_value, value_column
from rollrep.destination.catalog import Catalog
from rollrep.destination.changeset import write_changeset
from rollrep.destination.choosing import restorable
from rollrep.destination.differences import beside, compare, rows_of
from rollrep.destination.restore import plan, restore
from rollrep.destination.script import script


def make_pair(folder: Path, seed: int, *, migrations: int) -> tuple[Path, Path]:
    """Two moments of one life."""
    draw = SeededDraw(seed)
    before, after = folder / "before.db", folder / "after.db"
    with contextlib.closing(apsw.Connection(str(before))) as db:
        if draw.chance(4):
            db.execute("PRAGMA encoding = 'UTF-16le'")
        create(db, draw)
        write(db, draw, draw.count(5, 40))
    shutil.copy(before, after)
    with contextlib.closing(apsw.Connection(str(after))) as db:
        for number in range(migrations):
            write(db, draw, draw.count(0, 10))
            migrate(db, draw, number + 10)
        write(db, draw, draw.count(0, 30))
        # What ANALYZE keeps is SQLite's own, and no part of a diff.
        for (statistics,) in db.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'").fetchall():
            db.execute(f"DROP TABLE {statistics}")
    return before, after


def make_alike(before: Path, after: Path) -> str:
    """Runs the script on `before`; returns it."""
    with beside(before, after) as db:
        text = "\n".join(script(db, compare(db)))
    with contextlib.closing(apsw.Connection(str(before))) as db:
        db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        db.execute("PRAGMA foreign_keys = ON")
        for row in db.execute(text):
            del row
    return text


@pytest.mark.parametrize("seed", range(40))
def test_script_makes_the_one_the_other_when_lives_are_random(seed: int, tmp_path: Path) -> None:
    before, after = make_pair(tmp_path, seed, migrations=seed % 4)
    text = make_alike(before, after)
    try:
        oracle.assert_same(before, after)
        assert oracle.dbhash(before) == oracle.dbhash(after)
    except BaseException:
        print(text)
        raise
    with beside(before, after) as db:
        assert compare(db).is_empty


@pytest.mark.parametrize("seed", range(40))
def test_rows_are_exactly_those_that_differ_when_lives_are_random(seed: int, tmp_path: Path) -> None:
    before, after = make_pair(tmp_path, seed + 500, migrations=0)
    left, right = oracle.dump(before)["tables"], oracle.dump(after)["tables"]
    with beside(before, after) as db:
        found = compare(db)
        told: dict[str, set[object]] = {}
        for table in found.tables:
            for change in rows_of(db, table):
                told.setdefault(table.name, set()).add(
                    (
                        oracle_row(change.key),
                        oracle_row(change.before) if change.before else None,
                        oracle_row(change.after) if change.after else None,
                    )
                )
        for name in left:
            columns = {table.name: table for table in found.tables}
            if name not in columns:
                assert left[name] == right[name]
                continue
            shape = columns[name].before
            assert shape is not None
            kept = [left[name].columns.index(column) for column in shape.columns]
            expected = set()
            for key in left[name].rows.keys() | right[name].rows.keys():
                one, other = left[name].rows.get(key), right[name].rows.get(key)
                if one != other:
                    expected.add(
                        (
                            key,
                            tuple(one[n] for n in kept) if one else None,
                            tuple(other[n] for n in kept) if other else None,
                        )
                    )
            assert told[name] == expected


def oracle_row(row: dict[str, str]) -> tuple[tuple[str, object], ...]:
    """Tokens as the oracle writes values."""
    return tuple(oracle_value(token) for token in row.values())


def oracle_value(token: str) -> tuple[str, object]:
    kind, _, rest = token.partition(":")
    if kind == "i":
        return ("integer", int(rest))
    if kind == "r":
        return ("real", struct.pack(">d", float.fromhex(rest)).hex())
    return ("null", None) if kind == "n" else ({"t": "text", "b": "blob"}[kind], rest)


REALS = [0.1, 1 / 3, -0.0, 5e-324, 2.2250738585072011e-308, 1.7976931348623157e308, 1e22, 1e23, 123456789012345678.0,
         float("inf"), float("-inf"), 1e300, -1e-300, 9007199254740993.0, 100.0, 1e16, 0.30000000000000004]  # fmt: skip
TEXTS = [b"it's", b"", b"\xff", b"a\0b", b"line\nline\n.quit\n", b"cr\r\n", "日本\U0001f6b2".encode(), b"\xed\xa0\x80",
         b"\xef\xbb\xbfx", b"tab\t", b"-- no", b";"]  # fmt: skip


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_literal_is_the_same_value_when_an_old_shell_reads_it(encoding: str, tmp_path: Path) -> None:
    rng = random.Random(7)
    reals = [*REALS, *(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300) for _ in range(300))]
    path = tmp_path / "values.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'; CREATE TABLE v(id INTEGER PRIMARY KEY, a)")
        for value in [*reals, *TEXTS, None, 2**63 - 1, -(2**63), 17]:
            db.execute(
                "INSERT INTO v(a) VALUES (iif(typeof(?1) = 'blob', CAST(?1 AS TEXT), ?1))",
                (value,),
            )
        db.execute("INSERT INTO v(a) VALUES (x'00ff'), (x'')")
        rows = db.execute(f"SELECT id, {value_column('a')} FROM v").fetchall()
    lines = [f"PRAGMA encoding = '{encoding}';", "CREATE TABLE v(id INTEGER PRIMARY KEY, a);"]
    lines += [f"INSERT INTO v VALUES ({number}, {literal(read_value(found), encoding)});" for number, found in rows]
    subprocess.run(["sqlite3", "-bail", tmp_path / "read.db"], input="\n".join(lines).encode(), check=True)
    oracle.assert_same(path, tmp_path / "read.db")


@pytest.mark.parametrize("seed", range(40))
def test_changeset_makes_tables_alike_when_they_have_primary_keys(seed: int, tmp_path: Path) -> None:
    before, after = make_pair(tmp_path, seed + 900, migrations=seed % 2)
    with beside(before, after) as db:
        found = compare(db)
        left_out = write_changeset(db, found, before, tmp_path / "out.changeset")
        names = {table.name for table in found.tables} - set(left_out)
    with contextlib.closing(apsw.Connection(str(before))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        db.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        apsw.Changeset.apply((tmp_path / "out.changeset").read_bytes(), db)
    left, right = oracle.dump(before)["tables"], oracle.dump(after)["tables"]
    for name in names:
        assert sorted(map(repr, left[name].rows.values())) == sorted(map(repr, right[name].rows.values()))
    assert not names & set(left_out)


def test_diff_tells_equal_values_of_another_class_apart(tmp_path: Path) -> None:
    before, after = tmp_path / "before.db", tmp_path / "after.db"
    pairs = [
        ("1", "1.0"),
        ("'a'", "'A'"),
        ("'a'", "x'61'"),
        ("0.0", "-0.0"),
        ("NULL", "''"),
        ("'a'", "'a '"),
        ("7", "7"),
    ]
    for path, side in ((before, 0), (after, 1)):
        with contextlib.closing(apsw.Connection(str(path))) as db:
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a COLLATE NOCASE)")
            for pair in pairs:
                db.execute(f"INSERT INTO t(a) VALUES ({pair[side]})")
    with beside(before, after) as db:
        [table] = compare(db).tables
        assert [change.key["id"] for change in rows_of(db, table)] == [f"i:{n}" for n in range(1, len(pairs))]
    make_alike(before, after)
    oracle.assert_same(before, after)


def test_script_works_when_rows_swap_values_that_must_be_unique(tmp_path: Path) -> None:
    before, after = tmp_path / "before.db", tmp_path / "after.db"
    schema = (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE ON CONFLICT REPLACE, b); CREATE UNIQUE INDEX i ON t(lower(b))"
    )
    for path, rows in (
        (before, "(1, 'x', 'm'), (2, 'y', 'n'), (3, 'z', 'o')"),
        (after, "(1, 'y', 'N'), (2, 'z', 'M'), (4, 'x', 'O')"),
    ):
        with contextlib.closing(apsw.Connection(str(path))) as db:
            db.execute(f"{schema}; INSERT INTO t VALUES {rows}")
    make_alike(before, after)
    oracle.assert_same(before, after)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", list(SEEDS)[:4])
def test_script_leads_from_point_to_point_when_applications_are_random(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Life(seed + 2000, tmp_path, monkeypatch) as life:
        for _ in range(5):
            life.rng.choice([life.write, life.pull_while_writing, life.point])()
            life.pull()
        life.compare()
    with Catalog(life.store.catalog) as catalog:
        points = restorable(catalog)
        for one, other in [life.rng.sample(points, 2) for _ in range(2)] if len(points) > 1 else []:
            before, after, kept = (tmp_path / f"{name}.db" for name in ("one", "other", "kept"))
            for point, path in ((one, before), (other, after), (one, kept)):
                restore(life.store, catalog, plan(catalog, point), path, force=True, progress=lambda _: None)
            make_alike(before, after)
            oracle.assert_same(before, after)
            assert oracle.dbhash(before) == oracle.dbhash(after)
            make_alike(before, kept)
            oracle.assert_same(before, kept)
