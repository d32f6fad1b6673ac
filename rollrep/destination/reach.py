"""What snapshots and archive lead to: stretches of log ids, each from a snapshot to where its segments end.

    snapshot 10   segments 11..40   hole   snapshot 70   segments 71..90
       10 ───────────────► 40                 70 ──────────────► 90

Pure.  Knows: what the catalog says of snapshots and segments.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rollrep.destination.catalog_rows import Segment, Snapshot


@dataclasses.dataclass(frozen=True)
class Reach:
    """For each line, the stretches of log ids that can be restored, each from a snapshot on."""

    stretches: dict[int, list[tuple[int, int]]]

    def covers(self, line: int, log_id: int) -> bool:
        """Whether the source as of `log_id` can be restored.

        >>> Reach({1: [(10, 10), (40, 90)]}).covers(1, 41), Reach({1: [(10, 10)]}).covers(1, 11)
        (True, False)
        """
        stretches = self.stretches.get(line, [])
        nearest = bisect.bisect_right(stretches, log_id, key=lambda stretch: stretch[0]) - 1
        # A snapshot in a hole reaches nothing, and one before it may still reach past it no more.
        return nearest >= 0 and log_id <= stretches[nearest][1]

    def leads(self, before: Snapshot, after: Snapshot) -> bool:
        """Whether the archive leads from one snapshot to a later one of its line."""
        return any(begin == before.id and end >= after.id for begin, end in self.stretches.get(before.line, []))


def reach_of(segments: Iterable[Segment], snapshots: Iterable[Snapshot]) -> Reach:
    """What these lead to; segments of a line come oldest first.  Pure."""
    runs: dict[int, list[list[int]]] = {}
    for segment in segments:
        of_line = runs.setdefault(segment.line, [])
        if of_line and of_line[-1][1] >= segment.first - 1:
            of_line[-1][1] = max(of_line[-1][1], segment.last)
        else:
            of_line.append([segment.first, segment.last])
    stretches: dict[int, list[tuple[int, int]]] = {}
    for snapshot in snapshots:
        ends = [last for first, last in runs.get(snapshot.line, []) if first <= snapshot.id + 1 <= last]
        stretches.setdefault(snapshot.line, []).append((snapshot.id, max([snapshot.id, *ends])))
    return Reach(stretches)
