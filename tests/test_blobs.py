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

BLOB_BYTES = 24_000_000
BASE_MB = 75
COPIES = 7.0
"""The larger process holds a row four times while it moves it, and five times where another follows (measured: 419 MB
for one of 100 MB, 800 MB for one of 200 MB): SQLite's record, the image, the image as bytes, these compressed, and the
compressed ones before it.  What the allocator keeps between them comes on top: 216 MB were seen for three of 24 MB."""
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


def peak_mb(*arguments: object) -> float:
    """Resident memory at the highest of the larger process of a command and those it starts."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, ROLLREP, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    code, said, peak = json.loads(done.stdout)
    assert code == 0, said
    return float(peak)


def test_memory_stays_bounded_when_a_large_blob_is_written(pair: FollowedPair) -> None:
    bound = BASE_MB + COPIES * BLOB_BYTES / 1e6
    config, restored = pair.folder / "rollrep.toml", pair.folder / "restored.db"
    pair.do("CREATE TABLE t(id INTEGER PRIMARY KEY, n, b BLOB); PRAGMA journal_mode = WAL")
    for arguments in (("source", "install", pair.path), ("init", "app", f"local:{pair.path}", "-c", config)):
        subprocess.run([ROLLREP, *arguments], capture_output=True, check=True)
    assert peak_mb("pull", "app", "-c", config) < BASE_MB
    for n in range(3):
        pair.do("INSERT INTO t VALUES (?, 1, randomblob(?))", (n, BLOB_BYTES))
    assert peak_mb("pull", "app", "-c", config) < bound, "three large rows, one at a time"
    pair.do("UPDATE t SET n = 2 WHERE id = 1")
    assert peak_mb("pull", "app", "-c", config) < bound
    assert peak_mb("restore", "app", "--at", "latest", "--output", restored, "-c", config) < bound
    oracle.assert_same(pair.path, restored)
    with apsw.Connection(str(pair.path)) as db:
        [(logged,)] = db.execute("SELECT sum(length(v2)) FROM _rollrep_log").fetchall()
    assert logged <= 3 * BLOB_BYTES
