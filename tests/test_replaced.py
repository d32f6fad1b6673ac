"""Rows that a REPLACE removes unseen while tables are mirrored again: the mirror has them no more, and no other is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import oracle
import pytest
from pair import Pair
from sources import pull_once

from rollrep.core.errors import RollrepError, Temporary, VerifyFailed
from rollrep.destination import touched
from rollrep.destination.in_place import InPlace
from rollrep.destination.mirroring import Mirroring
from rollrep.destination.pull import Outcome
from rollrep.destination.sweep import Sweep
from rollrep.destination.touched import OpenTouches
from rollrep.source import capture, digests, leaves, reader
from rollrep.source.inspect import TablePlan
from rollrep.source.install import install
from rollrep.source.tables import Limits
from rollrep.wire import messages
from rollrep.wire.leaves import rowids
from rollrep.wire.session import Session

ROWS = 2_000
SEAT = (
    "CREATE TABLE seat(id INTEGER PRIMARY KEY, hall, place, guest, UNIQUE(hall, place));"
    f" WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})"
    " INSERT INTO seat SELECT i, i % 7, i, 'guest ' || i FROM c;"
)
OTHERS = (
    "CREATE TABLE bare(v); INSERT INTO bare SELECT id FROM seat;"
    "CREATE TABLE pair(k TEXT, n INT, v INT UNIQUE, PRIMARY KEY(k, n)) WITHOUT ROWID;"
    "INSERT INTO pair SELECT 'k' || (id % 9), id, id FROM seat WHERE id < 500;"
)
IN_PLACE, STAGED = "in place", "staged"
WAYS = {IN_PLACE: "", STAGED: "CREATE INDEX guest ON seat(guest)"}
"""what the schema becomes, so that the next pull goes that way"""


@pytest.fixture(autouse=True)
def _small_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small tables as many answers as of large ones."""
    for module in (reader, digests, leaves):
        monkeypatch.setattr(module, "FIRST_CHUNK_ROWS", 100)
    for module in (digests, leaves):
        monkeypatch.setattr(module, "STRETCH_ROWS", 100)


class BusyPair(Pair):
    """Its application writes while it is pulled."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self._patch = monkeypatch.setattr
        self.left: list[Callable[[], object]] = []

    def before_asking(self, kind: Any, number: int, what: Callable[[], object], table: str = "seat") -> None:
        """Does something before the source is asked for the `number`th time in such a message about this table."""
        tables = self.db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'"
        )
        shape = sorted(name for (name,) in tables).index(table) + 1
        say, said = Session._say, [0]
        self.left.append(what)

        def write_first(session: Session, message: object) -> None:
            if isinstance(message, kind) and message.shape == shape:
                said[0] += 1
                if said[0] == number:
                    self.left.remove(what)
                    what()
            say(session, message)  # type: ignore[arg-type]

        self._patch(Session, "_say", write_first)

    def before_settling(self, what: Callable[[], object]) -> None:
        """Does something between the last of what is compared and the question which rows are still there."""
        settle = OpenTouches.settle
        self.left.append(what)

        def write_first(touches: OpenTouches, *arguments: object) -> object:
            if what in self.left:
                self.left.remove(what)
                what()
            return settle(touches, *arguments)  # type: ignore[arg-type]

        self._patch(OpenTouches, "settle", write_first)

    def start(self, schema: str = SEAT + OTHERS) -> None:
        self.create(schema, Limits(keep_rows=200, keep_keys=0))
        pull_once(self.store, self.path)

    def fall_off(self) -> None:
        """The log forgets where the mirror stands."""
        for n in range(300):
            self.do("UPDATE bare SET v = v + 1 WHERE rowid = ?", (n + 1,))

    def pull(self) -> Outcome:
        return pull_once(self.store, self.path, mirror=True)

    def same(self) -> None:
        oracle.assert_same(self.path, self.store.mirror)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyPair]:
    made = BusyPair(tmp_path, monkeypatch)
    yield made
    made.db.close()
    assert not made.left, "else the test shows nothing"


TAKEN = "UPDATE OR REPLACE seat SET hall = 5, place = 12 WHERE id = 1500"
"""takes the place of 12, which nothing but a TOUCHED speaks of"""
IGNORED = "INSERT OR IGNORE INTO seat(hall, place) VALUES (5, 12)"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("meanwhile", "when_asked"),
    [
        (TAKEN, ""),
        (IGNORED, ""),
        (f"{IGNORED}; {IGNORED}", ""),
        (f"{IGNORED}; {TAKEN}", ""),
        (TAKEN, "INSERT INTO seat VALUES (12, 90, 90, 'again')"),
        (TAKEN, "INSERT INTO seat VALUES (12, 90, 90, 'again'); DELETE FROM seat WHERE id = 12"),
        (IGNORED, "UPDATE seat SET guest = 'changed' WHERE id = 12"),
        (IGNORED, "DELETE FROM seat WHERE id = 12"),
        (IGNORED, "REPLACE INTO seat VALUES (12, 5, 12, 'put')"),
        (IGNORED, TAKEN),
        (IGNORED, f"{TAKEN}; INSERT INTO seat VALUES (12, 90, 90, 'again')"),
        (IGNORED, f"{TAKEN}; UPDATE seat SET place = 77777 WHERE id = 1500"),
        (f"{TAKEN}; UPDATE seat SET place = 77777 WHERE id = 1500", IGNORED),
    ],
)
def test_replaced_row_is_gone_when_its_table_is_compared_meanwhile(
    way: str, meanwhile: str, when_asked: str, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = InPlace._begin, []

    def noted(self: InPlace, *arguments: Any) -> None:
        begun.append(arguments)
        begin(self, *arguments)

    monkeypatch.setattr(InPlace, "_begin", noted)
    pair.start()
    pair.fall_off()
    pair.do(WAYS[way])
    pair.before_asking(messages.SendStretch, 3, lambda: pair.do(meanwhile))
    pair.before_settling(lambda: pair.do(when_asked))
    assert {each.rung for each in pair.pull().moved} == {"digests"}
    assert len(begun) == 1, "it is not begun anew"
    pair.same()
    point, kept = pair.point()
    pair.pull()
    pair.same_at(point, kept)


@pytest.mark.parametrize("way", WAYS)
def test_no_row_is_lost_when_the_mirror_knows_half_of_a_place(way: str, pair: BusyPair) -> None:
    """The mirror's 1512 is at another place still: of a PATCH of the hall alone, it would be where 12 is."""
    pair.start(SEAT.replace("i, i % 7, i,", "i, i, i % 100,") + OTHERS)
    pair.do("UPDATE seat SET place = 5000 WHERE id = 1512")
    pair.fall_off()
    pair.do(WAYS[way])
    patched = "UPDATE seat SET hall = 12 WHERE id = 1512; INSERT OR IGNORE INTO seat(hall, place) VALUES (8, 8)"
    pair.before_asking(messages.SendStretch, 3, lambda: pair.do(patched))
    pair.pull()
    assert pair.db.execute("SELECT count(*) FROM seat WHERE hall = 12").fetchall() == [(2,)]
    pair.same()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("most", [1, 7, 512])
def test_every_row_is_asked_for_when_more_were_touched_than_one_message_holds(
    way: str, most: int, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touched, "MOST_KEYS", most)
    pair.start(SEAT + "CREATE TABLE bare(v); INSERT INTO bare SELECT id FROM seat")
    pair.do("INSERT INTO seat VALUES (-9223372036854775808, -1, -1, 'first')")
    pair.fall_off()
    pair.do(WAYS[way])

    def write() -> None:
        pair.do("INSERT OR IGNORE INTO seat(hall, place) SELECT hall, place FROM seat WHERE id < 50 AND id % 5")
        pair.do("UPDATE OR REPLACE seat SET hall = -1, place = -1 WHERE id = 1999")
        for n in range(3, 40, 2):
            pair.do(
                "UPDATE OR REPLACE seat SET (hall, place) = (SELECT hall, place FROM seat WHERE id = ?1) WHERE id = 1700 + ?1",
                (n,),
            )

    pair.before_asking(messages.SendStretch, 3, write)
    keys, asked = OpenTouches._next, []

    def noted(self: OpenTouches) -> list[messages.KeyRange]:
        asked.append(keys(self))
        return asked[-1]

    monkeypatch.setattr(OpenTouches, "_next", noted)
    pair.pull()
    spans = [rowids(span) for each in asked for span in each]
    assert sum(end[1] - (end[1] - 1 if end[0] is None else end[0]) for end in spans) == 45
    assert (len(asked) == 2) == (most == 512)
    pair.same()


@pytest.mark.parametrize("way", WAYS)
def test_settling_is_gone_on_with_when_the_line_was_cut(
    way: str, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(touched, "MOST_KEYS", 3)
    pair.start()
    pair.fall_off()
    pair.do(WAYS[way])
    pair.before_asking(
        messages.SendStretch,
        3,
        lambda: pair.do(f"{TAKEN}; INSERT OR IGNORE INTO seat(hall, place) SELECT hall, place FROM seat WHERE id < 40"),
    )
    take_rows, taken = OpenTouches._take_rows, []

    def cut(self: OpenTouches, last: messages.KeyRange) -> None:
        take_rows(self, last)
        taken.append(last)
        if len(taken) == 3:
            raise Temporary("cut", remedy="again")

    monkeypatch.setattr(OpenTouches, "_take_rows", cut)
    with pytest.raises(Temporary):
        pair.pull()
    pair.do("UPDATE seat SET guest = 'meanwhile' WHERE id IN (5, 30, 1500)")
    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "run", None)
        pair.pull()
    pair.same()


@pytest.mark.parametrize("left", [b"", b"no database, but longer than a header of one" * 30])
@pytest.mark.parametrize("way", WAYS)
def test_comparing_begins_anew_when_it_died_before_its_file_was_whole(
    way: str, left: bytes, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start()
    pair.fall_off()
    pair.do(WAYS[way])
    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "run", Mock(side_effect=Temporary("cut", remedy="again")))
        with pytest.raises(Temporary):
            pair.pull()
    assert pair.store.staging.exists() == (way == STAGED)
    for path in pair.store.folder.glob("mirror.changes.db*"):
        path.unlink()
    pair.store.changes.write_bytes(left)
    pair.pull()
    pair.same()


@pytest.mark.parametrize(("key", "said"), [("i:-5", "does not go on"), ("t:61", "no whole number")])
def test_source_is_refused_when_it_does_not_go_on_with_what_was_touched(
    key: str, said: str, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.start()
    pair.fall_off()
    pair.before_asking(messages.SendStretch, 3, lambda: pair.do(TAKEN))
    monkeypatch.setattr(touched, "answered", lambda ranges, _: ([messages.KeyRange(None, (key,))], ranges))
    with pytest.raises(VerifyFailed, match=said):
        pair.pull()


@pytest.mark.parametrize("mirror", [False, True], ids=["followed", "mirrored again"])
def test_touched_row_is_as_it_was_when_its_key_is_no_text(mirror: bool, pair: BusyPair) -> None:
    pair.start()
    pair.do("INSERT INTO pair VALUES (CAST(x'ff' AS TEXT), 1, 9000)")
    pull_once(pair.store, pair.path)
    ignored = "INSERT OR IGNORE INTO pair VALUES ('other', 1, 9000)"
    if mirror:
        pair.before_asking(messages.SendStretch, 2, lambda: pair.do(ignored), table="pair")
    else:
        pair.do(ignored)
    pull_once(pair.store, pair.path, mirror=mirror)
    pair.same()


def test_replaced_row_is_gone_when_the_row_that_replaced_it_was_not_copied_yet(
    pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PATCH meets no row then, and when its row comes it stands at another place."""
    monkeypatch.setattr(Mirroring, "fetch_pages", lambda _self, _session, state, _rows: state)
    pair.create(SEAT, Limits(keep_rows=200))
    pair.before_asking(
        messages.SendChunk,
        3,
        lambda: pair.do(f"{TAKEN}; UPDATE seat SET place = 77777 WHERE id = 1500"),
    )
    outcome = pair.pull()
    assert [(each.table, each.rung) for each in outcome.moved] == [("seat", "copy")]
    pair.same()


UNPROBED = SEAT + "CREATE TABLE odd(id INTEGER PRIMARY KEY, v, n, w AS (v % 100000) UNIQUE);" + (
    "INSERT INTO odd(id, v, n) SELECT id, id, 1 FROM seat;" + OTHERS
)  # fmt: skip


@pytest.mark.parametrize(
    ("way", "older"), [("first", False), *((way, older) for way in WAYS for older in (False, True))]
)
def test_replaced_row_is_gone_when_nothing_announces_it(
    way: str, older: bool, pair: BusyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A UNIQUE index that can't be probed; an older rollrep logged what an UPDATE changed there, and not the row."""
    log_update = capture._log_update
    if older:

        def log_patch(plan: TablePlan, shape_id: int) -> str:
            shape = msgspec.structs.replace(plan.shape, touches_logged=True)
            return log_update(dataclasses.replace(plan, shape=shape), shape_id)

        monkeypatch.setattr(capture, "_log_update", log_patch)
    if way == "first":
        monkeypatch.setattr(Mirroring, "fetch_pages", lambda _self, _session, state, _rows: state)
        pair.create(UNPROBED, Limits(keep_rows=200))
    else:
        pair.start(UNPROBED)
        pair.fall_off()
        pair.do(WAYS[way])

    def write() -> None:
        pair.do("UPDATE OR REPLACE odd SET v = 100012 WHERE id = 1500; UPDATE odd SET v = 77777 WHERE id = 1500")
        pair.do("UPDATE OR REPLACE odd SET v = 101700 WHERE id = 40; UPDATE odd SET n = 2 WHERE id = 1501")

    pair.before_asking(messages.SendStretch | messages.SendChunk, 3, write, table="odd")
    if older and way == STAGED:
        with pytest.raises(RollrepError, match="rows of table odd changed"):
            pair.pull()
        monkeypatch.setattr(capture, "_log_update", log_update)
        install(pair.db, Limits(keep_rows=200, keep_keys=0))
    pair.pull()
    assert pair.db.execute("SELECT count(*) FROM odd WHERE id IN (12, 1700)").fetchall() == [(0,)]
    pair.same()
