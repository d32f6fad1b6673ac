"""PRIMARY KEY(name COLLATE NOCASE) of a table WITHOUT ROWID: its key compares in another way than its columns do.

Where it finds more rows to be one than the column does, 'A' takes the place of 'a'; where it finds fewer, both are
there, and a DELETE of the one must leave the other.
"""

from __future__ import annotations

import random
from pathlib import Path

import oracle
import pytest
from pair import FollowedPair

from rollrep.core.nouns import Shape
from rollrep.destination.net import key_columns

FEWER = "CREATE TABLE u(v, k TEXT, n COLLATE RTRIM, PRIMARY KEY(k COLLATE NOCASE, n COLLATE BINARY)) WITHOUT ROWID"
MORE = "CREATE TABLE u(v, k TEXT COLLATE NOCASE, n, PRIMARY KEY(k COLLATE BINARY, n)) WITHOUT ROWID"
UNIQUE = "CREATE TABLE u(v UNIQUE, k TEXT COLLATE NOCASE, n, PRIMARY KEY(k COLLATE BINARY, n)) WITHOUT ROWID"
REREAD = f"{MORE}; CREATE TABLE w(x); CREATE TRIGGER noted AFTER UPDATE ON u BEGIN INSERT INTO w VALUES (new.v); END"
STATEMENTS = (
    "INSERT OR REPLACE INTO u(v, k, n) VALUES (:v, :k, :n)",
    "INSERT OR IGNORE INTO u(v, k, n) VALUES (:v, :k, :n)",
    "DELETE FROM u WHERE k = :k COLLATE BINARY",
    "UPDATE OR REPLACE u SET v = :v WHERE k = :k COLLATE BINARY",
    "UPDATE OR REPLACE u SET k = :other WHERE k = :k COLLATE BINARY",
)


@pytest.mark.parametrize("keep_rows", [31, 100_000])
@pytest.mark.parametrize("schema", [FEWER, MORE, UNIQUE, REREAD], ids=["fewer", "more", "unique", "reread"])
def test_mirror_and_restores_equal_source_when_a_key_has_another_collation_than_its_columns(
    schema: str, keep_rows: int, tmp_path: Path
) -> None:
    rng, pair = random.Random(7), FollowedPair(tmp_path)
    pair.start(schema, keep_rows=keep_rows)
    points = []
    for _ in range(6):
        for _ in range(rng.randrange(5, 40)):
            values = {"v": rng.randrange(50), "n": rng.choice(["x", "x ", "y"])}
            keys = {"k": rng.choice(["a", "A", "b", "B", "a "]), "other": rng.choice(["a", "A", "b"])}
            pair.db.execute(rng.choice(STATEMENTS), values | keys)
        points.append(pair.point())
        pair.pull()
        oracle.assert_same(pair.path, pair.store.mirror)
    seen = [each for each in points if pair.points_at(each[0])]
    for each in seen:
        pair.same_at(*each)
    assert seen


def test_rows_are_searched_for_when_the_key_compares_as_its_columns_do(tmp_path: Path) -> None:
    """A COLLATE within a row value enters no index: every window would read the whole table."""
    pair = FollowedPair(tmp_path)
    pair.start("CREATE TABLE u(k TEXT COLLATE NOCASE, n, v, PRIMARY KEY(k, n)) WITHOUT ROWID")
    shape = Shape(1, "u", ("k", "n", "v"), 2, False, True, ("NOCASE", "BINARY"), (), False, True)
    among = f"({', '.join(key_columns(pair.db, shape))}) IN (SELECT 1, 2)"
    plan = pair.db.execute(f"EXPLAIN QUERY PLAN DELETE FROM u WHERE {among}").fetchall()
    assert plan[0][3].startswith("SEARCH u USING PRIMARY KEY (k=? AND n=?)"), plan
