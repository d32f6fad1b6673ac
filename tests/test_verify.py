"""`rollrep verify`: what bypasses triggers is found and repaired, late is not wrong, a flipped byte is named."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import make
import oracle
import pytest
from pair import Pair
from sources import Application, copy_source, pull_once, recompute, session

from rollrep.core.errors import VerifyFailed
from rollrep.destination import compare
from rollrep.destination.at_rest import AtRest, verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.pull import Wishes
from rollrep.destination.store import Store
from rollrep.destination.verify import Asked, Verified, verify_against_source
from rollrep.source import digests, reader
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits


class VerifiedPair(Pair):
    """A source, its mirror, and what verifying says of them."""

    bytes_received = 0

    def start(self, schema: str, *, keep_rows: int = 100_000) -> None:
        self.create(schema, Limits(keep_rows=keep_rows))
        self.pull()

    def pull(self) -> None:
        pull_once(self.store, self.path)

    def unseen(self, sql: str, bindings: tuple[object, ...] = ()) -> None:
        """Writes to the source past the triggers."""
        with contextlib.closing(apsw.Connection(str(self.path))) as db:
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            db.execute(sql, bindings or None).fetchall()

    def by_hand(self, sql: str) -> None:
        """Edits the mirror."""
        with contextlib.closing(apsw.Connection(str(self.store.mirror))) as db:
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            db.execute(sql).fetchall()

    def verify(self, *tables: str, repair: bool = False) -> Verified:
        with session() as talk, self.store.locked():
            found = verify_against_source(
                self.store, talk, Wishes(str(self.path)), Asked(tables, repair), lambda _table, _rows: None
            )
            self.bytes_received = talk.bytes_received
        return found

    def at_rest(self) -> AtRest:
        with self.store.locked():
            return verify_at_rest(self.store, lambda _name, _bytes: None)

    def restored_at(self, log_id: int, *, oldest_line: bool = False) -> Path:
        """The point with that log id, restored; of the newest line that has it, unless told otherwise."""
        return self.restored(self.points_at(log_id)[0 if oldest_line else -1])


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[VerifiedPair]:
    made = VerifiedPair(tmp_path)
    yield made
    made.db.close()


def differing(found: Verified) -> dict[str, tuple[int, list[str]]]:
    return {t.table: (t.compared.differing, t.compared.keys) for t in found.tables if t.compared.differing}


ACCOUNT = "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city);"
FILLED = (
    ACCOUNT + "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000)"
    " INSERT INTO account SELECT i, 'owner ' || i, zeroblob(8) FROM c"
)


def blob_write(pair: VerifiedPair) -> None:
    with pair.db.blob_open("main", "account", "city", 1500, True) as blob:
        blob.write(b"changed!")


def without_triggers(sql: str) -> Callable[[VerifiedPair], None]:
    return lambda pair: pair.unseen(sql)


def in_mirror(sql: str) -> Callable[[VerifiedPair], None]:
    return lambda pair: pair.by_hand(sql)


@pytest.mark.parametrize(
    ("bypass", "keys"),
    [
        pytest.param(blob_write, ["1500"], id="sqlite3_blob_write"),
        pytest.param(without_triggers("UPDATE account SET city = 'x' WHERE id = 7"), ["7"], id="update, no triggers"),
        pytest.param(without_triggers("DELETE FROM account WHERE id = 3000"), ["3000"], id="delete, no triggers"),
        pytest.param(without_triggers("INSERT INTO account VALUES (-5, 'z', 1)"), ["-5"], id="insert, no triggers"),
        pytest.param(
            without_triggers("UPDATE account SET id = 9000 WHERE id = 1"), ["1", "9000"], id="key, no triggers"
        ),
        pytest.param(without_triggers("DELETE FROM account"), None, id="all deleted, no triggers"),
        pytest.param(in_mirror("UPDATE account SET city = 'x' WHERE id = 2"), ["2"], id="mirror updated"),
        pytest.param(in_mirror("DELETE FROM account WHERE id IN (1, 2, 17)"), ["1", "2", "17"], id="mirror deleted"),
        pytest.param(in_mirror("INSERT INTO account VALUES (5000, 'z', 1)"), ["5000"], id="mirror inserted"),
        pytest.param(in_mirror("DELETE FROM account"), None, id="mirror emptied"),
    ],
)
def test_bypass_is_found_and_repaired_when_no_trigger_saw_it(
    pair: VerifiedPair, bypass: Callable[[VerifiedPair], None], keys: list[str] | None
) -> None:
    pair.start(FILLED)
    assert pair.verify().equal
    bypass(pair)
    found = pair.verify()
    assert not found.equal
    if keys is not None:
        assert differing(found) == {"account": (len(keys), keys)}
    else:
        assert differing(found)["account"][0] == 3000
    repaired = pair.verify(repair=True)
    assert repaired.equal
    assert differing(repaired) == differing(found)
    oracle.assert_same(pair.path, pair.store.mirror)
    assert differing(pair.verify()) == {}
    assert pair.at_rest().problems == []


@pytest.mark.parametrize(
    ("source", "mirror"),
    [
        ("1", "1.0"), ("0.0", "-0.0"), ("'1'", "1"), ("NULL", "''"), ("''", "x''"), ("'a'", "'A'"), ("'a'", "x'61'"),
        ("CAST(x'61ff' AS TEXT)", "CAST(x'61fe' AS TEXT)"), ("'a' || char(0) || 'b'", "'a' || char(0) || 'c'"),
        ("1e308 * 10", "1.7976931348623157e308"), ("9223372036854775807", "9223372036854775806"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_value_is_found_when_only_its_storage_class_or_a_bit_differs(
    pair: VerifiedPair, source: str, mirror: str, encoding: str
) -> None:
    literal = {"0.0": 0.0, "-0.0": -0.0}  # SQLite's parser makes both the same
    pair.start(
        f"PRAGMA encoding = '{encoding}'; CREATE TABLE t(id INTEGER PRIMARY KEY, v, n COLLATE NOCASE);"
        f"INSERT INTO t VALUES (1, {source}, 'x'), (2, 'same', 'same')"
    )
    assert pair.verify().equal
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        if mirror in literal:
            db.execute("UPDATE t SET v = ? WHERE id = 1", (literal[mirror],))
        else:
            db.execute(f"UPDATE t SET v = {mirror}, n = 'x' WHERE id = 1")
    assert differing(pair.verify()) == {"t": (1, ["1"])}
    assert pair.verify(repair=True).equal
    oracle.assert_same(pair.path, pair.store.mirror)


def test_invalid_utf16_is_told_apart_when_it_would_be_the_same_as_utf8(pair: VerifiedPair) -> None:
    pair.start("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    pair.do("INSERT INTO t VALUES (1, CAST(x'00dc6100' AS TEXT)), (2, CAST(x'61' AS TEXT))")
    assert pair.verify().equal
    pair.by_hand("UPDATE t SET v = CAST(x'00d86100' AS TEXT) WHERE id = 1")
    assert differing(pair.verify()) == {"t": (1, ["1"])}


def test_points_are_as_recorded_before_a_repair_and_right_after_it(pair: VerifiedPair) -> None:
    pair.start(FILLED)
    before = pair.point()
    pair.pull()
    pair.unseen("UPDATE account SET city = 'unseen' WHERE id = 42")
    pair.do("UPDATE account SET city = 'seen' WHERE id = 43")
    assert pair.verify(repair=True).equal
    pair.do("UPDATE account SET city = 'later' WHERE id = 44")
    after = pair.point()
    pair.pull()
    oracle.assert_same(before[1], pair.restored_at(before[0]))
    oracle.assert_same(after[1], pair.restored_at(after[0]))


def test_restore_is_right_when_the_source_stood_still_around_a_repair(pair: VerifiedPair) -> None:
    pair.start(FILLED)
    pair.unseen("UPDATE account SET city = 'unseen' WHERE id = 42")
    assert pair.verify(repair=True).equal
    pair.do("UPDATE account SET city = 'later' WHERE id = 44")
    after = pair.point()
    pair.pull()
    oracle.assert_same(after[1], pair.restored_at(after[0]))
    with Catalog(pair.store.catalog) as catalog:
        first = restorable(catalog)[0]
    with contextlib.closing(apsw.Connection(str(pair.restored_at(first.id, oldest_line=True)))) as db:
        [(city,)] = db.execute("SELECT city FROM account WHERE id = 42")
    assert city == bytes(8), "the old line gives what was recorded"


def test_repair_that_dies_leaves_no_wrong_restore_when_the_next_pull_goes_on(
    pair: VerifiedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(FILLED)
    pair.unseen("UPDATE account SET city = 'unseen' WHERE id = 42")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("rollrep.destination.verify.take_snapshot", die)
        pair.verify(repair=True)
    pair.do("UPDATE account SET city = 'later' WHERE id = 44")
    after = pair.point()
    pair.pull()
    oracle.assert_same(after[1], pair.restored_at(after[0]))
    assert pair.at_rest().problems == []


def test_unique_values_that_swapped_unseen_are_repaired(pair: VerifiedPair) -> None:
    pair.start(FILLED)
    pair.unseen("UPDATE account SET owner = 'tmp' WHERE id = 10")
    pair.unseen("UPDATE account SET owner = 'owner 10' WHERE id = 2900")
    pair.unseen("UPDATE account SET owner = 'owner 2900' WHERE id = 10")
    assert pair.verify(repair=True).equal
    oracle.assert_same(pair.path, pair.store.mirror)


def test_only_tables_asked_for_are_compared_when_a_glob_is_given(pair: VerifiedPair) -> None:
    pair.start("CREATE TABLE aa(id INTEGER PRIMARY KEY); CREATE TABLE ab(id INTEGER PRIMARY KEY); CREATE TABLE c(x)")
    pair.by_hand("INSERT INTO aa VALUES (1)")
    pair.by_hand("INSERT INTO c VALUES (1)")
    found = pair.verify("a?")
    assert [table.table for table in found.tables] == ["aa", "ab"]
    assert differing(found) == {"aa": (1, ["1"])}


def test_schema_is_said_to_differ_when_somebody_changed_the_mirrors(pair: VerifiedPair) -> None:
    pair.start(ACCOUNT + "CREATE INDEX city ON account(city)")
    pair.by_hand("DROP INDEX city")
    pair.by_hand("CREATE TABLE mine(x)")
    found = pair.verify()
    assert found.schema == ["index city is missing in the mirror", "table mine is only in the mirror"]
    assert not found.equal


def test_triggers_removed_by_writable_schema_are_noticed_when_verifying(pair: VerifiedPair) -> None:
    pair.start(FILLED)
    with contextlib.closing(apsw.Connection(str(pair.path))) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("DELETE FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'account'")
    with contextlib.closing(apsw.Connection(str(pair.path))) as db:
        db.execute("UPDATE account SET city = 'unseen' WHERE id = 42")
    assert pair.verify().equal
    oracle.assert_same(pair.path, pair.store.mirror)


KEYS = {
    "rowid": ("CREATE TABLE t(a, b)", "INSERT INTO t(rowid, a, b) VALUES (?1, ?2, ?3)"),
    "rowid with index": ("CREATE TABLE t(a, b); CREATE INDEX i ON t(a, b)", "INSERT INTO t(rowid, a, b) VALUES (?1, ?2, ?3)"),
    "integer": ("CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE INDEX i ON t(a, b, id)", "INSERT INTO t VALUES (?1, ?2, ?3)"),
    "text": ("CREATE TABLE t(k TEXT PRIMARY KEY, a, b) WITHOUT ROWID", "INSERT INTO t VALUES ('key ' || ?1, ?2, ?3)"),
    "untyped": (
        "CREATE TABLE t(k PRIMARY KEY, a, b) WITHOUT ROWID",
        "INSERT INTO t VALUES (CASE ?1 % 4 WHEN 0 THEN ?1 WHEN 1 THEN ?1 / 7.0 WHEN 2 THEN 'k' || ?1 ELSE"
        " CAST('k' || ?1 AS BLOB) END, ?2, ?3)",
    ),
    "nocase": (
        "CREATE TABLE t(k TEXT COLLATE NOCASE, n INT, a, b, PRIMARY KEY(k, n)) WITHOUT ROWID; CREATE INDEX i ON t(n, a, b)",
        "INSERT INTO t VALUES (CASE ?1 % 3 WHEN 0 THEN 'Key' WHEN 1 THEN 'key' ELSE 'a' END, ?1, ?2, ?3)",
    ),
    "key of another collation": (
        "CREATE TABLE t(k TEXT COLLATE NOCASE, a, b, PRIMARY KEY(k COLLATE BINARY)) WITHOUT ROWID",
        "INSERT INTO t VALUES (CASE ?1 % 2 WHEN 0 THEN 'key' ELSE 'KEY' END || (?1 / 2), ?2, ?3)",
    ),
    "descending": (
        "CREATE TABLE t(x INT, y INT, a, b, PRIMARY KEY(x, y DESC)) WITHOUT ROWID; CREATE INDEX i ON t(y, a, b)",
        "INSERT INTO t VALUES (?1 % 5, ?1, ?2, ?3)",
    ),
    "real": ("CREATE TABLE t(k REAL PRIMARY KEY, a, b) WITHOUT ROWID", "INSERT INTO t VALUES (?1 / 3.0, ?2, ?3)"),
    "invalid text": (
        "CREATE TABLE t(k TEXT PRIMARY KEY, a, b) WITHOUT ROWID",
        "INSERT INTO t VALUES (CAST(CAST('k' || ?1 AS BLOB) || x'ff00fe' AS TEXT), ?2, ?3)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("key", KEYS)
def test_every_difference_is_counted_and_repaired_when_keys_are_of_any_kind(
    pair: VerifiedPair, key: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{key} {seed}")
    # Small stretches and groups, so that ranges end and begin everywhere.
    monkeypatch.setattr(digests, "FIRST_CHUNK_ROWS", rng.choice([1, 7, 90, 1_000]))
    monkeypatch.setattr(digests, "STRETCH_S", rng.choice([0.0, 0.03]))
    monkeypatch.setattr(digests, "MOST_PARTS", rng.choice([1, 8_192]))
    monkeypatch.setattr(compare, "LEVELS", rng.choice([(512, 16, 1), (20, 3, 1)]))
    monkeypatch.setattr(compare, "MOST_RANGES", rng.choice([1, 512]))
    schema, insert = KEYS[key]
    rows = rng.choice([0, 1, 40, 400])
    pair.start(schema)
    with pair.db:
        for n in rng.sample(range(-rows, 3 * rows), rows):
            pair.do(insert, (n, rng.choice([n, None, "x", 0.5]), rng.randbytes(5)))
    assert pair.verify().equal
    for edit, connect in ((pair.unseen, pair.path), (pair.by_hand, pair.store.mirror)):
        share = rng.choice([0, 1, 10, 70])
        if rng.random() < 0.8:
            edit(f"UPDATE t SET b = hex(b) WHERE abs(random()) % 100 < {share}")
        if rng.random() < 0.8:
            edit(f"DELETE FROM t WHERE abs(random()) % 100 < {share}")
        with contextlib.closing(apsw.Connection(str(connect))) as db:
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            for n in range(3 * rows + 1, 3 * rows + 1 + rng.choice([0, 1, 30])):
                db.execute(insert, (n, str(connect), b"new"))
    expected = differing_rows(pair.path, pair.store.mirror)
    found = pair.verify()
    assert sum(count for count, _ in differing(found).values()) == expected
    assert found.equal == (expected == 0)
    repaired = pair.verify(repair=True)
    assert repaired.equal
    assert repaired.rows_differing == expected
    oracle.assert_same(pair.path, pair.store.mirror)


def differing_rows(a: Path, b: Path) -> int:
    left, right = oracle.dump(a)["tables"]["t"].rows, oracle.dump(b)["tables"]["t"].rows
    return sum(1 for key in left.keys() | right.keys() if left.get(key) != right.get(key))


@pytest.mark.parametrize("image_rows", [5, 65_536])
def test_rows_written_meanwhile_are_no_difference_when_they_fill_images(
    pair: VerifiedPair, image_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction larger than an image comes between two answers, each time; one row really differs."""
    pair.start(FILLED)
    pair.by_hand("UPDATE account SET city = 'x' WHERE id = 2999")
    monkeypatch.setattr(reader, "IMAGE_ROWS", image_rows)
    monkeypatch.setattr(digests, "FIRST_CHUNK_ROWS", 400)
    monkeypatch.setattr(digests, "STRETCH_S", 1e-9)
    answer = compare.Comparison._answer
    written = iter(range(20))

    def write_first(self: compare.Comparison, *args: object, **how: object) -> object:
        if (n := next(written, None)) is not None:
            pair.do("UPDATE account SET city = ? WHERE id % 50 = ?", (n, n))
            pair.do("DELETE FROM account WHERE id = ?", (100 + n * 7,))
        else:
            # Nothing comes between any more: the rest need not be asked for row by row.
            monkeypatch.setattr(digests, "STRETCH_S", reader.STRETCH_S)
        return answer(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(compare.Comparison, "_answer", write_first)
    assert differing(pair.verify("account")) == {"account": (1, ["2999"])}
    assert pair.verify(repair=True).equal
    oracle.assert_same(pair.path, pair.store.mirror)


def test_verifying_goes_on_when_the_schema_changes_and_the_log_rolls_over_meanwhile(
    pair: VerifiedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start(FILLED + "; CREATE TABLE more(id INTEGER PRIMARY KEY, v); INSERT INTO more VALUES (1, 1)", keep_rows=40)
    steps = iter([
        "ALTER TABLE more ADD COLUMN w",
        "UPDATE account SET city = 1",
        "UPDATE more SET w = 2; DROP TABLE more",
        "CREATE TABLE other(x); INSERT INTO other VALUES (1)",
    ])  # fmt: skip
    answer = compare.Comparison._answer

    def change_first(self: compare.Comparison, *args: object, **how: object) -> object:
        if (step := next(steps, None)) is not None:
            pair.do(step)
        return answer(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(compare.Comparison, "_answer", change_first)
    found = pair.verify()
    assert found.equal
    assert [table.table for table in found.tables] == ["account", "other"]
    oracle.assert_same(pair.path, pair.store.mirror)


SCHEMAS = ("django", "rails", "bookmarks", "recorder", "notes")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_when_applications_write_while_it_is_verified(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(digests, "FIRST_CHUNK_ROWS", rng.choice([3, 40, 1_000]))
    monkeypatch.setattr(digests, "STRETCH_S", rng.choice([1e-9, 0.03]))
    monkeypatch.setattr(reader, "IMAGE_ROWS", rng.choice([7, 65_536]))
    keep = tmp_path / "keep"
    keep.mkdir()
    path = make.build(SCHEMAS[seed], tmp_path / "app.db", rows=400, seed=seed)
    with contextlib.closing(open_source(path)) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        install(db, Limits())
    applications = [Application(path, SCHEMAS[seed], seed * 2 + n, keep) for n in range(2)]
    store = Store(tmp_path / "store", "job")
    pull_once(store, path)
    try:
        for _ in range(4):
            for application in applications:
                application.start(60)
            with session() as talk, store.locked():
                found = verify_against_source(store, talk, Wishes(str(path)), Asked(), lambda *_: None)
            assert found.equal, (found.schema, differing(found))
            assert sum(table.compared.rows for table in found.tables) > 0
            for application in applications:
                application.wait()
        pull_once(store, path)
        kept = keep / "end.db"
        copy_source(path, kept)
        recompute(kept)
        oracle.assert_same(kept, store.mirror)
    finally:
        for application in applications:
            application.close()


def test_few_bytes_travel_when_nothing_or_little_differs_in_a_large_table(pair: VerifiedPair) -> None:
    pair.start(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c"
        " WHERE i < 300000) INSERT INTO t SELECT i, hex(randomblob(20)), randomblob(30) FROM c"
    )
    assert pair.verify().equal
    nothing = pair.bytes_received
    assert nothing < 10_000, "a stretch costs about 150 bytes"
    pair.by_hand("UPDATE t SET b = 1 WHERE id = 200000")
    assert differing(pair.verify()) == {"t": (1, ["200000"])}
    assert pair.bytes_received < nothing + 8_000, "one row costs its path through the tree"
    pair.by_hand("UPDATE t SET b = 1 WHERE id BETWEEN 100000 AND 100099")
    assert pair.verify(repair=True).rows_differing == 101
    assert pair.bytes_received < 2 * nothing + 30_000, "the rows themselves are 70 bytes each"


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x10
    path.write_bytes(data)


def build_history(pair: VerifiedPair) -> tuple[Path, Path]:
    """(a segment that leads from the first snapshot, the second snapshot) of a store with two snapshots."""
    pair.start(FILLED)
    pair.do("UPDATE account SET city = 'a' WHERE id < 1000")
    pair.pull()
    pair.do("UPDATE account SET city = 'b' WHERE id < 1000")
    pull_once(pair.store, pair.path, snapshot_s=0.0)
    with Catalog(pair.store.catalog) as catalog:
        segments, snapshots = catalog.segments(), catalog.snapshots()
    assert (len(segments), len(snapshots)) == (2, 2)
    return pair.store.folder / segments[0].path, pair.store.folder / snapshots[1].path


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_all_is_whole_when_nothing_was_touched(pair: VerifiedPair, encoding: str) -> None:
    pair.do(f"PRAGMA encoding = '{encoding}'")
    build_history(pair)
    found = pair.at_rest()
    assert (found.problems, found.notes) == ([], [])
    assert found.files == 5
    assert found.points == len(found.restorable) == 3


@pytest.mark.parametrize("at", [0.0, 0.3, 0.7, 0.97, 0.9999])
@pytest.mark.parametrize("which", ["segment", "snapshot", "mirror.db"])
def test_file_is_named_when_one_of_its_bits_was_flipped(pair: VerifiedPair, which: str, at: float) -> None:
    segment, snapshot = build_history(pair)
    pair.do("PRAGMA wal_checkpoint(TRUNCATE)")
    with contextlib.closing(apsw.Connection(str(pair.store.mirror))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    path = {"segment": segment, "snapshot": snapshot, "mirror.db": pair.store.mirror}[which]
    if which == "mirror.db":
        # SQLite has no checksums: what its integrity check finds is damaged structure.
        data = bytearray(path.read_bytes())
        page = int((len(data) // 4096 - 1) * at) * 4096
        data[page : page + 16] = bytes(16)
        path.write_bytes(data)
    else:
        flip(path, at)
    found = pair.at_rest()
    assert {problem.path for problem in found.problems} == {str(path)}
    # The segment leads to the second point; the first snapshot and the archive lead around the second one.
    assert len(found.restorable) == {"segment": 2, "snapshot": 3, "mirror.db": 3}[which]


def test_catalog_is_named_when_it_is_damaged(pair: VerifiedPair) -> None:
    build_history(pair)
    with contextlib.closing(apsw.Connection(str(pair.store.catalog))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    flip(pair.store.catalog, 0.0)
    with pytest.raises(VerifyFailed, match=r"catalog\.db is damaged"):
        pair.at_rest()


def test_what_is_missing_is_named_when_a_file_or_a_row_of_the_catalog_is_gone(pair: VerifiedPair) -> None:
    segment, snapshot = build_history(pair)
    snapshot.unlink()
    with Catalog(pair.store.catalog) as catalog:
        middle = catalog.segments()[0]
    pair.do("UPDATE account SET city = 'c' WHERE id < 10")
    pair.pull()
    with Catalog(pair.store.catalog) as catalog:
        second = catalog.segments()[1]
        catalog.drop_segment(second)
    found = pair.at_rest()
    texts = [problem.text for problem in found.problems]
    assert texts == [
        "missing",
        f"log rows {middle.last + 1} to {second.last} of line 1 are missing, and no hole is recorded",
    ]
    assert [note for note in found.notes if second.path in note]
    assert len(found.restorable) < found.points
    assert segment.exists()


def test_mirror_is_named_when_its_position_is_not_that_of_the_archive(pair: VerifiedPair) -> None:
    build_history(pair)
    pair.by_hand('UPDATE _rollrep_state SET body = replace(body, \'"proof":"\', \'"proof":"00\')')
    [problem] = pair.at_rest().problems
    assert problem.path == str(pair.store.mirror)
    assert "the archive has another row" in problem.text
