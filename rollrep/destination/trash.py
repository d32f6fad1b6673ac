"""Trash: what retention lets go of lies here for a while, and nothing goes while somebody reads.

    archive/1/…-….segment ──► trash/<when>/archive/1/…-….segment ──► gone, GRACE later, or when the disk is short
    reading.lock              shared by every restore, exclusive while files are moved or removed; never waited for

A restore that was planned before a file was let go of finds it here; one that runs keeps all where it is.  The
lock is the kernel's and ends with its holder, so a killed restore holds nothing back.  A file comes here before the
catalog forgets it, so who died in between left one that is still needed: it goes back to its place, never away.

Knows: files and locks, which files the catalog names.  Does not know: why something goes, SQL.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollrep.destination.container import sync_folder
from rollrep.destination.notes import note_path
from rollrep.destination.store import Store

if TYPE_CHECKING:
    from rollrep.destination.catalog import Catalog

GRACE = dt.timedelta(hours=24)
_STAMP = "%Y%m%dT%H%M%SZ"


@contextlib.contextmanager
def reading(store: Store) -> Iterator[None]:
    """No file of the archive and no snapshot moves while inside.  Any number of processes may be."""
    held = _open(store)
    try:
        if held is not None:
            fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        if held is not None:
            os.close(held)


@contextlib.contextmanager
def nobody_reads(store: Store) -> Iterator[bool]:
    """Whether nobody is `reading`; if so, nobody begins to while inside."""
    held = _open(store)
    try:
        free = True
        if held is not None:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
        yield free
    finally:
        if held is not None:
            os.close(held)


def find_file(store: Store, relative: str) -> Path:
    """Where a file of the catalog lies: in its place, or else in the trash; its place where it is in neither."""
    path = store.folder / relative
    if not path.exists():
        thrown = sorted(store.trash.glob(f"*/{relative}"))
        if thrown:
            return thrown[-1]
    return path


def place_of(store: Store, path: Path) -> str | None:
    """What `find_file` found `path` by; None where it is no file of the job's folder."""
    for folder in (*store.trash.glob("*"), store.folder):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    return None


def throw_away(store: Store, relative: str, now: dt.datetime) -> None:
    """Moves a file to the trash, where it is not there already.  Call it where `nobody_reads`."""
    path = store.folder / relative
    if not path.exists():
        return
    target = store.trash / now.astimezone(dt.UTC).strftime(_STAMP) / relative
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.replace(target)
    sync_folder(target.parent)
    sync_folder(path.parent)


def take_back(store: Store, relative: str) -> None:
    """Moves a file back to its place, where it lies in the trash.  Call it under the job's lock."""
    found, path = find_file(store, relative), store.folder / relative
    if found != path:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        found.replace(path)
        sync_folder(path.parent)


def empty_trash(store: Store, catalog: Catalog, now: dt.datetime) -> int:
    """Removes what has lain in the trash for GRACE, or all of it when the disk is short; the bytes that are free now.

    What the catalog still names goes back to its place.  Nothing goes while somebody reads.  Call it under the
    job's lock.
    """
    if not store.trash.is_dir():
        return 0
    freed = 0
    with nobody_reads(store) as free:
        for folder in sorted(store.trash.iterdir()) if free else ():
            if is_due(folder, now) or is_disk_short(store):
                _put_back(store, folder, catalog.paths())
                freed += trash_bytes(folder)
                shutil.rmtree(folder)
    return freed


def _put_back(store: Store, folder: Path, named: Collection[str]) -> None:
    for path in [each for each in folder.rglob("*") if each.is_file()]:
        relative = str(path.relative_to(folder))
        # Of two that were thrown away, readers are given the later one.
        if relative in named and find_file(store, relative) == path:
            # A note that was thrown away without its snapshot is of one that had the same name.
            if (folder / note_path(relative)).exists():
                take_back(store, note_path(relative))
            take_back(store, relative)


def trash_bytes(folder: Path) -> int:
    """The bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_due(folder: Path, now: dt.datetime) -> bool:
    """Whether the grace of one day's trash is over.  What is no folder of ours never is.

    >>> is_due(Path("trash/20261122T190801Z"), dt.datetime(2026, 11, 23, 19, 8, 1, tzinfo=dt.UTC))
    True
    >>> is_due(Path("trash/20261122T190801Z"), dt.datetime(2026, 11, 23, 19, 8, 0, tzinfo=dt.UTC))
    False
    """
    try:
        thrown = dt.datetime.strptime(folder.name, _STAMP).replace(tzinfo=dt.UTC)
    except ValueError:
        return False
    return now - thrown >= GRACE


def is_disk_short(store: Store) -> bool:
    """Whether there is no room for what a pull may have to write: another mirror, and a snapshot of it."""
    needed = 2 * store.mirror.stat().st_size if store.mirror.is_file() else 0
    return shutil.disk_usage(store.folder).free < needed


def _open(store: Store) -> int | None:
    """None where the folder can't be written: then nobody removes anything from it either."""
    try:
        return os.open(store.reading, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
