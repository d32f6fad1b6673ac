"""Points with a label that a pull does not keep: which, and why; else somebody would find out on the day of a restore.

    archived    rows that were fetched, and that the log can't vouch for or that lie in a hole
    told        by the source, where tables are mirrored: what its log still has, behind what is recorded here
    forgotten   what its log has no more, and nobody can name

What was told may be of before the last pull, where ids tell nothing: on another line a point is new when it is younger
than the moment at which the mirror was the source.

Knows: the catalog, the wire's answers.  Does not know: how points are recorded, what is said of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from rollrep.core.clock import from_iso, iso
from rollrep.core.nouns import Point
from rollrep.destination.catalog import Catalog
from rollrep.destination.mirror_db import State
from rollrep.wire.messages import MOST_LABELS, MOST_SIGNS, Labels

SCHEMA = "schema"
DECLARED = frozenset({"application", "plugin", "operator"})
"""kinds of points that somebody wrote beside the application"""


@dataclasses.dataclass(frozen=True)
class Missed:
    """What is not kept."""

    points: tuple[tuple[Point, str], ...]
    """each with the reason: `schema`, or another of an answer"""
    more: int
    """older ones than these, whose labels were too many to tell"""
    forgotten: int | None
    """so many more at most, of which nobody knows a label; None: nobody knows how many"""
    since: str | None
    """the source's time since which these are"""

    def as_json(self) -> dict[str, object]:
        return {
            "labels": [
                {"label": (point.label or "")[:MOST_SIGNS], "id": point.id, "time": point.time, "why": why}
                for point, why in self.points
            ],
            "more": self.more,
            "forgotten": self.forgotten,
            "since": self.since,
        }


class Heard:
    """What one pull hears of labels.  Make it before the pull changes the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        line = catalog.newest_line()
        self._line = line.line if line else 0
        self._through = catalog.points_recorded_through(self._line)
        self._confirmed = catalog.confirmed()
        self._points: dict[int, Point] = {}
        self._more = 0
        self._forgotten: int | None = 0

    @property
    def after(self) -> int | None:
        """The log id up to which points are known here; None where no pull has ended yet, and none can be missed."""
        return self._through if self._confirmed else None

    def hear(self, labels: Labels | None) -> None:
        """Remembers what an answer says; a pull may hear of ever fewer, as it comes behind them."""
        if labels is None:
            return
        self._points |= {point.id: point for point in labels.points}
        self._more = max(self._more, labels.more)
        if labels.forgotten is None or self._forgotten is None:
            self._forgotten = None
        else:
            self._forgotten = max(self._forgotten, labels.forgotten)

    def missed(self, state: State, archived: Iterable[Point], reason: str) -> Missed | None:
        """What is not kept, once the points are recorded; None where nothing is missed.

        `archived` are points that were passed over; `reason` is that of the answer.
        """
        told = {log_id: point for log_id, point in self._points.items() if self._is_new(point, state)}
        found = {point.id: point for point in archived if point.label is not None} | told
        points = tuple(
            (point, SCHEMA if point.schema_changed else reason)
            for _, point in sorted(found.items())
            if point.id <= state.position.id and not self._is_kept(point, state)
        )
        more = 0
        forgotten: int | None = 0
        if state.line == self._line and self._through:
            forgotten = self._lost()
            # Where the oldest that was told is kept, those before it are; and of those the archive may have some.
            before = sum(point.id < min(told, default=0) for point, _ in points)
            more = max(0, self._more - before) if told and min(told) in {point.id for point, _ in points} else 0
        if not points and forgotten == 0:
            return None
        left_out = max(0, len(points) - MOST_LABELS)
        since = iso(self._confirmed) if self._confirmed else None
        return Missed(points[left_out:], more + left_out, forgotten, since)

    def _is_new(self, point: Point, state: State) -> bool:
        if state.line == self._line and self._through:
            return point.id > self._through
        return self._confirmed is not None and from_iso(point.time) > self._confirmed

    def _is_kept(self, point: Point, state: State) -> bool:
        here = self._catalog.points_named(log_id=point.id)
        return any((each.line, each.kind) == (state.line, point.kind) for each in here)

    def _lost(self) -> int | None:
        if self._forgotten == 0:
            return 0
        # What is forgotten may be marks. Where nobody ever declared a point, it is.
        is_likely = self._points or any(each.kind in DECLARED for each in self._catalog.points())
        return self._forgotten if is_likely else 0
