"""A UNIQUE index that comes at the source while the mirror still has rows that are not: they are not what is there."""

from __future__ import annotations

from pathlib import Path

import apsw
import oracle
from pair import FollowedPair
from sources import copy_source

from rollrep.source.tables import Limits


def test_mirror_is_the_source_when_that_was_set_back_to_where_rows_were_unique(tmp_path: Path) -> None:
    pair = FollowedPair(tmp_path)
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE u(a); CREATE UNIQUE INDEX once ON t(a)")
    pair.do("INSERT INTO t(a) VALUES (1), (2)")
    pair.same()
    backup = tmp_path / "backup.db"
    copy_source(pair.path, backup)
    pair.do("DROP INDEX once; INSERT INTO t(a) VALUES (1), (2); INSERT INTO u VALUES (3)")
    pair.pull()
    point, kept = pair.point()
    pair.same()
    with apsw.Connection(str(backup)) as copy, pair.db.backup("main", copy, "main") as going:
        going.step(-1)
    copy.close()
    pair.do("INSERT INTO t(a) VALUES (5)")
    assert pair.pull()[0] == "mirror"
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same_at(point, kept)
    pair.do("INSERT INTO t(a) VALUES (6)")
    pair.same()


def test_mirror_is_the_source_when_an_index_became_unique_behind_a_hole(tmp_path: Path) -> None:
    pair = FollowedPair(tmp_path)
    pair.create("CREATE TABLE t(id INTEGER PRIMARY KEY, a)", Limits(keep_rows=31, keep_keys=31))
    pair.do("INSERT INTO t(a) SELECT value / 2 FROM json_each(json_array(1, 2, 3, 4, 5, 6))")
    pair.pull()
    for _ in range(100):
        pair.do("UPDATE t SET a = a + 10")
    pair.do("DELETE FROM t WHERE id % 2; CREATE UNIQUE INDEX once ON t(a)")
    assert pair.pull()[0] == "mirror"
    oracle.assert_same(pair.path, pair.store.mirror)
