"""`rollrep diff` as a person meets it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source, recompute
from test_cli import Place, only_object, refusal

SCHEMA = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, balance)",
    "CREATE TABLE plain(a, b)",
    "CREATE TABLE seen(at INTEGER PRIMARY KEY AUTOINCREMENT, what)",
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A source with the points `one` and `two`."""
    made = Place(tmp_path)
    made.write(*SCHEMA, "INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 1), (3, 'cy', NULL)")
    made.pulled()
    made.good("source", "point", made.db, "--label", "one")
    made.write(
        "UPDATE account SET balance = 1.0 WHERE id = 2",
        "UPDATE account SET owner = 'zed' WHERE id = 1",
        "DELETE FROM account WHERE id = 3",
        "INSERT INTO account VALUES (9, 'it''s', x'00ff')",
        "INSERT INTO plain VALUES (1, 2)",
        "INSERT INTO seen(what) VALUES ('x')",
    )
    made.good("source", "point", made.db, "--label", "two")
    made.good("pull")
    return made


def diff(place: Place, *arguments: object, code: int = 0) -> str:
    done = place.run("diff", "shop", *arguments)
    assert done.returncode == code, done.stderr
    return done.stdout


def restored(place: Place, label: str) -> Path:
    output = place.folder / f"{label}.db"
    assert place.run("restore", "shop", "--at", f"label:{label}", "-o", output, "--force").returncode == 0
    return output


def test_diff_counts_rows_when_nothing_else_is_asked(place: Place) -> None:
    assert diff(place, "label:one", "label:two").splitlines() == [
        "sqlite_sequence: seen none → 1",
        "account: 1 added, 1 removed, 2 changed",
        "plain: 1 added",
        "seen: 1 added",
    ]
    assert diff(place, "label:one", "label:one") == "nothing differs\n"


def test_diff_tells_rows_when_they_are_asked_for(place: Place) -> None:
    assert diff(place, "label:one", "label:two", "--rows", "--table", "ACCOUNT").splitlines() == [
        "account: 1 added, 1 removed, 2 changed",
        "  ~ id=1: owner 'ann' → 'zed'",
        "  ~ id=2: balance 1 → 1.0",
        "  - id=3: owner='cy', balance=NULL",
        "  + id=9: owner='it''s', balance=x'00ff'",
    ]
    told = only_object(diff(place, "label:one", "label:two", "--rows", "--table", "account", "--json"))
    assert (told["schema"], told["objects"]) == ("rollrep.diff/1", [])
    assert told["tables"][0]["rows"][3] == {
        "kind": "added",
        "key": {"id": 9},
        "before": None,
        "after": {"id": 9, "owner": "it's", "balance": {"blob": "00ff"}},
        "changed": ["id", "owner", "balance"],
    }


def test_sql_of_diff_makes_the_one_the_other_when_a_shell_runs_it(place: Place) -> None:
    one, two = restored(place, "one"), restored(place, "two")
    text = diff(place, "label:one", "label:two", "--sql")
    assert only_object(diff(place, "label:one", "label:two", "--sql", "--json"))["sql"] in text
    subprocess.run(["sqlite3", "-bail", one], input=text.encode(), check=True)
    oracle.assert_same(one, two)
    back = diff(place, "label:two", "label:one", "--sql")
    subprocess.run(["sqlite3", "-bail", one], input=back.encode(), check=True)
    oracle.assert_same(one, restored(place, "one"))


def test_changeset_is_written_and_what_it_lacks_is_named_when_a_table_has_no_key(place: Place) -> None:
    output = place.folder / "shop.changeset"
    assert diff(place, "label:one", "label:two", "--changeset", output, "-n") == diff(place, "label:one", "label:two")
    assert not output.exists()
    done = place.run("diff", "shop", "label:one", "label:two", "--changeset", output)
    assert done.returncode == 3
    assert "shop: plain is not in the changeset: it has no PRIMARY KEY" in done.stderr
    one = restored(place, "one")
    with contextlib.closing(apsw.Connection(str(one))) as db:
        apsw.Changeset.apply(output.read_bytes(), db)
        db.execute("INSERT INTO plain VALUES (1, 2)")
    oracle.assert_same(one, restored(place, "two"))
    refusal(place, 2, ("diff", "shop", "label:one", "label:two", "--changeset", output), "exists already")
    told = json.loads(diff(place, "label:one", "label:two", "--changeset", output, "--force", "--json", code=3))
    assert told["left_out"] == {"plain": "it has no PRIMARY KEY"}


def test_diff_takes_a_file_when_the_application_has_it_open(place: Place) -> None:
    with contextlib.closing(apsw.Connection(str(place.db))) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("UPDATE account SET balance = 5 WHERE id = 9")
        assert diff(place, "label:two", f"file:{place.db}", "--rows").splitlines() == [
            "account: 1 changed",
            "  ~ id=9: balance x'00ff' → 5",
        ]
        assert diff(place, f"file:{place.db}", f"file:{place.db}") == "nothing differs\n"


def test_schema_is_told_first_when_it_is_another(place: Place) -> None:
    place.write("ALTER TABLE plain ADD COLUMN c DEFAULT 7", "CREATE INDEX by_a ON plain(a)")
    place.good("pull")
    text = diff(place, "label:two", "latest", "--rows")
    assert text.splitlines() == [
        "schema: table plain changed",
        "schema: index by_a added",
        "plain: 1 changed",
        "  ~ rowid=1: c (no such column) → 7",
    ]
    two = restored(place, "two")
    subprocess.run(["sqlite3", "-bail", two], input=diff(place, "label:two", "latest", "--sql").encode(), check=True)
    latest = place.folder / "latest.db"
    assert place.run("restore", "shop", "-o", latest).returncode == 0
    oracle.assert_same(two, latest)


REFUSED = [
    (("label:one", "label:two", "-t", "acount"), 2, "a table acount", "did you mean account?"),
    (("label:none", "latest"), 17, "label 'none'", "rollrep points shop"),
    (("latest", "file:nothing.db"), 2, "no file nothing.db", "file:PATH"),
    (("latest", "file:rollrep.toml"), 2, "no sound SQLite database", "an SQLite database"),
    (("17", "latest"), 2, "many things", "point:17"),
]


def test_diff_refuses_when_it_is_asked_for_what_is_not_there(place: Place) -> None:
    for arguments, code, facts, remedy in REFUSED:
        done = place.run("diff", "shop", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        *_, said, following = done.stderr.splitlines()
        assert facts in said and remedy in following


def test_virtual_table_is_named_when_a_file_has_one(place: Place) -> None:
    with contextlib.closing(apsw.Connection(str(place.folder / "fts.db"))) as db:
        db.execute("CREATE VIRTUAL TABLE search USING fts5(a); INSERT INTO search VALUES ('x'); CREATE TABLE t(a)")
    done = place.run("diff", "file:fts.db", "file:fts.db")
    assert done.returncode == 2
    done = place.run("diff", "shop", "file:fts.db", "file:fts.db", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["not_compared"] == {"search": "it is a virtual table"}
    assert json.loads(done.stdout)["tables"] == []
    done = place.run("diff", "shop", "file:fts.db", "label:one", "--sql", "--table", "account")
    assert (done.returncode, "search" in done.stdout) == (0, False)


def test_diff_leaves_no_file_behind_when_it_is_done(place: Place) -> None:
    diff(place, "label:one", f"file:{place.db}")
    names = place.names()
    for how in ("--summary", "--rows", "--sql"):
        diff(place, "label:one", f"file:{place.db}", how)
    assert place.names() == names


def test_diff_against_the_source_leads_to_it_when_it_was_not_pulled_yet(place: Place) -> None:
    before = restored(place, "one")
    place.write("DELETE FROM account WHERE id = 2", "INSERT INTO account VALUES (10, 'new', -0.5)")
    told = json.loads(diff(place, "label:one", "source", "--json"))
    assert told["b"]["point"] == json.loads(place.good("points", "shop", "--json").stdout)["points"][-1]["point"]
    script = diff(place, "label:one", "source", "--sql")
    with contextlib.closing(apsw.Connection(str(before))) as db:
        db.execute(script).fetchall()
    copy = place.folder / "source.db"
    copy_source(place.db, copy)
    recompute(copy)
    oracle.assert_same(copy, before)
    assert diff(place, "source", "latest") == "nothing differs\n"


def test_diff_against_the_source_ends_as_a_pull_does_when_there_is_none(place: Place) -> None:
    place.db.rename(place.folder / "away.db")
    done = place.run("diff", "shop", "label:one", "source")
    assert done.returncode == place.run("pull", "shop").returncode != 0
    assert "next: " in done.stderr and done.stdout == ""
