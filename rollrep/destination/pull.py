"""One pull of one job: hello, then resume or mirror, then points and a snapshot when one is due.

    archive ──► replay ──► position ──► points into the catalog ──► snapshot

Each arrow may be the last thing a process does; the next pull goes on from there.  A batch is archived
before it is replayed, rows and position commit together, and what the catalog does not know yet it
learns from the segments.

Knows: archive, mirror, mirroring, snapshots, the wire's session.  Does not know: SSH, configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import apsw
import msgspec

from rollrep import __version__
from rollrep.core.clock import from_iso, monotonic_s, now
from rollrep.core.errors import Temporary
from rollrep.core.nouns import Facts, Point, Position
from rollrep.destination.archive import Archive
from rollrep.destination.bridging import Bridging
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Line, Snapshot
from rollrep.destination.changes import take_next
from rollrep.destination.compaction import compact
from rollrep.destination.container import disk_room
from rollrep.destination.expire import expire, retention_now
from rollrep.destination.gathered import Gathered
from rollrep.destination.ladder import Ladder
from rollrep.destination.mirror_db import (
    State,
    WriteBack,
    moved_to,
    open_mirror,
    refuse_another_source,
    remove_database,
    state_of,
    stood_still,
    transaction,
    write_state,
)
from rollrep.destination.missed import Heard, Missed
from rollrep.destination.moved import Moved, Progress
from rollrep.destination.pace import Pace
from rollrep.destination.recording import (
    begin_line_of_its_own,
    is_snapshot_due,
    keep_where_it_stands,
    record_points,
    was_put_back,
)
from rollrep.destination.remembered import LASTING, MISSED, is_lasting_due, remember
from rollrep.destination.replay import Replay, apply_facts, has_facts
from rollrep.destination.retention import Grid
from rollrep.destination.shadow_step import ShadowStep
from rollrep.destination.store import Store
from rollrep.destination.trash import empty_trash
from rollrep.wire.messages import Answer, Batch, Hello
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

WINDOW_ROWS = 524_288


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a pull is asked for beyond following the source."""

    database: str
    snapshot_s: float = 3600.0
    keep: Grid = dataclasses.field(default_factory=Grid)
    mirror: bool = False
    """mirror again although the position is good"""
    accept_source: bool = False
    """believe that a source of another identity is the right one now"""
    stop_on_history_lost: bool = False
    """mirror a source whose history is another one only where `mirror` says so"""


@dataclasses.dataclass
class Outcome:
    """What a pull did."""

    answer: str = ""
    reason: str = ""
    operations: int = 0
    position: Position | None = None
    time: str = ""
    moved: list[Moved] = dataclasses.field(default_factory=list)
    """what a mirror operation moved, table by table"""
    points: list[CatalogPoint] = dataclasses.field(default_factory=list)
    missed: Missed | None = None
    """points with a label that are not kept"""
    snapshot: Snapshot | None = None
    refused: list[str] = dataclasses.field(default_factory=list)
    virtual_tables: list[str] = dataclasses.field(default_factory=list)
    """those that had changed"""
    healed: list[str] = dataclasses.field(default_factory=list)
    """paths of segments that were damaged and whose rows were fetched again, below the job's folder"""

    @property
    def tables_mirrored(self) -> list[str]:
        return [each.table for each in self.moved]

    @property
    def rows_mirrored(self) -> int:
        return sum(each.rows for each in self.moved)


def pull(
    store: Store, session: Session, wishes: Wishes, progress: Progress, expect: Callable[[int], None] | None = None
) -> Outcome:
    """Brings the mirror up to a commit of the source.  Call it under the store's lock.

    `progress` is told (table, rows) as they arrive, with "" for the log; `expect` about how many are to come.

    Raises core's errors; whatever was archived or committed before one stays, and is gone on from.
    """
    store.require_catalog_of_files()
    store.sweep()
    if wishes.mirror:
        from rollrep.destination.mending import put_mirror_aside  # only who asks for a mirror operation needs it

        put_mirror_aside(store)
    with Catalog(store.catalog, create=True) as catalog:
        empty_trash(store, catalog, now())
        return _Pull(store, catalog, session, wishes, progress, expect).run()


def rows_to_come(answer: Answer, state: State | None, position: Position | None) -> int:
    """About how many: of the tables that are to be mirrored, or of the log.  Pure."""
    if answer.kind != "mirror":
        return answer.facts.head.id - position.id if position else 0
    done: set[int] = set()
    if state and (state.reason or answer.reason == "schema"):
        done = set(state.copied) if state.reason else {shape.id for shape in state.layout.shapes}
    return sum(rows for shape, rows in answer.rows.items() if shape not in done)


class _Pull:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        session: Session,
        wishes: Wishes,
        progress: Progress,
        expect: Callable[[int], None] | None,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._session = session
        self._wishes = wishes
        self._progress = progress
        self._expect = expect
        self._write_back = WriteBack(store.mirror)
        self._ladder = Ladder(
            store, catalog, session, self._hello, Pace(progress), self._write_back, wishes.database,
            requested=wishes.mirror, stop_on_history_lost=wishes.stop_on_history_lost,
        )  # fmt: skip
        self._out = Outcome()
        self._head_point: Point | None = None
        self._heard = Heard(catalog)
        self._oldest = 0
        """of the source's log, when it was asked last"""

    def run(self) -> Outcome:
        with self._write_back:
            return self._run()

    def _run(self) -> Outcome:
        began_s = monotonic_s()
        try:
            state = self._follow()
        finally:
            self._ladder.close()
        self._settle(state, monotonic_s() - began_s)
        return self._out

    def _follow(self) -> State:
        staged = self._ladder.take_up_staged()
        state = state_of(self._store.mirror)
        if state and was_put_back(self._catalog, state):
            state = begin_line_of_its_own(self._store, self._catalog, state)
        if staged:
            answer = self._hello(staged, self._ladder.reached_staged(staged))
            if answer.kind != "mirror" or answer.reason == "schema":
                self._out.answer, self._out.reason = "mirror", staged.reason
                return self._mirror(answer, state, staged)
            self._ladder.discard()
        if state and (taken_up := self._ladder.take_up_in_place(state)):
            followed, reached = taken_up
            answer = self._hello(followed, reached.position, again=True)
            if answer.kind != "mirror":
                self._out.answer, self._out.reason = "mirror", reached.reason
                return self._mirror(answer, state, None)
            self._ladder.discard()
        position = self._archive.end(state.position, state.line) if state else None
        answer = self._hello(state, position)
        self._out.answer, self._out.reason = answer.kind, answer.reason
        if state and (answer.kind != "up_to_date" or state.layout.virtuals):
            keep_where_it_stands(self._store, self._catalog, self._archive, state)
        if state and (bridged := self._bridge(state, answer)):
            return bridged
        if answer.kind == "mirror":
            return self._mirror(answer, state, None)
        assert state is not None and position is not None, "only a position is resumed from"
        try:
            return self._resume(state, position, answer)
        except (LogOverrun, SchemaChanged) as moved:
            return self._overrun(state, moved)

    def _overrun(self, state: State, moved: Exception) -> State:
        """The log or the schema changed while it was read: what was archived stays, tables are mirrored."""
        answer = self._hello(state, self._archive.end(state.position, state.line))
        if answer.kind != "mirror":
            what = "the schema changed" if isinstance(moved, SchemaChanged) else "the log rolled over"
            raise Temporary(f"{what} while it was read", remedy="nothing was lost; pull again")
        self._out.answer, self._out.reason = answer.kind, answer.reason
        return self._bridge(state, answer) or self._mirror(answer, state, None)

    def _bridge(self, state: State, answer: Answer) -> State | None:
        """Over what the log has forgotten by its forgotten keys; None where that is not the way."""
        # Who asks for a mirror operation does not trust the rows there are, as after "mirror again" in an error.
        if answer.reason != "pruned" or answer.layout is not None or self._wishes.mirror:
            return None
        hello = lambda position: self._hello(state, position, again=True)  # noqa: E731
        bridging = Bridging(self._store, self._catalog, self._archive, self._session, hello, self._write_back)
        bridged = bridging.bridge(state)
        if bridged is None:
            return None
        self._out.answer, self._out.reason, self._out.operations = "mirror", "pruned", bridged.operations
        self._out.moved = bridged.tables
        self._head_point = bridged.point
        return bridged.state

    def _hello(self, state: State | None, position: Position | None, *, again: bool = False) -> Answer:
        answer = self._session.hello(
            Hello(
                version=__version__,
                database=self._wishes.database,
                position=position,
                schema_digest=state.schema_digest if state else None,
                schema_version=state.schema_version if state else None,
                mirror_requested=self._wishes.mirror and not again and not (state and state.reason),
                tell_lasting=is_lasting_due(self._catalog),
                tell_rows=self._expect is not None,
                tell_labels_after=self._heard.after,
            )
        )
        if answer.layout is None and (state is None or answer.schema_digest != state.schema_digest):
            # An answer to another hello, on a line that doubles what it carries.
            raise Temporary("the source did not say what its tables are", remedy="nothing was lost; pull again")
        if self._expect:
            self._expect(rows_to_come(answer, state, position))
        if answer.lasting:
            remember(self._catalog, LASTING, msgspec.to_builtins(answer.lasting))
        if state and not self._wishes.accept_source:
            refuse_another_source(state, answer.database_id, answer.instance, self._store.job)
        self._head_point, self._oldest = answer.facts.point, answer.oldest
        self._heard.hear(answer.labels)
        if answer.layout:
            self._out.refused = [f"{each.name}: {each.reason}" for each in answer.layout.refused]
        return answer

    # resume

    def _resume(self, state: State, archived: Position, answer: Answer) -> State:
        facts = answer.facts
        with contextlib.closing(open_mirror(self._store.mirror)) as mirror, disk_room(self._store.mirror):
            shadows = ShadowStep(self._store, self._catalog, mirror, state)
            try:
                if shadows.looks or facts.head.id > state.position.id:
                    facts = self._gather(mirror, state, archived, answer, shadows)
                if facts.head.id > state.position.id or shadows.changes:
                    self._commit_replay(mirror, state, facts, shadows)
                elif stood_still(state, facts) != state or not has_facts(mirror, facts, state.layout.shapes):
                    with transaction(mirror):
                        apply_facts(mirror, facts, state.layout.shapes)
                        write_state(mirror, stood_still(state, facts))
            except apsw.FullError as error:
                raise OSError(28, str(error)) from error
            finally:
                remove_database(self._store.incoming)
                shadows.close()
        shadows.settle(facts.head.id)
        return moved_to(state, facts)

    def _gather(
        self, mirror: apsw.Connection, state: State, archived: Position, answer: Answer, shadows: ShadowStep
    ) -> Facts:
        """Archives what the source sends, and leaves every row to replay in `batch.log` of `mirror`.

        A single image stays where it is, in memory.  Several are put into one file beside the mirror,
        because a database can't be exchanged inside the one transaction that replays them all.  Returns the
        facts at the end of it: those of the answer, or of the moment at which shadow tables were looked at.
        """
        line = Line(state.line, state.position.epoch)
        after, head = state.position.id, answer.facts.head.id
        gathered = Gathered(self._store.incoming)

        def take(batch: Batch, packed: bytes, facts: Facts | None) -> None:
            self._progress("", batch.last - batch.first + 1)
            holds = self._archive.add(mirror, line, batch, packed, facts)
            gathered.add(mirror, holds.shapes, last=batch.last == head and not shadows.looks)

        try:
            for holds in self._archive.attached(mirror, line.line, after, archived.id):
                gathered.add(mirror, holds.shapes, last=holds.last == head and not shadows.looks)
            for batch, packed in self._session.batches(archived.id, head):
                take(batch, packed, answer.facts if batch.last == head else None)
                del packed  # before the next one arrives
            facts = shadows.gather(self._session, answer.facts, take)
        except BaseException:
            gathered.close()
            raise
        self._head_point = facts.point
        gathered.attach(mirror)
        return facts

    def _commit_replay(self, mirror: apsw.Connection, state: State, facts: Facts, shadows: ShadowStep) -> None:
        head = facts.head
        self._out.virtual_tables = shadows.archive(head.id)
        replay = Replay(mirror, {shape.id: shape for shape in state.layout.shapes}, finished=True)
        with transaction(mirror):
            for first in range(state.position.id + 1, head.id + 1, WINDOW_ROWS):
                self._out.operations += replay.window(first, min(head.id, first + WINDOW_ROWS - 1))
            replay.finish()
            shadows.put()
            apply_facts(mirror, facts, state.layout.shapes)
            write_state(mirror, moved_to(state, facts))

    # mirror

    def _mirror(self, answer: Answer, state: State | None, staged: State | None) -> State:
        done = self._ladder.mirror(answer, state, staged)
        self._out.moved, self._out.operations = self._ladder.copied.tables, self._ladder.copied.operations
        self._head_point = self._ladder.point
        return done

    # afterwards

    def _settle(self, state: State, seconds: float) -> None:
        """The catalog learns what the mirror has; a snapshot is taken when one is due."""
        if self._catalog.damaged():
            from rollrep.destination.healing import heal  # seldom needed

            self._out.healed = heal(self._store, self._catalog, self._session, state, self._oldest)
        head = self._head_point
        if head is None or head.id != state.position.id or head.schema_changed:
            head = Point(state.position.id, state.time, "pull", None)
        recorded = record_points(self._catalog, self._archive, state, [head])
        self._out.points = recorded.points
        self._out.missed = self._heard.missed(state, recorded.passed_over, self._out.reason)
        if self._out.missed:
            remember(self._catalog, MISSED, self._out.missed.as_json())
        self._out.position, self._out.time = state.position, state.time
        self._catalog.confirm(state.time)
        if is_snapshot_due(self._catalog, self._archive, state, self._wishes.snapshot_s):
            self._out.snapshot = take_next(self._store, self._catalog, self._head_point)
        expire(self._store, self._catalog, self._wishes.keep, retention_now(from_iso(state.time)))
        compact(self._store, self._catalog)
        if self._out.answer == "mirror":
            self._catalog.note(
                "mirror",
                reason=self._out.reason,
                tables=[dataclasses.asdict(each) for each in self._out.moved],
                head=state.position.id,
                seconds=round(seconds, 3),
                bytes_received=self._session.bytes_received,
                mirror_bytes=self._store.mirror.stat().st_size,
            )
