"""Restoring a point: the nearest snapshot before it, and the archive's tail up to it.

    plan     which snapshot and which segments lead there, or why none do
    run      into a temporary file beside the output, checked, then renamed; around a file that is damaged

The newest state needs neither: where the mirror stands at the point, it is copied.

Knows: catalog, archive, snapshots, replay, the mirror.  Does not know: the wire, the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import apsw

from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, UsageError, VerifyFailed
from rollrep.core.nouns import Layout, SchemaObject
from rollrep.destination import container
from rollrep.destination.building import (
    Plan,
    Progress,
    finish,
    from_archive,
    from_mirror,
    read_mirror,
    stands_at,
)
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.chains import chain_of
from rollrep.destination.mirror_db import read_state, remove_database
from rollrep.destination.outputs import as_before, output_file
from rollrep.destination.partial import copy_tables
from rollrep.destination.schema import indexes_left_out
from rollrep.destination.shadow_archive import Earlier
from rollrep.destination.shadow_restore import complaints
from rollrep.destination.snapshots import KIND, SnapshotHolds, full_disk_as_oserror
from rollrep.destination.store import Store
from rollrep.destination.trash import find_file, place_of, reading
from rollrep.destination.unfinished import unfinished

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Restored:
    point: CatalogPoint
    output: Path
    rows: int
    earlier: tuple[Earlier, ...] = ()
    """virtual tables that are as of an earlier log id"""
    rebuilt: tuple[str, ...] = ()
    """full-text indexes that were made anew from their content table, as that was at the point"""
    complaints: tuple[str, ...] = ()
    """what virtual tables say against themselves"""
    left_out: tuple[SchemaObject, ...] = ()
    """indexes that only the application can make"""
    damaged: tuple[Path, ...] = ()
    """files that were not used, because they are"""


def plan(catalog: Catalog, point: CatalogPoint, damaged: Collection[str] = frozenset()) -> Plan:
    """The nearest snapshot before `point`, and the segments that lead from it to the point.

    Neither is known to be damaged, nor among the paths `damaged`.  Raises NotRestorable where none do: then no
    earlier snapshot does either, because there is a hole.
    """
    # All of one moment: a restore holds no lock, and retention may let go of something meanwhile.
    with catalog.connection:
        if catalog.reach(damaged).covers(point.line, point.id):
            snapshots = catalog.usable_snapshots(damaged)
            nearest = [each for each in snapshots if each.line == point.line and each.id <= point.id][-1]
            segments = catalog.segments_after(point.line, nearest.id) if nearest.id < point.id else []
            needed = tuple(segment for segment in segments if segment.first <= point.id)
            return Plan(point, chain_of(nearest, snapshots), needed)
    raise NotRestorable(
        f"point {point.point} of {iso(point.time)} can't be restored: no snapshot and archive lead to it",
        remedy="see which points can be: rollrep points JOB",
    )


def around_damage(
    store: Store, catalog: Catalog, chosen: Plan, attempt: Callable[[Plan], T]
) -> tuple[T, tuple[Path, ...]]:
    """What `attempt` makes of the point, and the files that turned out to be damaged and were not used.

    As long as there is another way to the point that one is tried.  Raises what the first attempt raised where none
    is left.
    """
    found: list[str] = []
    first: Exception | None = None
    while True:
        try:
            return attempt(chosen), tuple(store.folder / each for each in found)
        except (VerifyFailed, apsw.CorruptError, apsw.NotADBError, apsw.IOError, OSError) as raised:
            if isinstance(raised, OSError) and raised.errno != errno.EIO:
                raise
            first = first or raised
            if chosen.from_mirror:
                found.append(store.mirror.name)
                chosen = dataclasses.replace(chosen, from_mirror=False)
                continue
            file = raised.file if isinstance(raised, VerifyFailed) else None
            path = place_of(store, file) if file else None
            if path is None or path in found:
                raise first from None
            found.append(path)
            try:
                chosen = dataclasses.replace(plan(catalog, chosen.point, found), tables=chosen.tables)
            except NotRestorable:
                raise first from None


def plan_newest(store: Store, catalog: Catalog, point: CatalogPoint) -> Plan:
    """As `plan`, for the newest point: the mirror is that state already, where it stands there."""
    stands = False
    with contextlib.suppress(apsw.Error), contextlib.closing(read_mirror(store)) as mirror:
        stands = stands_at(read_state(mirror), point)
    return dataclasses.replace(plan(catalog, point), from_mirror=stands)


def layout_of(store: Store, chosen: Plan) -> Layout | None:
    """The layout that the point has, as far as can be known without unpacking: where it is still the mirror's."""
    with contextlib.suppress(VerifyFailed, apsw.Error), contextlib.closing(read_mirror(store)) as mirror:
        state = read_state(mirror)
        path = find_file(store, chosen.chain[0].path)
        if state and container.read_holds(path, KIND, SnapshotHolds).schema_digest == state.schema_digest:
            return state.layout
    return None


def restore(
    store: Store, catalog: Catalog, chosen: Plan, output: Path, *, force: bool, progress: Progress,
    every_index: bool = False,
) -> Restored:  # fmt: skip
    """Writes the database as it was to `output`, without any object of ours; whole or not at all.

    How far it is checked: `building.finish`.  Raises what `output_file` does where `output` may not be
    written, VerifyFailed where a file is damaged.
    """
    output = output_file(output, force=force, database=True)
    whole, temporary = unfinished(output, "whole"), unfinished(output)

    def attempt(chosen: Plan) -> Restored:
        for path in (whole, temporary):
            remove_database(path)
        base = whole if chosen.tables else temporary
        built = from_mirror(store, chosen, base, progress) or from_archive(
            store, catalog, chosen, base, progress, is_finished=True
        )
        if chosen.tables:
            built = dataclasses.replace(built, layout=copy_tables(whole, temporary, built.layout, chosen.tables))
        progress("checking")
        rows = finish(temporary, built, every_index=every_index)
        said = tuple(complaints(temporary, built.layout))
        left_out = tuple(indexes_left_out(built.layout))
        if chosen.tables:
            return Restored(chosen.point, output, rows, left_out=left_out)
        return Restored(chosen.point, output, rows, built.earlier, built.rebuilt, said, left_out)

    try:
        with container.disk_room(output), full_disk_as_oserror(), reading(store):
            made, damaged = around_damage(store, catalog, chosen, attempt)
        as_before(temporary, output)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if force:
            remove_database(output)
            temporary.replace(output)
        else:
            _rename_to_new(temporary, output)
        container.sync_folder(output.parent)
    finally:
        for path in (whole, temporary):
            remove_database(path)
    return dataclasses.replace(made, damaged=damaged)


def _rename_to_new(temporary: Path, output: Path) -> None:
    """A rename that never replaces: a file that appeared meanwhile wins."""
    try:
        os.link(temporary, output)
    except FileExistsError as error:
        raise UsageError(f"{output} exists already", remedy="give another --output, or --force") from error
    except OSError:
        # Some file systems have no hard links.
        if output.exists():
            raise UsageError(f"{output} exists already", remedy="give another --output, or --force") from None
        temporary.replace(output)
