"""Making the file of a point: from the mirror that stands there, or from a snapshot and the archive's rows after it.

    mirror                                   copied, where it is that state, virtual tables too
    snapshot ──► log rows ──► virtual tables unpacked, replayed up to the point's id
                     either ──► ours is taken out, the whole file is checked

Knows: snapshots, archive, replay, the mirror, virtual tables' past.  Does not know: which point is meant, the output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, RollrepError, VerifyFailed
from rollrep.core.nouns import PREFIX, Layout, Shape
from rollrep.destination.archive import Archive, SegmentHolds
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Segment, Snapshot
from rollrep.destination.changes import unpack_unchecked
from rollrep.destination.inert import integrity_problems, structure_problems
from rollrep.destination.mirror_db import STATE, State, open_mirror, read_state, remove_database, transaction
from rollrep.destination.partial import wanted_shapes
from rollrep.destination.replay import Replay, apply_facts, apply_header, point_sequence, set_sequence
from rollrep.destination.shadow_archive import Earlier
from rollrep.destination.shadow_restore import ShadowRestore, scratch_beside
from rollrep.destination.snapshots import copy_database
from rollrep.destination.store import Store
from rollrep.midway import Midway
from rollrep.query import all_rows, one_value

Progress = Callable[[str], None]
"""called with one sentence as each step begins"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a point is restored: this snapshot, then the log rows after it up to `point.id`."""

    point: CatalogPoint
    chain: tuple[Snapshot, ...]
    """a whole snapshot, and the changes that lead from it to the last one"""
    segments: tuple[Segment, ...]
    tables: tuple[str, ...] = ()
    """only these, with their indexes; all of the database where empty"""
    from_mirror: bool = False
    """the mirror stood at `point` when this was planned; it is copied if it still does"""

    @property
    def snapshot(self) -> Snapshot:
        """The nearest one before the point."""
        return self.chain[-1]

    @property
    def operations(self) -> int:
        return self.point.id - self.snapshot.id

    @property
    def bytes_read(self) -> int:
        """Of snapshots and segments, as they lie on the disk."""
        return sum(each.bytes for each in self.chain) + sum(each.bytes for each in self.segments)


def _nothing() -> None:
    """All was checked."""


@dataclasses.dataclass(frozen=True)
class Built:
    """A file that has the rows of a point, and still what is ours."""

    state: State
    """of the snapshot that it was built on, or of the mirror"""
    layout: Layout
    earlier: tuple[Earlier, ...] = ()
    """virtual tables that are as of an earlier log id"""
    rebuilt: tuple[str, ...] = ()
    """full-text indexes that were made anew from their content table, as that was at the point"""
    require: Callable[[], None] = _nothing
    """what is still to be checked of its rows, in any thread; raises VerifyFailed"""


def from_mirror(store: Store, chosen: Plan, path: Path, progress: Progress) -> Built | None:
    """Copies the mirror to `path`; None where it does not stand at the point (any more)."""
    if not chosen.from_mirror:
        return None
    progress("copying the mirror")
    try:
        with contextlib.closing(read_mirror(store)) as mirror:
            state = copy_database(mirror, path)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise VerifyFailed(
            f"{store.mirror} is damaged: {error}",
            remedy=f"make the mirror again: rollrep mirror {store.job}; or try an earlier point",
        ) from error
    if not stands_at(state, chosen.point):
        remove_database(path)
        return None
    return Built(state, state.layout)


def read_mirror(store: Store) -> apsw.Connection:
    """The mirror, to be read from.  A WAL database can't be read without writing its shared memory."""
    db = apsw.Connection(str(store.mirror), flags=apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(10_000)
    return db


def stands_at(state: State | None, point: CatalogPoint) -> bool:
    """Whether a mirror in this state is what was at `point`, its virtual tables too."""
    return (
        state is not None
        and not state.reason
        and state.virtual_as_of is None
        and (state.line, state.position.epoch, state.position.id) == (point.line, point.epoch, point.id)
    )


def from_archive(
    store: Store, catalog: Catalog, chosen: Plan, path: Path, progress: Progress, *, is_finished: bool = False
) -> Built:
    """The snapshot, the archive's rows replayed on it, and the virtual tables brought as near as can be.

    With `is_finished` the caller promises to call `finish`, and where that can be, rows are checked there.
    """
    progress(f"unpacking the snapshot of {iso(chosen.snapshot.time)}")
    require = unpack_unchecked(store, chosen.chain, path)
    if chosen.segments or not is_finished:
        require()
        require = _nothing
    archive = Archive(store, catalog)
    with contextlib.closing(open_mirror(path, scratch=True)) as db:
        state = read_state(db)
        if state is None or state.position.id != chosen.snapshot.id:
            raise VerifyFailed(f"{chosen.snapshot.path} holds another state than its name says")
        if state.layout.virtuals:
            # An index that can't be made again is given up, and what that wrote is taken back.
            db.execute("PRAGMA journal_mode = DELETE").fetchall()
        shapes = _as_it_is_known_now(db, wanted_shapes(state.layout, chosen.tables))
        # A snapshot made of the archive has no proof, and may lie between a TOUCHED and the row it announces.
        replay = Replay(
            db,
            {shape.id: shape for shape in shapes},
            in_order=not state.position.proof,
            ignore_unknown=bool(chosen.tables),
            finished=True,
        )
        if chosen.segments:
            progress(f"replaying {chosen.operations} log rows")
        after = chosen.snapshot.id
        layout = msgspec.structs.replace(state.layout, shapes=shapes, virtuals=()) if chosen.tables else state.layout
        shadows = ShadowRestore(store, catalog, chosen.point.line, after, chosen.point.id, layout)
        shadows.reached(db, after, scratch_beside(path))
        for segment in chosen.segments:
            holds = archive.attach(db, segment)
            last = min(holds.last, chosen.point.id)
            for stop in shadows.stops(after, last):
                with _of_the_past(), transaction(db):
                    replay.window(after + 1, stop)
                after = stop
                shadows.reached(db, after, scratch_beside(path))
            with transaction(db):
                _put_facts(db, holds, last, layout)
        with transaction(db):
            replay.finish()
        shadows.finish(db, scratch_beside(path))
    return Built(state, state.layout, shadows.earlier, shadows.rebuilt, require)


def _as_it_is_known_now(db: apsw.Connection, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
    """`shapes`, but for tables of which an older rollrep took removals for announced that were not.

    Its log tells them all the same when it is replayed in order, for there it has whole rows of all UPDATEs.
    """
    midway = Midway(db)
    return tuple(
        msgspec.structs.replace(shape, touches_logged=False)
        if shape.unique_columns and midway.is_put_to(shape.table)
        else shape
        for shape in shapes
    )


@contextlib.contextmanager
def _of_the_past() -> Iterator[None]:
    """Says what to do about log rows that can't be replayed: to mirror again, as after a pull, would not help."""
    try:
        yield
    except RollrepError as error:
        if type(error) is not RollrepError:
            raise
        raise NotRestorable(error.facts, remedy="choose an earlier or a later point: rollrep points JOB") from error


def _put_facts(db: apsw.Connection, holds: SegmentHolds, last: int, layout: Layout) -> None:
    """What a segment says of the moment `last`, beside its rows."""
    known = [facts for facts in holds.all_facts if facts.head.id <= last]
    if known and known[-1].head.id == last:
        apply_facts(db, known[-1], layout.shapes)
    elif known:
        # What AUTOINCREMENT remembers has moved on since; the rows, and the point, say how far.
        apply_header(db, known[-1])
    for point in holds.points:
        if point.id == last:
            # None is of no row as well as of no table.
            set_sequence(db, point_sequence(point.sequence or "", layout.encoding), layout.shapes)


def finish(path: Path, built: Built, *, every_index: bool) -> int:
    """Takes out what is ours, checks the whole file, and counts its rows.  Raises VerifyFailed.

    Meanwhile its pages go to the disk, so that the caller's own sync finds little left.  Every page is read; with
    `every_index` every row is also looked up in every index, which takes longer than all the rest.
    """
    layout = built.layout
    # To close it takes the locks of every connection to it here, so that comes last.
    with path.open("rb") as file, contextlib.closing(open_mirror(path, scratch=True)) as db:
        # A table that was written and is gone leaves pages that would stay zeroed only in a VACUUM.
        db.execute("PRAGMA main.secure_delete = ON").fetchall()
        db.execute(f"DROP TABLE main.{STATE}")
        for image in ("batch", "chunk"):
            db.execute(f"DETACH {image}")
        names = all_rows(db, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
        tables = [name for (name,) in names if not name.startswith(("sqlite_", PREFIX))]
        rows = sum(int(one_value(db, f"SELECT count(*) FROM main.{sql.name(table)}")) for table in tables)
        # Of its own, because here the modules themselves have been asked for their tables already.
        fresh = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        with contextlib.closing(fresh), futures.ThreadPoolExecutor(2) as beside:
            steps = [beside.submit(os.fsync, file.fileno()), beside.submit(built.require)]
            problems = (integrity_problems if every_index else structure_problems)(fresh, layout)
            for step in steps:
                step.result()
        if problems:
            raise VerifyFailed(f"the restored database is not sound: {problems[0]}", remedy="try an earlier point")
        if layout.journal_mode == "wal":
            db.execute("PRAGMA journal_mode = WAL").fetchall()
    return rows
