"""The past that can be restored, as stretches of time: what a bar or a page draws.

    line 1   ●   ●   ━━━━━━━━━━━━━━━━━━━┿━━━━━━━━━━━━╳ hole ╳━━━━━━━━━━━━━━━━┿━━━━ newest
             snapshots alone            every point  │                      snapshot
    line 2                                           └ began: the source was restored from a backup

A stretch is where the archive leads on from a snapshot: every point in it can be restored.  Where nothing leads on,
a snapshot is a moment alone.  A hole is what the catalog recorded as one, from the last point before it to the
first behind it; several between the same two are one, and where nothing before it is kept there is none.  Order is
by log id; times never go back within a line.

Knows: the catalog, what reaches where, sizes of folders.  Does not know: terminals, pages.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Freshness, Hole, LineStory, Snapshot
from rollrep.destination.choosing import effective_times
from rollrep.destination.notes import Note, read_note
from rollrep.destination.reach import Reach
from rollrep.destination.store import Store


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Every point from `begin` to `end` can be restored; a moment where both are the same."""

    begin: dt.datetime
    end: dt.datetime
    first: int
    last: int
    """log ids"""


@dataclasses.dataclass(frozen=True)
class HoleSeen:
    """A hole between two moments that can be restored; of several that lie between the same two, all of them."""

    begin: dt.datetime
    end: dt.datetime
    hole: Hole
    """from the first of them to the last; its reason is the last one's"""
    reasons: tuple[str, ...]
    """each of them once, oldest first"""


@dataclasses.dataclass(frozen=True)
class SnapshotSeen:
    snapshot: Snapshot
    note: Note


@dataclasses.dataclass(frozen=True)
class PointSeen:
    """A restorable point; `time` never goes back within a line, `point.time` is what the source's clock said."""

    point: CatalogPoint
    time: dt.datetime


@dataclasses.dataclass(frozen=True)
class LineSeen:
    """One line of history."""

    story: LineStory
    stretches: tuple[Stretch, ...]
    holes: tuple[HoleSeen, ...]
    snapshots: tuple[SnapshotSeen, ...]
    points: tuple[PointSeen, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.stretches or self.holes)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Everything that can be restored of a job, and what it takes."""

    job: str
    confirmed: dt.datetime | None
    """the source's time up to which the mirror is known to be the source"""
    lines: tuple[LineSeen, ...]
    """oldest first; the last one is the present one"""
    bytes: dict[str, int]
    """by what: mirror, archive, snapshots, catalog, cache, trash"""
    freshness: tuple[Freshness, ...]

    @property
    def span(self) -> tuple[dt.datetime, dt.datetime] | None:
        """From the oldest moment that can be restored to the newest that is known; None where there is none."""
        moments = [each for line in self.lines for part in line.stretches for each in (part.begin, part.end)]
        if not moments:
            return None
        return min(moments), max([*moments, *([self.confirmed] if self.confirmed else [])])

    @property
    def points(self) -> list[PointSeen]:
        return [each for line in self.lines for each in line.points]


def read_timeline(store: Store, catalog: Catalog) -> Timeline:
    """The timeline of a job as it is now."""
    snapshots, points, holes, reach = catalog.snapshots(), catalog.points(), catalog.holes(), catalog.reach()
    lines = []
    for story in catalog.line_stories():
        notes = [SnapshotSeen(each, read_note(store, each)) for each in snapshots if each.line == story.line]
        mine = [each for each in points if each.line == story.line]
        lines.append(line_seen(story, notes, mine, [each for each in holes if each.line == story.line], reach))
    confirmed = catalog.confirmed()
    lines = [line for line in lines if not line.is_empty]
    if lines and confirmed:
        lines[-1] = until_confirmed(lines[-1], confirmed)
    return Timeline(
        store.job,
        confirmed,
        tuple(lines),
        sizes_of(store),
        tuple(catalog.freshness()),
    )


def line_seen(
    story: LineStory,
    snapshots: Sequence[SnapshotSeen],
    points: Sequence[CatalogPoint],
    holes: Sequence[Hole],
    reach: Reach,
) -> LineSeen:
    """One line, of what the catalog knows of it, each oldest first.  Pure."""
    times = effective_times(points)
    ids = [each.id for each in points]

    def time_of(log_id: int, otherwise: dt.datetime) -> dt.datetime:
        """Of the last point at or before a log id."""
        before = bisect.bisect_right(ids, log_id)
        return times[before - 1] if before else otherwise

    taken = {each.snapshot.id: each.snapshot.time for each in snapshots}
    runs: list[list[int]] = []
    for first, last in reach.stretches.get(story.line, []):
        if runs and first <= runs[-1][1]:
            runs[-1][1] = max(runs[-1][1], last)
        else:
            runs.append([first, last])
    stretches = []
    for first, last in runs:
        begin = time_of(first, taken[first])
        end = max(begin, time_of(last, begin)) if last > first else begin
        stretches.append(Stretch(begin, end, first, last))
    restorable = tuple(
        PointSeen(point, time) for point, time in zip(points, times, strict=True) if reach.covers(story.line, point.id)
    )
    seen = _holes_seen(holes, stretches, ids, times, taken)
    return LineSeen(story, tuple(stretches), seen, tuple(snapshots), restorable)


def _holes_seen(
    holes: Sequence[Hole],
    stretches: Sequence[Stretch],
    ids: Sequence[int],
    times: Sequence[dt.datetime],
    taken: Mapping[int, dt.datetime],
) -> tuple[HoleSeen, ...]:
    """Those between two moments that are kept; `ids` and `times` are of points, `taken` of snapshots."""

    def sides(hole: Hole) -> tuple[int, int]:
        """How many stretches begin before it, and how many points lie before its end."""
        begun = bisect.bisect_right(stretches, hole.after, key=lambda each: each.first)
        return begun, bisect.bisect_left(ids, hole.until)

    found = []
    for (begun, behind), between in itertools.groupby(holes, sides):
        together = list(between)
        hole = together[-1]._replace(after=together[0].after)
        until = times[behind] if behind < len(ids) else taken.get(hole.until)
        # Where nothing before it is kept any more, it is nothing but where the past begins.
        if until is not None and begun:
            before = bisect.bisect_right(ids, hole.after)
            begin = min(until, times[before - 1] if before else stretches[begun - 1].end)
            found.append(HoleSeen(begin, until, hole, tuple(dict.fromkeys(each.reason for each in together))))
    return tuple(found)


def until_confirmed(line: LineSeen, confirmed: dt.datetime) -> LineSeen:
    """The present line, whose newest point is what the source still was at `confirmed`.  Pure."""
    if not line.stretches or not line.points or line.points[-1].point.id > line.stretches[-1].last:
        return line
    last = line.stretches[-1]
    longer = dataclasses.replace(last, end=max(last.end, confirmed))
    return dataclasses.replace(line, stretches=(*line.stretches[:-1], longer))


def sizes_of(store: Store) -> dict[str, int]:
    """Bytes of files in a job's folder, by what they are."""
    found = {
        "mirror": sum(_size(path) for path in store.folder.glob("mirror.*")),
        "catalog": sum(_size(path) for path in store.folder.glob("catalog.db*")),
    }
    for name, folder in (
        ("archive", store.archive), ("snapshots", store.snapshots), ("cache", store.cache), ("trash", store.trash),
    ):  # fmt: skip
        found[name] = sum(_size(path) for path in folder.rglob("*"))
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0  # it went meanwhile
