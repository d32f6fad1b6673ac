"""The undo script, run by SQLite's shell: on the source as it was at B it gives A; what changed since is left alone."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from pathlib import Path

import apsw
import oracle
import pytest
from draws import SeededDraw, write
from test_cli import Place, only_object, refusal
from test_diff import make_pair

from rollrep.destination.differences import beside, compare
from rollrep.destination.undo import plan_undo, undo_script


def script_of(before: Path, after: Path) -> tuple[str, dict[str, str], tuple[str, ...]]:
    with beside(before, after) as db:
        found = compare(db)
        undo = plan_undo(db, found, lambda _table, _change: True)
        text = "\n".join([".bail on", *undo_script(db, found, undo, lambda _table, _change: True)])
    return text, undo.refused, undo.triggers


def drop_triggers(path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f'DROP TRIGGER "{name}"')


def run(db: Path, text: str) -> str:
    # The application's own foreign keys are on: the script must not let anything cascade.
    done = subprocess.run(
        ["sqlite3", "-cmd", "PRAGMA foreign_keys = ON", db], input=text.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def run_here(path: Path, text: str) -> list[str] | None:
    """What the script says, run by the SQLite that wrote the database; None where it stopped and changed nothing.

    An index on `a || 'x'` is not the same to SQLites that write reals with other digits.
    """
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("."))
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        db.execute("PRAGMA foreign_keys = ON").fetchall()
        try:
            return [str(said) for (said,) in db.execute(plain)]
        except apsw.ConstraintError as error:
            assert "nothing was changed" in str(error), error
            return None


@pytest.mark.parametrize("seed", range(24))
def test_undo_gives_back_the_first_when_nothing_happened_since(seed: int, tmp_path: Path) -> None:
    before, after = make_pair(tmp_path, seed + 3000, migrations=0)
    for path in (before, after):
        drop_triggers(path)
    text, refused, triggers = script_of(before, after)
    assert (refused, triggers) == ({}, ())
    said = run_here(after, text)
    assert said is not None and "conflict" not in "".join(said)
    left, right = oracle.dump(before), oracle.dump(after)
    assert left["tables"] == right["tables"], text


@pytest.mark.parametrize("seed", range(40))
def test_undo_leaves_alone_what_changed_since_when_it_is_run_later(seed: int, tmp_path: Path) -> None:
    before, after = make_pair(tmp_path, seed + 4000, migrations=0)
    live = tmp_path / "live.db"
    for path in (before, after):
        drop_triggers(path)
    shutil.copy(after, live)
    with contextlib.closing(apsw.Connection(str(live))) as db:
        write(db, SeededDraw(seed), 6)
    now = oracle.dump(live)["tables"]
    text, _, _ = script_of(before, after)
    said = run_here(live, text)
    found = oracle.dump(live)["tables"]
    if said is None:
        assert found == now
        return
    a, b = oracle.dump(before)["tables"], oracle.dump(after)["tables"]
    left_alone = 0
    for name, table in found.items():
        for key in a[name].rows.keys() | b[name].rows.keys() | now[name].rows.keys():
            was, had, has = (side[name].rows.get(key) for side in (a, b, now))
            got = table.rows.get(key)
            if was == had or has != had:
                assert got == has, (name, key, text)
                left_alone += was != had
            elif got != was:
                assert got == has, (name, key, text)
                left_alone += 1
    assert sum(line.startswith("conflict") for line in said) == left_alone


SCHEMA = (
    "CREATE TABLE owner(id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
    "CREATE TABLE account(id INTEGER PRIMARY KEY, owner INT REFERENCES owner ON DELETE CASCADE, balance)",
    "INSERT INTO owner VALUES (1, 'ann'), (2, 'bob'), (3, 'cy')",
    "INSERT INTO account VALUES (10, 1, 100), (20, 2, 200), (30, 3, 300)",
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Between `one` and `two` the wrong owner went, with his account; two others swapped their names."""
    made = Place(tmp_path)
    made.write(*SCHEMA)
    made.pulled()
    made.good("source", "point", made.db, "--label", "one")
    made.write(
        "PRAGMA foreign_keys = ON",
        "DELETE FROM owner WHERE id = 2",
        "UPDATE owner SET name = 'x' WHERE id = 1",
        "UPDATE owner SET name = 'ann' WHERE id = 3",
        "UPDATE owner SET name = 'cy' WHERE id = 1",
        "UPDATE account SET balance = 1 WHERE id = 10",
        "INSERT INTO account VALUES (40, 3, NULL)",
    )
    made.good("source", "point", made.db, "--label", "two")
    made.good("pull")
    return made


def undo(place: Place, *arguments: object) -> str:
    done = place.run("undo", "shop", "label:one", "label:two", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(place: Place, table: str) -> list[tuple[object, ...]]:
    with contextlib.closing(apsw.Connection(str(place.db))) as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_undo_takes_everything_back_on_the_live_source_and_is_recorded(place: Place) -> None:
    said = run(place.db, undo(place))
    assert said == "6 rows taken back, 0 left alone\n"
    assert rows(place, "owner") == [(1, "ann"), (2, "bob"), (3, "cy")]
    assert rows(place, "account") == [(10, 1, 100), (20, 2, 200), (30, 3, 300)]
    place.good("pull")
    place.assert_mirrored()


def test_undo_lists_conflicts_when_rows_changed_since(place: Place) -> None:
    place.write("UPDATE account SET balance = 5 WHERE id = 40", "UPDATE account SET balance = 1.0 WHERE id = 10")
    said = run(place.db, undo(place))
    assert said.splitlines() == [
        "conflict, left alone: account id=10 (it was changed since B)",
        "conflict, left alone: account id=40 (it was changed since B)",
        "4 rows taken back, 2 left alone",
    ]
    assert rows(place, "account") == [(10, 1, 1.0), (20, 2, 200), (30, 3, 300), (40, 3, 5)]


def test_undo_lists_a_conflict_when_a_unique_value_is_taken_since(place: Place) -> None:
    place.write("INSERT INTO owner VALUES (9, 'bob')")
    said = run(place.db, undo(place, "--table", "owner"))
    assert said.splitlines()[0].startswith("conflict, left alone: owner id=2 (another row has a value of it")
    assert rows(place, "owner") == [(1, "ann"), (3, "cy"), (9, "bob")]


def test_undo_takes_one_row_back_when_its_key_is_given(place: Place) -> None:
    run(place.db, undo(place, "--table", "account", "--key", "10"))
    assert rows(place, "account") == [(10, 1, 100), (30, 3, 300), (40, 3, None)]
    sentence_of = place.run("undo", "shop", "label:one", "label:two", "--table", "account", "--key", "30")
    assert sentence_of.returncode == 2
    assert "no row 30 of account differs" in sentence_of.stderr
    refusal(place, 2, ("undo", "shop", "label:one", "label:two", "--key", "30"), "--key is of one table")


def test_undo_writes_a_file_when_it_is_asked_to(place: Place) -> None:
    output = place.folder / "undo.sql"
    said = undo(place, "--output", output)
    assert said == f"{output}: takes 6 rows back; read it, then: sqlite3 app.db < {output}\n"
    refusal(place, 2, ("undo", "shop", "label:one", "label:two", "-o", output), "exists already")
    other = place.folder / "other.sql"
    assert undo(place, "-n", "-o", other) == "would take 6 rows back, of owner, account\n"
    assert not other.exists()
    told = only_object(undo(place, "--json"))
    assert (told["rows"], told["refused"], told["tables"]) == (6, {}, ["owner", "account"])
    assert told["sql"] + "\n" == output.read_text()


def test_undo_refuses_a_table_when_it_is_another(place: Place) -> None:
    place.write("ALTER TABLE owner ADD COLUMN note", "UPDATE account SET balance = 7 WHERE id = 30")
    place.good("pull")
    done = place.run("undo", "shop", "label:two", "latest")
    assert done.returncode == 3
    assert "owner is not taken back: the table is another" in done.stderr
    assert "account" in done.stdout and "UPDATE OR IGNORE" in done.stdout
    only = place.run("undo", "shop", "label:two", "latest", "--table", "owner")
    assert only.returncode == 15


def test_nothing_is_to_take_back_when_both_are_one_state_with_a_virtual_table(place: Place) -> None:
    place.write("CREATE VIRTUAL TABLE search USING fts5(a)", "INSERT INTO search VALUES ('x')")
    place.good("pull")
    done = place.run("undo", "shop", "latest", "latest", "-n")
    assert (done.returncode, done.stdout) == (0, "nothing to take back\n"), done.stderr
    done = place.run("undo", "shop", "latest", "latest")
    assert done.returncode == 0 and "-- Nothing differs." in done.stdout
    done = place.run("diff", "shop", "latest", "latest")
    assert (done.returncode, done.stdout) == (0, "nothing differs\n")


def test_undo_ends_as_diff_does_when_only_a_virtual_table_may_differ(place: Place) -> None:
    place.write("CREATE VIRTUAL TABLE search USING fts5(a)", "INSERT INTO search VALUES ('x')")
    place.good("pull")
    place.write("INSERT INTO search VALUES ('y')")
    place.good("source", "point", place.db, "--label", "three")
    place.good("pull")
    points = place.told("points", "shop")["points"]
    [before] = [one for one, each in itertools.pairwise(points) if each["label"] == "three"]
    between = (f"point:{before['point']}", "label:three")
    diff = place.run("diff", "shop", *between)
    assert (diff.returncode, diff.stdout) == (3, "nothing that was compared differs\n"), diff.stderr
    whole = place.run("undo", "shop", *between)
    assert whole.returncode == 3
    assert "search is not taken back: it is a virtual table" in whole.stderr
    assert whole.stdout.endswith("-- Nothing that was compared differs.\n")
    tried = place.run("undo", "shop", *between, "-n")
    assert (tried.returncode, tried.stdout) == (3, "nothing to take back\n")
    assert place.run("undo", "shop", *between, "--only", "removed").returncode == 3
    assert place.run("undo", "shop", *between, "-t", "account", "-t", "search").returncode == 3
    # Nothing of what was asked for can be done.
    assert place.run("undo", "shop", *between, "--table", "SEARCH").returncode == 15
    assert place.run("undo", "shop", *between, "--table", "account").returncode == 0


def test_undo_names_triggers_when_they_will_fire(place: Place) -> None:
    place.write("CREATE TRIGGER seen AFTER UPDATE ON account BEGIN SELECT 1; END")
    place.good("pull")
    place.write("UPDATE account SET balance = 8")
    place.good("source", "point", place.db, "--label", "three")
    place.good("pull")
    done = place.run("undo", "shop", "point:4", "label:three")
    assert "will fire: seen" in done.stdout, done.stderr
