"""Comparing a table of a mirror with the source's, by digests of key ranges; only what differs is looked into.

    stretches of 30 ms    ═══════╪═══════╪═══════        one digest each; nearly all are equal
    groups of 512 rows       ───┼─x─┼───                 within a stretch that differs
    groups of 16 rows          ─┼x┼─                     within a group that differs
    rows                        x                        changed, missing here, or only here

The source reads each answer in one transaction with the log's tail.  `follow` brings the mirror to exactly
that position before the same digests are taken here, so neither side is locked, and what is only late
alarms nobody.

Knows: the wire's session, parts.  Does not know: what following means, what is done about a difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import apsw
import msgspec

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Facts, Shape
from rollrep.destination.answers import answered, reached
from rollrep.destination.container import unpack
from rollrep.destination.images import attach_groups
from rollrep.destination.parts import Differing, Parts
from rollrep.wire.messages import Ask, Groups, Key, KeyRange, Rows, SendGroups, SendRows, SendStretch, Stretch
from rollrep.wire.session import Session, Tail

LEVELS = (512, 16, 1)
"""rows of a group, coarse to fine"""
MOST_RANGES = 512
"""asked for in one message"""
SHOWN_KEYS = 10
SCATTERED = 0.8
"""when so large a part of the coarse groups of a stretch differs, the next stretch begins with finer ones"""

Follow = Callable[[Tail, Facts | None], int]
"""Brings the mirror to the end of the tail, and to these facts, which are None where only the log came or
nothing is new; gives the log id at which it stands."""

A = TypeVar("A", Stretch, Groups, Rows)


@dataclasses.dataclass
class Compared:
    """What comparing one table found."""

    rows: int = 0
    """rows that the source has"""
    ranges: int = 0
    """digests that were compared"""
    differing: int = 0
    """rows that are changed, missing here, or only here"""
    keys: list[str] = dataclasses.field(default_factory=list)
    """the first few of them, as SQL literals"""


def first_level(rows: int, *, scattered: bool) -> int:
    """The rows of the groups into which a stretch of `rows` rows that differs is cut first.

    >>> first_level(40_000, scattered=False), first_level(40_000, scattered=True), first_level(9, scattered=True)
    (512, 16, 1)
    """
    levels = LEVELS[1:] if scattered else LEVELS
    return next((level for level in levels if rows > level * 2), LEVELS[-1])


def finer(group_rows: int) -> int | None:
    """The next level; None below single rows.

    >>> finer(512), finer(16), finer(1)
    (16, 1, None)
    """
    return next((level for level in LEVELS if level < group_rows), None)


class Comparison:
    """Compares tables of `db`, whose mirror stands at the log id `position`; `follow` moves it.

    `schema_digest` is the source's as of the last hello.  Everything raises SchemaChanged and LogOverrun as the session
    does, and then the comparison is over.
    """

    def __init__(
        self, session: Session, db: apsw.Connection, schema_digest: str, position: int, follow: Follow
    ) -> None:
        self._session = session
        self._db = db
        self._schema_digest = schema_digest
        self._follow = follow
        self._scattered = False
        self._parts: Parts | None = None
        self.position = position

    def table(self, shape: Shape, found: Compared, progress: Callable[[int], None]) -> Iterator[list[KeyRange]]:
        """Compares the whole table; gives ranges that differ, each down to single rows, as it finds them.

        Whoever takes them may `fetch` them before asking for the next ones.
        """
        self._parts = Parts(self._db, shape)
        try:
            yield from self._stretches(self._parts, shape, found, progress)
        finally:
            self._parts.close()

    def fetch(self, shape: Shape, ranges: Sequence[KeyRange]) -> Iterator[tuple[list[KeyRange], Rows, bytes]]:
        """The rows within `ranges`, as they are at `position`: (which ranges, announcement, unpacked image)."""
        left = list(ranges)
        while left:
            asked = left[:MOST_RANGES]
            ask = SendRows(shape.id, tuple(asked), self.position, self._schema_digest)
            said, packed = self._answer(ask, Rows)
            whole, rest = answered(asked, said)
            left[: len(asked)] = rest
            yield whole, said, unpack(packed, said.image.raw_bytes)

    def replace_rows(self, ranges: Sequence[KeyRange]) -> None:
        """Makes the rows of the table under comparison within `ranges` those of `chunk.rows`, inside a transaction."""
        assert self._parts is not None, "a table is being compared"
        self._parts.replace_rows(ranges)

    def _stretches(
        self, parts: Parts, shape: Shape, found: Compared, progress: Callable[[int], None]
    ) -> Iterator[list[KeyRange]]:
        pending: list[tuple[KeyRange, int]] = []
        after: Key | None = None
        is_asked = False
        while True:
            ask = SendStretch(shape.id, after, self.position, self._schema_digest)
            stretch, _ = self._answer(ask, Stretch, is_asked=is_asked)
            span = reached(KeyRange(after, None), stretch.last_key)
            after = stretch.last_key
            is_asked = after is not None and not pending
            if is_asked:
                # The source reads the next one while we take our digest of this one.
                self._session.ask(SendStretch(shape.id, after, self.position, self._schema_digest))
            found.rows += stretch.rows
            found.ranges += 1
            if parts.digest_of(span) != (stretch.rows, stretch.digest):
                pending.append((span, stretch.rows))
            progress(stretch.rows)
            if not is_asked:
                for each, rows in pending:
                    yield from self._descend(parts, shape, each, rows, found)
                pending = []
            if after is None:
                return

    def _descend(
        self, parts: Parts, shape: Shape, span: KeyRange, rows: int, found: Compared
    ) -> Iterator[list[KeyRange]]:
        level: int | None = first_level(rows, scattered=self._scattered)
        ranges = [span]
        while level is not None and ranges:
            differing: list[KeyRange] = []
            differed, compared = 0, 0
            for each in self._groups(parts, shape, ranges, level):
                differing += each.ranges
                differed, compared = differed + each.parts, compared + each.of
                if level == LEVELS[-1] and each.parts:
                    count, keys = parts.differing_rows(SHOWN_KEYS)
                    found.differing += count
                    found.keys += keys[: SHOWN_KEYS - len(found.keys)]
            found.ranges += compared
            if level == LEVELS[0]:
                self._scattered = differed >= SCATTERED * compared
            ranges, level = differing, finer(level)
        if ranges:
            yield ranges

    def _groups(self, parts: Parts, shape: Shape, ranges: Sequence[KeyRange], group_rows: int) -> Iterator[Differing]:
        left = list(ranges)
        while left:
            ask = SendGroups(shape.id, tuple(left[:MOST_RANGES]), group_rows, self.position, self._schema_digest)
            said, packed = self._answer(ask, Groups)
            asked, left = left[: said.answered], left[said.answered :]
            if not asked:
                raise VerifyFailed("the source answered nothing of what it was asked for")
            attach_groups(self._db, unpack(packed, said.image.raw_bytes), shape)
            parts.take_groups(asked, group_rows)
            yield parts.differing()

    def _answer(self, ask: Ask, kind: type[A], *, is_asked: bool = False) -> tuple[A, bytes]:
        """The answer to `ask`, with the mirror at its position; asked again while only the log comes."""
        while True:
            if not is_asked:
                self._session.ask(ask)
            tail, found = self._session.read(self.position, kind)
            self.position = self._follow(tail, found[0].facts if found else None)
            if found is not None:
                return found
            is_asked = False
            ask = msgspec.structs.replace(ask, position=self.position)
