"""What a database says of its own tables: columns, the key that tells rows apart, what must be unique.

The key of a table is its rowid, by a name that no column hides, or the primary key of a table WITHOUT ROWID.

Knows: SQL of sqlite_schema and of pragmas.  Does not know: shapes, which database it is.
"""

from __future__ import annotations

import dataclasses

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows

ANY_COLUMN = "*"
ROWID_NAMES = ("rowid", "_rowid_", "oid")


@dataclasses.dataclass(frozen=True)
class Described:
    """One table."""

    name: str
    text: str
    """its CREATE TABLE"""
    columns: tuple[str, ...]
    """those that hold values of their own, in the table's order; generated ones follow from them"""
    key: tuple[str, ...]
    """empty where rows can't be told apart: all names of the rowid are columns"""
    key_terms: tuple[str, ...]
    """SQL for the key's columns that compares as the key does; `{}` stands for the table's alias and a dot"""
    hidden_key: bool
    """the key is a rowid that is no column"""
    without_rowid: bool
    unique: frozenset[str]
    """columns whose change may collide with another row; ("*",) where that can't be told by names"""
    primary_key: tuple[str, ...]
    """the declared one"""

    @property
    def stored(self) -> tuple[str, ...]:
        """Everything a row is made of, the rowid included."""
        return (*self.key, *self.columns) if self.hidden_key else self.columns

    def term(self, number: int, alias: str) -> str:
        """The key's column `number` of a row that is called `alias`; bare where that is empty."""
        return self.key_terms[number].replace("{}", f"{alias}." if alias else "", 1)


@dataclasses.dataclass(frozen=True)
class SchemaRow:
    type: str
    name: str
    table: str
    sql: str


def schema_rows(db: apsw.Connection, schema: str) -> list[SchemaRow]:
    """The application's own objects, in the order in which they were made; shadow tables left out."""
    shadows = {name for name, (kind, _) in _listed(db, schema).items() if kind == "shadow"}
    found = all_rows(
        db, f"SELECT type, name, tbl_name, sql FROM {schema}.sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"
    )
    return [
        SchemaRow(*row)
        for row in found
        if row[2] not in shadows
        and not any(sql.fold(name).startswith((PREFIX, "sqlite_")) for name in (row[1], row[2]))
    ]


def virtual_tables(db: apsw.Connection, schema: str) -> list[str]:
    """Tables whose rows are a module's."""
    return [name for name, (kind, _) in _listed(db, schema).items() if kind == "virtual"]


def described(db: apsw.Connection, schema: str) -> dict[str, Described]:
    """The application's ordinary tables, by name."""
    listed = _listed(db, schema)
    texts = {row.name: row.sql for row in schema_rows(db, schema) if row.type == "table"}
    return {
        name: _describe(db, schema, name, text, listed[name][1])
        for name, text in texts.items()
        if name in listed and listed[name][0] == "table"
    }


def _listed(db: apsw.Connection, schema: str) -> dict[str, tuple[str, bool]]:
    """Each table's kind, and whether it is WITHOUT ROWID; at once, for to ask of one SQLite lists all the same."""
    rows = all_rows(db, "SELECT name, type, wr FROM pragma_table_list WHERE schema = ?", (schema,))
    return {name: (kind, bool(without_rowid)) for name, kind, without_rowid in rows}


def _describe(db: apsw.Connection, schema: str, name: str, text: str, without_rowid: bool) -> Described:
    info = all_rows(db, "SELECT name, pk, hidden FROM pragma_table_xinfo(?, ?)", (name, schema))
    columns = tuple(column for column, _, hidden in info if hidden == 0)
    primary = tuple(column for column, pk, _ in sorted(info, key=lambda row: row[1]) if pk)
    indexes = all_rows(db, 'SELECT name, origin, partial FROM pragma_index_list(?, ?) WHERE "unique"', (name, schema))
    pk_index = next((index for index, origin, _ in indexes if origin == "pk"), None)
    hidden_key = False
    collations = ["BINARY"]
    if without_rowid:
        key = primary
        found = all_rows(db, "SELECT coll FROM pragma_index_xinfo(?, ?) WHERE key ORDER BY seqno", (pk_index, schema))
        collations = [collation for (collation,) in found]
    elif len(primary) == 1 and pk_index is None:
        key = primary
    else:
        taken = {sql.fold(column) for column, *_ in info}
        key = tuple(alias for alias in ROWID_NAMES if alias not in taken)[:1]
        hidden_key = True
    unique: set[str] = set(key) if without_rowid else set()
    for index, _, partial in indexes:
        if without_rowid and index == pk_index:
            continue
        parts = all_rows(db, "SELECT name FROM pragma_index_xinfo(?, ?) WHERE key", (index, schema))
        unique |= {ANY_COLUMN} if partial or any(part is None for (part,) in parts) else {part for (part,) in parts}
    if unique - set(columns) - set(key):
        # An index on a generated column changes with columns that it does not name.
        unique = {ANY_COLUMN}
    terms = tuple(
        "{}" + sql.name(column) + _collate(db, schema, name, column, collation, without_rowid=without_rowid)
        for column, collation in zip(key, collations, strict=False)
    )
    return Described(name, text, columns, key, terms, hidden_key, without_rowid, frozenset(unique), primary)


def _collate(db: apsw.Connection, schema: str, table: str, column: str, collation: str, *, without_rowid: bool) -> str:
    if not without_rowid:
        return ""
    own = db.column_metadata(schema, table, column)[1]
    return "" if sql.fold(own) == sql.fold(collation) else f" COLLATE {collation}"
