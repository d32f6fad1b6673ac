"""Any application: Hypothesis draws schemas, statements and accidents; the mirror must stay the source.

    source ──── rollrep ────► mirror, points, restores        compared at every stop, value for value
       ║
      twin      the same statements without rollrep           each must give the same rows, error and counters

Moves: transactions (savepoints, rollbacks, two connections with different pragmas), pulls, pulls in the middle
of a transaction, pulls while others write, pulls cut after some bytes, pulls killed at some call, points,
migrations, VACUUM, connections that die.  In one life of four there are virtual tables too.

    ROLLREP_LIVES=1000 pytest tests/test_properties.py -n 2      more lives
    ROLLREP_SHRINK=1                                             makes what fails small; may take minutes
    ROLLREP_SEED=7                                               other lives
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anything
import anything_virtual
import apsw
import hypothesis
import oracle
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from killed_puller import KILLED, KilledPuller, killed_puller
from sources import copy_source, pull_once

from rollrep.core.errors import MirrorNeeded, Temporary
from rollrep.destination import pull as puller
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.source import database, reader
from rollrep.source.install import install
from rollrep.source.log import write_point
from rollrep.source.tables import Limits

PARTS = 4
LIVES = int(os.environ.get("ROLLREP_LIVES", "32"))
MOVES = 14
SHRINK = [hypothesis.Phase.shrink] if os.environ.get("ROLLREP_SHRINK") else []
LARGEST_ROWID = 2**63 - 1


def take_header(kept: Path, restored: Path) -> None:
    """A change of these two numbers logs nothing: a point has those of the last pull up to it (see README.md).

    What can be told of them is held by tests/test_traps.py, and at every stop the mirror has them.
    """
    with (
        contextlib.closing(apsw.Connection(str(restored))) as there,
        contextlib.closing(apsw.Connection(str(kept))) as db,
    ):
        for pragma in ("user_version", "application_id"):
            db.execute(f"PRAGMA {pragma} = {there.pragma(pragma)}").fetchall()


def assert_same_but(kept: Path, restored: Path, virtual: Sequence[str]) -> None:
    """The same, but for what `virtual` tables are kept in: they are of an earlier moment, or were made anew."""
    then, now = oracle.dump(kept), oracle.dump(restored)
    for dump in (then, now):
        for table in [each for each in dump["tables"] if each.startswith(tuple(f"{name}_" for name in virtual))]:
            del dump["tables"][table]
    found = oracle.differences(then, now)
    assert not found, "\n".join(found[:5])


class HypothesisDraw:
    """anything.Draw, by Hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.count(0, len(options) - 1)]

    def some(self, options: Sequence[Any], least: int, most: int) -> list[Any]:
        left = list(dict.fromkeys(options))
        return [left.pop(self.count(0, len(left) - 1)) for _ in range(self.count(least, min(most, len(left))))]

    def count(self, least: int, most: int) -> int:
        return int(self._data.draw(st.integers(least, most)))

    def chance(self, one_in: int) -> bool:
        return self.count(0, one_in - 1) == one_in - 1


Outcome = tuple[Any, ...]


def outcome_of(db: apsw.Connection, sql: str) -> Outcome:
    """Everything that an application can see of one statement."""
    try:
        rows: Any = [tuple(row) for row in db.execute(sql)]
    except UnicodeDecodeError:
        rows = "text that is no text"
    except apsw.Error as error:
        return (type(error).__name__, str(error), db.last_insert_rowid(), db.in_transaction)
    return (rows, db.changes(), db.last_insert_rowid(), db.in_transaction)


class Application:
    """Two connections to one file; `sql` runs on one of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections = [apsw.Connection(str(path)) for _ in range(2)]
        for db in self.connections:
            db.set_busy_timeout(2_000)
            db.limit(apsw.SQLITE_LIMIT_TRIGGER_DEPTH, 40)

    def run(self, which: int, sql: str) -> Outcome:
        return outcome_of(self.connections[which], sql)

    def close(self) -> None:
        for db in self.connections:
            db.close()


class Life(RuleBasedStateMachine):
    """One application, from its schema to its last restore."""

    killed: KilledPuller
    """pulls in a process of their own, shared by all lives"""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life", dir=os.environ.get("ROLLREP_LIVES_DIR")))
        self.store = Store(self.folder / "store", "job")
        self.source = Application(self.folder / "app.db")
        self.twin: Application | None = Application(self.folder / "twin.db")
        self.broken = False
        self.said: list[str] = []
        self.rowid_is_told = True
        self.has_virtual = False
        self.number = 0
        self.kept: dict[int, Path] = {}
        self.before = (reader.IMAGE_ROWS, puller.WINDOW_ROWS, database.BUSY_TIMEOUT_MS, reader.Reader.chunk)

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        draw = HypothesisDraw(data)
        database.BUSY_TIMEOUT_MS = 300
        reader.IMAGE_ROWS = draw.pick([65_536, 1, 3, 20])
        puller.WINDOW_ROWS = draw.pick([65_536, 1, 3, 20])
        with self.guarded():
            encoding = draw.pick(["UTF-8", "UTF-8", "UTF-16le", "UTF-16be"])
            self.both(0, f"PRAGMA encoding = '{encoding}'")
            self.both(0, f"PRAGMA journal_mode = {draw.pick(['WAL', 'WAL', 'DELETE'])}")
            for pragma in ("foreign_keys", "recursive_triggers"):
                for which in (0, 1):
                    self.both(which, f"PRAGMA {pragma} = {draw.pick(['ON', 'OFF'])}")
            self.make_schema(draw)
            self.write(draw, draw.count(0, 3))
            with contextlib.closing(database.open_source(self.source.path)) as db:
                install(db, Limits(keep_rows=draw.pick([100_000, 31, 100])))
            self.pull()

    def make_schema(self, draw: HypothesisDraw) -> None:
        names: list[str] = draw.some(anything.TABLE_NAMES, 1, 3)
        for number, name in enumerate(names):
            self.both(0, anything.create_table(draw, name, names[:number]))
        if not self.tables():
            self.both(0, "CREATE TABLE plain(a INTEGER PRIMARY KEY, b UNIQUE)")
        for index in range(draw.count(0, 3)):
            self.both(0, anything.create_index(draw, draw.pick(self.tables()), f"index {index}"))
        for trigger in range(draw.pick([0, 0, 1, 3])):
            table, other = draw.pick(self.tables()), draw.pick(self.tables())
            self.both(0, anything.create_trigger(draw, table, other, f"trigger {trigger}"))
        self.has_virtual = draw.chance(4)
        for _ in range(draw.count(1, 3) if self.has_virtual else 0):
            self.change_virtual(draw)

    def change_virtual(self, draw: HypothesisDraw) -> None:
        for sql in anything_virtual.change_virtual(draw, anything_virtual.virtual_names(self.db)):
            self.both(0, sql)

    # ------------------------------------------------------------ moves

    @rule(data=st.data())
    def transaction(self, data: st.DataObject) -> None:
        draw = HypothesisDraw(data)
        with self.guarded():
            self.write(draw, draw.count(1, 6))

    @rule(data=st.data())
    def transaction_with_a_pull_inside(self, data: st.DataObject) -> None:
        draw = HypothesisDraw(data)
        with self.guarded():
            self.write(draw, draw.count(1, 6), pull_inside=True)

    @rule()
    def pull(self) -> None:
        with self.guarded():
            self.pulled()

    @rule(cut=st.sampled_from([40, 300, 1_000, 4_000, 20_000]))
    def pull_cut(self, cut: int) -> None:
        with self.guarded():
            self.pulled(cut)

    @rule(calls=st.integers(1, 2_500))
    def pull_killed(self, calls: int) -> None:
        with self.guarded():
            status = self.killed.pull(self.folder / "store", self.source.path, calls)
            assert status in (0, KILLED), f"a pull ended with {status}"

    @rule(data=st.data())
    def pull_while_writing(self, data: st.DataObject) -> None:
        """Each chunk of a mirror operation is preceded by a transaction."""
        draw = HypothesisDraw(data)
        tables = self.tables()
        wrong: list[BaseException] = []
        waiting = [[anything.statement(draw, tables) for _ in range(draw.count(1, 3))] for _ in range(draw.count(1, 4))]
        chunk = reader.Reader.chunk

        def chunk_after_a_transaction(mine: reader.Reader, *arguments: Any) -> Any:
            try:
                for sql in ["BEGIN", *waiting.pop(), "COMMIT"] if waiting else []:
                    self.both(0, sql)
                if self.db.in_transaction:
                    self.both(0, "ROLLBACK")
            except AssertionError as error:  # in serve's thread; it counts below
                wrong.append(error)
            return chunk(mine, *arguments)

        with self.guarded():
            reader.Reader.chunk = chunk_after_a_transaction  # type: ignore[method-assign]
            try:
                self.pulled(mirror=True)
            finally:
                reader.Reader.chunk = chunk  # type: ignore[method-assign]
            if wrong:
                raise wrong[0]

    @rule()
    def compare(self) -> None:
        with self.guarded():
            self.assert_same()

    @rule()
    def point(self) -> None:
        with self.guarded():
            with contextlib.closing(database.open_source(self.source.path)) as db:
                at = write_point(db, None, "operator").id
            self.said.append(f"-- point {at}")
            self.kept[at] = self.folder / f"{at}.db"
            copy_source(self.source.path, self.kept[at])

    @rule(data=st.data())
    def migrate(self, data: st.DataObject) -> None:
        draw = HypothesisDraw(data)
        with self.guarded():
            self.number += 1
            if self.has_virtual and draw.chance(4):
                self.change_virtual(draw)
                return
            statements = anything.migration(draw, self.tables(), self.number)
            for sql in statements:
                failed = self.both(0, sql, text=False)[0] == "SQLError"
                if failed and sql.startswith("ALTER") and self.db.in_transaction:
                    # What SQLite holds of the schema is then as if it had not failed, until it is read again.
                    break
            if self.db.in_transaction:
                self.both(0, "ROLLBACK")
            if not self.tables():
                self.both(0, "CREATE TABLE plain(a INTEGER PRIMARY KEY, b UNIQUE)")

    @rule(data=st.data())
    def come_and_go(self, data: st.DataObject) -> None:
        """An index or a trigger that no pull sees, but for what it does; none that ends a statement before ours."""
        draw = HypothesisDraw(data)
        with self.guarded():
            tables = self.tables()
            table, kind = draw.pick(tables), draw.pick(["INDEX", "TRIGGER"])
            made = (
                anything.create_index(draw, table, "passing")
                if kind == "INDEX"
                else anything.create_trigger(draw, table, draw.pick(tables), "passing")
            )
            if "RAISE(IGNORE)" in made or self.both(0, made, text=False)[0] == "SQLError":
                return
            for _ in range(draw.count(1, 4)):
                self.both(0, anything.statement(draw, tables))
            self.both(0, f"DROP {kind} IF EXISTS passing", text=False)

    @rule()
    def vacuum(self) -> None:
        # Not the twin: it renumbers the rowids of tables without a key, and rollrep keeps it from doing so.
        with self.guarded():
            self.said.append("VACUUM")
            with contextlib.closing(apsw.Connection(str(self.source.path))) as db:
                outcome_of(db, "VACUUM")

    @rule(data=st.data())
    def connections_die(self, data: st.DataObject) -> None:
        """In the middle of a transaction; then others are opened."""
        draw = HypothesisDraw(data)
        with self.guarded():
            self.both(0, "BEGIN IMMEDIATE")
            self.both(0, anything.statement(draw, self.tables()))
            self.said.append("-- both connections are closed, and two others opened")
            for name in ("source", "twin"):
                application = getattr(self, name)
                if application is not None:
                    application.close()
                    setattr(self, name, Application(application.path))

    # ------------------------------------------------------------ means

    @property
    def db(self) -> apsw.Connection:
        return self.source.connections[0]

    def tables(self) -> list[anything.Table]:
        return anything.read_tables(self.db)

    def both(self, which: int, sql: str, *, text: bool = True) -> Outcome:
        """Runs it with rollrep and without; what the application sees must be the same."""
        self.said.append(f"{which}: {sql};")
        seen = self.source.run(which, sql)
        if self.twin is not None:
            expected = self.twin.run(which, sql)
            if not text and seen[0] == expected[0]:
                expected = seen
            if isinstance(seen[0], str) and isinstance(expected[0], str):
                # A statement that breaks two rules is refused for one of them, and a trigger may make it the other;
                # so it may be refused before its row was given a rowid, or after, and that stays to be seen.
                self.rowid_is_told = self.rowid_is_told and seen[2] == expected[2]
                expected = (*seen[:2], *expected[2:])
            is_dml = sql.startswith(("INSERT", "UPDATE", "DELETE", "REPLACE"))
            if not is_dml and any("VIRTUAL TABLE" in each for each in self.said):
                # What FTS holds back is written, and counted, at a savepoint, a COMMIT, or a statement with triggers.
                expected = (expected[0], seen[1], *expected[2:])
            if not self.rowid_is_told:
                expected = (*expected[:2], seen[2], *expected[3:])
            if '"v old"' in sql:
                # FTS4 writes what it holds back when a savepoint begins, as for a statement with triggers, and by a row.
                self.rowid_is_told = False
            if "cannot store" in f"{seen[1]} {expected[1]}":
                # SQLite takes back the rows before a value of the wrong type only where there is a trigger, and asks
                # for types before it looks whether a row is to be ignored.
                self.forget_twin()
            if "FOREIGN KEY" in str(seen[1]) and seen[1] != expected[1] and self.db.pragma("foreign_key_check"):
                # A reference that was broken before: under REPLACE, SQLite sees it only where there is a trigger.
                self.forget_twin()
            if "nested too deep" in f"{seen[1]} {expected[1]}":
                # SQLite takes back what such a statement has done only where a trigger of ours may abort it.
                self.forget_twin()
            if "foreign key mismatch" in str(seen[1]):
                # A reference to no key: SQLite forgives it a single row put into a table without any trigger.
                self.forget_twin()
            if sql.startswith("UPDATE OR ") and self.contents(self.source, which) != self.contents(self.twin, which):
                # Of rows that compete for one UNIQUE value another may come first: the way to them is the planner's.
                self.forget_twin()
                return seen
            if not self.rowids_are_random():
                assert seen == expected, f"{sql}\nwith rollrep:    {seen}\nwithout rollrep: {expected}"
        return seen

    def rowids_are_random(self) -> bool:
        """SQLite chooses a rowid at random once the largest is taken: then no two applications are the same."""
        if self.twin is not None:
            for table in self.tables():
                if table.rowid:
                    newest = f"SELECT max({table.rowid}) FROM main.{anything.quoted(table.name)}"
                    if self.db.execute(newest).fetchone() == (LARGEST_ROWID,):
                        self.forget_twin()
                        break
        return self.twin is None

    def contents(self, application: Application | None, which: int) -> dict[str, list[Any]]:
        """Of each table the rows, in no order."""
        return {
            table.name: sorted(
                application.connections[which].execute(
                    f"SELECT {', '.join(f'quote(CAST({each} AS BLOB)), typeof({each})' for each in map(anything.quoted, table.columns))}"
                    f" FROM {anything.quoted(table.name)}"
                )
            )
            for table in (self.tables() if application else [])
        }

    def forget_twin(self) -> None:
        if self.twin is not None:
            self.twin.close()
            self.twin = None

    def write(self, draw: HypothesisDraw, statements: int, *, pull_inside: bool = False) -> None:
        which = draw.pick([0, 0, 1])
        begun = draw.chance(2) or pull_inside
        if begun:
            self.both(which, draw.pick(["BEGIN", "BEGIN IMMEDIATE"]))
        tables = self.tables()
        for _ in range(statements):
            if begun and draw.chance(6):
                self.both(
                    which, draw.pick(["SAVEPOINT a", "SAVEPOINT b", "RELEASE a", "ROLLBACK TO a", "ROLLBACK TO b"])
                )
            virtual = anything_virtual.virtual_names(self.db) if self.has_virtual else []
            if virtual and draw.chance(2):
                self.both(which, anything_virtual.write_virtual(draw, virtual))
            else:
                self.both(which, anything.statement(draw, tables))
        if pull_inside:
            self.pulled()
        if self.source.connections[which].in_transaction:
            end = draw.pick(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"])
            if isinstance(self.both(which, end)[0], str):
                self.both(which, "ROLLBACK")

    def pulled(self, cut: int | None = None, *, mirror: bool = False) -> str:
        self.said.append(f"-- pull{f' cut after {cut} bytes' if cut else ''}{' mirror' if mirror else ''}")
        try:
            outcome = pull_once(self.store, self.source.path, cut_after=cut, mirror=mirror)
        except (Temporary, MirrorNeeded) as error:
            self.said.append(f"-- {error}")
            return error.kind
        self.said.append(f"-- {outcome.answer} {outcome.reason} {outcome.tables_mirrored} -> {outcome.position}")
        return outcome.answer

    def assert_same(self) -> None:
        answer = self.pulled()
        assert answer in ("resume", "up_to_date", "mirror"), f"a pull while nobody writes: {answer}"
        oracle.assert_same(self.source.path, self.store.mirror)
        if names := anything_virtual.virtual_names(self.db):
            with contextlib.closing(apsw.Connection(str(self.store.mirror))) as mirror:
                assert anything_virtual.searched(mirror, names) == anything_virtual.searched(self.db, names)
        if not self.rowids_are_random():
            assert self.twin is not None
            # FTS4 writes what it holds back at other moments.
            assert_same_but(self.source.path, self.twin.path, ["v old"])

    def assert_points_are_kept(self) -> None:
        with Catalog(self.store.catalog) as catalog:
            offered = {point.id: point for point in restorable(catalog)}
            for at, kept in self.kept.items():
                if at in offered:
                    output = self.folder / "restored.db"
                    restored = restore(
                        self.store, catalog, plan(catalog, offered[at]), output, force=True, progress=lambda _: None
                    )
                    take_header(kept, output)
                    assert_same_but(kept, output, [*(each.table for each in restored.earlier), *restored.rebuilt])

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.broken = True
            error.add_note("\n".join(["all that happened:", *self.said]))
            raise

    def teardown(self) -> None:
        try:
            if not self.broken and self.store.catalog.exists():
                with self.guarded():
                    self.assert_same()
                    self.assert_points_are_kept()
        finally:
            reader.IMAGE_ROWS, puller.WINDOW_ROWS, database.BUSY_TIMEOUT_MS, reader.Reader.chunk = self.before  # type: ignore[method-assign]
            self.source.close()
            if self.twin is not None:
                self.twin.close()
            shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def killed() -> Iterator[KilledPuller]:
    with killed_puller() as made:
        yield made


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("part", range(PARTS))
def test_mirror_is_the_source_when_anything_happens(part: int, killed: KilledPuller) -> None:
    life: Callable[[], Life] = type("Life", (Life,), {"killed": killed})
    run_state_machine_as_test(
        hypothesis.seed(int(os.environ.get("ROLLREP_SEED", "1")) * PARTS + part)(life),
        settings=hypothesis.settings(
            max_examples=max(1, LIVES // PARTS),
            stateful_step_count=MOVES,
            deadline=None,
            phases=[hypothesis.Phase.generate, *SHRINK],
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
