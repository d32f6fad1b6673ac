"""Mending what lies here: damaged files are put aside, and the catalog says what is missing from then on.

    segment                     to the trash; a hole in its line
    snapshot                    to the trash, with the changes that lead on from it; the archive may lead there still
    change of virtual tables    to the trash, with the segment it stands in: no point behind it would be exact
    the mirror                  stays; where nothing leads to it any more, a snapshot is taken.  A damaged one goes to
                                the trash, too, when it is to be made again

A file goes before its row does: a process that dies in between is finished by the next.  What the mirror has not
come to yet leaves no hole, for the next pull fetches it again.

Knows: what was found, the catalog, the trash.  Does not know: how damage is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence, Set

from rollrep.core.clock import now
from rollrep.core.errors import Locked
from rollrep.destination.archive import Archive
from rollrep.destination.at_rest import AtRest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Hole, Segment, Snapshot
from rollrep.destination.mirror_db import State, mirror_problems, state_of
from rollrep.destination.notes import note_path
from rollrep.destination.reach import reach_of
from rollrep.destination.recording import is_snapshot_due
from rollrep.destination.shadow_archive import Seen, ShadowArchive
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.destination.stretches import DAMAGED
from rollrep.destination.trash import find_file, nobody_reads, throw_away


@dataclasses.dataclass(frozen=True)
class Mended:
    """What was put aside, and what that took away; or what would be."""

    files: tuple[str, ...]
    """below the job's folder, where they were"""
    lost: tuple[CatalogPoint, ...]
    missing: tuple[str, ...] = ()
    """files that were in no place, nor in the trash: the catalog alone spoke of them"""


@dataclasses.dataclass(frozen=True)
class _Going:
    snapshots: list[Snapshot]
    segments: list[Segment]
    shadows: list[Seen]

    @property
    def paths(self) -> list[str]:
        named = [*(each.path for each in self.snapshots), *(each.path for each in self.segments)]
        return [*named, *(str(each.path) for each in self.shadows)]


def mend(store: Store, catalog: Catalog, found: AtRest) -> Mended:
    """Puts aside what `found` names as damaged.  Call it under the job's lock.

    Raises Locked where a restore is reading.
    """
    state = _whole_state(store, found)
    going = _going(store, catalog, found)
    files, missing = _there_and_not(store, going.paths)
    with _nobody_reads(store):
        thrown = now()
        for path in [*going.paths, *(note_path(each.path) for each in going.snapshots)]:
            throw_away(store, path, thrown)
        with catalog.connection:
            for snapshot in going.snapshots:
                catalog.drop_snapshot(snapshot)
            for segment in going.segments:
                catalog.drop_segment(segment)
            for hole in _holes(going.segments, catalog.segments(), found, state):
                catalog.add_hole(hole)
    if state and not state.reason and is_snapshot_due(catalog, Archive(store, catalog), state, float("inf")):
        take_snapshot(store, catalog)
    for seen in going.shadows:
        ShadowArchive(store, catalog).cut(seen)
    catalog.know_damaged(())
    catalog.drop_points_nothing_leads_to()
    catalog.note("mended", files=going.paths)
    gone = {*found.restorable, *found.lost} - set(catalog.points())
    return Mended(files, _in_order(gone), missing)


def would_mend(store: Store, catalog: Catalog, found: AtRest) -> Mended:
    """What `mend` would do; nothing is written."""
    state = _whole_state(store, found)
    going = _going(store, catalog, found)
    files, missing = _there_and_not(store, going.paths)
    reach = reach_of(
        [each for each in catalog.segments() if each not in going.segments],
        [each for each in catalog.snapshots() if each not in going.snapshots],
    )
    # Where nothing else leads to the mirror, it becomes a snapshot.
    at = (state.line, state.position.id) if state and not state.reason else None
    gone = {each for each in (*found.restorable, *found.lost) if not reach.covers(each.line, each.id)}
    return Mended(files, _in_order({each for each in gone if (each.line, each.id) != at}), missing)


def _in_order(points: Set[CatalogPoint]) -> tuple[CatalogPoint, ...]:
    return tuple(sorted(points, key=lambda each: (each.line, each.id, each.point)))


def _whole_state(store: Store, found: AtRest) -> State | None:
    return state_of(store.mirror) if found.is_mirror_whole else None


def _going(store: Store, catalog: Catalog, found: AtRest) -> _Going:
    shadows = [each for each in ShadowArchive(store, catalog).files() if each.path in found.damaged]
    segments = [
        each
        for each in catalog.segments()
        if each.path in found.damaged
        or any(each.line == seen.line and each.first <= seen.id <= each.last for seen in shadows)
    ]
    # A change goes before what it leads on from.
    snapshots = [each for each in reversed(catalog.snapshots()) if each.path in found.damaged]
    return _Going(snapshots, segments, shadows)


def _there_and_not(store: Store, paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    there = tuple(each for each in paths if find_file(store, each).exists())
    return there, tuple(each for each in paths if each not in there)


def put_mirror_aside(store: Store) -> None:
    """Puts the mirror into the trash where it is damaged: the next pull makes it again.  Call it under the job's lock.

    To compare it with the source would not mend it: an index may be damaged and no row.  Raises Locked where a
    restore is reading.
    """
    if not mirror_problems(store.mirror):
        return
    with _nobody_reads(store):
        thrown = now()
        for ending in ("-wal", "-shm", ""):
            throw_away(store, store.mirror.name + ending, thrown)


@contextlib.contextmanager
def _nobody_reads(store: Store) -> Iterator[None]:
    with nobody_reads(store) as free:
        if not free:
            raise Locked(f"somebody reads the files of {store.job}", remedy="wait for it, and type it again")
        yield


def _holes(gone: Sequence[Segment], stay: Sequence[Segment], found: AtRest, state: State | None) -> list[Hole]:
    """What is missing of the lines now, up to where the mirror stands."""
    missing = [
        (each.line, each.first, each.last)
        for each in gone
        if not any(other.line == each.line and other.first <= each.first and each.last <= other.last for other in stay)
    ]
    holes = []
    for line, first, last in (*missing, *found.gaps):
        until = min(last, state.position.id) if state and state.line == line else last
        if first <= until:
            holes.append(Hole(line, first - 1, until, DAMAGED))
    return holes
