"""Foreign keys of an undo script: which rows must stay as they are, so that no key is broken; and the last guard.

    a row that would go is referred to by one that stays              ──► it stays
    a row that would come refers to one that neither is nor comes     ──► it stays away
    ... and so do those that these are needed by: the rules among rows of the script are written into it, as pairs
        (if this one stays, so does that), and followed to their end

Which rows of the script refer to each other is known from A and B.  Who else refers to them is asked where the script
runs: a row is referred to by a stranger if more rows refer to it than those of the script that are still as at B.

Of rows that replace each other under one key, the later stays wherever the earlier does not come back, though it might
go where nobody refers to that key.  A row that can't be put in for another reason (a unique value that was taken) is
not foreseen: what refers to it breaks a key, and the guard stops it all.

A key that was broken at A is left out, for its application does not enforce it: the guard alone counts it.  So are
keys of generated columns.

Knows: differences, SQL for SQLite's shell.  Does not know: how rows are taken back.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import apsw

from rollrep.core import sql
from rollrep.core.literals import literal
from rollrep.core.nouns import PREFIX
from rollrep.destination.described import Described, described, schema_rows
from rollrep.destination.differences import ADDED, AFTER, BEFORE, REMOVED, RowChange, TableDifference, rows_of
from rollrep.query import all_rows, one_value

ROWS = f"temp.{PREFIX}undo"
PAIRS = f"temp.{PREFIX}undo_pairs"
BROKEN = f"temp.{PREFIX}undo_keys"
WAS_BROKEN = f"temp.{PREFIX}undo_before"
NAMED = 20
"""of the rows whose keys would be broken, at most so many are named"""

Wanted = Callable[[TableDifference, RowChange], bool]


@dataclasses.dataclass(frozen=True)
class ForeignKey:
    number: int
    child: Described
    parent: Described
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    bare: tuple[bool, ...]
    """whether `=` between the two columns compares as the foreign key does, so that an index of either serves"""

    def match(self, child: str, parent: str) -> str:
        # The parent's collation and affinity count, so it stands on the left and a `+` takes the child's affinity away.
        return " AND ".join(
            f"{parent}.{sql.name(to)} = {'' if bare else '+'}{child}.{sql.name(column)}"
            for column, to, bare in zip(self.columns, self.parent_columns, self.bare, strict=True)
        )


def tables_with_keys(db: apsw.Connection, touched: Iterable[str]) -> list[str]:
    """The tables whose foreign keys may be broken: those that are touched, and those that refer to them."""
    names = {sql.fold(name) for name in touched}
    found = []
    for row in schema_rows(db, AFTER):
        if row.type == "table":
            parents = all_rows(db, 'SELECT "table" FROM pragma_foreign_key_list(?, ?)', (row.name, AFTER))
            if parents and (sql.fold(row.name) in names or names & {sql.fold(parent) for (parent,) in parents}):
                # Keys that refer to what is no key ("foreign key mismatch") can't be checked, nor are they enforced.
                with contextlib.suppress(apsw.SQLError):
                    db.execute("SELECT 1 FROM pragma_foreign_key_check(?, ?) LIMIT 1", (row.name, AFTER)).fetchall()
                    found.append(row.name)
    return found


def count_before(keyed: Sequence[str]) -> Iterator[str]:
    """Notes which keys are broken before anything is taken back."""
    yield (
        f"CREATE TEMP TABLE {PREFIX}undo_keys(broken, CONSTRAINT"
        f' "foreign keys would be broken, nothing was changed" CHECK (broken <= 0));'
    )
    yield f"CREATE TEMP TABLE {PREFIX}undo_before AS {_broken(keyed)};"


def guard(db: apsw.Connection, keyed: Sequence[str]) -> Iterator[str]:
    """Stops where more keys are broken than were before and at A; names those that were not."""
    more = f"(SELECT count(*) FROM ({_broken(keyed)})) - max((SELECT count(*) FROM {WAS_BROKEN}), {_at_a(db, keyed)})"
    same = "w.tbl = x.tbl AND w.nr = x.nr AND w.parent = x.parent AND w.fk = x.fk"
    yield (
        "SELECT 'would be broken: ' || coalesce('the row with rowid ' || nr, 'a row') || ' of ' || tbl ||"
        f" ' refers to a row of ' || parent || ' that is not there' FROM ({_broken(keyed)}) x"
        f" WHERE {more} > 0 AND NOT EXISTS (SELECT 1 FROM {WAS_BROKEN} w WHERE {same}) LIMIT {NAMED};"
    )
    yield f"INSERT INTO {BROKEN} SELECT {more};"


def keep_back(
    db: apsw.Connection,
    tables: Sequence[TableDifference],
    keyed: Sequence[str],
    encoding: str,
    wanted: Wanted,
    entangled: dict[int, frozenset[int]],
) -> Iterator[str]:
    """Statements after which no row counts as it was at B whose taking back would break a key."""
    keys = _enforced(db, keyed)
    if not keys:
        return
    yield "-- Which rows must stay, because another refers to them, or because they refer to one that is not there?"
    yield f"CREATE TEMP TABLE {PREFIX}undo_pairs(fk, if_tbl, if_n, tbl, n, why);"
    yield f"CREATE INDEX {PAIRS}_if ON {PREFIX}undo_pairs(if_tbl, if_n);"
    yield f"CREATE INDEX {PAIRS}_then ON {PREFIX}undo_pairs(tbl, n, fk);"
    by_name = {sql.fold(table.name): table for table in tables}
    for key in keys:
        yield from _Rules(db, key, by_name, encoding, wanted).statements()
    for number, rows in entangled.items():
        first, *others = sorted(rows)
        why = sql.text("it swaps unique values with a row that is left alone")
        for other in others:
            for one, two in ((first, other), (other, first)):
                yield f"INSERT INTO {PAIRS} VALUES (NULL, {number}, {one}, {number}, {two}, {why});"
    yield (
        f"UPDATE {ROWS} SET is_as_at_b = 0, why = '' WHERE is_as_at_b AND rowid IN (WITH RECURSIVE stays(tbl, n) AS"
        f" (SELECT tbl, n FROM {ROWS} WHERE NOT is_as_at_b UNION SELECT p.tbl, p.n FROM stays s JOIN {PAIRS} p"
        f" ON p.if_tbl = s.tbl AND p.if_n = s.n)"
        f" SELECT r.rowid FROM stays s JOIN {ROWS} r ON r.tbl = s.tbl AND r.n = s.n);"
    )
    yield (
        f"UPDATE {ROWS} SET why = (SELECT min(p.why) FROM {PAIRS} p JOIN {ROWS} s ON s.tbl = p.if_tbl AND s.n = p.if_n"
        f" WHERE p.tbl = {PREFIX}undo.tbl AND p.n = {PREFIX}undo.n AND NOT s.is_as_at_b) WHERE why = '';"
    )


class _Rules:
    """What one foreign key asks for."""

    def __init__(
        self,
        db: apsw.Connection,
        key: ForeignKey,
        tables: dict[str, TableDifference],
        encoding: str,
        wanted: Wanted,
    ) -> None:
        self._db, self._key, self._encoding, self._wanted = db, key, encoding, wanted
        self._child = tables.get(sql.fold(key.child.name))
        self._parent = tables.get(sql.fold(key.parent.name))
        self._referred = sql.text(f"a row of {key.child.name} that stays refers to it")
        self._orphan = sql.text(f"the row of {key.parent.name} that it refers to is not there")
        self._follows = sql.text("the row that had its key does not come back")

    def statements(self) -> Iterator[str]:
        going, coming = self._changing(self._parent, self._key.parent_columns)
        unref, ref = self._changing(self._child, self._key.columns)
        brought: dict[int, int] = {}
        if self._child and self._parent:
            brought = {child: parent for child, parent in self._pairs(BEFORE) if child in ref and parent in coming}
        # What stays from the start brings nothing back: then the row counts as one whose key nobody else will have.
        replaced: dict[int, str] = {}
        for came, went in self._replaced():
            if came in coming and went in going:
                replaced[went] = "0" if came == went else f"NOT {self._is_as_at_b(self._parent, came)}"
                if came != went:
                    when = self._is_as_at_b(self._parent, came)
                    yield self._pair("NULL", self._parent, came, self._parent, went, self._follows, when)
        if self._child and self._parent:
            for child, parent in self._pairs(AFTER):
                if child in unref and parent in going and replaced.get(parent) != "0":
                    # A row that was changed since refers to something else now, and is counted like a stranger.
                    still = f"{self._is_as_at_b(self._child, child)} AND {replaced.get(parent, '1')}"
                    number = str(self._key.number)
                    yield self._pair(number, self._child, child, self._parent, parent, self._referred, still)
        for row, change in going.items():
            if replaced.get(row) != "0":
                yield self._stays_where_referred_to(change, replaced.get(row, "1"))
        for row, change in ref.items():
            yield from self._stays_where_orphaned(change, brought.get(row))

    def _changing(
        self, table: TableDifference | None, columns: Sequence[str]
    ) -> tuple[dict[int, RowChange], dict[int, RowChange]]:
        """The rows of the script that give up what they have in `columns`, and those that get something else there."""
        lose: dict[int, RowChange] = {}
        get: dict[int, RowChange] = {}
        for change in rows_of(self._db, table) if table else ():
            is_other = not set(columns).isdisjoint(change.changed)
            if is_other and self._wanted(table, change):  # type: ignore[arg-type]
                if change.kind != REMOVED and change.after and "n:" not in map(change.after.get, columns):
                    lose[change.number] = dataclasses.replace(change, before=None, after=None)
                if change.kind != ADDED and change.before and "n:" not in map(change.before.get, columns):
                    needed = {column: change.before[column] for column in columns}
                    get[change.number] = dataclasses.replace(change, before=needed, after=None)
        return lose, get

    def _pairs(self, schema: str) -> Iterator[tuple[int, int]]:
        """(child, parent) by their numbers, of rows that differ and refer to each other in that state."""
        assert self._child and self._parent
        key = self._key
        yield from self._db.execute(
            f"SELECT k.n, l.n FROM {self._child.keys} k CROSS JOIN {schema}.{sql.name(key.child.name)} x"
            f" ON {_is_row(key.child, 'x', 'k')} CROSS JOIN {schema}.{sql.name(key.parent.name)} p"
            f" ON {key.match('x', 'p')} CROSS JOIN {self._parent.keys} l ON {_is_row(key.parent, 'p', 'l')}"
        )

    def _replaced(self) -> Iterator[tuple[int, int]]:
        """(the row at A, the row at B) that have the same key to refer to."""
        if not self._parent:
            return
        shape = self._key.parent
        same = " AND ".join(f"x.{sql.name(name)} = y.{sql.name(name)}" for name in self._key.parent_columns)
        yield from self._db.execute(
            f"SELECT k.n, l.n FROM {self._parent.keys} k CROSS JOIN {BEFORE}.{sql.name(shape.name)} x"
            f" ON {_is_row(shape, 'x', 'k')} CROSS JOIN {AFTER}.{sql.name(shape.name)} y ON {same}"
            f" CROSS JOIN {self._parent.keys} l ON {_is_row(shape, 'y', 'l')}"
        )

    def _stays_where_referred_to(self, change: RowChange, when: str) -> str:
        assert self._parent
        key = self._key
        found = " AND ".join(
            f"{key.parent.term(n, 'p')} = {literal(token, self._encoding)}"
            for n, token in enumerate(change.key.values())
        )
        this = f"tbl = {self._parent.number} AND n = {change.number}"
        return (
            f"UPDATE {ROWS} SET is_as_at_b = 0, why = {self._referred} WHERE {this} AND is_as_at_b"
            f" AND {when} AND (SELECT count(*) FROM {sql.name(key.parent.name)} p"
            f" CROSS JOIN {sql.name(key.child.name)} c"
            f" WHERE {found} AND {key.match('c', 'p')})"
            f" > (SELECT count(*) FROM {PAIRS} e JOIN {ROWS} r ON r.tbl = e.if_tbl AND r.n = e.if_n"
            f" WHERE e.tbl = {self._parent.number} AND e.n = {change.number} AND e.fk = {key.number}"
            f" AND r.is_as_at_b);"
        )

    def _stays_where_orphaned(self, change: RowChange, brought_by: int | None) -> Iterator[str]:
        assert self._child and change.before
        key = self._key
        terms = " AND ".join(
            f"p.{sql.name(to)} = {literal(change.before[column], self._encoding)}"
            for column, to in zip(key.columns, key.parent_columns, strict=True)
        )
        missing = f"NOT EXISTS (SELECT 1 FROM {sql.name(key.parent.name)} p WHERE {terms})"
        if brought_by is None:
            this = f"tbl = {self._child.number} AND n = {change.number}"
            yield (f"UPDATE {ROWS} SET is_as_at_b = 0, why = {self._orphan} WHERE {this} AND is_as_at_b AND {missing};")
        elif (self._parent, brought_by) != (self._child, change.number):
            yield self._pair("NULL", self._parent, brought_by, self._child, change.number, self._orphan, missing)

    def _is_as_at_b(self, table: TableDifference | None, row: int) -> str:
        assert table
        return f"(SELECT is_as_at_b FROM {ROWS} WHERE tbl = {table.number} AND n = {row})"

    def _pair(
        self,
        fk: str,
        if_table: TableDifference | None,
        if_row: int,
        table: TableDifference | None,
        row: int,
        why: str,
        when: str = "1",
    ) -> str:
        assert if_table and table
        return (
            f"INSERT INTO {PAIRS} SELECT {fk}, {if_table.number}, {if_row}, {table.number}, {row}, {why} WHERE {when};"
        )


def _is_row(shape: Described, alias: str, keys: str) -> str:
    return " AND ".join(f"{shape.term(n, alias)} = {keys}.k{n}" for n in range(len(shape.key)))


def _enforced(db: apsw.Connection, keyed: Sequence[str]) -> list[ForeignKey]:
    shapes = {sql.fold(name): shape for name, shape in described(db, AFTER).items()}
    found: list[ForeignKey] = []
    for name in keyed:
        broken = set()
        with contextlib.suppress(apsw.SQLError):
            query = "SELECT DISTINCT fkid FROM pragma_foreign_key_check(?, ?)"
            broken = {number for (number,) in db.execute(query, (name, BEFORE))}
        listed: dict[int, list[tuple[str, str, str | None]]] = {}
        query = 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?, ?) ORDER BY id, seq'
        for number, parent, column, to in all_rows(db, query, (name, AFTER)):
            listed.setdefault(number, []).append((parent, column, to))
        for number, parts in listed.items():
            child, parent_shape = shapes.get(sql.fold(name)), shapes.get(sql.fold(parts[0][0]))
            if number not in broken and child and parent_shape:
                found += _foreign_key(db, len(found), child, parent_shape, parts)
    return found


def _foreign_key(
    db: apsw.Connection, number: int, child: Described, parent: Described, parts: list[tuple[str, str, str | None]]
) -> Iterator[ForeignKey]:
    mine, theirs = ({sql.fold(column): column for column in shape.columns} for shape in (child, parent))
    columns = [mine.get(sql.fold(column)) for _, column, _ in parts]
    named = [to for _, _, to in parts if to is not None] or parent.primary_key
    others = [theirs.get(sql.fold(to)) for to in named]
    kept, kept_others = tuple(filter(None, columns)), tuple(filter(None, others))
    if len(kept) == len(kept_others) == len(parts):
        pairs = zip(kept, kept_others, strict=True)
        bare = tuple(_compares_alike(_affinity(db, child, one), _affinity(db, parent, two)) for one, two in pairs)
        yield ForeignKey(number, child, parent, kept, kept_others, bare)


def _compares_alike(child: str, parent: str) -> bool:
    return parent in (child, "NUMERIC")


def _affinity(db: apsw.Connection, shape: Described, column: str) -> str:
    """TEXT, BLOB, or NUMERIC for any that is of numbers (https://www.sqlite.org/datatype3.html, 3.1)."""
    query = "SELECT upper(type) FROM pragma_table_xinfo(?, ?) WHERE name = ?"
    declared = str(one_value(db, query, (shape.name, AFTER, column)) or "")
    if declared == "ANY":
        return declared  # none in a STRICT table, numeric elsewhere
    if "INT" in declared:
        return "NUMERIC"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    return "BLOB" if "BLOB" in declared or not declared else "NUMERIC"


def _at_a(db: apsw.Connection, tables: Sequence[str]) -> int:
    """How many foreign keys were broken at A: an application that does not enforce them gets that state back."""
    broken = 0
    for name in tables:
        with contextlib.suppress(apsw.SQLError):
            query = "SELECT count(*) FROM pragma_foreign_key_check(?, ?)"
            broken += int(one_value(db, query, (name, BEFORE)) or 0)
    return broken


def _broken(tables: Sequence[str]) -> str:
    return " UNION ALL ".join(
        f'SELECT "table" AS tbl, rowid AS nr, parent, fkid AS fk FROM pragma_foreign_key_check({sql.text(name)})'
        for name in tables
    )
