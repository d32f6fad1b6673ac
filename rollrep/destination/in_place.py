"""Comparing a mirror with the source: what differs is gathered beside the mirror, and put in at once.

    mirror.db, as it stands ──── compared with the source, table by table ────► mirror.changes.db
                                                                                  rows that differ, as log rows
    source's log from the first moment on ──────────────────────────────────────► log rows
                                                                                  │
    mirror.db ◄────────── net replay, one transaction ────────────────────────────┘

Each answer is of one moment, and moments differ: but every change since the first one is in the log that came with
the answers.  A key without a log row had one value all the while, and a key with one ends as its last log rows say.
So all of it, replayed as one window, is the source at the head, and there only: a hole in the history, as behind
every mirror operation.  Rows that were fetched stand before the log, under ids below zero.

Which rows a REPLACE removed unseen can't be told by rows of several moments: the source is asked for the rows whose
last log row is a TOUCHED.  What is logged meanwhile is replayed behind that window, on a mirror of one moment.

Readers keep the old mirror until the one commit, and the mirror is written once, in what changed.  The file beside
it says how far each table is, so an operation that was cut goes on from there.

Of a staging mirror only some tables are compared; the others are whole, and follow by the log.

Knows: the mirror's tables, replay, sweeps, the wire's session.  Does not know: the catalog, lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw
import msgspec

from rollrep.core.clock import monotonic_s
from rollrep.core.nouns import Facts, Op, Position, Shape
from rollrep.destination.container import disk_room, unpack
from rollrep.destination.forgotten_spans import Spans
from rollrep.destination.images import attach_log
from rollrep.destination.leaves import OwnLeaves
from rollrep.destination.mirror_db import (
    State,
    leave_in_wal,
    open_mirror,
    remove_database,
    transaction,
    whole,
    widen_cache,
    write_state,
)
from rollrep.destination.moved import Copied, Moved, Progress
from rollrep.destination.replay import Replay, apply_facts
from rollrep.destination.shadow_pull import ShadowPull
from rollrep.destination.store import Store
from rollrep.destination.sweep import Sweep
from rollrep.destination.touched import OpenTouches
from rollrep.query import all_rows, find_row, one_value
from rollrep.wire.forgotten_ranges import WHOLE, beyond
from rollrep.wire.images import log_table, log_width
from rollrep.wire.messages import Answer, Key, KeyRange
from rollrep.wire.session import SchemaChanged, Session, Tail

RUNG = "digests"
FIRST_ID = -(1 << 60)
"""of the rows that were fetched: below all log rows"""
CACHE_KIB = 16_384


class Reached(msgspec.Struct, frozen=True):
    """How far an operation is; it moves in the transaction of what it is about."""

    mirror: str
    """the file's name"""
    base: Position
    """of the mirror that is compared: what was gathered fits to no other"""
    schema_digest: str
    line: int
    reason: str
    began_after: int
    """where the hole begins"""
    position: Position
    """up to where the log was gathered"""
    schema_version: int | None
    """the source's when the operation began"""
    next_id: int = FIRST_ID
    done: tuple[int, ...] = ()
    """shape ids"""
    doing: int = 0
    after: Key | None = None


def read_reached(store: Store, path: Path, state: State) -> Reached | None:
    """How far an operation on the mirror at `path` is, which `state` describes; None where there is none."""
    found = None
    # It may have died before the file was whole, or be another rollrep's.
    with contextlib.suppress(apsw.SQLError, apsw.NotADBError, apsw.CorruptError, msgspec.DecodeError):
        if store.changes.is_file():
            with contextlib.closing(apsw.Connection(str(store.changes), flags=apsw.SQLITE_OPEN_READWRITE)) as side:
                side.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                row = find_row(side, "SELECT body FROM reached")
            found = msgspec.json.decode(row[0], type=Reached) if row else None
    return found if found and (found.mirror, found.base) == (path.name, state.position) else None


class InPlace:
    """One operation on the mirror at `path` that `state` describes, begun or taken up again."""

    def __init__(self, store: Store, path: Path, state: State, progress: Progress) -> None:
        self._store = store
        self._path = path
        self._state = state
        self._progress = progress
        self._shapes = {shape.id: shape for shape in state.layout.shapes}
        self._compared = frozenset(self._shapes) - frozenset(state.copied)
        self._db: apsw.Connection | None = None
        self._reached: Reached | None = None
        self._sweep: Sweep | None = None
        self._leaves: OwnLeaves | None = None
        self._doing = Moved("", RUNG)
        self.copied = Copied()

    def take_up(self) -> Reached | None:
        """How far an operation is that was cut; None where there is none for this mirror."""
        found = read_reached(self._store, self._path, self._state)
        if found is None or found.schema_digest != self._state.schema_digest:
            self.discard()
            return None
        self._open()
        self._reached = found
        return found

    def begin(self, answer: Answer, line: int, position: Position, after: int) -> None:
        """`position` is where the source's log is followed from, `after` where the hole begins; line 0: a new one."""
        self._begin(line, answer.reason, after, position, answer.facts.schema_version)

    def begin_staged(self) -> None:
        """On a staging mirror, which knows all of that."""
        state = self._state
        self._begin(state.line, state.reason, state.began_after, state.position, state.schema_version)

    def _begin(self, line: int, reason: str, after: int, position: Position, schema_version: int | None) -> None:
        self.discard()
        with disk_room(self._store.changes), contextlib.closing(apsw.Connection(str(self._store.changes))) as side:
            for pragma in (f"encoding = '{self._state.layout.encoding}'", "journal_mode = WAL", "synchronous = NORMAL"):
                side.execute(f"PRAGMA {pragma}").fetchall()
            side.execute(log_table("log", log_width(self._state.layout.shapes)))
            side.execute("CREATE TABLE reached(only_row INTEGER PRIMARY KEY CHECK (only_row = 1), body)")
        self._open()
        name, base, digest = self._path.name, self._state.position, self._state.schema_digest
        self._write(Reached(name, base, digest, line, reason, after, position, schema_version))

    def followed(self) -> State:
        """The state that a source is asked from: what its schema was before was seen to at the beginning."""
        return msgspec.structs.replace(self._state, schema_version=self.reached.schema_version)

    def compare(self, session: Session, spans: Spans | None = None) -> None:
        """Gathers what differs of every table that is not done, looking only within `spans` where they are known.

        Raises SchemaChanged and LogOverrun.
        """
        for shape in self._state.layout.shapes:
            if shape.id not in self._compared or shape.id in self.reached.done:
                continue
            if self.reached.doing != shape.id:
                self._write(msgspec.structs.replace(self.reached, doing=shape.id, after=None))
            began, bytes_before = monotonic_s(), session.bytes_received
            self._doing = Moved(shape.table, RUNG)
            digest, position = self._state.schema_digest, self.reached.position.id
            self._sweep = Sweep(session, self.db, shape, digest, position, self, self._leaves_of(shape))
            self._sweep.run(beyond(WHOLE if spans is None else spans[shape.id], self.reached.after))
            self._doing.bytes, self._doing.seconds = session.bytes_received - bytes_before, monotonic_s() - began
            self.copied.tables.append(self._doing)

    def finish(self, session: Session, answer: Answer, commit: Callable[[Facts], int]) -> State:
        """Gathers the rest of the log, up to a commit of the source, and puts all of it into the mirror.

        `commit` is called inside that transaction, and says which line the mirror is then of.  Raises as the session
        does, and OrderNeeded where a table's removals are not announced and rows of several moments may collide.
        """
        for batch, packed in session.batches(self.reached.position.id, answer.facts.head.id):
            self.take_tail((batch, packed))
        until = answer.facts.head.id
        facts = self._settle_touched(session, until) or answer.facts
        shadows = ShadowPull(self._store, self.db, self._state) if self._state.layout.virtuals else None
        try:
            if shadows:
                seen_at = self.reached.began_after if self.reached.line else 0
                for found in shadows.ask_until_complete(session, self.reached.position.id, seen_at):
                    if found.tail:
                        self.take_tail(found.tail)
                    facts = found.facts or facts
                shadows.attach()
            return self._commit(until, facts, answer, shadows, commit)
        finally:
            if shadows:
                shadows.detach()
                shadows.close()

    def close(self) -> None:
        if self._leaves is not None:
            self._leaves.close()
            self._leaves = None
        if self._db is not None:
            self._db.close()
            self._db = None

    def discard(self) -> None:
        """Forgets what was gathered; the mirror is untouched."""
        self.close()
        remove_database(self._store.changes)

    # what a sweep gives

    def take_tail(self, tail: Tail) -> int:
        """Log rows that follow what was gathered, or overlap with it."""
        assert tail is not None, "there is something to take"
        batch, packed = tail
        known = [shape for shape in batch.shapes if shape.id in self._shapes]
        if len(known) < len(batch.shapes) and not self._state.reason:
            raise SchemaChanged
        attach_log(self.db, unpack(packed, batch.image.raw_bytes), batch.first, batch.last, batch.shapes, name="image")
        reached = self.reached.position.id
        if batch.last > reached:
            columns = ", ".join(["id", "at", "shape", "op", *(f"v{n}" for n in range(log_width(known)))])
            # A staging mirror begins before the schema changed: all that is compared was read after the other shapes.
            shapes = ", ".join(map(str, [0, *(shape.id for shape in known)]))
            with self._gathering():
                self.db.execute(
                    f"INSERT INTO batch.log({columns}) SELECT {columns} FROM image.log"
                    f" WHERE id > ? AND shape IN ({shapes})",
                    (reached,),
                )
                self.copied.operations += self.db.changes()
                position = Position(batch.epoch, batch.last, batch.proof)
                self._write(msgspec.structs.replace(self.reached, position=position))
        return self.reached.position.id

    def take_rows(self, ranges: Sequence[KeyRange]) -> None:
        assert self._sweep is not None, "rows come of a sweep"
        with self._gathering():
            rows = self._sweep.replace(self.reached.doing, ranges, self.reached.next_id)
            next_id = int(one_value(self.db, "SELECT max(id) FROM batch.log WHERE id < 0") or FIRST_ID - 1) + 1
            self._write(msgspec.structs.replace(self.reached, next_id=next_id))
        self._doing.rows += rows

    def settled(self, after: Key | None, rows: int) -> None:
        reached = msgspec.structs.replace(self.reached, after=after)
        if after is None:
            reached = msgspec.structs.replace(reached, doing=0, done=(*reached.done, reached.doing))
        self._write(reached)
        self._progress(self._doing.table, rows)

    # inside

    @property
    def db(self) -> apsw.Connection:
        assert self._db is not None, "the operation has begun"
        return self._db

    @property
    def reached(self) -> Reached:
        assert self._reached is not None, "the operation has begun"
        return self._reached

    def _open(self) -> None:
        self._db = open_mirror(self._path)
        self._db.execute("DETACH batch")
        self._db.execute("ATTACH ? AS batch", (str(self._store.changes),))
        self._db.execute("ATTACH ':memory:' AS image")
        self._db.execute("PRAGMA batch.synchronous = NORMAL").fetchall()
        self._db.execute(f"PRAGMA batch.cache_size = -{CACHE_KIB}").fetchall()

    def _leaves_of(self, shape: Shape) -> OwnLeaves | None:
        """The mirror's leaves, where they can be compared with the source's."""
        self._leaves = self._leaves or OwnLeaves(self.db, self._path, self._state.layout)
        return self._leaves if self._leaves.tell(shape) else None

    @contextlib.contextmanager
    def _gathering(self) -> Iterator[None]:
        """What was gathered and how far the operation is, together."""
        before = self._reached
        try:
            with transaction(self.db):
                yield
        except BaseException:
            self._reached = before
            raise

    def _write(self, reached: Reached) -> None:
        self.db.execute(
            "INSERT OR REPLACE INTO batch.reached(only_row, body) VALUES (1, ?)",
            (msgspec.json.encode(reached).decode(),),
        )
        self._reached = reached

    def _settle_touched(self, session: Session, until: int) -> Facts | None:
        """Asks which rows were removed unseen up to the log id `until`; the facts of the last answer, if one came."""
        facts = None
        query = f"SELECT DISTINCT shape FROM batch.log WHERE op = {Op.TOUCHED:d} AND id BETWEEN 1 AND ?"
        touched = self._compared & {shape for (shape,) in all_rows(self.db, query, (until,))}
        for shape in self._state.layout.shapes:
            # Without PATCHes, as where there is no rowid, a table is replayed in order.
            if shape.id in touched and not shape.without_rowid:
                touches = OpenTouches(self.db, shape, until, self.take_tail)
                facts = touches.settle(session, self.reached.position.id, self._state.schema_digest) or facts
        return facts

    def _commit(
        self, until: int, facts: Facts, answer: Answer, shadows: ShadowPull | None, commit: Callable[[Facts], int]
    ) -> State:
        widen_cache(self.db)
        if self._path == self._store.mirror:
            leave_in_wal(self.db)
        replay = Replay(self.db, self._shapes, compared=self._compared, finished=True)
        with transaction(self.db):
            replay.window(FIRST_ID, until)
            if facts.head.id > until:
                replay.window(until + 1, facts.head.id)
            replay.finish()
            if shadows:
                shadows.put()
            apply_facts(self.db, facts, self._state.layout.shapes)
            state = msgspec.structs.replace(
                whole(self._state, facts), line=commit(facts), database_id=answer.database_id, instance=answer.instance
            )
            write_state(self.db, state)
        return state
