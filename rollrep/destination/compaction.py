"""Compaction: small segments become a larger one that has the same rows.

    pull, pull, ... pull      a segment each: 60,000 a week for a job that is pulled every ten seconds
     32 neighbours of about the same size ──► one ──► 32 of those ──► one      up to 65,536 rows

Rows, ids, times, points and the ends of the pulls in between stay what they were, so everything that could be restored
can be; a row is written three times more at most.  Only what follows one another without a hole is joined.  A file goes
to the trash before its row goes from the catalog: a process that dies in between is finished by the next.

Knows: the archive, the catalog, the trash.  Does not know: what is in a segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rollrep.core.clock import now
from rollrep.core.errors import VerifyFailed
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Segment
from rollrep.destination.store import Store
from rollrep.destination.trash import nobody_reads, throw_away

TOGETHER = 32
"""segments of one size class that become one"""
MOST_ROWS = 65_536
MOST_BYTES = 8 << 20
"""of a joined segment: it is read into memory as a whole"""


def plan_compaction(segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Which segments become one; they come line by line, oldest first, as the catalog gives them.  Pure.

    >>> pulls = [Segment(1, n, n, "", f"archive/1/{n}", 900) for n in range(1, 80)]
    >>> [(run[0].first, run[-1].last) for run in plan_compaction(pulls)]
    [(1, 32), (33, 64)]
    >>> plan_compaction([Segment(1, 1, 32, "", "", 9), *pulls[32:40], *pulls[41:60]])
    []
    """
    return [
        tuple(run)
        for alike in _neighbours(segments)
        for run in _chunks(alike)
        if sum(map(_rows, run)) <= MOST_ROWS and sum(each.bytes for each in run) <= MOST_BYTES
    ]


def compact(store: Store, catalog: Catalog) -> int:
    """Joins what is to be joined; how many segments are left out for it.  Call it under the job's lock."""
    plan = plan_compaction(catalog.segments())
    if not plan:
        return 0
    archive, thrown, gone = Archive(store, catalog), now(), 0
    with nobody_reads(store) as free:
        for run in plan if free else ():
            try:
                joined = archive.join(run)
            except VerifyFailed:
                continue  # verify names what is damaged; what is beside it stays as it is
            if joined is None:
                continue
            for each in run:
                throw_away(store, each.path, thrown)
            with catalog.connection:
                for each in run:
                    catalog.drop_segment(each)
                catalog.add_segment(joined)
            gone += len(run) - 1
    return gone


def _neighbours(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Runs of segments of one size class that follow one another without a hole."""
    run: list[Segment] = []
    for each in segments:
        if run and (each.line, each.first, _class(each)) != (run[-1].line, run[-1].last + 1, _class(run[-1])):
            yield run
            run = []
        run.append(each)
    yield run


def _chunks(run: Sequence[Segment]) -> Iterator[Sequence[Segment]]:
    for first in range(0, len(run) - TOGETHER + 1, TOGETHER):
        yield run[first : first + TOGETHER]


def _rows(segment: Segment) -> int:
    return segment.last - segment.first + 1


def _class(segment: Segment) -> int:
    """Each class is 32 times as large as the one before, so what was joined is not joined again with small ones."""
    return (_rows(segment).bit_length() - 1) // 5
