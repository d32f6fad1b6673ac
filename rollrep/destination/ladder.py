"""The ladder of a mirror operation: which rung it takes, and what the catalog learns of it.

    layout as it was        compared in place; where removals are not announced, in a staging mirror
    another layout          a staging mirror: tables that are new or another are copied; those whose capture was
                            interrupted, or all that the log does not lead to, compared there; the others kept
    no mirror               a staging mirror: all tables are copied

Where the source's history is another one, the old line is kept first, by a snapshot; where the schema changed, what
was logged before.  Afterwards the catalog has a hole, or a line of its own begins.

Knows: the operations, the archive, the catalog.  Does not know: resuming, snapshots that are due.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import apsw
import msgspec

from rollrep.core.errors import RollrepError, SchemaProblem, Temporary, VerifyFailed
from rollrep.core.nouns import Facts, Point, Position
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Hole, Line
from rollrep.destination.forgotten_spans import Spans, forgotten_spans
from rollrep.destination.history_lost import OLD_LINE_ENDS, refuse_another_history
from rollrep.destination.in_place import InPlace, Reached, read_reached
from rollrep.destination.lost_mirror import end_of_newest_line
from rollrep.destination.mirror_db import State, WriteBack, open_mirror, state_of, transaction, write_state
from rollrep.destination.mirroring import Mirroring
from rollrep.destination.moved import Copied
from rollrep.destination.pace import Pace
from rollrep.destination.recording import record_archived, record_points
from rollrep.destination.remembered import known_lasting
from rollrep.destination.replay import OrderNeeded, Replay
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.wire.messages import Answer
from rollrep.wire.session import LogOverrun, SchemaChanged, Session

DO_NOT_FIT = (apsw.ConstraintError, apsw.MismatchError, apsw.SQLError, apsw.CorruptError)
"""what SQLite says of rows that can't be where they are put; not of a disk or of a lock"""
MOST_CHANGES = 100
"""how often the schema may change while tables are copied: a migration changes it statement by statement"""
MOST_RESTARTS = 8
"""how often one pull begins its mirror operation anew before it says that it can't keep up"""


class SayHello(Protocol):
    def __call__(self, state: State | None, position: Position | None, *, again: bool = False) -> Answer: ...


class Ladder:
    """The mirror operation of one pull."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        session: Session,
        hello: SayHello,
        pace: Pace,
        write_back: WriteBack,
        database: str,
        *,
        requested: bool,
        stop_on_history_lost: bool,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._seen = ShadowArchive(store, catalog)
        self._session = session
        self._hello = hello
        self._pace = pace
        self._write_back = write_back
        self._database = database
        self._requested = requested
        self._stop_on_history_lost = stop_on_history_lost
        self._mirroring = Mirroring(store, pace.count)
        self._in_place: InPlace | None = None
        self.copied = Copied()
        self.point: Point | None = None
        """the one that stands where the mirror is then, if one does"""

    def take_up_staged(self) -> State | None:
        """The state of an operation that was cut.  One that was whole is published."""
        staged = self._mirroring.take_up()
        if staged and not staged.reason:
            mirror = state_of(self._store.mirror)
            if mirror and mirror.line == staged.line and mirror.position.id > staged.position.id:
                # It was published, and a loss of power took it back to the copy that it began with.
                self._mirroring.discard()
                return None
            # It was whole when the process died: only the publishing may be missing.
            self._mirroring.publish()
            return None
        if staged and staged.position.id < staged.began_after:
            # It is not yet where the archive ends, and only from there does the source tell whether it was put back.
            self._mirroring.discard()
            return None
        return staged

    def reached_staged(self, staged: State) -> Position:
        """Up to where the source's log came of an operation that was cut."""
        reached = read_reached(self._store, self._store.staging, staged)
        return reached.position if reached else staged.position

    def take_up_in_place(self, state: State) -> tuple[State, Reached] | None:
        """(the state to ask the source from, how far it is) of an operation on this mirror that was cut."""
        operation = InPlace(self._store, self._store.mirror, state, self._pace.count)
        reached = operation.take_up()
        if reached is None:
            return None
        self._in_place = operation
        return operation.followed(), reached

    def discard(self) -> None:
        """Forgets what was under way; the mirror is untouched."""
        self._mirroring.discard()
        if self._in_place:
            self._in_place.discard()
            self._in_place = None

    def close(self) -> None:
        self._mirroring.close()
        if self._in_place:
            self._in_place.close()

    def mirror(self, answer: Answer, state: State | None, staged: State | None) -> State:
        """Mirrors again from `answer`; `staged` is what was taken up.

        Raises CannotKeepUp where the source writes faster than it can be copied.
        """
        try:
            return self._mirror(answer, state, staged)
        except (RollrepError, *DO_NOT_FIT) as error:
            # What does not fit may be what was gathered: taken up again, it would end in the same way for ever.
            if type(error) in (RollrepError, VerifyFailed, SchemaProblem, *DO_NOT_FIT):
                self.discard()
            raise

    def _mirror(self, answer: Answer, state: State | None, staged: State | None) -> State:
        in_place = state is not None and staged is None and answer.layout is None
        for _ in range(MOST_RESTARTS):
            self._pace.hello(answer)
            try:
                if state and in_place:
                    return self._mirror_in_place(answer, state)
                return self._mirror_staged(answer, state, staged)
            except OrderNeeded:
                in_place = False
            except LogOverrun:
                pass
            self.discard()
            staged = None
            position = self._archive.end(state.position, state.line) if state else None
            answer = self._hello(state, position, again=True)
            if answer.kind != "mirror":
                answer = msgspec.structs.replace(answer, kind="mirror", reason="requested")
            in_place = in_place and answer.layout is None
        self._pace.hello(answer)
        raise self._pace.cannot_keep_up(self._store.job, self._database, known_lasting(self._catalog))

    def _mirror_in_place(self, answer: Answer, state: State) -> State:
        operation = self._in_place
        if operation is None:
            self._keep_old_line(state, answer)
            operation = self._in_place = InPlace(self._store, self._store.mirror, state, self._pace.count)
            operation.begin(answer, *self._where_it_begins(answer, state))
        reached = operation.reached

        def commit(facts: Facts) -> int:
            # Before the mirror's commit: it never stands behind a hole that the catalog does not know.
            return self._line_of(reached.line, reached.began_after, reached.reason, facts)

        try:
            operation.compare(self._session, self._spans(state, reached.reason))
            last = self._hello(operation.followed(), operation.reached.position, again=True)
            if last.kind == "mirror":
                raise LogOverrun(last.oldest)
            done = operation.finish(self._session, last, commit)
        except SchemaChanged as changed:
            # What was gathered is of another layout; the next hello says which.
            raise LogOverrun(0) from changed
        self._write_back.begin()
        operation.discard()
        self._in_place = None
        self.copied = operation.copied
        self._seen.drop_beyond(done.line, reached.began_after)
        self._seen.begin(done.line, done.position.id, done.layout.virtuals)
        return done

    def _spans(self, state: State, reason: str) -> Spans | None:
        """Where the mirror may differ from the source; None where nobody knows, or the mirror is not believed."""
        if reason != "pruned" or self._requested:
            return None
        return forgotten_spans(self._session, self._archive, state)

    def _line_of(self, line: int, began_after: int, reason: str, facts: Facts) -> int:
        """The line that the operation leads to: a new one, or the old one with a hole."""
        self.point = facts.point
        if line == 0:
            return self._catalog.begin_line(facts.head.epoch, reason).line
        if facts.head.id > began_after:
            self._catalog.add_hole(Hole(line, began_after, facts.head.id, reason))
        return line

    def _mirror_staged(self, answer: Answer, state: State | None, staged: State | None) -> State:
        if staged is None:
            self._keep_old_line(state, answer)
            self._archive_old_schema(state, answer)
            if state:
                begins = self._where_it_begins(answer, state)
            else:
                answer, begins = self._follow_lost(answer)
            staged = self._mirroring.begin(answer, state, *begins)
            if answer.reason == "schema" and state:
                staged = self._replay_archived(state, staged)
            elif not staged.copied and not staged.to_compare:
                staged = self._fetch_pages(staged, sum(answer.rows.values()))
        elif answer.reason == "schema":
            staged = self._mirroring.change_schema(staged, answer)
        for _ in range(MOST_CHANGES):
            try:
                staged = self._mirroring.copy_tables(self._session, staged)
                compared = self._compare_staged(staged) if staged.to_compare else None
                position = compared.reached.position if compared else staged.position
                last = self._hello(staged, position, again=True)
                if last.kind != "mirror":
                    return self._publish(staged, last, compared)
                if last.reason != "schema":
                    raise LogOverrun(last.oldest)
            except SchemaChanged:
                staged = self._mirroring.reached()
                last = self._hello(staged, staged.position, again=True)
                if last.kind == "mirror" and last.reason != "schema":
                    raise LogOverrun(last.oldest) from None
            if last.kind == "mirror":
                staged = self._mirroring.change_schema(staged, last)
        raise Temporary(f"the schema of {self._store.job} keeps changing", remedy="pull again: it goes on from here")

    def _compare_staged(self, staged: State) -> InPlace:
        """What differs of the tables that have rows already is gathered beside the staging mirror."""
        if self._in_place:
            self._in_place.close()
        operation = self._in_place = InPlace(self._store, self._store.staging, staged, self._pace.count)
        if operation.take_up() is None:
            operation.begin_staged()
        operation.compare(self._session)
        return operation

    def _fetch_pages(self, staged: State, rows: int) -> State:
        try:
            return self._mirroring.fetch_pages(self._session, staged, rows)
        except SchemaChanged:
            return staged

    def _follow_lost(self, answer: Answer) -> tuple[Answer, tuple[int, Position, int]]:
        """Where there is no mirror: the answer to copy from, and what `_where_it_begins` says."""
        head = answer.facts.head
        end = end_of_newest_line(self._store, self._catalog)
        if end is None:
            return answer, (0, head, head.id)
        line, position = end
        asked = self._hello(None, position, again=True)
        answer, head = msgspec.structs.replace(asked, kind="mirror", reason=answer.reason), asked.facts.head
        # A source that has that row only says that nobody told it a layout.  Without a hole, nothing would tell of
        # rows that became what nothing in the log made of them.
        if asked.reason != "schema" or head.id == position.id:
            return answer, (0, head, head.id)
        return answer, (line, head, position.id)

    def _where_it_begins(self, answer: Answer, state: State) -> tuple[int, Position, int]:
        """(line, position to chase the log from, last log id before the hole)."""
        head = answer.facts.head
        if answer.reason in OLD_LINE_ENDS or answer.database_id != state.database_id:
            return 0, head, head.id
        after = self._archive.end(state.position, state.line).id
        position = state.position if answer.reason == "schema" else head
        if answer.reason in ("requested", "schema") and head.id == after:
            # Rows, or their schema, may become what nothing in the log made of them, and no gap in the archive
            # would say so. (A change of the schema is logged; somebody may have deleted that row.)
            return 0, position, after
        return state.line, position, after

    def _keep_old_line(self, state: State | None, answer: Answer) -> None:
        """The mirror may be the only copy of what the source has lost: a snapshot of it comes first."""
        if state is None:
            return
        if self._stop_on_history_lost and not self._requested:
            refuse_another_history(answer)
        if answer.reason in OLD_LINE_ENDS or answer.database_id != state.database_id:
            record_points(self._catalog, self._archive, state, [])
            record_archived(self._store, self._catalog)
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

    def _publish(self, staged: State, last: Answer, compared: InPlace | None) -> State:
        def line_of(facts: Facts) -> int:
            return self._line_of(staged.line, staged.began_after, staged.reason, facts)

        self.copied = self._mirroring.copied
        if compared:
            done = compared.finish(self._session, last, line_of)
            self.copied.add(compared.copied)
            compared.discard()
            self._in_place = None
        else:
            staged, facts = self._mirroring.replay_rest(self._session, staged, last)
            done = self._mirroring.finish(msgspec.structs.replace(staged, line=line_of(facts)), facts, last.instance)
        self._mirroring.publish()
        self._seen.drop_beyond(done.line, staged.began_after)
        self._seen.begin(done.line, done.position.id, done.layout.virtuals)
        return done
