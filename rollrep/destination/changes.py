"""Changes: a snapshot as the rows that changed since the one before it.

    snapshots/<source's time>-<line>-<log id>.snapshot              the whole database
    snapshots/<source's time>-<line>-<log id>-<base>.change         what leads to this log id from the base's

    whole ──► change ──► change ──► change              together at most half as large as the whole, and 100 of them;
      └──────── lead on from one another ──────►         else the next snapshot is a whole one

A change is a container like every file at rest, never altered; its image has one row per key (`change_rows`).
With it stands a digest of every table as it was in the mirror: what comes out of a chain must have the same.  When
retention lets go of the changes in between, `merge_changes` makes one of several, under a name of its own.

There are none where rows alone do not tell all: of a database with virtual tables, or with a UNIQUE index that could
not be probed, and from a snapshot that may stand inside a transaction.

Knows: containers, snapshots, replay, the catalog.  Does not know: what is due, what is kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path

import apsw
import msgspec

from rollrep.core.clock import from_iso
from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.core.nouns import Encoding, Facts, Point, Position, Shape, Time, require_moment
from rollrep.destination import container, images, snapshots
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Snapshot
from rollrep.destination.chains import chain_of
from rollrep.destination.change_rows import (
    CHANGED,
    add_change,
    attach_changed,
    count_keys,
    drop_needless,
    note_keys,
    put_rows,
)
from rollrep.destination.images import attach_log_file, detach_log_file
from rollrep.destination.mirror_db import State, open_mirror, read_state, remove_database, transaction, write_state
from rollrep.destination.replay import Replay, apply_facts
from rollrep.destination.snapshots import (
    SnapshotHolds,
    full_disk_as_oserror,
    name_of,
    points_at,
    sequence_at_point,
    take_snapshot,
    unpack_whole,
)
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import find_file
from rollrep.query import all_rows, load_digests, one_value
from rollrep.wire.ranges import digest_query

KIND = "change"
MOST_CHANGES = 100
"""in a chain"""
LARGEST_SHARE = 0.5
"""of a whole snapshot's bytes, for the changes that lead on from it"""


class ChangeHolds(msgspec.Struct, frozen=True):
    """The part of a change's manifest that is a change's own."""

    line: int
    base: int
    """the log id of the snapshot that it leads on from"""
    position: Position
    time: Time
    schema_digest: str
    encoding: Encoding
    database_bytes: int
    shapes: tuple[Shape, ...]
    facts: Facts
    digests: tuple[tuple[str, str], ...]
    """of every table, as `digest_query` has it: table, hexadecimal SHA-1"""
    points: tuple[Point, ...] = ()

    def __post_init__(self) -> None:
        require_moment(self.time)


def take_next(store: Store, catalog: Catalog, head: Point | None = None) -> Snapshot:
    """A snapshot of the mirror as it is, in the catalog: a change where one is possible and small, else a whole one.

    `head` is as for `take_snapshot`.
    """
    scratch = store.snapshots / f"change.db{TEMPORARY}"
    try:
        with contextlib.closing(open_mirror(store.mirror)) as mirror:
            state = read_state(mirror)
            chain = _leads_here(store, catalog, state) if state else ()
            if state and chain:
                change = None
                # Where a segment is damaged that leads here, the whole mirror is written; `verify` names it.
                with contextlib.suppress(VerifyFailed), container.disk_room(scratch), full_disk_as_oserror():
                    change = _write_next(store, catalog, mirror, state, chain, scratch)
                if change is not None:
                    catalog.add_snapshot(change)
                    return change
    finally:
        remove_database(scratch)
    return take_snapshot(store, catalog, head)


def unpack_snapshot(store: Store, chain: Sequence[Snapshot], target: Path) -> None:
    """Writes the database of the last of `chain` to `target`, checked to its last byte.

    Raises VerifyFailed where a file is damaged, or what comes out is not what the mirror was.
    """
    unpack_unchecked(store, chain, target)()


def unpack_unchecked(store: Store, chain: Sequence[Snapshot], target: Path) -> Callable[[], None]:
    """As `unpack_snapshot`, but that what comes out is what the mirror was is left to the caller.

    What is returned says so or raises VerifyFailed; it reads `target` by a connection of its own, in any thread,
    and must be called before a row there is believed or changed.
    """
    if len(chain) == 1:
        unpack_whole(store, chain[0], target)
        return lambda: None
    rows = target.with_name(f"{target.name}.rows")
    try:
        with futures.ThreadPoolExecutor(1) as beside:
            unpacked = beside.submit(unpack_whole, store, chain[0], target)
            first, last = _gather(store, chain, rows)
            unpacked.result()
        with contextlib.closing(open_mirror(target, scratch=True)) as db:
            state = read_state(db)
            if state is None or (state.position.id, state.schema_digest) != (first.base, first.schema_digest):
                raise _does_not_lead_on(chain[1], chain[0])
            attach_log_file(db, rows, first.base + 1, last.position.id, last.shapes)
            replay = Replay(db, {shape.id: shape for shape in last.shapes}, finished=True)
            with transaction(db):
                replay.window(first.base + 1, last.position.id)
                replay.finish()
                apply_facts(db, last.facts, last.shapes)
                write_state(db, msgspec.structs.replace(state, position=last.position, time=last.time))
    finally:
        remove_database(rows)
    return functools.partial(_require_digests, target, last, find_file(store, chain[-1].path))


def _gather(store: Store, chain: Sequence[Snapshot], rows: Path) -> tuple[ChangeHolds, ChangeHolds]:
    """The rows of all changes of `chain` in one image, so that each page is written once; the first and the last.

    Raises VerifyFailed where one is damaged, or does not lead on from the one before.
    """
    first = last = read_change(find_file(store, chain[1].path))
    with images.scratch(first.encoding) as db:
        attach_changed(db, rows, first.shapes)
        for number, change in enumerate(chain[1:]):
            with attached_change(store, change, db, rows.with_name(f"{rows.name}.one")) as holds:
                if number and (holds.base, holds.schema_digest) != (last.position.id, last.schema_digest):
                    raise _does_not_lead_on(change, chain[number])
                add_change(db)
                last = holds
    return first, last


def _does_not_lead_on(change: Snapshot, before: Snapshot) -> VerifyFailed:
    return VerifyFailed(f"{change.path} does not lead on from {before.path}")


@contextlib.contextmanager
def attached_change(store: Store, change: Snapshot, db: apsw.Connection, scratch: Path) -> Iterator[ChangeHolds]:
    """What a change says of itself, and its image as `batch` of `db`; checked to its last byte, else VerifyFailed."""
    path = find_file(store, change.path)
    holds = container.read_holds(path, KIND, ChangeHolds)
    if (holds.line, holds.base, holds.position.id) != (change.line, change.base, change.id):
        raise container.damaged(path, "it is a change of other snapshots than its name says")
    try:
        container.unpack_to(path, KIND, scratch)
        attach_log_file(db, scratch, holds.base + 1, holds.position.id, holds.shapes)
        yield holds
    finally:
        detach_log_file(db)
        remove_database(scratch)


def merge_changes(store: Store, chain: Sequence[Snapshot]) -> Snapshot:
    """One change that leads to where the last of `chain` leads, from where the first does; not in the catalog yet.

    Raises VerifyFailed where one of them is damaged.
    """
    scratch = store.snapshots / f"change.db{TEMPORARY}"
    try:
        first = container.read_holds(find_file(store, chain[0].path), KIND, ChangeHolds)
        with images.scratch(first.encoding) as db, container.disk_room(scratch):
            for change in chain:
                with attached_change(store, change, db, scratch.with_name(f"read.db{TEMPORARY}")) as holds:
                    if change is chain[0]:
                        attach_changed(db, scratch, holds.shapes)
                    add_change(db)
            drop_needless(db, holds.shapes)
        return _write(store, scratch, msgspec.structs.replace(holds, base=first.base))
    finally:
        remove_database(scratch)


def read_change(path: Path) -> ChangeHolds:
    """What a change says of itself.  Raises VerifyFailed where its manifest is damaged."""
    return container.read_holds(path, KIND, ChangeHolds)


def change_name(beginning: str, base: int) -> str:
    """
    >>> change_name("20261122T190801.123Z-1-17", 9)
    '20261122T190801.123Z-1-17-9.change'
    """
    return f"{beginning}-{base}.change"


def _leads_here(store: Store, catalog: Catalog, state: State) -> tuple[Snapshot, ...]:
    """The chain of the newest snapshot of the mirror's line, where a change may lead on from it; else nothing."""
    good = catalog.usable_snapshots()
    mine = [each for each in good if each.line == state.line and each.id < state.position.id]
    if not mine or state.layout.virtuals or not all(shape.touches_logged for shape in state.layout.shapes):
        return ()
    segments = catalog.segments_after(state.line, mine[-1].id)
    if not segments or segments[-1].last != state.position.id:
        return ()
    try:
        chain = chain_of(mine[-1], mine)
        position, digest = end_of(find_file(store, mine[-1].path))
    except RollrepError:
        return ()
    is_good = bool(position.proof) and digest == state.schema_digest and len(chain) <= MOST_CHANGES
    return chain if is_good else ()


def end_of(path: Path) -> tuple[Position, str]:
    """Where a snapshot stands, and the digest of its layout."""
    if path.suffix == f".{KIND}":
        change = read_change(path)
        return change.position, change.schema_digest
    whole = container.read_holds(path, snapshots.KIND, SnapshotHolds)
    return whole.position, whole.schema_digest


def _write_next(
    store: Store, catalog: Catalog, mirror: apsw.Connection, state: State, chain: Sequence[Snapshot], scratch: Path
) -> Snapshot | None:
    """The change from the end of `chain` to where the mirror stands; None where it is too large to be one."""
    base, room = chain[-1], LARGEST_SHARE * chain[0].bytes - sum(each.bytes for each in chain[1:])
    attach_changed(mirror, scratch, state.layout.shapes)
    leads_here = Archive(store, catalog).attached(mirror, state.line, base.id, state.position.id)
    for number, _ in enumerate(leads_here, 1):
        note_keys(mirror, state.layout.shapes, base.id)
        # A key takes a byte at least.  To count them takes longer the more there are: so ever more seldom.
        if number.bit_count() == 1 and count_keys(mirror) > room:
            return None
    if count_keys(mirror) > room:
        return None
    load_digests(mirror, "sha1")
    with transaction(mirror):
        put_rows(mirror, state.layout.shapes)
        holds = ChangeHolds(
            line=state.line,
            base=base.id,
            position=state.position,
            time=state.time,
            schema_digest=state.schema_digest,
            encoding=state.layout.encoding,
            database_bytes=mirror.pragma("page_count") * mirror.pragma("page_size"),
            shapes=state.layout.shapes,
            facts=_facts(mirror, state, sequence_at_point(store, catalog, state, None)),
            digests=tuple(_digests(mirror, state.layout.shapes)),
            points=points_at(catalog, state),
        )
    mirror.execute(f"DETACH {CHANGED}")
    change = _write(store, scratch, holds)
    if change.bytes > room:
        (store.folder / change.path).unlink()
        return None
    return change


def _write(store: Store, image: Path, holds: ChangeHolds) -> Snapshot:
    path = store.snapshots / change_name(name_of(holds.time, holds.line, holds.position.id), holds.base)
    return found_change(store, path, holds, container.write_file(path, KIND, image, holds))


def found_change(store: Store, path: Path, holds: ChangeHolds, size: int) -> Snapshot:
    """The row of the catalog for a change."""
    relative = str(path.relative_to(store.folder))
    return Snapshot(holds.line, holds.position.id, from_iso(holds.time), relative, size, holds.database_bytes)


def _facts(mirror: apsw.Connection, state: State, at_point: dict[str, int] | None) -> Facts:
    sequence: list[tuple[str, int]] = []
    captured = {shape.table for shape in state.layout.shapes if shape.autoincrement}
    if at_point is not None:
        sequence = [(name, at_point[name]) for name in sorted(captured & at_point.keys())]
    elif captured:
        found = all_rows(mirror, "SELECT name, seq FROM main.sqlite_sequence ORDER BY name")
        sequence = [(name, seq) for name, seq in found if name in captured]
    return Facts(
        state.position,
        state.time,
        mirror.pragma("user_version"),
        mirror.pragma("application_id"),
        tuple(sequence),
    )


def _digests(db: apsw.Connection, shapes: Sequence[Shape]) -> Iterator[tuple[str, str]]:
    for shape in shapes:
        yield shape.table, one_value(db, "SELECT sha1_query(?)", (digest_query(shape, None, None),))


def _require_digests(database: Path, holds: ChangeHolds, path: Path) -> None:
    with contextlib.closing(apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        load_digests(db, "sha1")
        for found, said in zip(_digests(db, holds.shapes), holds.digests, strict=True):
            if found != said:
                raise container.damaged(path, f"what it leads to is not what the mirror was: table {said[0]}")
