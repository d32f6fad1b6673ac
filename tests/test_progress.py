"""What is shown while a command works: how much of how much, how fast, how long yet; and nothing where nobody watches."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path

import pytest
from pair import Pair
from rich.console import Console
from sources import session

from rollrep.cli import progress as module
from rollrep.cli.progress import CopyProgress
from rollrep.destination.pull import Wishes, pull
from rollrep.source.database import open_source
from rollrep.source.expected import rows_about
from rollrep.source.log import current_shapes
from rollrep.source.tables import Limits


class Clock:
    now_s = 50.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_bar_says_rate_and_time_left_when_a_terminal_watches() -> None:
    clock, shown = Clock(), io.StringIO()
    console = Console(file=shown, force_terminal=True, width=150)
    with CopyProgress(enabled=True, console=console, monotonic_s=clock.monotonic_s) as progress:
        assert progress.speaks
        progress.expect("shop", 9_000)
        for _ in range(3):
            clock.now_s += 10
            progress.advance("shop", "account", 1_000)
        assert progress._bar is not None
        progress._bar.refresh()
    said = shown.getvalue()
    assert "shop: mirroring account" in said
    assert "3,000 of about 9,000 rows, 100 a second, 1 min left" in said


def test_line_is_logged_now_and_then_when_asked_for_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    clock = Clock()
    progress = CopyProgress(enabled=False, monotonic_s=clock.monotonic_s)
    assert progress.speaks
    progress.expect("shop", 4_000)
    for _ in range(24):
        clock.now_s += 1
        progress.advance("shop", "", 100)
    assert caplog.messages == [
        "shop: fetching the log: 1,000 of about 4,000 rows, 100 a second, 30 s left",
        "shop: fetching the log: 2,000 of about 4,000 rows, 100 a second, 20 s left",
    ]


def test_nothing_is_said_and_nothing_asked_for_when_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger(module.__name__).setLevel(logging.WARNING)
    clock = Clock()
    with CopyProgress(enabled=False, monotonic_s=clock.monotonic_s) as progress:
        assert not progress.speaks
        clock.now_s += 100
        progress.advance("shop", "account", 1)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("dense", range(1, 5_001)),
        ("every third", range(7, 15_000, 3)),
        ("from afar", range(-(1 << 62), -(1 << 62) + 700)),
        ("anywhere", [(n * n * 32 << 40) - (1 << 62) for n in range(1, 500)]),
        ("few", [4, 99]),
        ("none", []),
    ],
)
def test_rows_are_about_as_many_as_was_said_when_keys_are_of_any_kind(pair: Pair, name: str, ids: list[int]) -> None:
    pair.create("CREATE TABLE t(id INTEGER PRIMARY KEY); CREATE TABLE u(a PRIMARY KEY) WITHOUT ROWID", Limits())
    with pair.db:
        pair.db.executemany("INSERT INTO t VALUES (?)", [(each,) for each in ids])
    with contextlib.closing(open_source(pair.path)) as db:
        about = {shape.table: rows_about(db, shape) for shape in current_shapes(db)}
    assert len(ids) / 3 <= about["t"] <= 3 * len(ids), name
    assert about["u"] == 0


def test_as_many_rows_are_expected_as_come_when_tables_or_the_log_are_fetched(pair: Pair) -> None:
    pair.create("CREATE TABLE note(id INTEGER PRIMARY KEY, body); CREATE TABLE bare(v)", Limits())
    with pair.db:
        pair.db.executemany("INSERT INTO note VALUES (?, 'x')", [(n,) for n in range(3_000)])
        pair.db.executemany("INSERT INTO bare VALUES (?)", [(n,) for n in range(40)])

    def fetch() -> tuple[list[int], dict[str, int]]:
        expected: list[int] = []
        came: dict[str, int] = {}

        def progress(table: str, rows: int) -> None:
            came[table] = came.get(table, 0) + rows

        pair.store.create()
        with session() as talk, pair.store.locked():
            pull(pair.store, talk, Wishes(str(pair.path)), progress, expected.append)
        return expected, came

    expected, came = fetch()
    assert came == {"note": 3_000, "bare": 40}
    assert expected[0] == pytest.approx(3_040, rel=0.05)
    pair.do("UPDATE note SET body = 'y' WHERE id < 900")
    assert fetch() == ([900], {"": 900})
    pair.do("ALTER TABLE bare ADD COLUMN w")
    expected, came = fetch()
    assert came == {"bare": 40}
    assert expected[0] == pytest.approx(40, rel=0.2), "what is as it was need not come again"
