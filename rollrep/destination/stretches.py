"""Where operations are known: stretches of log ids, each from a snapshot to where the archive's rows end.

    line 1    snapshot ══ segment ══ segment    (hole)    snapshot ══ segment
              └────────── stretch ─────────┘              └───── stretch ───┘

Knows: the catalog.  Does not know: what segments hold.
"""

from __future__ import annotations

import dataclasses
import itertools

from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Hole, Segment, Snapshot

LET_GO = "let go of"
"""the reason of a hole that no mirror operation left: its operations are not kept any more"""
DAMAGED = "damaged"
"""the reason of one that a damaged file leaves"""


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A snapshot and the log rows that follow it without a hole."""

    snapshot: Snapshot
    segments: tuple[Segment, ...]
    hole: Hole | None
    """what lies before it, where something does on its line"""

    @property
    def end(self) -> int:
        return self.segments[-1].last if self.segments else self.snapshot.id


@dataclasses.dataclass(frozen=True)
class Window:
    """Which part is asked for: (line, log id), both included; None is open."""

    since: tuple[int, int] | None = None
    until: tuple[int, int] | None = None


def stretches(catalog: Catalog, window: Window) -> list[Stretch]:
    """What is known inside `window`, oldest line first; each begins at the nearest snapshot before."""
    found: list[Stretch] = []
    damaged = catalog.damaged()
    for _, of_line in itertools.groupby(catalog.usable_snapshots(), lambda each: each.line):
        mine: list[Stretch] = []
        for snapshot in of_line:
            at = (snapshot.line, snapshot.id)
            if window.until and at > window.until:
                break
            begins_window = window.since is not None and at <= window.since
            if mine and snapshot.id <= mine[-1].end and not begins_window:
                continue
            hole = None
            if mine and snapshot.id > mine[-1].end:
                end = mine[-1].end
                inside = (each for each in catalog.holes() if each.line == snapshot.line and each.after >= end)
                leads_on = catalog.segments_after(snapshot.line, end)
                why = DAMAGED if leads_on and leads_on[0].path in damaged else LET_GO
                hole = next(inside, Hole(snapshot.line, end, snapshot.id, why))
            whole = itertools.takewhile(
                lambda segment: segment.path not in damaged, catalog.segments_after(snapshot.line, snapshot.id)
            )
            following = tuple(
                segment for segment in whole if window.until is None or (segment.line, segment.first) <= window.until
            )
            if begins_window:
                mine.clear()
                hole = None
            mine.append(Stretch(snapshot, following, hole))
        if mine and window.since and snapshot.line < window.since[0]:
            mine.clear()
        found += mine
    return found
