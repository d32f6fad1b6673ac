"""Net replay: what a window of the log does to a table in the end, as sets.

    the last row of each key ──► rows that go, or whose UNIQUE values change, are taken out
                             ──► rows are updated, naming only the columns that changed
                             ──► rows are put in, replacing nothing, in key order
                             ──► rows are patched, those just put in as well

Rows are taken out before any is put in: so two rows that swapped a unique value never meet, and every INSERT fails,
loudly, if a removal had been missed, whatever the table's own ON CONFLICT says.  Each statement that fails takes the
transaction back: to take itself back, it would keep a copy of each page that it changes.  SQLite rewrites the entries
of every index that names a column in SET, so only what differs is named.

Knows: SQL of the mirror's tables and of a batch, core.  Does not know: when net replay is the same as in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import apsw

from rollrep.core import sql
from rollrep.core.errors import RollrepError
from rollrep.core.nouns import MASK_BITS, Op, Shape
from rollrep.destination.patches import LOGGED, NET, fold_odd_patches
from rollrep.query import all_rows, find_row, own_collations

NEW_ROW = -1
"""the mask of a row that the mirror does not have"""
MOST_MASKS = 16


def replay_net(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """Brings the table to where log rows `first` to `last` lead.

    Raises RollrepError where a PATCH meets no row: then the mirror is not what the source was.
    """
    table = f"main.{sql.name(shape.table)}"
    keys = ", ".join(f"k{n}" for n in range(shape.key_width))
    moved = moved_bits(shape)
    try:
        if shape.without_rowid:
            _gather_by_key(db, shape, first, last)
        else:
            _gather_by_rowid(db, shape, first, last)
            fold_odd_patches(db, shape, first, last, moved)
            _require_rows(db, shape)
        out = f"op = {Op.DELETE:d} OR (mask > 0 AND mask & {moved})"
        if find_row(db, f"SELECT 1 FROM {NET} WHERE {out} LIMIT 1"):
            db.execute(f"DELETE FROM {table} WHERE {_key_tuple(db, shape)} IN (SELECT {keys} FROM {NET} WHERE {out})")
        _update(db, shape, Part("id", "mask", f"op = {Op.PUT:d} AND mask > 0 AND NOT mask & {moved}"))
        db.execute(
            f"INSERT OR ROLLBACK INTO {table}({sql.names(shape.columns)})"
            f" SELECT {', '.join(f'l.v{n}' for n in range(shape.width))}"
            f" FROM {NET} n CROSS JOIN batch.log l ON l.id = n.id"
            f" WHERE n.mask = {NEW_ROW} OR (n.mask > 0 AND n.mask & {moved}) ORDER BY {keys}"
        )
        if not shape.without_rowid:
            # Behind the PUTs, since the row that is patched may be among them.
            _update(db, shape, Part("patch", "patched", "patched > 0"))
    finally:
        db.execute(f"DROP TABLE IF EXISTS {NET}")


def _gather_by_rowid(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """For each key its last PUT or DELETE, and its last PATCH behind that.

    Only where a PUT meets a row of the mirror are its values looked at, so most log rows are read once.  The
    largest of id * 2 + op is the last PUT or DELETE and tells which.
    """
    patch, mask = f"op = {Op.PATCH:d}", f"v{shape.width}"
    db.execute(
        f"CREATE TEMP TABLE {NET.partition('.')[2]}"
        "(k0 INTEGER PRIMARY KEY, id, op, mask, patch, patched, is_there, is_odd)"
    )
    # Every name says whose it is: the application's columns may be called anything, `last` for one.
    compared = f"SELECT {_mask(shape)} FROM batch.log l WHERE l.id = g.whole >> 1"
    db.execute(
        f"INSERT INTO {NET} SELECT g.k0, g.whole >> 1, g.whole & 1,"
        f" CASE WHEN g.whole & 1 = {Op.DELETE:d} THEN 0 WHEN t.{sql.name(shape.key[0])} IS NULL THEN {NEW_ROW}"
        f" WHEN g.whole & 1 = {Op.PUT:d} THEN ({compared}) END,"
        " CASE WHEN g.last > ifnull(g.whole >> 1, 0) THEN g.last END,"
        " CASE WHEN g.last > ifnull(g.whole >> 1, 0) THEN g.most END,"
        f" t.{sql.name(shape.key[0])} IS NOT NULL, g.least <> g.most AND g.last > ifnull(g.whole >> 1, 0)"
        f" FROM (SELECT v0 AS k0, max(id) AS last, max(CASE WHEN {patch} THEN NULL ELSE id * 2 + op END) AS whole,"
        f" min(CASE WHEN {patch} THEN {mask} END) AS least, max(CASE WHEN {patch} THEN {mask} END) AS most"
        f" FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ? AND op IN ({LOGGED}) GROUP BY v0) g"
        f" LEFT JOIN main.{sql.name(shape.table)} t ON t.{sql.name(shape.key[0])} = g.k0",
        (shape.id, first, last),
    )


def _gather_by_key(db: apsw.Connection, shape: Shape, first: int, last: int) -> None:
    """The last row of each key of a table WITHOUT ROWID, which has no PATCHes."""
    keys = ", ".join(f"k{n}" for n in range(shape.key_width))
    columns = ", ".join(f"k{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations))
    db.execute(
        f"CREATE TEMP TABLE {NET.partition('.')[2]}({columns}, id, op, mask, PRIMARY KEY ({keys})) WITHOUT ROWID"
    )
    db.execute(
        f"INSERT INTO {NET}({keys}, id, op, mask)"
        f" SELECT {', '.join(f'l.v{n}' for n in range(shape.key_width))}, l.id, l.op,"
        f" CASE WHEN l.op = {Op.DELETE:d} THEN 0 WHEN t.{sql.name(shape.key[0])} IS NULL THEN {NEW_ROW}"
        f" ELSE {_mask(shape)} END FROM (SELECT max(id) AS id FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ?"
        f" AND op IN ({LOGGED}) GROUP BY {key_values(shape)}) g CROSS JOIN batch.log l ON l.id = g.id"
        f" LEFT JOIN main.{sql.name(shape.table)} t ON {_same_key(db, shape)}",
        (shape.id, first, last),
    )


def _require_rows(db: apsw.Connection, shape: Shape) -> None:
    """Every PATCH must meet a row: one of the mirror, or one that is put."""
    found = find_row(
        db,
        f"SELECT patch, k0 FROM {NET} WHERE patch IS NOT NULL AND op IS NOT {Op.PUT:d}"
        f" AND (op = {Op.DELETE:d} OR NOT is_there) LIMIT 1",
    )
    if found:
        raise RollrepError(
            f"log row {found[0]} changes row {found[1]} of table {shape.table}, which the mirror does not have",
            remedy="nothing was changed; mirror again: rollrep mirror JOB",
        )


class Part(NamedTuple):
    """Which rows of the net are updated, and the columns of it that say from which log row and in what."""

    log_id: str
    mask: str
    which: str


def _update(db: apsw.Connection, shape: Shape, part: Part) -> None:
    """Updates rows from the log, naming the columns of their masks only: a statement for each common mask."""
    masks = [
        mask
        for (mask,) in all_rows(
            db, f"SELECT {part.mask} FROM {NET} WHERE {part.which} GROUP BY 1 ORDER BY count(*) DESC"
        )
    ]
    for mask in masks[:MOST_MASKS]:
        changed = {n: f"l.v{n}" for n in range(shape.width) if mask >> _bit(n) & 1}
        _update_columns(db, shape, part, changed, f"n.{part.mask} = {mask}")
    if rest := masks[MOST_MASKS:]:
        union = 0
        for mask in rest:
            union |= mask
        named = [n for n in range(shape.width) if union >> _bit(n) & 1]
        changed = {
            n: f"CASE WHEN n.{part.mask} >> {_bit(n)} & 1 THEN l.v{n} ELSE t.{sql.name(shape.columns[n])} END"
            for n in named
        }
        _update_columns(db, shape, part, changed, f"n.{part.mask} IN ({', '.join(map(str, rest))})")


def _update_columns(db: apsw.Connection, shape: Shape, part: Part, changed: Mapping[int, str], which: str) -> None:
    # Keys first, then a look-up for each: as one join (UPDATE ... FROM) the planner may scan the whole table of
    # the mirror, because it knows the size of neither side.  A unary plus leaves the key's affinity out of the
    # comparison, so that the net table's own index serves it.
    same = " AND ".join(f"n.k{n} = +t.{sql.name(column)}" for n, column in enumerate(shape.key))
    columns = sql.names(shape.columns[n] for n in changed)
    db.execute(
        f"UPDATE OR ROLLBACK main.{sql.name(shape.table)} AS t SET {f'({columns})' if len(changed) > 1 else columns}"
        f" = (SELECT {', '.join(changed.values())} FROM {NET} n CROSS JOIN batch.log l ON l.id = n.{part.log_id}"
        f" WHERE {same}) WHERE {_key_tuple(db, shape)} IN (SELECT {', '.join(f'k{n}' for n in range(shape.key_width))}"
        f" FROM {NET} n WHERE {which} AND {part.which})"
    )


def _bit(column: int) -> int:
    """Columns beyond the mask's bits share its last one."""
    return min(column, MASK_BITS)


def _mask(shape: Shape) -> str:
    """SQL for a bit per column that is not exactly what the mirror has."""
    compared = range(0 if shape.without_rowid else shape.key_width, shape.width)
    terms = [f"({sql.differs(f't.{sql.name(shape.columns[n])}', f'l.v{n}')} << {_bit(n)})" for n in compared]
    return sql.balanced(terms, " | ") or "0"


def moved_bits(shape: Shape) -> int:
    """The bits of columns whose change makes a row be taken out and put in again."""
    if "*" in shape.unique_columns:
        return (1 << (MASK_BITS + 1)) - 1
    fixed = set(shape.unique_columns) | (set(shape.key) if shape.without_rowid else set())
    bits = 0
    for n, column in enumerate(shape.columns):
        if column in fixed:
            bits |= 1 << _bit(n)
    return bits


def _same_key(db: apsw.Connection, shape: Shape) -> str:
    return " AND ".join(f"{term} = l.v{n}" for n, term in enumerate(key_columns(db, shape, "t.")))


def _key_tuple(db: apsw.Connection, shape: Shape) -> str:
    key = ", ".join(key_columns(db, shape))
    return f"({key})" if shape.key_width > 1 else key


def key_columns(db: apsw.Connection, shape: Shape, prefix: str = "") -> list[str]:
    """The key columns of `main`, each with the key's collation where that is not its own.

    Else 'a' and 'a ' are one row where the column is RTRIM and the key is not (https://www.sqlite.org/datatype3.html,
    7.1).  It is not said of others: in a row value, a column with a COLLATE enters no index.
    """
    if not shape.without_rowid:
        return [prefix + sql.name(column) for column in shape.key]
    own = own_collations(db, shape.table, shape.key)
    return sql.collated((prefix + sql.name(column) for column in shape.key), own, shape.key_collations)


def key_values(shape: Shape) -> str:
    return ", ".join(f"v{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations))
