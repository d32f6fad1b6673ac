"""The other pages, typed: what they show is run, and every command that they name is one, with these options.

The README is `test_readme`'s, docs/errors.md and docs/faults.md are `test_pages`'s.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sqlite3
from pathlib import Path

import click
import pytest
from typed import ROOT, Person, blocks_of

from rollrep.cli.main import cli

PAGES = ["README.md", "SECURITY.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
SHOWN = {
    "docs/points.md": ["sql", "python", "python", "js", "sh", "python", "toml"],
    "docs/architecture.md": ["", "", ""],
    "docs/collations.md": ["python", "toml"],
}
"""the blocks of each page: those of points.md are run below, all but the js, which `test_applications` runs as a real
program; those of architecture.md are drawings, and `test_collations` installs a plugin like that of collations.md"""


def test_no_page_shows_what_no_test_runs() -> None:
    found = {page: [kind for kind, _ in blocks_of(page)] for page in PAGES if page != "README.md"}
    assert {page: kinds for page, kinds in found.items() if kinds} == SHOWN
    assert not [text for _, text in blocks_of("docs/architecture.md") if "$ " in text or "rollrep " in text]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    made = Person(tmp_path)
    made.environment["PYTHONPATH"] = str(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.executescript("CREATE TABLE invoice(month, state); INSERT INTO invoice VALUES ('2026-10', 'open')")
    return made


def points(person: Person) -> list[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(person.folder / "shop.db")) as db:
        return db.execute("SELECT kind, label FROM _rollrep_point WHERE label IS NOT NULL ORDER BY id").fetchall()


def test_points_are_written_as_the_page_shows_when_it_is_typed(person: Person) -> None:
    (_, sql), (_, first), (_, second), _, (_, shell), (_, plugin), (_, declared) = blocks_of("docs/points.md")
    with contextlib.closing(sqlite3.connect(person.folder / "shop.db")) as db:
        with pytest.raises(sqlite3.OperationalError, match="no such table: _rollrep_point"):
            db.execute(sql)
        person.type("rollrep source install shop.db")
        with db:
            db.execute(sql)
    (person.folder / "closing.py").write_text(first + second)
    person.type("python closing.py")
    person.type(shell)
    assert points(person) == [("application", "invoices closed")] * 3 + [("application", "before the clean-up")]

    (person.folder / "app_freeze.py").write_text(f"{plugin}\n\ndef send(word, timeout=0):\n    print(word)\n")
    [group, entry] = declared.splitlines()
    installed = person.folder / "app_freeze-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: app_freeze\nVersion: 1\n")
    name, value = re.fullmatch(r'(\w+) = "(\w+)" *(?:#.*)?', entry).groups()  # type: ignore[union-attr]
    assert group.startswith("[project.entry-points.rollrep]")
    (installed / "entry_points.txt").write_text(f"[rollrep]\n{name} = {value}\n")
    [command] = re.findall(r"`(rollrep source point shop\.db [^`]*)`", (ROOT / "docs/points.md").read_text())
    said = person.type(command)
    assert "freeze\n" in said and "go on\n" in said
    assert points(person)[-1] == ("plugin", "before deploy")


def named_in(page: str) -> list[str]:
    """The commands inside the sentences of a page."""
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(rollrep [a-z][^`]*)`", text.replace("\n", " "))


@pytest.mark.parametrize("page", PAGES)
def test_commands_a_page_names_are_commands_with_these_options(page: str) -> None:
    for text in named_in(page):
        _, *words = shlex.split(text.partition(" -- ")[0])
        command: click.Command = cli
        while isinstance(command, click.Group) and words:
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None, text
            command = found
        known = {each for parameter in command.params for each in parameter.opts}
        assert {each.partition("=")[0] for each in words if each.startswith("-")} <= known, text
