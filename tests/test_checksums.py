"""Every byte of the catalog: what was changed on the disk is named, and nothing wrong is ever restored because of it.

ROLLREP_FLIPS=2000 pytest tests/test_checksums.py        more bytes (24 by default)
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from test_keeping import grown, silent
from test_rebuild import places, points_in

from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.core.moments import ById, Latest
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import FORMAT, WITHOUT_CHECKSUMS, WITHOUT_SEAL, Catalog
from rollrep.destination.checksums import has_checksums, open_checked
from rollrep.destination.choosing import find_point
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan, restore
from rollrep.destination.timeline import read_timeline

PAGE = 4096
FLIPS = int(os.environ.get("ROLLREP_FLIPS", "24"))


@pytest.fixture
def pair(tmp_path: Path) -> FollowedPair:
    made = FollowedPair(tmp_path)
    made.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
    return made


def is_named(pair: FollowedPair) -> bool:
    """Whether `verify` names the catalog, and nothing else."""
    try:
        problems = verify_at_rest(pair.store, lambda _what, _bytes: None).problems
    except RollrepError as error:
        assert "catalog.db" in error.facts, error
        return True
    assert all("catalog.db" in each.path for each in problems)
    return bool(problems)


def is_given(pair: FollowedPair, log_id: int, kept: Path) -> bool:
    """Whether the point is restored, and then it is right; else the catalog is named."""
    output = pair.folder / "out.db"
    try:
        with Catalog(pair.store.catalog) as catalog:
            chosen = plan(catalog, find_point(catalog, ById(log_id)))
            restore(pair.store, catalog, chosen, output, force=True, progress=silent)
    except VerifyFailed as error:
        assert "catalog.db is damaged" in error.facts and "--rebuild" in error.remedy
        return False
    oracle.assert_same(kept, output)
    return True


def is_newest_given(pair: FollowedPair, log_id: int, kept: Path) -> bool:
    """Whether `latest` is restored, and then it is the newest; else the catalog is named."""
    try:
        with Catalog(pair.store.catalog) as catalog:
            assert find_point(catalog, Latest()).id == log_id
    except VerifyFailed as error:
        assert "catalog.db is damaged" in error.facts
        return False
    return is_given(pair, log_id, kept)


def answers(pair: FollowedPair) -> object:
    with Catalog(pair.store.catalog) as catalog:
        return read_timeline(pair.store, catalog).lines, catalog.points(), catalog.line_stories()


def put(catalog: Path, content: bytes) -> None:
    """`content` as the catalog, alone."""
    for path in catalog.parent.glob("catalog.db*"):
        path.unlink()
    catalog.write_bytes(content)


@pytest.mark.timeout(60 + FLIPS)
def test_damage_is_named_and_never_believed_when_any_byte_of_the_catalog_is_flipped(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    catalog, rng = pair.store.catalog, random.Random(11)
    assert not catalog.with_name("catalog.db-wal").exists(), "what was written lies in the file"
    sound, before, restorable = catalog.read_bytes(), answers(pair), places(points_in(pair.store))
    header = [(at, bit) for at in (18, 20, 28, 63) for bit in (0, 3)]
    used = [at for at in range(len(sound)) if sound[at]]
    anywhere = [(at, rng.randrange(8)) for at in [*rng.choices(used, k=FLIPS), *rng.choices(range(len(sound)), k=4)]]
    refused = 0
    for at, bit in [*header, *anywhere]:
        flipped = bytearray(sound)
        flipped[at] ^= 1 << bit
        put(catalog, flipped)
        assert is_named(pair) or answers(pair) == before, (at, bit)
        refused += not is_given(pair, *points[at % 3])
        if at % 4 == 0:
            put(catalog, flipped)
            assert rebuild_catalog(pair.store, dry_run=False).damaged == []
            assert places(points_in(pair.store)) == restorable
            assert not is_named(pair) and is_given(pair, *points[at % 3])
    assert refused > FLIPS / 3


def test_damage_is_named_and_never_believed_when_any_page_of_the_catalog_is_empty(pair: FollowedPair) -> None:
    points = grown(pair, 3)
    catalog = pair.store.catalog
    sound, before = catalog.read_bytes(), answers(pair)
    given = 0
    for at in range(0, len(sound), 4096):
        put(catalog, sound[:at] + bytes(4096) + sound[at + 4096 :])
        assert is_named(pair) or answers(pair) == before, at
        given += is_given(pair, *points[1])
    put(catalog, sound[: len(sound) // 2])
    assert is_named(pair)
    assert not is_given(pair, *points[1])
    assert given < len(sound) // 4096


@pytest.mark.timeout(600)
def test_damage_is_named_and_never_believed_when_a_page_is_an_older_one_or_anothers(pair: FollowedPair) -> None:
    catalog, newest, versions = pair.store.catalog, (0, Path()), []
    for _ in range(3):
        newest = grown(pair, 8)[-1]
        versions.append(catalog.read_bytes())
    sound, before = versions[-1], answers(pair)
    places = range(0, len(sound), PAGE)
    others = {sound[at : at + PAGE] for at in places}
    named = 0
    for at in places:
        older = {each[at : at + PAGE] for each in versions if len(each) > at}
        for content in sorted((older | others) - {sound[at : at + PAGE]}):
            put(catalog, sound[:at] + content + sound[at + PAGE :])
            said = is_named(pair)
            assert said or answers(pair) == before, (at, content[:16])
            assert is_newest_given(pair, *newest) or said, (at, content[:16])
            named += said
    assert named > len(places)


def take_seal_off(db: apsw.Connection | sqlite3.Connection) -> None:
    for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    db.execute("DROP TABLE seal")


def test_catalog_is_sealed_when_one_of_an_older_version_is_pulled_into(pair: FollowedPair) -> None:
    points = grown(pair, 2)
    before = answers(pair)
    with contextlib.closing(open_checked(pair.store.catalog, create=False)) as db:
        take_seal_off(db)
        db.pragma("user_version", WITHOUT_SEAL)
    assert answers(pair) == before
    points += grown(pair, 1)
    with contextlib.closing(open_checked(pair.store.catalog, create=False)) as db:
        assert db.pragma("user_version") == FORMAT
        db.execute("DROP TRIGGER seal_point_delete")
        db.execute("DELETE FROM point WHERE point = 1")
    with pytest.raises(VerifyFailed, match="an older one, or another's"), Catalog(pair.store.catalog):
        pass


def test_catalog_gets_checksums_when_one_of_an_older_version_is_pulled_into(pair: FollowedPair) -> None:
    points = grown(pair, 2)
    before = answers(pair)
    with contextlib.closing(sqlite3.connect(pair.store.catalog)) as written:
        script = "\n".join(written.iterdump())
    put(pair.store.catalog, b"")
    with contextlib.closing(sqlite3.connect(pair.store.catalog)) as older:
        older.executescript(f"PRAGMA journal_mode = WAL; {script} PRAGMA user_version = {WITHOUT_CHECKSUMS}")
        take_seal_off(older)
    assert answers(pair) == before
    points += grown(pair, 1)
    with contextlib.closing(open_checked(pair.store.catalog, create=False)) as db:
        assert (db.pragma("user_version"), has_checksums(db)) == (FORMAT, True)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "each page was looked at"
    for each in points:
        pair.same_at(*each)


def test_catalog_is_read_by_any_sqlite(pair: FollowedPair) -> None:
    [(log_id, _)] = grown(pair, 1)
    with contextlib.closing(sqlite3.connect(pair.store.catalog)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT max(id) FROM point").fetchone() == (log_id,)
    pair.same()


def test_catalog_is_closed_when_it_is_refused(pair: FollowedPair) -> None:
    path = pair.store.catalog
    with contextlib.closing(open_checked(path, create=False)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RollrepError, match="has format 99") as refused:
        Catalog(path)
    assert refused.traceback  # which keeps alive what was not closed
    assert not [db for db in apsw.connections() if db.filename == str(path)]
