"""What the archive says of one row, and of those that were put beside it.

    segments ── keys.db: which may hold it? ──► attached as `batch`, one after the other ──► events, oldest first

Knows: SQL of a batch by its shape, the archive, the index of keys.  Does not know: what becomes of events.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import apsw

from rollrep.core.literals import folded, read_value, value_column
from rollrep.core.nouns import MASK_BITS, Layout, Op, Shape
from rollrep.destination.archive import Archive
from rollrep.destination.catalog_rows import Segment
from rollrep.destination.images import TIME
from rollrep.destination.keys import AT_A_TIME, KeyIndex
from rollrep.destination.rows import Key, Row, Scratch, key_terms, read_row
from rollrep.destination.stretches import Stretch
from rollrep.query import all_rows, one_value

UNREMARKABLE = 20
"""segments that are read without a word"""


@dataclasses.dataclass(frozen=True)
class Event:
    """A log row about the row in question."""

    id: int
    time: str
    op: int
    values: Row
    """what a PUT or a PATCH says"""


class RowLog:
    """What the archive says of one table's rows; as many segments are read at a time as there are processors."""

    def __init__(
        self,
        archive: Archive,
        index: KeyIndex,
        layout: Layout,
        shape: Shape,
        key: Key,
        progress: Callable[[str], None],
    ) -> None:
        self._index = index
        self._progress = progress
        self.shape = shape
        self.key = key
        self.encoding = layout.encoding
        self.scratch = Scratch(layout, shape)
        self._batches = [_Batch(archive, index, layout, shape) for _ in range(AT_A_TIME)]
        self._idle: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        for batch in self._batches:
            self._idle.put(batch)

    def close(self) -> None:
        self.scratch.close()
        for batch in self._batches:
            batch.close()

    def events(self, segments: Sequence[Segment], after: int, key: Key | None = None) -> list[Event]:
        """Every log row about the row with `key`, behind log id `after`."""
        columns = [f"v{n}" for n in range(self.shape.key_width)]
        terms, bound = key_terms(self.shape, key or self.key, columns)
        chosen = list(self._index.may_hold(segments, self.shape, key or self.key))
        if (new := sum(not is_known for _, is_known in chosen)) > UNREMARKABLE:
            self._progress(f"reading {new} segments that were not read before; the next question will be faster")

        def read(one: tuple[Segment, bool]) -> list[Event]:
            segment, is_known = one
            batch = self._idle.get()
            try:
                there = batch.attach(segment, learn=not is_known)
                return batch.read(f"{terms} AND id > {after:d}", bound) if there else []
            finally:
                self._idle.put(batch)

        with futures.ThreadPoolExecutor(AT_A_TIME) as readers:
            return list(itertools.chain.from_iterable(readers.map(read, chosen)))

    def others(self, segments: Sequence[Segment], after: int, before: int | None, most: int | None) -> Iterator[Event]:
        """The rows that were put or patched between two log ids, `most` at most, this one left out."""
        columns = [f"v{n}" for n in range(self.shape.key_width)]
        terms, bound = key_terms(self.shape, self.key, columns)
        left, batch = most, self._batches[0]
        for segment in segments:
            if segment.last <= after or (before is not None and segment.first >= before):
                continue
            if batch.attach(segment):
                limit = "" if left is None else f" LIMIT {left:d}"
                until = "" if before is None else f" AND id < {before:d}"
                written = f"op IN ({Op.PUT:d}, {Op.PATCH:d}) AND id > {after:d}{until}"
                for event in batch.read(f"NOT ({terms}) AND {written}", bound, limit):
                    yield event
                    if left is not None:
                        left -= 1
            if left is not None and left <= 0:
                return

    def may_collide(self, row: Row, event: Event) -> bool:
        """Whether a PATCH gave another row a value that must be unique and may be `row`'s."""
        unique = set(self.shape.unique_columns)
        return "*" in unique or any(
            folded(event.values[name], self.encoding) == folded(row[name], self.encoding)
            for name in unique & event.values.keys()
        )

    def patched(self, stretch: Stretch, base: apsw.Connection, event: Event) -> Row | None:
        """The whole row that a PATCH made."""
        key = tuple(event.values[name] for name in self.shape.key)
        row = read_row(base, self.shape, key)
        for each in self.events(stretch.segments, stretch.snapshot.id, key):
            if each.id > event.id:
                break
            if each.op == Op.PUT:
                row = each.values
            elif each.op == Op.DELETE:
                row = None
            elif each.op == Op.PATCH and row is not None:
                row = {**row, **each.values}
        return row


class _Batch:
    """One segment after the other, as `batch` of a connection of its own."""

    def __init__(self, archive: Archive, index: KeyIndex, layout: Layout, shape: Shape) -> None:
        self._archive = archive
        self._index = index
        self._shape = shape
        self._attached: Segment | None = None
        self._has_shape = False
        self._db = apsw.Connection(":memory:")
        self._db.execute(f"PRAGMA encoding = '{layout.encoding}'").fetchall()
        self._db.execute("CREATE TABLE encoded(a)")
        self._db.execute("ATTACH ':memory:' AS batch")

    def close(self) -> None:
        self._db.close()

    def attach(self, segment: Segment, *, learn: bool = False) -> bool:
        """Whether it holds rows of the shape."""
        if segment != self._attached:
            self._attached = None
            holds = self._archive.attach(self._db, segment)
            self._attached = segment
            self._has_shape = any(shape.id == self._shape.id for shape in holds.shapes)
            if learn:
                self._index.learn(self._db, segment, holds.shapes)
        return self._has_shape

    def read(self, condition: str, bound: Sequence[object], limit: str = "") -> list[Event]:
        """The log rows that the condition is true of, by id."""
        width = self._shape.width
        values = ", ".join(value_column(f"v{n}") for n in range(width))
        # The condition comes first: it is false of nearly every row, and what follows it true.
        rows = all_rows(
            self._db,
            f"SELECT id, op, v{width}, {values} FROM batch.log WHERE {numbered(condition)} AND shape = ?1 AND op IN"
            f" ({Op.PUT:d}, {Op.DELETE:d}, {Op.TOUCHED:d}, {Op.PATCH:d}) ORDER BY id{limit}",
            (self._shape.id, *bound),
        )
        found: list[Event] = []
        at, milliseconds = -1, 0
        for log_id, op, mask, *row in rows:
            query = "SELECT ifnull(sum(at), 0) FROM batch.log WHERE id > ? AND id <= ?"
            milliseconds += int(one_value(self._db, query, (at, log_id)))
            at = log_id
            time = str(one_value(self._db, f"SELECT {TIME} FROM (SELECT ? AS ms)", (milliseconds,)))
            tokens = dict(zip(self._shape.columns, map(read_value, row), strict=True))
            if op == Op.PATCH:
                tokens = {
                    name: token
                    for n, (name, token) in enumerate(tokens.items())
                    if n < self._shape.key_width or int(mask) >> min(n, MASK_BITS) & 1
                }
            found.append(Event(log_id, time, op, tokens))
        return found


def numbered(condition: str) -> str:
    """A condition of `?`s as one whose first is the second of the statement.

    >>> numbered("v0 = ? AND v1 = CAST(? AS TEXT)")
    'v0 = ?2 AND v1 = CAST(?3 AS TEXT)'
    """
    first, *rest = condition.split("?")
    return first + "".join(f"?{n}{part}" for n, part in enumerate(rest, start=2))
