"""The pages that speak of what holds: each name of a test and of a file on them is there, and no row is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import errors_page
import pytest
from sim_faults import INJECTIONS

from rollrep.core.errors import ALL_ERRORS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["SECURITY.md", "docs/errors.md", "docs/dependencies.md", "docs/faults.md"]
TESTS = {
    node.name
    for path in [*(ROOT / "tests").glob("test_*.py"), *(ROOT / "plugins").glob("*/tests/test_*.py")]
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
}
THROUGH_THE_COMMAND = ("run(", "refusal(", "good(", "on_small_disk(")
"""how a test of the command line types one"""


def rows(page: str) -> list[list[str]]:
    """The cells of every table row of a page, heads left out."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_page_speaks_of_tests_and_files_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text)) - {"test_pages"}
    assert named - TESTS == set()
    paths = set(re.findall(r"`((?:rollrep|tests|fixtures|plugins|docs|bench)/[\w./-]*)`", text))
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []
    links = set(re.findall(r"\]\(([\w./-]+)\)", text))
    assert sorted(link for link in links if not ((ROOT / page).parent / link).exists()) == []


def test_page_of_errors_is_what_the_code_says() -> None:
    assert errors_page.PAGE.read_text() == errors_page.page(), "write it: python fixtures/errors_page.py"
    assert {kind.__name__ for kind in ALL_ERRORS} == errors_page.TOLD.keys()


@pytest.mark.parametrize("kind", ALL_ERRORS, ids=lambda kind: kind.__name__)
def test_error_is_raised_through_the_command_with_its_exit_code(kind: type) -> None:
    """The named test types a command and expects this very code; that it does so is that test's own matter."""
    name = errors_page.TOLD[kind.__name__].test
    [source] = [
        ast.get_source_segment(path.read_text(), node) or ""
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    assert any(word in source for word in THROUGH_THE_COMMAND)
    assert re.search(rf"\b{kind.exit_code}\b", source), f"{name} does not speak of exit code {kind.exit_code}"


def test_every_dependency_has_a_row_and_nothing_else_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["dependency-groups"].values()]
    wanted = {re.split(r"[<>=!~\[; ]", each)[0] for group in groups for each in group}
    found = [cells[0].strip("`") for cells in rows("docs/dependencies.md") if cells[0].startswith("`")]
    assert sorted(found) == sorted(wanted)
    assert all(len(cells) == 5 and all(cells) for cells in rows("docs/dependencies.md"))


def test_every_fault_has_a_row_with_its_test() -> None:
    found = [cells for cells in rows("docs/faults.md") if re.fullmatch(r"X\d+", cells[0])]
    assert [cells[0] for cells in found] == [f"X{number}" for number in range(1, 41)]
    for cells in found:
        assert len(cells) == 5 and all(cells), cells
        assert re.search(r"`test_\w+`", cells[3]) or f"**{cells[0]}" in (ROOT / "docs/faults.md").read_text(), cells


def test_every_injection_of_the_simulation_is_on_the_page_with_its_faults() -> None:
    found = {cells[0].strip("`"): cells[1:3] for cells in rows("docs/faults.md") if cells[0].strip("`") in INJECTIONS}
    wanted = {each.name: [" ".join(each.faults) or "-", each.how] for each in INJECTIONS.values()}
    assert found == wanted, "write it: python fixtures/faults_page.py FILE, of make sim ARGS='--told FILE'"
