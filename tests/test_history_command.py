"""`rollrep history` as a person meets it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_cli import Place, only_object, refusal

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.write(
        "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, balance)",
        "CREATE TABLE pair(a TEXT, b INT, v, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "CREATE TABLE mail(address TEXT PRIMARY KEY, n)",
        "INSERT INTO account VALUES (7, 'ann', 100)",
        "INSERT INTO pair VALUES ('x', 1, x'00')",
        "INSERT INTO mail VALUES ('a@x', 1)",
    )
    made.pulled()
    for n in range(2):
        made.write(f"UPDATE account SET balance = {n}", f"UPDATE pair SET v = 'w{n}'", "UPDATE mail SET n = n + 1")
        made.good("source", "point", made.db, "--label", f"after {n}")
    made.good("pull")
    # The row 7 goes unseen: no trigger fires for what a REPLACE removes.
    made.write("INSERT OR REPLACE INTO account VALUES (8, 'ann', 5)")
    made.good("pull")
    made.write("INSERT INTO account VALUES (7, 'ben', NULL)")
    made.good("pull")
    # The index of keys is there.
    assert made.run("history", "shop", "account", "7").returncode == 0
    return made


def history(place: Place, *arguments: object) -> list[str]:
    done = place.run("history", "shop", *arguments)
    assert done.returncode == 0, done.stderr
    return [" ".join(TIME.sub("TIME", line).split()) for line in done.stdout.splitlines()]


def test_history_shows_what_changed_when_a_row_was_replaced_and_came_again(place: Place) -> None:
    assert history(place, "ACCOUNT", "7") == [
        "LOG ID TIME POINT WHAT",
        "1 TIME 1 found id=7, owner='ann', balance=100",
        "2 TIME 2 after 0 updated balance 100 → 0",
        "6 TIME 3 after 1 updated balance 0 → 1",
        "11 TIME 4 replaced by the row with id=8",
        "12 TIME 5 inserted id=7, owner='ben', balance=NULL",
    ]


def test_history_finds_the_row_when_its_key_is_written_in_any_way(place: Place) -> None:
    found = history(place, "mail", "a@x")
    assert (
        found
        == history(place, "mail", "rowid=1")
        == history(place, "mail", "n=3")
        == history(place, "mail", "ADDRESS=a@x")
    )
    assert found[-1].endswith("after 1 updated n 2 → 3")
    pair = history(place, "pair", "x", "1")
    assert pair == history(place, "pair", "b=1", "a=x")
    assert pair[1:3] == ["1 TIME 1 found a='x', b=1, v=x'00'", "3 TIME 2 after 0 updated v x'00' → 'w0'"]


def test_history_is_cut_when_a_part_of_it_is_asked_for(place: Place) -> None:
    assert history(place, "account", "7", "--since", "label:after 1", "--until", "point:4")[1:] == [
        "6 TIME 3 after 1 updated id=7, owner='ann', balance=1",
        "11 TIME 4 replaced by the row with id=8",
    ]
    assert [line.split()[0] for line in history(place, "account", "7", "--limit", "2")] == ["LOG", "11", "12"]


def test_history_is_one_object_when_json_is_asked_for(place: Place) -> None:
    told = only_object(place.run("history", "shop", "account", "7", "--json").stdout)
    assert told["schema"] == "rollrep.history/1"
    assert [each["what"] for each in told["versions"]] == ["found", "updated", "updated", "replaced", "inserted"]
    assert told["versions"][1]["row"] == {"id": 7, "owner": "ann", "balance": 0}
    assert told["versions"][1]["changed"] == ["balance"]


def test_hole_and_line_are_named_when_the_log_was_lost(place: Place) -> None:
    place.good("source", "uninstall", place.db)
    place.write("UPDATE account SET balance = 99 WHERE id = 7")
    place.good("source", "install", place.db)
    assert place.run("mirror", "shop", "--accept-source").returncode == 0
    found = history(place, "account", "7")
    assert found[1] == "line 1"
    assert found[-2] == "line 2"
    assert found[-1].endswith("found id=7, owner='ben', balance=99")
    place.write("ALTER TABLE account ADD COLUMN note")
    place.write("UPDATE account SET note = 'x' WHERE id = 7")
    place.good("pull")
    [hole] = [line for line in history(place, "account", "7") if " hole " in line]
    assert "schema: what happened between log ids" in hole
    assert history(place, "account", "7")[-1].endswith("note='x'")


REFUSED = [
    (("acount", "7"), 2, "in all that is known there is no table acount", "did you mean account?"),
    (("account", "x"), 2, "'x' is no id of account", "whole number"),
    (("account", "77"), 17, "no row 77 of account", "rollrep query shop"),
    (("pair", "x"), 2, "1 of the 2 values", "a=... b=..."),
    (("mail", "zz"), 2, "no row of mail is so", "SELECT rowid FROM mail"),
]


def test_history_refuses_when_there_is_no_such_row(place: Place) -> None:
    for arguments, code, facts, remedy in REFUSED:
        assert remedy in refusal(place, code, ("history", "shop", *arguments), facts)


def test_history_refuses_when_a_segment_is_damaged(place: Place) -> None:
    segment = sorted((place.store / "shop" / "archive").rglob("*.segment"))[-1]
    data = bytearray(segment.read_bytes())
    data[40] ^= 1
    segment.write_bytes(data)
    refusal(place, 16, ("history", "shop", "account", "7"), "is damaged")
