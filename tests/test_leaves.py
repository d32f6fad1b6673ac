"""Leaves of a table's b-tree: what they tell of rows, and a mirror that is compared by them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import msgspec
import oracle
import pytest
from pair import Pair
from sources import pull_once

from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.core.nouns import Shape
from rollrep.destination import sweep
from rollrep.destination.leaves import BY_ROWS, PAGES_JUDGED, Match, OwnLeaves, Wanted, sure
from rollrep.destination.pull import Outcome
from rollrep.leaf_pages import LeafPages
from rollrep.source import leaves as source_leaves
from rollrep.source import pages as source_pages
from rollrep.source.log import Meta
from rollrep.source.tables import Limits
from rollrep.wire import leaves, messages
from rollrep.wire.leaves import NO_LEAF, cells_of, key_at, key_of, read_leaf, rowid_key, rowids
from rollrep.wire.messages import KeyRange
from rollrep.wire.session import Session

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);"
FILL = (
    "INSERT INTO t WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {}) SELECT i, {}, i FROM c"
)
T = 'main."t" AS t NOT INDEXED', 't."id"'
MANY = 1 << 20


def database(path: Path, *statements: str, page_size: int = 4096) -> apsw.Connection:
    db = apsw.Connection(str(path))
    for statement in (f"PRAGMA page_size = {page_size}", "PRAGMA journal_mode = WAL", *statements):
        db.execute(statement).fetchall()
    return db


@contextlib.contextmanager
def leaf_pages(path: Path, most_bytes: int = MANY) -> Iterator[LeafPages]:
    pages = LeafPages(lambda vfs: apsw.Connection(str(path), vfs=vfs), most_bytes)
    try:
        yield pages
    finally:
        pages.close()


def pages_of(path: Path) -> list[bytes]:
    with leaf_pages(path) as pages:
        seen = pages.within(*T, None, None)
    assert seen is not None
    return seen.pages


# what a leaf tells


def test_leaf_tells_the_same_however_its_cells_lie(tmp_path: Path) -> None:
    """The same rows, written in order and in another one, with holes between them, and after holes were filled."""
    rng = random.Random(1)
    rows = [(key, rng.randbytes(rng.randrange(40)).hex(), key) for key in range(-5, 25)]
    written = {
        "in order": [rows],
        "in another": [rng.sample(rows, len(rows))],
        "with holes": [[(key + 100, a * 2, b) for key, a, b in rows[:9]], rows],
    }
    found = {}
    for name, parts in written.items():
        with contextlib.closing(database(tmp_path / name, TABLE)) as db:
            for part in parts:
                db.executemany("INSERT INTO t VALUES (?, ?, ?)", part)
            db.execute("DELETE FROM t WHERE id >= 90")
            db.execute(
                "UPDATE t SET a = a || a WHERE id % 3 = 0; UPDATE t SET a = substr(a, 1, length(a) / 2) WHERE id % 3 = 0"
            )
            db.execute("UPDATE t SET a = 'other' WHERE id = 7")
            [page] = pages_of(tmp_path / name)
            found[name] = page
            assert [key_of(cell) for cell in cells_of(page)] == [row[0] for row in rows]
    assert len(set(found.values())) == 3, "else nothing is tried"
    assert len({read_leaf(page)[0] for page in found.values()}) == 1


@pytest.mark.parametrize(
    "change",
    ["a = a || ''", "a = CAST(a AS BLOB)", "b = b + 0.0", "b = NULL", "a = replace(a, '1', '2')", "id = id + 100"],
)
def test_leaf_tells_another_when_a_value_is(change: str, tmp_path: Path) -> None:
    with contextlib.closing(database(tmp_path / "t.db", TABLE, FILL.format(20, "hex(i)"))) as db:
        before = read_leaf(pages_of(tmp_path / "t.db")[0])[0]
        db.execute(f"UPDATE t SET {change} WHERE id = 11")
        after = read_leaf(pages_of(tmp_path / "t.db")[0])[0]
    assert (before != after) == (change != "a = a || ''")


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_leaf_tells_nothing_when_a_row_has_overflow_pages(page_size: int, tmp_path: Path) -> None:
    largest = page_size - 35
    with contextlib.closing(database(tmp_path / "t.db", TABLE, page_size=page_size)) as db:
        told = []
        for length in [*range(largest - 12, largest + 3), 3 * page_size, 100_000]:
            db.execute("REPLACE INTO t VALUES (1, zeroblob(?), NULL)", (length,))
            overflows = bool(db.execute("SELECT count(*) FROM dbstat WHERE name = 't' AND pagetype = 'overflow'").get)
            [page] = pages_of(tmp_path / "t.db")
            told.append(overflows)
            assert (read_leaf(page)[0] == NO_LEAF) == overflows, length
            assert leaves.tells_all(page) != overflows, length
            assert leaves.cell_digests(cells_of(page), page_size, "") == [leaves.NO_CELL] or not overflows
        assert {True, False} == set(told)


@pytest.mark.parametrize("key", [0, 1, -1, 127, 128, 2**14, 2**55, 2**56 - 1, 2**56, 2**62, 2**63 - 1, -(2**63)])
def test_key_is_read_when_it_takes_any_number_of_bytes(key: int, tmp_path: Path) -> None:
    with contextlib.closing(database(tmp_path / "t.db", TABLE)) as db:
        db.execute("INSERT INTO t VALUES (?, zeroblob(200), 1)", (key,))
        [page] = pages_of(tmp_path / "t.db")
    assert key_at(page, 0) == key_at(page, -1) == key
    assert rowids(KeyRange(rowid_key(key), None)) == (key, None)


def test_damaged_page_is_an_error_of_ours_or_tells_something(tmp_path: Path) -> None:
    with contextlib.closing(database(tmp_path / "t.db", TABLE, FILL.format(20, "hex(i)"), page_size=512)):
        good = pages_of(tmp_path / "t.db")[0]
    rng = random.Random(7)
    broken = 0
    for _ in range(3_000):
        page = bytearray(good)
        for _ in range(rng.choice([1, 2, 20])):
            page[rng.choice([rng.randrange(50), rng.randrange(512)])] = rng.choice(
                [0, 13, 128, 255, rng.randrange(256)]
            )
        broken += read_leaf(bytes(page))[0] == NO_LEAF
        assert leaves.tells_all(bytes(page)) == (read_leaf(bytes(page))[0] != NO_LEAF)
        with contextlib.suppress(leaves.Broken):
            key_at(bytes(page), -1)
    assert broken > 100


# which leaves are seen


def test_leaves_are_those_of_the_rows_wherever_they_lie(tmp_path: Path) -> None:
    """In the file, in the WAL, known to SQLite already; any part of the keys, and at most so many at once."""
    path = tmp_path / "t.db"
    with contextlib.closing(database(path, TABLE, FILL.format(3_000, "hex(randomblob(i % 50))"))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        db.execute("UPDATE t SET a = hex(randomblob(id % 70)) WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0")
        keys = [key for (key,) in db.execute("SELECT id FROM t")]
        rng = random.Random(2)
        with leaf_pages(path) as all_pages, leaf_pages(path, 5 * 4096) as few_pages:
            for _ in range(200):
                low, high = sorted(rng.sample(range(-10, 3_100), 2))
                after, through = rng.choice([None, low]), rng.choice([None, high])
                wanted = [key for key in keys if (after is None or key > after) and (through is None or key <= through)]
                seen = all_pages.within(*T, after, through)
                assert seen is not None
                assert (seen.rows, seen.last) == (len(wanted), None)
                assert set(wanted) <= keys_of(seen.pages)
                rows = rng.choice([1, 7, 300, 10_000])
                for pages in (all_pages, few_pages):
                    first = pages.first(*T, after, through, rows)
                    assert first is not None
                    given = [key for key in wanted if first.last is None or key <= first.last]
                    assert first.rows == len(given) >= min(rows, len(wanted), 50)
                    assert set(given) <= keys_of(first.pages)
                    assert len(first.pages) <= (5 if pages is few_pages else MANY)


def keys_of(pages: Sequence[bytes]) -> set[int]:
    return {key_of(cell) for page in pages for cell in cells_of(page)}


def test_no_leaves_are_told_when_not_all_were_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.db"
    with contextlib.closing(database(path, TABLE, FILL.format(3_000, "hex(i)"))), leaf_pages(path) as pages:
        assert pages.within(*T, None, None) is not None
        seen = pages._seen
        monkeypatch.setattr(pages, "_seen", lambda ask: (seen(ask)[0][1:], seen(ask)[1]))
        assert pages.within(*T, None, None) is None


def test_no_leaves_are_told_when_pages_keep_their_ends_for_something_else(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.reserve_bytes("main", 8)
        db.execute(TABLE + FILL.format(30, "hex(i)"))
        with leaf_pages(path) as pages:
            assert pages.within(*T, None, None) is None


# what is compared with what


@pytest.mark.parametrize("seed", range(60))
def test_every_row_that_differs_lies_in_a_range_when_two_tables_went_apart(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    rows, step = rng.choice([0, 1, 5, 100, 1_000]), rng.choice([1, 3])
    paths = tmp_path / "theirs.db", tmp_path / "ours.db"
    fill = FILL.format(rows, f"hex(randomblob(i % {rng.choice([5, 50])}))").replace("SELECT i,", f"SELECT i * {step},")
    with contextlib.closing(database(paths[0], TABLE, fill, page_size=rng.choice([512, 1024, 4096]))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        paths[1].write_bytes(paths[0].read_bytes())
    for path in paths:
        with contextlib.closing(apsw.Connection(str(path))) as db:
            for _ in range(rng.choice([0, 1, 3, 20])):
                low = rng.randrange(rows * step + 5)
                go_apart(db, rng, low, low + rng.choice([0, 1, 5, 100]))
            if rng.random() < 0.1:
                db.execute("VACUUM").fetchall()
    after, through = (rng.choice([None, rng.randrange(-2, rows * step + 50)]) for _ in range(2))
    if after is not None and through is not None and after >= through:
        after = None
    ranges = [rowids(each) for each in compared(*paths, after, through, rng, of_pages=seed % 2 == 0)]
    first, second = (rows_in(path, after, through) for path in paths)
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    within = {key for key in first.keys() | second.keys() for low, high in filter(None, ranges)
              if (low is None or key > low) and (high is None or key <= high)}  # fmt: skip
    assert differing <= within, "rows differ that nobody would fetch"
    if not any(len(row[1] or "") > 400 for row in [*first.values(), *second.values()]):
        assert within == differing, "rows would be fetched that are equal"


def go_apart(db: apsw.Connection, rng: random.Random, low: int, high: int) -> None:
    statement = rng.choice([
        "UPDATE t SET b = -b WHERE id BETWEEN ?1 AND ?2", "DELETE FROM t WHERE id BETWEEN ?1 AND ?2",
        f"UPDATE t SET a = hex(zeroblob({rng.choice([0, 3, 40, 400, 3_000])})) WHERE id BETWEEN ?1 AND ?2",
        "INSERT OR IGNORE INTO t WITH RECURSIVE c(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM c WHERE i < ?2)"
        " SELECT i, 'n', 1 FROM c",
    ])  # fmt: skip
    db.execute(statement, (low, high))


def compared(
    theirs: Path, ours: Path, after: int | None, through: int | None, rng: random.Random, *, of_pages: bool
) -> Iterator[KeyRange]:
    """The ranges that a sweep would look into, stretch by stretch."""
    with leaf_pages(theirs) as source, leaf_pages(ours) as mirror:
        while True:
            told = source.first(*T, after, through, rng.choice([1, 7, 100, 10_000]))
            assert told is not None
            end = through if told.last is None else told.last
            seen = mirror.within(*T, after, end)
            assert seen is not None
            digests = [digest for digest, _ in leaves.tell_leaves(told.pages, of_pages=of_pages)]
            ours = leaves.tell_leaves(seen.pages, of_pages=of_pages)
            same = digests == [digest for digest, _ in ours] and rng.random() < 0.5
            match = Match(None if same else digests, sure(ours, seen.pages) if of_pages else ours, seen.pages,
                          KeyRange(rowid_key(after), rowid_key(end)))  # fmt: skip
            yield from match.unclear
            raw = leaves.pack_cells([cells_of(told.pages[leaf]) for leaf in match.wanted], source.page_size, match.key)
            yield from match.differing(leaves.unpack_cells(raw, len(match.wanted)))
            if told.last is None:
                return
            assert after is None or told.last > after
            after = told.last


def rows_in(path: Path, after: int | None, through: int | None) -> dict[int, tuple[object, ...]]:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        found = db.execute(
            "SELECT * FROM t WHERE (?1 IS NULL OR id > ?1) AND (?2 IS NULL OR id <= ?2)", (after, through)
        )
        return {row[0]: row for row in found}


# a mirror


class LeavesPair(Pair):
    """Its log forgets everything; what differs then is found by leaves."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[object] = []

    def start(self, schema: str) -> None:
        self.create(schema, Limits(keep_rows=50, keep_keys=0))
        self.do("CREATE TABLE other(id INTEGER PRIMARY KEY, v)")
        pull_once(self.store, self.path)

    def mirror(self) -> Outcome:
        """Mirrors again all of it, the log gone."""
        for n in range(200):
            self.do("REPLACE INTO other VALUES (1, ?)", (n,))
        self.asked.clear()
        outcome = pull_once(self.store, self.path, mirror=True)
        assert rows_in(self.path, None, None) == rows_in(self.store.mirror, None, None)
        return outcome

    def fetched(self, outcome: Outcome, table: str = "t") -> int:
        [rows] = [each.rows for each in outcome.moved if each.table == table]
        return rows

    def times(self, kind: type[messages.Message]) -> int:
        return sum(isinstance(each, kind) for each in self.asked)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LeavesPair]:
    made, say = LeavesPair(tmp_path), Session._say
    monkeypatch.setattr(Session, "_say", lambda self, message: (made.asked.append(message), say(self, message))[1])
    yield made
    made.db.close()


SCATTERED = "UPDATE t SET a = 'changed' WHERE id % 100 = 1"


def test_only_rows_that_changed_are_asked_for_when_leaves_are_compared(pair: LeavesPair) -> None:
    pair.start(TABLE + FILL.format(20_000, "hex(randomblob(30))"))
    pair.do(f"{SCATTERED}; DELETE FROM t WHERE id % 1000 = 2; INSERT INTO t VALUES (-7, 'new', 1), (30000, 'new', 2)")
    assert pair.fetched(pair.mirror()) == 200 + 20 + 2
    oracle.assert_same(pair.path, pair.store.mirror)
    keys = [span for ask in pair.asked if isinstance(ask, messages.SendRows) for span in ask.ranges]
    assert len(keys) >= 200, "rows beside them are not asked for"
    assert not pair.times(messages.SendGroups)


def test_rows_are_told_when_pages_differ_in_how_rows_lie_there(
    pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_leaves, "FIRST_CHUNK_ROWS", 300)
    monkeypatch.setattr(source_leaves, "STRETCH_ROWS", 300)
    pair.start(TABLE + FILL.format(10_000, "hex(randomblob(30))"))
    before = pages_of(pair.path)
    pair.do("UPDATE t SET a = a || 'x' WHERE id < 5000; UPDATE t SET a = rtrim(a, 'x') WHERE id < 5000")
    assert len(set(before) & set(pages_of(pair.path))) < 0.7 * len(before), "else nothing is tried"
    assert pair.fetched(pair.mirror()) == 0
    of_pages = [ask.of_pages for ask in pair.asked if isinstance(ask, messages.SendStretch) and ask.shape == 1]
    assert of_pages[0]
    assert 5 < of_pages.count(False) < 25
    assert all(of_pages[-2:]), "where they are equal again, pages are enough"
    assert pair.times(messages.SendCells) <= 5, "of the first, which are too few to judge, and where both meet"


def test_pages_are_looked_at_again_when_rows_were_told_for_a_while() -> None:
    def match(theirs: list[bytes] | None, leaves: int) -> Match:
        return Match(theirs, [(b"ours %d" % n, None) for n in range(leaves)], [page] * leaves, KeyRange(None, None))

    wanted, page = Wanted(), b"\r" + bytes(511)
    few, apart, alike = match([b"theirs"], 1), match([b"theirs"] * PAGES_JUDGED, PAGES_JUDGED), match(None, 1)
    assert wanted.learn(few, of_pages=True)
    assert not wanted.learn(apart, of_pages=True)
    for _ in range(BY_ROWS):
        assert not wanted.of_pages
        assert wanted.learn(alike, of_pages=False)
    assert wanted.of_pages


def test_little_is_said_when_nothing_differs(pair: LeavesPair) -> None:
    pair.start(TABLE + FILL.format(20_000, "hex(randomblob(30))"))
    outcome = pair.mirror()
    assert pair.fetched(outcome) == 0
    [moved] = [each for each in outcome.moved if each.table == "t"]
    assert moved.bytes is not None
    assert moved.bytes < 3_000
    assert {type(ask) for ask in pair.asked if getattr(ask, "shape", 0) == 1} == {messages.SendStretch}


@pytest.mark.parametrize("copied_by", ["rows", "pages"])
@pytest.mark.parametrize("rows", ["id = 700", "id % 90 = 0", "1"])
def test_rows_with_overflow_pages_arrive_when_only_these_changed(
    rows: str, copied_by: str, pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands on the leaf is as it was: length, beginning and number of the overflow page."""
    if copied_by == "pages":
        monkeypatch.setattr(source_pages, "LEAST_BYTES", 0)
    pair.start(TABLE + FILL.format(900, "CASE WHEN i % 90 = 0 OR i = 700 THEN zeroblob(9000) ELSE i END"))
    before = dict.fromkeys(pages_of(pair.path))
    for (key,) in pair.db.execute(f"SELECT id FROM t WHERE ({rows}) AND typeof(a) = 'blob'").fetchall():
        with pair.db.blob_open("main", "t", "a", key, True) as blob:
            blob.seek(8_990)
            blob.write(b"changed")
    assert dict.fromkeys(pages_of(pair.path)) == before, "else leaves tell it"
    if copied_by == "pages":
        assert dict.fromkeys(pages_of(pair.store.mirror)) == before, "else pages tell it"
    pair.mirror()


def test_leaves_are_left_alone_when_they_are_not_cut_alike(pair: LeavesPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_leaves, "FIRST_CHUNK_ROWS", 500)
    monkeypatch.setattr(source_leaves, "STRETCH_ROWS", 500)
    monkeypatch.setattr(sweep, "LEAVES_JUDGED", 20)
    pair.start(TABLE + FILL.format(20_000, "hex(randomblob(30))"))
    pair.do("DELETE FROM t WHERE id < 5; UPDATE t SET b = -b WHERE id % 7 = 0; VACUUM")
    assert pair.fetched(pair.mirror()) < 20_000
    stretches = [ask for ask in pair.asked if isinstance(ask, messages.SendStretch) and ask.shape == 1]
    assert 0 < sum(bool(ask.leaves) for ask in stretches) < 10
    assert not stretches[-1].leaves


def nothing(*_: object) -> None:
    """Neither leaves nor pages."""


def not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_leaves.Leaves, "stretch", nothing)


def not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnLeaves, "within", nothing)


def not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_leaves, "KEPT", 0)


def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_leaves, "MOST_BYTES", 20_000)
    monkeypatch.setattr(source_leaves, "FIRST_CHUNK_ROWS", 10_000)


def told_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a source does that knows of no other way."""
    stretch = source_leaves.Leaves.stretch

    def of_rows(self: source_leaves.Leaves, meta: Meta, shape: Shape, wanted: messages.SendStretch) -> object:
        return stretch(self, meta, shape, msgspec.structs.replace(wanted, of_pages=False))

    monkeypatch.setattr(source_leaves.Leaves, "stretch", of_rows)


def of_another_page_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnLeaves, "tell", lambda *_: False)


@pytest.mark.parametrize(
    "circumstance", [not_told, not_seen, not_kept, few_at_once, told_of_rows, of_another_page_size]
)
def test_mirror_is_the_source_when_leaves_or_cells_are(
    circumstance: object, pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    circumstance(monkeypatch)  # type: ignore[operator]
    pair.start(TABLE + FILL.format(5_000, "hex(randomblob(30))"))
    pair.do(SCATTERED)
    assert 50 <= pair.fetched(pair.mirror()) <= 1_000


def test_leaves_are_not_compared_when_the_mirror_has_another_text_of_the_table(pair: LeavesPair) -> None:
    pair.start(TABLE + FILL.format(50, "hex(i)"))
    pair.do(SCATTERED)
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'a, b', 'a,  b')"
        ).fetchall()
    pair.mirror()
    asked = {ask.shape: ask.leaves for ask in pair.asked if isinstance(ask, messages.SendStretch)}
    assert asked[1] == "", "a default may be another"
    assert asked[2] != ""


# a source that lies


LIES = {
    "stands still": {"last_key": ("i:0",)},
    "goes back": {"last_key": ("i:-5",)},
    "has no number": {"last_key": ("t:61",)},
    "has two values": {"last_key": ("i:1", "i:2")},
    "tells them as one for ever": {"image": None, "digest": "0" * 64},
}


@pytest.mark.parametrize("lie", LIES)
def test_pull_ends_with_an_error_when_what_is_said_of_leaves(
    lie: str, pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(TABLE + FILL.format(2_000, "hex(randomblob(30))"))
    pair.do(SCATTERED)
    told = source_leaves.Leaves.stretch

    def lies(*how: object) -> object:
        found = told(*how)  # type: ignore[arg-type]
        if found is None or found[1] is None:
            return found
        [tail, (said, packed)] = found
        said = msgspec.structs.replace(said, **LIES[lie])
        return tail, (said, packed if said.image else None)

    monkeypatch.setattr(source_leaves.Leaves, "stretch", lies)
    with pytest.raises(RollrepError):
        pair.mirror()


def test_digests_are_refused_before_they_are_unpacked_when_they_are_too_many(
    pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(TABLE + FILL.format(2_000, "hex(randomblob(30))"))
    pair.do(SCATTERED)
    monkeypatch.setattr(sweep, "MOST_BYTES", 100)
    with pytest.raises(VerifyFailed, match="bytes of a few leaves"):
        pair.mirror()


@pytest.mark.parametrize("which", [(-1,), (1 << 62,), (5,) * 3_000])
def test_source_refuses_or_tells_when_leaves_are_asked_for_by_numbers_that_are_none(
    which: tuple[int, ...], pair: LeavesPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(TABLE + FILL.format(2_000, "hex(randomblob(30))"))
    pair.do(SCATTERED)
    monkeypatch.setattr(Match, "wanted", property(lambda _: which))
    with pytest.raises(RollrepError):
        pair.mirror()


@pytest.mark.parametrize("raw", [b"\0", b"\xff\xff" + bytes(8), b"\0\0", b"\0\1" + bytes(9)])
def test_cells_are_refused_when_they_are_not_those_of_so_many_leaves(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not the rows"):
        leaves.unpack_cells(raw, 1 if raw != b"\0\0" else 2)


def test_digests_of_rows_can_not_be_foreseen_when_they_are_short(pair: LeavesPair) -> None:
    """Eight bytes: who knew what they are a digest of could find two rows that have the same in an afternoon."""
    rows = [b"a cell", b"another"]
    assert not set(leaves.cell_digests(rows, 4096, "one key")) & set(leaves.cell_digests(rows, 4096, "another"))
    pair.start(TABLE + FILL.format(20_000, "hex(randomblob(30))"))
    keys = []
    for n in range(2):
        pair.do(SCATTERED.replace("changed", f"changed {n}"))
        pair.mirror()
        keys += [ask.key for ask in pair.asked if isinstance(ask, messages.SendCells)]
    assert len(set(keys)) == len(keys) >= 2
