"""What people said of a snapshot: its labels, and whether it is pinned.

    snapshots/<…>.snapshot      never changed once it is written
    snapshots/<…>.note          {"labels": ["before the move"], "pinned": "2026-11-22T19:08:01.123Z"}

A pinned snapshot is never let go of.  The note is a file of its own so that the catalog stays an index that can
be made again.  One that can't be read counts as a pin: what is in doubt is kept.

Knows: the two files.  Does not know: retention, SQL.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from rollrep.destination import container
from rollrep.destination.catalog_rows import Snapshot
from rollrep.destination.store import TEMPORARY, Store

ENDING = ".note"


class Note(msgspec.Struct, frozen=True):
    labels: tuple[str, ...] = ()
    pinned: str | None = None
    """since when, by the destination's clock"""


UNREADABLE = Note((), "its note can't be read")


def note_path(snapshot_path: str) -> str:
    """Where the note of a snapshot lies, relative to the job's folder.

    >>> note_path("snapshots/20261122T190801.123Z-1-17.snapshot")
    'snapshots/20261122T190801.123Z-1-17.note'
    >>> note_path("snapshots/20261122T190801.123Z-1-17-9.change")  # which may get another base, and keeps its note
    'snapshots/20261122T190801.123Z-1-17.note'
    """
    path = Path(snapshot_path)
    return str(path.with_name(path.stem.rpartition("-")[0] if path.suffix == ".change" else path.stem)) + ENDING


def read_note(store: Store, snapshot: Snapshot) -> Note:
    """What was said of a snapshot; nothing where there is no note, UNREADABLE where it is damaged."""
    try:
        return msgspec.json.decode((store.folder / note_path(snapshot.path)).read_bytes(), type=Note)
    except FileNotFoundError:
        return Note()
    except (OSError, msgspec.DecodeError):
        return UNREADABLE


def write_note(store: Store, snapshot: Snapshot, note: Note) -> None:
    """Remembers `note`, also through a loss of power; an empty one is removed."""
    path = store.folder / note_path(snapshot.path)
    temporary = path.with_name(path.name + TEMPORARY)
    with container.disk_room(path):
        if note == Note():
            path.unlink(missing_ok=True)
        else:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(note) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        container.sync_folder(path.parent)


def pinned_paths(store: Store, snapshots: list[Snapshot]) -> frozenset[str]:
    """The paths of those that are pinned."""
    return frozenset(each.path for each in snapshots if read_note(store, each).pinned)
