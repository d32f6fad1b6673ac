"""A snapshot because somebody asked for it: of any point, with a label, pinned or not.

    the mirror stands at the point ──► taken from it
    else                           ──► the nearest snapshot, the archive replayed on it up to the point

One that was made of the archive at a point that no pull ended on has an empty proof: the log row is not at hand
as the source had it.  A restore that goes on from there replays in order, because such a point may stand inside a
transaction.

Knows: restore's plan, snapshots, notes, the catalog.  Does not know: retention, the wire.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, UsageError, VerifyFailed
from rollrep.core.nouns import Point, Position
from rollrep.destination import container
from rollrep.destination.archive import Archive
from rollrep.destination.building import Built, Plan, from_archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Line, Snapshot
from rollrep.destination.inert import integrity_problems
from rollrep.destination.mirror_db import State, open_mirror, remove_database, transaction, write_state
from rollrep.destination.notes import Note, note_path, read_note, write_note
from rollrep.destination.restore import around_damage, plan, plan_newest
from rollrep.destination.snapshots import full_disk_as_oserror, take_snapshot, write_snapshot
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import reading, take_back

NAMED = "snapshot"
"""the kind of a point that has its label from `rollrep snapshot`"""

Progress = Callable[[str], None]


def snapshot_of(catalog: Catalog, point: CatalogPoint) -> Snapshot | None:
    """The snapshot that stands exactly at `point`, and is not known to be damaged."""
    return next((each for each in catalog.usable_snapshots() if (each.line, each.id) == (point.line, point.id)), None)


def make_snapshot(store: Store, catalog: Catalog, point: CatalogPoint, progress: Progress) -> Snapshot:
    """The snapshot at `point`, made where there is none.  Call it under the job's lock.

    Raises NotRestorable where nothing leads to the point, VerifyFailed where what leads there is damaged.
    """
    existing = snapshot_of(catalog, point)
    if existing is not None:
        for path in (existing.path, note_path(existing.path)):
            take_back(store, path)
        return existing
    if plan_newest(store, catalog, point).from_mirror:
        progress("copying the mirror")
        return take_snapshot(store, catalog)
    return _from_archive(store, catalog, plan(catalog, point), progress)


def _from_archive(store: Store, catalog: Catalog, chosen: Plan, progress: Progress) -> Snapshot:
    raw = store.snapshots / f"snapshot.db{TEMPORARY}"
    try:
        remove_database(raw)
        with container.disk_room(raw), full_disk_as_oserror():
            return write_snapshot(store, catalog, raw, state_at(store, catalog, chosen, raw, progress))
    finally:
        remove_database(raw)


def state_at(store: Store, catalog: Catalog, chosen: Plan, raw: Path, progress: Progress) -> State:
    """Writes the mirror as it was at a point to `raw`, checked; its state, which is in it."""

    def attempt(chosen: Plan) -> tuple[Plan, Built]:
        remove_database(raw)
        return chosen, from_archive(store, catalog, chosen, raw, progress)

    with reading(store):
        (chosen, built), _ = around_damage(store, catalog, chosen, attempt)
    if built.earlier:
        raise NotRestorable(
            f"the virtual table {built.earlier[0].table} is not known as it was at this point, and a file of it would"
            " claim to be exact",
            remedy="restore it, which says what is earlier, or choose the end of a pull: rollrep points JOB",
        )
    state = _at(built.state, chosen.point, _proof(store, catalog, chosen)) if chosen.segments else built.state
    with contextlib.closing(open_mirror(raw)) as db:
        with transaction(db):
            write_state(db, state)
        progress("checking")
        problems = integrity_problems(db, state.layout)
        if problems:
            raise VerifyFailed(f"the state at that point is not sound: {problems[0]}", remedy="try another")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return state


def _at(state: State, point: CatalogPoint, proof: str) -> State:
    return msgspec.structs.replace(state, position=Position(point.epoch, point.id, proof), time=iso(point.time))


def _proof(store: Store, catalog: Catalog, chosen: Plan) -> str:
    """The proof of the point's log row, where a pull ended there; else the row may be inside a transaction."""
    ends = Archive(store, catalog).holds(chosen.segments[-1]).all_facts
    return next((facts.head.proof for facts in ends if facts.head.id == chosen.point.id), "")


def annotate(store: Store, catalog: Catalog, point: CatalogPoint, snapshot: Snapshot, label: str | None,
             pin: bool | None) -> Note:  # fmt: skip
    """What is now said of a snapshot: a label more, and pinned, unpinned or (None) as it was.

    The label names a point from now on.  Call it under the job's lock.
    """
    note = read_note(store, snapshot)
    pinned = note.pinned if pin is None else (note.pinned or iso(clock.now())) if pin else None
    labels = note.labels if label is None or label in note.labels else (*note.labels, label)
    note = Note(labels, pinned)
    write_note(store, snapshot, note)
    if label is not None:
        catalog.add_point(Line(point.line, point.epoch), Point(point.id, iso(snapshot.time), NAMED, label))
    return note


def require_pinned(store: Store, snapshot: Snapshot | None, point: CatalogPoint) -> Snapshot:
    """The snapshot, if it is pinned.  Raises UsageError where there is nothing to unpin."""
    if snapshot is None or not read_note(store, snapshot).pinned:
        raise UsageError(
            f"there is no pinned snapshot at point {point.point}", remedy="see what is pinned: rollrep prune JOB -n"
        )
    return snapshot
