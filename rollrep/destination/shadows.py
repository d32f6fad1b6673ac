"""Shadow tables at the destination: what they differ in from the source's, kept in the archive and put in.

    known_ranges    digests of what is here, for the source to compare with its own
    Received        what it sent: whole ranges, in a file beside the mirror
    make_change     only the rows that are put and those that are gone, as a database of its own
    put_change      such a database on a mirror

A change holds, for the n-th of its tables, `put<n>(v0 ...)` with whole rows and `gone<n>(v0 ...)` with keys.
It leads from one state that was seen to the next; applied again, it changes nothing.

Knows: SQL of shadow tables, the wire's ranges.  Does not know: modules, the archive, the wire's order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.core.nouns import Layout, Shape
from rollrep.core.tokens import key_columns, make_key
from rollrep.destination.images import attach_image
from rollrep.query import all_rows, closed_on_error, one_row, one_value
from rollrep.wire.images import rows_table
from rollrep.wire.messages import Key, Range, ShadowRows
from rollrep.wire.ranges import digest_query, range_where

RANGE_BYTES = 16_384
"""what a range holds about; a smaller one costs more digests, a larger one more rows that did not change"""
MOST_RANGES = 16_384
"""of all shadow tables together; in larger ones a range holds more"""
GOT, CHANGE = "shadow_got", "shadow_change"


def shadow_shapes(layout: Layout) -> dict[str, Shape]:
    """Every carried shadow table's shape by its name."""
    return {shape.table: shape for each in layout.virtuals for shape in each.shadows}


def virtual_names(layout: Layout) -> set[str]:
    """The names of the carried virtual tables and of their shadow tables."""
    return {each.name for each in layout.virtuals} | set(shadow_shapes(layout))


def known_ranges(db: apsw.Connection, shapes: Mapping[str, Shape]) -> dict[str, tuple[Range, ...]]:
    """For each table, ranges that cover all its keys, each with its digest.  `db` has the digest functions."""
    found = {}
    for table, shape in shapes.items():
        ends: list[Key | None] = [*_range_ends(db, shape, max(64, MOST_RANGES // len(shapes))), None]
        ranges, after = [], None
        for through in ends:
            digest = one_value(db, "SELECT sha1_query(?)", (digest_query(shape, after, through),))
            ranges.append(Range(through, digest))
            after = through
        found[table] = tuple(ranges)
    return found


def _range_ends(db: apsw.Connection, shape: Shape, most: int) -> list[Key]:
    lengths = " + ".join(f"ifnull(octet_length({sql.name(column)}), 0)" for column in shape.columns)
    table = f"main.{sql.name(shape.table)}"
    rows, size = one_row(db, f"SELECT count(*), total({lengths}) FROM {table}")
    range_bytes = max(RANGE_BYTES, size / most)
    rows_each = max(1, rows // most, int(rows * range_bytes / max(1.0, size)))
    names = sql.names(shape.key)
    numbered = f"SELECT {names}, row_number() OVER (ORDER BY {names}) AS place FROM {table}"
    parts = key_columns(sql.name(column) for column in shape.key)
    ends = all_rows(db, f"SELECT {parts} FROM ({numbered}) WHERE place % ? = 0 ORDER BY {names}", (rows_each,))
    return [make_key(row) for row in ends]


class Received:
    """Whole ranges as the source sent them, in a file beside the mirror."""

    def __init__(self, path: Path, encoding: str, shapes: Mapping[str, Shape]) -> None:
        self.path = path
        self._encoding = encoding
        self._shapes = shapes
        self._side: apsw.Connection | None = None
        self.ranges: dict[str, list[tuple[Key | None, Key | None]]] = {}

    def add(self, said: ShadowRows, raw: bytes, asked: Mapping[str, Sequence[Range]]) -> None:
        """Takes an image.  Raises VerifyFailed where it is not what was asked for."""
        shape, known = self._shapes.get(said.table), asked.get(said.table, ())
        if shape is None or any(not 0 <= number < len(known) for number in said.ranges):
            raise VerifyFailed(f"the source sent rows of {said.table} that were not asked for")
        side = self._open()
        if said.table not in self.ranges:
            self.ranges[said.table] = []
            n = len(self.ranges) - 1
            keys = ", ".join(f"v{each}" for each in range(shape.key_width))
            side.execute(rows_table(f"got{n}", shape.width))
            side.execute(f"CREATE INDEX key{n} ON got{n}({keys})")
        for number in said.ranges:
            is_last = number == said.ranges[-1]
            through = said.through if said.through and is_last else known[number].through
            self.ranges[said.table].append((known[number - 1].through if number else None, through))
        attach_image(side, "image", raw, rows_table("rows", shape.width))
        n = list(self.ranges).index(said.table)
        side.execute(f"INSERT INTO got{n} SELECT * FROM image.rows")

    def close(self) -> None:
        if self._side is not None:
            self._side.close()
            self._side = None

    def _open(self) -> apsw.Connection:
        if self._side is None:
            self._side = new_side(self.path, self._encoding)
            self._side.execute("ATTACH ':memory:' AS image")
        return self._side


def new_side(path: Path, encoding: str) -> apsw.Connection:
    """A new file of its own for a while, in place of any that is there; nothing in it has to survive."""
    path.unlink(missing_ok=True)
    side = apsw.Connection(str(path))
    with closed_on_error(side):
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"encoding = '{encoding}'"):
            side.execute(f"PRAGMA {pragma}").fetchall()
    return side


@dataclasses.dataclass(frozen=True)
class Change:
    """What leads the shadow tables from one state to another; `path` is empty of meaning where no table is."""

    path: Path
    tables: tuple[Shape, ...]


def make_change(db: apsw.Connection, received: Received, shapes: Mapping[str, Shape], path: Path) -> Change:
    """The difference between `main` and what was received, as the database `path`.  Call it outside of transactions."""
    received.close()
    new_side(path, str(db.pragma("encoding"))).close()
    changed: list[Shape] = []
    db.execute(f"ATTACH ? AS {GOT}", (str(received.path),))
    db.execute(f"ATTACH ? AS {CHANGE}", (str(path),))
    try:
        db.execute(f"PRAGMA {CHANGE}.synchronous = OFF")
        for n, (table, ranges) in enumerate(received.ranges.items()):
            if _differences(db, shapes[table], n, len(changed), ranges):
                changed.append(shapes[table])
    finally:
        db.execute(f"DETACH {GOT}")
        db.execute(f"DETACH {CHANGE}")
    return Change(path, tuple(changed))


def _differences(
    db: apsw.Connection, shape: Shape, got: int, n: int, ranges: Sequence[tuple[Key | None, Key | None]]
) -> bool:
    """Writes put<n> and gone<n>; whether anything is in them."""
    table, width = f"main.{sql.name(shape.table)}", range(shape.key_width)
    db.execute(rows_table(f"{CHANGE}.put{n}", shape.width))
    db.execute(rows_table(f"{CHANGE}.gone{n}", shape.key_width))
    same_key = " AND ".join(f"m.{sql.name(shape.key[each])} = g.v{each}" for each in width)
    values = ", ".join(f"g.v{each}" for each in range(shape.width))
    differing = [sql.differs(f"m.{sql.name(column)}", f"g.v{each}") for each, column in enumerate(shape.columns)]
    db.execute(
        f"INSERT INTO {CHANGE}.put{n} SELECT {values} FROM {GOT}.got{got} g LEFT JOIN {table} m ON {same_key}"
        f" WHERE m.{sql.name(shape.key[0])} IS NULL OR {sql.balanced(differing, ' OR ')} ORDER BY g.rowid"
    )
    found = db.changes()
    here = " AND ".join(f"g.v{each} = m.{sql.name(shape.key[each])}" for each in width)
    for after, through in ranges:
        db.execute(
            f"INSERT INTO {CHANGE}.gone{n} SELECT {sql.names(shape.key)} FROM {table} AS m"
            f" WHERE {range_where(shape, after, through)} AND NOT EXISTS (SELECT 1 FROM {GOT}.got{got} g WHERE {here})"
        )
        found += db.changes()
    if not found:
        db.execute(f"DROP TABLE {CHANGE}.put{n}")
        db.execute(f"DROP TABLE {CHANGE}.gone{n}")
    return found > 0


def attach_change(db: apsw.Connection, change: Change) -> None:
    """Puts the change beside the mirror, outside of transactions.  Raises VerifyFailed where it is not one."""
    db.execute(f"ATTACH ? AS {CHANGE}", (str(change.path),))
    expected = {
        text
        for n, shape in enumerate(change.tables)
        for text in (rows_table(f"put{n}", shape.width), rows_table(f"gone{n}", shape.key_width))
    }
    found = {text for (text,) in all_rows(db, f"SELECT sql FROM {CHANGE}.sqlite_schema")}
    if found != expected:
        db.execute(f"DETACH {CHANGE}")
        raise VerifyFailed(f"{change.path} holds something else than changes of these tables")


def put_change(db: apsw.Connection, change: Change) -> None:
    """Makes the attached change true of `main`.  Call it inside a transaction."""
    for n, shape in enumerate(change.tables):
        table, names = f"main.{sql.name(shape.table)}", sql.names(shape.key)
        key = f"({names})" if shape.key_width > 1 else names
        keys = ", ".join(f"v{each}" for each in range(shape.key_width))
        values = ", ".join(f"v{each}" for each in range(shape.width))
        try:
            for which in ("gone", "put"):
                db.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {keys} FROM {CHANGE}.{which}{n})")
            db.execute(f"INSERT INTO {table}({sql.names(shape.columns)}) SELECT {values} FROM {CHANGE}.put{n}")
        except apsw.ConstraintError as error:
            raise RollrepError(
                f"a change of {shape.table} can't be put in: {error}",
                remedy="nothing was changed; mirror again: rollrep mirror JOB",
            ) from error


def detach_change(db: apsw.Connection) -> None:
    db.execute(f"DETACH {CHANGE}")
