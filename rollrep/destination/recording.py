"""What the catalog learns of a pull: points, whether a snapshot is due, and a line that a mirror begins by itself.

Knows: the archive, the catalog, the mirror's state.  Does not know: the wire.
"""

from __future__ import annotations

import contextlib
import dataclasses

import msgspec

from rollrep.core.clock import from_iso
from rollrep.core.errors import DiskFull, VerifyFailed
from rollrep.core.nouns import Point
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Line, Snapshot
from rollrep.destination.mirror_db import State, open_mirror, state_of, write_state
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What became of the archived points up to where the mirror stands."""

    points: list[CatalogPoint]
    """those that are new"""
    passed_over: list[Point]
    """those that are not kept: the log can't vouch for them, or they lie in a hole"""


def record_points(catalog: Catalog, archive: Archive, state: State, more: list[Point]) -> Recorded:
    """Records the points up to where the mirror stands, and `more`."""
    line = Line(state.line, state.position.epoch)
    recorded = catalog.points_recorded_through(state.line)
    holes = [hole for hole in catalog.holes() if hole.line == state.line and hole.until > recorded]
    # What lies behind a hole is not reached from before it, so each hole's far side begins anew.
    starts = [recorded, *(hole.until for hole in holes)]
    archived = {p.id: p for start in starts for p in archive.points(state.line, start, state.position.id)}
    by_id = {
        point.id: point
        for point in archived.values()
        if not point.schema_changed and not any(hole.after < point.id < hole.until for hole in holes)
    }
    found = [by_id[log_id] for log_id in sorted(by_id)]
    extra = [p for p in more if p.id not in by_id and not catalog.has_point(state.line, p.id)]
    with catalog.connection:
        added = catalog.add_points(line, [*found, *extra], state.position.id)
    return Recorded(added, [point for log_id, point in archived.items() if log_id not in by_id])


def record_archived(store: Store, catalog: Catalog) -> None:
    """Records the points of what is archived beyond the mirror: a pull was cut, and its source may never come back."""
    state = state_of(store.mirror)
    if state is None:
        return
    archive = Archive(store, catalog)
    end = archive.end(state.position, state.line)
    if end.id > state.position.id:
        with contextlib.suppress(VerifyFailed, OSError):  # of a damaged file, verify says what is to be done
            record_points(catalog, archive, msgspec.structs.replace(state, position=end), [])


def is_snapshot_due(catalog: Catalog, archive: Archive, state: State, snapshot_s: float) -> bool:
    """Whether the line has no snapshot, the archive does not lead from the newest to here, or it is too old."""
    newest = _leads_here(catalog, archive, state)
    if newest is None:
        return True
    if newest.id == state.position.id:
        return False
    if catalog.damaged() and not catalog.reach().covers(state.line, state.position.id):
        return True
    age_s = (from_iso(state.time) - newest.time).total_seconds()
    return age_s >= snapshot_s or age_s < 0


def _leads_here(catalog: Catalog, archive: Archive, state: State) -> Snapshot | None:
    """The newest snapshot of the line, where it stands here or the archive leads from it to here."""
    mine = [each for each in catalog.usable_snapshots() if each.line == state.line]
    if not mine:
        return None
    reach = archive.end(msgspec.structs.replace(state.position, id=mine[-1].id), state.line)
    return mine[-1] if max(reach.id, mine[-1].id) >= state.position.id else None


def keep_where_it_stands(store: Store, catalog: Catalog, archive: Archive, state: State) -> None:
    """The snapshot that the pull before was cut before.  Call it before the mirror moves on.

    A snapshot of a later state leads to no earlier point: those that are recorded where the mirror stands, and those
    of rows that follow, would be lost.
    """
    if _leads_here(catalog, archive, state):
        return
    reasons = {story.line: story.reason for story in catalog.line_stories()}
    if reasons.get(state.line) == "repair" and not catalog.has_point(state.line, state.position.id):
        # A repair is under way, or was cut: the mirror is of no one moment of its source.
        return
    record_points(catalog, archive, state, [])
    with contextlib.suppress(DiskFull):  # following the source comes first; the end of this pull says it
        take_snapshot(store, catalog)


def was_put_back(catalog: Catalog, state: State) -> bool:
    """Whether the mirror is of a line that another has followed: somebody put back an older copy of it."""
    return catalog.newest_line_with_points() > state.line


def begin_line_of_its_own(store: Store, catalog: Catalog, state: State) -> State:
    """What follows a mirror that was put back is the newest line, not the tail of an old one.

    `latest` means the newest line, and would stay with what the mirror had come to before.
    """
    state = msgspec.structs.replace(state, line=catalog.begin_line(state.position.epoch, "put_back").line)
    with contextlib.closing(open_mirror(store.mirror)) as mirror:
        mirror.execute("PRAGMA main.synchronous = FULL")
        write_state(mirror, state)
    ShadowArchive(store, catalog).begin(state.line, state.position.id, state.layout.virtuals)
    take_snapshot(store, catalog)
    return state
