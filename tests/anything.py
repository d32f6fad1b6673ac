"""Any schema, any statement: what an application may do to its database, drawn piece by piece.

    Draw ──► create_statements: tables, indexes, views, triggers
         ──► statement(tables as they are now): INSERT, UPSERT, UPDATE, DELETE, swaps, savepoints
         ──► migration(tables as they are now): ALTER, rebuild, drop, create, REINDEX

Everything is SQL text, so a failing run can be typed into a shell.  Many of the statements fail, as those of
applications do: what matters is that they fail with rollrep's log as they do without it.

Names are chosen to be traps: keywords, quotes, the aliases and column names that rollrep's own SQL uses.

Knows: SQL.  Does not know: rollrep, hypothesis (a Draw may be anything that chooses).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import apsw


class Draw(Protocol):
    """Who chooses."""

    def pick(self, options: Sequence[Any]) -> Any: ...

    def some(self, options: Sequence[Any], least: int, most: int) -> list[Any]: ...

    def count(self, least: int, most: int) -> int: ...

    def chance(self, one_in: int) -> bool: ...


TABLE_NAMES = (
    "thing", "t", "two words", 'qu"ote', "order", "Größe", "it's", "new", "old", "l", "p", "main", "1st",
    "a.b", "日本", "x;--", "net", "log", "rows", "[in]", "n", "m", "s", "g",
)  # fmt: skip
COLUMN_NAMES = (
    "a", "b", "c", "v0", "v1", "k0", "n0", "id", "t", "l", "new", "old", "op", "mask", "shape", "size", "at",
    "two words", 'q"q', "it's", "ß", "rowid", "oid", "_rowid_", "select", "p", "key", "n", "日本",
)  # fmt: skip
TYPES = ("", "INTEGER", "INT", "REAL", "TEXT", "BLOB", "NUMERIC", "VARCHAR(9)", "BOOLEAN", "DOUBLE PRECISION", "DATE")
STRICT_TYPES = ("INTEGER", "INT", "REAL", "TEXT", "BLOB", "ANY")
COLLATIONS = ("", "", "", "COLLATE NOCASE", "COLLATE RTRIM", "COLLATE BINARY")
SMALL = ("1", "2", "3", "'a'", "'A'", "'b'", "NULL")
"""values that meet each other often"""
ODD = (
    "0", "-1", "1.0", "2.0", "0.0", "-0.0", "9e999", "-9e999", "5e-324", "2.2250738585072011e-308", "0.1",
    "1.7976931348623157e308", "9223372036854775807", "-9223372036854775808", "9007199254740993", "9007199254740993.0",
    "''", "' '", "'a '", "'1'", "'1.0'", "'1e3'", "'NULL'", "x''", "x'00'", "x'61'", "zeroblob(3)",
    "CAST(x'ff' AS TEXT)", "CAST(x'610062' AS TEXT)", "CAST(x'6100' AS TEXT)", "'日本'", "'e\u0301'", "'İ'", "'\u1f6b2'",
    "hex(zeroblob(400))", "zeroblob(1500)", "hex(zeroblob(40000))", "'0x10'", "CAST(x'eda080' AS TEXT)",
)  # fmt: skip
ACTIONS = ("NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE")
ORS = ("", "", "", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR ROLLBACK")
RAISES = ("IGNORE", "IGNORE", "ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'")
ROWID_NAMES = ("rowid", "oid", "_rowid_")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as the database says it is now."""

    name: str
    columns: tuple[str, ...]
    """those that can be written"""
    key: tuple[str, ...]
    rowid: str
    """a name that means the rowid; empty where there is none"""
    targets: tuple[tuple[str, ...], ...]
    """columns that an upsert may name"""


def read_tables(db: apsw.Connection) -> list[Table]:
    """The application's tables, as they are now."""
    found = []
    names = db.execute(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%'"
        " ESCAPE '\\' AND name NOT LIKE '\\_rollrep\\_%' ESCAPE '\\' ORDER BY name"
    ).fetchall()
    for name, without_rowid in names:
        info = db.execute("SELECT name, pk, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
        columns = tuple(column for column, _, hidden in info if hidden == 0)
        taken = {column.casefold() for column, *_ in info}
        rowid = "" if without_rowid else next((n for n in ROWID_NAMES if n not in taken), "")
        targets = []
        for index, partial in db.execute(
            'SELECT name, partial FROM pragma_index_list(?) WHERE "unique" ORDER BY name', (name,)
        ).fetchall():
            named = db.execute("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
            if not partial and all(column for (column,) in named):
                targets.append(tuple(column for (column,) in named))
        key = tuple(column for column, pk, _ in sorted(info, key=lambda row: row[1]) if pk)
        found.append(Table(name, columns, key, rowid, tuple(targets)))
    return found


# ---------------------------------------------------------------- schema


def create_table(draw: Draw, name: str, others: Sequence[str]) -> str:
    """A CREATE TABLE of any kind; `others` are names of tables it may refer to."""
    strict = draw.chance(6)
    types = STRICT_TYPES if strict else TYPES
    names = draw.some(COLUMN_NAMES, 2, 5)
    if set(ROWID_NAMES) <= set(names):
        names.remove("oid")
    kind = draw.pick(["ipk", "ipk", "auto", "none", "none", "text", "text", "composite", "desc", "int"])
    without_rowid = kind in ("text", "composite", "int") and draw.chance(2)
    columns, ending = [], []
    for number, column in enumerate(names):
        text = f"{quoted(column)} {draw.pick(types)}"
        if number == 0 and kind in ("ipk", "auto", "desc", "int"):
            declared = "INT" if kind == "int" else "INTEGER"
            extra = {"auto": " AUTOINCREMENT", "desc": " DESC"}.get(kind, "")
            columns.append(f"{quoted(column)} {declared} PRIMARY KEY{extra}")
            continue
        if number == 0 and kind == "text":
            columns.append(
                f"{quoted(column)} {'TEXT' if strict else draw.pick(TYPES[2:])} {draw.pick(COLLATIONS)} PRIMARY KEY"
            )
            continue
        columns.append(text + " " + _column_rest(draw, names, number, strict))
    if kind == "composite" and len(names) > 2:
        order = " DESC" if draw.chance(4) else ""
        collation = " COLLATE NOCASE" if draw.chance(3) else ""
        ending.append(f"PRIMARY KEY ({quoted(names[1])}{collation}{order}, {quoted(names[0])})")
    elif kind == "composite":
        without_rowid = False
    if draw.chance(4):
        ending.append(
            f"UNIQUE ({listed(draw.some(names, 1, 2))}){draw.pick(['', '', ' ON CONFLICT REPLACE', ' ON CONFLICT IGNORE'])}"
        )
    if others and draw.chance(3):
        ending.append(foreign_key(draw, names[-1], draw.pick([*others, name])))
    options = ", ".join(["WITHOUT ROWID"] * without_rowid + ["STRICT"] * strict)
    return f"CREATE TABLE {quoted(name)}({', '.join([*columns, *ending])}) {options}".rstrip()


def _column_rest(draw: Draw, names: Sequence[str], number: int, strict: bool) -> str:
    before = names[number - 1]
    if number > 1 and draw.chance(7):
        expression = draw.pick([f"{quoted(before)} || 'g'", f"typeof({quoted(before)})", f"length({quoted(before)})"])
        kind = draw.pick(["STORED", "VIRTUAL"])
        return "" if strict else f"GENERATED ALWAYS AS ({expression}) {kind}"
    rest = [draw.pick(COLLATIONS)]
    if draw.chance(6):
        rest.append(f"DEFAULT {draw.pick(['7', chr(39) + 'd' + chr(39), 'NULL', '(1 + 1)', '-0.0'])}")
    if draw.chance(8):
        rest.append("NOT NULL" + draw.pick(["", " ON CONFLICT REPLACE DEFAULT 5", " ON CONFLICT IGNORE"]))
    if draw.chance(5):
        rest.append("UNIQUE" + draw.pick(["", "", " ON CONFLICT REPLACE"]))
    if draw.chance(10):
        rest.append(f"CHECK ({quoted(names[number])} IS NOT 3)")
    return " ".join(rest)


def foreign_key(draw: Draw, column: str, parent: str) -> str:
    deferred = draw.pick(["", "", " DEFERRABLE INITIALLY DEFERRED"])
    return (
        f"FOREIGN KEY ({quoted(column)}) REFERENCES {quoted(parent)} ON DELETE {draw.pick(ACTIONS)}"
        f" ON UPDATE {draw.pick(ACTIONS)}{deferred}"
    )


def create_index(draw: Draw, table: Table, name: str) -> str:
    unique = "UNIQUE " if draw.pick([True, True, False]) else ""
    first, *rest = draw.some(table.columns, 1, 2)
    c = quoted(first)
    kind = draw.pick(["plain", "plain", "collated", "partial", "expression", "both"])
    if kind == "collated":
        terms = f"{c} {draw.pick(COLLATIONS[3:])} DESC"
    elif kind in ("expression", "both"):
        terms = draw.pick([f"lower({c})", f"{c} || 'x'", f"typeof({c})", f"({c} + 1)"])
    else:
        terms = ", ".join([c, *map(quoted, rest)])
    where = (
        f" WHERE {c} {draw.pick(['IS NOT NULL', '> 1', '<> ' + chr(39) + 'b' + chr(39)])}"
        if kind in ("partial", "both")
        else ""
    )
    return f"CREATE {unique}INDEX {quoted(name)} ON {quoted(table.name)}({terms}){where}"


def create_trigger(draw: Draw, table: Table, other: Table, name: str) -> str:
    """A trigger of the application's own: on the same row, on others, or one that ends the statement."""
    event = draw.pick(["INSERT", "INSERT", "UPDATE", "UPDATE", "DELETE"])
    if event == "UPDATE" and draw.chance(3):
        event += f" OF {quoted(draw.pick(table.columns))}"
    row = "old" if event == "DELETE" else "new"
    c, d = quoted(draw.pick(table.columns)), quoted(draw.pick(other.columns))
    where = f"{quoted(table.key[0] if table.key else table.columns[0])} IS {row}.{quoted(table.key[0] if table.key else table.columns[0])}"
    body = draw.pick([
        f"UPDATE {quoted(table.name)} SET {c} = {draw.pick(SMALL)} WHERE {where}",
        f"UPDATE {quoted(other.name)} SET {d} = {row}.{c} WHERE {d} IS {draw.pick(SMALL)}",
        f"INSERT OR IGNORE INTO {quoted(other.name)}({d}) VALUES ({row}.{c})",
        f"REPLACE INTO {quoted(other.name)}({d}) VALUES ({row}.{c})",
        f"DELETE FROM {quoted(other.name)} WHERE {d} = {row}.{c}",
        f"DELETE FROM {quoted(table.name)} WHERE {where} AND {c} IS 2",
        f"INSERT OR REPLACE INTO {quoted(table.name)}({listed(table.columns)}) SELECT {', '.join(row + '.' + quoted(x) for x in table.columns)} WHERE {row}.{c} IS 1",
        f"SELECT RAISE({draw.pick(RAISES)}) WHERE {row}.{c} IS {draw.pick(SMALL)}",
    ])  # fmt: skip
    when = f" WHEN {row}.{c} IS NOT {draw.pick(SMALL)}" if draw.chance(3) else ""
    time = draw.pick(["BEFORE", "AFTER"])
    return f"CREATE TRIGGER {quoted(name)} {time} {event} ON {quoted(table.name)}{when} BEGIN {body}; END"


def create_view(draw: Draw, table: Table, name: str) -> list[str]:
    """A view, and a trigger that lets it be written to."""
    column = quoted(table.columns[0])
    return [
        f"CREATE VIEW {quoted(name)} AS SELECT {listed(table.columns)} FROM {quoted(table.name)}",
        f"CREATE TRIGGER {quoted(name + '_in')} INSTEAD OF INSERT ON {quoted(name)} BEGIN"
        f" {draw.pick(['INSERT OR IGNORE', 'REPLACE'])} INTO {quoted(table.name)}({column}) VALUES (new.{column}); END",
    ]


# ---------------------------------------------------------------- statements


def value(draw: Draw) -> str:
    return str(draw.pick(ODD) if draw.chance(3) else draw.pick(SMALL))


def condition(draw: Draw, table: Table) -> str:
    column = quoted(draw.pick([*table.columns, *[table.rowid] * bool(table.rowid)]))
    return str(draw.pick([
        f" WHERE {column} = {value(draw)}",
        f" WHERE {column} IS {value(draw)}",
        f" WHERE {column} IN ({value(draw)}, {value(draw)})",
        f" WHERE {column} > {value(draw)}",
        f" WHERE {column} IS NOT NULL",
        "",
    ]))  # fmt: skip


def statement(draw: Draw, tables: Sequence[Table]) -> str:
    """One statement on any of the tables; it may well fail."""
    table = draw.pick(tables)
    kind = draw.pick(
        ["insert"] * 4
        + ["update"] * 4
        + ["delete", "upsert", "upsert", "swap", "copy", "move", "long", "empty", "replace"]
    )
    if kind == "insert":
        return insert(draw, table, draw.pick(ORS))
    if kind == "replace":
        return insert(draw, table, "OR REPLACE")
    if kind == "upsert":
        return upsert(draw, table)
    if kind == "update":
        return update(draw, table)
    if kind == "swap":
        c = quoted(draw.pick(table.columns))
        return f"UPDATE {draw.pick(ORS)} {quoted(table.name)} SET {c} = CASE {c} WHEN 1 THEN 2 WHEN 2 THEN 1 WHEN 'a' THEN 'b' ELSE 'a' END"
    if kind == "copy":
        other = draw.pick(tables)
        columns = table.columns[: len(other.columns)]
        return (
            f"INSERT {draw.pick(ORS)} INTO {quoted(table.name)}({listed(columns)})"
            f" SELECT {listed(other.columns[: len(columns)])} FROM {quoted(other.name)}{condition(draw, other)}"
        )
    if kind == "move":
        # Every key moves, onto its neighbours' where the step is small.
        column = quoted(draw.pick([table.rowid or table.columns[0], *table.key]))
        return f"UPDATE {draw.pick(ORS)} {quoted(table.name)} SET {column} = {column} {draw.pick(['+ 1', '- 1', '+ 10', '* 2'])}{condition(draw, table)}"
    if kind == "long":
        # A long value beside one that changes.
        c = quoted(draw.pick(table.columns))
        return f"UPDATE {quoted(table.name)} SET {c} = {draw.pick(ODD[-7:])}{condition(draw, table)}"
    if kind == "empty" and draw.chance(4):
        return f"DELETE FROM {quoted(table.name)}"
    return f"DELETE FROM {quoted(table.name)}{condition(draw, table)}{returning(draw, table)}"


def insert(draw: Draw, table: Table, conflict: str) -> str:
    columns = list(table.columns)
    if table.rowid and draw.chance(5):
        columns.append(table.rowid)
    if len(columns) > 1 and draw.chance(5):
        columns.remove(draw.pick(columns))
    if draw.chance(15):
        return f"INSERT {conflict} INTO {quoted(table.name)} DEFAULT VALUES"
    rows = ", ".join(f"({', '.join(value(draw) for _ in columns)})" for _ in range(draw.count(1, 3)))
    return f"INSERT {conflict} INTO {quoted(table.name)}({listed(columns)}) VALUES {rows}{returning(draw, table)}"


def upsert(draw: Draw, table: Table) -> str:
    columns = table.columns
    row = ", ".join(value(draw) for _ in columns)
    targets: list[tuple[str, ...]] = [(), *table.targets, *[table.key] * bool(table.key)]
    target = draw.pick(targets)
    changed = quoted(draw.pick(columns))
    action = draw.pick([
        f"DO UPDATE SET {changed} = excluded.{changed}", f"DO UPDATE SET {changed} = {value(draw)}", "DO NOTHING",
    ])  # fmt: skip
    on = f" ({listed(target)})" if target else ""
    return f"INSERT INTO {quoted(table.name)}({listed(columns)}) VALUES ({row}) ON CONFLICT{on} {action}{returning(draw, table)}"


def update(draw: Draw, table: Table) -> str:
    chosen = draw.some([*table.columns, *[table.rowid] * (bool(table.rowid) and draw.chance(6))], 1, 2)
    settings = []
    for column in chosen:
        c, d = quoted(column), quoted(draw.pick(table.columns))
        settings.append(
            f"{c} = "
            + str(draw.pick([value(draw), value(draw), d, f"{c} + 1", f"-{c}", f"{c} || 'z'", f"CAST({c} AS TEXT)"]))
        )
    return f"UPDATE {draw.pick(ORS)} {quoted(table.name)} SET {', '.join(settings)}{condition(draw, table)}{returning(draw, table)}"


def returning(draw: Draw, table: Table) -> str:
    return f" RETURNING {quoted(table.columns[0])}, typeof({quoted(table.columns[-1])})" if draw.chance(8) else ""


# ---------------------------------------------------------------- migrations


def migration(draw: Draw, tables: Sequence[Table], number: int) -> list[str]:
    """The statements of one change of the schema."""
    table, other = draw.pick(tables), draw.pick(tables)
    name = quoted(table.name)
    kind = draw.pick([
        "add", "add", "rename column", "rename table", "rebuild", "drop", "new", "index", "trigger", "view",
        "no trigger", "no index", "reindex", "analyze", "numbers", "recreate",
        "drop column", "drop column", "drop column", "drop last and add",
    ])  # fmt: skip
    unused = [n for n in TABLE_NAMES if n not in {t.name for t in tables}]
    if kind == "add":
        return [
            f"ALTER TABLE {name} ADD COLUMN {quoted(f'added {number}')} {draw.pick(['', 'TEXT', 'INT DEFAULT 5', 'COLLATE NOCASE'])}"
        ]
    if kind == "rename column":
        return [f"ALTER TABLE {name} RENAME COLUMN {quoted(draw.pick(table.columns))} TO {quoted(f'renamed {number}')}"]
    # One that was renamed has a name that rollrep's triggers know nothing to put in the place of until the next pull.
    droppable = [column for column in table.columns if not column.startswith("renamed ")]
    if kind == "drop column" and droppable:
        column = quoted(draw.pick(droppable))
        index = [f"DROP INDEX IF EXISTS {quoted(f'index {draw.count(0, 3)}')}"] if draw.chance(3) else []
        written = [statement(draw, tables)] if draw.chance(2) else []
        again = [f"ALTER TABLE {name} ADD COLUMN {column}"] if draw.chance(4) else []
        drop = [*index, f"ALTER TABLE {name} DROP COLUMN {column}", *written, *again]
        return ["BEGIN", *drop, "COMMIT"] if draw.chance(2) else drop
    if kind == "drop last and add" and droppable[-1:] == list(table.columns[-1:]):
        column = quoted(droppable[-1])
        return [
            f"ALTER TABLE {name} DROP COLUMN {column}",
            f"ALTER TABLE {name} ADD COLUMN {column}{draw.pick(['', '', ' TEXT'])}",
        ]
    if kind == "rename table":
        return [f"ALTER TABLE {name} RENAME TO {quoted(draw.pick(unused))}"]
    if kind == "rebuild":
        made = create_table(draw, f"new {number}", [])
        return ["BEGIN", made, f"INSERT OR IGNORE INTO {quoted(f'new {number}')} SELECT * FROM {name}", f"DROP TABLE {name}",
                f"ALTER TABLE {quoted(f'new {number}')} RENAME TO {name}", "COMMIT"]  # fmt: skip
    if kind == "recreate":
        return [f"DROP TABLE {name}", create_table(draw, table.name, [])]
    if kind == "drop" and len(tables) > 1:
        return [f"DROP TABLE {name}"]
    if kind == "new":
        return [create_table(draw, draw.pick(unused), [t.name for t in tables])]
    if kind == "index":
        return [create_index(draw, table, f"index {number}")]
    if kind == "trigger":
        return [create_trigger(draw, table, other, f"trigger {number}")]
    if kind == "view":
        return create_view(draw, table, f"view {number}")
    if kind == "no trigger":
        return [f"DROP TRIGGER IF EXISTS {quoted(f'trigger {draw.count(0, 3)}')}"]
    if kind == "no index":
        return [f"DROP INDEX IF EXISTS {quoted(f'index {draw.count(0, 3)}')}"]
    if kind == "numbers":
        return [f"PRAGMA user_version = {number + 1}", f"PRAGMA application_id = {number + 7}"]
    return ["REINDEX"] if kind == "reindex" else ["ANALYZE"]
