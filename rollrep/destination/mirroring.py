"""The mirror operation: the source's tables, chunk by chunk, into a mirror of their own, then published.

    begin ──► for each table: [log tail + chunk of rows, or digests] in one transaction, position inside
          ──► the log's rest up to a commit of the source ──► publish

Each chunk is read at the source in one transaction with the log up to that moment, so it has an exact
position and writers go on.  While it lasts, every table copied so far is at that position for the keys
copied, and what the log says of later keys is applied too: the staging mirror is always a subset of the
source as of its position.  Every step drains the log, so the log that is chased can't be fallen off while
the connection holds; after an interruption it goes on where it was.

Where the layout is as it was, the mirror is compared in place; where that is not the way, the staging mirror begins
as a copy of the mirror, and what has rows of a table already is compared in place there, once all others are copied.

Readers keep the old mirror until the new one is whole.  Tail rows are replayed in order, because a chunk's
tail may end between a TOUCHED row and the row it announces.  A PATCH of a row that is not copied yet finds nothing,
so it can't remove the row that it replaced at the source: after a PATCH of UNIQUE values a table is compared, too.

Knows: replay, the mirror's state, the wire's session.  Does not know: SSH, the catalog, policies.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.clock import monotonic_s
from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.core.nouns import Facts, Layout, Op, Position, Shape
from rollrep.destination import container
from rollrep.destination.container import unpack
from rollrep.destination.images import attach_log, attach_rows
from rollrep.destination.mirror_db import (
    State,
    open_mirror,
    read_state,
    remove_database,
    transaction,
    whole,
    write_state,
)
from rollrep.destination.moved import Copied, Moved, Progress
from rollrep.destination.net import moved_bits
from rollrep.destination.pages import count_rows, receive
from rollrep.destination.replay import Replay, apply_facts
from rollrep.destination.schema import evolve
from rollrep.destination.shadow_pull import Answered, ShadowPull
from rollrep.destination.snapshots import copy_database
from rollrep.destination.store import TEMPORARY, Store
from rollrep.query import find_row
from rollrep.wire.messages import Answer, Batch, Chunk, SendChunk
from rollrep.wire.session import Session

SHADOW_BYTES = 64 << 20
"""what is copied of shadow tables at a time; a copy that is under way need not be of one moment, its end is"""


class Mirroring:
    """One mirror operation, begun or taken up again; its state is in the staging database."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self.copied = Copied()
        self._db: apsw.Connection | None = None

    def take_up(self) -> State | None:
        """The state of an operation that was interrupted, or None."""
        if not self._store.staging.is_file():
            return None
        try:
            self._db = open_mirror(self._store.staging)
            state = read_state(self._db)
        except (apsw.NotADBError, apsw.CorruptError):
            state = None
        if state is None:
            self.discard()
        return state

    def discard(self) -> None:
        """Drops the staging mirror; the old mirror is untouched."""
        self.close()
        remove_database(self._store.staging)

    def _stage(self, synced: Path) -> None:
        """Gives a whole database, whose bytes are on the disk, the staging mirror's name."""
        synced.replace(self._store.staging)
        container.sync_folder(synced.parent)

    def begin(self, answer: Answer, layout_before: State | None, line: int, position: Position, after: int) -> State:
        """Makes the staging mirror: empty, or for a change of schema a copy of the mirror.

        `position` is where its tables begin to be chased from, `after` where the hole begins.
        """
        layout = answer.layout or (layout_before.layout if layout_before else None)
        assert layout is not None, "a source sends its layout whenever the destination has none"
        self.discard()
        # What a table was is likely to be most of what it is: only what differs is fetched.
        partly = layout_before is not None and (answer.reason == "schema" or _fits(layout_before.layout, layout))
        if partly:
            # The copy says of itself that it is whole. By its name it may be taken up, so it has that only when it is.
            copy = self._store.staging.with_name(self._store.staging.name + TEMPORARY)
            with contextlib.closing(open_mirror(self._store.mirror)) as mirror:
                copy_database(mirror, copy)
            container.sync_file(copy)
            self._stage(copy)
        self._db = open_mirror(self._store.staging, layout=None if partly else layout)
        old = layout_before.layout if partly and layout_before else None
        followed = {shape.id for shape in old.shapes} if old and answer.reason == "schema" else set()
        with transaction(self._db):
            to_copy = {shape.id for shape in evolve(self._db, old, layout, keep=True)}
            there = [
                shape.id
                for shape in layout.shapes
                if partly and shape.id not in to_copy and (shape.touches_logged or shape.id in followed)
            ]
            state = State(
                line=line,
                position=position,
                time=answer.facts.time,
                layout=layout,
                schema_digest=answer.schema_digest,
                schema_version=answer.facts.schema_version,
                database_id=answer.database_id,
                instance=answer.instance,
                copied=tuple(each for each in there if each in followed),
                reason=answer.reason,
                began_after=after,
                to_compare=tuple(each for each in there if each not in followed),
            )
            write_state(self._db, state)
        return state

    def fetch_pages(self, session: Session, state: State, rows: int) -> State:
        """Makes the empty staging mirror the source's whole database by its pages, where that is the way.

        `rows` are about how many it has, for who watches.  Raises SchemaChanged; the staging mirror is then as it was.
        """
        began = monotonic_s()
        layout, path = state.layout, self._store.pages
        try:
            facts = receive(
                session,
                path,
                layout,
                state.schema_digest,
                lambda share: self._progress("all tables", int(rows * share)),
            )
            if facts is None:
                return state
            self.discard()
            self._stage(path)
        finally:
            remove_database(path)
        self._db = open_mirror(self._store.staging, layout=layout)
        copied = tuple(shape.id for shape in layout.shapes)
        state = msgspec.structs.replace(state, position=facts.head, time=facts.time, copied=copied)
        with transaction(self.db):
            write_state(self.db, state)
        seconds = monotonic_s() - began
        self.copied.tables = [
            Moved(shape.table, "pages", count_rows(self.db, shape.table), None, seconds) for shape in layout.shapes
        ]
        return state

    def change_schema(self, state: State, answer: Answer) -> State:
        """Goes on under another schema: only the tables concerned start again."""
        assert answer.layout is not None
        with transaction(self.db):
            to_copy = {shape.id for shape in evolve(self.db, state.layout, answer.layout)}
            now_known = {shape.id for shape in answer.layout.shapes}
            unfinished = {shape.id for shape in state.layout.shapes} - set(state.copied)
            copied = tuple(sorted(now_known - to_copy - unfinished))
            state = msgspec.structs.replace(
                state,
                layout=answer.layout,
                schema_digest=answer.schema_digest,
                schema_version=answer.facts.schema_version,
                copied=copied,
                copying=state.copying if state.copying in now_known - to_copy else 0,
                to_compare=tuple(each for each in state.to_compare if each in now_known),
            )
            write_state(self.db, state)
        return state

    def reached(self) -> State:
        """The state as it was committed last."""
        state = read_state(self.db)
        assert state is not None, "the operation has begun"
        return state

    def copy_tables(self, session: Session, state: State) -> State:
        """Copies every table that is neither copied yet nor to be compared.

        Raises SchemaChanged and LogOverrun as the session does; what is copied stays copied.
        """
        for shape in state.layout.shapes:
            if shape.id not in state.copied and shape.id not in state.to_compare:
                state = self._copy_table(session, state, shape)
        return state

    def replay_rest(self, session: Session, state: State, answer: Answer) -> tuple[State, Facts]:
        """Replays the log up to a commit of the source, and brings the shadow tables to that moment.

        Returns the facts then: those of the answer, or later ones.  Raises as the session does.
        """
        for batch, packed in session.batches(state.position.id, answer.facts.head.id):
            self._attach_tail(batch, packed)
            with transaction(self.db):
                state = self._replay_tail(state, batch)
                write_state(self.db, state)
        if not state.layout.virtuals:
            return state, answer.facts
        shadows = ShadowPull(self._store, self.db, state)
        try:
            while True:
                seen_at = state.began_after if state.line else 0
                found = shadows.ask(session, state.position.id, seen_at, most_bytes=SHADOW_BYTES)
                state = self._apply_shadows(state, shadows, found)
                if found.facts and found.complete:
                    return state, found.facts
        finally:
            shadows.close()

    def finish(self, state: State, facts: Facts, instance: str) -> State:
        """The mirror is whole, as of `facts.head`."""
        with transaction(self.db):
            apply_facts(self.db, facts, state.layout.shapes)
            state = msgspec.structs.replace(whole(state, facts), instance=instance)
            write_state(self.db, state)
        return state

    def publish(self) -> None:
        """Makes the staging mirror the mirror: in one transaction of mirror.db, so that readers with open
        connections see the old state or the new one.  Repeating it changes nothing."""
        state = read_state(self.db)
        assert state is not None and not state.reason, "only a whole mirror is published"
        mirror = self._store.mirror
        if not mirror.is_file():
            self.db.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchall()
            self.close()
            self._store.staging.replace(mirror)
            container.sync_folder(mirror.parent)
            remove_database(self._store.staging)
            return
        with container.disk_room(mirror), contextlib.closing(open_mirror(mirror)) as target:
            if target.pragma("page_size") != self.db.pragma("page_size"):
                # A WAL database can't change its page size; the new file takes the name instead.
                target.close()
                remove_database(mirror)
                self.publish()
                return
            # The catalog knows of a new line already: a loss of power must not take the mirror back to the old one.
            target.execute("PRAGMA main.synchronous = FULL")
            with target.backup("main", self.db, "main") as backup:
                backup.step(-1)
            target.execute("PRAGMA main.wal_checkpoint(PASSIVE)").fetchall()
        self.discard()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def db(self) -> apsw.Connection:
        assert self._db is not None, "the operation has begun"
        return self._db

    def _copy_table(self, session: Session, state: State, shape: Shape) -> State:
        if state.copying != shape.id:
            state = msgspec.structs.replace(state, copying=shape.id, after_key=None, unsure=False)
            with transaction(self.db):
                self.db.execute(f"DELETE FROM main.{sql.name(shape.table)}")
                write_state(self.db, state)
        moved, began = Moved(shape.table, "copy"), monotonic_s()
        ask = SendChunk(shape.id, state.after_key, state.position.id, state.schema_digest)
        session.ask_chunk(ask)
        while True:
            tail, chunk = session.read_chunk(state.position.id)
            complete = chunk is not None and chunk[0].complete
            if chunk and not complete and chunk[0].last_key in (None, state.after_key):
                raise VerifyFailed(f"the source says that there is more of table {shape.table}, and sends nothing")
            if not complete:
                # Asked before this one is applied, so that the source reads while we write.
                reached = chunk[0].facts.head.id if chunk else tail[0].last if tail else state.position.id
                key = chunk[0].last_key if chunk else state.after_key
                session.ask_chunk(SendChunk(shape.id, key, reached, state.schema_digest))
            state = self._apply(state, shape, tail, chunk)
            if chunk:
                moved.rows, moved.bytes = moved.rows + chunk[0].rows, (moved.bytes or 0) + len(chunk[1])
            if complete:
                moved.seconds = monotonic_s() - began
                self.copied.tables.append(moved)
                return state

    def _copied(self, state: State, shape: Shape) -> State:
        done = msgspec.structs.replace(state, copying=0, after_key=None, unsure=False)
        if state.unsure and not shape.touches_logged:
            # Today's triggers log such a table's UPDATEs as whole rows.
            raise RollrepError(
                f"rows of table {shape.table} changed meanwhile, and its log does not tell which were replaced",
                remedy="on the source's machine, bring its triggers up to date: rollrep source install DATABASE",
            )
        if state.unsure:
            return msgspec.structs.replace(done, to_compare=(*state.to_compare, shape.id))
        return msgspec.structs.replace(done, copied=(*state.copied, shape.id))

    def _apply(
        self, state: State, shape: Shape, tail: tuple[Batch, bytes] | None, chunk: tuple[Chunk, bytes] | None
    ) -> State:
        if tail:
            self._attach_tail(*tail)
        if chunk:
            attach_rows(self.db, unpack(chunk[1], chunk[0].image.raw_bytes), shape)
        with transaction(self.db):
            if tail:
                state = self._replay_tail(state, tail[0])
            if chunk:
                said = chunk[0]
                values = ", ".join(f"v{n}" for n in range(shape.width))
                self.db.execute(
                    f"INSERT OR REPLACE INTO main.{sql.name(shape.table)}({sql.names(shape.columns)})"
                    f" SELECT {values} FROM chunk.rows ORDER BY rowid"
                )
                state = msgspec.structs.replace(
                    state, position=said.facts.head, time=said.facts.time, after_key=said.last_key
                )
                if said.complete:
                    state = self._copied(state, shape)
            write_state(self.db, state)
        if chunk:
            self._progress(shape.table, chunk[0].rows)
        return state

    def _apply_shadows(self, state: State, shadows: ShadowPull, found: Answered) -> State:
        if found.tail:
            self._attach_tail(*found.tail)
        shadows.attach()
        try:
            with transaction(self.db):
                if found.tail:
                    state = self._replay_tail(state, found.tail[0])
                shadows.put()
                write_state(self.db, state)
        finally:
            shadows.detach()
        return state

    def _attach_tail(self, batch: Batch, packed: bytes) -> None:
        attach_log(self.db, unpack(packed, batch.image.raw_bytes), batch.first, batch.last, batch.shapes)

    def _replay_tail(self, state: State, batch: Batch) -> State:
        started = {shape.id: shape for shape in state.layout.shapes if shape.id in (*state.copied, state.copying)}
        replay = Replay(self.db, started, in_order=True, ignore_unknown=True)
        self.copied.operations += replay.window(batch.first, batch.last)
        logged = [shape for shape in batch.shapes if shape.id == state.copying]
        unsure = state.unsure or any(map(self._patches_unique, logged))
        return msgspec.structs.replace(state, position=Position(batch.epoch, batch.last, batch.proof), unsure=unsure)

    def _patches_unique(self, shape: Shape) -> bool:
        """Whether the log in `batch` changes values of a UNIQUE index."""
        query = f"SELECT 1 FROM batch.log WHERE shape = ? AND op = {Op.PATCH:d} AND v{shape.width} & ? LIMIT 1"
        return find_row(self.db, query, (shape.id, moved_bits(shape))) is not None


def _fits(before: Layout, now: Layout) -> bool:
    """Whether a file of the one may become one of the other."""
    return (before.encoding, before.page_size, before.auto_vacuum) == (now.encoding, now.page_size, now.auto_vacuum)
