"""Virtual tables with all that was built around them: verify, repair, mirroring again by digests, query, restore.

The oracle is a copy of the source at each moment, as in `test_virtual_tables.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source, session
from test_rebuild import without_catalog
from test_virtual_tables import Indexed, assert_searches_alike, rollrep

from rollrep.core.errors import VerifyFailed
from rollrep.destination import verify
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire
from rollrep.destination.mirror_db import state_of
from rollrep.destination.pull import Wishes
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.retention import Grid
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.verify import Asked, verify_against_source
from rollrep.source.install import install
from rollrep.source.tables import Limits


class Kept(Indexed):
    """With a configuration, so that the commands can be typed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, seed=5)
        self.config = folder / "rollrep.toml"
        self.config.write_text(f'store = "{folder / "store"}"\n[jobs.job]\nsource = "local:{self.path}"\n')
        self.write(30)
        self.pull()

    def type(self, *arguments: object, code: int = 0) -> str:
        done = rollrep("-c", self.config, *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def assert_same_now(self) -> None:
        now = self.folder / "now.db"
        now.unlink(missing_ok=True)
        copy_source(self.path, now)
        oracle.assert_same(now, self.store.mirror)
        assert_searches_alike(now, self.store.mirror)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def damage_note(kept: Kept) -> None:
    """The mirror, edited by hand where no trigger of the application's says so."""
    with contextlib.closing(apsw.Connection(str(kept.store.mirror))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute("UPDATE note SET body = body || '!'")


def test_verify_compares_virtual_tables_too_when_asked_against_the_source(kept: Kept) -> None:
    kept.write(5)
    said = kept.type("verify", "job", "--against-source")
    assert "bare, grid, old4, outer5, own, place, shape: virtual, compared row by row" in said
    assert "NOT COMPARED" not in said
    assert "place: virtual" in kept.type("verify", "job", "--against-source", "--table", "place")
    kept.assert_same_now()


def test_repair_leaves_virtual_tables_right_and_restorable_when_rows_differed(kept: Kept) -> None:
    before = max(kept.kept)
    damage_note(kept)
    kept.write(5)
    kept.type("verify", "job", "--against-source", code=16)
    kept.write(5)
    kept.type("verify", "job", "--against-source", "--repair")
    kept.assert_same_now()
    kept.write(5)
    kept.same()
    newest = max(kept.kept)
    for log_id in (before, newest):
        assert not kept.restored(log_id).earlier
        oracle.assert_same(kept.kept[log_id], kept.folder / "restored.db")
        assert_searches_alike(kept.kept[log_id], kept.folder / "restored.db")


def test_no_state_is_claimed_for_virtual_tables_when_a_verify_dies_on_its_way(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It replays the log as it goes, and virtual tables follow with the pull at its end, which never comes."""
    calls: list[int] = []
    whole = verify.pull

    def first_only(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise InterruptedError
        found = whole(*arguments)  # type: ignore[arg-type]
        kept.do("INSERT INTO note VALUES (900, 'yew', 'yew')")
        kept.do("INSERT INTO place VALUES (900, 0, 1, 0, 1, 'there')")
        return found

    monkeypatch.setattr(verify, "pull", first_only)
    seen = max(kept.kept)
    with pytest.raises(InterruptedError), session() as talk, kept.store.locked():
        verify_against_source(kept.store, talk, Wishes(str(kept.path)), Asked(), lambda _table, _rows: None)
    state = state_of(kept.store.mirror)
    assert state is not None and state.position.id > seen == state.virtual_as_of
    said = kept.type("restore", "job", "-o", kept.folder / "latest.db", "-n")
    assert "copy the mirror" not in said, "it is of two moments"
    monkeypatch.undo()
    kept.same()
    state = state_of(kept.store.mirror)
    assert state is not None and state.virtual_as_of is None
    kept.assert_same_now()


def test_mirror_again_carries_virtual_tables_when_the_log_has_forgotten(kept: Kept) -> None:
    install(kept.db, Limits(keep_rows=40))
    for _ in range(3):
        kept.write(60)
        outcome = kept.pull()
        assert outcome.answer == "mirror" and outcome.reason == "pruned"
        kept.assert_same_now()
        kept.point()
        kept.write(3)
        kept.same()


def test_point_is_searched_when_a_question_is_asked_of_it(kept: Kept) -> None:
    kept.do("INSERT INTO own VALUES ('sequoia', 'sequoia', 1)")
    kept.do("INSERT INTO place VALUES (901, 0, 1, 0, 1, 'there')")
    point = kept.pull().points[-1]
    kept.do("DELETE FROM own")
    kept.do("DELETE FROM place")
    kept.pull()
    at = ("--at", f"point:{point.point}")
    found = "SELECT count(*) FROM own WHERE own MATCH 'sequoia'"
    assert kept.type("query", "job", *at, found).startswith("count(*)\n1\n")
    assert kept.type("query", "job", *at, "SELECT name FROM place WHERE id = 901").startswith("name\nthere\n")
    refusals = {"place_node": "may not be modified", "own": "does more than read", "note": "does more than read"}
    for table, said in refusals.items():
        assert said in kept.type("query", "job", *at, f"DELETE FROM {table}", code=2)
    assert kept.type("query", "job", found).startswith("count(*)\n0\n")


def points_of(kept: Kept) -> dict[int, CatalogPoint]:
    with Catalog(kept.store.catalog) as catalog:
        return {point.id: point for point in restorable(catalog)}


def test_points_stay_what_they_were_when_the_catalog_was_made_again(kept: Kept) -> None:
    for _ in range(4):
        kept.write(4)
        kept.point()
        kept.write(4)
        kept.pull()
    earlier = {log_id: kept.earlier(log_id) for log_id in points_of(kept)}
    without_catalog(kept.store)
    assert rebuild_catalog(kept.store, dry_run=False).damaged == []
    assert points_of(kept).keys() == earlier.keys()
    for log_id, before in earlier.items():
        restored = kept.restored(log_id)
        late = {each.table for each in restored.earlier}
        assert kept.earlier(log_id) >= before, "what is not known any more is not claimed"
        if not late and not restored.rebuilt:
            oracle.assert_same(kept.kept[log_id], kept.folder / "restored.db")
    kept.write(3)
    kept.same()
    newest = max(kept.kept)
    assert not kept.restored(newest).earlier


def test_change_is_named_and_not_believed_when_it_is_damaged_or_gone(kept: Kept) -> None:
    kept.snapshot_s = [3600.0]
    for _ in range(2):
        kept.write(4)
        kept.pull()
    first, second = sorted(kept.store.archive.rglob("*.shadows"))[-2:]
    whole = first.read_bytes()
    for damage in (whole[:-1], b""):
        first.write_bytes(damage)
        if not damage:
            first.unlink()
        with pytest.raises(VerifyFailed, match=first.name):
            kept.restored(max(kept.kept))
        said = kept.type("verify", "job", code=16)
        assert f"{first}: " in said and str(second) not in said
        with pytest.raises(StopIteration):
            kept.restored(max(kept.kept))
        without_catalog(kept.store)
        named = [each for each in rebuild_catalog(kept.store, dry_run=False).damaged if first.name in each]
        assert named, "what is no change, and what leads on from none, is said"
        with pytest.raises((VerifyFailed, FileNotFoundError), match="shadows"):
            kept.restored(max(kept.kept))


def test_changes_go_to_the_trash_when_the_operations_they_lie_between_do(kept: Kept) -> None:
    kept.snapshot_s = [0.0]
    for _ in range(3):
        kept.write(4)
        kept.pull()
    before = sorted(path.name for path in kept.store.archive.rglob("*.shadows"))
    with Catalog(kept.store.catalog) as catalog:
        newest = restorable(catalog)[-1]
        expire(kept.store, catalog, Grid(operations_s=0.0, last=1), newest.time)
        assert ShadowArchive(kept.store, catalog).files() == []
    assert sorted(path.name for path in kept.store.trash.rglob("*.shadows")) == before
    kept.type("verify", "job")
    assert not kept.restored(newest.id).earlier
    oracle.assert_same(kept.kept[newest.id], kept.folder / "restored.db")
    kept.write(4)
    kept.same()
    oracle.assert_same(kept.kept[newest.id], kept.folder / "restored.db")


def test_point_that_is_not_known_exactly_is_neither_exported_nor_made_a_snapshot(kept: Kept) -> None:
    kept.snapshot_s = [3600.0]
    kept.do("INSERT INTO place VALUES (2, 0, 1, 0, 1, 'there')")
    kept.point()
    kept.do("INSERT INTO note VALUES (902, 'yew', '')")
    kept.pull()
    for command in (("export", "job", kept.folder / "point.rollrep"), ("snapshot", "job")):
        said = kept.type(*command, "--at", "label:p1", code=17)
        assert "the virtual table place is not known as it was at this point" in said
    assert not (kept.folder / "point.rollrep").exists()
    kept.type("export", "job", kept.folder / "point.rollrep")
    kept.type("import", kept.folder / "point.rollrep")
    kept.type("verify", "job")
