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

import apsw
import msgspec

from rollrep import __version__
from rollrep.core.clock import from_iso, monotonic_s, now
from rollrep.core.errors import MirrorNeeded, Temporary
from rollrep.core.nouns import Facts, Point, Position
from rollrep.destination.archive import Archive
from rollrep.destination.bridging import Bridging
from rollrep.destination.catalog import Catalog, CatalogPoint, Hole, Line, Snapshot
from rollrep.destination.changes import take_next
from rollrep.destination.container import disk_room
from rollrep.destination.expire import expire
from rollrep.destination.gathered import Gathered
from rollrep.destination.history_lost import OLD_LINE_ENDS, refuse_another_history
from rollrep.destination.mirror_db import State, open_mirror, refuse_another_source, state_of, write_state
from rollrep.destination.mirroring import Mirroring, Moved, Progress, remove_database, transaction
from rollrep.destination.recording import is_snapshot_due, record_points
from rollrep.destination.remembered import LASTING, is_lasting_due, remember
from rollrep.destination.replay import Replay, apply_facts, has_facts
from rollrep.destination.retention import Grid
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.shadow_step import ShadowStep
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.destination.trash import empty_trash
from rollrep.wire.messages import Answer, Batch, Hello
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

MOST_RESTARTS = 8
"""how often one pull begins its mirror operation anew before it says that it can't keep up"""
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
    snapshot: Snapshot | None = None
    refused: list[str] = dataclasses.field(default_factory=list)
    virtual_tables: list[str] = dataclasses.field(default_factory=list)
    """those that had changed"""

    @property
    def tables_mirrored(self) -> list[str]:
        return [each.table for each in self.moved]

    @property
    def rows_mirrored(self) -> int:
        return sum(each.rows for each in self.moved)


def pull(store: Store, session: Session, wishes: Wishes, progress: Progress) -> Outcome:
    """Brings the mirror up to a commit of the source.  Call it under the store's lock.

    Raises core's errors; whatever was archived or committed before one stays, and is gone on from.
    """
    store.require_catalog_of_files()
    store.sweep()
    empty_trash(store, now())
    with Catalog(store.catalog, create=True) as catalog:
        return _Pull(store, catalog, session, wishes, progress).run()


class _Pull:
    def __init__(self, store: Store, catalog: Catalog, session: Session, wishes: Wishes, progress: Progress) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._seen = ShadowArchive(store, catalog)
        self._session = session
        self._wishes = wishes
        self._mirroring = Mirroring(store, progress)
        self._out = Outcome()
        self._head_point: Point | None = None

    def run(self) -> Outcome:
        began_s = monotonic_s()
        try:
            state = self._follow()
        finally:
            self._mirroring.close()
        self._settle(state, monotonic_s() - began_s)
        return self._out

    def _follow(self) -> State:
        staged = self._mirroring.take_up()
        if staged and not staged.reason:
            # It was whole when the process died: only the publishing may be missing.
            self._mirroring.publish()
            staged = None
        state = state_of(self._store.mirror)
        if staged:
            answer = self._hello(staged, staged.position)
            if answer.kind != "mirror" or answer.reason == "schema":
                self._out.answer, self._out.reason = "mirror", staged.reason
                return self._mirror(answer, state, staged)
            self._mirroring.discard()
        position = self._archive.end(state.position, state.line) if state else None
        answer = self._hello(state, position)
        self._out.answer, self._out.reason = answer.kind, answer.reason
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
        if answer.reason != "pruned" or answer.layout is not None:
            return None
        hello = lambda position: self._hello(state, position, again=True)  # noqa: E731
        bridged = Bridging(self._store, self._catalog, self._archive, self._session, hello).bridge(state)
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
                mirror_requested=self._wishes.mirror and not again and not (state and state.reason),
                tell_lasting=is_lasting_due(self._catalog),
            )
        )
        if answer.lasting:
            remember(self._catalog, LASTING, msgspec.to_builtins(answer.lasting))
        if state and not self._wishes.accept_source:
            refuse_another_source(state, answer.database_id, answer.instance, self._store.job)
        self._head_point = answer.facts.point
        if answer.layout:
            self._out.refused = [f"{each.table}: {each.reason}" for each in answer.layout.refused]
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
                elif state.virtual_as_of is not None or not has_facts(mirror, facts, state.layout.shapes):
                    with transaction(mirror):
                        apply_facts(mirror, facts, state.layout.shapes)
                        write_state(mirror, msgspec.structs.replace(state, virtual_as_of=None))
            except apsw.FullError as error:
                raise OSError(28, str(error)) from error
            finally:
                remove_database(self._store.incoming)
                shadows.close()
        shadows.settle(facts.head.id)
        return msgspec.structs.replace(state, position=facts.head, time=facts.time, virtual_as_of=None)

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
            holds = self._archive.add(mirror, line, batch, packed, facts)
            gathered.add(mirror, holds.shapes, last=batch.last == head and not shadows.looks)

        try:
            for holds in self._archive.attached(mirror, line.line, after, archived.id):
                gathered.add(mirror, holds.shapes, last=holds.last == head and not shadows.looks)
            for batch, packed in self._session.batches(archived.id, head):
                take(batch, packed, answer.facts if batch.last == head else None)
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
            write_state(mirror, msgspec.structs.replace(state, position=head, time=facts.time, virtual_as_of=None))

    # mirror

    def _mirror(self, answer: Answer, state: State | None, staged: State | None) -> State:
        for _ in range(MOST_RESTARTS):
            try:
                done = self._mirror_once(answer, state, staged)
            except LogOverrun:
                self._mirroring.discard()
                staged = None
                position = self._archive.end(state.position, state.line) if state else None
                answer = self._hello(state, position, again=True)
                if answer.kind != "mirror":
                    answer = msgspec.structs.replace(answer, kind="mirror", reason="requested")
                continue
            copied = self._mirroring.copied
            self._out.moved, self._out.operations = copied.tables, copied.operations
            return done
        raise MirrorNeeded(
            f"{self._store.job} can't be mirrored: its source writes faster than it can be copied",
            remedy="give the log more room: rollrep source install DB --keep-rows N --keep-bytes SIZE",
        )

    def _mirror_once(self, answer: Answer, state: State | None, staged: State | None) -> State:
        if staged is None:
            self._keep_old_line(state, answer)
            self._archive_old_schema(state, answer)
            staged = self._mirroring.begin(answer, state, *self._where_it_begins(answer, state))
            if answer.reason == "schema" and state:
                staged = self._replay_archived(state, staged)
        elif answer.reason == "schema":
            staged = self._mirroring.change_schema(staged, answer)
        while True:
            try:
                staged = self._mirroring.copy_tables(self._session, staged)
                last = self._hello(staged, staged.position, again=True)
                if last.kind != "mirror":
                    return self._publish(staged, last)
                if last.reason != "schema":
                    raise LogOverrun(last.oldest)
            except SchemaChanged:
                staged = self._mirroring.reached()
                last = self._hello(staged, staged.position, again=True)
                if last.kind == "mirror" and last.reason != "schema":
                    raise LogOverrun(last.oldest) from None
            if last.kind == "mirror":
                staged = self._mirroring.change_schema(staged, last)

    def _where_it_begins(self, answer: Answer, state: State | None) -> tuple[int, Position, int]:
        """(line, position to chase the log from, last log id before the hole)."""
        head = answer.facts.head
        if state is None or answer.reason in OLD_LINE_ENDS or answer.database_id != state.database_id:
            newest = self._catalog.newest_line()
            archived = self._catalog.archived_through(newest.line) if newest else 0
            if state is None and newest and newest.epoch == head.epoch and archived < head.id:
                return newest.line, head, archived
            return 0, head, head.id
        after = self._archive.end(state.position, state.line).id
        if answer.reason == "requested" and head.id == after:
            # Rows may become what no logged operation made of them, and no gap in the archive would say so.
            return 0, head, head.id
        return state.line, state.position if answer.reason == "schema" else head, after

    def _keep_old_line(self, state: State | None, answer: Answer) -> None:
        """The mirror may be the only copy of what the source has lost: a snapshot of it comes first."""
        if state is None:
            return
        if self._wishes.stop_on_history_lost and not self._wishes.mirror:
            refuse_another_history(answer)
        if answer.reason in OLD_LINE_ENDS or answer.database_id != state.database_id:
            record_points(self._catalog, self._archive, state, [])
            take_snapshot(self._store, self._catalog)

    def _archive_old_schema(self, state: State | None, answer: Answer) -> None:
        """What was logged before the schema changed is archived first: points before the change stay exact."""
        if state is None or answer.reason != "schema" or answer.layout is None:
            return
        archived = self._archive.end(state.position, state.line)
        before_change = min(answer.layout.since - 1, answer.facts.head.id)
        if before_change <= archived.id:
            return
        line = Line(state.line, state.position.epoch)
        with contextlib.closing(open_mirror(self._store.mirror)) as mirror:
            for batch, packed in self._session.batches(archived.id, before_change):
                self._archive.add(mirror, line, batch, packed, None)

    def _replay_archived(self, state: State, staged: State) -> State:
        """A changed schema begins from what was archived under the old one."""
        old = {shape.id: shape for shape in state.layout.shapes if shape.id in staged.copied}
        db = self._mirroring.db
        replay = Replay(db, old, in_order=True, ignore_unknown=True)
        for segment in self._catalog.segments_after(state.line, state.position.id):
            holds = self._archive.attach(db, segment)
            with transaction(db):
                replay.window(max(holds.first, staged.position.id + 1), holds.last)
                staged = msgspec.structs.replace(staged, position=Position(holds.epoch, holds.last, holds.proof))
                write_state(db, staged)
        return staged

    def _publish(self, staged: State, last: Answer) -> State:
        staged, facts = self._mirroring.replay_rest(self._session, staged, last)
        self._head_point = facts.point
        if staged.line == 0:
            line = self._catalog.begin_line(facts.head.epoch, staged.reason)
            staged = msgspec.structs.replace(staged, line=line.line)
        elif facts.head.id > staged.began_after:
            self._catalog.add_hole(Hole(staged.line, staged.began_after, facts.head.id, staged.reason))
        done = self._mirroring.finish(staged, facts, last.instance)
        self._mirroring.publish()
        self._seen.drop_beyond(done.line, staged.began_after)
        self._seen.begin(done.line, done.position.id, done.layout.virtuals)
        return done

    # afterwards

    def _settle(self, state: State, seconds: float) -> None:
        """The catalog learns what the mirror has; a snapshot is taken when one is due."""
        head = self._head_point
        if head is None or head.id != state.position.id or head.schema_changed:
            head = Point(state.position.id, state.time, "pull", None)
        self._out.points = record_points(self._catalog, self._archive, state, [head])
        self._out.position, self._out.time = state.position, state.time
        self._catalog.confirm(state.time)
        if is_snapshot_due(self._catalog, self._archive, state, self._wishes.snapshot_s):
            self._out.snapshot = take_next(self._store, self._catalog)
        expire(self._store, self._catalog, self._wishes.keep, from_iso(state.time))
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
