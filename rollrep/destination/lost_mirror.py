"""A mirror that was lost, or put aside: where its line may go on with the copy that takes its place.

    segments, snapshots, points, holes of the line ─────► end          the source's head
                                                           └── a hole ──────┘ copied, and a snapshot

Only where the source proves that it has the row at the end: ids and the log's epoch are the same in a source that was
put back from a backup since, and its new rows would come to stand below snapshots of what it has lost.

Knows: the catalog, what files say of where they end.  Does not know: the wire, the mirror operation.
"""

from __future__ import annotations

import contextlib

from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Position
from rollrep.destination.catalog import Catalog
from rollrep.destination.changes import end_of
from rollrep.destination.store import Store
from rollrep.destination.trash import find_file


def end_of_newest_line(store: Store, catalog: Catalog) -> tuple[int, Position] | None:
    """The newest line, and the position behind which nothing of it stands; None where no file proves that one."""
    line = catalog.newest_line()
    if line is None:
        return None
    segments = [each for each in catalog.segments() if each.line == line.line]
    snapshots = [each for each in catalog.snapshots() if each.line == line.line]
    stands = [each.last for each in segments] + [each.id for each in snapshots]
    stands += [each.until for each in catalog.holes() if each.line == line.line]
    stands += [each.id for each in catalog.points() if each.line == line.line]
    last = max(stands, default=0)
    for segment in segments:
        if segment.last == last and segment.proof:
            return line.line, Position(line.epoch, last, segment.proof)
    for snapshot in snapshots:
        if snapshot.id == last:
            with contextlib.suppress(RollrepError, OSError):
                position, _ = end_of(find_file(store, snapshot.path))
                if position.proof:
                    return line.line, position
    return None
