"""Snapshots: the whole database at one point, in one file, under the source's time.

    snapshots/<source's time>-<line>-<log id>.snapshot

Taken from the mirror inside one read transaction by SQLite's backup, so it is exact and never restarts,
then compressed.  Any zstd program unpacks it to a database.  Where the mirror stands at a point of the application, but
AUTOINCREMENT has moved on since, which no log row tells, the snapshot has what it was at the point.

Knows: containers, archive and catalog, the mirror's state.  Does not know: the wire, how log rows are replayed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from rollrep.core.clock import from_iso, iso
from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Point, Position, Time, require_moment
from rollrep.destination import container
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Snapshot
from rollrep.destination.file_copy import copy_file
from rollrep.destination.mirror_db import State, read_state, remove_database
from rollrep.destination.replay import point_sequence, set_sequence
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import find_file

KIND = "snapshot"


class SnapshotHolds(msgspec.Struct, frozen=True):
    """The part of a snapshot's manifest that is a snapshot's own."""

    line: int
    position: Position
    time: Time
    schema_digest: str = ""
    """of the layout that it has; another layout can't be reached from it by rows"""
    points: tuple[Point, ...] = ()
    """the points that the catalog had there: they outlive the segments that said them first"""

    def __post_init__(self) -> None:
        require_moment(self.time)


def take_snapshot(store: Store, catalog: Catalog, head: Point | None = None) -> Snapshot:
    """A snapshot of the mirror as it is, in the catalog.  Returns the one that is there already, if one is whole.

    `head` is the application's point where the mirror stands, for where no segment tells it.
    """
    raw = store.snapshots / f"snapshot.db{TEMPORARY}"
    try:
        with contextlib.closing(apsw.Connection(str(store.mirror), flags=apsw.SQLITE_OPEN_READWRITE)) as mirror:
            # Who closes it last, a reader perhaps, keeps all others out for that moment.
            mirror.set_busy_timeout(10_000)
            state = copy_database(mirror, raw)
        for existing in catalog.usable_snapshots():
            if (existing.line, existing.id) == (state.line, state.position.id):
                return existing
        if (sequence := sequence_at_point(store, catalog, state, head)) is not None:
            _put_sequence(raw, state, sequence)
        return write_snapshot(store, catalog, raw, state)
    finally:
        remove_database(raw)


def sequence_at_point(store: Store, catalog: Catalog, state: State, head: Point | None) -> dict[str, int] | None:
    """What sqlite_sequence was at the application's point where a mirror in this state stands; None where at none."""
    at = state.position.id
    with contextlib.suppress(VerifyFailed):  # nothing is learned of a damaged segment, which `verify` names
        for point in (*Archive(store, catalog).points(state.line, at - 1, at), *([head] if head else ())):
            if point.id == at and not point.schema_changed:
                # None is of no row as well as of no table.
                return point_sequence(point.sequence or "", state.layout.encoding)
    return None


def _put_sequence(database: Path, state: State, sequence: dict[str, int]) -> None:
    with full_disk_as_oserror(), contextlib.closing(apsw.Connection(str(database))) as db:
        db.execute("PRAGMA synchronous = OFF")
        with db:
            set_sequence(db, sequence, state.layout.shapes)


def write_snapshot(store: Store, catalog: Catalog, raw: Path, state: State) -> Snapshot:
    """The database `raw`, whose state is `state`, as a snapshot in the catalog."""
    path = store.snapshots / f"{name_of(state.time, state.line, state.position.id)}.snapshot"
    holds = SnapshotHolds(state.line, state.position, state.time, state.schema_digest, points_at(catalog, state))
    size = container.write_file(path, KIND, raw, holds)
    relative = str(path.relative_to(store.folder))
    snapshot = Snapshot(state.line, state.position.id, from_iso(state.time), relative, size, raw.stat().st_size)
    catalog.add_snapshot(snapshot)
    return snapshot


def name_of(time: str, line: int, log_id: int) -> str:
    """How every snapshot's name begins.

    >>> name_of("2026-11-22T19:08:01.123Z", 1, 17)
    '20261122T190801.123Z-1-17'
    """
    return f"{time.replace(':', '').replace('-', '')}-{line}-{log_id}"


def points_at(catalog: Catalog, state: State) -> tuple[Point, ...]:
    """The points that the catalog has where a mirror in this state stands."""
    return tuple(
        Point(each.id, iso(each.time), each.kind, each.label)
        for each in catalog.points_named(log_id=state.position.id)
        if each.line == state.line
    )


def copy_database(mirror: apsw.Connection, target: Path) -> State:
    """Copies the whole mirror to the file `target`, as of one moment; its state at that moment.

    By the kernel, where it can; where the WAL is in use, page by page.
    """
    target.unlink(missing_ok=True)
    with container.disk_room(target), full_disk_as_oserror():
        mirror.execute("BEGIN")
        try:
            state = read_state(mirror)
            if state is None:
                raise VerifyFailed(f"{mirror.filename} is no mirror of rollrep")
            if not copy_file(mirror, target):
                target.unlink(missing_ok=True)
                _copy_pages(mirror, target)
        finally:
            if mirror.in_transaction:
                mirror.execute("ROLLBACK")
    return state


def _copy_pages(mirror: apsw.Connection, target: Path) -> None:
    with contextlib.closing(apsw.Connection(str(target))) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        with copy.backup("main", mirror, "main") as backup:
            backup.step(-1)


@contextlib.contextmanager
def full_disk_as_oserror() -> Iterator[None]:
    """SQLite's "disk full" as the error that `disk_room` knows."""
    try:
        yield
    except apsw.FullError as error:
        raise OSError(28, "no space left") from error


def unpack_whole(store: Store, snapshot: Snapshot, target: Path) -> None:
    """Writes the database of a whole snapshot to `target`, checked to its last byte.  Raises VerifyFailed."""
    path = find_file(store, snapshot.path)
    holds = container.read_holds(path, KIND, SnapshotHolds)
    if (holds.line, holds.position.id) != (snapshot.line, snapshot.id):
        raise container.damaged(path, "it is a snapshot of another point than its name says")
    container.unpack_to(path, KIND, target)
