"""Virtual tables in a restored database: the newest state seen at or before the point, or better.

    exact        the point lies where that state is known to have lasted
    rebuilt      an index over a content table (FTS5 and FTS4 with `content=`): made anew from that table as it
                 was at the point, if at the state seen it was just what its content table gives
    earlier      everything else that changed between two pulls: as of the state seen, and said

Knows: the shadow archive, how FTS and R*Tree check themselves.  Does not know: what replays the log.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.nouns import Layout, Virtual
from rollrep.destination.catalog import Catalog
from rollrep.destination.mirror_db import transaction
from rollrep.destination.shadow_archive import Earlier, ShadowArchive
from rollrep.destination.shadows import attach_change, detach_change, put_change
from rollrep.destination.store import TEMPORARY, Store

FULL_TEXT = ("fts3", "fts4", "fts5")
TREES = ("rtree", "rtree_i32")


class ShadowRestore:
    """The virtual tables of one database being restored, from a snapshot at `base` to `log_id`."""

    def __init__(self, store: Store, catalog: Catalog, line: int, base: int, log_id: int, layout: Layout) -> None:
        self._archive = ShadowArchive(store, catalog)
        self._layout = layout
        self._changes = self._archive.changes(line, base, log_id)
        self._earlier = {each.table: each for each in self._archive.earlier(line, log_id)}
        self._seen_at = max([base, *(each.as_of for each in self._earlier.values())])
        self._in_sync: list[Virtual] = []
        self._is_put = False
        self.rebuilt: tuple[str, ...] = ()

    @property
    def earlier(self) -> tuple[Earlier, ...]:
        """The tables that are of an earlier state, after `finish`."""
        return tuple(self._earlier.values())

    def stops(self, after: int, last: int) -> list[int]:
        """Where the replay from `after` to `last` must pause to call `reached`, `last` included."""
        return [self._seen_at, last] if self._earlier and after < self._seen_at < last else [last]

    def reached(self, db: apsw.Connection, log_id: int, scratch: Path) -> None:
        """The ordinary tables are as of `log_id`; where the state seen is of then, they are compared with it."""
        if not self._earlier or self._is_put or log_id < self._seen_at:
            return
        self._put(db, scratch)
        candidates = [each for each in self._layout.virtuals if each.name in self._earlier and _has_outer_content(each)]
        self._in_sync = [each for each in candidates if not _complaint(db, each, with_content=True)]

    def finish(self, db: apsw.Connection, scratch: Path) -> None:
        """Brings the virtual tables as near to the point as can be; the ordinary ones are there."""
        if not self._is_put:
            self._put(db, scratch)
        self.rebuilt = tuple(each.name for each in self._in_sync if _rebuild(db, each))
        for name in self.rebuilt:
            del self._earlier[name]

    def _put(self, db: apsw.Connection, scratch: Path) -> None:
        self._is_put = True
        for seen in self._changes:
            try:
                change = self._archive.unpack(seen, scratch)
                attach_change(db, change)
                with transaction(db):
                    put_change(db, change)
                detach_change(db)
            finally:
                scratch.unlink(missing_ok=True)


def scratch_beside(path: Path) -> Path:
    """Where a change is unpacked while `path` is being made."""
    return path.with_name(f"{path.name}.shadows{TEMPORARY}")


def complaints(path: Path, layout: Layout) -> list[str]:
    """What the modules themselves say against virtual tables, a sentence each; those not known here say nothing."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        found = [(each.name, _complaint(db, each, with_content=False)) for each in layout.virtuals]
    return [f"the virtual table {name} does not pass its own check: {said}" for name, said in found if said]


def _complaint(db: apsw.Connection, virtual: Virtual, *, with_content: bool) -> str:
    """Why a virtual table is not sound, or `with_content` not what its content table gives; empty where it is."""
    name, module = sql.name(virtual.name), sql.fold(virtual.module)
    try:
        if module == "fts5" and with_content:
            db.execute(f"INSERT INTO main.{name}({name}, rank) VALUES ('integrity-check', 1)")
        elif module in FULL_TEXT and (with_content or not _has_outer_content(virtual)):
            db.execute(f"INSERT INTO main.{name}({name}) VALUES ('integrity-check')")
        elif module in TREES:
            said = db.execute("SELECT rtreecheck('main', ?)", (virtual.name,)).fetchone()
            return "" if said in (None, ("ok",)) else str(said[0])
    except apsw.SQLError as error:
        # A tokenizer that only the application has: nothing can be said.
        return str(error) if with_content else ""
    except apsw.Error as error:
        return str(error)
    return ""


def _rebuild(db: apsw.Connection, virtual: Virtual) -> bool:
    """Makes the index anew from its content table; false where it has none at all."""
    name = sql.name(virtual.name)
    try:
        with transaction(db):
            db.execute(f"INSERT INTO main.{name}({name}) VALUES ('rebuild')")
    except apsw.SQLError:
        return False
    return True


def _has_outer_content(virtual: Virtual) -> bool:
    """Whether a full-text index keeps no content of its own; FTS tells when there is none at all."""
    content = sql.fold(f"{virtual.name}_content")
    return sql.fold(virtual.module) in FULL_TEXT and all(
        sql.fold(shadow.table) != content for shadow in virtual.shadows
    )
