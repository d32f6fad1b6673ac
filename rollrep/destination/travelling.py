"""A point as one file, to carry away and to bring in again.

    store ── export ──► point.rollrep   a container (docs/architecture.md): the mirror as of the point, and a manifest
    store ◄── import ── point.rollrep   a line of its own, with this one snapshot

Any zstd program unpacks the file to a plain SQLite database with one table of ours in it.  Imported lines have
numbers below zero: they come before every line that was pulled, so that `latest` never means one of them where
anything was pulled, and no pull goes on from one.

Knows: containers, snapshots, the mirror's state, the catalog.  Does not know: configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import apsw
import msgspec

from rollrep import __version__
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import DiskFull, UsageError, VerifyFailed
from rollrep.core.nouns import Point, Position, Time, require_moment
from rollrep.core.units import show_bytes
from rollrep.destination import container
from rollrep.destination.building import Plan
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Line, LineStory, Snapshot
from rollrep.destination.inert import integrity_problems
from rollrep.destination.keeping import state_at
from rollrep.destination.mirror_db import open_mirror, read_state, remove_database, transaction, write_state
from rollrep.destination.outputs import as_before, output_file
from rollrep.destination.snapshots import full_disk_as_oserror, write_snapshot
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.unfinished import unfinished

KIND = "point"
OTHER_FILE = "another FILE"
IMPORTED = "import"
"""the reason of a line that was imported"""

Progress = Callable[[str], None]


class PointHolds(msgspec.Struct, frozen=True):
    """The part of an exported file's manifest that is its own."""

    job: str
    position: Position
    time: Time
    database_id: str
    points: tuple[Point, ...]
    """what the point was called: more than one where several stood at the same log row"""
    rollrep: str

    def __post_init__(self) -> None:
        require_moment(self.time)
        if any(point.id != self.position.id for point in self.points):
            raise ValueError("it speaks of a point at another log row than its own")


@dataclasses.dataclass(frozen=True)
class Imported:
    """The line and snapshot that a file is now; `made` is false where it had been imported before."""

    holds: PointHolds
    snapshot: Snapshot
    points: list[CatalogPoint]
    made: bool


def export_point(
    store: Store, catalog: Catalog, chosen: Plan, output: Path, *, force: bool, progress: Progress
) -> tuple[PointHolds, int]:
    """Writes the point that was planned to `output`, whole or not at all; what it says of itself, and its bytes.

    Raises UsageError where `output` may not be written (`output_file`), VerifyFailed where what leads there is damaged.
    """
    output = output_file(output, force=force, give=OTHER_FILE)
    raw, packed = unfinished(output, "raw"), unfinished(output)
    try:
        remove_database(raw)
        with container.disk_room(output), full_disk_as_oserror():
            state = state_at(store, catalog, chosen, raw, progress)
            points = tuple(
                Point(each.id, iso(each.time), each.kind, each.label)
                for each in catalog.points_named(log_id=chosen.point.id)
                if each.line == chosen.point.line
            )
            holds = PointHolds(store.job, state.position, state.time, state.database_id, points, __version__)
            progress("compressing")
            size = container.write_file(packed, KIND, raw, holds)
            as_before(packed, output)
            packed.replace(output)
            container.sync_folder(output.parent)
    finally:
        remove_database(raw)
        packed.unlink(missing_ok=True)
    return holds, size


def read_exported(path: Path) -> PointHolds:
    """What an exported file says of itself.  Raises UsageError where it can't be read, VerifyFailed where damaged."""
    if not path.is_file():
        raise UsageError(f"{path} is no file", remedy="give what `rollrep export` wrote")
    with _whole(path):
        return container.read_holds(path, KIND, PointHolds)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Whatever is wrong with an exported file, nothing of it was used."""
    try:
        yield
    except (VerifyFailed, apsw.CorruptError, apsw.NotADBError, msgspec.DecodeError) as error:
        facts = error.facts if isinstance(error, VerifyFailed) else f"{path} does not hold what it says: {error}"
        raise VerifyFailed(facts, remedy="nothing of it was used; export it again, or take another copy") from error


def _require_room(store: Store, path: Path) -> None:
    """A small file may say that it unpacks to more than there is: then nothing is written at all."""
    needed, free = container.read_manifest(path, KIND).raw_bytes, shutil.disk_usage(store.folder).free
    if needed > free:
        raise DiskFull(
            f"{path} unpacks to {show_bytes(needed)}, and there are {show_bytes(free)} on the disk of {store.folder}",
            remedy=f"make room, see: df -h {quote(str(store.folder))}",
        )


def import_point(store: Store, catalog: Catalog, path: Path, *, accept_source: bool, progress: Progress) -> Imported:
    """Brings an exported point in, as a line of its own.  Call it under the job's lock.

    Raises UsageError where it is of another database than the mirror, VerifyFailed where it is damaged.
    """
    holds = read_exported(path)
    if not accept_source:
        _same_database(store, holds, path)
    lines = [story.line for story in catalog.line_stories()]
    for line in (each for each in lines if each < 0):
        for snapshot in catalog.snapshots():
            if (snapshot.line, snapshot.id) == (line, holds.position.id) and _epoch(
                catalog, line
            ) == holds.position.epoch:
                return Imported(holds, snapshot, _points_of(catalog, line), made=False)
    raw = store.snapshots / f"import.db{TEMPORARY}"
    line = min([0, *lines]) - 1
    try:
        remove_database(raw)
        with _whole(path), container.disk_room(raw), full_disk_as_oserror():
            _require_room(store, path)
            progress("unpacking")
            container.unpack_to(path, KIND, raw)
            with contextlib.closing(open_mirror(raw)) as db:
                progress("checking")
                state = read_state(db)
                problems = integrity_problems(db, state.layout if state else None)
                if problems or state is None or (state.position, state.time) != (holds.position, holds.time):
                    why = problems[0] if problems else "it is of another point"
                    raise VerifyFailed(f"{path} does not hold what it says: {why}")
                state = msgspec.structs.replace(state, line=line)
                with transaction(db):
                    write_state(db, state)
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            with catalog.connection:
                catalog.add_line(LineStory(line, holds.position.epoch, IMPORTED, clock.now()))
                for point in holds.points or (Point(holds.position.id, holds.time, IMPORTED, None),):
                    catalog.add_point(Line(line, holds.position.epoch), point)
                snapshot = write_snapshot(store, catalog, raw, state)
    finally:
        remove_database(raw)
    return Imported(holds, snapshot, _points_of(catalog, line), made=True)


def _same_database(store: Store, holds: PointHolds, path: Path) -> None:
    if not store.mirror.is_file():
        return
    with contextlib.closing(open_mirror(store.mirror)) as db:
        state = read_state(db)
    if state is not None and state.database_id != holds.database_id:
        raise UsageError(
            f"{path} is a point of another database than the one that {store.job} mirrors",
            remedy=f"if that is right: rollrep import {quote(str(path))} --job {store.job} --accept-source",
        )


def _epoch(catalog: Catalog, line: int) -> str:
    return next(story.epoch for story in catalog.line_stories() if story.line == line)


def _points_of(catalog: Catalog, line: int) -> list[CatalogPoint]:
    return [each for each in catalog.points() if each.line == line]
