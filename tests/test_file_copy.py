"""A database copied as its file lies there: only where all of it is in the file, and without a lock being lost.

writer ── commits, checkpoints, truncates its WAL ──► file + WAL ── copy_file ──► one commit, or "can't be had so"
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair

from rollrep.core.moments import Latest
from rollrep.destination import snapshots
from rollrep.destination.building import read_mirror
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import find_point
from rollrep.destination.file_copy import copy_file
from rollrep.destination.restore import plan_newest, restore

BANK = "CREATE TABLE bank(id INTEGER PRIMARY KEY, money, fill); INSERT INTO bank VALUES (1, 50, zeroblob(90000)), (2, 50, '')"
TRANSFER = (
    "BEGIN; UPDATE bank SET money = money - 1 WHERE id = 1; UPDATE bank SET money = money + 1 WHERE id = 2; COMMIT"
)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[apsw.Connection]:
    with contextlib.closing(apsw.Connection(str(tmp_path / "bank.db"))) as db:
        db.execute(f"PRAGMA journal_mode = WAL; {BANK}").fetchall()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        yield db


@contextlib.contextmanager
def reading(path: str) -> Iterator[apsw.Connection]:
    with contextlib.closing(apsw.Connection(path)) as db:
        db.set_busy_timeout(10_000)
        db.execute("BEGIN; SELECT count(*) FROM bank").fetchall()
        yield db


def money_in(db: apsw.Connection) -> list[tuple[object, ...]]:
    return db.execute("SELECT id, money FROM bank; PRAGMA integrity_check").fetchall()


def test_file_is_copied_only_when_its_wal_is_empty(bank: apsw.Connection, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    with reading(bank.filename) as db:
        assert copy_file(db, target)
        assert target.read_bytes() == Path(bank.filename).read_bytes()
    bank.execute(TRANSFER)
    with reading(bank.filename) as db:
        assert not copy_file(db, target)
    bank.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with reading(bank.filename) as db:
        bank.execute(TRANSFER)  # behind what `db` sees: the WAL is in use, so nobody can tell
        assert not copy_file(db, target)


def test_copy_is_one_commit_when_a_writer_empties_its_wal_again_and_again(
    bank: apsw.Connection, tmp_path: Path
) -> None:
    ended, made = threading.Event(), 0

    def write() -> None:
        with contextlib.closing(apsw.Connection(bank.filename)) as db:
            db.set_busy_timeout(10_000)
            while not ended.is_set():
                db.execute(TRANSFER)
                with contextlib.suppress(apsw.BusyError):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                ended.wait(0.005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while made < 10:
            target = tmp_path / "copy.db"
            with reading(bank.filename) as db:
                if not copy_file(db, target):
                    continue
                with contextlib.closing(apsw.Connection(str(target))) as copy:
                    assert money_in(copy) == money_in(db)
            made += 1
    finally:
        ended.set()
        writer.join()


def test_no_lock_is_lost_when_a_file_was_copied(bank: apsw.Connection, tmp_path: Path) -> None:
    """SQLite's shared lock keeps others from taking away the WAL of a database that is open here."""
    take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)"
    with reading(bank.filename) as db:
        assert copy_file(db, tmp_path / "copy.db")
        taken = subprocess.run([sys.executable, "-c", take, bank.filename], capture_output=True, check=False)
        assert b"BlockingIOError" in taken.stderr


def test_pages_are_copied_when_the_system_can_copy_no_file(
    bank: apsw.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(18, "another device")

    monkeypatch.setattr(os, "copy_file_range", refused)
    with reading(bank.filename) as db:
        assert not copy_file(db, tmp_path / "copy.db")


@pytest.mark.parametrize("held", [False, True], ids=["as a file", "page by page"])
def test_newest_point_is_the_source_when_it_is_copied(
    held: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = FollowedPair(tmp_path)
    pair.start(BANK)
    seen: list[bool] = []

    def noted(db: apsw.Connection, target: Path) -> bool:
        seen.append(copy_file(db, target))
        return seen[-1]

    monkeypatch.setattr(snapshots, "copy_file", noted)
    reader = read_mirror(pair.store)
    with contextlib.closing(reader), Catalog(pair.store.catalog) as catalog:
        if held:
            reader.execute("BEGIN; SELECT count(*) FROM bank").fetchall()
            pair.do(TRANSFER)
            pair.same()
        chosen = plan_newest(pair.store, catalog, find_point(catalog, Latest()))
        output = tmp_path / "out.db"
        restore(pair.store, catalog, chosen, output, force=False, progress=lambda _text: None)
    oracle.assert_same(pair.path, output)
    assert seen == [not held]
