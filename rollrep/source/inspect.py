"""What a database's schema says about capture: a plan for each table, or why there can be none.

Read-only.  Knows: SQLite's schema pragmas, core.  Does not know: the log, triggers.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.nouns import PREFIX, Layout, Refused, SchemaObject, Shape, Virtual
from rollrep.midway import Midway, acting_references
from rollrep.query import all_rows, one_value
from rollrep.source.declared import is_loose, is_often_long
from rollrep.source.key_collations import key_collates, key_collations
from rollrep.source.makeable import Texts, texts_by_table, what_is_missing
from rollrep.source.uniques import Unique, Unknown, uniques_of
from rollrep.source.virtual import owned_tables

MAX_COLUMNS = 1_900
"""an image of a 2,000-column table does not fit into a log row beside the log's own columns"""


_DEFAULTS = 'SELECT name, dflt_value FROM pragma_table_xinfo(?) WHERE "notnull" AND dflt_value IS NOT NULL'


@dataclasses.dataclass(frozen=True)
class TablePlan:
    """What capture needs to know of one table; `shape.id` is 0 until one is given."""

    shape: Shape
    key_collates: tuple[str, ...]
    """SQL behind each column of the key that has another collation than its column; empty behind the others"""
    uniques: tuple[Unique, ...]
    sized_columns: tuple[str, ...]
    """columns whose values are often long, so that their bytes are counted"""
    numeric_columns: tuple[str, ...]
    """columns of numbers, which may hold a text or a blob all the same: then its bytes are counted"""
    loose_columns: tuple[str, ...]
    """columns in which values that are equal may still differ in storage class: 1 and 1.0"""
    reread: bool
    """the row may differ from NEW when our trigger runs: read it again by its key"""
    logs_replaced: bool
    """the mirror lacks a UNIQUE index, so a REPLACE repeated there would not remove what it did here: that is logged"""
    pin_rowids: bool
    """VACUUM would renumber the rowids of this table unless an index exists"""
    columns: tuple[str, ...]
    """every column that can be read, generated ones included, in the table's order"""
    droppable: frozenset[str]
    """those of `columns` that ALTER TABLE may drop while our triggers stand"""
    defaults: Mapping[str, str]
    """SQL of what OR REPLACE puts in the place of a NULL, for the columns that are NOT NULL and have a default"""


def inspect(
    db: apsw.Connection, include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[TablePlan], list[Refused]]:
    """A plan for every table that can be captured, and the tables that can't with the reason.

    Tables outside `include`/`exclude` (shell globs on the name) appear in neither list.
    """
    plans: list[TablePlan] = []
    refused = virtual_tables(db, include, exclude)[1]
    restless, midway, texts = _restless_tables(db), Midway(db), texts_by_table(db)
    for name, without_rowid in ordinary_tables(db):
        if not selected(name, include, exclude):
            continue
        made_by = texts.get(name, ())
        missing = what_is_missing(name, made_by)
        try:
            if name in missing:
                raise ValueError(missing.pop(name))
            plan = _plan(db, name, without_rowid, sql.fold(name) in restless, frozenset(missing), made_by)
            plans.append(_unannounced(plan) if plan.uniques and midway.is_put_to(name) else plan)
            refused += [
                Refused(name, f"{reason}; without it, {name} is carried", index) for index, reason in missing.items()
            ]
        except ValueError as error:
            refused.append(Refused(name, str(error)))
    return plans, refused


def selected(table: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether the globs let `table` through.

    >>> selected("auth_user", ["auth_*"], []), selected("log", [], ["l?g"]), selected("x", [], [])
    (True, False, True)
    """
    wanted = not include or any(fnmatch.fnmatchcase(table, glob) for glob in include)
    return wanted and not any(fnmatch.fnmatchcase(table, glob) for glob in exclude)


def ordinary_tables(db: apsw.Connection) -> list[tuple[str, bool]]:
    """(name, WITHOUT ROWID) of the application's tables that triggers may stand on; no shadow tables."""
    found = all_rows(db, "SELECT name, wr FROM pragma_table_list WHERE schema='main' AND type='table'")
    mine = sql.fold(PREFIX)
    shadows = {shadow for owned in owned_tables(db) for shadow in owned.shadows}
    return sorted(
        (name, bool(without_rowid))
        for name, without_rowid in found
        if not sql.fold(name).startswith((mine, "sqlite_")) and name not in shadows
    )


def virtual_tables(
    db: apsw.Connection, include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Virtual], list[Refused]]:
    """The virtual tables that are carried, and those that can't be with the reason; globs as in `inspect`."""
    virtuals, refused = [], []
    tables = dict(all_rows(db, "SELECT name, wr FROM pragma_table_list WHERE schema='main'"))
    texts = texts_by_table(db) if (found := owned_tables(db)) else {}
    for owned in found:
        if not selected(owned.name, include, exclude):
            continue
        try:
            shadows = tuple(
                _plan(db, shadow, bool(tables[shadow]), False, frozenset(), texts.get(shadow, ())).shape
                for shadow in owned.shadows
            )
        except ValueError as error:
            refused.append(Refused(owned.name, f"of a table that it is kept in: {error}"))
            continue
        virtuals.append(Virtual(owned.name, owned.module, shadows))
    return virtuals, refused


def _plan(
    db: apsw.Connection, table: str, without_rowid: bool, reread: bool, left_out: frozenset[str], made_by: Texts
) -> TablePlan:
    """The plan of one ordinary table, `made_by` these texts, whose mirror has all indexes but those `left_out`.

    Raises ValueError with the reason where there can be none.
    """
    info = all_rows(db, "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?)", (table,))
    stored = [name for name, _, _, hidden in info if hidden == 0]
    if len(info) > MAX_COLUMNS:
        raise ValueError(f"it has {len(info)} columns; up to {MAX_COLUMNS} can be logged")
    indexes = all_rows(db, 'SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (table,))
    primary = [name for name, _, pk, _ in sorted(info, key=lambda row: row[2]) if pk]
    key_index = next((name for name, _, origin, _ in indexes if origin == "pk"), None)
    key, hidden_key, collations = _key(db, info, primary, key_index, without_rowid)
    columns = (*key, *(name for name in stored if hidden_key or name not in key))
    defaults = {name: _default(text) for name, text in all_rows(db, _DEFAULTS, (table,))}
    alias = set() if hidden_key or without_rowid else set(key)
    generated = [name for name, *_, hidden in info if hidden > 1]
    texts = dict(made_by)
    unknown = Unknown(alias, defaults.keys(), generated, texts.get(table, ""))
    uniques, all_probed = uniques_of(db, set(stored), indexes, key_index if without_rowid else None, texts, unknown)
    unseen = next((index for index, unique, *_ in indexes if unique and index in left_out), None)
    if unseen and (reread or not all_probed):
        raise ValueError(_why_not_without(unseen, reread))
    unique_columns: set[str] = set()
    for unique in uniques:
        unique_columns.update(unique.columns or ("*",))
    shape = Shape(
        id=0,
        table=table,
        columns=columns,
        key_width=len(key),
        hidden_key=hidden_key,
        without_rowid=without_rowid,
        key_collations=collations,
        unique_columns=("*",) if "*" in unique_columns or not all_probed else tuple(sorted(unique_columns)),
        autoincrement=_is_autoincrement(db, table, key, hidden_key, without_rowid),
        touches_logged=all_probed,
    )
    declared = {name: text for name, text, _, hidden in info if hidden == 0}
    sized = [name for name, text in declared.items() if is_often_long(text) and name not in alias]
    strict = one_value(db, "SELECT strict FROM pragma_table_list(?) WHERE schema = 'main'", (table,))
    numeric = () if strict else tuple(name for name in declared if name not in alias and name not in sized)
    return TablePlan(
        shape=shape,
        key_collates=key_collates(db, shape),
        uniques=tuple(uniques),
        sized_columns=tuple(sized),
        numeric_columns=numeric,
        loose_columns=tuple(name for name, text in declared.items() if is_loose(text)),
        reread=reread,
        logs_replaced=unseen is not None,
        pin_rowids=hidden_key and not any(not name.startswith(PREFIX) for name, *_ in indexes),
        columns=tuple(name for name, *_ in info),
        droppable=frozenset(name for name, *_ in info) - set(primary) - _constrained(db, indexes),
        defaults=defaults,
    )


def _why_not_without(index: str, reread: bool) -> str:
    why = "the table has triggers or foreign keys that act" if reread else "not all that a REPLACE removes can be told"
    return f"rows must be unique in its index {index}, which only the application can make, and {why}"


def _unannounced(plan: TablePlan) -> TablePlan:
    """The plan where a REPLACE may remove rows that were not there when our BEFORE trigger looked for them."""
    shape = msgspec.structs.replace(plan.shape, unique_columns=("*",), touches_logged=False)
    return dataclasses.replace(plan, shape=shape)


def can_be_dropped(db: apsw.Connection, table: str, column: str) -> bool:
    """Whether ALTER TABLE might; SQLite may still have something against it."""
    primary = all_rows(db, "SELECT 1 FROM pragma_table_xinfo(?) WHERE name = ? AND pk", (table, column))
    indexes = all_rows(db, 'SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (table,))
    return not primary and column not in _constrained(db, indexes)


def default_as_sql(db: apsw.Connection, table: str, column: str) -> str:
    text = one_value(db, "SELECT dflt_value FROM pragma_table_xinfo(?) WHERE name = ?", (table, column))
    return "NULL" if text is None else _default(text)


def application_objects(db: apsw.Connection, virtuals: Sequence[Virtual]) -> tuple[SchemaObject, ...]:
    """The rows of sqlite_schema that are the application's own, in their order of creation.

    Of virtual tables and shadow tables only those of `virtuals`.
    """
    carried = {table for each in virtuals for table in (each.name, *(shadow.table for shadow in each.shadows))}
    skipped = {
        table for owned in owned_tables(db) for table in (owned.name, *owned.shadows) if table not in carried
    }  # fmt: skip
    rows = all_rows(
        db,
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%'"
        f" ESCAPE '\\' AND name NOT LIKE '{PREFIX.replace('_', chr(92) + '_')}%' ESCAPE '\\' ORDER BY rowid",
    )
    return tuple(SchemaObject(*row) for row in rows if row[1] not in skipped and row[2] not in skipped)


def layout_of(
    db: apsw.Connection, shapes: Sequence[Shape], refused: Sequence[Refused], since: int, virtuals: Sequence[Virtual]
) -> Layout:
    """Everything the mirror's schema is made from; call it inside a read transaction."""
    return Layout(
        objects=application_objects(db, virtuals),
        shapes=tuple(shapes),
        refused=tuple(refused),
        since=since,
        encoding=str(db.pragma("encoding")),
        page_size=int(db.pragma("page_size")),
        auto_vacuum=int(db.pragma("auto_vacuum")),
        journal_mode=str(db.pragma("journal_mode")),
        virtuals=tuple(virtuals),
    )


def _key(
    db: apsw.Connection,
    info: Sequence[tuple[str, str, int, int]],
    primary: Sequence[str],
    key_index: str | None,
    without_rowid: bool,
) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    """(key columns, whether the key is a rowid outside the columns, its collations)."""
    if without_rowid:
        return tuple(primary), False, key_collations(db, key_index, primary)
    # An INTEGER PRIMARY KEY that is the rowid has no index of its own; INT or DESC ones have.
    if len(primary) == 1 and key_index is None:
        return (primary[0],), False, ("BINARY",)
    taken = {sql.fold(name) for name, *_ in info}
    for name in ("rowid", "oid", "_rowid_"):
        if name not in taken:
            return (name,), True, ("BINARY",)
    raise ValueError("its columns hide all three names of the rowid, and it has no INTEGER PRIMARY KEY")


def _constrained(db: apsw.Connection, indexes: Sequence[tuple[str, int, str, int]]) -> set[str]:
    """The columns of UNIQUE constraints, which only go with the table."""
    constraints = [index for index, _, origin, _ in indexes if origin == "u"]
    parts = [all_rows(db, "SELECT name FROM pragma_index_info(?)", (index,)) for index in constraints]
    return {name for names in parts for (name,) in names}


def _default(text: str) -> str:
    """A column's default as SQL that means the same inside a trigger, where a bare or quoted name is a column.

    >>> _default("-0.0"), _default("abc"), _default('"a b"'), _default("CURRENT_DATE"), _default("1 + 1")
    ('(-0.0)', "'abc'", "'a b'", '(CURRENT_DATE)', '(1 + 1)')
    """
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    words = ("TRUE", "FALSE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "NULL")
    if quoted or (text.isidentifier() and text.upper() not in words):
        name = text[1:-1].replace('""', '"') if quoted else text
        return "'" + name.replace("'", "''") + "'"
    return f"({text})"


def _is_autoincrement(
    db: apsw.Connection, table: str, key: Sequence[str], hidden_key: bool, without_rowid: bool
) -> bool:
    if hidden_key or without_rowid:
        return False
    return bool(db.column_metadata(None, table, key[0])[4])


def _restless_tables(db: apsw.Connection) -> set[str]:
    """Tables (folded) whose rows something may change between their write and our AFTER trigger.

    The application's own triggers on the table may; so may foreign key actions, which run before the
    AFTER triggers: of this table's own references (a row may refer to itself), and of tables that refer
    to it (their triggers may write here again).
    """
    triggers = all_rows(
        db,
        "SELECT tbl_name FROM sqlite_schema WHERE type='trigger' AND substr(name, 1, ?) != ?",
        (len(PREFIX), PREFIX),
    )
    found = {sql.fold(table) for (table,) in triggers}
    for child, parent, _, _ in acting_references(db):
        found.update((sql.fold(child), sql.fold(parent)))
    return found
