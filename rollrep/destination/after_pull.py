"""What follows a pull: which points the catalog learns, and whether a snapshot is due.

Knows: the catalog, what segments say of themselves.  Does not know: the wire, the mirror's tables.
"""

from __future__ import annotations

import msgspec

from rollrep.core.clock import from_iso
from rollrep.core.nouns import Point
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog, CatalogPoint, Line
from rollrep.destination.mirror_db import State


def record_points(catalog: Catalog, archive: Archive, state: State, more: list[Point]) -> list[CatalogPoint]:
    """Records the points of the archived rows up to the mirror's position, and `more`; those that are new."""
    line = Line(state.line, state.position.epoch)
    recorded = catalog.points_recorded_through(state.line)
    # What lies behind a hole is not reached from before it, so each hole's far side begins anew.
    starts = [
        recorded,
        *(h.until for h in catalog.holes() if h.line == state.line and h.until > recorded),
    ]
    by_id = {point.id: point for start in starts for point in archive.points(state.line, start, state.position.id)}
    found = [by_id[log_id] for log_id in sorted(by_id)]
    extra = [p for p in more if p.id not in by_id and not catalog.has_point(state.line, p.id)]
    with catalog.connection:
        added = catalog.add_points(line, [*found, *extra], state.position.id)
    return added


def snapshot_due(catalog: Catalog, archive: Archive, state: State, snapshot_s: float) -> bool:
    """Whether the line has no snapshot that leads to the mirror's position, or only one older than `snapshot_s`."""
    mine = [snapshot for snapshot in catalog.snapshots() if snapshot.line == state.line]
    if not mine:
        return True
    newest = mine[-1]
    if newest.id == state.position.id:
        return False
    reach = archive.end(msgspec.structs.replace(state.position, id=newest.id), state.line)
    if reach.id < state.position.id:
        return True
    age_s = (from_iso(state.time) - newest.time).total_seconds()
    return age_s >= snapshot_s or age_s < 0
