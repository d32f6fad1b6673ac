"""The history of one row: every version that snapshots and archive know of, oldest first.

    line 1   snapshot ── log rows ── log rows ─┐ hole ┌─ snapshot ── log rows ──► mirror
                 │           │                 │      │      │           │           │
             first version   PUT PATCH DELETE  (not known)   version     ...       must agree

Within a stretch, from a snapshot to where its log rows end, every operation is known, and the versions are folded
from them as replay does.  What lies between stretches is unknown and said to be.  Each line has a history of its own.

A TOUCHED row says that the statement behind it may have removed this one, unseen.  Whether it did is tried: the rows
that were put there next are put beside this one in a table with the same UNIQUE indexes.

Knows: the archive, snapshots, rows.  Does not know: the wire, the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.clock import iso
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.core.literals import shown
from rollrep.core.nouns import Layout, Op, Shape
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.chains import chain_of
from rollrep.destination.changes import unpack_snapshot
from rollrep.destination.keys import KeyIndex
from rollrep.destination.mirror_db import read_state
from rollrep.destination.row_log import RowLog
from rollrep.destination.rows import Key, Row, find_key, named_tokens, opened, read_row
from rollrep.destination.store import Store
from rollrep.destination.stretches import DAMAGED, LET_GO, Stretch, Window, stretches

MOST_LOOKED_AT = 1_000
"""rows behind a TOUCHED that are tried; the one that replaces follows in the same statement"""


@dataclasses.dataclass(frozen=True)
class Version:
    """`what`: found (in a snapshot), inserted, updated, deleted, replaced (another row took its unique value),
    hole (operations from here on are not known), or differs (the mirror has another row than the log leads to)."""

    what: str
    line: int
    id: int
    time: str | None
    row: Row | None
    changed: tuple[str, ...] = ()
    detail: str = ""
    encoding: str = "UTF-8"
    """the database's, in which its texts are"""


KeyOf = Callable[[Layout, Shape, apsw.Connection], Key | None]
"""the key that is meant in a state with this layout; None where the table's key is another there"""


def key_meant(store: Store, table: str, words: Sequence[str]) -> tuple[KeyOf, Layout | None]:
    """What a person's words mean in each state, and the layout of the mirror.

    Values of other columns than the key's mean the one row that has them in the mirror.  Raises UsageError.
    """

    def by_words(layout: Layout, shape: Shape, _db: apsw.Connection) -> Key | None:
        tokens = named_tokens(layout, shape, words)
        return tuple(tokens[name] for name in shape.key) if set(tokens) == set(shape.key) else None

    if not store.mirror.is_file():
        return by_words, None  # only imported points are there
    with contextlib.closing(apsw.Connection(str(store.mirror), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.set_busy_timeout(10_000)
        db.execute("BEGIN")
        state = read_state(db)
        layout = state.layout if state else None
        shape = shape_named(layout, table) if layout else None
        if layout is None or shape is None:
            return by_words, layout
        tokens = named_tokens(layout, shape, words)
        if set(tokens) == set(shape.key):
            return by_words, layout
        found, names = find_key(db, shape, tokens), shape.key
    if found is None:
        keys = ", ".join(names)
        raise UsageError(
            f"no row of {table} is so in the newest state",
            remedy=f"find its key in an older one: rollrep query JOB --at ... 'SELECT {keys} FROM {table} ...'",
        )
    return (lambda _layout, other, _db: found if other.key == names else None), layout


class RowHistory:
    """The history of one row of `table`: the one whose key is `key_of` each state that a stretch begins with."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        table: str,
        key_of: KeyOf,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._table = table
        self._key_of = key_of
        self._progress = progress
        self._encoding = "UTF-8"

    def versions(self, window: Window) -> Iterator[Version]:
        """Every version, holes among them.  Raises VerifyFailed where a file is damaged."""
        self._index = KeyIndex(self._store.keys)
        with contextlib.closing(self._index):
            for line, segments in itertools.groupby(self._catalog.segments(), lambda each: each.line):
                self._index.forget_before(line, next(segments).first)
            for version in self._versions(window):
                yield dataclasses.replace(version, encoding=self._encoding)

    def _versions(self, window: Window) -> Iterator[Version]:
        for stretch in stretches(self._catalog, window):
            if stretch.hole is not None:
                hole = stretch.hole
                seen = "is not kept any more" if hole.reason in (LET_GO, DAMAGED) else "was never seen"
                detail = f"{hole.reason}: what happened between log ids {hole.after} and {hole.until} {seen}"
                yield Version("hole", stretch.snapshot.line, hole.after, None, None, (), detail)
            with tempfile.TemporaryDirectory(prefix="rollrep-") as folder:
                path = Path(folder) / "snapshot.db"
                unpack_snapshot(self._store, chain_of(stretch.snapshot, self._catalog.snapshots()), path)
                with opened(path) as db:
                    yield from self._in_window(stretch, db, window)

    def _in_window(self, stretch: Stretch, base: apsw.Connection, window: Window) -> Iterator[Version]:
        """The versions of a stretch; those before the window are one, the row as it was where it begins."""
        last: Version | None = None
        line = stretch.snapshot.line
        for version in self._of_stretch(stretch, base):
            if window.until and (line, version.id) > window.until:
                break
            if window.since and (line, version.id) <= window.since:
                last = version
                continue
            if last is not None:
                yield last
                last = None
            yield version
        if last is not None:
            yield last

    def _of_stretch(self, stretch: Stretch, base: apsw.Connection) -> Iterator[Version]:
        state = read_state(base)
        snapshot = stretch.snapshot
        if state is None or state.position.id != snapshot.id:
            raise VerifyFailed(f"{snapshot.path} holds another state than its name says")
        self._encoding = state.layout.encoding
        shape = shape_named(state.layout, self._table)
        if shape is None:
            detail = f"there was no table {self._table}"
            yield Version("found", snapshot.line, snapshot.id, iso(snapshot.time), None, (), detail)
            return
        key = self._key_of(state.layout, shape, base)
        if key is None:
            detail = f"the key of {shape.table} was {', '.join(shape.key)}, so this row is not to be found"
            yield Version("found", snapshot.line, snapshot.id, iso(snapshot.time), None, (), detail)
            return
        row = read_row(base, shape, key)
        changed = tuple(row or ())
        yield Version("found", snapshot.line, snapshot.id, iso(snapshot.time), row, changed)
        reader = RowLog(self._archive, self._index, state.layout, shape, key, self._progress)
        with contextlib.closing(reader):
            fold = _Fold(reader, stretch, row, base)
            yield from fold.versions()
            row = fold.row
        yield from self._check_end(stretch, shape, key, row)

    def _check_end(self, stretch: Stretch, shape: Shape, key: Key, row: Row | None) -> Iterator[Version]:
        """The mirror, where it stands at the end of the stretch, has the same row."""
        flags = apsw.SQLITE_OPEN_READWRITE
        with (
            contextlib.suppress(apsw.CantOpenError),
            contextlib.closing(apsw.Connection(str(self._store.mirror), flags=flags)) as db,
        ):
            db.set_busy_timeout(10_000)
            db.execute("BEGIN")
            state = read_state(db)
            if (
                state is None
                or state.reason
                or (state.line, state.position.id)
                != (
                    stretch.snapshot.line,
                    stretch.end,
                )
            ):
                return
            there = read_row(db, shape, key)
            if there != row:
                detail = "the mirror has this row, and the log does not lead to it; see: rollrep verify"
                changed = changed_columns(row, there)
                yield Version("differs", state.line, state.position.id, state.time, there, changed, detail)


def shape_named(layout: Layout, table: str) -> Shape | None:
    return next((each for each in layout.shapes if sql.fold(each.table) == sql.fold(table)), None)


def changed_columns(before: Row | None, after: Row | None) -> tuple[str, ...]:
    """The columns whose values are not exactly the same; all of them where there was no row."""
    if before is None or after is None:
        return tuple(after or ())
    return tuple(column for column in after if after[column] != before.get(column))


class _Fold:
    """One stretch, from operation to operation."""

    def __init__(self, reader: RowLog, stretch: Stretch, row: Row | None, base: apsw.Connection) -> None:
        self._reader = reader
        self._stretch = stretch
        self._base = base
        self.row = row

    def versions(self) -> Iterator[Version]:
        reader, line = self._reader, self._stretch.snapshot.line
        events = reader.events(self._stretch.segments, self._stretch.snapshot.id)
        if self.row is not None and not reader.shape.touches_logged:
            yield from self._unless_replaced(self._stretch.snapshot.id, events[0].id if events else None)
        for number, event in enumerate(events):
            following = events[number + 1] if number + 1 < len(events) else None
            if event.op == Op.TOUCHED:
                ends = next((each for each in events[number + 1 :] if each.op != Op.TOUCHED), None)
                # A PATCH is only ever logged of a row that is there.
                if self.row is not None and (ends is None or ends.op != Op.PATCH):
                    yield from self._unless_replaced(event.id, following.id if following else None)
                continue
            before = self.row
            if event.op == Op.DELETE:
                self.row = None
            elif event.op == Op.PUT:
                self.row = event.values
            elif self.row is None:
                raise VerifyFailed(f"log row {event.id} changes a row that was not there")
            else:
                self.row = {**self.row, **event.values}
            if self.row != before:
                what = "deleted" if self.row is None else "inserted" if before is None else "updated"
                yield Version(what, line, event.id, event.time, self.row, changed_columns(before, self.row))
            if self.row is not None and not reader.shape.touches_logged:
                yield from self._unless_replaced(event.id, following.id if following else None)

    def _unless_replaced(self, after: int, before: int | None) -> Iterator[Version]:
        """The end of the row, if one that was put between two log ids took a value of it that must be unique."""
        assert self.row is not None
        reader = self._reader
        most = MOST_LOOKED_AT if reader.shape.touches_logged else None
        for other in reader.others(self._stretch.segments, after, before, most):
            whole: Row | None = other.values
            if other.op == Op.PATCH:
                may_collide = reader.may_collide(self.row, other)
                whole = reader.patched(self._stretch, self._base, other) if may_collide else None
            if whole is not None and reader.scratch.is_replaced(reader.key, self.row, whole):
                self.row = None
                other_key = (f"{name}={shown(whole[name], reader.encoding)}" for name in reader.shape.key)
                taken = f"by the row with {', '.join(other_key)}"
                yield Version("replaced", self._stretch.snapshot.line, other.id, other.time, None, (), taken)
                return
