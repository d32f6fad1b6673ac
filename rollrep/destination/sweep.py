"""One sweep over a table of a mirror: digests in key order, and the rows of whatever differs, all in one stream.

    ask ──► leaves ─ equal ─ equal ─ some differ ──► their cells ──► the rows of those that differ
    where leaves are not cut alike, or hold parts of rows only:
    ask ──► stretch ─ equal ─ equal ─ differs ──► groups of 512 ──► groups of 10 ──► their rows
            groups of 10 from the start           where changes lie all over the last stretch
            rows from the start                   where most groups of the last stretch differ

The source is never idle: the next stretch is asked for before our digest of this one is taken, and an answer may be
of a later moment than the one before.  The mirror is not moved meanwhile, so a range that is equal was equal at the
moment of that answer; whoever takes what comes replays the log from the first moment on over all of it.

Knows: the wire's session, parts.  Does not know: what is done with rows, where the log's tail goes.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import apsw
import msgspec

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Shape
from rollrep.destination.answers import answered, reached
from rollrep.destination.container import unpack
from rollrep.destination.images import attach_groups, attach_rows
from rollrep.destination.leaves import Match, OwnLeaves, Wanted, sure
from rollrep.destination.parts import Differing, Parts
from rollrep.wire.leaves import LEAF_BYTES, MOST_BYTES, digest_of, is_beyond, split, tell_leaves, unpack_cells
from rollrep.wire.messages import (
    Ask,
    Cells,
    Groups,
    Image,
    Key,
    KeyRange,
    Leaves,
    Rows,
    SendCells,
    SendGroups,
    SendRows,
    SendStretch,
    Stretch,
)
from rollrep.wire.session import Session, Tail

COARSE, FINE = 512, 10
"""rows of a group; of what differs within the fine ones all rows are fetched, unless they are wide"""
WIDE_BYTES = 512
"""packed; groups of wider rows are looked into row by row"""
SCATTERED = 0.8
"""when so large a part of the coarse groups of a stretch differs, the next stretch begins with fine ones"""
MOSTLY = 0.6
"""when so large a part of the fine ones differs, what follows is given whole"""
MOST_WHOLE = 7
"""so many images of rows, before it is looked again"""
FEW_EQUAL, LEAVES_JUDGED = 0.2, 512
"""when so small a part of so many leaves is equal, they are not cut alike, or nearly all differ"""
MANY_UNCLEAR = 0.05
"""when so large a part of them has parts of rows only, digests of all rows are as cheap"""
MOST_RANGES = 512
MOST_ASKED_BYTES = 10_240
"""of keys in one question, where more than one key is larger than that: three questions may lie in a pipe of 64 KiB"""
MOST_ASKED, MOST_WHILE_WRITTEN = 3, 2
"""questions that are under way at once; an answer brings all that was logged since its question, which a small log has
forgotten where that is long ago"""


class Taker(Protocol):
    """Where what a sweep finds goes."""

    def take_tail(self, tail: Tail) -> int:
        """The log that came with an answer; gives the log id that is reached."""

    def take_rows(self, ranges: Sequence[KeyRange]) -> None:
        """`chunk.rows` holds all rows of the source within `ranges`."""

    def settled(self, after: Key | None, rows: int) -> None:
        """Everything up to this key was compared and taken; None: all that was to be."""


@dataclasses.dataclass
class _Wanted:
    """A question, and what it belongs to."""

    ask: Ask | SendCells
    kind: type[Any] | tuple[type[Any], ...]
    stretch: int
    ranges: list[KeyRange] = dataclasses.field(default_factory=list)
    level: int = 0
    begins: bool = False
    """whether the stretch begins with it, so that it says where that ends"""
    match: Match | None = None

    @property
    def is_small(self) -> bool:
        keys = (key for span in self.ranges for key in (span.after, span.through) if key)
        return sum(len(token) for key in keys for token in key) <= MOST_ASKED_BYTES


class Sweep:
    """Sweeps one table of `db`, which is not in a transaction and stays as it is meanwhile."""

    def __init__(
        self,
        session: Session,
        db: apsw.Connection,
        shape: Shape,
        schema_digest: str,
        position: int,
        taker: Taker,
        leaves: OwnLeaves | None = None,
    ) -> None:
        """`leaves` are the mirror's, where they can be compared with the source's."""
        self._session = session
        self._db = db
        self._shape = shape
        self._schema_digest = schema_digest
        self._position = position
        self._taker = taker
        self._parts = Parts(db, shape)
        self._next_is: int | None = None
        """rows of a group in the stretch that is asked for next; None: one digest of all, 0: its rows"""
        self._leaves = leaves
        self._of_leaves = Wanted()
        self._leaves_compared = self._leaves_equal = self._leaves_unclear = 0
        self._whole_left = 0
        self._is_wide = False
        self._is_quiet = False
        """whether nothing was logged before the last answer"""
        self._spans: deque[KeyRange] = deque()
        """those that were not begun"""
        self._waiting: deque[_Wanted] = deque()
        self._asked: deque[_Wanted] = deque()
        self._open: dict[int, int] = {}
        """how many questions of each stretch are not settled, the oldest stretch first"""
        self._ends: dict[int, tuple[Key | None, int]] = {}
        self._stretches = 0

    def run(self, spans: Sequence[KeyRange]) -> None:
        """Sweeps the rows within `spans`, in this order.  Raises SchemaChanged and LogOverrun as the session does."""
        self._spans.extend(spans)
        try:
            if self._spans:
                self._next(self._spans.popleft())
            else:
                self._taker.settled(None, 0)
            while self._asked:
                self._hear()
                self._say()
        finally:
            self._session.abandon()
            self._parts.close()

    def replace(self, shape_id: int, ranges: Sequence[KeyRange], first_id: int) -> int:
        """Notes in `batch.log` what makes the mirror's rows within `ranges` those of `chunk.rows`; how many."""
        return self._parts.note_changes(shape_id, ranges, first_id)

    def _hear(self) -> None:
        wanted = self._asked.popleft()
        kind: Any = wanted.kind
        # Cells come without the log: they are as they were.
        position = self._position if isinstance(wanted.ask, SendCells) else wanted.ask.position
        tail, found = self._session.read(position, kind)
        if not isinstance(wanted.ask, SendCells):
            self._is_quiet = tail is None
        if tail:
            self._position = self._taker.take_tail(tail)
        if found is None:
            # So much was logged that it filled an answer; what was wanted comes next.
            self._waiting.appendleft(wanted)
            return
        said, packed = found
        if isinstance(said, Leaves):
            self._take_leaves(wanted, said, packed)
        elif isinstance(said, Cells):
            self._hear_cells(wanted, said, packed)
        elif isinstance(said, Stretch):
            self._take_stretch(wanted, said)
        elif isinstance(said, Groups):
            self._take_groups(wanted, said, unpack(packed, said.image.raw_bytes))
        elif isinstance(said, Rows):
            self._take_rows(wanted, said, packed)
        self._close(wanted.stretch)

    def _say(self) -> None:
        most = MOST_ASKED if self._is_quiet else MOST_WHILE_WRITTEN
        while self._waiting and (not self._asked or (len(self._asked) < most and self._waiting[0].is_small)):
            wanted = self._waiting.popleft()
            if not isinstance(wanted.ask, SendCells):
                wanted.ask = msgspec.structs.replace(wanted.ask, position=self._position)
            self._session.ask(wanted.ask)
            self._asked.append(wanted)

    def _next(self, span: KeyRange) -> None:
        stretch = self._stretches
        self._stretches += 1
        if self._next_is == 0:
            self._whole_left -= 1
            if self._whole_left == 0:
                self._next_is = FINE
            self._want_rows(stretch, [span])
        elif self._leaves:
            self._want_leaves(stretch, span, begins=True)
        else:
            groups = self._next_is or 0
            ask = SendStretch(self._shape.id, span.after, 0, self._schema_digest, groups, span.through)
            self._want(_Wanted(ask, Groups if self._next_is else Stretch, stretch, [span], groups, begins=True))
        self._say()

    def _want(self, wanted: _Wanted) -> None:
        self._open[wanted.stretch] = self._open.get(wanted.stretch, 0) + 1
        self._waiting.append(wanted)

    def _close(self, stretch: int) -> None:
        self._open[stretch] -= 1
        while self._open and self._open[oldest := min(self._open)] == 0:
            del self._open[oldest]
            self._taker.settled(*self._ends.pop(oldest))

    def _end(self, wanted: _Wanted, last_key: Key | None, rows: int) -> KeyRange:
        """The range of a stretch whose end is known now; the next one is asked for."""
        [span] = wanted.ranges
        covered, end = reached(span, last_key), last_key
        if last_key is not None:
            self._next(KeyRange(last_key, span.through))
        elif self._spans:
            end = span.through
            self._next(self._spans.popleft())
        self._ends[wanted.stretch] = (end, rows)
        return covered

    def _covered(self, wanted: _Wanted, said: Leaves | Stretch) -> KeyRange:
        """What the answer is about; the rest is asked for."""
        if wanted.begins:
            return self._end(wanted, said.last_key, said.rows)
        [span] = wanted.ranges
        if said.last_key is not None:
            self._want_leaves(wanted.stretch, KeyRange(said.last_key, span.through))
        return reached(span, said.last_key)

    def _take_leaves(self, wanted: _Wanted, said: Leaves, packed: bytes) -> None:
        if not is_beyond(said.last_key, wanted.ranges[0].after):
            raise VerifyFailed(f"the source sent leaves of {self._shape.table} that do not go on")
        span = self._covered(wanted, said)
        pages = self._leaves.within(self._shape, span) if self._leaves else None
        if pages is None:
            self._look_into(wanted.stretch, span, said.rows)
            return
        assert isinstance(wanted.ask, SendStretch), "leaves are those of a stretch"
        ours = tell_leaves(pages, of_pages=said.of_pages)
        theirs: list[bytes] | None = None
        if said.image or not said.leaves:
            theirs = split(_of_leaves(said.image, packed), LEAF_BYTES) if said.image else []
        elif said.digest != digest_of(digest for digest, _ in ours):
            if wanted.ask.leaves == "each":
                raise VerifyFailed(f"the source does not tell the leaves of {self._shape.table} one by one")
            self._of_leaves.each = True
            self._want_leaves(wanted.stretch, span)
            return
        match = Match(theirs, sure(ours, pages) if said.of_pages else ours, pages, span)
        if not self._of_leaves.learn(match, of_pages=said.of_pages) and wanted.ask.of_pages:
            self._want_leaves(wanted.stretch, span)
        elif self._is_worth_it(match):
            self._want_groups(wanted.stretch, match.unclear, FINE)
            self._want_cells(wanted.stretch, said.number, match, span)
        else:
            self._leaves = None
            self._look_into(wanted.stretch, span, said.rows)

    def _is_worth_it(self, match: Match) -> bool:
        """Whether enough leaves were equal so far, and not too many had parts of rows only."""
        self._leaves_compared += match.of
        self._leaves_equal += match.equal
        self._leaves_unclear += match.not_told
        return self._leaves_compared < LEAVES_JUDGED or (
            self._leaves_equal >= FEW_EQUAL * self._leaves_compared
            and self._leaves_unclear <= MANY_UNCLEAR * self._leaves_compared
        )

    def _want_cells(self, stretch: int, number: int, match: Match, span: KeyRange) -> None:
        if match.wanted:
            ask = SendCells(self._shape.id, number, match.wanted, match.key)
            self._want(_Wanted(ask, Cells, stretch, [span], match=match))
        else:
            self._want_rows(stretch, match.differing([]))

    def _hear_cells(self, wanted: _Wanted, said: Cells, packed: bytes) -> None:
        assert wanted.match is not None, "cells are those of a match"
        if said.image is None:
            self._want_groups(wanted.stretch, wanted.ranges, FINE)
            return
        try:
            cells = unpack_cells(_of_leaves(said.image, packed), len(wanted.match.wanted))
        except ValueError as error:
            raise VerifyFailed(f"the source sent other cells than it was asked for: {error}") from error
        self._want_rows(wanted.stretch, wanted.match.differing(cells))

    def _take_stretch(self, wanted: _Wanted, said: Stretch) -> None:
        if wanted.kind is not Stretch:
            # The source can't tell leaves.
            self._leaves = None
        span = self._covered(wanted, said)
        if self._parts.digest_of(span) != (said.rows, said.digest):
            self._look_into(wanted.stretch, span, said.rows)

    def _look_into(self, stretch: int, span: KeyRange, rows: int) -> None:
        if rows > 2 * COARSE:
            self._want_groups(stretch, [span], COARSE)
        elif rows > 2 * FINE:
            self._want_groups(stretch, [span], FINE)
        else:
            self._want_rows(stretch, [span])

    def _take_groups(self, wanted: _Wanted, said: Groups, raw: bytes) -> None:
        is_stretch = isinstance(wanted.ask, SendStretch)
        asked = wanted.ranges[: said.answered]
        if not asked:
            raise VerifyFailed("the source answered nothing of what it was asked for")
        attach_groups(self._db, raw, self._shape)
        if is_stretch:
            asked = [self._end(wanted, said.last_key, said.rows)]
        elif left := wanted.ranges[said.answered :]:
            self._want_groups(wanted.stretch, left, wanted.level)
        self._parts.take_groups(asked, wanted.level)
        found = self._parts.differing()
        self._learn(wanted.level, found, is_stretch=is_stretch)
        if not found.ranges:
            return
        if wanted.level > FINE:
            self._want_groups(wanted.stretch, found.ranges, FINE)
        elif wanted.level == FINE and self._is_wide:
            self._want_groups(wanted.stretch, found.ranges, 1)
        else:
            self._want_rows(wanted.stretch, found.ranges)

    def _learn(self, level: int, found: Differing, *, is_stretch: bool) -> None:
        """How the stretch after the next begins, by where the changes of this one lie."""
        share = found.parts / max(1, found.of)
        if level == COARSE and share >= SCATTERED:
            self._next_is = FINE
        elif is_stretch and not found.parts:
            self._next_is = None
        elif is_stretch and share >= MOSTLY:
            self._next_is, self._whole_left = 0, MOST_WHOLE

    def _take_rows(self, wanted: _Wanted, said: Rows, packed: bytes) -> None:
        whole, left = answered(wanted.ranges, said)
        if wanted.stretch not in self._ends:
            self._end(wanted, said.last_key, said.rows)
        elif left:
            self._want_rows(wanted.stretch, left)
        if said.rows:
            self._is_wide = len(packed) > WIDE_BYTES * said.rows
        attach_rows(self._db, unpack(packed, said.image.raw_bytes), self._shape)
        self._taker.take_rows(whole)

    def _want_leaves(self, stretch: int, span: KeyRange, *, begins: bool = False) -> None:
        how, of_pages = self._of_leaves.how, self._of_leaves.of_pages
        ask = SendStretch(self._shape.id, span.after, 0, self._schema_digest, 0, span.through, how, of_pages)
        self._want(_Wanted(ask, (Leaves, Stretch), stretch, [span], begins=begins))

    def _want_groups(self, stretch: int, ranges: Sequence[KeyRange], level: int) -> None:
        for some in _slices(ranges):
            ask = SendGroups(self._shape.id, tuple(some), level, 0, self._schema_digest)
            self._want(_Wanted(ask, Groups, stretch, some, level))

    def _want_rows(self, stretch: int, ranges: Sequence[KeyRange]) -> None:
        for some in _slices(ranges):
            self._want(_Wanted(SendRows(self._shape.id, tuple(some), 0, self._schema_digest), Rows, stretch, some))


def _of_leaves(image: Image, packed: bytes) -> bytes:
    """What is told of leaves, which is never more than these are."""
    if image.raw_bytes > 2 * MOST_BYTES:
        raise VerifyFailed(f"the source tells {image.raw_bytes} bytes of a few leaves")
    return unpack(packed, image.raw_bytes)


def _slices(ranges: Sequence[KeyRange]) -> list[list[KeyRange]]:
    """`ranges` in pieces that are small enough to be asked for at once.

    >>> few = [KeyRange(("i:1",), ("i:2",))] * 600
    >>> [len(some) for some in _slices(few)]
    [512, 88]
    """
    found: list[list[KeyRange]] = []
    size = 0
    for span in ranges:
        added = sum(len(token) for key in (span.after, span.through) if key for token in key)
        size += added
        if not found or size > MOST_ASKED_BYTES or len(found[-1]) == MOST_RANGES:
            found.append([])
            size = added
        found[-1].append(span)
    return found
