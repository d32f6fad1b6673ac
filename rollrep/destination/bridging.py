"""Bridging: a pull over what the log has forgotten, by the rows behind the forgotten keys.

    position ─────────────────── the log begins ─────────── head
            │ each key once, with   │ log rows
            │ its row as of now     │
            └──────────── replayed and committed as one ──────────────► mirror is the source at head

The rows that stand for forgotten ones are log rows themselves: a PUT or a DELETE of each key.  A row read early
and one read late may be of different moments; the log rows that follow put that right at the head, and there only.
So all of it is one window of net replay, the way from the last row that is archived to the head is a hole in the
history, and a snapshot follows, as behind every mirror operation.  Where a table would have to be replayed in order (a
REPLACE removed rows unseen), bridging is given up: in order, rows of different moments may collide.

Knows: archive, replay, the catalog, the wire's session.  Does not know: SSH, other rungs of the ladder.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import apsw

from rollrep.core.clock import monotonic_s
from rollrep.core.nouns import Facts, Point, Position
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Hole, Line
from rollrep.destination.container import disk_room, unpack
from rollrep.destination.gathered import Gathered
from rollrep.destination.images import at_ms_of, attach_log
from rollrep.destination.mirror_db import (
    State,
    WriteBack,
    leave_in_wal,
    moved_to,
    open_mirror,
    remove_database,
    transaction,
    widen_cache,
    write_state,
)
from rollrep.destination.moved import Moved
from rollrep.destination.replay import OrderNeeded, Replay, apply_facts
from rollrep.destination.shadow_step import ShadowStep
from rollrep.destination.store import Store
from rollrep.query import all_rows
from rollrep.wire.messages import Answer, Batch, SendForgotten
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

RUNG = "forgotten keys"
MOST_ROUNDS = 100
"""how often the log may roll over the end of what was fetched"""

Hello = Callable[[Position], Answer]
"""says hello again from a position"""


@dataclasses.dataclass
class Bridged:
    """What a bridge moved."""

    state: State
    point: Point | None
    """the one that stands at the head, if one does"""
    operations: int
    tables: list[Moved]


class Bridging:
    """One attempt to bridge from `state`; what it archives stays good if it is given up."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        archive: Archive,
        session: Session,
        hello: Hello,
        write_back: WriteBack,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = archive
        self._session = session
        self._hello = hello
        self._write_back = write_back
        self._rows: dict[int, int] = {}
        self._gap_after: int | None = None

    def bridge(self, state: State) -> Bridged | None:
        """Brings the mirror to a head of the source; None where the forgotten keys don't reach back so far."""
        began = monotonic_s()
        with contextlib.closing(open_mirror(self._store.mirror)) as mirror, disk_room(self._store.mirror):
            gathered = Gathered(self._store.incoming)
            shadows = ShadowStep(self._store, self._catalog, mirror, state)
            line = Line(state.line, state.position.epoch)

            def take(batch: Batch, packed: bytes, facts: Facts | None) -> None:
                gathered.add(mirror, self._archive.add(mirror, line, batch, packed, facts).shapes, last=False)

            try:
                answer = self._gather(mirror, state, gathered)
                if answer is None:
                    return None
                facts = shadows.gather(self._session, answer.facts, take)
                gathered.attach(mirror)
                new, operations = self._commit(mirror, state, facts, shadows)
                self._write_back.begin()
            except (SchemaChanged, LogOverrun, OrderNeeded):
                return None
            except apsw.FullError as error:
                raise OSError(28, str(error)) from error
            finally:
                shadows.close()
                gathered.close()
                remove_database(self._store.incoming)
        shadows.settle(new.position.id)
        seconds = monotonic_s() - began
        tables = {shape.id: shape.table for shape in state.layout.shapes}
        moved = [Moved(tables[shape], RUNG, rows, None, seconds) for shape, rows in self._rows.items()]
        return Bridged(new, facts.point, operations, moved)

    def _gather(self, mirror: apsw.Connection, state: State, gathered: Gathered) -> Answer | None:
        """Archives and gathers all from the mirror's position to a head, which it gives."""
        line = Line(state.line, state.position.epoch)
        position = state.position
        for segment in self._catalog.segments_after(line.line, position.id):
            holds = self._archive.attach(mirror, segment)
            position = Position(holds.epoch, holds.last, holds.proof, at_ms_of(mirror, holds.last))
            gathered.add(mirror, holds.shapes, last=False)
        for _ in range(MOST_ROUNDS):
            answer = self._hello(position)
            if answer.kind == "mirror":
                found = self._fetch(mirror, state, position, gathered) if answer.reason == "pruned" else None
                if found is None:
                    return None
                position, answer = found, self._hello(found)
            if answer.facts.head.epoch != position.epoch or answer.layout is not None:
                return None
            try:
                for batch, packed in self._session.batches(position.id, answer.facts.head.id):
                    is_last = batch.last == answer.facts.head.id
                    holds = self._archive.add(mirror, line, batch, packed, answer.facts if is_last else None)
                    position = Position(batch.epoch, batch.last, batch.proof, at_ms_of(mirror, batch.last))
                    gathered.add(mirror, holds.shapes, last=False)
            except LogOverrun:
                continue
            return answer
        return None

    def _fetch(self, mirror: apsw.Connection, state: State, position: Position, gathered: Gathered) -> Position | None:
        """Fetches the rows behind forgotten keys from `position` on; where the log itself goes on."""
        while True:
            if position.at_ms is None:
                return None
            found = self._session.forgotten(SendForgotten(position.id, position.at_ms, state.schema_digest))
            if found is None or found[0].epoch != position.epoch:
                return None
            said, packed = found
            if said.last > position.id:
                raw = unpack(packed, said.image.raw_bytes)
                attach_log(mirror, raw, position.id + 1, said.last, said.shapes, sparse=True)
                if self._gap_after is None:
                    self._gap_after = position.id
                for shape, rows in all_rows(mirror, "SELECT shape, count(*) FROM batch.log GROUP BY shape"):
                    self._rows[shape] = self._rows.get(shape, 0) + rows
                gathered.add(mirror, said.shapes, last=False)
            position = Position(said.epoch, said.last, "", said.at_ms)
            if said.is_last:
                return position

    def _commit(self, mirror: apsw.Connection, state: State, facts: Facts, shadows: ShadowStep) -> tuple[State, int]:
        head = facts.head
        new = moved_to(state, facts)
        shadows.archive(head.id)
        widen_cache(mirror)
        leave_in_wal(mirror)
        replay = Replay(mirror, {shape.id: shape for shape in state.layout.shapes}, net_only=True, finished=True)
        with transaction(mirror):
            operations = replay.window(state.position.id + 1, head.id)
            replay.finish()
            shadows.put()
            apply_facts(mirror, facts, state.layout.shapes)
            write_state(mirror, new)
            if self._gap_after is not None:
                # Before the commit: the mirror never stands behind a hole that the catalog does not know.
                self._catalog.add_hole(Hole(state.line, self._gap_after, head.id, "pruned"))
        return new, operations
