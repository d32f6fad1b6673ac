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
from collections.abc import Sequence
from pathlib import Path

import apsw

from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, UsageError
from rollrep.core.moments import ById, ByLabel, ByPoint, ByTime, Latest, Moment
from rollrep.core.nouns import SchemaObject
from rollrep.destination import container
from rollrep.destination.building import (
    Plan,
    Progress,
    finish,
    from_archive,
    from_mirror,
    read_mirror,
    stands_at,
)
from rollrep.destination.catalog import Catalog, CatalogPoint, Hole
from rollrep.destination.chains import chain_of
from rollrep.destination.mirror_db import read_state, remove_database
from rollrep.destination.partial import copy_tables
from rollrep.destination.schema import indexes_left_out
from rollrep.destination.shadow_archive import Earlier
from rollrep.destination.shadow_restore import complaints
from rollrep.destination.snapshots import full_disk_as_oserror
from rollrep.destination.store import Store
from rollrep.destination.trash import reading


@dataclasses.dataclass(frozen=True)
class Restored:
    point: CatalogPoint
    output: Path
    rows: int
    earlier: tuple[Earlier, ...] = ()
    """virtual tables that are as of an earlier log id"""
    rebuilt: tuple[str, ...] = ()
    """full-text indexes that were made anew from their content table, as that was at the point"""
    complaints: tuple[str, ...] = ()
    """what virtual tables say against themselves"""
    left_out: tuple[SchemaObject, ...] = ()
    """indexes that only the application can make"""


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
        return Plan(point, chain_of(before[-1], catalog.snapshots()), ())
    if before:
        segments = catalog.segments_after(point.line, before[-1].id)
        needed = tuple(segment for segment in segments if segment.first <= point.id)
        if needed and needed[-1].last >= point.id:
            return Plan(point, chain_of(before[-1], catalog.snapshots()), needed)
    raise NotRestorable(
        f"point {point.point} of {iso(point.time)} can't be restored: no snapshot and archive lead to it",
        remedy="see which points can be: rollrep points JOB",
    )


def plan_newest(store: Store, catalog: Catalog, point: CatalogPoint) -> Plan:
    """As `plan`, for the newest point: the mirror is that state already, where it stands there."""
    stands = False
    with contextlib.suppress(apsw.Error), contextlib.closing(read_mirror(store)) as mirror:
        stands = stands_at(read_state(mirror), point)
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
            built = from_mirror(store, chosen, base, progress) or from_archive(store, catalog, chosen, base, progress)
            if chosen.tables:
                built = dataclasses.replace(built, layout=copy_tables(whole, temporary, built.layout, chosen.tables))
            progress("checking")
            rows = finish(temporary, built.layout)
            said = tuple(complaints(temporary, built.layout))
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
    left_out = tuple(indexes_left_out(built.layout))
    if chosen.tables:
        return Restored(chosen.point, output, rows, left_out=left_out)
    return Restored(chosen.point, output, rows, built.earlier, built.rebuilt, said, left_out)


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
