"""Replaying log rows on a mirror: the same end as the source's, value for value.

    window of the log ──► per table ──┬─ net     the last row of each key, as sets, in key order
                                      └─ in order  every row, as it was logged

Net replay deletes, updates only the columns that changed (SQLite rewrites the entries of every index
that names a column in SET), and inserts, each as one statement.  It is the same as row by row where no
REPLACE removed a row unseen.  Such a removal is announced by a TOUCHED row; a key whose last row in a
window is one makes the table's replay go in order, with OR REPLACE under the same UNIQUE indexes, which
repeats what the source did.  From then to the end of the pull that table stays in order, because the
row that did the replacing may stand in the next window.

Knows: SQL of the mirror's tables and of a batch, core.  Does not know: where batches come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw

from rollrep.core import sql
from rollrep.core.errors import RollrepError, SchemaProblem
from rollrep.core.nouns import PREFIX, Facts, Op, Shape
from rollrep.destination.indexes import LeftOut
from rollrep.query import all_rows, find_row, one_value

NET = f"temp.{PREFIX}net"
ROW = f"{PREFIX}row"
ONE = f"{PREFIX}replay_one"
NEW_ROW = -1
"""the mask of a row that the mirror does not have"""
MOST_MASKS = 16
MASK_BITS = 60


class Replay:
    """Replays windows of `batch.log` on `main`, from one commit boundary of the source to the next.

    `shapes` says which tables are replayed; rows of other shapes are refused, or left out where
    `ignore_unknown` is set (a mirror operation that has yet to copy their tables).  With `finished` the
    caller promises to call `finish` before each commit, and indexes may be left out until then.
    """

    def __init__(
        self,
        db: apsw.Connection,
        shapes: Mapping[int, Shape],
        *,
        in_order: bool = False,
        ignore_unknown: bool = False,
        finished: bool = False,
    ) -> None:
        self._db = db
        self._shapes = shapes
        self._all_in_order = in_order
        self._ignore_unknown = ignore_unknown
        self._in_order: set[int] = set()
        self._left_out = LeftOut(db) if finished else None

    def window(self, first: int, last: int) -> int:
        """Replays the rows of batch.log with first ≤ id ≤ last; returns how many operations those are.

        Call it inside a transaction.  Raises RollrepError naming the table and SQLite's reason where a
        row can't be replayed; the caller takes the transaction back.
        """
        counted: dict[int, dict[int, int]] = {}
        found = all_rows(
            self._db,
            "SELECT shape, op, count(*) FROM batch.log WHERE id BETWEEN ? AND ? GROUP BY shape, op",
            (first, last),
        )
        for shape_id, op, rows in found:
            counted.setdefault(shape_id, {})[op] = rows
        counted.pop(0, None)
        for shape_id, ops in counted.items():
            shape = self._shapes.get(shape_id)
            if shape is not None:
                if self._left_out:
                    self._left_out.announce(shape.table, sum(ops.values()))
                self._table(shape, first, last, touched=Op.TOUCHED in ops)
            elif not self._ignore_unknown:
                raise SchemaProblem(f"the log speaks of shape {shape_id}, which this mirror does not have")
        return sum(sum(ops.values()) for ops in counted.values())

    def keep_order(self) -> None:
        """From here on every row is replayed as it was logged."""
        self._all_in_order = True

    def finish(self) -> None:
        """Ends what `window` left open: the indexes that were left out are built again."""
        if self._left_out:
            self._left_out.build()

    def _table(self, shape: Shape, first: int, last: int, *, touched: bool) -> None:
        if self._all_in_order or not shape.touches_logged or (touched and self._has_open_touch(shape, first, last)):
            self._in_order.add(shape.id)
        self._db.execute("SAVEPOINT one_table")
        try:
            if shape.id in self._in_order:
                replay_in_order(self._db, shape, first, last)
            else:
                replay_net(self._db, shape, first, last)
            if shape.autoincrement:
                _raise_sequence(self._db, shape, first, last)
        except apsw.ConstraintError as error:
            raise RollrepError(
                f"log rows {first} to {last} can't be replayed on table {shape.table}: {error}",
                remedy="nothing was changed; mirror again: rollrep mirror JOB",
            ) from error
        self._db.execute("RELEASE one_table")

    def _has_open_touch(self, shape: Shape, first: int, last: int) -> bool:
        query = (
            f"SELECT 1 FROM (SELECT max(id), op FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ?"
            f" GROUP BY {_key_values(shape)}) WHERE op = {Op.TOUCHED:d} LIMIT 1"
        )
        return find_row(self._db, query, (shape.id, first, last)) is not None


def replay_in_order(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """Every row as it was logged, by one INSERT ... SELECT into a temporary view.

    TEMP triggers fire although triggers are switched off (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html,
    SQLITE_DBCONFIG_ENABLE_TRIGGER), so only this one does.
    """
    values = [f"v{n}" for n in range(shape.width)]
    table = sql.name(shape.table)
    same = " AND ".join(f"{sql.name(column)} = new.{value}" for column, value in zip(shape.key, values, strict=False))
    db.execute(f"CREATE TEMP VIEW {ROW} AS SELECT op, {', '.join(values)} FROM batch.log")
    try:
        db.execute(
            f"CREATE TEMP TRIGGER {ONE} INSTEAD OF INSERT ON {ROW} BEGIN"
            f" DELETE FROM {table} WHERE new.op = {Op.DELETE:d} AND {same};"
            f" INSERT OR REPLACE INTO {table}({sql.names(shape.columns)})"
            f" SELECT {', '.join('new.' + value for value in values)} WHERE new.op = {Op.PUT:d}; END"
        )
        db.execute(
            f"INSERT INTO {ROW} SELECT op, {', '.join(values)} FROM batch.log"
            f" WHERE shape = ? AND id BETWEEN ? AND ? AND op < {Op.TOUCHED:d} ORDER BY id",
            (shape.id, first, last),
        )
    finally:
        db.execute(f"DROP VIEW {ROW}")


def replay_net(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """The last row of each key, as sets.

    Rows are taken out before any is put in, and a row whose UNIQUE columns changed is taken out too:
    so two rows that swapped a unique value never meet, and every INSERT is a plain one, which would
    fail, loudly, if a removal had been missed.
    """
    table = f"main.{sql.name(shape.table)}"
    width = range(shape.key_width)
    keys = ", ".join(f"k{n}" for n in width)
    _create_net(db, shape)
    try:
        db.execute(
            f"INSERT INTO {NET}({keys}, id, op, mask)"
            f" SELECT {', '.join(f'l.v{n}' for n in width)}, l.id, l.op, CASE WHEN l.op = {Op.DELETE:d} THEN 0"
            f" WHEN t.{sql.name(shape.key[0])} IS NULL THEN {NEW_ROW} ELSE {_mask(shape)} END"
            f" FROM (SELECT max(id) AS id FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ?"
            f" AND op < {Op.TOUCHED:d} GROUP BY {_key_values(shape)}) g CROSS JOIN batch.log l ON l.id = g.id"
            f" LEFT JOIN {table} t ON {_same_key(shape, 't', 'l.v')}",
            (shape.id, first, last),
        )
        moved = _moved_bits(shape)
        out = f"op = {Op.DELETE:d} OR (mask > 0 AND mask & {moved})"
        if find_row(db, f"SELECT 1 FROM {NET} WHERE {out} LIMIT 1"):
            db.execute(f"DELETE FROM {table} WHERE {_key_tuple(shape)} IN (SELECT {keys} FROM {NET} WHERE {out})")
        _update_changed(db, shape, moved)
        db.execute(
            f"INSERT INTO {table}({sql.names(shape.columns)}) SELECT {', '.join(f'l.v{n}' for n in range(shape.width))}"
            f" FROM {NET} n CROSS JOIN batch.log l ON l.id = n.id"
            f" WHERE n.mask = {NEW_ROW} OR (n.mask > 0 AND n.mask & {moved}) ORDER BY {keys}"
        )
    finally:
        db.execute(f"DROP TABLE {NET}")


def _create_net(db: apsw.Connection, shape: Shape) -> None:
    """The table of net rows, by key: what is the last row of each in the log, and what it changes."""
    if shape.without_rowid:
        columns = [f"k{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations)]
        keys = ", ".join(f"k{n}" for n in range(shape.key_width))
        body, ending = f"{', '.join(columns)}, id, op, mask, PRIMARY KEY ({keys})", " WITHOUT ROWID"
    else:
        body, ending = "k0 INTEGER PRIMARY KEY, id, op, mask", ""
    db.execute(f"CREATE TEMP TABLE {NET.partition('.')[2]}({body}){ending}")


def apply_facts(db: apsw.Connection, facts: Facts, shapes: Sequence[Shape]) -> None:
    """What no trigger sees, as it was at `facts.head`."""
    db.execute(f"PRAGMA main.user_version = {facts.user_version:d}")
    db.execute(f"PRAGMA main.application_id = {facts.application_id:d}")
    set_sequence(db, dict(facts.sequence), shapes)


def set_sequence(db: apsw.Connection, sequence: Mapping[str, int], shapes: Sequence[Shape]) -> None:
    """Makes sqlite_sequence what it was, for the tables that are captured."""
    captured = {shape.table for shape in shapes if shape.autoincrement}
    if not captured:
        return
    wanted = {name: value for name, value in sequence.items() if name in captured}
    have = dict(all_rows(db, "SELECT name, seq FROM main.sqlite_sequence"))
    if {name: value for name, value in have.items() if name in captured} == wanted:
        return
    for table in captured:
        db.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (table,))
    for name, value in wanted.items():
        db.execute("INSERT INTO main.sqlite_sequence(name, seq) VALUES (?, ?)", (name, value))


def point_sequence(text: str, encoding: str) -> dict[str, int]:
    """What a point says of sqlite_sequence.

    >>> point_sequence("75736572:17", "UTF-8")
    {'user': 17}
    """
    pairs = (pair.rpartition(":") for pair in text.split())
    return {bytes.fromhex(name).decode(encoding): int(value) for name, _, value in pairs}


def _update_changed(db: apsw.Connection, shape: Shape, moved: int) -> None:
    masks = [
        mask
        for (mask,) in all_rows(
            db,
            f"SELECT mask FROM {NET} WHERE op = {Op.PUT:d} AND mask > 0 AND NOT mask & {moved}"
            " GROUP BY mask ORDER BY count(*) DESC",
        )
    ]
    groups = [(mask, f"n.mask = {mask}") for mask in masks[:MOST_MASKS]]
    if rest := masks[MOST_MASKS:]:
        union = 0
        for mask in rest:
            union |= mask
        groups.append((union, f"n.mask IN ({', '.join(map(str, rest))})"))
    # Keys first, then a look-up for each: as one join (UPDATE ... FROM) the planner may scan the whole table of
    # the mirror, because it knows the size of neither side.  A unary plus leaves the key's affinity out of the
    # comparison, so that the net table's own index serves it.
    same = " AND ".join(f"n.k{n} = +t.{sql.name(column)}" for n, column in enumerate(shape.key))
    for mask, which in groups:
        changed = [n for n in range(shape.width) if mask >> _bit(n) & 1]
        columns = sql.names(shape.columns[n] for n in changed)
        values = ", ".join(f"l.v{n}" for n in changed)
        db.execute(
            f"UPDATE main.{sql.name(shape.table)} AS t SET {f'({columns})' if len(changed) > 1 else columns}"
            f" = (SELECT {values} FROM {NET} n CROSS JOIN batch.log l ON l.id = n.id WHERE {same})"
            f" WHERE {_key_tuple(shape)} IN (SELECT {', '.join(f'k{n}' for n in range(shape.key_width))}"
            f" FROM {NET} n WHERE {which} AND n.op = {Op.PUT:d})"
        )


def _raise_sequence(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """sqlite_sequence remembers the largest key ever inserted, also of rows that net replay never saw."""
    largest = one_value(
        db,
        f"SELECT max(v0) FROM batch.log WHERE shape = ? AND op = {Op.PUT:d} AND id BETWEEN ? AND ?",
        (shape.id, first, last),
    )
    if largest is None:
        return
    db.execute("UPDATE main.sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (largest, shape.table))
    if not db.changes():
        db.execute("INSERT INTO main.sqlite_sequence(name, seq) VALUES (?, ?)", (shape.table, largest))


def _bit(column: int) -> int:
    """Columns beyond the mask's bits share its last one."""
    return min(column, MASK_BITS)


def _mask(shape: Shape) -> str:
    """SQL for a bit per column that is not exactly, to the storage class, what the mirror has.

    `IS NOT` alone finds 1 equal to 1.0, -0.0 to 0.0, and 'a' to 'A' under NOCASE.
    """
    compared = range(0 if shape.without_rowid else shape.key_width, shape.width)
    terms = []
    for n in compared:
        mine, logged = f"t.{sql.name(shape.columns[n])}", f"l.v{n}"
        differs = (
            f"({mine} COLLATE BINARY IS NOT {logged} OR typeof({mine}) <> typeof({logged})"
            f" OR (typeof({logged}) = 'real' AND {logged} = 0.0))"
        )
        terms.append(f"{differs} << {_bit(n)}")
    return _joined(terms, "|") or "0"


def _joined(terms: Sequence[str], operator: str) -> str:
    if len(terms) <= 8:
        return f" {operator} ".join(f"({term})" for term in terms)
    middle = len(terms) // 2
    return f"({_joined(terms[:middle], operator)}) {operator} ({_joined(terms[middle:], operator)})"


def _moved_bits(shape: Shape) -> int:
    """The bits of columns whose change makes a row be taken out and put in again."""
    if "*" in shape.unique_columns:
        return (1 << (MASK_BITS + 1)) - 1
    fixed = set(shape.unique_columns) | (set(shape.key) if shape.without_rowid else set())
    bits = 0
    for n, column in enumerate(shape.columns):
        if column in fixed:
            bits |= 1 << _bit(n)
    return bits


def _same_key(shape: Shape, row: str, value: str) -> str:
    return " AND ".join(f"{row}.{sql.name(column)} = {value}{n}" for n, column in enumerate(shape.key))


def _key_tuple(shape: Shape) -> str:
    key = sql.names(shape.key)
    return f"({key})" if shape.key_width > 1 else key


def _key_values(shape: Shape) -> str:
    return ", ".join(f"v{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations))
