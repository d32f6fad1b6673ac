"""Bugs put into a copy of the code on purpose: the simulation must find each, or it is worth nothing.

    python tests/sim_bugs.py [WORD]      which seed finds each (whose name has WORD in it)

`text` stands once in `file`, and becomes `instead`; `seed` is one that finds it, for the test, which has no time to
search.  Where a change of the simulation makes a seed mean something else, the search says the new one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Bug(NamedTuple):
    name: str
    file: str
    text: str
    instead: str
    only: str
    """the injections that reach it, so that a test need not wait for them to be drawn"""
    seed: int | None
    """None: no search has ended yet"""


BUGS = (
    Bug(
        "a source restored from a backup is believed by the number of its row alone",
        "source/serve.py",
        "    if proof != position.proof:",
        "    if False:",
        "restored_from_backup",
        0,
    ),
    Bug(
        "a position beyond the newest row counts as up to date",
        "source/serve.py",
        '    if position.id > ends.newest:\n        return "mirror", "ahead"',
        '    if position.id > ends.newest:\n        return "up_to_date", ""',
        "restored_from_backup",
        0,
    ),
    Bug(
        "the rows of a pull and its position are committed one after the other",
        "destination/pull.py",
        "            write_state(mirror, moved_to(state, facts))\n\n    # mirror",
        "        write_state(mirror, moved_to(state, facts))\n\n    # mirror",
        "work pull",
        0,
    ),
    Bug(
        "each window of a pull is committed by itself",
        "destination/pull.py",
        "first + WINDOW_ROWS - 1))\n            replay.finish()",
        "first + WINDOW_ROWS - 1))\n                mirror.execute('COMMIT; BEGIN')\n            replay.finish()",
        "work pull",
        0,
    ),
    Bug(
        "the log's tail and the rows of a chunk are read in two transactions",
        "source/reader.py",
        "                found = self._copy_rows(shape, after_key) if",
        "                self._db.execute('COMMIT; BEGIN')\n                found = self._copy_rows(shape, after_key) if",
        "migration_inside writing_inside",
        None,
    ),
    Bug(
        "a segment is in the catalog before it is on the disk",
        "destination/archive.py",
        "        return holds, self._found(path, holds, container.write_packed(",
        "        self._catalog.add_segment(self._found(path, holds, 1))\n"
        "        return holds, self._found(path, holds, container.write_packed(",
        "puller_killed work",
        68,
    ),
    Bug(
        "the copy that a mirror operation begins with is not synced",
        "destination/mirroring.py",
        "            container.sync_file(copy)\n",
        "",
        "power_lost migration",
        49,
    ),
    Bug(
        "a forgotten key proves a position without its time",
        "source/forgotten.py",
        "        return forgotten_at_ms(self._db, log_id) == at_ms",
        "        return True",
        "restored_from_backup log_rolls_over",
        None,
    ),
    Bug(
        "a damaged frame is believed",
        "wire/frames.py",
        "        if zlib.crc32(payload, zlib.crc32(buffer[2:8])) != checksum:",
        "        if False:",
        "line_breaks work",
        None,
    ),
    Bug(
        "leftovers of a killed pull stay",
        "destination/pull.py",
        "    store.sweep()\n",
        "",
        "puller_killed work",
        26,
    ),
    Bug(
        "serve sends a batch inside its read transaction",
        "source/serve.py",
        "                self.say(batch, packed)\n                del packed",
        "                self._db.execute('BEGIN; SELECT count(*) FROM sqlite_schema').fetchall()\n"
        "                self.say(batch, packed)\n                self._db.execute('COMMIT')\n                del packed",
        "slow_destination",
        1,
    ),
    Bug(
        "a mirror that was put back goes on with its old line",
        "destination/recording.py",
        "    return catalog.newest_line_with_points() > state.line",
        "    return False",
        "older_mirror puller_killed migration_inside",
        None,
    ),
)


def put_into_a_copy(bug: Bug, folder: Path) -> Path:
    """A folder whose `rollrep` has the bug."""
    shutil.copytree(ROOT / "rollrep", folder / "rollrep", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "rollrep" / bug.file
    code = file.read_text()
    assert code.count(bug.text) == 1, f"{bug.file} has {bug.text!r} {code.count(bug.text)} times"
    file.write_text(code.replace(bug.text, bug.instead))
    return folder


def simulate_in(folder: Path, bug: Bug, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The simulation, of the code in `folder`."""
    path = os.pathsep.join([str(folder), str(ROOT / "tests"), str(ROOT / "fixtures")])
    return subprocess.run(
        [sys.executable, "-B", ROOT / "tests" / "sim.py", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "SIM_ONLY": bug.only},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each bug")
    asked = parser.parse_args()
    for bug in BUGS:
        if asked.word in bug.name:
            print(f"{bug.name}: {searched(bug, asked.minutes)}", flush=True)


def searched(bug: Bug, minutes: float) -> str:
    """The first seed that finds it, and what it says; a seed that finds something in the code as it is counts for nothing."""
    many = ("--seeds", 100_000, "--processes", 1, "--minutes", minutes, "--stop")
    with tempfile.TemporaryDirectory() as folder:
        done = simulate_in(put_into_a_copy(bug, Path(folder)), bug, *many)
    seeds = re.findall(r"^seed (\d+):", done.stdout, re.MULTILINE)
    if not seeds:
        return "not found; " + (done.stdout.splitlines() or done.stderr.splitlines())[-1]
    if simulate_in(ROOT, bug, seeds[0]).returncode:
        return f"seed {seeds[0]} finds something without it too"
    why = re.findall(r"^(?:\w+\.)*(?:Finding|\w*Error): .*", done.stdout, re.MULTILINE)
    return f"seed {seeds[0]}: {why[-1][:150] if why else done.stdout[-300:]}"


if __name__ == "__main__":
    main()
