"""Large blobs: logged once, not again because another column changed, and in bounded memory on both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import session

from rollrep.core.nouns import Op
from rollrep.destination.pull import Wishes, pull
from rollrep.source import reader

BLOB_BYTES = 40_000_000
"""more than the allocator keeps in its own heap, where what is left between blocks counts as well"""
BASE_MB = 45
COPIES = 5.2
"""How often a row is in the larger process at once (measured: 235 MB for one of 40 MB, 471 MB for one of 100 MB): the
image of the log, its row, and SQLite's records of what the mirror has and will have."""
WRITER_COPIES = 7.0
"""The same of the application, which without a log holds two: its value, SQLite's record, that of the log, the old
value, and one for each subquery that lets a column go (measured: 502 MB to insert one of 100 MB, 698 MB to replace it)."""
WRITER = "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
ROLLREP = Path(sys.executable).with_name("rollrep")
PEAK = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
print(json.dumps([done.returncode, done.stderr, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000]))
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def test_unchanged_blob_is_not_logged_when_another_column_changes(pair: FollowedPair) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n, b BLOB, c TEXT); INSERT INTO t VALUES (1, 1, randomblob(3000000), 'x')"
    )
    pair.do("UPDATE t SET n = 2")
    pair.do("UPDATE t SET c = upper(c), b = b")
    logged = pair.db.execute("SELECT op, v1, v2, v3 FROM _rollrep_log WHERE shape > 0 ORDER BY id").fetchall()
    assert logged == [(Op.PATCH, 2, None, None), (Op.PATCH, None, None, "X")]
    with session() as talk, pair.store.locked():
        pull(pair.store, talk, Wishes(str(pair.path)), lambda _table, _rows: None)
        assert talk.bytes_received < 5_000
    oracle.assert_same(pair.path, pair.store.mirror)
    at = pair.point_pulled()
    pair.same_at(*at)


@pytest.mark.parametrize(
    "trigger", ["", "CREATE TRIGGER own AFTER DELETE ON t BEGIN SELECT 1; END"], ids=["plain", "reread"]
)
def test_bytes_are_counted_when_they_are_in_a_column_of_numbers(trigger: str, pair: FollowedPair) -> None:
    """Only a STRICT table keeps them out: INTEGER, REAL and NUMERIC are what SQLite tries first."""
    types = ("INTEGER", "INT", "UNSIGNED BIG INT", "POINT", "CHAR INT", "FINGERPRINT", "REAL", "FLOAT", "BOOLEAN")
    declared = ", ".join(f"c{n} {each}" for n, each in enumerate(types))
    pair.start(f"CREATE TABLE t(id INTEGER PRIMARY KEY, {declared}, other TEXT COLLATE NOCASE); {trigger}")
    for n in range(len(types)):
        for value in ("zeroblob(5000)", "printf('%05000d', 0) || 'x'"):
            pair.do(f"INSERT INTO t(c{n}) VALUES ({value})")
            pair.do(f"UPDATE t SET c{n} = {value} || 'y' WHERE id = last_insert_rowid()")
            pair.do("UPDATE t SET other = 'z' WHERE id = last_insert_rowid()")
    widths = "+".join(f"iif(typeof(v{n}) IN ('text', 'blob'), length(CAST(v{n} AS BLOB)), 0)" for n in range(1, 11))
    rows = pair.db.execute(f"SELECT size, {widths}, op FROM _rollrep_log WHERE shape > 0").fetchall()
    assert len(rows) == 6 * len(types)
    assert [row for row in rows if not row[1] <= row[0] <= row[1] + 100] == []
    pair.do("DELETE FROM t; INSERT INTO t VALUES (1, 2, 3, NULL, 5, 1 << 60, 7, 0.5, 1e300, true, 'o')")
    size = pair.db.execute("SELECT size FROM _rollrep_log ORDER BY id DESC LIMIT 1").get
    assert size < 100
    pair.same()


def test_images_stay_small_when_older_triggers_took_blobs_for_numbers(pair: FollowedPair) -> None:
    """An image as large as the source's `size` let it be would be refused by every pull."""
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    for _ in range(60):
        pair.do("INSERT INTO t(v) VALUES (randomblob(1000000))")
    pair.do("UPDATE _rollrep_log SET size = 36")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "LOG_STEP_ROWS", 5)
        pair.same()
    assert max(path.stat().st_size for path in pair.store.archive.rglob("*.segment")) < 23_000_000


def peak_mb(*arguments: object, program: Path = ROLLREP) -> float:
    """Resident memory at the highest of the larger process of a command and those it starts."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, program, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    code, said, peak = json.loads(done.stdout)
    assert code == 0, said
    return float(peak)


def test_memory_stays_bounded_when_a_large_blob_is_written(pair: FollowedPair) -> None:
    bound = BASE_MB + COPIES * BLOB_BYTES / 1e6
    config, restored = pair.folder / "rollrep.toml", pair.folder / "restored.db"
    pair.do("CREATE TABLE t(id INTEGER PRIMARY KEY, n, b BLOB); PRAGMA journal_mode = WAL")
    install = ("source", "install", pair.path, "--keep-bytes", "1GiB")
    for arguments in (install, ("init", "app", f"local:{pair.path}", "-c", config)):
        subprocess.run([ROLLREP, *arguments], capture_output=True, check=True)
    assert peak_mb("pull", "app", "-c", config) < BASE_MB
    for n in range(3):
        pair.do("INSERT INTO t VALUES (?, 1, randomblob(?))", (n, BLOB_BYTES))
    assert peak_mb("pull", "app", "-c", config) < bound, "three large rows, one at a time"
    pair.do("UPDATE t SET n = 2 WHERE id = 1")
    assert peak_mb("pull", "app", "-c", config) < bound
    pair.do("UPDATE t SET b = randomblob(?) WHERE id = 1", (BLOB_BYTES,))
    assert peak_mb("pull", "app", "-c", config) < bound
    assert peak_mb("restore", "app", "--at", "point:2", "--output", restored, "-c", config) < bound
    assert peak_mb("restore", "app", "--at", "latest", "--output", restored, "--force", "-c", config) < bound
    oracle.assert_same(pair.path, restored)
    with apsw.Connection(str(pair.path)) as db:
        [(logged,)] = db.execute("SELECT sum(length(v2)) FROM _rollrep_log").fetchall()
    assert logged <= 4 * BLOB_BYTES


def test_memory_of_the_application_stays_bounded_when_it_writes_a_large_blob(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, n, b BLOB)")
    for sql in (
        f"INSERT INTO t VALUES (1, 1, randomblob({BLOB_BYTES}))",
        f"UPDATE t SET b = randomblob({BLOB_BYTES})",
        "UPDATE t SET n = 2",
    ):
        peak = peak_mb("-c", WRITER, pair.path, sql, program=Path(sys.executable))
        assert peak < BASE_MB + WRITER_COPIES * BLOB_BYTES / 1e6, sql
