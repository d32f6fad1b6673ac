"""SQLite's own statements, written by others: the mirror and every restored point are the source all the same.

35,000 statements of 492 of SQLite's test files; a twentieth of the files here, and all of them with:

    ROLLREP_STATEMENTS=all make test ARGS='-k test_statements'
"""

from __future__ import annotations

import doctest
import os
import shutil
from pathlib import Path

import pytest
import sqlite_statements
from statements import Tally, chosen, corpus, run_file

SHARE = 1 if os.environ.get("ROLLREP_STATEMENTS") == "all" else 20
PARTS = 3


def test_statements_are_those_in_braces_when_taken_out_of_tcl() -> None:
    assert doctest.testmod(sqlite_statements).failed == 0
    assert sum(len(each) for _, databases in corpus() for each in databases) > 35_000


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("part", range(PARTS))
def test_mirror_is_the_source_when_sqlites_own_statements_run(part: int, tmp_path: Path) -> None:
    tally = Tally()
    for name, databases in chosen(part, PARTS, SHARE):
        run_file(name, databases, tmp_path, tally)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
    assert (tally.wrong, tally.unlike) == ([], [])
    counts = tally.counts
    assert counts["statements"] > 100
    assert counts["points"] > 5
    assert counts["pulls"] > 15
    # Nearly every database is compared with its twin to the end, and few statements are left out.
    assert counts["twins given up"] * 8 < counts["twins"]
    assert counts["left out"] * 10 < counts["statements"]
    assert counts["points not offered"] * 20 < counts["points"]
    print(dict(counts))
