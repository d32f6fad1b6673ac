"""The rows of a change: what became, since another snapshot, of every key that the log names; once for each key.

    segments ──► keys, and which of a row's values an UPDATE changed ──┐
    the mirror as it is ───────────────────────────────────────────────┴──► PUT, PATCH or DELETE ──► changed.log
    changes, one after the other ──► what a later row of the same key makes needless goes ─────────► changed.log

They have the form of log rows, under the id of the key's newest log row.  The mirror knows the end of every key, so
nothing is TOUCHED any more and the order of rows means nothing: they are replayed net, in one window.  That needs a
commit of the source at both ends, and tables in which every removal was announced (`touches_logged`).

Knows: SQL of the mirror's tables, of a batch and of `changed`.  Does not know: files, the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX, Op, Shape
from rollrep.query import all_rows, one_value
from rollrep.wire.images import log_table, log_width

CHANGED = "changed"
LOG = f"{CHANGED}.log"
KEYS = f"{PREFIX}keys"
NEWEST = f"{PREFIX}newest"
WHOLE = -1
"""instead of a mask: all values of the row"""


def attach_changed(db: apsw.Connection, path: Path, shapes: Sequence[Shape]) -> None:
    """A new image of log rows of these shapes in the file `path`, as `changed` of `db`."""
    path.touch(mode=0o600)  # a connection to the mirror makes no file
    db.execute(f"ATTACH ? AS {CHANGED}", (str(path),))
    for pragma in ("journal_mode", "synchronous"):
        db.execute(f"PRAGMA {CHANGED}.{pragma} = OFF").fetchall()
    db.execute(log_table(LOG, log_width(shapes)))


def note_keys(db: apsw.Connection, shapes: Sequence[Shape], after: int) -> None:
    """Remembers the keys that log rows of `batch` beyond `after` name, and the union of their masks."""
    named = {shape for (shape,) in all_rows(db, "SELECT DISTINCT shape FROM batch.log WHERE id > ?", (after,))}
    for shape in (each for each in shapes if each.id in named):
        keys = _keys(shape)
        _create(db, f"{KEYS}_{shape.id}", shape, "id, mask")
        db.execute(
            f"INSERT INTO temp.{KEYS}_{shape.id}({keys}, id, mask)"
            f" SELECT {', '.join(f'v{n}' for n in range(shape.key_width))}, id,"
            f" CASE op WHEN {Op.PATCH:d} THEN v{shape.width} ELSE {WHOLE} END FROM batch.log"
            f" WHERE shape = ? AND id > ? AND op IN ({Op.DELETE:d}, {Op.PUT:d}, {Op.TOUCHED:d}, {Op.PATCH:d})"
            f" ORDER BY id ON CONFLICT({keys}) DO UPDATE SET id = excluded.id,"
            f" mask = CASE WHEN mask < 0 OR excluded.mask < 0 THEN {WHOLE} ELSE mask | excluded.mask END",
            (shape.id, after),
        )


def count_keys(db: apsw.Connection) -> int:
    """How many keys are remembered."""
    return sum(int(one_value(db, f"SELECT count(*) FROM temp.{name}")) for name in _remembered(db))


def _remembered(db: apsw.Connection) -> set[str]:
    """The tables of keys."""
    found = all_rows(db, f"SELECT name FROM sqlite_temp_schema WHERE type = 'table' AND name GLOB '{KEYS}_*'")
    return {name for (name,) in found}


def put_rows(db: apsw.Connection, shapes: Sequence[Shape]) -> None:
    """Puts the rows of the remembered keys, as the mirror has them now, into `changed`."""
    remembered = _remembered(db)
    for shape in (each for each in shapes if f"{KEYS}_{each.id}" in remembered):
        there = f"t.{sql.name(shape.key[0])} IS NOT NULL"
        values = [
            f"CASE WHEN {there} THEN t.{sql.name(column)} ELSE k.k{n} END"
            if n < shape.key_width
            else f"CASE WHEN k.mask < 0 OR k.mask >> {n} & 1 THEN t.{sql.name(column)} END"
            for n, column in enumerate(shape.columns)
        ]
        same = " AND ".join(
            f"t.{sql.name(column)} = k.k{n}" + (f" COLLATE {collation}" if shape.without_rowid else "")
            for n, (column, collation) in enumerate(zip(shape.key, shape.key_collations, strict=True))
        )
        db.execute(
            f"INSERT INTO {LOG}(id, at, shape, op, {', '.join(f'v{n}' for n in range(shape.width + 1))})"
            f" SELECT k.id, 0, {shape.id:d},"
            f" CASE WHEN NOT {there} THEN {Op.DELETE:d} WHEN k.mask < 0 THEN {Op.PUT:d} ELSE {Op.PATCH:d} END,"
            f" {', '.join(values)}, CASE WHEN {there} AND k.mask >= 0 THEN k.mask END"
            f" FROM temp.{KEYS}_{shape.id} k LEFT JOIN main.{sql.name(shape.table)} t ON {same} ORDER BY k.id"
        )
        db.execute(f"DROP TABLE temp.{KEYS}_{shape.id}")


def add_change(db: apsw.Connection) -> None:
    """Adds the rows of the change in `batch` to `changed`."""
    db.execute(f"INSERT INTO {LOG} SELECT * FROM batch.log")


def drop_needless(db: apsw.Connection, shapes: Sequence[Shape]) -> None:
    """Of several changes that were added, leaves only the rows that tell what their keys became."""
    for shape in shapes:
        same = " AND ".join(f"k.k{n} = l.v{n} COLLATE {each}" for n, each in enumerate(shape.key_collations))
        _create(db, NEWEST, shape, "whole, last, mask")
        mask = f"v{shape.width}"
        try:
            db.execute(
                f"INSERT INTO temp.{NEWEST} SELECT {', '.join(f'v{n}' for n in range(shape.key_width))},"
                f" max(CASE WHEN op <> {Op.PATCH:d} THEN id ELSE 0 END), 0, NULL FROM {LOG} WHERE shape = ?"
                f" GROUP BY {', '.join(f'v{n} COLLATE {each}' for n, each in enumerate(shape.key_collations))}",
                (shape.id,),
            )
            newest = f"SELECT k.whole FROM temp.{NEWEST} k WHERE {same}"
            db.execute(f"DELETE FROM {LOG} AS l WHERE shape = ? AND id < ({newest})", (shape.id,))
            if shape.without_rowid:
                continue
            db.execute(
                f"UPDATE temp.{NEWEST} AS n SET (last, mask) = (l.id, l.{mask}) FROM"
                f" (SELECT v0, max(id) AS id, {mask} FROM {LOG} WHERE shape = ? AND op = {Op.PATCH:d} GROUP BY v0) l"
                " WHERE n.k0 = l.v0",
                (shape.id,),
            )
            db.execute(
                f"DELETE FROM {LOG} AS l WHERE shape = ? AND op = {Op.PATCH:d} AND EXISTS (SELECT 1 FROM"
                f" temp.{NEWEST} k WHERE {same} AND l.id < k.last AND l.{mask} & ~k.mask = 0)",
                (shape.id,),
            )
        finally:
            db.execute(f"DROP TABLE temp.{NEWEST}")
    db.execute(f"VACUUM {CHANGED}")


def _create(db: apsw.Connection, name: str, shape: Shape, more: str) -> None:
    if shape.without_rowid:
        columns = ", ".join(f"k{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations))
        layout = f"({columns}, {more}, PRIMARY KEY ({_keys(shape)})) WITHOUT ROWID"
    else:
        layout = f"(k0 INTEGER PRIMARY KEY, {more})"
    db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name}{layout}")


def _keys(shape: Shape) -> str:
    return ", ".join(f"k{n}" for n in range(shape.key_width))
