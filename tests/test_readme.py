"""The README, typed: each of its commands is run in its order, and what it shows is what is said.

    block of commands      run with bash, one after the other, in one folder with a source and a job
    "$ command" and lines  run; the lines are what it printed, times aside
    TOML, Python           loaded, run

A command that no test can type here stands in ELSEWHERE with the reason; one that is gone from the README must go there too.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from typed import Person, blocks_of, commands_of

from rollrep.jobs.config import load_config

BLOCKS = blocks_of("README.md")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

ELSEWHERE = {
    "make demo": "a door: CI goes through it",
    "make test": "a door: CI goes through it",
    "python3 -m venv ~/rollrep && ~/rollrep/bin/pip install .": "asks a package index; CI's `make` does the same",
    "export PATH=~/rollrep/bin:$PATH": "the tests have it in their PATH",
    "* * * * *  ~/rollrep/bin/rollrep -c ~/rollrep.toml pull": "a line for cron",
}
STORY = (
    ("UPDATE account SET balance = 0 WHERE id = 1", "UPDATE account SET balance = 1.0 WHERE id = 2",
     "DELETE FROM account WHERE id = 3", "INSERT INTO account VALUES (9, 'it''s', x'00ff')",
     "INSERT INTO _rollrep_point(label) VALUES ('two')"),
    ("UPDATE account SET balance = 7 WHERE id = 2", "REPLACE INTO account VALUES (8, 'ann', 5)"),
)  # fmt: skip


TYPED = [each for kind, block in BLOCKS if kind in ("sh", "") for each in commands_of(block)]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Person:
    return Person(tmp_path_factory.mktemp("person"))


def test_every_command_of_the_readme_does_what_it_shows_when_typed_in_its_order(person: Person) -> None:
    assert {command for command, _ in TYPED} >= ELSEWHERE.keys()
    for command, shown in TYPED:
        if command in ELSEWHERE:
            continue
        if command.startswith("rollrep points"):
            live(person)
        said = person.type(command).rstrip("\n")
        if shown is not None:
            assert TIME.sub("TIME", said) == TIME.sub("TIME", shown), command


def live(person: Person) -> None:
    """What the README's application did between the first pull and the day it is needed."""
    person.type("rollrep source point app.db --label one")
    for statements in STORY:
        person.write(*statements)
    person.type("rollrep pull && rollrep source point app.db --label before-deploy && rollrep pull")


def test_configuration_of_the_readme_is_taken_with_its_rehearsals(tmp_path: Path) -> None:
    rehearsals, whole = (block for kind, block in BLOCKS if kind == "toml")
    path = tmp_path / "rollrep.toml"
    path.write_text(whole + rehearsals)
    assert list(load_config(path).jobs) == ["shop"]


def test_python_of_the_readme_writes_a_point_when_run(person: Person) -> None:
    [code] = (block for kind, block in BLOCKS if kind == "python")
    person.type("rollrep source install app.db")
    connection = sqlite3.connect(person.db)
    exec(code.replace("SET ...", "SET n = 1"), {"connection": connection})
    labels = connection.execute("SELECT label FROM _rollrep_point ORDER BY id DESC").fetchall()
    connection.close()
    assert labels[0] == ("invoices closed",)
