"""The catalog made again from the files alone: segments, snapshots, their notes, the mirror.

    archive/*/*.segment ──► segments, the points in them, ends of pulls ──┐
    archive/*/*.shadows ──► changes of virtual tables ────────────────────┤
    snapshots/*.snapshot ─► snapshots, a point each, labels of the notes ─┼──► catalog.db, the old one beside it
    snapshots/*.change ───► snapshots of which the chain is there ────────┤
    mirror.db ────────────► how far the mirror is the source ─────────────┘

What only the old one knew is gone: numbers of points, reasons of lines and holes, events, how fresh the mirror was.
What can be restored, and what it is, comes back.  A damaged file is named and left out; no hole is recorded in its
place, so `verify` goes on to say that something is missing.

Where two segments overlap, one was joined of others, and is used because it has all of theirs; or a pull died between
writing the older one and noting it, and asked again: the younger is used.  Rows that differ in the two are named.

Knows: containers, the catalog's tables by its doors, the mirror's state.  Does not know: the wire.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core.clock import from_iso, iso, now
from rollrep.core.errors import NotSetUp, RollrepError, VerifyFailed
from rollrep.core.nouns import Point
from rollrep.destination import archive, container, snapshots
from rollrep.destination.archive import SegmentHolds
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Hole, Line, LineStory, Segment, Snapshot
from rollrep.destination.chains import chain_of
from rollrep.destination.changes import change_name, found_change, read_change
from rollrep.destination.images import attach_log, encoding_of, scratch
from rollrep.destination.keeping import NAMED
from rollrep.destination.mirror_db import State, open_mirror, read_state, remove_database
from rollrep.destination.notes import read_note
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.snapshots import SnapshotHolds, name_of
from rollrep.destination.store import TEMPORARY, Store
from rollrep.query import all_rows

UNKNOWN = "rebuilt"
"""the reason of lines and holes that only the old catalog knew"""


@dataclasses.dataclass(frozen=True)
class FoundSegment:
    segment: Segment
    holds: SegmentHolds
    written_ns: int


@dataclasses.dataclass(frozen=True)
class FoundSnapshot:
    snapshot: Snapshot
    epoch: str
    points: tuple[Point, ...]
    labels: tuple[str, ...]


@dataclasses.dataclass
class Found:
    """What the files say."""

    segments: list[FoundSegment] = dataclasses.field(default_factory=list)
    snapshots: list[FoundSnapshot] = dataclasses.field(default_factory=list)
    mirror: State | None = None
    damaged: list[str] = dataclasses.field(default_factory=list)
    """sentences, each with the file's path"""
    not_used: list[str] = dataclasses.field(default_factory=list)
    lost: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    """(line, first, last) of damaged segments, as their names say"""


@dataclasses.dataclass
class Rebuilt:
    """What the new catalog holds."""

    lines: int
    segments: int
    snapshots: int
    points: int
    holes: int
    damaged: list[str]
    not_used: list[str]
    old: Path | None
    """where the old catalog lies now"""


def rebuild_catalog(store: Store, *, dry_run: bool) -> Rebuilt:
    """Makes catalog.db again, or says what it would hold.  Call it under the job's lock.

    Raises NotSetUp where there are no files to make it from.
    """
    found = find_files(store)
    if not (found.segments or found.snapshots or found.damaged or found.mirror):
        raise NotSetUp(f"there is nothing of {store.job} to make a catalog from", remedy="pull it: rollrep pull JOB")
    temporary = store.catalog.with_name(f"{store.catalog.name}{TEMPORARY}")
    try:
        remove_database(temporary)
        with container.disk_room(temporary), Catalog(temporary, create=True) as catalog:
            with catalog.connection:
                fill(catalog, found)
                _recall_changes(store, catalog, found)
            rebuilt = Rebuilt(
                len(catalog.line_stories()), len(catalog.segments()), len(catalog.snapshots()), len(catalog.points()),
                len(catalog.holes()), found.damaged, found.not_used, None,
            )  # fmt: skip
            if not dry_run:
                catalog.note("rebuilt", damaged=found.damaged, not_used=found.not_used)
        if not dry_run:
            rebuilt.old = _put_aside(store)
            temporary.replace(store.catalog)
            container.sync_folder(store.folder)
    finally:
        remove_database(temporary)
    return rebuilt


def find_files(store: Store) -> Found:
    """Reads the manifests of all files, and the mirror's state."""
    found = Found()
    for path in sorted(store.archive.rglob("*.segment")):
        try:
            found.segments.append(_segment(store, path))
        except RollrepError as error:
            found.damaged.append(error.facts)
            found.lost += _named(path)
    for path in sorted(store.snapshots.rglob("*.snapshot")):
        try:
            found.snapshots.append(_snapshot(store, path))
        except RollrepError as error:
            found.damaged.append(error.facts)
    _add_changes(store, found)
    found.segments = _without_overlaps(store, found)
    if store.mirror.is_file():
        try:
            with contextlib.closing(open_mirror(store.mirror)) as db:
                found.mirror = read_state(db)
        except (apsw.Error, RollrepError) as error:
            found.damaged.append(f"{store.mirror} is damaged: {error}")
    return found


def fill(catalog: Catalog, found: Found) -> None:
    """Puts what was found into an empty catalog.  Call it inside a transaction."""
    epochs = {each.holds.line: each.holds.epoch for each in found.segments}
    epochs |= {each.snapshot.line: each.epoch for each in found.snapshots}
    if found.mirror is not None:
        epochs[found.mirror.line] = found.mirror.position.epoch
    for line, epoch in sorted(epochs.items()):
        times = [each.snapshot.time for each in found.snapshots if each.snapshot.line == line]
        catalog.add_line(LineStory(line, epoch, UNKNOWN, min(times, default=now())))
    for segment in found.segments:
        catalog.add_segment(segment.segment)
    for snapshot in found.snapshots:
        catalog.add_snapshot(snapshot.snapshot)
    for hole in holes_between(found):
        catalog.add_hole(hole)
    for line, epoch in sorted(epochs.items()):
        through = found.mirror.position.id if found.mirror and found.mirror.line == line else 0
        catalog.add_points(Line(line, epoch), points_of(line, found), through)
    times_known = [each.holds.facts.time for each in found.segments if each.holds.facts]
    times_known += [found.mirror.time] if found.mirror else []
    times_known += [iso(each.snapshot.time) for each in found.snapshots]
    if times_known:
        catalog.confirm(max(times_known))
    catalog.drop_points_nothing_leads_to()


def _recall_changes(store: Store, catalog: Catalog, found: Found) -> None:
    """What changed in virtual tables, of the changes that are whole."""
    archived = ShadowArchive(store, catalog)
    for path in sorted(store.archive.rglob("*.shadows")):
        try:
            archived.recall(path)
        except RollrepError as error:
            found.damaged.append(error.facts)


def points_of(line: int, found: Found) -> list[Point]:
    """The points of one line in the log's order: declared ones, ends of pulls, snapshots, their labels.  Pure."""
    points: list[Point] = []
    for each in found.segments:
        if each.holds.line != line:
            continue
        declared = [point for point in each.holds.points if not point.schema_changed]
        points += declared
        have = {point.id for point in declared}
        ends = [facts for facts in each.holds.all_facts if facts.head.id not in have]
        points += [Point(facts.head.id, facts.time, "pull", None) for facts in ends]
    have = {point.id for point in points}
    for snap in found.snapshots:
        if snap.snapshot.line == line:
            time = iso(snap.snapshot.time)
            if snap.snapshot.id not in have:
                points += snap.points
            if snap.snapshot.id not in have and not snap.points:
                points.append(Point(snap.snapshot.id, time, "pull", None))
            points += [Point(snap.snapshot.id, time, NAMED, label) for label in snap.labels]
    return sorted(points, key=lambda point: point.id)


def holes_between(found: Found) -> Iterator[Hole]:
    """What no segment holds between the first segment of a line and its end, snapshot by snapshot.  Pure.

    Not where a damaged file should be: that is no hole, and `verify` says so.
    """
    for line, group in itertools.groupby(found.segments, key=lambda each: each.segment.line):
        mine = [each.segment for each in group]
        stands = sorted(each.snapshot.id for each in found.snapshots if each.snapshot.line == line)
        lost = [(first, last) for of_line, first, last in found.lost if of_line == line]
        end = max([mine[-1].last, *stands])
        for before, until in [
            *((one.last, other.first - 1) for one, other in itertools.pairwise(mine)), (mine[-1].last, end)
        ]:  # fmt: skip
            edges = [before, *(log_id for log_id in stands if before < log_id < until), until]
            for after, up_to in itertools.pairwise(edges):
                if after < up_to and not any(first <= up_to and last > after for first, last in lost):
                    yield Hole(line, after, up_to, UNKNOWN)


def _segment(store: Store, path: Path) -> FoundSegment:
    holds = container.read_holds(path, archive.KIND, SegmentHolds)
    relative = str(path.relative_to(store.folder))
    if relative != f"archive/{holds.line}/{holds.first:012d}-{holds.last:012d}.segment":
        raise VerifyFailed(
            f"{path} holds log rows {holds.first} to {holds.last} of line {holds.line}, not what it says"
        )
    stat = path.stat()
    segment = Segment(holds.line, holds.first, holds.last, holds.proof, relative, stat.st_size)
    return FoundSegment(segment, holds, stat.st_mtime_ns)


def _snapshot(store: Store, path: Path) -> FoundSnapshot:
    manifest = container.read_manifest(path, snapshots.KIND)
    holds = container.read_holds(path, snapshots.KIND, SnapshotHolds)
    relative, size = str(path.relative_to(store.folder)), path.stat().st_size
    time = from_iso(holds.time)
    snapshot = Snapshot(holds.line, holds.position.id, time, relative, size, manifest.raw_bytes)
    return FoundSnapshot(snapshot, holds.position.epoch, holds.points, read_note(store, snapshot).labels)


def _add_changes(store: Store, found: Found) -> None:
    """The changes whose chain is there; of two that lead to one log id the merged one, which has the older base."""
    changes = []
    for path in sorted(store.snapshots.rglob("*.change")):
        try:
            changes.append(_change(store, path))
        except RollrepError as error:
            found.damaged.append(error.facts)
    for each in sorted(changes, key=lambda each: (each.snapshot.line, each.snapshot.id, each.snapshot.base)):
        known = [one.snapshot for one in found.snapshots]
        if any((one.line, one.id) == (each.snapshot.line, each.snapshot.id) for one in known):
            found.not_used.append(f"{store.folder / each.snapshot.path} leads to where another snapshot stands")
            continue
        try:
            chain_of(each.snapshot, known)
        except RollrepError as error:
            found.damaged.append(f"{store.folder / each.snapshot.path} can't be used: {error.facts}")
            continue
        found.snapshots.append(each)


def _change(store: Store, path: Path) -> FoundSnapshot:
    holds = read_change(path)
    snapshot = found_change(store, path, holds, path.stat().st_size)
    if (snapshot.line, snapshot.base) != (holds.line, holds.base) or path.name != change_name(
        name_of(holds.time, holds.line, holds.position.id), holds.base
    ):
        raise VerifyFailed(f"{path} is a change of other snapshots than its name says")
    return FoundSnapshot(snapshot, holds.position.epoch, holds.points, read_note(store, snapshot).labels)


def _named(path: Path) -> list[tuple[int, int, int]]:
    """What a segment's name says that it holds."""
    first, _, last = path.stem.partition("-")
    try:
        return [(int(path.parent.name), int(first), int(last))]
    except ValueError:
        return []


def _without_overlaps(store: Store, found: Found) -> list[FoundSegment]:
    """Line by line, oldest first; of two that overlap the one that has all of the other, else the younger."""
    kept: list[FoundSegment] = []
    alone = list(_without_contained(store, found))
    for each in sorted(alone, key=lambda each: (each.written_ns, each.segment.last), reverse=True):
        other = next((one for one in kept if _overlap(one.segment, each.segment)), None)
        if other is None:
            kept.append(each)
            continue
        said = f"{store.folder / each.segment.path} overlaps {other.segment.path}, which is younger"
        if _same_rows(store, each, other):
            found.not_used.append(f"{said} and has the same rows")
        else:
            found.damaged.append(f"{said} and has other rows; it is not used")
    return sorted(kept, key=lambda each: (each.segment.line, each.segment.first))


def _without_contained(store: Store, found: Found) -> Iterator[FoundSegment]:
    """All but those whose rows another has too, as the segments have that one was joined of."""
    widest: FoundSegment | None = None
    for each in sorted(found.segments, key=lambda each: (each.segment.line, each.segment.first, -each.segment.last)):
        if widest and _overlap(widest.segment, each.segment) and each.segment.last <= widest.segment.last:
            if _same_rows(store, each, widest):
                found.not_used.append(f"{store.folder / each.segment.path} has rows that {widest.segment.path} has too")
                continue
        elif widest is None or each.segment.line != widest.segment.line or each.segment.last > widest.segment.last:
            widest = each
        yield each


def _overlap(one: Segment, other: Segment) -> bool:
    return one.line == other.line and one.first <= other.last and other.first <= one.last


def _same_rows(store: Store, one: FoundSegment, other: FoundSegment) -> bool:
    first = max(one.segment.first, other.segment.first)
    last = min(one.segment.last, other.segment.last)
    try:
        return _rows(store, one, first, last) == _rows(store, other, first, last)
    except (RollrepError, apsw.Error):
        return False


def _rows(store: Store, each: FoundSegment, first: int, last: int) -> list[list[str]]:
    """Log rows as text that tells every value from every other; NULLs at the end, which only fill a width, left out."""
    raw = container.read_raw(store.folder / each.segment.path, archive.KIND)
    with scratch(encoding_of(raw)) as db:
        attach_log(db, raw, each.holds.first, each.holds.last, each.holds.shapes)
        names = [name for (name,) in all_rows(db, "SELECT name FROM pragma_table_info('log', 'batch')") if name != "at"]
        values = ", ".join(f'typeof("{name}") || hex(CAST("{name}" AS BLOB))' for name in names)
        found = all_rows(db, f"SELECT {values} FROM batch.log WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))
    return [list(_trimmed(row)) for row in found]


def _trimmed(row: Sequence[str | None]) -> list[str]:
    texts = [each or "null" for each in row]
    while texts and texts[-1] == "null":
        texts.pop()
    return texts


def _put_aside(store: Store) -> Path | None:
    """Moves the old catalog, whatever is left of it, to a name of its own."""
    stamp = now().strftime("%Y%m%dT%H%M%S%fZ")
    aside: Path | None = None
    for ending in ("-wal", "-shm", ""):
        path = store.catalog.with_name(store.catalog.name + ending)
        if path.exists():
            target = store.catalog.with_name(f"{store.catalog.name}.before-{stamp}{ending}")
            path.replace(target)
            aside = target
    return aside
