"""Letting go of what `keep` does not ask for: snapshots by the grid, operations by their age.

    line by line:   snapshots ──► retention's verdicts ──► files go, with their reason in the events
                    segments  ──► those that only lead to before the oldest base that is kept

The newest snapshot of every line stays, and so does the base from which kept operations are replayed, so
every point younger than `keep.operations` stays restorable.  A file goes before its row does: a process
that dies in between is finished by the next.

Knows: retention's plan, the catalog, the folder.  Does not know: why a grid is as it is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from rollrep.destination.catalog import Catalog, Snapshot
from rollrep.destination.retention import Grid, plan_snapshots
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.store import Store


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A snapshot as retention sees it."""

    snapshot: Snapshot

    @property
    def time(self) -> dt.datetime:
        return self.snapshot.time

    @property
    def key(self) -> str:
        return f"{self.snapshot.line:012d}-{self.snapshot.id:020d}"


def expire(store: Store, catalog: Catalog, keep: Grid, now: dt.datetime) -> list[str]:
    """Removes what nothing keeps; a line of reason for each file.  Call it under the job's lock."""
    if keep.keeps_all:
        return []
    reasons: list[str] = []
    snapshots = catalog.snapshots()
    for line in sorted({snapshot.line for snapshot in snapshots}):
        verdicts = plan_snapshots([_Kept(s) for s in snapshots if s.line == line], keep, now)
        for verdict in verdicts:
            if not verdict.kept:
                snapshot = verdict.item.snapshot
                (store.folder / snapshot.path).unlink(missing_ok=True)
                catalog.drop_snapshot(snapshot)
                reasons.append(f"{snapshot.path}: {verdict.reason}")
        reasons += _expire_segments(store, catalog, line, [v.item.snapshot for v in verdicts if v.kept], keep, now)
    if reasons:
        catalog.drop_points_nothing_leads_to()
        catalog.note("expired", files=reasons)
    return reasons


def _expire_segments(
    store: Store, catalog: Catalog, line: int, kept: list[Snapshot], keep: Grid, now: dt.datetime
) -> list[str]:
    horizon = now - dt.timedelta(seconds=keep.operations_s)
    bases = [snapshot for snapshot in kept if snapshot.time <= horizon]
    if not bases:
        return []
    base = max(bases, key=lambda snapshot: snapshot.id)
    reasons = []
    for segment in catalog.segments_through(line, base.id):
        (store.folder / segment.path).unlink(missing_ok=True)
        catalog.drop_segment(segment)
        reasons.append(f"{segment.path}: older than the operations that are kept")
    return reasons + ShadowArchive(store, catalog).expire(line, base.id)
