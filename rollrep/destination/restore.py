"""Restoring a point: the nearest snapshot before it, and the archive's tail up to it.

    plan     which snapshot and which segments lead there, or why none do
    run      into a temporary file beside the output, checked, then renamed

The newest state needs neither: where the mirror stands at the point, it is copied.

Knows: catalog, archive, snapshots, replay, the mirror.  Does not know: the wire, the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import apsw

from rollrep.core.clock import iso
from rollrep.core.errors import NotRestorable, UsageError
from rollrep.core.nouns import SchemaObject
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
from rollrep.destination.partial import copy_tables
from rollrep.destination.schema import indexes_left_out
from rollrep.destination.shadow_archive import Earlier
from rollrep.destination.shadow_restore import complaints
from rollrep.destination.snapshots import full_disk_as_oserror
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import reading


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


def plan(catalog: Catalog, point: CatalogPoint) -> Plan:
    """The nearest snapshot before `point`, and the segments that lead from it to the point.

    Raises NotRestorable where none do: then no earlier snapshot does either, because there is a hole.
    """
    before = [each for each in catalog.snapshots() if each.line == point.line and each.id <= point.id]
    if before and before[-1].id == point.id:
        return Plan(point, chain_of(before[-1], catalog.snapshots()), ())
    if before:
        segments = catalog.segments_after(point.line, before[-1].id)
        needed = tuple(segment for segment in segments if segment.first <= point.id)
        if needed and needed[-1].last >= point.id:
            return Plan(point, chain_of(before[-1], catalog.snapshots()), needed)
    raise NotRestorable(
        f"point {point.point} of {iso(point.time)} can't be restored: no snapshot and archive lead to it",
        remedy="see which points can be: rollrep points JOB",
    )


def plan_newest(store: Store, catalog: Catalog, point: CatalogPoint) -> Plan:
    """As `plan`, for the newest point: the mirror is that state already, where it stands there."""
    stands = False
    with contextlib.suppress(apsw.Error), contextlib.closing(read_mirror(store)) as mirror:
        stands = stands_at(read_state(mirror), point)
    return dataclasses.replace(plan(catalog, point), from_mirror=stands)


def restore(
    store: Store, catalog: Catalog, chosen: Plan, output: Path, *, force: bool, progress: Progress,
    every_index: bool = False,
) -> Restored:  # fmt: skip
    """Writes the database as it was to `output`, without any object of ours; whole or not at all.

    How far it is checked: `building.finish`.  Raises UsageError where `output` exists and `force` is not set,
    VerifyFailed where a file is damaged.
    """
    check_output(output, force=force)
    whole = output.with_name(f".{output.name}.whole{TEMPORARY}")
    temporary = output.with_name(f".{output.name}{TEMPORARY}")
    try:
        for path in (whole, temporary):
            remove_database(path)
        base = whole if chosen.tables else temporary
        with container.disk_room(output), full_disk_as_oserror(), reading(store):
            built = from_mirror(store, chosen, base, progress) or from_archive(
                store, catalog, chosen, base, progress, is_finished=True
            )
            if chosen.tables:
                built = dataclasses.replace(built, layout=copy_tables(whole, temporary, built.layout, chosen.tables))
            progress("checking")
            rows = finish(temporary, built, every_index=every_index)
            said = tuple(complaints(temporary, built.layout))
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
    left_out = tuple(indexes_left_out(built.layout))
    if chosen.tables:
        return Restored(chosen.point, output, rows, left_out=left_out)
    return Restored(chosen.point, output, rows, built.earlier, built.rebuilt, said, left_out)


def check_output(output: Path, *, force: bool) -> None:
    """Raises UsageError where nothing may or can be written at `output`."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder", remedy="give the path of the file to write with --output")
    if output.exists() and not force:
        raise UsageError(
            f"{output} exists already",
            remedy="give another --output, or --force to replace it (nothing was written)",
        )
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise UsageError(f"{output.parent} is no folder that can be written", remedy="give another --output")


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
