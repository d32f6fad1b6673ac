"""The script that takes rows back on the live source: from what they were at B to what they were at A.

    which rows are still exactly as they were at B?  ──► a temporary table, one row each
      ──► rows that foreign keys need are left as they are (undo_keys)
      ──► rows that came go, rows that changed change back, rows that went come, each only if it still is B's
        ──► what was left alone is listed, and why; foreign keys must be no worse than before; COMMIT

It is for a person to read, and for SQLite's shell to run beside the application: rollrep never runs it.  Foreign keys
are off meanwhile, so that nothing cascades: what once cascaded is among the rows.  The application's triggers are
left where they are, and fire; so do rollrep's own, and the undoing is recorded as any change.

Rows that changed a value which must be unique into one that another of them gave up can't be updated one by one.  Such
rows are *entangled*: they are taken out and put in again, all of a table or none.

Knows: differences, SQL for SQLite's shell.  Does not know: the source, which points A and B are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.literals import as_json, folded, literal, shown
from rollrep.core.nouns import PREFIX
from rollrep.destination import container, undo_keys
from rollrep.destination.described import ANY_COLUMN, Described, schema_rows
from rollrep.destination.differences import (
    ADDED,
    AFTER,
    CHANGED,
    MOVED,
    REMOVED,
    Differences,
    RowChange,
    TableDifference,
    rows_of,
)
from rollrep.destination.outputs import as_before
from rollrep.destination.script import where_key
from rollrep.destination.undo_keys import ROWS, Wanted
from rollrep.destination.unfinished import unfinished

TOGETHER = f"temp.{PREFIX}undo_together"


@dataclasses.dataclass(frozen=True)
class Undo:
    """What is taken back, and what can't be: `refused` says why, by table."""

    tables: tuple[TableDifference, ...]
    refused: dict[str, str]
    rows: int
    triggers: tuple[str, ...]
    """the application's, on these tables: they will fire"""


def plan_undo(db: apsw.Connection, found: Differences, wanted: Wanted) -> Undo:
    """Which tables of the differences between A and B are taken back, of those rows that are wanted."""
    refused = dict(found.not_compared)
    tables = []
    rows = 0
    for table in found.tables:
        chosen = sum(wanted(table, change) for change in rows_of(db, table))
        if table.is_remade:
            refused[table.name] = "the table is another at A than at B; only rows are taken back"
        elif chosen:
            tables.append(table)
            rows += chosen
    names = {table.name for table in tables}
    triggers = tuple(row.name for row in schema_rows(db, AFTER) if row.type == "trigger" and row.table in names)
    return Undo(tuple(tables), refused, rows, triggers)


def undo_script(db: apsw.Connection, found: Differences, undo: Undo, wanted: Wanted) -> Iterator[str]:
    """The script, statement by statement; nothing where nothing is to be taken back."""
    if not undo.rows:
        return
    keyed = undo_keys.tables_with_keys(db, (table.name for table in undo.tables))
    yield "PRAGMA foreign_keys = OFF;"
    yield "BEGIN IMMEDIATE;"
    yield f"CREATE TEMP TABLE {PREFIX}undo(tbl, n, what, is_as_at_b, is_done, why, PRIMARY KEY (tbl, n));"
    yield (
        f"CREATE TEMP TABLE {PREFIX}undo_together(missing, CONSTRAINT"
        f' "rows that swap unique values meet another row, nothing was changed" CHECK (missing = 0));'
    )
    tables = [_Table(db, table, found.encoding, wanted) for table in undo.tables]
    yield "-- Which rows are still as they were at B?"
    for table in tables:
        yield from table.look()
    if keyed:
        entangled = {table.number: table.entangled for table in tables if table.entangled}
        yield from undo_keys.keep_back(db, undo.tables, keyed, found.encoding, wanted, entangled)
        yield from undo_keys.count_before(keyed)
    yield "-- Taking back."
    for table in tables:
        yield from table.take_back()
    if keyed:
        yield from undo_keys.guard(db, keyed)
    yield "-- What was left alone, and why."
    yield (
        f"SELECT 'conflict, left alone: ' || what || CASE WHEN is_as_at_b THEN ' (another row has a value of it that"
        f" must be unique, or a trigger or a constraint refuses)'"
        f" ELSE ' (' || coalesce(why, 'it was changed since B') || ')' END"
        f" FROM {ROWS} WHERE NOT is_done ORDER BY tbl, n;"
    )
    yield f"SELECT sum(is_done) || ' rows taken back, ' || sum(NOT is_done) || ' left alone' FROM {ROWS};"
    yield "COMMIT;"


class _Table:
    """The statements for one table."""

    def __init__(self, db: apsw.Connection, table: TableDifference, encoding: str, wanted: Wanted) -> None:
        assert table.after is not None
        self._db = db
        self._table = table
        self._shape: Described = table.after
        self._encoding = encoding
        self._wanted = wanted
        self.number = table.number
        self.entangled = self._find_entangled()

    def look(self) -> Iterator[str]:
        """For each row, whether it is exactly what it was at B."""
        columns = "\n".join(self._shape.columns)
        same = (
            f"(SELECT group_concat(name, char(10)) FROM pragma_table_info({sql.text(self._table.name)}))"
            f" IS {literal('t:' + columns.encode().hex(), 'UTF-8')}"
        )
        yield (
            f"INSERT INTO {ROWS} SELECT {self._table.number}, 0,"
            f" {sql.text(f'{self._table.name}: its columns')}, {same}, {same}, NULL;"
        )
        for change in self._changes():
            what = f"{self._table.name} " + ", ".join(
                f"{name}={shown(token, self._encoding)}" for name, token in change.key.items()
            )
            yield (
                f"INSERT INTO {ROWS} SELECT {self._table.number}, {change.number}, {sql.text(what)},"
                f" {self._is_as_at_b(change)}, 0, NULL;"
            )
        number = self._table.number
        yield (
            f"UPDATE {ROWS} SET is_as_at_b = 0 WHERE tbl = {number} AND n > 0"
            f" AND NOT (SELECT is_done FROM {ROWS} WHERE tbl = {number} AND n = 0);"
        )
        if self.entangled:
            which = f"tbl = {number} AND n IN ({', '.join(map(str, sorted(self.entangled)))})"
            yield (
                f"UPDATE {ROWS} SET is_as_at_b = 0 WHERE {which}"
                f" AND (SELECT min(is_as_at_b) FROM {ROWS} WHERE {which}) = 0;"
            )
        yield f"DELETE FROM {ROWS} WHERE tbl = {number} AND n = 0;"

    def take_back(self) -> Iterator[str]:
        name = sql.name(self._table.name)
        for change in self._changes(ADDED):
            yield f"DELETE FROM {name} WHERE {self._guarded(change)};"
            yield self._noted(change)
        together = list(self._changes(MOVED, entangled=True))
        for change in together:
            yield f"DELETE FROM {name} WHERE {self._guarded(change)};"
        for change in self._changes(CHANGED, MOVED, entangled=False):
            assert change.before is not None
            settings = ", ".join(f"{sql.name(each)} = {self._literal(change.before[each])}" for each in change.changed)
            yield f"UPDATE OR IGNORE {name} SET {settings} WHERE {self._guarded(change)};"
            yield self._noted(change)
        for change in [*together, *self._changes(REMOVED)]:
            assert change.before is not None
            row = {**(change.key if self._shape.hidden_key else {}), **change.before}
            values = ", ".join(map(self._literal, row.values()))
            yield f"INSERT OR IGNORE INTO {name}({sql.names(row)}) SELECT {values} WHERE {self._safe(change)};"
            yield self._noted(change)
        if together:
            numbers = ", ".join(str(change.number) for change in together)
            yield (
                f"INSERT INTO {TOGETHER} SELECT count(*) FROM {ROWS} WHERE tbl = {self._table.number}"
                f" AND n IN ({numbers}) AND is_as_at_b AND NOT is_done;"
            )

    def _changes(self, *kinds: str, entangled: bool | None = None) -> Iterator[RowChange]:
        for change in rows_of(self._db, self._table, kinds):
            is_entangled = change.number in self.entangled
            if self._wanted(self._table, change) and entangled in (None, is_entangled):
                yield change

    def _find_entangled(self) -> frozenset[int]:
        """Rows whose unique values at A are those of another moved row at B; with the rows they wait for."""
        self.entangled = frozenset()
        moved = list(self._changes(MOVED))
        unique = self._shape.unique
        if ANY_COLUMN in unique and len(moved) > 1:
            return frozenset(change.number for change in moved)
        columns = [column for column in self._shape.columns if column in unique]
        # Values that any collation might find equal count as equal here: only too many are entangled then.
        at_b: dict[tuple[str, str], list[int]] = {}
        for change in moved:
            for column in columns:
                assert change.after is not None
                at_b.setdefault((column, folded(change.after[column], self._encoding)), []).append(change.number)
        found: set[int] = set()
        for change in moved:
            for column in columns:
                assert change.before is not None
                others = at_b.get((column, folded(change.before[column], self._encoding)), [])
                if change.before[column] != "n:" and any(number != change.number for number in others):
                    found |= {change.number, *others}
        return frozenset(found)

    def _is_as_at_b(self, change: RowChange) -> str:
        key = where_key(self._shape, change.key, self._encoding)
        exists = f"EXISTS (SELECT 1 FROM {sql.name(self._table.name)} WHERE {key}"
        if change.after is None:
            return f"NOT {exists})"
        terms = [self._is_exactly(column, token) for column, token in change.after.items()]
        return f"{exists} AND {sql.balanced(terms, ' AND ')})"

    def _is_exactly(self, column: str, token: str) -> str:
        kind = {"i": "integer", "r": "real", "t": "text", "b": "blob", "n": "null"}[token[0]]
        name = sql.name(column)
        if kind == "null":
            return f"{name} IS NULL"
        return f"(typeof({name}) = '{kind}' AND {name} COLLATE BINARY = {self._literal(token)})"

    def _guarded(self, change: RowChange) -> str:
        return f"{where_key(self._shape, change.key, self._encoding)} AND {self._safe(change)}"

    def _safe(self, change: RowChange) -> str:
        return f"(SELECT is_as_at_b FROM {ROWS} WHERE tbl = {self._table.number} AND n = {change.number})"

    def _noted(self, change: RowChange) -> str:
        return f"UPDATE {ROWS} SET is_done = changes() WHERE tbl = {self._table.number} AND n = {change.number};"

    def _literal(self, token: str) -> str:
        return literal(token, self._encoding)


def write_lines(output: Path, lines: Iterable[str]) -> None:
    """Writes a script, whole or not at all."""
    part = unfinished(output)
    try:
        with container.disk_room(output), part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{line}\n" for line in lines)
        as_before(part, output)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def is_meant(change: RowChange, words: Sequence[str], primary_key: Sequence[str], encoding: str) -> bool:
    """Whether `words`, `col=value` each or the values of a key in its order, are of this row.  Pure."""
    row = {**(change.before or {}), **(change.after or {}), **change.key}
    texts = {sql.fold(name): _as_typed(token, encoding) for name, token in row.items()}
    pairs = [word.partition("=") for word in words]
    if all(sign and sql.fold(name) in texts for name, sign, _ in pairs):
        return all(texts[sql.fold(name)] == value for name, _, value in pairs)
    keys = [tuple(change.key), tuple(primary_key)]
    return any(list(words) == [texts[sql.fold(name)] for name in key] for key in keys if key)


def _as_typed(token: str, encoding: str) -> str:
    value = as_json(token, encoding)
    if isinstance(value, dict):
        return f"x'{token[2:].lower()}'" if token[0] in "tb" else str(value["real"])
    return "NULL" if value is None else str(value)
