"""The archive: every batch that was pulled, verbatim, one immutable file each.

    archive/<line>/<first>-<last>.segment

A segment says of itself what it is: which line and ids, the shapes of its rows, its consistency points,
and, where it ends on a commit of the source, the facts that no trigger sees.

Knows: containers, the catalog, images.  Does not know: replay, the wire's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Facts, Point, Position, Shape
from rollrep.destination import container
from rollrep.destination.catalog import Catalog, Line, Segment
from rollrep.destination.images import attach_log, encoding_of, points_in, scratch
from rollrep.destination.store import Store
from rollrep.destination.trash import find_file
from rollrep.wire.messages import Batch

KIND = "segment"


class SegmentHolds(msgspec.Struct, frozen=True):
    """The part of a segment's manifest that is a segment's own."""

    line: int
    epoch: str
    first: int
    last: int
    proof: str
    shapes: tuple[Shape, ...]
    points: tuple[Point, ...]
    facts: Facts | None
    """at `last`, where that is a commit of the source and was seen as one"""


class Archive:
    """The segments of one job."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def add(self, db: apsw.Connection, line: Line, batch: Batch, packed: bytes, facts: Facts | None) -> SegmentHolds:
        """Archives a batch and leaves its image attached to `db` as `batch`.

        It is unpacked and looked at first: what is archived can be replayed.
        """
        raw = container.unpack(packed, batch.image.raw_bytes)
        attach_log(db, raw, batch.first, batch.last, batch.shapes)
        holds = SegmentHolds(
            line.line, batch.epoch, batch.first, batch.last, batch.proof, batch.shapes, points_in(db), facts
        )
        folder = self._store.archive / str(line.line)
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{holds.first:012d}-{holds.last:012d}.segment"
        size = container.write_packed(path, KIND, packed, len(raw), holds)
        relative = str(path.relative_to(self._store.folder))
        self._catalog.add_segment(Segment(line.line, holds.first, holds.last, holds.proof, relative, size))
        return holds

    def end(self, position: Position, line: int) -> Position:
        """How far the archive reaches from `position` without a hole."""
        following = self._catalog.segments_after(line, position.id)
        return Position(position.epoch, following[-1].last, following[-1].proof) if following else position

    def holds(self, segment: Segment) -> SegmentHolds:
        """What a segment says of itself.  Raises VerifyFailed where it is not what the catalog says."""
        path = self.path(segment)
        found = container.read_holds(path, KIND, SegmentHolds)
        if (found.line, found.first, found.last) != (segment.line, segment.first, segment.last):
            raise VerifyFailed(f"{path} holds other log rows than its name says")
        return found

    def attach(self, db: apsw.Connection, segment: Segment) -> SegmentHolds:
        """Makes `batch` of `db` the segment's image, checked to its last byte."""
        holds = self.holds(segment)
        raw = container.read_raw(self.path(segment), KIND)
        attach_log(db, raw, holds.first, holds.last, holds.shapes)
        return holds

    def checked(self, segment: Segment) -> SegmentHolds:
        """What a segment says of itself, all of it read.  Raises VerifyFailed where it is damaged."""
        holds = self.holds(segment)
        raw = container.read_raw(self.path(segment), KIND)
        with scratch(encoding_of(raw)) as db:
            attach_log(db, raw, holds.first, holds.last, holds.shapes)
        return holds

    def attached(self, db: apsw.Connection, line: int, after: int, through: int) -> Iterator[SegmentHolds]:
        """Attaches, one after the other, the segments that lead from `after` to `through`."""
        for segment in self._catalog.segments_after(line, after):
            if segment.first > through:
                break
            yield self.attach(db, segment)

    def points(self, line: int, after: int, through: int) -> list[Point]:
        """The points of the archived rows `after` < id ≤ `through` that the log tells everything of."""
        return [
            point
            for segment in self._catalog.segments_after(line, after)
            if segment.first <= through
            for point in self.holds(segment).points
            if after < point.id <= through and not point.schema_changed
        ]

    def path(self, segment: Segment) -> Path:
        return find_file(self._store, segment.path)
