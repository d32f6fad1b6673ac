"""Giving the mirror the source's schema, object by object.

    evolve(db, layout)   drop what is no more, create what is new, say which tables must be copied

The text of each object comes from the source as it stands in its sqlite_schema, and runs under an
authorizer that lets it create that object and nothing else.

Knows: SQL of sqlite_schema, core.  Does not know: the wire, where rows come from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import apsw

from rollrep.core import sql
from rollrep.core.errors import SchemaProblem
from rollrep.core.nouns import PREFIX, Layout, SchemaObject, Shape
from rollrep.destination.inert import make_inert
from rollrep.query import all_rows
from rollrep.strangers import Strangers, missing_collation, not_known, unknown_here

_DROP_ORDER = ("trigger", "view", "index", "table")
_CREATE_ORDER = ("table", "index", "view", "trigger")
_CREATES = {
    # A table's own keys and checks have indexes and a sqlite_sequence.
    "table": frozenset({apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_INDEX}),
    "index": frozenset({apsw.SQLITE_CREATE_INDEX}),
    "view": frozenset({apsw.SQLITE_CREATE_VIEW}),
    "trigger": frozenset({apsw.SQLITE_CREATE_TRIGGER}),
}
_ENTERS = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE})
_ALWAYS = frozenset({apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_REINDEX})
"""what expressions and the filling of an index do; a SELECT is none: it could run for ever"""
_READ_ONLY_TEXT = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_RECURSIVE})
"""what the body of a view or a trigger may have besides: it is read when it is entered, and not run"""

_VIRTUAL = frozenset({apsw.SQLITE_CREATE_VTABLE})
"""what the text of a virtual table may do besides: its module is an inert one"""


def evolve(db: apsw.Connection, old: Layout | None, new: Layout, *, keep: bool = False) -> list[Shape]:
    """Brings the schema of `db` from `old` to `new`; the shapes whose tables must be copied (again).

    Tables to copy are left empty.  With `keep` those whose text is as it was keep their rows, though their capture was
    interrupted, and are none of them: they are to be compared.  Call it inside a transaction.  Raises SchemaProblem
    with the object's name where one can't be made here.
    """
    make_inert(db, {each.module for layout in (old, new) if layout for each in layout.virtuals})
    wanted = carried(new)
    have = set(carried(old)) if old else set()
    for kind in _DROP_ORDER:
        for gone in have - set(wanted):
            if gone.type == kind:
                db.execute(f"DROP {kind.upper()} IF EXISTS main.{sql.name(gone.name)}")
    # An index or a trigger goes with its table; what exists now is asked, not remembered.
    existing = {
        (kind, name) for kind, name in all_rows(db, "SELECT type, name FROM main.sqlite_schema WHERE sql IS NOT NULL")
    }
    created: set[str] = set()
    virtual = {each.name for each in new.virtuals}
    for kind in _CREATE_ORDER:
        for item in wanted:
            if item.type == kind and (kind, item.name) not in existing:
                created.add(item.name)
                try:
                    create(db, item, allowed=_VIRTUAL if item.name in virtual else frozenset())
                except SchemaProblem as error:
                    if not isinstance(error.__cause__, apsw.ConstraintError):
                        raise
                    # Rows that are UNIQUE at the source are not what is here: it was set back, or has moved on.
                    created.add(item.table)
                    db.execute(f"DELETE FROM main.{sql.name(item.table)}")
                    create(db, item)
    # A table's text may change while its capture goes on (a table that it refers to was renamed): it is
    # made anew here, and so it is empty.
    known = {shape.id for shape in old.shapes} if old else set()
    to_copy = [shape for shape in new.shapes if (shape.id not in known and not keep) or shape.table in created]
    # So is one that is left out from now on, as if it always had been: rows that nobody follows would pass for true.
    left_out = ({shape.table for shape in old.shapes} if old else set()) - {shape.table for shape in new.shapes}
    tables = {item.name for item in wanted if item.type == "table" and item.name not in virtual}
    for table in [*(shape.table for shape in to_copy), *sorted(left_out & tables)]:
        db.execute(f"DELETE FROM main.{sql.name(table)}")
    for shape in new.shapes:
        _require_columns(db, shape)
    return to_copy


def _require_columns(db: apsw.Connection, shape: Shape) -> None:
    """A shape that is believed and fits no table would be asked for by every later pull, and by `mirror` too."""
    if needed := missing_collation(db, shape.table):
        raise not_known("collation", needed[0])
    try:
        # Only a name behind a table's is never taken for a text.
        all_rows(db, f"SELECT {sql.names(shape.columns, 't.')} FROM main.{sql.name(shape.table)} t LIMIT 0")
    except apsw.SQLError as error:
        raise SchemaProblem(
            f"the source says of table {shape.table} what its own text does not: {error}",
            remedy="this is no fault of yours: look who answers there",
        ) from error


def carried(layout: Layout) -> list[SchemaObject]:
    """The objects that the mirror has: all but tables that can't be captured and indexes that can't be made."""
    tables = {sql.fold(each.table) for each in layout.refused if not each.index}
    left_out = {item.name for item in indexes_left_out(layout)}
    return [item for item in layout.objects if sql.fold(item.table) not in tables and item.name not in left_out]


def indexes_left_out(layout: Layout) -> list[SchemaObject]:
    """Indexes that the mirror does not have though it has their tables: only the application knows their order."""
    names = {each.index for each in layout.refused if each.index}
    return [item for item in layout.objects if item.type == "index" and item.name in names]


def create(db: apsw.Connection, item: SchemaObject, allowed: frozenset[int] = frozenset()) -> None:
    """Runs the object's text, which somebody else wrote.  Raises SchemaProblem where it does anything else."""
    if sql.fold(item.name).startswith((PREFIX, "sqlite_")) or not item.sql.upper().startswith("CREATE "):
        raise SchemaProblem(f"the source offers {item.type} {item.name!r}, which is not an application's")
    try:
        with _only_creating(db, item, allowed), Strangers(db) as strangers:
            while True:
                try:
                    all_rows(db, item.sql)
                    break
                except apsw.SQLError as error:
                    if not strangers.supply(str(error), item.sql):
                        raise
    except apsw.Error as error:
        if unknown := unknown_here(error):
            raise unknown from error
        raise SchemaProblem(
            f"{item.type} {item.name} can't be made in the mirror: {error}",
            remedy="leave its table out: rollrep source install DB --exclude TABLE",
        ) from error


@contextlib.contextmanager
def _only_creating(db: apsw.Connection, item: SchemaObject, allowed: frozenset[int]) -> Iterator[None]:
    """Nothing but the entry of an object of that kind and name, with what SQLite itself makes for it."""
    creates = _CREATES.get(item.type, frozenset()) | allowed
    harmless = _ALWAYS | (_READ_ONLY_TEXT if item.type in ("view", "trigger") else frozenset())

    def judge(action: int, name: str | None, _b: str | None, database: str | None, _d: str | None) -> int:
        if action in creates:
            ours = name is not None and sql.fold(name) in (sql.fold(item.name), "sqlite_sequence")
            own = action == apsw.SQLITE_CREATE_INDEX and name is not None and name.startswith("sqlite_autoindex_")
            right = database == "main" and (ours or own)
        elif action in _ENTERS:
            right = (name, database) == ("sqlite_master", "main")
        else:
            right = action in harmless
        return apsw.SQLITE_OK if right else apsw.SQLITE_DENY

    db.authorizer = judge
    try:
        yield
    finally:
        db.authorizer = None
