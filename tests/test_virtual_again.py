"""Virtual tables where the log alone does not lead: mirrors again, verification, prunes, partial restores, questions.

the lives of tests/test_virtual_tables.py ──► a log that is too short, bytes that are flipped, a question to the past
oracle: shadow tables row for row, searches with ranks, the modules' own checks
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from sources import pull_once, session
from test_virtual_tables import Indexed, assert_searches_alike, rollrep

from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.destination import verify
from rollrep.destination.at_rest import AtRest, verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.compare import Comparison
from rollrep.destination.expire import expire
from rollrep.destination.pull import Wishes
from rollrep.destination.restore import plan, plan_newest, restore
from rollrep.destination.retention import Grid
from rollrep.destination.store import Store
from rollrep.destination.verify import Asked, Verified, verify_against_source
from rollrep.source.install import install, uninstall
from rollrep.source.log import Meta
from rollrep.source.shadows import Shadows
from rollrep.source.tables import Limits
from rollrep.wire.session import Session


@pytest.fixture
def indexed(tmp_path: Path) -> Iterator[Indexed]:
    made = Indexed(tmp_path)
    made.write(6)
    made.same()
    yield made
    made.close()


def verified(indexed: Indexed, *, repair: bool = False) -> Verified:
    with session() as talk, indexed.store.locked():
        wishes = Wishes(str(indexed.path))
        return verify_against_source(indexed.store, talk, wishes, Asked((), repair), lambda _table, _rows: None)


def at_rest(indexed: Indexed) -> AtRest:
    with indexed.store.locked():
        return verify_at_rest(indexed.store, lambda _name, _bytes: None)


def assert_points_right(indexed: Indexed) -> int:
    """Every restorable point, of any line, that is promised to be exact is; how many there are."""
    exact, output = 0, indexed.folder / "restored.db"
    with Catalog(indexed.store.catalog) as catalog:
        for point in restorable(catalog):
            if point.id not in indexed.kept:
                continue
            said = restore(indexed.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
            if not said.earlier and not said.rebuilt:
                oracle.assert_same(indexed.kept[point.id], said.output)
                assert_searches_alike(indexed.kept[point.id], said.output)
                exact += 1
    return exact


def overrun(indexed: Indexed, keep_keys: int) -> None:
    install(indexed.db, Limits(keep_rows=40, keep_keys=keep_keys))
    indexed.same()
    for n in range(400):
        indexed.do("INSERT INTO note VALUES (?, ?, ?)", (1_000 + n, indexed.text(), indexed.text(30)))
    indexed.write(3)
    for n in range(400):
        indexed.do("UPDATE note SET title = ? WHERE id = ?", (indexed.text(), 1_000 + n))


@pytest.mark.parametrize(("keep_keys", "rung"), [(100_000, "forgotten keys"), (10, "digests")])
def test_searches_find_the_same_when_the_log_was_overrun(indexed: Indexed, keep_keys: int, rung: str) -> None:
    overrun(indexed, keep_keys)
    outcome = indexed.pull()
    assert outcome.position and {each.rung for each in outcome.moved} == {rung}
    oracle.assert_same(indexed.kept[outcome.position.id], indexed.store.mirror)
    assert_searches_alike(indexed.kept[outcome.position.id], indexed.store.mirror)
    indexed.write(3)
    indexed.point()
    indexed.write(3)
    indexed.same()
    assert assert_points_right(indexed) >= 3
    found = at_rest(indexed)
    assert (found.problems, found.notes) == ([], [])


def test_bridge_is_of_one_moment_when_somebody_writes_behind_its_log(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrun(indexed, 100_000)
    asked = Session.shadows

    def write_first(self: Session, wanted: object) -> object:
        indexed.do("INSERT INTO note VALUES (?, 'rowan', 'rowan')", (indexed.rng.randrange(10_000, 1 << 40),))
        return asked(self, wanted)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Session, "shadows", write_first)
        outcome = pull_once(indexed.store, indexed.path)
    assert {each.rung for each in outcome.moved} == {"forgotten keys"}
    oracle.assert_same(indexed.path, indexed.store.mirror)
    assert_searches_alike(indexed.path, indexed.store.mirror)


def test_searches_find_the_same_when_a_mirror_is_asked_for(indexed: Indexed) -> None:
    indexed.write(5)
    outcome = pull_once(indexed.store, indexed.path, mirror=True)
    assert {each.rung for each in outcome.moved} == {"digests"} and outcome.position
    indexed.keep(outcome.position.id)
    oracle.assert_same(indexed.path, indexed.store.mirror)
    assert_searches_alike(indexed.path, indexed.store.mirror)
    indexed.write(2)
    indexed.same()
    assert assert_points_right(indexed) >= 2


def test_points_stay_right_when_older_operations_are_let_go_of(indexed: Indexed) -> None:
    indexed.snapshot_s = [3600.0]
    for n in range(4):
        indexed.do("INSERT INTO own VALUES ('fir', ?, 1)", (str(n),))
        indexed.snapshot_s = [0.0 if n == 2 else 3600.0]
        indexed.same()
    with Catalog(indexed.store.catalog) as catalog:
        newest = catalog.points()[-1].time
        expire(indexed.store, catalog, Grid(operations_s=0.001, hourly=1), newest + dt.timedelta(days=400))
    assert assert_points_right(indexed) >= 1
    found = at_rest(indexed)
    assert (found.problems, found.notes) == ([], [])


def test_points_before_a_change_of_the_schema_stay_when_another_destination_saw_virtual_tables(
    indexed: Indexed,
) -> None:
    """That one's pull logs a mark, which is no beginning of another schema."""
    indexed.do("INSERT INTO own VALUES ('oak', 'pine', 1)")
    pull_once(Store(indexed.folder / "other", "job"), indexed.path)
    indexed.do("INSERT INTO own VALUES ('elm', 'pine', 1)")
    pull_once(Store(indexed.folder / "other", "job"), indexed.path)
    indexed.do("INSERT INTO note VALUES (4242, 'sequoia', '')")
    point = indexed.point()
    indexed.do("CREATE TABLE later(a)")
    indexed.same()
    with Catalog(indexed.store.catalog) as catalog:
        assert point in {each.id for each in restorable(catalog)}


def test_nothing_differs_when_a_database_with_virtual_tables_is_verified(indexed: Indexed) -> None:
    # Out of step by the application's own hand, which is no damage here.
    indexed.do("INSERT INTO old4 VALUES ('oak', '')")
    indexed.do("UPDATE old4_content SET c0a = 'elm'")
    found = verified(indexed)
    assert found.equal and found.not_compared == []
    rest = at_rest(indexed)
    assert (rest.problems, rest.notes) == ([], [])


def test_no_state_is_claimed_too_long_when_verify_moves_the_mirror(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verify follows the log without a look at virtual tables, and dies: a point there is not claimed exact."""
    table = Comparison.table
    middle = []

    def writes_first(self: Comparison, *arguments: object) -> object:
        indexed.do("INSERT INTO place VALUES (7001, 0, 1, 0, 1, 'there')")
        middle.append(indexed.point())
        return table(self, *arguments)  # type: ignore[arg-type]

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Comparison, "table", writes_first)
        patched.setattr(verify._Verifying, "_left_out", dies)
        with pytest.raises(KeyboardInterrupt):
            verified(indexed)
    indexed.do("DELETE FROM place WHERE id = 7001")
    indexed.do("INSERT INTO place VALUES (7002, 0, 1, 0, 1, 'elsewhere')")
    indexed.same()
    assert [each.table for each in indexed.restored(middle[0]).earlier] == ["place"]
    assert assert_points_right(indexed) >= 1


def test_points_are_right_when_verify_repairs_while_virtual_tables_change(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(apsw.Connection(str(indexed.store.mirror))) as db:
        db.execute("INSERT INTO note VALUES (777777, 'by hand', '')")
    table = Comparison.table
    calls: list[int] = []

    def writes_first(self: Comparison, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            # The line of the repair has begun; this point is the last row of it before the snapshot.
            indexed.do("INSERT INTO place VALUES (7001, 0, 1, 0, 1, 'there')")
            indexed.point()
        return table(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Comparison, "table", writes_first)
        found = verified(indexed, repair=True)
    assert found.equal and found.rows_differing == 1
    indexed.same()
    assert assert_points_right(indexed) >= 2


def test_damaged_change_is_named_when_one_of_its_bits_was_flipped(indexed: Indexed) -> None:
    indexed.snapshot_s = [3600.0]
    indexed.do("INSERT INTO own VALUES ('oak', 'pine', 1)")
    indexed.same()
    [*_, path] = sorted(indexed.store.archive.rglob("*.shadows"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)
    before = at_rest(indexed)
    assert [each.path for each in before.problems] == [str(path)]
    assert len(before.restorable) == before.points - 1


def test_newest_state_is_copied_from_the_mirror_with_its_virtual_tables(indexed: Indexed) -> None:
    indexed.write(2)
    indexed.same()
    with Catalog(indexed.store.catalog) as catalog:
        point = restorable(catalog)[-1]
        chosen = plan_newest(indexed.store, catalog, point)
        assert chosen.from_mirror
        said = restore(
            indexed.store, catalog, chosen, indexed.folder / "newest.db", force=False, progress=lambda _: None
        )
    assert (said.earlier, said.rebuilt, said.complaints) == ((), (), ())
    oracle.assert_same(indexed.kept[point.id], said.output)
    assert_searches_alike(indexed.kept[point.id], said.output)


def test_virtual_table_alone_is_refused_and_an_ordinary_one_given_when_tables_are_named(indexed: Indexed) -> None:
    config = indexed.folder / "rollrep.toml"
    config.write_text(f'store = "{indexed.folder / "store"}"\n[jobs.job]\nsource = "local:{indexed.path}"\n')
    for table in ("own", "own_content"):
        refused = rollrep("restore", "job", "-c", config, "-t", table, "-o", indexed.folder / "part.db")
        assert refused.returncode == UsageError.exit_code, refused.stderr
        assert "a virtual table, which is restored with its whole database only" in refused.stderr
    part = rollrep("restore", "job", "-c", config, "-t", "note", "-o", indexed.folder / "part.db")
    assert part.returncode == 0, part.stderr
    with contextlib.closing(apsw.Connection(str(indexed.folder / "part.db"))) as db:
        assert db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("note",)]
        assert (
            db.execute("SELECT * FROM note ORDER BY id").fetchall()
            == indexed.db.execute("SELECT * FROM note ORDER BY id").fetchall()
        )


def test_search_finds_what_it_found_then_when_the_past_is_asked(indexed: Indexed) -> None:
    config = indexed.folder / "rollrep.toml"
    config.write_text(f'store = "{indexed.folder / "store"}"\n[jobs.job]\nsource = "local:{indexed.path}"\n')
    indexed.do("INSERT INTO own VALUES ('sequoia', 'one', 1)")
    indexed.do("INSERT INTO place VALUES (9001, 200, 201, 200, 201, 'here')")
    then = indexed.pull().position
    assert then
    indexed.do("DELETE FROM own")
    indexed.do("DELETE FROM place")
    indexed.do("INSERT INTO note VALUES (4242, 'sequoia', '')")
    indexed.pull()
    queries = {
        "SELECT body FROM own WHERE own MATCH 'sequoia'": [["one"]],
        "SELECT name FROM place WHERE x0 > 199": [["here"]],
        "SELECT count(*) FROM outer5 WHERE outer5 MATCH 'sequoia'": [[0]],
        "SELECT count(*) FROM old4 WHERE old4 MATCH 'sequoia'": [[0]],
        "SELECT count(*) FROM bare WHERE bare MATCH 'sequoia'": [[0]],
    }
    for query, rows in queries.items():
        asked = rollrep("query", "job", query, "-c", config, "--at", f"id:{then.id}", "--json")
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)["rows"] == rows
    now = rollrep("query", "job", "SELECT count(*) FROM outer5('sequoia')", "-c", config, "--json")
    assert json.loads(now.stdout)["rows"] == [[1]]


def test_question_says_which_tables_are_of_an_earlier_moment(indexed: Indexed) -> None:
    config = indexed.folder / "rollrep.toml"
    config.write_text(f'store = "{indexed.folder / "store"}"\n[jobs.job]\nsource = "local:{indexed.path}"\n')
    indexed.do("INSERT INTO place VALUES (9001, 200, 201, 200, 201, 'here')")
    middle = indexed.point()
    indexed.do("INSERT INTO note VALUES (4242, 'sequoia', '')")
    indexed.pull()
    for _ in range(2):
        asked = rollrep("query", "job", "SELECT count(*) FROM place", "-c", config, "--at", f"id:{middle}")
        assert asked.returncode == 0
        assert "place" in next(line for line in asked.stderr.splitlines() if "earlier moment" in line)


def test_no_trace_is_left_when_the_log_is_removed(indexed: Indexed) -> None:
    uninstall(indexed.db)
    assert not indexed.db.execute("SELECT 1 FROM sqlite_schema WHERE name LIKE '%rollrep%'").fetchall()
    assert indexed.db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert indexed.db.execute("SELECT count(*) FROM own('oak')").fetchone() is not None


def test_shadow_tables_are_made_good_when_somebody_changed_the_mirrors(indexed: Indexed) -> None:
    indexed.do("INSERT INTO own VALUES ('oak', 'pine', 1), ('elm', 'pine', 1)")
    indexed.same()
    with contextlib.closing(apsw.Connection(str(indexed.store.mirror))) as db:
        db.execute("DELETE FROM own_content WHERE c0 = 'oak'").fetchall()
        db.execute("UPDATE own_content SET c1 = 'by hand' WHERE c0 = 'elm'").fetchall()
        db.execute("INSERT INTO place_node VALUES (99, x'00')").fetchall()
    assert verified(indexed).equal
    indexed.same()
    assert assert_points_right(indexed) >= 2


def test_change_is_not_believed_when_it_has_the_log_id_of_another_state(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_mark(self: Shadows, meta: Meta) -> object:
        return self._reader.with_tail(meta, self._wanted.position, self._compare)[:2]

    indexed.do("INSERT INTO own VALUES ('oak', 'pine', 1)")
    with monkeypatch.context() as patched:
        patched.setattr(Shadows, "read", without_mark)
        with pytest.raises(VerifyFailed, match="two things"):
            pull_once(indexed.store, indexed.path)
    indexed.same()
    assert assert_points_right(indexed) >= 2
