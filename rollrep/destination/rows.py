"""One row: which one a person means, what it was in a state, and whether another row replaced it.

    find    17, 'a', x'00', owner=ann  ──► the key, as tokens, by the columns' own affinity
    read    key ──► the row in a file that has the mirror's tables
    Scratch the table alone, empty, with what must be unique in it: does a row that is put there remove this one?

Knows: SQL of the mirror's tables by their shape.  Does not know: the archive, lines, points.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.errors import UsageError
from rollrep.core.literals import read_value, value_column
from rollrep.core.nouns import Layout, Shape
from rollrep.core.tokens import Bindable, bind_key, bind_token
from rollrep.destination.schema import carried, create
from rollrep.query import all_rows, find_row, one_value

Key = tuple[str, ...]
Row = dict[str, str]
"""tokens by column, the key's first"""

_BLOB = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[apsw.Connection]:
    """A reader of a file that nobody changes."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as db:
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        yield db


def read_row(db: apsw.Connection, shape: Shape, key: Key) -> Row | None:
    """The row with this key; None where there is none."""
    values = ", ".join(value_column(f"t.{sql.name(column)}") for column in shape.columns)
    terms, bound = key_terms(shape, key, [f"t.{sql.name(column)}" for column in shape.key])
    found = find_row(db, f"SELECT {values} FROM main.{sql.name(shape.table)} AS t WHERE {terms}", bound)
    return None if found is None else dict(zip(shape.columns, map(read_value, found), strict=True))


def key_terms(shape: Shape, key: Key, columns: Sequence[str]) -> tuple[str, list[Bindable]]:
    """(SQL that is true of the row with this key, what to bind)."""
    expressions, bound = bind_key(key)
    terms = [
        f"{column} COLLATE {collation} = {expression}" if shape.without_rowid else f"{column} = {expression}"
        for column, collation, expression in zip(columns, shape.key_collations, expressions, strict=True)
    ]
    return " AND ".join(terms), bound


class Scratch:
    """The table alone, in memory."""

    def __init__(self, layout: Layout, shape: Shape) -> None:
        self._shape = shape
        self.db = apsw.Connection(":memory:")
        self.db.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
        self.db.execute(f"PRAGMA encoding = '{layout.encoding}'").fetchall()
        self.db.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        mine = [each for each in carried(layout) if each.table == shape.table]
        for kind in ("table", "index"):
            for each in mine:
                if each.type == kind:
                    create(self.db, each)

    def close(self) -> None:
        self.db.close()

    def primary_key(self) -> tuple[str, ...]:
        """The columns of the declared primary key."""
        query = "SELECT name FROM pragma_table_xinfo(?) WHERE pk ORDER BY pk"
        return tuple(name for (name,) in all_rows(self.db, query, (self._shape.table,)))

    def is_replaced(self, key: Key, row: Row, other: Row) -> bool:
        """Whether `other`, put where `row` is, removes it."""
        self.db.execute(f"DELETE FROM {sql.name(self._shape.table)}")
        for each in (row, other):
            expressions, bound = bind_key(each.values())
            self.db.execute(
                f"INSERT OR REPLACE INTO {sql.name(self._shape.table)}({sql.names(each)})"
                f" VALUES ({', '.join(expressions)})",
                bound,
            )
        return read_row(self.db, self._shape, key) is None

    def as_stored(self, column: str, text: str) -> str:
        """The token of what `text` becomes in this column, by its affinity; x'00ff' is a blob."""
        query = "SELECT type FROM pragma_table_xinfo(?) WHERE name = ?"
        declared = one_value(self.db, query, (self._shape.table, column)) or ""
        number = "integer" if column in self._shape.key and not self._shape.without_rowid else declared
        self.db.execute("DROP TABLE IF EXISTS temp.one")
        # An affinity follows from a word in the type's name, whatever else it holds.
        affine = re.sub(r"[^A-Za-z ]", " ", str(number)).strip()
        self.db.execute(f"CREATE TEMP TABLE one(c {sql.name(affine) if affine else ''})")
        bound: Bindable | str = text
        if blob := _BLOB.fullmatch(text):
            bound = bytes.fromhex(blob[1])
        elif affine.upper() in ("", "BLOB", "ANY") and re.fullmatch(r"-?\d{1,18}", text):
            bound = int(text)
        self.db.execute("INSERT INTO temp.one VALUES (?)", (bound,))
        return read_value(one_value(self.db, f"SELECT {value_column('c')} FROM temp.one"))


def named_tokens(layout: Layout, shape: Shape, words: Sequence[str]) -> dict[str, str]:
    """What `words` say of which columns, as tokens: `col=value` each, or as many values as the key has columns.

    Where rows are told apart by a rowid that is no column, the values are those of the declared primary key.
    Raises UsageError.
    """
    with contextlib.closing(Scratch(layout, shape)) as scratch:
        named = _named(shape, scratch.primary_key() if shape.hidden_key else (), words)
        tokens = {column: scratch.as_stored(column, text) for column, text in named.items()}
    if not shape.without_rowid and not tokens.get(shape.key[0], "i:").startswith("i:"):
        raise UsageError(f"{named[shape.key[0]]!r} is no {shape.key[0]} of {shape.table}", remedy="give a whole number")
    return tokens


def _named(shape: Shape, primary: Sequence[str], words: Sequence[str]) -> Mapping[str, str]:
    known = {sql.fold(column): column for column in shape.columns}
    pairs = [word.partition("=") for word in words]
    if all(sign and sql.fold(name) in known for name, sign, _ in pairs):
        return {known[sql.fold(name)]: value for name, _, value in pairs}
    wanted = list(primary or shape.key)
    if len(words) == len(wanted):
        return dict(zip(wanted, words, strict=True))
    example = " ".join(f"{column}=..." for column in wanted)
    raise UsageError(
        f"{len(words)} of the {len(wanted)} values of the key of {shape.table} were given",
        remedy=f"write {example}",
    )


def find_key(db: apsw.Connection, shape: Shape, wanted: Mapping[str, str]) -> Key | None:
    """The key of the one row with these values (tokens); None where there is none.  Raises UsageError for several."""
    tokens = [bind_token(token) for token in wanted.values()]
    terms = " AND ".join(
        f"t.{sql.name(column)} = {expression}" for column, (expression, _) in zip(wanted, tokens, strict=True)
    )
    keys = ", ".join(value_column(f"t.{sql.name(column)}") for column in shape.key)
    found = all_rows(
        db,
        f"SELECT {keys} FROM main.{sql.name(shape.table)} AS t WHERE {terms} LIMIT 2",
        [bound for _, bound in tokens],
    )
    if len(found) > 1:
        raise UsageError(f"more than one row of {shape.table} has that", remedy=f"give the key: {', '.join(shape.key)}")
    return tuple(map(read_value, found[0])) if found else None
