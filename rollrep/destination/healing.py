"""Healing: the log rows of a damaged segment are fetched again, while the source's log still has them.

    segment 11..40, found damaged by `verify`        the source's log: 7 ────────────► head
       └─► 11..25, 26..40 are fetched, and end with the same proof ──► the damaged file goes to the trash

Rows, ids, times and points are the same then.  What the ends of pulls said beside their rows stands in the segment's
manifest, which is seldom what is damaged; where it is, the segment stays as it is, for `verify --repair`.

A process that dies in between leaves files that nobody reads, and the next pull heals again.

Knows: the archive, the catalog, the trash, the wire's session.  Does not know: how damage is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollrep.core.clock import now
from rollrep.core.errors import VerifyFailed
from rollrep.destination.archive import Archive, SegmentHolds
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Line, Segment
from rollrep.destination.images import scratch
from rollrep.destination.mirror_db import State
from rollrep.destination.store import Store
from rollrep.destination.trash import nobody_reads, throw_away
from rollrep.wire.session import LogOverrun, Session


def heal(store: Store, catalog: Catalog, session: Session, state: State, oldest: int) -> list[str]:
    """The paths of the damaged segments that were fetched again, below the job's folder.

    Call it under the job's lock, with a source that has just said that the mirror in this state is of its history,
    and that its log begins at `oldest`.  Where a restore is reading, the next pull is soon enough.
    """
    damaged = catalog.damaged()
    ill = [
        each
        for each in catalog.segments()
        if each.path in damaged and each.line == state.line and oldest <= each.first and each.last <= state.position.id
    ]
    if not ill:
        return []
    healing = _Healing(store, catalog, session, state)
    with nobody_reads(store) as free:
        return [each.path for each in ill if healing.heal(each)] if free else []


class _Healing:
    def __init__(self, store: Store, catalog: Catalog, session: Session, state: State) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._session = session
        self._state = state

    def heal(self, segment: Segment) -> bool:
        try:
            holds = self._archive.holds(segment)
        except (VerifyFailed, OSError):
            return False
        pieces: list[Segment] = []
        try:
            self._fetch(segment, holds, pieces)
        except LogOverrun:
            pass
        finally:
            # However it ended: a single piece has the damaged file's own name, and nothing else has its rows then.
            is_whole = bool(pieces) and pieces[-1].last == segment.last
            if is_whole:
                self._exchange(segment, pieces)
            else:
                for each in pieces:
                    (self._store.folder / each.path).unlink(missing_ok=True)
        return is_whole

    def _fetch(self, segment: Segment, holds: SegmentHolds, pieces: list[Segment]) -> None:
        """Appends to `pieces`, in the log's order; one that ends with the segment has its proof."""
        line = Line(segment.line, holds.epoch)
        is_same = True
        with scratch(self._state.layout.encoding) as db:
            for batch, packed in self._session.batches(segment.first - 1, segment.last):
                # Rows of the same ids and of another history are not what was lost.
                is_same = is_same and batch.epoch == holds.epoch
                is_same = is_same and (batch.last < segment.last or batch.proof == segment.proof)
                if is_same:
                    ends = [each for each in holds.all_facts if batch.first <= each.head.id <= batch.last]
                    pieces.append(self._archive.put(db, line, batch, packed, ends)[1])

    def _exchange(self, segment: Segment, pieces: Sequence[Segment]) -> None:
        # A file goes before its row does.
        if all(each.path != segment.path for each in pieces):
            throw_away(self._store, segment.path, now())
        with self._catalog.connection:
            self._catalog.drop_segment(segment)
            self._catalog.know_damaged(self._catalog.damaged() - {segment.path})
            for each in pieces:
                self._catalog.add_segment(each)
