"""The README, typed: each of its commands is run in its order, and what it shows is what is said.

    block of commands      run with bash, one after the other, in one folder with a source and a job
    "$ command" and lines  run; the lines are what it printed, times aside
    TOML, Python           loaded, run

A command that no test can type here stands in ELSEWHERE with the reason; one that is gone from the README must go there too.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rollrep.jobs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

ELSEWHERE = {
    "make demo": "a door: CI goes through it",
    "make test": "a door: CI goes through it",
    "python3 -m venv ~/rollrep && ~/rollrep/bin/pip install .": "asks a package index; CI's `make` does the same",
    "export PATH=~/rollrep/bin:$PATH": "the tests have it in their PATH",
    "* * * * *  ~/rollrep/bin/rollrep -c ~/rollrep.toml pull": "a line for cron",
}
TOO_YOUNG = ("--at '2h ago'", "--at yesterday", "--at 'yesterday 14:30'")
"""a store of a few seconds has nothing of then, and must say so: exit code 17"""

STORY = (
    ("UPDATE account SET balance = 0 WHERE id = 1", "UPDATE account SET balance = 1.0 WHERE id = 2",
     "DELETE FROM account WHERE id = 3", "INSERT INTO account VALUES (9, 'it''s', x'00ff')",
     "INSERT INTO _rollrep_point(label) VALUES ('two')"),
    ("UPDATE account SET balance = 7 WHERE id = 2", "REPLACE INTO account VALUES (8, 'ann', 5)"),
)  # fmt: skip


class Person:
    """Types commands in a folder of their own; `sqlite3` is the shell inside apsw's wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "srv" / "app.db"
        self.db.parent.mkdir()
        with sqlite3.connect(self.db) as db:
            db.executescript(
                "PRAGMA journal_mode = WAL; CREATE TABLE account(id INTEGER PRIMARY KEY, owner UNIQUE, balance);"
                "CREATE TABLE invoices(id INTEGER PRIMARY KEY); CREATE TABLE stock(n);"
                "INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 1), (3, 'cy', NULL)"
            )
        (folder / "app.db").symlink_to(self.db)
        tools = folder / "bin"
        tools.mkdir()
        (tools / "sqlite3").write_text(f'#!/bin/sh\nexec {sys.executable} -m apsw "$@"\n')
        (tools / "sqlite3").chmod(0o700)
        (folder / ".ssh").mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLREP", "XDG", "SSH"))}
        path = f"{tools}:{Path(sys.executable).parent}:{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "HOME": str(folder), "TZ": "UTC"}

    def here(self, command: str) -> str:
        """The command with this place's names of machine and file in it."""
        command = re.sub(r"ssh://\S+ --remote-command '[^']*'", f"local:{self.db}", command)
        command = command.replace("/srv/shop/app.db", str(self.db)).replace(" rollrep.pub", " ~/.ssh/rollrep.pub")
        return command.replace("--output app.db", "--output newest.db") if "restore" in command else command

    def type(self, command: str) -> str:
        """What it printed to stdout.  It must end with 0."""
        done = subprocess.run(
            ["bash", "-c", self.here(command)], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        if "restore" in command:
            (self.folder / "then.db").unlink(missing_ok=True)
        if any(moment in command for moment in TOO_YOUNG):
            assert (done.returncode, "before the first point" in done.stderr) == (17, True), (command, done.stderr)
        else:
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def write(self, *statements: str) -> None:
        with sqlite3.connect(self.db) as db:
            for statement in statements:
                db.execute(statement)


def commands_of(block: str) -> list[tuple[str, str | None]]:
    """Each command of a block without its comment, and the lines that it shows; None where it shows none."""
    found: list[tuple[str, str | None]] = []
    shows = any(line.startswith("$ ") for line in block.splitlines())
    for line in block.splitlines():
        command = re.sub(r"\s+# .*", "", line.removeprefix("$ "))
        if shows and not line.startswith("$ "):
            before, said = found.pop()
            found.append((before, f"{said}{line}\n"))
        else:
            found.append((command, "" if shows else None))
    return [(command, said if said is None else said.rstrip("\n")) for command, said in found]


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
