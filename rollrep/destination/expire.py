"""Letting go of what `keep` does not ask for: snapshots by the grid, operations by their age.

    line by line:   snapshots ──► retention's verdicts ──► to the trash, with their reason in the events
                    segments  ──► those that only lead to before the oldest base that is kept

"Now" is the earlier of what the source's clock and this machine's say: one that is ahead makes nothing old.

The plan is made first, and says of every file why it stays or goes, and which points go with it.  The floor: the
newest snapshot of every line, what is pinned, and the bases from which kept operations are replayed, also behind
a hole, so every point younger than `keep.operations` stays restorable.  A whole snapshot stays as long as changes
lead on from it; a change whose base goes is made anew first, from the nearest snapshot before it that stays.  A file
goes before its row does: a process that dies in between is finished by the next.  While a restore runs nothing
goes; the next pull does it.

Knows: retention's plan, the catalog, the folder, the trash.  Does not know: why a grid is as it is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Mapping, Sequence

from rollrep.core.clock import iso
from rollrep.core.clock import now as clock_now
from rollrep.core.errors import VerifyFailed
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Segment, Snapshot
from rollrep.destination.chains import chain_of, usable
from rollrep.destination.changes import merge_changes
from rollrep.destination.choosing import oldest_of
from rollrep.destination.notes import note_path, pinned_paths
from rollrep.destination.reach import reach_of
from rollrep.destination.retention import Grid, latest_times, plan_snapshots
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.store import Store
from rollrep.destination.trash import nobody_reads, throw_away


@dataclasses.dataclass(frozen=True)
class FileVerdict:
    """What becomes of one snapshot or one segment, and why."""

    item: Snapshot | Segment
    kept: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Expiry:
    """What stays and what goes: snapshots and segments of each line, oldest first, and the points that go with them."""

    files: tuple[FileVerdict, ...]
    lost: tuple[CatalogPoint, ...]
    """points that can be restored now and could not be any more"""
    points_kept: int
    oldest_kept: CatalogPoint | None
    merges: tuple[tuple[Snapshot, ...], ...] = ()
    """changes that become one: those that go, and behind them the one that stays"""

    @property
    def going(self) -> list[FileVerdict]:
        return [each for each in self.files if not each.kept]


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


def plan_expiry(
    snapshots: Sequence[Snapshot],
    segments: Sequence[Segment],
    points: Sequence[CatalogPoint],
    pinned: frozenset[str],
    keep: Grid,
    now: dt.datetime,
    damaged: frozenset[str] = frozenset(),
) -> Expiry:
    """What `keep` asks for at the source's time `now`; `pinned` are paths of snapshots.  Pure.

    Snapshots and segments come line by line, oldest first, as the catalog gives them.  What is `damaged` stays, and
    nothing is let go of because of it.
    """
    good = usable(snapshots, damaged)
    unusable = [each for each in snapshots if each not in good] + [each for each in segments if each.path in damaged]
    snapshots, segments = good, [each for each in segments if each.path not in damaged]
    before = reach_of(segments, snapshots, damaged)
    files: list[FileVerdict] = []
    merges: list[tuple[Snapshot, ...]] = []
    for line in sorted({each.line for each in (*snapshots, *segments, *unusable)}):
        mine = [each for each in snapshots if each.line == line]
        begins = frozenset(
            _Kept(after).key for first, after in itertools.pairwise(mine) if not before.leads(first, after)
        )
        pins = frozenset(_Kept(each).key for each in mine if each.path in pinned)
        ruled = plan_snapshots([_Kept(each) for each in mine], keep, now, pinned=pins, begins=begins)
        verdicts, merged = _with_bases([FileVerdict(each.item.snapshot, each.kept, each.reason) for each in ruled])
        files += verdicts
        merges += merged
        kept = [each.item for each in verdicts if each.kept and isinstance(each.item, Snapshot)]
        times = dict(zip((each.id for each in mine), latest_times([each.time for each in mine], now), strict=True))
        files += _segments([each for each in segments if each.line == line], kept, times, keep, now)
        files += [FileVerdict(each, True, "damaged, and not used") for each in unusable if each.line == line]
    stay_files = {each.item.path for each in files if each.kept}
    after = reach_of(
        [each for each in segments if each.path in stay_files],
        [each for each in snapshots if each.path in stay_files],
        damaged,
    )
    restorable = [point for point in points if before.covers(point.line, point.id)]
    stay = [point for point in restorable if after.covers(point.line, point.id)]
    lost = tuple(point for point in restorable if not after.covers(point.line, point.id))
    return Expiry(tuple(files), lost, len(stay), oldest_of(stay) if stay else None, tuple(merges))


def _with_bases(ruled: Sequence[FileVerdict]) -> tuple[list[FileVerdict], list[tuple[Snapshot, ...]]]:
    """The same verdicts, but whole snapshots stay that changes lead on from; and which changes become one.  Pure."""
    everyone = [each.item for each in ruled if isinstance(each.item, Snapshot)]
    stay = {each.item.path for each in ruled if each.kept}
    needed: set[str] = set()
    merges = []
    for snapshot in (each for each in everyone if each.path in stay):
        *before, last = chain_of(snapshot, everyone)
        going = list(itertools.takewhile(lambda each: each.path not in stay, reversed(before)))
        if going and going[-1].base is None:
            needed.add(going.pop().path)
        if going:
            merges.append((*reversed(going), last))
    return [
        FileVerdict(each.item, True, "changes lead on from it") if each.item.path in needed else each
        for each in ruled
    ], merges  # fmt: skip


def _segments(
    mine: Sequence[Segment], kept: Sequence[Snapshot], times: Mapping[int, dt.datetime], keep: Grid, now: dt.datetime
) -> list[FileVerdict]:  # fmt: skip
    if keep.keeps_all:
        return [FileVerdict(each, True, "no rule is configured") for each in mine]
    horizon = now - dt.timedelta(seconds=keep.operations_s)
    bases = [snapshot for snapshot in kept if times[snapshot.id] <= horizon]
    if not bases:
        return [FileVerdict(each, True, "no snapshot is older than the kept operations") for each in mine]
    base = max(bases, key=lambda snapshot: snapshot.id)
    return [
        FileVerdict(each, True, f"operations since the base of {iso(base.time)}")
        if each.last > base.id
        else FileVerdict(each, False, "older than the operations that are kept")
        for each in mine
    ]


def retention_now(source: dt.datetime) -> dt.datetime:
    """The moment that `keep` counts back from, where the source's clock says `source`."""
    return min(source, clock_now())


def expiry_of(store: Store, catalog: Catalog, keep: Grid, now: dt.datetime) -> Expiry:
    """The plan for a job as it is."""
    snapshots = catalog.snapshots()
    pinned = pinned_paths(store, snapshots)
    return plan_expiry(snapshots, catalog.segments(), catalog.points(), pinned, keep, now, catalog.damaged())


def expire(store: Store, catalog: Catalog, keep: Grid, now: dt.datetime) -> list[str]:
    """Lets go of what nothing keeps; a line of reason for each file.  Call it under the job's lock."""
    if keep.keeps_all:
        return []
    return run_expiry(store, catalog, expiry_of(store, catalog, keep, now)) or []


def run_expiry(store: Store, catalog: Catalog, plan: Expiry) -> list[str] | None:
    """Does what was planned; a line of reason for each file, None where somebody reads and nothing was done.

    Call it under the job's lock, which was held while planning, too.
    """
    if not plan.going:
        return []
    thrown = clock_now()
    reasons: list[str] = []
    with nobody_reads(store) as free:
        if not free:
            return None
        needed = _merge(store, catalog, plan.merges, thrown)
        # A change goes before what it leads on from, and operations from their oldest on.
        snapshots = [each for each in reversed(plan.going) if isinstance(each.item, Snapshot)]
        for verdict in (*snapshots, *(each for each in plan.going if isinstance(each.item, Segment))):
            item = verdict.item
            if item.path in needed:
                continue
            throw_away(store, item.path, thrown)
            if isinstance(item, Snapshot):
                throw_away(store, note_path(item.path), thrown)
                catalog.drop_snapshot(item)
            else:
                catalog.drop_segment(item)
            reasons.append(f"{item.path}: {verdict.reason}")
        for line, log_id in _bases(plan).items():
            reasons += ShadowArchive(store, catalog).expire(line, log_id, lambda path: throw_away(store, path, thrown))
    catalog.drop_points_nothing_leads_to()
    catalog.note("expired", files=reasons)
    return reasons


def _merge(
    store: Store, catalog: Catalog, merges: Sequence[tuple[Snapshot, ...]], thrown: dt.datetime
) -> set[str]:  # fmt: skip
    """Makes one change of each of `merges`; the paths of what must stay, because a file of it is damaged."""
    needed: set[str] = set()
    for merge in merges:
        try:
            merged = merge_changes(store, merge)
        except VerifyFailed as error:
            catalog.note("not merged", reason=error.facts)
            needed |= {each.path for each in merge}
            continue
        throw_away(store, merge[-1].path, thrown)
        catalog.add_snapshot(merged)
    return needed


def _bases(plan: Expiry) -> dict[int, int]:
    """By line, the log id up to which operations go."""
    found: dict[int, int] = {}
    for verdict in plan.going:
        if isinstance(verdict.item, Segment):
            found[verdict.item.line] = max(verdict.item.last, found.get(verdict.item.line, 0))
    return found
