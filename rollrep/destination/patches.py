"""Odd PATCHes: keys whose last PATCH does not tell all that became of them since their last PUT.

    PUT ── PATCH of a ── PATCH of a      net replay puts the first and patches with the last: nothing odd
    PATCH of a ── PATCH of b             folded, row by row in the log's order, to a PATCH of a and b
    PUT ── PATCH of a ── PATCH of b      folded to a PUT
    PATCH of a UNIQUE column             folded to a PUT, the rest from the mirror: such a row is taken out and put in

A PATCH logs only the values that an UPDATE changed.  Of PATCHes of the same columns the last one counts, and that
is nearly every key: the same statement ran again.  What is folded is written over the key's last row in
`batch.log`, which is a copy of ours; the archive keeps what came.

Knows: SQL of a batch, of the net and of the mirror's tables, core.  Only tables with one integer key have PATCHes.
"""

from __future__ import annotations

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX, Op, Shape
from rollrep.query import find_row

NET = f"temp.{PREFIX}net"
FOLDED = f"{PREFIX}folded"
FOLD = f"{PREFIX}fold"
FOLD_ONE = f"{PREFIX}fold_one"
LOGGED = f"{Op.DELETE:d}, {Op.PUT:d}, {Op.PATCH:d}"
"""the operations that say what is behind a key"""


def fold_odd_patches(db: apsw.Connection, shape: Shape, first: int, last: int, moved: int) -> None:
    """Makes each odd key of the net a PUT of the whole row, or one PATCH of columns that are not UNIQUE.

    `moved` are the bits of columns whose change takes a row out of the mirror first.
    """
    odd = f"patch IS NOT NULL AND op IS NOT {Op.DELETE:d} AND (is_odd OR patched & {moved})"
    if find_row(db, f"SELECT 1 FROM {NET} WHERE {odd} LIMIT 1") is None:
        return
    rest = range(1, shape.width)
    mask = f"v{shape.width}"
    db.execute(f"CREATE TEMP TABLE {FOLDED}(id, op, v0 INTEGER PRIMARY KEY{''.join(f', v{n}' for n in rest)}, {mask})")
    try:
        _fold_in_order(db, shape, f"SELECT k0 FROM {NET} WHERE {odd}", (shape.id, first, last))
        _complete_from_mirror(db, shape, moved)
        columns = ", ".join(["op", *(f"v{n}" for n in range(shape.width + 1))])
        db.execute(
            f"INSERT OR REPLACE INTO batch.log(id, at, shape, {columns})"
            f" SELECT l.id, l.at, l.shape, {', '.join('f.' + column for column in columns.split(', '))}"
            f" FROM temp.{FOLDED} f CROSS JOIN batch.log l ON l.id = f.id"
        )
        # A PUT of a row that the mirror has counts as a change of all its columns.
        every = (1 << shape.width) - 2
        db.execute(
            f"UPDATE {NET} AS n SET (id, op, mask, patch, patched) = (SELECT"
            f" CASE WHEN f.op = {Op.PUT:d} THEN f.id END, CASE WHEN f.op = {Op.PUT:d} THEN f.op END,"
            f" CASE WHEN f.op = {Op.PATCH:d} THEN NULL WHEN n.is_there THEN {every} ELSE -1 END,"
            f" CASE WHEN f.op = {Op.PATCH:d} THEN f.id END, CASE WHEN f.op = {Op.PATCH:d} THEN f.{mask} END"
            f" FROM temp.{FOLDED} f WHERE f.v0 = n.k0) WHERE k0 IN (SELECT v0 FROM temp.{FOLDED})"
        )
    finally:
        db.execute(f"DROP TABLE temp.{FOLDED}")


def _fold_in_order(db: apsw.Connection, shape: Shape, keys: str, window: tuple[int, int, int]) -> None:
    """Every row of those keys, one after the other, by a trigger on a temporary view."""
    mask = f"v{shape.width}"
    columns = ", ".join(["id", "op", *(f"v{n}" for n in range(shape.width + 1))])
    news = ", ".join(f"new.{column}" for column in columns.split(", "))
    patched = "".join(
        f", v{n} = CASE WHEN new.{mask} >> {n} & 1 THEN new.v{n} ELSE v{n} END" for n in range(1, shape.width)
    )
    db.execute(f"CREATE TEMP VIEW {FOLD} AS SELECT {columns} FROM batch.log")
    try:
        db.execute(
            f"CREATE TEMP TRIGGER {FOLD_ONE} INSTEAD OF INSERT ON {FOLD} BEGIN"
            f" DELETE FROM {FOLDED} WHERE v0 = new.v0 AND new.op <> {Op.PATCH:d};"
            f" UPDATE {FOLDED} SET id = new.id{patched}, {mask} = {mask} | new.{mask} WHERE v0 = new.v0;"
            f" INSERT INTO {FOLDED}({columns})"
            f" SELECT {news} WHERE NOT EXISTS (SELECT 1 FROM {FOLDED} WHERE v0 = new.v0); END"
        )
        db.execute(
            f"INSERT INTO {FOLD}({columns}) SELECT {columns} FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ?"
            f" AND op IN ({LOGGED}) AND v0 IN ({keys}) ORDER BY id",
            window,
        )
    finally:
        db.execute(f"DROP VIEW {FOLD}")


def _complete_from_mirror(db: apsw.Connection, shape: Shape, moved: int) -> None:
    mask = f"v{shape.width}"
    values = ", ".join(
        f"CASE WHEN f.{mask} >> {n} & 1 THEN f.v{n} ELSE t.{sql.name(column)} END"
        for n, column in enumerate(shape.columns)
        if n > 0
    )
    db.execute(
        f"INSERT OR REPLACE INTO temp.{FOLDED}(id, op, v0, {', '.join(f'v{n}' for n in range(1, shape.width))}, {mask})"
        f" SELECT f.id, {Op.PUT:d}, f.v0, {values}, NULL FROM temp.{FOLDED} f CROSS JOIN main.{sql.name(shape.table)} t"
        f" ON t.{sql.name(shape.key[0])} = f.v0 WHERE f.op = {Op.PATCH:d} AND f.{mask} & {moved}"
    )
