"""An UPDATE logs only what it changed; the mirror must have the whole row all the same.

    log:  PATCH key, changed values, mask     mirror:  the row

Values are drawn from those that SQLite calls equal although they are not the same, and windows and the number
of statements for common masks are cut down, so that every way through net replay is taken.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import pull_once

from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Op
from rollrep.destination import indexes, net
from rollrep.destination import pull as puller

SCHEMA = """
    CREATE TABLE thing(id INTEGER PRIMARY KEY, code TEXT UNIQUE, loose, free BLOB, n INTEGER, r REAL,
      word TEXT COLLATE NOCASE, big NUMERIC);
    CREATE INDEX thing_n ON thing(n);
    CREATE TABLE plain(a, b, c TEXT COLLATE NOCASE);
"""
ALIKE = (1, 1.0, 0, 0.0, -0.0, None, "", b"", "a", "A", b"a", "1", 2**53, 2.0**53, -(2**63), -(2.0**63), 0.5)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def logged(pair: FollowedPair) -> list[tuple[object, ...]]:
    return list(pair.db.execute("SELECT op, v0, v1, v2, v3 FROM _rollrep_log WHERE shape > 0 ORDER BY id"))


def test_update_logs_only_what_changed_when_the_key_stays(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES (1, 'long', 'x')")
    pair.do("UPDATE t SET a = a, b = 'y' WHERE id = 1")
    assert logged(pair) == [(Op.PATCH, 1, None, "y", 0b100)]
    pair.same()


def test_update_logs_the_whole_row_when_the_key_moves(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b TEXT); INSERT INTO t VALUES (1, 'long', 'x')")
    pair.do("UPDATE t SET id = 2")
    assert logged(pair) == [(Op.DELETE, 1, None, None, None), (Op.PUT, 2, "long", "x", None)]
    pair.same()


@pytest.mark.parametrize("seed", range(6))
def test_mirror_equals_source_when_rows_are_patched_at_random(
    seed: int, pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(net, "MOST_MASKS", rng.choice([0, 1, 16]))
    monkeypatch.setattr(puller, "WINDOW_ROWS", rng.choice([5, 60, 10_000]))
    monkeypatch.setattr(indexes, "LEAST_CHANGES", rng.choice([1, 20_000]))
    pair.start(SCHEMA)
    columns = {"thing": ("code", "loose", "free", "n", "r", "word", "big"), "plain": ("a", "b", "c")}
    for _ in range(6):
        for _ in range(rng.choice([3, 40, 150])):
            table = rng.choice(["thing", "thing", "plain"])
            key = rng.randrange(1, 9)
            roll = rng.random()
            if roll < 0.2:
                names = columns[table]
                values = [rng.randrange(10**6) if name == "code" else rng.choice(ALIKE) for name in names]
                pair.do(
                    f"INSERT OR REPLACE INTO {table}(rowid, {', '.join(names)})"
                    f" VALUES (?, {', '.join('?' * len(names))})",
                    (key, *values),
                )
            elif roll < 0.28:
                pair.do(f"DELETE FROM {table} WHERE rowid = ?", (key,))
            elif roll < 0.36:
                pair.do(f"UPDATE OR REPLACE {table} SET rowid = ? WHERE rowid = ?", (rng.randrange(1, 9), key))
            else:
                verb = "UPDATE OR REPLACE" if rng.random() < 0.3 else "UPDATE OR IGNORE"
                names = tuple(rng.sample(columns[table], rng.choice([1, 1, 2])))
                values = [rng.randrange(12) if name == "code" else rng.choice(ALIKE) for name in names]
                pair.do(
                    f"{verb} {table} SET {', '.join(f'{name} = ?' for name in names)} WHERE rowid = ?", (*values, key)
                )
        pair.same()


def test_unique_values_are_swapped_when_both_are_patched(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b); INSERT INTO t VALUES (1, 'x', 1), (2, 'y', 2)")
    for value, key in ((None, 1), ("x", 2), ("y", 1)):
        pair.do("UPDATE t SET a = ? WHERE id = ?", (value, key))
    pair.same()


def test_row_put_and_patched_in_one_pull_is_whole(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c UNIQUE)")
    pair.do("INSERT INTO t VALUES (1, 'a', 'b', 'c'); UPDATE t SET b = 'new'; UPDATE t SET a = 1; UPDATE t SET c = 2")
    pair.do("INSERT INTO t VALUES (2, 'a', 'b', 'd'); UPDATE t SET b = 'newer' WHERE id = 2")
    pair.same()


@pytest.mark.parametrize("name", ["new", "old", "batch", "log"])
def test_row_is_patched_in_order_when_its_table_has_the_names_of_ours(pair: FollowedPair, name: str) -> None:
    pair.start(f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, v1 UNIQUE, v0, op, mask, v2, at)")
    pair.do(f"INSERT INTO {name} VALUES (1, 'a', 'b', 'c', 'd', 'e', 'f'), (2, 'A', 'B', 'C', 'D', 'E', 'F')")
    pair.same()
    pair.do(f"UPDATE {name} SET op = 1, v0 = 2 WHERE id = 1; UPDATE {name} SET v1 = 9, v2 = op, at = v0 WHERE id = 2")
    pair.do(f"DELETE FROM {name} WHERE v1 = 'a'; INSERT INTO {name}(id, v1) VALUES (7, 'a')")
    pair.do(f"INSERT OR IGNORE INTO {name}(id, v1) VALUES (8, 9)")  # touches row 2, and does nothing to it
    pair.same()


def test_pull_refuses_when_a_patch_meets_no_row(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (7, 1, 2)")
    pair.do("UPDATE t SET a = 3")
    with apsw.Connection(str(pair.store.mirror)) as mirror:
        mirror.execute("DELETE FROM t")
    with pytest.raises(RollrepError, match="changes row 7 of table t, which the mirror does not have"):
        pull_once(pair.store, pair.path)


def test_restore_is_exact_when_its_point_stands_between_patches_of_one_row(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 1, 1)")
    kept = []
    for n in range(5):
        pair.do("UPDATE t SET a = ?", (n,))
        kept.append(pair.point())
        pair.do("UPDATE t SET b = ?", (n,))
    pair.same()
    for log_id, path in kept:
        pair.same_at(log_id, path)
    oracle.assert_same(pair.path, pair.store.mirror)
