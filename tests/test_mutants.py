"""Every rule is broken once, in a copy of the code, and a test must see it.

    rollrep/ ──copy──► one text replaced ──► the mutant's scenario in a process of its own ──► it must fail

A mutant that survives means that a test is missing; one whose text is gone, that the list in `mutants.py` is old.
Their scenarios run on a copy in which nothing is broken as well: there they must pass.

    ROLLREP_MUTANTS=all pytest tests/test_mutants.py      all of them; else a fifteenth, another one each day
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS, Mutant

pytestmark = pytest.mark.timeout(600)  # the scenarios together, where the machine is busy
ROOT = Path(__file__).resolve().parents[1]
SHARE = 1 if os.environ.get("ROLLREP_MUTANTS") == "all" else 15
CHOSEN = MUTANTS[dt.date.today().toordinal() % SHARE :: SHARE]
RUN = "import rollrep, sys, pytest; assert rollrep.__file__ == sys.argv[1]; sys.exit(pytest.main(sys.argv[2:]))"


def copy_of_code(folder: Path) -> Path:
    """A folder like the repository's, whose `rollrep` may be changed."""
    shutil.copytree(ROOT / "rollrep", folder / "rollrep", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in ("tests", "fixtures"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(folder: Path, *scenarios: str) -> subprocess.CompletedProcess[str]:
    """pytest on those tests, with the package of `folder`."""
    package = str(folder / "rollrep" / "__init__.py")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "--basetemp", "made"]
    return subprocess.run(
        [sys.executable, "-B", "-c", RUN, package, *arguments, *scenarios],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )


def test_scenarios_pass_when_no_rule_is_broken(tmp_path: Path) -> None:
    done = run(copy_of_code(tmp_path), *sorted({mutant.scenario for mutant in CHOSEN}))
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr


def test_every_mutant_breaks_a_text_that_is_there_once() -> None:
    for mutant in MUTANTS:
        count = (ROOT / "rollrep" / mutant.file).read_text().count(mutant.text)
        assert count == 1, f"{mutant.file} has {mutant.text!r} {count} times"


@pytest.mark.parametrize("mutant", CHOSEN, ids=lambda mutant: mutant.name)
def test_mutant_is_caught_when_a_rule_is_broken(mutant: Mutant, tmp_path: Path) -> None:
    folder = copy_of_code(tmp_path)
    file = folder / "rollrep" / mutant.file
    file.write_text(file.read_text().replace(mutant.text, mutant.instead))
    done = run(folder, mutant.scenario)
    said = done.stdout + done.stderr
    assert done.returncode == 1, f"it survived, or could not run at all:\n{said[-3_000:]}"
    assert re.search(r"^FAILED ", done.stdout, re.MULTILINE), said[-3_000:]
    assert re.search(mutant.says, said), f"it failed, but not by {mutant.says!r}:\n{said[-3_000:]}"
