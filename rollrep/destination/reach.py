"""What snapshots and archive lead to: stretches of log ids, each from a snapshot to where its segments end.

    snapshot 10   segments 11..40   hole   snapshot 70   segments 71..90
       10 ───────────────► 40                 70 ──────────────► 90

Nothing leads over a file that is damaged: a change of virtual tables, too, which belongs to a log id.

Pure.  Knows: what the catalog says of snapshots and segments, how files are named.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from rollrep.destination.chains import usable

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


def reach_of(
    segments: Iterable[Segment], snapshots: Iterable[Snapshot], damaged: Collection[str] = frozenset()
) -> Reach:
    """What these lead to without the paths `damaged`; they come oldest first, line by line.  Pure."""
    cuts = sorted(cut for path in damaged if (cut := _cut_at(path)))
    runs: dict[int, list[list[int]]] = {}
    for segment in segments:
        of_line = runs.setdefault(segment.line, [])
        for first, last in _pieces(segment, cuts) if segment.path not in damaged else ():
            if of_line and of_line[-1][1] >= first - 1:
                of_line[-1][1] = max(of_line[-1][1], last)
            else:
                of_line.append([first, last])
    stretches: dict[int, list[tuple[int, int]]] = {}
    for snapshot in usable(snapshots, damaged):
        ends = [last for first, last in runs.get(snapshot.line, []) if first <= snapshot.id + 1 <= last]
        stretches.setdefault(snapshot.line, []).append((snapshot.id, max([snapshot.id, *ends])))
    return Reach(stretches)


def _pieces(segment: Segment, cuts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is left of a segment where log ids of its line are cut out."""
    first = segment.first
    for line, log_id in cuts:
        if line == segment.line and first <= log_id <= segment.last:
            if first < log_id:
                yield first, log_id - 1
            first = log_id + 1
    if first <= segment.last:
        yield first, segment.last


def _cut_at(path: str) -> tuple[int, int] | None:
    """The line and the log id of a change of virtual tables.

    >>> _cut_at("archive/1/000000000012.shadows"), _cut_at("archive/1/000000000011-000000000012.segment")
    ((1, 12), None)
    """
    folder, _, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    return (int(folder.rpartition("/")[2]), int(stem)) if ending == "shadows" else None
