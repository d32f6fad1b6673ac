"""An undo script breaks no foreign key: it leaves alone what would, says why, and takes everything else back."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
from pathlib import Path

import apsw
import pytest
from test_cli import Place
from test_undo import rows, run, run_here, script_of, undo

TABLES = {
    "p": "CREATE TABLE p(id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE UNIQUE,"
    " up INT REFERENCES p ON DELETE CASCADE)",
    "w": "CREATE TABLE w(a INT, b TEXT COLLATE NOCASE, n, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "c": "CREATE TABLE c(id INTEGER PRIMARY KEY, p TEXT REFERENCES p ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,"
    " code REFERENCES P(CODE) ON UPDATE CASCADE, a, b, FOREIGN KEY (a, b) REFERENCES w ON DELETE SET NULL)",
    "t": "CREATE TABLE t(k TEXT PRIMARY KEY, up INT REFERENCES t)",
}
KEYS = {"p": "id", "w": "a || '/' || lower(b)", "c": "id", "t": "rowid"}
COLUMNS = {"p": "id, code, up", "w": "a, b, n", "c": "id, p, code, a, b", "t": "rowid, k, up"}
State = dict[tuple[str, object], tuple[object, ...]]


class Unsound(Exception):
    pass


def statement(draw: random.Random) -> str:
    def number() -> str:
        return draw.choice(["1", "2", "3", "4", "5", "NULL"])

    def code() -> str:
        return draw.choice(["'x'", "'X'", "'y'", "'z'", "NULL"])

    def key() -> str:
        return draw.choice(["'1'", "'2'", "'3'", "'01'", "'a'"])

    table = draw.choice("pwcttc")
    act = draw.choice(["INSERT", "INSERT", "REPLACE", "DELETE", "UPDATE"])
    row, change = {
        "p": (f"{number()}, {code()}, {number()}", draw.choice([f"code = {code()}", f"up = {number()}"])),
        "w": (f"{number()}, {code()}, {number()}", f"n = {number()}"),
        "c": (
            f"{number()}, {number()}, {code()}, {number()}, {code()}",
            draw.choice([f"p = {number()}", f"code = {code()}", f"a = {number()}, b = {code()}"]),
        ),
        "t": (f"{number()}, {key()}, {number()}", draw.choice([f"k = {key()}", f"up = {number()}"])),
    }[table]
    if act in ("INSERT", "REPLACE"):
        return f"{act} INTO {table}({COLUMNS[table]}) VALUES ({row})"
    where = f"a = {number()}" if table == "w" else f"rowid = {number()}"
    return f"DELETE FROM {table} WHERE {where}" if act == "DELETE" else f"UPDATE {table} SET {change} WHERE {where}"


def live_on(path: Path, draw: random.Random, steps: int) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA foreign_keys = ON").fetchall()
        for _ in range(steps):
            # REPLACE in a table that refers to itself can leave a key broken, with foreign keys on.
            with contextlib.suppress(apsw.ConstraintError, Unsound), db:
                db.execute(statement(draw))
                if db.execute("PRAGMA foreign_key_check").fetchall():
                    raise Unsound


def state_of(db: apsw.Connection) -> State:
    return {
        (table, key): tuple(row)
        for table in TABLES
        for key, *row in db.execute(f"SELECT {KEYS[table]}, {COLUMNS[table]} FROM {table}")
    }


def state_in(path: Path) -> State:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        return state_of(db)


def is_sound(state: State, *, with_keys: bool = True) -> bool:
    with contextlib.closing(apsw.Connection(":memory:")) as db:
        for text in TABLES.values():
            db.execute(text)
        try:
            for (table, _), row in state.items():
                db.execute(f"INSERT INTO {table}({COLUMNS[table]}) VALUES ({', '.join('?' * len(row))})", row)
        except apsw.ConstraintError:
            return False
        return not (with_keys and db.execute("PRAGMA foreign_key_check").fetchall())


def with_rows(state: State, wanted: State, keys: set[tuple[str, object]]) -> State:
    kept = {key: row for key, row in state.items() if key not in keys}
    return kept | {key: wanted[key] for key in keys if key in wanted}


@pytest.mark.parametrize("seed", range(120))
def test_undo_takes_as_much_back_as_keys_allow_when_rows_refer_to_each_other(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    a, b, live = (tmp_path / f"{name}.db" for name in ("a", "b", "live"))
    with contextlib.closing(apsw.Connection(str(a))) as db:
        for text in TABLES.values():
            db.execute(text)
    live_on(a, draw, 40)
    shutil.copy(a, b)
    live_on(b, draw, 20)
    shutil.copy(b, live)
    live_on(live, draw, draw.choice([0, 4, 12]))
    was, had, has = map(state_in, (a, b, live))
    changed = {key for key in was.keys() | had.keys() if was.get(key) != had.get(key)}
    open_to = {key for key in changed if has.get(key) == had.get(key)}
    text, _, _ = script_of(a, b)
    said = run_here(live, text)
    got = state_in(live)
    if said is None:
        # Refused as a whole: only where a unique value was taken meanwhile by a row that isn't the script's.
        assert got == has
        assert not is_sound(with_rows(has, was, open_to), with_keys=False)
        return
    assert is_sound(got), text
    taken = {key for key in open_to if got.get(key) == was.get(key)}
    assert got == with_rows(has, was, taken), text
    assert sum(line.startswith("conflict") for line in said) == len(changed) - len(taken)
    left = sorted(open_to - taken, key=repr)[:8]
    for size in range(1, len(left) + 1):
        for more in itertools.combinations(left, size):
            assert not is_sound(with_rows(has, was, taken | set(more))), (more, said, text)


@pytest.fixture
def accident(tmp_path: Path) -> Place:
    """Five customers went by mistake, with their orders, while another came; he ordered something since."""
    made = Place(tmp_path)
    made.write(
        "CREATE TABLE c(id INTEGER PRIMARY KEY, n TEXT UNIQUE)",
        "CREATE TABLE o(id INTEGER PRIMARY KEY, c INTEGER REFERENCES c ON DELETE CASCADE)",
        *(f"INSERT INTO c VALUES ({n}, 'n{n}')" for n in range(1, 10)),
        "INSERT INTO o SELECT id, id FROM c",
    )
    made.pulled()
    made.good("source", "point", made.db, "--label", "one")
    made.write(
        "PRAGMA foreign_keys = ON",
        "INSERT INTO c VALUES (50, 'good')",
        "UPDATE c SET n = 'other' WHERE id = 1",
        "DELETE FROM c WHERE id BETWEEN 3 AND 7",
    )
    made.good("source", "point", made.db, "--label", "two")
    made.good("pull")
    made.write("PRAGMA foreign_keys = ON", "INSERT INTO o VALUES (60, 50)")
    return made


def test_undo_takes_the_rest_back_when_a_row_that_came_is_referred_to_by_now(accident: Place) -> None:
    said = run(accident.db, undo(accident))
    assert said.splitlines() == [
        "conflict, left alone: c id=50 (a row of o that stays refers to it)",
        "11 rows taken back, 1 left alone",
    ]
    assert [row[0] for row in rows(accident, "c")] == [*range(1, 10), 50]
    assert rows(accident, "o") == [*((n, n) for n in range(1, 10)), (60, 50)]


def test_undo_leaves_a_row_away_when_its_parent_is_not_there(accident: Place) -> None:
    said = run(accident.db, undo(accident, "--table", "o"))
    assert said.splitlines()[0] == "conflict, left alone: o id=3 (the row of c that it refers to is not there)"
    assert said.splitlines()[-1] == "0 rows taken back, 5 left alone"


def test_undo_names_rows_and_changes_nothing_when_keys_would_be_broken_all_the_same(accident: Place) -> None:
    # The parent can't come back: its name was taken, which is seen only when it is tried.
    accident.write("INSERT INTO c VALUES (70, 'n5')")
    before = rows(accident, "c"), rows(accident, "o")
    done = subprocess.run(["sqlite3", accident.db], input=undo(accident).encode(), capture_output=True, check=False)
    assert done.returncode == 1
    assert b"foreign keys would be broken, nothing was changed" in done.stderr
    assert done.stdout == b"would be broken: the row with rowid 5 of o refers to a row of c that is not there\n"
    assert (rows(accident, "c"), rows(accident, "o")) == before


def test_undo_brings_back_what_was_deleted_and_no_more_when_it_is_asked_only_for_that(accident: Place) -> None:
    said = run(accident.db, undo(accident, "--only", "removed"))
    assert said == "10 rows taken back, 0 left alone\n"
    assert rows(accident, "c")[0] == (1, "other")
    assert (50, "good") in rows(accident, "c")
    for words, why in (
        (("--only", "added", "--only", "changed"), "no row was added or changed between A and B"),
        (("--only", "added", "--key", "3"), "no row 3 of o differs between A and B by being added"),
    ):
        done = accident.run("undo", "shop", "label:one", "label:two", "--table", "o", *words)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
