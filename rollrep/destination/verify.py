"""Is the mirror the source?  Proven by digests, each at one position of the source, and repaired if asked for.

    pull ──► for each table: [log's tail + digests] ──► archive, replay ──► the same digests here ──► differences
                                                                    repair: the rows of those ranges, as they are now

It finds what no trigger sees: blobs written in place, a connection without triggers, the mirror edited by hand.
It is a row of small pulls, so writers go on and the log can't be fallen off while the connection holds.

A repair makes rows be what no operation led to.  So it begins a line of its own, with a snapshot: what was
recorded before stays restorable as it was recorded, and nothing is ever replayed across the repair.

Knows: comparing, pull, archive, replay, the catalog.  Does not know: SSH, configuration.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.errors import Temporary, UsageError
from rollrep.core.nouns import PREFIX, Facts, Position, Shape
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import Hole, Line
from rollrep.destination.compare import Compared, Comparison
from rollrep.destination.images import attach_rows
from rollrep.destination.mirror_db import State, open_mirror, read_state, seen_at, transaction, write_state
from rollrep.destination.pull import Wishes, pull
from rollrep.destination.replay import Replay, apply_facts
from rollrep.destination.schema import carried
from rollrep.destination.shadows import virtual_names
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.query import all_rows
from rollrep.wire.messages import KeyRange, Rows
from rollrep.wire.session import LogOverrun, SchemaChanged, Session, Tail

MOST_PASSES = 3
"""how often a table that was repaired is compared again, until nothing differs"""
MOST_RESTARTS = 8
"""how often the schema may change, or the log roll over, while one table is compared"""

Progress = Callable[[str, int], None]
"""called with (table, rows) as rows are compared"""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is verified: tables whose names match one of the shell globs, all where there is none."""

    tables: tuple[str, ...] = ()
    repair: bool = False


@dataclasses.dataclass
class TableReport:
    table: str
    compared: Compared
    rows_repaired: int = 0
    equal: bool = True
    """at the end: after the repair, where there was one"""


@dataclasses.dataclass
class Verified:
    """What was found, at `position`, which is a commit of the source at its time `time`."""

    tables: list[TableReport] = dataclasses.field(default_factory=list)
    not_compared: list[str] = dataclasses.field(default_factory=list)
    virtual: list[str] = dataclasses.field(default_factory=list)
    """virtual tables, which every pull compares whole and makes equal, and so the one at the end of this"""
    schema: list[str] = dataclasses.field(default_factory=list)
    """where the mirror's schema is not the source's, in words"""
    position: Position | None = None
    time: str = ""

    @property
    def equal(self) -> bool:
        return not self.schema and all(report.equal for report in self.tables)

    @property
    def rows_differing(self) -> int:
        return sum(report.compared.differing for report in self.tables)


def verify_against_source(store: Store, session: Session, wishes: Wishes, asked: Asked, progress: Progress) -> Verified:
    """Compares the mirror with the source, table by table.  Call it under the store's lock.

    Raises core's errors as `pull` does; UsageError where no table matches.  Differences are no error here: they
    stand in what is returned.
    """
    began = pull(store, session, wishes, _not_shown)
    with Catalog(store.catalog) as catalog:
        verifying = _Verifying(store, catalog, session, wishes, asked, progress, began.time)
        try:
            return verifying.run()
        finally:
            verifying.close()


class _Verifying:
    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        session: Session,
        wishes: Wishes,
        asked: Asked,
        progress: Progress,
        time: str,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._asked = asked
        self._db = self._opened()
        self._session = session
        self._wishes = wishes
        self._progress = progress
        self._state = self._read_state()
        self._out = Verified(time=time)
        self._repaired_from: int | None = None

    def run(self) -> Verified:
        done: set[str] = set()
        while (shape := self._next_table(done)) is not None:
            report = self._table(shape)
            done.add(shape.table)
            if report is not None:
                self._out.tables.append(report)
        self._out.not_compared = self._left_out()
        self._out.schema = schema_differences(self._db, self._state)
        self._out.position = self._state.position
        if self._repaired_from is not None:
            self._end_repair(self._repaired_from)
        # Points that the application wrote meanwhile go into the catalog, and a snapshot is taken if one is due.
        # Virtual tables are compared row by row in every pull, so also in this one.
        pull(self._store, self._session, self._wishes, _not_shown)
        self._out.virtual = sorted(each.name for each in self._state.layout.virtuals if self._is_asked(each.name))
        return self._out

    def close(self) -> None:
        self._db.close()

    def _next_table(self, done: set[str]) -> Shape | None:
        chosen = [shape for shape in self._state.layout.shapes if self._is_asked(shape.table)]
        if not chosen and not any(self._is_asked(each.name) for each in self._state.layout.virtuals):
            names = ", ".join(sorted(shape.table for shape in self._state.layout.shapes)) or "none"
            raise UsageError(
                f"no table of {self._store.job} is called {' or '.join(self._asked.tables)}",
                remedy=f"these are mirrored: {names}",
            )
        return next((shape for shape in chosen if shape.table not in done), None)

    def _is_asked(self, table: str) -> bool:
        return not self._asked.tables or any(fnmatch.fnmatchcase(table, glob) for glob in self._asked.tables)

    def _left_out(self) -> list[str]:
        captured = {shape.table for shape in self._state.layout.shapes} | virtual_names(self._state.layout)
        refused = {each.table: each.reason for each in self._state.layout.refused if not each.index}
        objects = [item.name for item in self._state.layout.objects if item.type == "table"]
        others = sorted({*objects, *refused} - captured)
        return [f"{name}: {refused.get(name, 'it is not captured')}" for name in others if self._is_asked(name)]

    def _table(self, shape: Shape) -> TableReport | None:
        """None where the table is no more."""
        for _ in range(MOST_RESTARTS):
            try:
                return self._table_once(shape)
            except (SchemaChanged, LogOverrun):
                self._catch_up()
                now = next((each for each in self._state.layout.shapes if each.table == shape.table), None)
                if now is None:
                    return None
                shape = now
        raise Temporary(
            f"the schema of {self._store.job} keeps changing, or its log rolls over too fast to be verified",
            remedy="verify again when it is calmer",
        )

    def _table_once(self, shape: Shape) -> TableReport:
        report = TableReport(shape.table, Compared())
        for number in range(MOST_PASSES if self._asked.repair else 1):
            found = report.compared if number == 0 else Compared()
            comparison = Comparison(
                self._session, self._db, self._state.schema_digest, self._state.position.id, self._follow
            )
            for ranges in comparison.table(shape, found, lambda rows: self._progress(shape.table, rows)):
                if self._asked.repair:
                    for whole, said, raw in comparison.fetch(shape, ranges):
                        self._repair(comparison, shape, whole, said, raw)
            report.equal = found.differing == 0
            if report.equal:
                break
            if self._asked.repair:
                report.rows_repaired += found.differing
        return report

    def _follow(self, tail: Tail, facts: Facts | None) -> int:
        """Archives and replays the log up to the position at which the source read; a pull in small."""
        if tail is None:
            return self._state.position.id
        batch, packed = tail
        state = self._state
        is_head = facts is not None and facts.head.id == batch.last
        self._archive.add(self._db, Line(state.line, state.position.epoch), batch, packed, facts if is_head else None)
        if facts is None or not is_head:
            # It may end inside a transaction: an ordinary pull gathers the rest.
            if self._catch_up() == "mirror":
                raise SchemaChanged
            return self._state.position.id
        # Virtual tables stay as they are until the pull that ends this.
        virtual = seen_at(state) if state.layout.virtuals else None
        new = msgspec.structs.replace(state, position=facts.head, time=facts.time, virtual_as_of=virtual)
        replay = Replay(self._db, {shape.id: shape for shape in state.layout.shapes})
        with transaction(self._db):
            replay.window(batch.first, batch.last)
            apply_facts(self._db, facts, state.layout.shapes)
            write_state(self._db, new)
        self._state, self._out.time = new, facts.time
        return new.position.id

    def _catch_up(self) -> str:
        """An ordinary pull; which answer it got.  After "mirror" every table may be another one."""
        outcome = pull(self._store, self._session, self._wishes, _not_shown)
        if outcome.answer == "mirror":
            self._db.close()
            self._db = self._opened()
        self._state, self._out.time = self._read_state(), outcome.time
        return outcome.answer

    def _read_state(self) -> State:
        state = read_state(self._db)
        assert state is not None, "a pull has just ended"
        return state

    def _opened(self) -> apsw.Connection:
        db = open_mirror(self._store.mirror)
        if self._asked.repair:
            # No archived operation brings a repair back that a loss of power took.
            db.execute("PRAGMA main.synchronous = FULL")
        return db

    def _repair(self, comparison: Comparison, shape: Shape, ranges: Sequence[KeyRange], said: Rows, raw: bytes) -> None:
        attach_rows(self._db, raw, shape)
        state = self._state
        if self._repaired_from is None:
            # In the catalog first: if the process dies now, the line is empty and in nobody's way.
            line = self._catalog.begin_line(state.position.epoch, "repair")
            self._repaired_from = state.position.id
            state = msgspec.structs.replace(state, line=line.line)
        with transaction(self._db):
            comparison.replace_rows(ranges)
            apply_facts(self._db, said.facts, state.layout.shapes)
            write_state(self._db, state)
        self._state = state

    def _end_repair(self, began: int) -> None:
        """A snapshot, for nothing that was archived leads to a repaired row.

        Where there are virtual tables, the pull that follows brings them to the same moment, and takes it.
        """
        if self._state.position.id > began:
            self._catalog.add_hole(Hole(self._state.line, began, self._state.position.id, "repair"))
        if not self._state.layout.virtuals:
            take_snapshot(self._store, self._catalog)


def schema_differences(db: apsw.Connection, state: State) -> list[str]:
    """Where the schema of a mirror is not what its source has, one line each."""
    rows = all_rows(
        db,
        "SELECT type, name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_'",
    )
    here = {(kind, name): text for kind, name, text in rows if not sql.fold(name).startswith(PREFIX)}
    wanted = {(item.type, item.name): item.sql for item in carried(state.layout)}
    lines = []
    for kind, name in sorted(here.keys() | wanted.keys()):
        if (kind, name) not in here:
            lines.append(f"{kind} {name} is missing in the mirror")
        elif (kind, name) not in wanted:
            lines.append(f"{kind} {name} is only in the mirror")
        elif here[kind, name] != wanted[kind, name]:
            lines.append(f"{kind} {name} has another definition in the mirror")
    return lines


def _not_shown(_table: str, _rows: int) -> None:
    """The progress of pulls in between."""
