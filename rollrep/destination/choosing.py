"""Choosing a point: which one a moment means, of those that can be restored.

    latest, a number, a label, a log id     the last point that is so called
    a time                                  the last point of the newest line at or before it, unless in a hole

Order is by log id only: a clock that was set back must not move a point into the past.

Knows: the catalog.  Does not know: how a point is restored.  A question to a point that was looked at before loads
no more of the destination than this.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NoReturn

from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable
from rollrep.core.moments import ById, ByLabel, ByPoint, ByTime, Latest, Moment
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Hole
from rollrep.destination.reach import reach_of


def restorable(catalog: Catalog) -> list[CatalogPoint]:
    """The points that a snapshot and the archive lead to, oldest line first."""
    reach = catalog.reach()
    return [point for point in catalog.points() if reach.covers(point.line, point.id)]


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
        raise NotRestorable(f"there is no {_said(moment)}", remedy=_instead(points, moment))
    return found[-1]


def _instead(points: Sequence[CatalogPoint], moment: Moment) -> str:
    """What to type instead of a name that no point has.

    >>> def point(number, log_id, label):
    ...     return CatalogPoint(number, 1, "e", log_id, "operator", label, dt.datetime(2026, 1, 1))
    >>> some = [point(1, 5, "deploy 1"), point(2, 9, "deploy 2"), point(3, 12, None)]
    >>> _instead(some, ById(7))
    'the nearest: --at id:5, --at id:9; all: rollrep points JOB'
    >>> _instead(some, ByLabel("deploy"))
    "did you mean --at 'label:deploy 2' or --at 'label:deploy 1'?  All: rollrep points JOB"
    >>> _instead(some, ByPoint(7))
    'see which points exist: rollrep points JOB'
    """
    if isinstance(moment, ById):
        newest = [point.id for point in points if point.line == points[-1].line]
        around = (max((each for each in newest if each < moment.id), default=None),
                  min((each for each in newest if each > moment.id), default=None))  # fmt: skip
        return f"the nearest: {', '.join(f'--at id:{each}' for each in around if each)}; all: rollrep points JOB"
    if isinstance(moment, ByLabel):
        import difflib  # who finds a point needs none

        labels = list(dict.fromkeys(point.label for point in points if point.label))
        if alike := difflib.get_close_matches(moment.label, labels, 2):
            meant = " or ".join(f"--at 'label:{label}'" for label in alike)
            return f"did you mean {meant}?  All: rollrep points JOB"
    return "see which points exist: rollrep points JOB"


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
        first = oldest_of(points)
        raise NotRestorable(
            f"{iso(moment.moment)} is before the first point, which is of {iso(first.time)}",
            remedy=f"the first that can be restored: --at point:{first.point}",
        )
    return before[-1]


def oldest_of(points: Sequence[CatalogPoint]) -> CatalogPoint:
    """The first of those that were pulled, in the log's order; an imported one where that is older.  Pure.

    Lines that were imported come before all others, whatever they are of: only there a clock decides.
    """
    firsts = {point.line: point for point in reversed(points)}
    pulled = min((line for line in firsts if line > 0), default=None)
    return min((point for line, point in firsts.items() if line < 0 or line == pulled), key=lambda point: point.time)


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
                f"{iso(moment.moment)} lies in a hole (reason: {hole.reason}): there is no operation between"
                f" {iso(point.time)} and {iso(later.time)}",
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
    if isinstance(moment, Latest):
        newest = catalog.newest_point(reach)
        return [newest] if newest else []
    if isinstance(moment, ByPoint):
        named = catalog.points_named(point=moment.number)
    elif isinstance(moment, ByLabel):
        named = catalog.points_named(label=moment.label)
    else:
        named = catalog.points_named(log_id=moment.id)
    found = [point for point in named if reach.covers(point.line, point.id)]
    if named and not found:
        _refuse(catalog, named[-1])
    # Where nothing has that name, what exists is said instead.
    return found or restorable(catalog)


def _refuse(catalog: Catalog, point: CatalogPoint) -> NoReturn:
    """Raises NotRestorable: a file that leads to `point` is damaged, or there is none."""
    if reach_of(catalog.segments(), catalog.snapshots()).covers(point.line, point.id):
        raise NotRestorable(
            f"nothing that is whole leads to point {point.point} any more",
            remedy="see which file is damaged, and what can be restored: rollrep verify JOB",
        )
    raise NotRestorable(
        f"no snapshot leads to point {point.point}",
        remedy="choose one that can be restored: rollrep points JOB",
    )


def hole_around(holes: Sequence[Hole], point: CatalogPoint, later: CatalogPoint | None) -> Hole | None:
    """The hole that lies between a chosen point and the next one, if one does.  Pure."""
    for hole in holes:
        if hole.line == point.line and hole.after >= point.id and (later is None or hole.until <= later.id):
            return hole
    return None


def _said(moment: Moment) -> str:
    if isinstance(moment, ByPoint):
        return f"point {moment.number}"
    if isinstance(moment, ByLabel):
        return f"point with the label {moment.label!r}"
    if isinstance(moment, ById):
        return f"point at log id {moment.id}"
    return "such point"
