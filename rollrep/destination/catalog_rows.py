"""What the catalog says of one thing each: a line, a segment, a point, a snapshot, a hole, an hour.

Knows: their columns.  Does not know: the database that holds them.
"""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple


class Line(NamedTuple):
    """One unbroken history, and the life of the log that it is of."""

    line: int
    epoch: str


class LineStory(NamedTuple):
    """Why and when a line began; `began` is the destination's time."""

    line: int
    epoch: str
    reason: str
    began: dt.datetime


class Freshness(NamedTuple):
    """The pulls of one hour of the source's time, and how old the mirror had become at most before one of them."""

    hour: dt.datetime
    pulls: int
    longest_s: float


class Segment(NamedTuple):
    """Archived log rows `first` to `last`; `path` is below the job's folder."""

    line: int
    first: int
    last: int
    proof: str
    path: str
    bytes: int


class CatalogPoint(NamedTuple):
    """A point as people name it: `point` is its number, `id` its place in the log."""

    point: int
    line: int
    epoch: str
    id: int
    kind: str
    label: str | None
    time: dt.datetime


class Snapshot(NamedTuple):
    """The database at a log id; `time` is the source's, `path` is below the job's folder."""

    line: int
    id: int
    time: dt.datetime
    path: str
    bytes: int
    raw_bytes: int

    @property
    def base(self) -> int | None:
        """The log id of the snapshot whose change this is; None where it is the whole database.

        >>> Snapshot(1, 17, dt.datetime.min, "snapshots/20261122T190801.123Z-1-17-9.change", 10, 20).base
        9
        """
        name, _, ending = self.path.rpartition(".")
        return int(name.rpartition("-")[2]) if ending == "change" else None


class Hole(NamedTuple):
    """The log ids between `after` and `until` were never seen."""

    line: int
    after: int
    until: int
    reason: str
