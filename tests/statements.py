"""SQLite's own test statements as an application: on a captured database, and on a twin without a log.

    statement ──┬─► captured.db + log ──pull──► mirror ──restore──► points       all three: what the source was
                └─► twin.db                                                      the application: sees no difference

Knows: the corpus (`fixtures/sqlite_statements.py`), a source and its mirror.  What is compared and what can't be
is said where it is decided.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import oracle
import zstandard
from pair import Pair
from sources import copy_source, pull_once
from sqlite_statements import STORE

from rollrep.core import sql
from rollrep.core.errors import RollrepError
from rollrep.source.install import install, uninstall
from rollrep.source.log import write_point
from rollrep.source.tables import Limits

STEPS = 400_000
"""virtual machine instructions after which a statement of the twin counts as endless, and its database ends"""
PULL_EVERY = 25
MARK_AFTER = 4
CREATES = re.compile(r"(?is)^\s*(create|alter)\s")
"""statements after which the next pull captures what they made"""

LEFT_OUT = re.compile(
    r"(?is)^\s*(attach|detach|vacuum\s+(\w+\s+)?into|pragma\s+(\w+\.)?"
    r"(writable_schema|locking_mode|journal_mode|temp_store_directory|data_store_directory|reset_database|key|rekey"
    r"|hard_heap_limit|soft_heap_limit|mmap_size|max_page_count|page_count|query_only|lock_proxy_file|encoding"
    r"|trusted_schema|wal_checkpoint|threads|cache_spill|schema_version)\b)|\bload_extension\b|_rollrep_|\by1_segments\b"
)
"""statements about other files or the file itself, which say nothing of tables and would stop the twin or us;
`y1_segments` is a shadow table that a test breaks by hand: such a virtual table can't even be dropped"""

UNLIKE = re.compile(
    r"(?is)sqlite_(master|schema|stat|dbpage)|dbstat|pragma|total_changes|explain|\b(date|time|julianday|strftime"
    r"|datetime|unixepoch|current_\w+)\b|sqlite_offset|sqlite_(version|source_id)|^\s*(analyze|alter|reindex)"
)
"""questions whose answer tells of our objects, of pages or of the clock: not compared with the twin's"""

KNOWN = {
    "our trigger names the column": re.compile(r"error in trigger _rollrep_"),
    "a view of the schema shows our objects": re.compile(r"_rollrep_|5F726F6C6C7265705F"),
    "foreign keys to no key": re.compile(r"^\('error', 'SQLError', 'foreign key mismatch"),
    "rows are copied as they lie unless there is a trigger": re.compile(r"columns but \d+ values were supplied"),
}
"""what only an application with a log sees, as README.md says; with how it shows"""

BY_CHANCE = (
    ("rowid.test", "SELECT x, y FROM t7"),
    ("e_vacuum.test", "SELECT pageno FROM stat"),
    ("fallocate.test", "VACUUM"),
)
"""where the two part without fault: rowids drawn at random, page numbers, and rowids that our pin keeps in a VACUUM"""


@dataclasses.dataclass
class Tally:
    """What became of the statements of some files."""

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    unlike: list[str] = dataclasses.field(default_factory=list)
    """what the application saw otherwise than without a log"""
    wrong: list[str] = dataclasses.field(default_factory=list)
    """where the mirror or a restore was not the source"""


def corpus() -> list[tuple[str, list[list[str]]]]:
    raw = zstandard.ZstdDecompressor().decompressobj().decompress(STORE.read_bytes())
    return [(each["file"], each["databases"]) for each in map(json.loads, raw.decode().splitlines())]


class Statements(Pair):
    """One database of one file."""

    def __init__(self, folder: Path, name: str, tally: Tally) -> None:
        super().__init__(folder)
        self.name = name
        self.tally = tally
        self.twin: apsw.Connection | None = apsw.Connection(str(folder / "twin.db"))
        self.points: list[tuple[int, Path]] = []
        for db in (self.db, self.twin):
            prepare(db)

    def run(self, statements: list[str]) -> None:
        with contextlib.closing(apsw.Connection(str(self.path))) as operator:
            install(operator, Limits())
        pull_once(self.store, self.path)
        since = 0
        for statement in statements:
            if LEFT_OUT.search(statement):
                self.tally.counts["left out"] += 1
                continue
            if not self._both(statement):
                break
            since += 1
            if (CREATES.search(statement) or since >= PULL_EVERY) and not self.db.in_transaction:
                self._pull()
                if since >= MARK_AFTER:
                    self._mark()
                since = 0
        for db in (self.db, self.twin):
            if db is not None and db.in_transaction:
                db.execute("ROLLBACK")
        self._pull()
        self._mark()
        self._pull()
        self._compare_points()
        self._compare_twin()

    def close(self) -> None:
        self.db.close()
        if self.twin is not None:
            self.twin.close()

    def _both(self, statement: str) -> bool:
        """Runs one statement on both; False where the database can't be gone on with."""
        expected = outcome(self.twin, statement, STEPS) if self.twin else None
        if expected == ("error", "InterruptError", "interrupted"):
            self.tally.counts["endless"] += 1
            return False
        got = outcome(self.db, statement, STEPS * 10)
        self.tally.counts["statements"] += 1
        self.tally.counts["errors"] += got[0] == "error"
        by_chance = any(self.name.startswith(name) and statement.startswith(text) for name, text in BY_CHANCE)
        if (
            self.twin is None
            or (got == expected and not by_chance)
            or (UNLIKE.search(statement) and got[0] == expected[0])
        ):  # type: ignore[index]
            return True
        if not by_chance:
            self._note_unlike(str(got), f"{statement[:300]!r}: {str(got)[:200]} / {str(expected)[:200]}")
        # From here on the two may differ for this reason alone.
        self.twin.close()
        self.twin = None
        return True

    def _mark(self) -> None:
        # By a connection of its own: the application's changes() tells of its own last statement.
        with contextlib.closing(apsw.Connection(str(self.path))) as operator:
            point = write_point(operator, None, "operator")
        kept = self.folder / f"{point.id}.db"
        copy_source(self.path, kept)
        self.points.append((point.id, kept))

    def _note_unlike(self, seen: str, told: str) -> None:
        known = next((why for why, text in KNOWN.items() if text.search(seen)), None)
        if known:
            self.tally.counts[known] += 1
        else:
            self.tally.unlike.append(f"{self.name}: {told}")

    def _pull(self) -> None:
        try:
            pull_once(self.store, self.path)
            self.tally.counts["pulls"] += 1
            self._same(self.path, self.store.mirror, self.folder / "now.db")
        except (RollrepError, AssertionError, apsw.Error) as error:
            self.tally.wrong.append(f"{self.name}: {type(error).__name__} {str(error)[:700]}")

    def _same(self, source: Path, copy: Path, scratch: Path, *, header: bool = True) -> None:
        """By the oracle, which knows schema and rowids, and by SQLite's own dbhash, without what is not carried."""
        left, right = oracle.dump(source), oracle.dump(copy)
        gone = not_carried(source)
        if not header:
            # A point has the user_version and application_id that the last pull up to it saw (README.md).
            left["header"] = right["header"]
        for side in (left, right):
            side["tables"] = {name: table for name, table in side["tables"].items() if name not in gone}
            side["schema"] = [row for row in side["schema"] if not is_of(row, gone)]
        found = oracle.differences(left, right)
        assert not found, f"{copy.name}: " + "; ".join(found[:3])
        hashes = []
        for path in (source, copy):
            scratch.unlink(missing_ok=True)
            oracle_copy(path, scratch, gone)
            hashes.append(oracle.dbhash(scratch, "--without-schema"))
        assert hashes[0] == hashes[1], f"{copy.name}: dbhash"

    def _compare_points(self) -> None:
        for log_id, kept in self.points:
            offered = self.points_at(log_id)
            if not offered:
                self.tally.counts["points not offered"] += 1
                continue
            try:
                self._same(kept, self.restored(offered[-1]), self.folder / "then.db", header=False)
                self.tally.counts["points"] += 1
            except (RollrepError, AssertionError, apsw.Error) as error:
                self.tally.wrong.append(f"{self.name}: point {log_id}: {type(error).__name__} {str(error)[:700]}")

    def _compare_twin(self) -> None:
        """What the application wrote is the same as without a log."""
        if self.twin is None:
            self.tally.counts["twins given up"] += 1
            return
        self.tally.counts["twins"] += 1
        twin = oracle.dump(self.folder / "twin.db")
        source = oracle.dump(self.path)
        for side in (source, twin):
            side["schema"] = []
        found = oracle.differences(source, twin)
        if found:
            self._note_unlike(str(found), f"at the end: {'; '.join(found[:3])}")


def prepare(db: apsw.Connection) -> None:
    """Settings of both connections: what is drawn at random is the same in both, and an endless statement ends."""
    rng = random.Random(1)
    db.create_scalar_function("random", lambda: rng.randrange(-(2**63), 2**63), 0)
    db.create_scalar_function("randomblob", lambda n: rng.randbytes(max(1, min(int(n or 0), 100_000))), 1)
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    db.execute("PRAGMA synchronous = OFF").fetchall()


def outcome(db: apsw.Connection, statement: str, most_steps: int) -> tuple[Any, ...]:
    """("rows", rows in any order) or ("error", class, message)."""
    steps = iter(range(most_steps // 1_000))
    db.set_progress_handler(lambda: next(steps, None) is None, 1_000)
    try:
        rows = db.execute(statement).fetchall()
        return ("rows", sorted(rows, key=repr))
    except apsw.Error as error:
        return ("error", type(error).__name__, re.sub(r"^\w+: ", "", str(error)))
    except UnicodeDecodeError:
        return ("rows", "not text")
    finally:
        db.set_progress_handler(None)


def not_carried(path: Path) -> list[str]:
    """What `install` says it does not carry, virtual tables first: their shadow tables go with them."""
    with contextlib.closing(apsw.Connection(str(path))) as db:
        kinds = dict(db.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main'"))
        if "_rollrep_meta" not in kinds:
            return []
        [(refused,)] = db.execute("SELECT refused FROM _rollrep_meta").fetchall()
    virtual = [name for name, kind in kinds.items() if kind == "virtual"]
    return virtual + [each["table"] for each in json.loads(refused) if each["table"] not in virtual]


def is_of(row: tuple[str, str, str, str], gone: list[str]) -> bool:
    """Whether an object is one of these, of their tables, or a shadow table of theirs."""
    return any(row[2] == name or row[1] == name or row[2].startswith(f"{name}_") for name in gone)


def oracle_copy(path: Path, scratch: Path, gone: list[str]) -> None:
    """A copy of `path` without anything that is ours or not carried."""
    copy_source(path, scratch)
    with contextlib.closing(apsw.Connection(str(scratch))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        uninstall(db)
        for table in ("_rollrep_state", "sqlite_stat1", "sqlite_stat3", "sqlite_stat4", *gone):
            db.execute(f"DROP TABLE IF EXISTS {sql.name(table)}")
        db.execute("PRAGMA journal_mode = DELETE").fetchall()


def run_file(name: str, databases: list[list[str]], folder: Path, tally: Tally) -> None:
    for number, statements in enumerate(databases):
        inside = folder / f"{name}.{number}"
        inside.mkdir()
        made = Statements(inside, f"{name}#{number}", tally)
        try:
            made.run(statements)
        finally:
            made.close()


def chosen(part: int, parts: int, share: int) -> Iterator[tuple[str, list[list[str]]]]:
    """Every `share`-th file, dealt out to `parts`."""
    for number, each in enumerate(corpus()[::share]):
        if number % parts == part:
            yield each
