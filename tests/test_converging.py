"""Mirror operations that something comes in between of: an application at full rate, the death of either side.

ROLLREP_CONVERGE=100 pytest tests/test_converging.py      so many seeds of each way; else a few
ROLLREP_PLACES=200   pytest tests/test_converging.py      so many places of death in each way
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
from killed_puller import KILLED, KilledPuller, counted_calls, killed_puller
from pair import Pair
from sources import pull_once, session

from rollrep.core.errors import Temporary
from rollrep.destination import bridging
from rollrep.destination.in_place import read_reached
from rollrep.destination.mirror_db import State, state_of
from rollrep.destination.pull import Outcome, Wishes, pull
from rollrep.source.tables import Limits
from rollrep.wire import messages
from rollrep.wire.session import Session

SEEDS = int(os.environ.get("ROLLREP_CONVERGE", "1"))
PLACES = int(os.environ.get("ROLLREP_PLACES", "4"))

KEEP_ROWS = 100
ROWS = 5_000
SCHEMA = (
    # The large table is the last, so that small ones are finished early.
    "CREATE TABLE pair(k TEXT COLLATE NOCASE, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID; CREATE TABLE bare(v);"
    "CREATE TABLE person(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, city); CREATE INDEX city ON person(city);"
    f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})"
    " INSERT INTO person SELECT i, 'owner ' || i, hex(randomblob(12)) FROM c;"
    "INSERT INTO pair SELECT 'K' || (id % 9), id, city FROM person WHERE id < 800;"
    "INSERT INTO bare SELECT id FROM person WHERE id < 300;"
    "CREATE TABLE seat(id INTEGER PRIMARY KEY, hall, place, guest, UNIQUE(hall, place));"
    "INSERT INTO seat SELECT id, id % 40, id / 40, city FROM person WHERE id < 1200"
)

FIRST, KEYS, DIGESTS, SCHEMA_CHANGED = "first copy", "forgotten keys", "digests", "schema changed"
WENT = {FIRST: {"copy"}, KEYS: {bridging.RUNG}, DIGESTS: {"digests"}, SCHEMA_CHANGED: {"copy", "digests"}}

SMALL_ANSWERS = {
    "rollrep.source.reader.IMAGE_ROWS": 100,
    "rollrep.source.reader.FIRST_CHUNK_ROWS": 100,
    "rollrep.source.digests.FIRST_CHUNK_ROWS": 80,
    "rollrep.source.digests.STRETCH_ROWS": 80,
    "rollrep.source.leaves.FIRST_CHUNK_ROWS": 80,
    "rollrep.source.leaves.STRETCH_ROWS": 80,
    "rollrep.source.forgotten.FIRST_IDS": 80,
    "rollrep.source.forgotten.MOST_IDS": 80,
    "rollrep.wire.forgotten_ranges.LEAST_WIDTH": 16,
}
"""of a small table as many answers as of a large one"""


@pytest.fixture(autouse=True, scope="module")
def _small_answers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SMALL_ANSWERS.items():
            patched.setattr(name, value)
        yield


def _write(pair: Pair, rng: random.Random, transactions: int, *, replaces: bool) -> None:
    """What an application does; a key may be moved, and a unique value may go from row to row."""
    for _ in range(transactions):
        a, b = rng.sample(range(1, ROWS), 2)
        kind = rng.randrange(12 if replaces else 9)
        if kind < 5:
            pair.do("UPDATE person SET city = ? WHERE id = ?", (rng.random(), a))
        elif kind == 5:
            pair.do("INSERT INTO person(owner, city) VALUES (?, 'new')", (f"new {rng.random()}",))
        elif kind == 6:
            pair.do("DELETE FROM pair WHERE n = ?", (a % 800,))
        elif kind == 7:
            pair.do("INSERT OR IGNORE INTO pair VALUES (?, ?, 'put')", (f"k{a % 9}", b))
        elif kind == 8:
            pair.do("UPDATE bare SET v = v + 1 WHERE rowid = ?", (a % 300,))
        elif kind == 9:
            pair.do("UPDATE OR REPLACE seat SET hall = ? WHERE id = ?", (a % 40, b % 1200))
        elif kind == 10:
            pair.do("UPDATE OR IGNORE seat SET place = ? WHERE id = ?", (a % 30, b % 1200))
        else:
            pair.do("UPDATE OR REPLACE person SET owner = 'owner ' || ? WHERE id = ?", (a, b))


def _begin(folder: Path, way: str, rng: random.Random) -> Pair:
    """A source whose next pull goes that way."""
    pair = Pair(folder)
    pair.create(SCHEMA, Limits(keep_rows=KEEP_ROWS, keep_keys=0 if way == DIGESTS else 100_000))
    pair.do("PRAGMA synchronous = OFF")
    if way == FIRST:
        return pair
    pull_once(pair.store, pair.path)
    # A REPLACE behind the forgotten keys makes the tables be compared instead.
    _write(pair, rng, 4_000 if way == KEYS else 500, replaces=way == DIGESTS)
    if way == SCHEMA_CHANGED:
        pair.do("ALTER TABLE bare ADD COLUMN w DEFAULT 5; CREATE TABLE fresh AS SELECT * FROM person WHERE id < 500")
        pair.do("CREATE INDEX owner_of ON person(city, owner)")
    return pair


def _went(outcome: Outcome) -> set[str]:
    return {each.rung for each in outcome.moved}


# an application at full rate


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("way", [FIRST, KEYS, DIGESTS, SCHEMA_CHANGED])
def test_mirror_operation_converges_when_ten_times_the_log_is_written_meanwhile(
    way: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(f"{way} {seed}")
    pair = _begin(tmp_path, way, rng)
    replaces = way != KEYS and seed % 2 == 1
    # Two questions are under way at once, and what is written before both must fit into the log.
    each = rng.randint(12, 18) if replaces else rng.randint(20, 28)
    written = 0
    say = Session._say

    def write_first(self: Session, message: object) -> None:
        nonlocal written
        if isinstance(message, messages.Ask | messages.SendForgotten):
            _write(pair, rng, each, replaces=replaces)
            written += each
        say(self, message)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Session, "_say", write_first)
        outcome = pull_once(pair.store, pair.path)
    assert written >= 10 * KEEP_ROWS
    assert _went(outcome) == WENT[way]
    oracle.assert_same(pair.path, pair.store.mirror)
    kept = []
    for _ in range(4):
        _write(pair, rng, 8, replaces=True)
        kept.append(pair.point())
    pull_once(pair.store, pair.path)
    oracle.assert_same(pair.path, pair.store.mirror)
    for log_id, copy in kept:
        pair.same_at(log_id, copy)
    pair.db.close()


# the death of either side


class _Template:
    """A source and its store just before the pull; each death is one of a copy, always at the same path."""

    def __init__(self, folder: Path, way: str) -> None:
        self._kept, self._used = folder / "kept", folder / "used"
        self._used.mkdir()
        pair = _begin(self._used, way, random.Random(way))
        pair.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        pair.db.close()
        self.before = state_of(pair.store.mirror)
        self._used.rename(self._kept)
        counting = self.copy()
        counting.store.create()
        with counted_calls() as calls, session() as talk, counting.store.locked():
            pull(counting.store, talk, Wishes(str(counting.path)), lambda _table, _rows: None)
        self.calls, self.bytes = calls[0], talk.bytes_received
        counting.db.close()

    def copy(self) -> Pair:
        shutil.rmtree(self._used, ignore_errors=True)
        shutil.copytree(self._kept, self._used)
        return Pair(self._used)


def _looked(pair: Pair) -> tuple[State | None, set[int]]:
    """(what the mirror is, shape ids of the tables that the operation has finished)."""
    state = state_of(pair.store.mirror)
    done: set[int] = set()
    if state and (reached := read_reached(pair.store, pair.store.mirror, state)):
        done = set(reached.done)
    if pair.store.staging.is_file() and (staged := state_of(pair.store.staging)):
        done = set(staged.copied)
        if reached := read_reached(pair.store, pair.store.staging, staged):
            done |= set(reached.done)
    return state, done


def _source_dies(pair: Pair, after: int) -> bool:
    try:
        pull_once(pair.store, pair.path, cut_after=after)
    except Temporary:
        return True
    return False


@contextlib.contextmanager
def _asked() -> Iterator[set[int]]:
    """The shape ids of the tables that a source is asked for."""
    shapes: set[int] = set()
    say = Session._say

    def noted(self: Session, message: object) -> None:
        if isinstance(message, messages.Ask):
            shapes.add(message.shape)
        say(self, message)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "_say", noted)
        yield shapes


@pytest.fixture(scope="module")
def killed() -> Iterator[KilledPuller]:
    with killed_puller() as made:
        yield made


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("way", [FIRST, KEYS, DIGESTS, SCHEMA_CHANGED])
def test_finished_tables_are_not_copied_again_when_either_side_was_killed(
    way: str, tmp_path: Path, killed: KilledPuller
) -> None:
    template = _Template(tmp_path, way)
    rng = random.Random(f"deaths in {way}")
    died, finished = 0, 0
    for place in range(PLACES):
        share = (place + rng.random()) / PLACES
        pair = template.copy()
        if place % 2:
            died += (
                killed.pull(pair.store.folder.parent, pair.path, int(share * template.calls), SMALL_ANSWERS) == KILLED
            )
        else:
            died += _source_dies(pair, int(share * template.bytes))
        state, done = _looked(pair)
        is_over = state is not None and state != template.before
        _write(pair, rng, 10, replaces=False)
        with _asked() as asked:
            pull_once(pair.store, pair.path)
        assert not asked & done, f"killed at {share:.3f}"
        assert not (is_over and asked), f"killed at {share:.3f} when all was over"
        finished += bool(done)
        oracle.assert_same(pair.path, pair.store.mirror)
        pair.db.close()
    assert died > PLACES // 2
    assert finished or way == KEYS, "else the test shows nothing"
