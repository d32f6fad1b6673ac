"""What differs between two databases: objects of the schema, rows, numbers of the header; exact to the storage class.

    before.db ─ main ─┐
                      ├── compare ──► Differences ── rows_of ──► removed / changed / added, row by row
    after.db ── b ────┘                  counts; keys in temp tables

Rows are told apart by their rowid, or by the primary key of a table WITHOUT ROWID.  1 is not 1.0, -0.0 is not
0.0, and 'a' is not 'A', whatever a column's collation finds.  Only keys of rows that differ are kept, in
temporary tables; values are read when they are asked for.

Knows: SQL of two databases beside each other.  Does not know: where they came from, how differences are told.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from rollrep.core import sql
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.core.literals import read_value, value_column
from rollrep.core.nouns import PREFIX
from rollrep.destination.described import (
    ANY_COLUMN,
    Described,
    SchemaRow,
    described,
    schema_rows,
    virtual_tables,
)
from rollrep.query import all_rows, find_row, one_value

REMOVED, CHANGED, MOVED, ADDED = "removed", "changed", "moved", "added"
"""`moved` is a change of a value that must be unique: such rows are taken out before others are put in"""
BEFORE, AFTER = "main", "b"
MAPPED_BYTES = 128 << 20
"""of each file, while the two are beside each other; they are of the cache or copies, and never get shorter"""


@dataclasses.dataclass(frozen=True)
class SchemaChange:
    """An object that is only before, only after, or another."""

    type: str
    name: str
    table: str
    before: str | None
    after: str | None

    @property
    def kind(self) -> str:
        return ADDED if self.before is None else REMOVED if self.after is None else CHANGED


@dataclasses.dataclass(frozen=True)
class TableDifference:
    """One table that is not the same; `number` names the temporary table that has the keys of its rows."""

    name: str
    before: Described | None
    after: Described | None
    number: int
    counts: dict[str, int]

    @property
    def is_remade(self) -> bool:
        """Whether the table itself is another, and not only its rows."""
        return self.before is None or self.after is None or self.before.text != self.after.text

    @property
    def keys(self) -> str:
        return f"temp.{PREFIX}changed_{self.number}"

    @property
    def rows(self) -> int:
        return sum(self.counts.values())


@dataclasses.dataclass(frozen=True)
class RowChange:
    """Values are tokens, by column; the key's are those that the row is found by.  `number` is its own in its table."""

    number: int
    kind: str
    key: dict[str, str]
    before: dict[str, str] | None
    after: dict[str, str] | None

    @property
    def changed(self) -> list[str]:
        """The columns that are not the same on both sides, those that only one side has included."""
        before, after = self.before or {}, self.after or {}
        return [name for name in {**before, **after} if before.get(name) != after.get(name)]


@dataclasses.dataclass(frozen=True)
class Differences:
    schema: tuple[SchemaChange, ...]
    tables: tuple[TableDifference, ...]
    header: dict[str, tuple[int, int]]
    """user_version and application_id, where they differ"""
    sequence: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    """what AUTOINCREMENT remembers of a table, as tokens, where it differs"""
    sequence_after: dict[str, tuple[str, ...]]
    """the same, of every table"""
    not_compared: dict[str, str]
    """tables, and why"""
    encoding: str

    @property
    def is_empty(self) -> bool:
        return not (self.schema or self.tables or self.header or self.sequence)


@contextlib.contextmanager
def beside(before: Path, after: Path) -> Iterator[apsw.Connection]:
    """A connection that can read both, as `main` and `b`; nobody writes to either meanwhile."""
    first, second = (f"{path.absolute().as_uri()}?mode=ro&immutable=1" for path in (before, after))
    with contextlib.closing(apsw.Connection(first, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as db:
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        try:
            db.execute(f"ATTACH ? AS {AFTER}", (second,))
            for schema in (BEFORE, AFTER):
                # Both are read from one end to the other; a third of that would be calls that copy a page each.
                db.execute(f"PRAGMA {schema}.mmap_size = {MAPPED_BYTES}").fetchall()
                db.execute(f"SELECT count(*) FROM {schema}.sqlite_schema").fetchall()
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise VerifyFailed(f"{before} or {after} is damaged: {error}") from error
        except apsw.SQLError as error:
            raise UsageError(
                f"the two can't be compared: {error}", remedy="compare databases of the same text encoding"
            ) from error
        yield db


def compare(db: apsw.Connection, tables: Collection[str] = ()) -> Differences:
    """What differs in the databases of `beside`; only in `tables`, in any case, where some are named."""
    wanted = {sql.fold(table) for table in tables}

    def is_wanted(table: str) -> bool:
        return not wanted or sql.fold(table) in wanted

    before, after = described(db, BEFORE), described(db, AFTER)
    not_compared = {
        name: "it is a virtual table"
        for schema in (BEFORE, AFTER)
        for name in virtual_tables(db, schema)
        if is_wanted(name)
    }
    found = []
    for number, name in enumerate(dict.fromkeys([*before, *after])):
        if not is_wanted(name):
            continue
        try:
            each = _compare_table(db, name, before.get(name), after.get(name), number)
        except apsw.SQLError as error:
            not_compared[name] = str(error)
            continue
        if each is None:
            not_compared[name] = "its columns hide all names of the rowid"
        elif each.rows or each.is_remade:
            found.append(each)
    header = {}
    old, new = (_sequence(db, schema, is_wanted) for schema in (BEFORE, AFTER))
    sequence = {
        name: (old.get(name, ()), new.get(name, ()))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }
    if not wanted:
        for pragma in ("user_version", "application_id"):
            pair = tuple(int(one_value(db, f"PRAGMA {schema}.{pragma}")) for schema in (BEFORE, AFTER))
            if pair[0] != pair[1]:
                header[pragma] = (pair[0], pair[1])
    changes = [
        change
        for change in _schema_changes(schema_rows(db, BEFORE), schema_rows(db, AFTER))
        if is_wanted(change.table) and change.table not in not_compared
    ]
    return Differences(
        tuple(changes), tuple(found), header, sequence, new, not_compared, str(one_value(db, "PRAGMA main.encoding"))
    )


def all_tables(db: apsw.Connection) -> list[str]:
    """The tables that are on either side, virtual ones too."""
    sides = BEFORE, AFTER
    return list(dict.fromkeys(name for side in sides for name in (*described(db, side), *virtual_tables(db, side))))


def rows_of(db: apsw.Connection, table: TableDifference, kinds: Collection[str] = ()) -> Iterator[RowChange]:
    """The rows that differ, with their values on both sides; only of some kinds where they are named."""
    chosen = tuple(kinds) or (REMOVED, CHANGED, MOVED, ADDED)
    side = [
        _side(db, schema, shape, table.keys, chosen) for schema, shape in ((BEFORE, table.before), (AFTER, table.after))
    ]
    left, right = next(side[0], None), next(side[1], None)
    while left is not None or right is not None:
        number = min(each[0] for each in (left, right) if each is not None)
        before = after = key = None
        kind = ""
        if left is not None and left[0] == number:
            _, kind, key, before = left
            left = next(side[0], None)
        if right is not None and right[0] == number:
            _, kind, key, after = right
            right = next(side[1], None)
        assert key is not None
        yield RowChange(number, kind, key, before, after)


def all_rows_of(db: apsw.Connection, schema: str, shape: Described) -> Iterator[dict[str, str]]:
    """Every row of a table, in its own order."""
    values = ", ".join(value_column(f"x.{sql.name(column)}") for column in shape.stored)
    for row in db.execute(f"SELECT {values} FROM {schema}.{sql.name(shape.name)} x"):
        yield dict(zip(shape.stored, map(read_value, row), strict=True))


Side = tuple[int, str, dict[str, str], dict[str, str]]


def _side(db: apsw.Connection, schema: str, shape: Described | None, keys: str, kinds: Sequence[str]) -> Iterator[Side]:
    if shape is None:
        return
    values = ", ".join(value_column(f"x.{sql.name(column)}") for column in (*shape.key, *shape.columns))
    same = " AND ".join(f"{shape.term(n, 'x')} = c.k{n}" for n in range(len(shape.key)))
    marks = ", ".join("?" * len(kinds))
    width = len(shape.key)
    cursor: Iterator[tuple[Any, ...]] = db.execute(
        f"SELECT c.n, c.kind, {values} FROM {keys} c CROSS JOIN {schema}.{sql.name(shape.name)} x ON {same}"
        f" WHERE c.kind IN ({marks}) AND c.side <> ? ORDER BY c.n",
        (*kinds, AFTER if schema == BEFORE else BEFORE),
    )
    for number, kind, *row in cursor:
        tokens = [read_value(value) for value in row]
        key = dict(zip(shape.key, tokens[:width], strict=True))
        yield number, kind, key, dict(zip(shape.columns, tokens[width:], strict=True))


def _compare_table(
    db: apsw.Connection, name: str, before: Described | None, after: Described | None, number: int
) -> TableDifference | None:
    """None where the rows of one side have no key."""
    present = [each for each in (before, after) if each is not None]
    if not all(each.key for each in present):
        return None
    made = TableDifference(name, before, after, number, {})
    width = max(len(each.key) for each in present)
    columns = ", ".join(f"k{n}" for n in range(width))
    db.execute(f"CREATE TEMP TABLE {made.keys.partition('.')[2]}(n INTEGER PRIMARY KEY, kind, side, {columns})")
    if before is not None and after is not None and _same_key(before, after):
        _gather_both(db, made, before, after)
    else:
        for schema, shape, kind in ((BEFORE, before, REMOVED), (AFTER, after, ADDED)):
            if shape is not None:
                _gather_all(db, made, schema, shape, kind)
    counts = dict(all_rows(db, f"SELECT kind, count(*) FROM {made.keys} GROUP BY kind"))
    return dataclasses.replace(made, counts=counts)


def _same_key(before: Described, after: Described) -> bool:
    return (before.key_terms, before.without_rowid, before.hidden_key) == (
        after.key_terms,
        after.without_rowid,
        after.hidden_key,
    )


def _gather_all(db: apsw.Connection, made: TableDifference, schema: str, shape: Described, kind: str) -> None:
    keys = ", ".join(f"k{n}" for n in range(len(shape.key)))
    db.execute(
        f"INSERT INTO {made.keys}(kind, side, {keys}) SELECT ?, ?, {sql.names(shape.key, 'x.')}"
        f" FROM {schema}.{sql.name(shape.name)} x",
        (kind, schema),
    )


def _gather_both(db: apsw.Connection, made: TableDifference, before: Described, after: Described) -> None:
    table = sql.name(made.name)
    keys = ", ".join(f"k{n}" for n in range(len(before.key)))
    same = " AND ".join(f"{before.term(n, 'x')} = {after.term(n, 'y')}" for n in range(len(before.key)))
    common = [column for column in before.columns if column in after.columns]
    apart = sql.balanced([_differs(column) for column in common], " OR ") or "0"
    if set(before.columns) != set(after.columns):
        apart = "1"
    unique = before.unique | after.unique
    moving = common if ANY_COLUMN in unique else [column for column in common if column in unique]
    moved = sql.balanced([_differs(column) for column in moving], " OR ") or "0"
    missing = f"y.{sql.name(after.key[0])} IS NULL"
    db.execute(
        f"INSERT INTO {made.keys}(kind, side, {keys}) SELECT"
        f" CASE WHEN {missing} THEN '{REMOVED}' WHEN {moved} THEN '{MOVED}' ELSE '{CHANGED}' END,"
        f" CASE WHEN {missing} THEN '{BEFORE}' ELSE 'both' END, {sql.names(before.key, 'x.')}"
        f" FROM {BEFORE}.{table} x LEFT JOIN {AFTER}.{table} y ON {same} WHERE {missing} OR {apart}"
    )
    db.execute(
        f"INSERT INTO {made.keys}(kind, side, {keys}) SELECT '{ADDED}', '{AFTER}', {sql.names(after.key, 'y.')}"
        f" FROM {AFTER}.{table} y LEFT JOIN {BEFORE}.{table} x ON {same} WHERE x.{sql.name(before.key[0])} IS NULL"
    )


def _differs(column: str) -> str:
    """SQL that is true unless two values are the same to the storage class and to the sign of a real zero."""
    x, y = f"x.{sql.name(column)}", f"y.{sql.name(column)}"
    return (
        f"({x} COLLATE BINARY IS NOT {y} OR typeof({x}) <> typeof({y})"
        f" OR (typeof({x}) = 'real' AND {x} = 0.0 AND atan2({x}, -1) <> atan2({y}, -1)))"
    )


def _sequence(db: apsw.Connection, schema: str, is_wanted: Callable[[str], bool]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    if find_row(db, f"SELECT 1 FROM {schema}.sqlite_schema WHERE name = 'sqlite_sequence'"):
        query = f"SELECT name, {value_column('seq')} FROM {schema}.sqlite_sequence ORDER BY 1, seq"
        for name, seq in all_rows(db, query):
            if is_wanted(name) and not name.startswith(PREFIX):
                found[name] = (*found.get(name, ()), read_value(seq))
    return found


def _schema_changes(before: Sequence[SchemaRow], after: Sequence[SchemaRow]) -> Iterator[SchemaChange]:
    old, new = ({(row.type, row.name): row for row in rows} for rows in (before, after))
    for kind, name in dict.fromkeys([*old, *new]):
        left, right = old.get((kind, name)), new.get((kind, name))
        if left != right:
            one = right or left
            assert one is not None
            yield SchemaChange(kind, name, one.table, left.sql if left else None, right.sql if right else None)
