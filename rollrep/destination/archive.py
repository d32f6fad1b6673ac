"""The archive: every batch that was pulled, its rows verbatim, in files that are never changed.

    archive/<line>/<first>-<last>.segment

A segment says of itself what it is: which line and ids, the shapes of its rows, its consistency points,
and, where it ends on a commit of the source, the facts that no trigger sees.

Knows: containers, the catalog, images.  Does not know: replay, the wire's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import msgspec

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Facts, Point, Position, Shape
from rollrep.destination import container
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Line, Segment
from rollrep.destination.change_rows import CHANGED, LOG, attach_changed
from rollrep.destination.images import at_ms_of, attach_log, encoding_of, points_in, scratch
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import find_file
from rollrep.wire.images import log_width
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
    ends: tuple[Facts, ...] = ()
    """the same of the segments that this one was joined of, but for the last, oldest first"""

    @property
    def all_facts(self) -> tuple[Facts, ...]:
        """At each end of a pull in here, oldest first."""
        return (*self.ends, self.facts) if self.facts else self.ends


class Archive:
    """The segments of one job."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog

    def add(self, db: apsw.Connection, line: Line, batch: Batch, packed: bytes, facts: Facts | None) -> SegmentHolds:
        """Archives a batch and leaves its image attached to `db` as `batch`.

        It is unpacked and looked at first: what is archived can be replayed.
        """
        holds, segment = self.put(db, line, batch, packed, [facts] if facts else [])
        self._catalog.add_segment(segment)
        return holds

    def put(
        self, db: apsw.Connection, line: Line, batch: Batch, packed: bytes, ends: Sequence[Facts]
    ) -> tuple[SegmentHolds, Segment]:
        """As `add`, but that the catalog does not know of it yet; `ends` are at the ends of pulls in it."""
        raw = container.unpack(packed, batch.image.raw_bytes)
        attach_log(db, raw, batch.first, batch.last, batch.shapes)
        earlier = tuple(each for each in ends if each.head.id < batch.last)
        holds = SegmentHolds(
            line.line, batch.epoch, batch.first, batch.last, batch.proof, batch.shapes, points_in(db),
            ends[-1] if len(earlier) < len(ends) else None, earlier,
        )  # fmt: skip
        path = self._path_of(holds)
        return holds, self._found(path, holds, container.write_packed(path, KIND, packed, len(raw), holds))

    def join(self, segments: Sequence[Segment]) -> Segment | None:
        """One segment with the rows of several that follow one another; not in the catalog yet.

        None where they can't be one: a shape has other columns since.  Raises VerifyFailed where one is damaged.
        """
        held = [self.holds(each) for each in segments]
        shapes = {shape.id: shape for holds in held for shape in holds.shapes}
        if any(shapes[shape.id] != shape for holds in held for shape in holds.shapes):
            return None
        if len({holds.epoch for holds in held}) > 1:
            return None
        last = held[-1]
        joined = SegmentHolds(
            last.line, last.epoch, held[0].first, last.last, last.proof, tuple(shapes.values()),
            tuple(point for holds in held for point in holds.points), last.facts,
            (*(facts for holds in held[:-1] for facts in holds.all_facts), *last.ends),
        )  # fmt: skip
        path = self._path_of(joined)
        image = path.with_name(f"joined.db{TEMPORARY}")
        try:
            with container.disk_room(image):
                self._join_images(segments, image, joined.shapes)
            return self._found(path, joined, container.write_file(path, KIND, image, joined))
        finally:
            image.unlink(missing_ok=True)

    def _join_images(self, segments: Sequence[Segment], image: Path, shapes: Sequence[Shape]) -> None:
        raw = container.read_raw(self.path(segments[0]), KIND)
        with scratch(encoding_of(raw)) as db:
            attach_changed(db, image, shapes)
            reached_ms = 0
            for each in segments:
                holds = self.attach(db, each)
                columns = ", ".join(["id", "at", "shape", "op", *(f"v{n}" for n in range(log_width(holds.shapes)))])
                db.execute(f"INSERT INTO {LOG}({columns}) SELECT {columns} FROM batch.log")
                # An image's first row has its whole time, each other what has passed since the row before.
                db.execute(f"UPDATE {LOG} SET at = at - ? WHERE id = ?", (reached_ms, holds.first))
                reached_ms = at_ms_of(db, holds.last)
            db.execute(f"DETACH {CHANGED}")

    def _path_of(self, holds: SegmentHolds) -> Path:
        folder = self._store.archive / str(holds.line)
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{holds.first:012d}-{holds.last:012d}.segment"

    def _found(self, path: Path, holds: SegmentHolds, size: int) -> Segment:
        relative = str(path.relative_to(self._store.folder))
        return Segment(holds.line, holds.first, holds.last, holds.proof, relative, size)

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
        """The points of the archived rows `after` < id ≤ `through`, also those that the log can't vouch for."""
        return [
            point
            for segment in self._catalog.segments_after(line, after)
            if segment.first <= through
            for point in self.holds(segment).points
            if after < point.id <= through
        ]

    def path(self, segment: Segment) -> Path:
        return find_file(self._store, segment.path)
