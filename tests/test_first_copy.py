"""A first copy by pages: it is what rows would have made, or rows travel."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import oracle
import pytest
from pair import FollowedPair
from sources import pull_once

from rollrep.core.errors import RollrepError, Temporary, VerifyFailed
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.mirror_db import state_of
from rollrep.destination.pages import make_ordinary
from rollrep.source import pages
from rollrep.source.install import install
from rollrep.source.log import write_point
from rollrep.source.tables import Limits
from rollrep.wire import session
from rollrep.wire.messages import PagePart
from rollrep.wire.pages import pack_pages, unpack_pages

SCHEMA = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT UNIQUE, body BLOB);"
    "CREATE INDEX body ON account(length(body)); CREATE VIEW rich AS SELECT id FROM account;"
    "CREATE TABLE pair(k TEXT COLLATE NOCASE, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID; CREATE TABLE bare(v);"
    "CREATE TRIGGER fired AFTER INSERT ON bare BEGIN INSERT OR IGNORE INTO pair VALUES ('fired', new.v, NULL); END;"
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 1500)"
    " INSERT INTO account SELECT i * 3, 'owner ' || (i * 7919 % 1501), randomblob(i % 50 * (i % 3) * (i % 97 + 1)) FROM c;"
    "INSERT INTO pair SELECT 'K' || (id % 9), id, 1.0 * id FROM account; INSERT INTO bare SELECT id FROM account;"
    "DELETE FROM account WHERE id % 4 = 0; UPDATE account SET owner = upper(owner) WHERE id % 5 = 0; ANALYZE;"
    "PRAGMA user_version = 7; PRAGMA application_id = 99"
)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FollowedPair]:
    monkeypatch.setattr(pages, "LEAST_BYTES", 0)
    monkeypatch.setattr(pages, "PART_BYTES", 100_000)
    monkeypatch.setattr(pages, "STEP_PAGES", 8)
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def rungs(pair: FollowedPair) -> set[str]:
    return {each.rung for each in pull_once(pair.store, pair.path).moved}


@pytest.mark.parametrize(("page_size", "encoding"), [(512, "UTF-16le"), (4096, "UTF-8"), (65_536, "UTF-8")])
def test_mirror_is_the_source_without_a_trace_of_the_log_when_it_came_by_pages(
    pair: FollowedPair, page_size: int, encoding: str
) -> None:
    pair.create(f"PRAGMA page_size = {page_size}; PRAGMA encoding = '{encoding}'; {SCHEMA}", Limits())
    write_point(pair.db, "the log knows it", "operator")
    assert rungs(pair) == {"pages"}
    oracle.assert_same(pair.path, pair.store.mirror)
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        found = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert {name for name in found if name.startswith(("_rollrep_", "sqlite_stat"))} == {"_rollrep_state"}
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert (db.pragma("page_size"), db.pragma("encoding")) == (page_size, encoding)
    assert b"the log knows it" not in pair.store.mirror.read_bytes()
    before = pair.point()
    pair.do("UPDATE account SET body = 'later' WHERE id % 7 = 0")
    pair.do("INSERT INTO account(owner) VALUES ('new')")
    after = pair.point()
    pair.same()
    pair.same_at(*before)
    pair.same_at(*after)
    if encoding == "UTF-8":
        with pair.store.locked():
            found_at_rest = verify_at_rest(pair.store, lambda _name, _bytes: None)
        assert (found_at_rest.problems, found_at_rest.notes) == ([], [])


def test_pages_are_of_one_moment_when_the_application_writes_on(
    pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(SCHEMA, Limits())
    pack, rng = pages._Packer.pack, random.Random(5)
    writer = apsw.Connection(str(pair.path))

    def write_first(self: object, first: int, raw: bytes) -> tuple[PagePart, bytes]:
        with contextlib.closing(apsw.Connection(str(pair.path))) as db, db:
            db.execute("UPDATE account SET owner = owner || '.', body = zeroblob(?)", (rng.randrange(200),))
            db.execute("DELETE FROM pair WHERE n % 10 = ?", (rng.randrange(10),))
            db.execute("INSERT INTO bare SELECT v FROM bare LIMIT 100")
        return pack(self, first, raw)  # type: ignore[arg-type]

    monkeypatch.setattr(pages._Packer, "pack", write_first)
    with contextlib.closing(writer):
        assert rungs(pair) == {"pages"}
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_rows_travel_when_a_copy_by_pages_was_cut(pair: FollowedPair, share: float) -> None:
    """Pages begin again from the start; rows go on from where they were, whatever the line is like."""
    pair.create(SCHEMA, Limits())
    with pytest.raises(Temporary):
        pull_once(pair.store, pair.path, cut_after=int(120_000 * share))
    assert state_of(pair.store.mirror) is None
    pair.do("DELETE FROM account WHERE id < 1000")
    assert rungs(pair) == {"copy"}
    oracle.assert_same(pair.path, pair.store.mirror)
    assert not pair.store.pages.exists()


@pytest.mark.parametrize("why", ["slow", "excluded", "virtual", "journal", "refused"])
def test_rows_travel_when_pages_may_not(pair: FollowedPair, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.create(SCHEMA, Limits())
    if why == "slow":
        monkeypatch.setattr(pages, "LONGEST_S", 0.0)
        monkeypatch.setattr(pages, "JUDGED_S", 0.0)
    elif why == "excluded":
        install(pair.db, Limits(), exclude=("bare",))
    elif why == "virtual":
        pair.do("CREATE VIRTUAL TABLE words USING fts5(word)")
    elif why == "journal":
        pair.do("PRAGMA journal_mode = DELETE")
    else:
        columns = ", ".join(f"c{n}" for n in range(1_950))
        pair.do(f"CREATE TABLE refused({columns})")
    assert rungs(pair) == {"copy"}
    mirrored = {"account", "pair", "bare"} - ({"bare"} if why == "excluded" else set())
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        for table in mirrored:
            theirs = pair.db.execute(f"SELECT * FROM {table}").fetchall()
            assert db.execute(f"SELECT * FROM {table}").fetchall() == theirs


@pytest.mark.parametrize("added", ["CREATE VIEW other AS SELECT 1", "CREATE TABLE other(x)", "DROP INDEX body"])
def test_database_is_not_believed_when_its_schema_is_another(pair: FollowedPair, added: str) -> None:
    pair.create(SCHEMA, Limits())
    pull_once(pair.store, pair.path)
    state = state_of(pair.store.mirror)
    assert state is not None
    copy = pair.folder / "copy.db"
    pair.do("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(apsw.Connection(str(copy))) as db:
        db.execute(added)
    assert not make_ordinary(copy, state.layout)


def test_damaged_pages_are_not_believed(pair: FollowedPair) -> None:
    pair.create(SCHEMA, Limits())
    pull_once(pair.store, pair.path)
    state = state_of(pair.store.mirror)
    assert state is not None
    copy = pair.folder / "copy.db"
    pair.do("VACUUM INTO ?", (str(copy),))
    [(root,)] = pair.db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'pair'").fetchall()
    with copy.open("r+b") as file:
        file.seek((root - 1) * 4096 + 3)
        file.write(b"\x00\x7f")
    assert not make_ordinary(copy, state.layout)


@pytest.mark.parametrize("first, count", [(0, 1), (10**9, 1), (1, 7)])
def test_pages_beyond_those_announced_are_refused(
    pair: FollowedPair, first: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.create(SCHEMA, Limits())
    pack = pages._Packer.pack

    def lie(self: object, _first: int, raw: bytes) -> tuple[PagePart, bytes]:
        said, packed = pack(self, 1, raw)  # type: ignore[arg-type]
        return PagePart(first, count, said.image), packed

    monkeypatch.setattr(pages._Packer, "pack", lie)
    with pytest.raises(VerifyFailed, match="other pages"):
        pull_once(pair.store, pair.path)


def test_pages_are_refused_when_they_come_without_end(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.create(SCHEMA, Limits())
    monkeypatch.setattr(pages, "_runs", lambda _db: itertools.repeat((1, bytes(4096 * 4))))
    with pytest.raises(VerifyFailed, match="without end"):
        pull_once(pair.store, pair.path)


@pytest.mark.parametrize("seed", range(20))
def test_pages_are_the_same_when_unpacked_whatever_is_in_them(seed: int) -> None:
    rng = random.Random(seed)
    size = rng.choice([512, 1024, 4096])

    def page() -> bytes:
        drawn = bytearray(rng.randbytes(size))
        drawn[0] = rng.choice([0, 1, 2, 5, 10, 13, 255])
        drawn[3:5] = rng.choice([0, 1, 3, 40, size // 2, 60_000]).to_bytes(2, "big")
        drawn[5:7] = rng.choice([0, 8, 100, size - 1, size, 50_000]).to_bytes(2, "big")
        return bytes(drawn)

    raw = b"".join(page() for _ in range(rng.randrange(30)))
    packed = pack_pages(raw, size, blanks=False)
    assert unpack_pages(packed, size) == raw
    assert len(pack_pages(raw, size, blanks=True)) == len(packed)
    for _ in range(20):
        damaged = bytearray(packed)
        if damaged:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        cut = bytes(damaged[: rng.choice([None, -1, len(damaged) // 2])])
        with contextlib.suppress(ValueError):
            unpack_pages(cut, size)


def test_offer_of_too_many_pages_is_refused(pair: FollowedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.create(SCHEMA, Limits())
    asked = session.Session.ask_pages

    def many(self: session.Session, wanted: object) -> object:
        said = asked(self, wanted)  # type: ignore[arg-type]
        return type(said)(said.facts, 1 << 40)  # type: ignore[union-attr,call-arg]

    monkeypatch.setattr(session.Session, "ask_pages", many)
    with pytest.raises(RollrepError, match="offered"):
        pull_once(pair.store, pair.path)


@pytest.mark.parametrize("pulled_before", [False, True])
def test_pull_is_temporary_when_the_source_says_nothing_of_its_tables(
    pulled_before: bool, pair: FollowedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the answer to another hello, on a line that doubles what it carries."""
    pair.create(SCHEMA, Limits())
    if pulled_before:
        pull_once(pair.store, pair.path)
        pair.do("CREATE TABLE later(v)")
    hello = session.Session.hello
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "hello", lambda *args: msgspec.structs.replace(hello(*args), layout=None))
        with pytest.raises(Temporary, match="what its tables are"):
            pull_once(pair.store, pair.path)
    pull_once(pair.store, pair.path)
    oracle.assert_same(pair.path, pair.store.mirror)
