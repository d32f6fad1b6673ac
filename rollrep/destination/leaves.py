"""What the source says of its leaves beside the mirror's own: where rows may differ.

    theirs   a  b  c  ×  e  f        digests in key order, of leaves, then of the cells of those that differ
    ours     a  b  ×  ×  e  f
                   └──┘ after the last key of b, up to the one before the first of e

Equal digests are equal rows, keys included, so what is equal on both sides lies in the same order on both; rows of
either that differ lie between.  Leaves that were cut at other keys only mean that less is equal.

Knows: leaf pages, the wire's leaves, SQL of the mirror's tables.  Does not know: the wire's conversation.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import apsw

from rollrep.core.nouns import Layout, Shape
from rollrep.destination.parts import scan_of
from rollrep.leaf_pages import LeafPages
from rollrep.query import all_rows
from rollrep.wire.leaves import (
    MOST_BYTES,
    NO_CELL,
    NO_LEAF,
    Leaf,
    cell_digests,
    cells_of,
    key_at,
    key_of,
    rowid_key,
    rowids,
    tells_all,
)
from rollrep.wire.messages import ByLeaves, KeyRange

LEAST = -(1 << 63)
"""of SQLite's whole numbers"""


MOSTLY, PAGES_JUDGED = 0.5, 16
"""when a smaller part of so many pages is equal, the two copies lie apart, and rows say more"""
BY_ROWS = 16
"""so many stretches, before pages are looked at again"""


class Gap(NamedTuple):
    """Which of theirs and which of ours lie between two that are equal: from, and up to without."""

    theirs: tuple[int, int]
    ours: tuple[int, int]


def gaps(theirs: Sequence[bytes], ours: Sequence[bytes]) -> list[Gap]:
    """Where digests in key order differ.

    >>> [tuple(gap) for gap in gaps([b"a", b"x", b"c", b"d"], [b"a", b"c", b"d", b"y"])]
    [((1, 2), (1, 1)), ((4, 4), (3, 4))]
    >>> [tuple(gap) for gap in gaps([b"a", b"x", b"y", b"d"], [b"a", b"u", b"v", b"d"])]
    [((1, 3), (1, 3))]
    """
    places = {digest: place for place, digest in enumerate(ours)}
    for nothing in (NO_LEAF, NO_CELL):
        places.pop(nothing, None)
    found = []
    mine, place = 0, 0
    for at, equal in enumerate([*map(places.get, theirs), len(ours)]):
        # One before another that was equal is a lie, or a row whose digest is by chance that of another.
        if equal is None or equal < place:
            continue
        if at > mine or equal > place:
            found.append(Gap((mine, at), (place, equal)))
        mine, place = at + 1, equal + 1
    return found


class Wanted:
    """Which digests of leaves are asked for next, by what those before them were."""

    def __init__(self) -> None:
        self.each = False
        """whether of each leaf, because the stretch before had some that differ"""
        self._by_rows = 0
        self._pages = self._equal = 0

    @property
    def how(self) -> ByLeaves:
        return "each" if self.each else "as one"

    @property
    def of_pages(self) -> bool:
        return self._by_rows == 0

    def learn(self, match: Match, *, of_pages: bool) -> bool:
        """Whether what was told is good enough to go on from; else it is to be told of rows."""
        self.each = bool(match.gaps)
        if not of_pages:
            self._by_rows = max(0, self._by_rows - 1)
            return True
        self._pages, self._equal = self._pages + match.of, self._equal + match.equal
        if self._pages < PAGES_JUDGED:
            return True
        apart = self._equal < MOSTLY * self._pages
        self._by_rows = BY_ROWS if apart else 0
        self._pages = self._equal = 0
        return not apart


def sure(leaves: Sequence[Leaf], pages: Sequence[bytes]) -> list[Leaf]:
    """What is told of our `pages` as they lie there, with NO_LEAF where an equal digest would not be equal rows."""
    return [leaf if tells_all(page) else (NO_LEAF, None) for leaf, page in zip(leaves, pages, strict=True)]


class Match:
    """One stretch of theirs beside the same keys of ours."""

    def __init__(self, theirs: list[bytes] | None, ours: list[Leaf], pages: list[bytes], span: KeyRange) -> None:
        """`ours` is what was read of `pages`; None: theirs are the same."""
        self.key = secrets.token_hex(16)
        """what cells are digested under"""
        self._pages = pages
        self._ends = rowids(span) or (None, None)
        digests = [digest for digest, _ in ours]
        theirs = digests if theirs is None else theirs
        self.gaps: list[Gap] = []
        """in which cells say more"""
        self.unclear: list[KeyRange] = []
        """where leaves do not tell all of their rows"""
        self.of = self.equal = len(theirs)
        self.not_told = max(theirs.count(NO_LEAF), digests.count(NO_LEAF))
        for gap in gaps(theirs, digests):
            self.equal -= gap.theirs[1] - gap.theirs[0]
            if NO_LEAF not in theirs[slice(*gap.theirs)] and NO_LEAF not in digests[slice(*gap.ours)]:
                self.gaps.append(gap)
            elif found := self._keys(self._before(gap), self._behind(gap)):
                self.unclear.append(found)
        self._cells = {leaf: ours[leaf][1] for gap in self.gaps for leaf in range(*gap.ours)}

    @property
    def wanted(self) -> tuple[int, ...]:
        """Which of their leaves are to be told by their cells."""
        return tuple(leaf for gap in self.gaps for leaf in range(*gap.theirs))

    def differing(self, told: Iterable[list[bytes]]) -> list[KeyRange]:
        """The ranges in which rows differ, by the cells of the leaves that were wanted."""
        leaves = iter(told)
        ranges = (
            each
            for gap in self.gaps
            for each in self._within(gap, [*itertools.chain(*itertools.islice(leaves, gap.theirs[1] - gap.theirs[0]))])
        )
        return [each for each in ranges if each]

    def _within(self, gap: Gap, theirs: list[bytes]) -> Iterator[KeyRange | None]:
        cells = [cell for leaf in range(*gap.ours) for cell in self._cells[leaf] or cells_of(self._pages[leaf])]
        page_size = len(self._pages[gap.ours[0]]) if cells else 0
        for each in gaps(theirs, cell_digests(cells, page_size, self.key)):
            first, end = each.ours
            yield self._keys(
                key_of(cells[first - 1]) if first else self._before(gap),
                key_of(cells[end]) if end < len(cells) else self._behind(gap),
            )

    def _before(self, gap: Gap) -> int | None:
        leaf = gap.ours[0] - 1
        return key_at(self._pages[leaf], -1) if leaf >= 0 else None

    def _behind(self, gap: Gap) -> int | None:
        leaf = gap.ours[1]
        return key_at(self._pages[leaf], 0) if leaf < len(self._pages) else None

    def _keys(self, before: int | None, behind: int | None) -> KeyRange | None:
        """The keys between two, within the span; None where there are none."""
        after, through = self._ends
        if before is not None and (after is None or before > after):
            after = before
        if behind is not None and (through is None or behind <= through):
            through = behind - 1
        if through is not None and through <= (LEAST - 1 if after is None else after):
            return None
        return KeyRange(rowid_key(after), rowid_key(through))


class OwnLeaves:
    """The leaves of the mirror's tables.  `db` is a connection to it, and the mirror stays as it is meanwhile."""

    def __init__(self, db: apsw.Connection, path: Path, layout: Layout) -> None:
        self._db = db
        self._layout = layout
        # Looked up for each table that is compared: to search the schema each time is slow where they are many.
        self._texts = {each.name: each.sql for each in layout.objects if each.type == "table"}
        self._own_texts = dict(all_rows(db, "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table'"))
        # Ours may be cut more finely.
        self._pages = LeafPages(lambda vfs: _open(path, vfs), 2 * MOST_BYTES)

    def close(self) -> None:
        self._pages.close()

    def tell(self, shape: Shape) -> bool:
        """Whether equal bytes are equal rows there and here: under one text of the table, in one encoding."""
        if shape.without_rowid:
            return False
        kept = (self._db.pragma("encoding"), self._db.pragma("page_size"))
        theirs, ours = self._texts.get(shape.table), self._own_texts.get(shape.table)
        return kept == (self._layout.encoding, self._layout.page_size) and theirs is not None and theirs == ours

    def within(self, shape: Shape, span: KeyRange) -> list[bytes] | None:
        """The leaves of the rows within `span`; None where they can't be seen, or are too many."""
        ends = rowids(span)
        if ends is None:
            return None
        scan = scan_of(self._pages.db, shape)
        seen = self._pages.within(scan.source, scan.bare_key[0], *ends)
        return seen.pages if seen else None


def _open(path: Path, vfs: str) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    db.set_busy_timeout(10_000)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return db
