"""Restoring a point: the nearest snapshot before it, and the archive's tail up to it.

    choose   which point is meant, of those in the catalog; pure
    plan     which snapshot and which segments lead there, or why none do
    run      into a temporary file beside the output, checked, then renamed

The newest state needs neither: where the mirror stands at the point, it is copied.

Knows: catalog, archive, snapshots, replay, the mirror.  Does not know: the wire, the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, UsageError, VerifyFailed
from rollrep.core.moments import ById, ByLabel, ByPoint, ByTime, Latest, Moment
from rollrep.core.nouns import PREFIX, Layout
from rollrep.destination import container
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog, CatalogPoint, Hole, Segment, Snapshot
from rollrep.destination.mirror_db import STATE, State, open_mirror, read_state
from rollrep.destination.mirroring import remove_database, transaction
from rollrep.destination.partial import copy_tables, wanted_shapes
from rollrep.destination.replay import Replay, apply_facts, point_sequence, set_sequence
from rollrep.destination.snapshots import copy_database, full_disk_as_oserror, unpack_snapshot
from rollrep.destination.store import Store
from rollrep.destination.trash import reading
from rollrep.query import all_rows, one_value

Progress = Callable[[str], None]
"""called with one sentence as each step begins"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a point is restored: this snapshot, then the log rows after it up to `point.id`."""

    point: CatalogPoint
    snapshot: Snapshot
    segments: tuple[Segment, ...]
    tables: tuple[str, ...] = ()
    """only these, with their indexes; all of the database where empty"""
    from_mirror: bool = False
    """the mirror stood at `point` when this was planned; it is copied if it still does"""

    @property
    def operations(self) -> int:
        return self.point.id - self.snapshot.id

    @property
    def bytes_read(self) -> int:
        """Of snapshot and segments, as they lie on the disk."""
        return self.snapshot.bytes + sum(segment.bytes for segment in self.segments)


@dataclasses.dataclass(frozen=True)
class Restored:
    point: CatalogPoint
    output: Path
    rows: int


def choose(points: Sequence[CatalogPoint], moment: Moment, confirmed: dt.datetime | None) -> CatalogPoint:
    """The point that `moment` means: for a time, the last point of the newest line at or before it.

    `confirmed` is the source's time up to which the mirror is known to be the source.  Raises
    NotRestorable with what exists instead.
    """
    if not points:
        raise NotRestorable("there is no point yet", remedy="pull first: rollrep pull JOB")
    if isinstance(moment, Latest):
        return points[-1]
    if isinstance(moment, ByPoint):
        found = [point for point in points if point.point == moment.number]
    elif isinstance(moment, ByLabel):
        found = [point for point in points if point.label == moment.label]
    elif isinstance(moment, ById):
        found = [point for point in points if point.id == moment.id]
    else:
        return _choose_by_time(points, moment, confirmed)
    if not found:
        raise NotRestorable(f"there is no {_said(moment)}", remedy="see which points exist: rollrep points JOB")
    return found[-1]


def _choose_by_time(points: Sequence[CatalogPoint], moment: ByTime, confirmed: dt.datetime | None) -> CatalogPoint:
    newest = points[-1]
    known_until = max(newest.time, confirmed or newest.time)
    if moment.moment > known_until:
        raise NotRestorable(
            f"{iso(moment.moment)} is after the newest moment known of the source, {iso(known_until)}",
            remedy="pull first, or restore the newest state: --at latest",
        )
    effective = effective_times(points)
    before = [point for point, time in zip(points, effective, strict=True) if time <= moment.moment]
    if not before:
        first = min(points, key=lambda point: point.time)
        raise NotRestorable(
            f"{iso(moment.moment)} is before the first point, which is of {iso(first.time)}",
            remedy=f"the first that can be restored: --at point:{first.point}",
        )
    return before[-1]


def effective_times(points: Sequence[CatalogPoint]) -> list[dt.datetime]:
    """Each point's time, but never before that of a point earlier in the same line.

    Order is by log id only: a clock that was set back must not move a point into the past.  Pure.
    """
    times: list[dt.datetime] = []
    line, latest = None, None
    for point in points:
        if point.line != line or latest is None or point.time > latest:
            latest = point.time
        line = point.line
        times.append(latest)
    return times


def find_point(catalog: Catalog, moment: Moment) -> CatalogPoint:
    """The point that `moment` means, of those in the catalog.

    Raises NotRestorable: also where a time lies in a hole, with the points on both sides of it.
    """
    points = _candidates(catalog, moment)
    point = choose(points, moment, catalog.confirmed())
    if isinstance(moment, ByTime) and moment.moment > point.time:
        later = next((each for each in points if each.line == point.line and each.id > point.id), None)
        hole = hole_around(catalog.holes(), point, later)
        if hole is not None and later is not None and moment.moment < later.time:
            raise NotRestorable(
                f"{iso(moment.moment)} lies in a hole: the mirror was made again (reason: {hole.reason}), and the"
                f" operations between {iso(point.time)} and {iso(later.time)} were never seen",
                remedy=f"restore what was before (--at point:{point.point}) or after (--at point:{later.point})",
            )
    return point


def _candidates(catalog: Catalog, moment: Moment) -> list[CatalogPoint]:
    """The restorable points among which `choose` finds the same as among all.

    A source that is pulled every ten seconds has 60,000 points in a week; only a time needs to see them all.
    """
    reach = catalog.reach()
    if isinstance(moment, ByTime):
        return restorable(catalog)
    newest = catalog.newest_point(reach)
    if isinstance(moment, Latest) or newest is None:
        return [newest] if newest else []
    if isinstance(moment, ByPoint):
        named = catalog.points_named(point=moment.number)
    elif isinstance(moment, ByLabel):
        named = catalog.points_named(label=moment.label)
    else:
        named = catalog.points_named(log_id=moment.id)
    found = [point for point in named if reach.covers(point.line, point.id)]
    # Where nothing has that name, there is still a difference between "no such point" and "no point yet".
    return found or [newest]


def plan(catalog: Catalog, point: CatalogPoint) -> Plan:
    """The nearest snapshot before `point`, and the segments that lead from it to the point.

    Raises NotRestorable where none do: then no earlier snapshot does either, because there is a hole.
    """
    before = [each for each in catalog.snapshots() if each.line == point.line and each.id <= point.id]
    if before and before[-1].id == point.id:
        return Plan(point, before[-1], ())
    if before:
        segments = catalog.segments_after(point.line, before[-1].id)
        needed = tuple(segment for segment in segments if segment.first <= point.id)
        if needed and needed[-1].last >= point.id:
            return Plan(point, before[-1], needed)
    raise NotRestorable(
        f"point {point.point} of {iso(point.time)} can't be restored: no snapshot and archive lead to it",
        remedy="see which points can be: rollrep points JOB",
    )


def plan_newest(store: Store, catalog: Catalog, point: CatalogPoint) -> Plan:
    """As `plan`, for the newest point: the mirror is that state already, where it stands there."""
    stands = False
    with contextlib.suppress(apsw.Error), contextlib.closing(_read_mirror(store)) as mirror:
        stands = _is_at(read_state(mirror), point)
    return dataclasses.replace(plan(catalog, point), from_mirror=stands)


def hole_around(holes: Sequence[Hole], point: CatalogPoint, later: CatalogPoint | None) -> Hole | None:
    """The hole that lies between a chosen point and the next one, if one does.  Pure."""
    for hole in holes:
        if hole.line == point.line and hole.after >= point.id and (later is None or hole.until <= later.id):
            return hole
    return None


def restore(store: Store, catalog: Catalog, chosen: Plan, output: Path, *, force: bool, progress: Progress) -> Restored:
    """Writes the database as it was to `output`, without any object of ours; whole or not at all.

    Raises UsageError where `output` exists and `force` is not set, VerifyFailed where a file is damaged.
    """
    check_output(output, force=force)
    whole = output.with_name(f".{output.name}.whole{container.TEMPORARY}")
    temporary = output.with_name(f".{output.name}{container.TEMPORARY}")
    try:
        for path in (whole, temporary):
            remove_database(path)
        base = whole if chosen.tables else temporary
        with container.disk_room(output), full_disk_as_oserror(), reading(store):
            layout = _from_mirror(store, chosen, base, progress)
            layout = layout or from_archive(store, catalog, chosen, base, progress).layout
            if chosen.tables:
                layout = copy_tables(whole, temporary, layout, chosen.tables)
            progress("checking")
            rows = _finish(temporary, layout)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if force:
            remove_database(output)
            temporary.replace(output)
        else:
            _rename_to_new(temporary, output)
        container.sync_folder(output.parent)
    finally:
        for path in (whole, temporary):
            remove_database(path)
    return Restored(chosen.point, output, rows)


def check_output(output: Path, *, force: bool) -> None:
    """Raises UsageError where nothing may or can be written at `output`."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder", remedy="give the path of the file to write with --output")
    if output.exists() and not force:
        raise UsageError(
            f"{output} exists already",
            remedy="give another --output, or --force to replace it (nothing was written)",
        )
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output.parent} is no folder that can be written", remedy="give another --output")


def _read_mirror(store: Store) -> apsw.Connection:
    # A WAL database can't be read without writing its shared memory.
    db = apsw.Connection(str(store.mirror), flags=apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(10_000)
    return db


def _is_at(state: State | None, point: CatalogPoint) -> bool:
    return (
        state is not None
        and not state.reason
        and (state.line, state.position.epoch, state.position.id) == (point.line, point.epoch, point.id)
    )


def _from_mirror(store: Store, chosen: Plan, path: Path, progress: Progress) -> Layout | None:
    """Copies the mirror to `path`; None where it does not stand at the point (any more)."""
    if not chosen.from_mirror:
        return None
    progress("copying the mirror")
    try:
        with contextlib.closing(_read_mirror(store)) as mirror:
            state = copy_database(mirror, path)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise VerifyFailed(
            f"{store.mirror} is damaged: {error}",
            remedy=f"snapshot and archive have the same state: --at point:{chosen.point.point}",
        ) from error
    if not _is_at(state, chosen.point):
        remove_database(path)
        return None
    return state.layout


def from_archive(store: Store, catalog: Catalog, chosen: Plan, path: Path, progress: Progress) -> State:
    """The snapshot with the archive's rows replayed on it; the snapshot's state, which still stands in `path`."""
    progress(f"unpacking the snapshot of {iso(chosen.snapshot.time)}")
    unpack_snapshot(store, chosen.snapshot, path)
    archive = Archive(store, catalog)
    with contextlib.closing(open_mirror(path)) as db:
        state = read_state(db)
        if state is None or state.position.id != chosen.snapshot.id:
            raise VerifyFailed(f"{chosen.snapshot.path} holds another state than its name says")
        db.execute("PRAGMA synchronous = OFF")
        shapes = wanted_shapes(state.layout, chosen.tables)
        known = {shape.id: shape for shape in shapes}
        # A snapshot made of the archive has no proof, and may lie between a TOUCHED and the row it announces.
        in_order = not state.position.proof
        replay = Replay(db, known, in_order=in_order, ignore_unknown=bool(chosen.tables), finished=True)
        if chosen.segments:
            progress(f"replaying {chosen.operations} log rows")
        after = chosen.snapshot.id
        for segment in chosen.segments:
            holds = archive.attach(db, segment)
            last = min(holds.last, chosen.point.id)
            with transaction(db):
                replay.window(after + 1, last)
                if holds.facts and holds.facts.head.id == last:
                    apply_facts(db, holds.facts, shapes)
                for point in holds.points:
                    if point.id == last and point.sequence is not None:
                        set_sequence(db, point_sequence(point.sequence, state.layout.encoding), shapes)
            after = last
        with transaction(db):
            replay.finish()
    return state


def _finish(path: Path, layout: Layout) -> int:
    """Takes out what is ours, checks the whole file, and counts its rows."""
    with contextlib.closing(open_mirror(path)) as db:
        return _finish_open(db, layout)


def _finish_open(db: apsw.Connection, layout: Layout) -> int:
    # A table that was written and is gone leaves pages that would stay zeroed only in a VACUUM.
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA main.secure_delete = ON").fetchall()
    db.execute(f"DROP TABLE main.{STATE}")
    for image in ("batch", "chunk"):
        db.execute(f"DETACH {image}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.execute("PRAGMA journal_mode = DELETE").fetchall()
    problems = [row[0] for row in db.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise VerifyFailed(f"the restored database is not sound: {problems[0]}", remedy="try an earlier point")
    tables = [
        name
        for (name,) in all_rows(db, "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
        if not name.startswith(("sqlite_", PREFIX))
    ]
    rows = sum(int(one_value(db, f"SELECT count(*) FROM main.{sql.name(table)}")) for table in tables)
    if layout.journal_mode == "wal":
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    return rows


def _rename_to_new(temporary: Path, output: Path) -> None:
    """A rename that never replaces: a file that appeared meanwhile wins."""
    try:
        os.link(temporary, output)
    except FileExistsError as error:
        raise UsageError(f"{output} exists already", remedy="give another --output, or --force") from error
    except OSError:
        # Some file systems have no hard links.
        if output.exists():
            raise UsageError(f"{output} exists already", remedy="give another --output, or --force") from None
        temporary.replace(output)


def _said(moment: Moment) -> str:
    if isinstance(moment, ByPoint):
        return f"point {moment.number}"
    if isinstance(moment, ByLabel):
        return f"point with the label {moment.label!r}"
    if isinstance(moment, ById):
        return f"point at log id {moment.id}"
    return "such point"


def restorable(catalog: Catalog) -> list[CatalogPoint]:
    """The points that a snapshot and the archive lead to, oldest line first."""
    reach = catalog.reach()
    return [point for point in catalog.points() if reach.covers(point.line, point.id)]
