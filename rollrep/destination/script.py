"""Differences as SQL: a script that makes the one database the other, in one transaction.

    triggers of what is touched, and what is no more, go
      ──► tables that are another are made
        ──► rows go: removed, and those whose unique values change
          ──► rows change
            ──► rows come
              ──► indexes, views, triggers, in their order; sqlite_sequence, the header's numbers

Rows that swap a unique value never meet, as in net replay.  Triggers are away while rows change, foreign keys are
off: what they once did is among the differences.

Knows: SQL of both databases, literals.  Does not know: who runs the script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import apsw

from rollrep.core import sql
from rollrep.core.literals import literal
from rollrep.destination.described import Described, SchemaRow, schema_rows
from rollrep.destination.differences import (
    ADDED,
    AFTER,
    BEFORE,
    CHANGED,
    MOVED,
    REMOVED,
    Differences,
    all_rows_of,
    rows_of,
)

_DROPS = ("trigger", "view", "index", "table")
_LATE = ("index", "view", "trigger")


def script(db: apsw.Connection, found: Differences) -> Iterator[str]:
    """The statements, each whole and ending with a semicolon; nothing where nothing differs."""
    if found.is_empty:
        return
    yield "PRAGMA foreign_keys = OFF;"
    yield "PRAGMA ignore_check_constraints = ON;"
    yield "BEGIN IMMEDIATE;"
    gone, made = _objects(db, found)
    for kind in _DROPS:
        for row in gone:
            if row.type == kind:
                yield f"DROP {kind.upper()} {sql.name(row.name)};"
    yield from (sql.ended(row.sql) for row in made if row.type == "table")
    yield from row_statements(db, found)
    for kind in _LATE:
        yield from (sql.ended(row.sql) for row in made if row.type == kind)
    touched = [table.name for table in found.tables if table.name in found.sequence_after]
    for name in dict.fromkeys([*found.sequence, *touched]):
        yield f"DELETE FROM sqlite_sequence WHERE name = {sql.text(name)};"
        for seq in found.sequence_after.get(name, ()):
            yield f"INSERT INTO sqlite_sequence(name, seq) VALUES ({sql.text(name)}, {literal(seq, found.encoding)});"
    for pragma, (_, number) in found.header.items():
        yield f"PRAGMA {pragma} = {number};"
    yield "COMMIT;"


def row_statements(db: apsw.Connection, found: Differences) -> Iterator[str]:
    """What changes rows, of all tables; a table that is another gets all its rows."""
    for table in found.tables:
        shape = table.after
        if shape is None:
            continue
        if table.is_remade:
            for row in all_rows_of(db, AFTER, shape):
                yield insert(shape, row, found.encoding)
            continue
        for change in rows_of(db, table, (REMOVED, MOVED)):
            yield f"DELETE FROM {sql.name(table.name)} WHERE {where_key(shape, change.key, found.encoding)};"
        for change in rows_of(db, table, (CHANGED,)):
            assert change.after is not None
            changed = {name: change.after[name] for name in change.changed}
            yield update(shape, change.key, changed, found.encoding)
        for change in rows_of(db, table, (MOVED, ADDED)):
            assert change.after is not None
            key = change.key if shape.hidden_key else {}
            yield insert(shape, {**key, **change.after}, found.encoding)


def insert(shape: Described, row: Mapping[str, str], encoding: str) -> str:
    # OR ABORT, since the table's own ON CONFLICT clauses could leave the row out.
    values = ", ".join(literal(token, encoding) for token in row.values())
    return f"INSERT OR ABORT INTO {sql.name(shape.name)}({sql.names(row)}) VALUES ({values});"


def update(shape: Described, key: Mapping[str, str], changed: Mapping[str, str], encoding: str) -> str:
    settings = ", ".join(f"{sql.name(name)} = {literal(token, encoding)}" for name, token in changed.items())
    return f"UPDATE OR ABORT {sql.name(shape.name)} SET {settings} WHERE {where_key(shape, key, encoding)};"


def where_key(shape: Described, key: Mapping[str, str], encoding: str) -> str:
    return " AND ".join(f"{shape.term(n, '')} = {literal(token, encoding)}" for n, token in enumerate(key.values()))


def _objects(db: apsw.Connection, found: Differences) -> tuple[list[SchemaRow], list[SchemaRow]]:
    """What must go, in the order of the one database, and what must be made, in that of the other."""
    old, new = schema_rows(db, BEFORE), schema_rows(db, AFTER)
    differs = {(change.type, change.name) for change in found.schema}
    remade = {table.name for table in found.tables if table.is_remade}
    views = {change.name for change in found.schema if change.type == "view"}
    touched = {table.name for table in found.tables} | views
    touched |= {change.table for change in found.schema if change.type == "trigger"}

    def goes(row: SchemaRow) -> bool:
        if row.type == "trigger":
            return row.table in touched
        return (row.type, row.name) in differs or (row.type == "index" and row.table in remade)

    # An index goes with its table.
    gone = [row for row in old if goes(row) and not (row.type == "index" and row.table in remade)]
    return gone, [row for row in new if goes(row)]
