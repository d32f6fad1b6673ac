"""Replaying log rows on a mirror: the same end as the source's, value for value.

    window of the log ──► per table ──┬─ net     the last row of each key, as sets, in key order
                                      └─ in order  every row, as it was logged

Net replay (`rollrep/destination/net.py`) is the same as row by row where no REPLACE removed a row unseen.
Such a removal is announced by a TOUCHED row; a key whose last row in a window is one makes the table's replay
go in order, with OR REPLACE under the same UNIQUE indexes, which repeats what the source did.  From then to
the end of the pull that table stays in order, because the row that did the replacing may stand in the next
window.

Knows: SQL of the mirror's tables and of a batch, core.  Does not know: where batches come from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import apsw

from rollrep.core import sql
from rollrep.core.errors import RollrepError, SchemaProblem
from rollrep.core.nouns import PREFIX, Facts, Op, Shape
from rollrep.destination.indexes import LeftOut
from rollrep.destination.net import key_columns, replay_net
from rollrep.destination.patches import LOGGED
from rollrep.destination.touched import open_touches
from rollrep.query import all_rows, find_row, one_value

ROW = f"{PREFIX}row"
ONE = f"{PREFIX}replay_one"


class OrderNeeded(Exception):
    """A table would have to be replayed in order, and the caller said that this would not be right."""


class Replay:
    """Replays windows of `batch.log` on `main`, from one commit boundary of the source to the next.

    `shapes` says which tables are replayed; rows of other shapes are refused, or left out where
    `ignore_unknown` is set (a mirror operation that has yet to copy their tables).  With `finished` the
    caller promises to call `finish` before each commit, and indexes may be left out until then.

    With `net_only`, OrderNeeded is raised rather than a table replayed in order.  Of the shapes `compared`, a window
    that begins below zero holds rows that were fetched at several moments: a PUT brings all of a row, so that it
    removes what it removed at the source, but a PATCH may meet values of another moment, and OrderNeeded is raised.
    """

    def __init__(
        self,
        db: apsw.Connection,
        shapes: Mapping[int, Shape],
        *,
        in_order: bool = False,
        net_only: bool = False,
        compared: Collection[int] = (),
        ignore_unknown: bool = False,
        finished: bool = False,
    ) -> None:
        self._db = db
        self._shapes = shapes
        self._all_in_order = in_order
        self._net_only = net_only
        self._compared = compared
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
                self._table(shape, first, last, ops)
            elif not self._ignore_unknown:
                raise SchemaProblem(f"the log speaks of shape {shape_id}, which this mirror does not have")
        return sum(sum(ops.values()) for ops in counted.values())

    def finish(self) -> None:
        """Ends what `window` left open: the indexes that were left out are built again."""
        if self._left_out:
            self._left_out.build()

    def _table(self, shape: Shape, first: int, last: int, ops: Mapping[int, int]) -> None:
        if (
            self._all_in_order
            or (not shape.touches_logged and self._is_logged(shape, first, last))
            or (Op.TOUCHED in ops and self._has_open_touch(shape, first, last))
        ):
            is_of_moments = first < 0 and shape.id in self._compared
            if self._net_only or (is_of_moments and Op.PATCH in ops):
                raise OrderNeeded
            self._in_order.add(shape.id)
        try:
            if shape.id in self._in_order:
                replay_in_order(self._db, shape, first, last)
            else:
                replay_net(self._db, shape, first, last)
            if shape.autoincrement:
                _raise_sequence(self._db, shape, first, last)
        except (apsw.ConstraintError, apsw.MismatchError) as error:
            raise RollrepError(
                f"log rows {first} to {last} can't be replayed on table {shape.table}: {error}",
                remedy="nothing was changed; mirror again: rollrep mirror JOB",
            ) from error

    def _is_logged(self, shape: Shape, first: int, last: int) -> bool:
        """Whether there are log rows of it: what was fetched has ids below zero, and is of one moment without them."""
        if first > 0:
            return True
        query = "SELECT 1 FROM batch.log WHERE shape = ? AND id BETWEEN 1 AND ? LIMIT 1"
        return find_row(self._db, query, (shape.id, last)) is not None

    def _has_open_touch(self, shape: Shape, first: int, last: int) -> bool:
        # Not the key itself, which may be text that is none.
        query = f"SELECT 1 FROM ({open_touches(shape)}) LIMIT 1"
        return find_row(self._db, query, (shape.id, first, last)) is not None


def replay_in_order(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """Every row as it was logged, by one INSERT ... SELECT into a temporary view.

    TEMP triggers fire although triggers are switched off (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html,
    SQLITE_DBCONFIG_ENABLE_TRIGGER), so only this one does.
    """
    # A table named `new` hides NEW where it has such a column, so ours have names that no table's have.
    op, *values = (f"{PREFIX}{name}" for name in ("op", *(f"v{n}" for n in range(shape.width + 1))))
    mask = values.pop()
    table = sql.name(shape.table)
    same = " AND ".join(f"{key} = new.{value}" for key, value in zip(key_columns(db, shape), values, strict=False))
    logged = ", ".join(["op", *(f"v{n}" for n in range(shape.width + 1))])
    patched = ", ".join(
        f"{sql.name(column)} = CASE WHEN new.{mask} >> {n} & 1 THEN new.{values[n]} ELSE {sql.name(column)} END"
        for n, column in enumerate(shape.columns)
        if n >= shape.key_width
    )
    db.execute(f"CREATE TEMP VIEW {ROW}({', '.join([op, *values, mask])}) AS SELECT {logged} FROM batch.log")
    try:
        db.execute(
            f"CREATE TEMP TRIGGER {ONE} INSTEAD OF INSERT ON {ROW} BEGIN"
            f" DELETE FROM {table} WHERE new.{op} = {Op.DELETE:d} AND {same};"
            f" INSERT OR REPLACE INTO {table}({sql.names(shape.columns)})"
            f" SELECT {', '.join('new.' + value for value in values)} WHERE new.{op} = {Op.PUT:d};"
            + (f" UPDATE OR REPLACE {table} SET {patched} WHERE new.{op} = {Op.PATCH:d} AND {same};" if patched else "")
            + " END"
        )
        db.execute(
            f"INSERT INTO {ROW} SELECT {logged} FROM batch.log"
            f" WHERE shape = ? AND id BETWEEN ? AND ? AND op IN ({LOGGED}) ORDER BY id",
            (shape.id, first, last),
        )
    finally:
        db.execute(f"DROP VIEW {ROW}")


def apply_facts(db: apsw.Connection, facts: Facts, shapes: Sequence[Shape]) -> None:
    """What no trigger sees, as it was at `facts.head`."""
    apply_header(db, facts)
    set_sequence(db, dict(facts.sequence), shapes)


def apply_header(db: apsw.Connection, facts: Facts) -> None:
    """The two numbers of the file's header, as they were at `facts.head`."""
    db.execute(f"PRAGMA main.user_version = {facts.user_version:d}")
    db.execute(f"PRAGMA main.application_id = {facts.application_id:d}")


def set_sequence(db: apsw.Connection, sequence: Mapping[str, int], shapes: Sequence[Shape]) -> None:
    """Makes sqlite_sequence what it was, for the tables that are captured."""
    if has_sequence(db, sequence, shapes):
        return
    for table in (shape.table for shape in shapes if shape.autoincrement):
        db.execute("DELETE FROM main.sqlite_sequence WHERE name = ?", (table,))
        if table in sequence:
            db.execute("INSERT INTO main.sqlite_sequence(name, seq) VALUES (?, ?)", (table, sequence[table]))


def has_facts(db: apsw.Connection, facts: Facts, shapes: Sequence[Shape]) -> bool:
    """Whether all that no trigger sees is already so.

    An INSERT ... SELECT of no row, or one that is ignored, changes sqlite_sequence and logs nothing.
    """
    have = (db.pragma("user_version"), db.pragma("application_id"))
    return have == (facts.user_version, facts.application_id) and has_sequence(db, dict(facts.sequence), shapes)


def has_sequence(db: apsw.Connection, sequence: Mapping[str, int], shapes: Sequence[Shape]) -> bool:
    """Whether sqlite_sequence is already so, for the tables that are captured."""
    captured = {shape.table for shape in shapes if shape.autoincrement}
    if not captured:
        return True
    have = dict(all_rows(db, "SELECT name, seq FROM main.sqlite_sequence"))
    return all(have.get(table) == sequence.get(table) for table in captured)


def point_sequence(text: str, encoding: str) -> dict[str, int]:
    """What a point says of sqlite_sequence.

    >>> point_sequence("75736572:17", "UTF-8")
    {'user': 17}
    """
    pairs = (pair.rpartition(":") for pair in text.split())
    return {bytes.fromhex(name).decode(encoding): int(value) for name, _, value in pairs}


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
