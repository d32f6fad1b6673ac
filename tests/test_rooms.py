"""The rooms and doors of docs/architecture.md, read from the page and held against the code.

    page:  | `wire` | `core` |          what a room may import of rollrep
    code:  rollrep/wire/session.py: from rollrep.core import errors      ✓

A door that the page does not know fails here, and so does a page that speaks of what is not there.  Imports
are read from the syntax tree, also those inside functions and under TYPE_CHECKING: nothing is run.

And what a reader may rely on: no very long file or function that is not listed, no test that is skipped.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CODE = sorted((ROOT / "rollrep").rglob("*.py"))
TESTS = sorted([*(ROOT / "tests").glob("*.py"), *(ROOT / "plugins").glob("*/tests/*.py")])
HELPERS = sorted([*(ROOT / "fixtures").glob("*.py"), *(ROOT / "plugins").glob("*/src/*.py")])

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
LONG = {
    "rollrep/wire/messages.py": "every message there is: what is said stands in one place, and most of it is docstrings",
    "fixtures/workload.py": "one class of random statements; it is read from top to bottom or not at all",
}
SKIPS = {
    "plugins/rollrep-ping/tests/test_ping.py: importorskip": "it runs without rollrep too; here rollrep is there",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    """`wire/session`, `hooks`; a package is its folder."""
    return path.relative_to(ROOT / "rollrep").with_suffix("").as_posix().removesuffix("/__init__")


def room_of(module: str) -> str:
    return module.partition("/")[0]


def table_under(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the page, each cell as its words in backticks."""
    section = re.split(r"^#+ ", PAGE.partition(f"{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows, f"docs/architecture.md has no table under {heading!r}"
    return [[" ".join(re.findall(r"`([^`]+)`", cell)) for cell in row.strip("|").split("|")] for row in rows]


DOORS = {room: set(doors.split()) for room, doors, *_ in table_under("### Rooms")}
LIBRARIES = {library: set(modules.split()) for library, modules, *_ in table_under("### Libraries")}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere in a file; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rooms_opened(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) for each import of rollrep in a file; the version's number is no room."""
    for line, name in imports(path):
        first, _, rest = name.partition(".")
        if first == "rollrep" and rest != "__version__":
            yield line, rest.partition(".")[0] or "rollrep"


def test_every_room_is_on_the_page() -> None:
    rooms = {room_of(module_of(path)) for path in CODE} - {"__init__"}
    assert rooms == set(DOORS)


@pytest.mark.parametrize("path", CODE, ids=module_of)
def test_module_opens_only_doors_the_page_knows(path: Path) -> None:
    room = room_of(module_of(path))
    allowed = {"app"} if room == "__init__" else DOORS[room] | {room}
    unknown = [f"{name_of(path)}:{line}: {door}" for line, door in rooms_opened(path) if door not in allowed]
    assert not unknown, "\n".join([*unknown, f"a door of {room} that docs/architecture.md does not know"])


def test_doors_of_the_page_form_no_circle() -> None:
    left = dict(DOORS)
    while free := [room for room, doors in left.items() if not doors & left.keys()]:
        for room in free:
            del left[room]
    assert not left, f"each of these opens another of them: {sorted(left)}"


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_library_stays_in_its_rooms(library: str) -> None:
    users = {module_of(path) for path in CODE if any(name.split(".")[0] == library for _, name in imports(path))}
    allowed = LIBRARIES[library]
    strangers = {module for module in users if module not in allowed and room_of(module) not in allowed}
    assert not strangers, f"{library} is imported where docs/architecture.md does not know it"
    unused = {entry for entry in allowed if not any(entry in (module, room_of(module)) for module in users)}
    assert not unused, f"docs/architecture.md lets {library} into rooms that do not use it"


def test_application_loads_nothing_but_the_standard_library() -> None:
    loads = "import sys, rollrep; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    shown = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(ROOT)!r}); {loads}"],
                           capture_output=True, text=True, check=True).stdout.split()  # fmt: skip
    assert set(shown) - set(sys.stdlib_module_names) <= {"rollrep", "__main__"}


def test_page_names_only_what_is_there() -> None:
    paths = set(re.findall(r"`((?:rollrep|tests|fixtures|plugins|docs|bench)/[\w./-]*)`", PAGE))
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    assert not missing, "docs/architecture.md speaks of files that are not there"
    code = "\n".join(path.read_text() for path in [*TESTS, *HELPERS])
    names = set(re.findall(r"`(test_\w+)`", PAGE))
    assert not sorted(name for name in names if f"def {name}(" not in code), "it names tests that are not there"


def too_long() -> Iterator[str]:
    for path in [*CODE, *HELPERS, *TESTS]:
        text = path.read_text()
        # A file of tests is a list, as long as there are tests.
        if path not in TESTS and text.count("\n") > LONGEST_FILE:
            yield name_of(path)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                    yield f"{name_of(path)}: {node.name}"


def test_long_files_and_functions_are_listed() -> None:
    found = set(too_long())
    assert found <= LONG.keys(), f"over {LONGEST_FILE} lines (a function: {LONGEST_FUNCTION}): cut it, or say why"
    assert found >= LONG.keys(), "LONG lists what is short now"


def skips() -> Iterator[str]:
    """Every way to skip or excuse a test, by pytest's and unittest's names."""
    excuses = {"skip", "skipif", "importorskip", "xfail", "skipTest", "skipIf", "skipUnless", "expectedFailure"}
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in excuses:
                yield f"{name_of(path)}: {node.attr}"


def test_no_test_is_skipped() -> None:
    assert set(skips()) == SKIPS.keys(), "a test that is skipped holds nothing: let it fail, or say why in SKIPS"
