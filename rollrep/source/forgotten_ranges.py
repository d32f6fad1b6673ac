"""What the source still knows of writes whose keys are forgotten: the ranges that they were in.

    ids    1 ........... 40,000 | 40,001 ......... 52,310 | 52,311 ...... 60,000
           ranges only          | keys                    | whole rows

An answer holds for a destination that has the row at `anchor`, at its time: whatever was written behind that row lies
in a range that is named.  The row need not be the one that the destination stands at, because of most of them nothing
is left; the destination adds what itself has archived from there on.

Rows move from the log to the keys and from the keys to the ranges, never back.  So they are read in that order, in
short transactions, and none is missed.

Knows: SQL of the log's tables.  Does not know: the application's tables, what is compared.
"""

from __future__ import annotations

from collections.abc import Collection

import apsw

from rollrep.core.nouns import Position
from rollrep.query import all_rows, find_row, one_row, one_value
from rollrep.source.database import reading
from rollrep.source.log import MS, forgotten_at_ms, read_meta
from rollrep.source.tables import FORGOTTEN, LOG, META, RANGE, SHAPE
from rollrep.wire import messages
from rollrep.wire.forgotten_ranges import ANYWHERE, RANGES, SLOTS, number_sql

IDS = 65_536
"""log ids that are looked at in one read transaction"""
MOST_OF_ONE = RANGES // 2
"""of a table in which more ranges than that were written to, all is compared"""
MOST = 1_000_000
"""so many numbers are some MB on the wire; of more, all tables are compared"""


def read_ranges(db: apsw.Connection, position: Position, shapes: Collection[int]) -> messages.Ranges | None:
    """The ranges written to since a row that a destination at `position` may have; None where there is no such row.

    `shapes` are the ids of those captured now.  None too where others were written to since.
    """
    anchor = _anchor(db, position)
    if anchor is None:
        return None
    after, at_ms = anchor
    numbers: dict[int, set[int]] = {}
    newest = int(one_value(db, f"SELECT ifnull(max(id), 0) FROM {LOG}"))
    for table in (LOG, FORGOTTEN):
        for first in range(after, newest, IDS):
            found = _slice(db, table, first, min(newest, first + IDS))
            if found is None:
                return None
            for shape, number in found:
                numbers.setdefault(shape, set()).add(number)
    for shape, number in all_rows(
        db, f"SELECT key / {SLOTS}, key % {SLOTS} FROM {RANGE} WHERE key > 0 AND id > ?", (after,)
    ):
        numbers.setdefault(shape, set()).add(number)
    if not numbers.keys() <= set(shapes):
        return None
    for shape, written in numbers.items():
        if len(written) > MOST_OF_ONE:
            numbers[shape] = {ANYWHERE}
    if sum(map(len, numbers.values())) > MOST:
        return None
    widths = dict(all_rows(db, f"SELECT id, range_width FROM {SHAPE} WHERE range_width IS NOT NULL"))
    return messages.Ranges(
        position.epoch,
        after,
        at_ms,
        {shape: widths[shape] for shape in shapes if shape in widths},
        {shape: tuple(sorted(found)) for shape, found in numbers.items()},
    )


def _anchor(db: apsw.Connection, position: Position) -> tuple[int, int] | None:
    """(id, milliseconds) of the newest row up to `position` whose time is known."""
    with reading(db):
        meta = read_meta(db)
        if meta.epoch != position.epoch:
            return None
        at_ms = forgotten_at_ms(db, position.id)
        if at_ms is not None:
            return position.id, at_ms
        if position.id > meta.forgotten_through:
            return None
        return find_row(db, f"SELECT id, {MS} FROM {RANGE} WHERE id <= ? ORDER BY id DESC LIMIT 1", (position.id,))


def _slice(db: apsw.Connection, table: str, after: int, through: int) -> list[tuple[int, int]] | None:
    """(shape, number of the range) of the rows with those ids; None where keys are missing that should be there."""
    with reading(db):
        if table == FORGOTTEN:
            least, most = one_row(db, f"SELECT forgotten_through, pruned_through FROM {META}")
            span = (max(after, least), min(through, most))
            [(there,)] = all_rows(db, f"SELECT count(*) FROM {FORGOTTEN} WHERE id > ? AND id <= ?", span)
            if there != max(0, span[1] - span[0]):
                return None
        key = "k0" if table == FORGOTTEN else "v0"
        return all_rows(
            db,
            f"SELECT DISTINCT f.shape, {number_sql(f'f.{key}', 's.range_width')} FROM {table} f"
            f" CROSS JOIN {SHAPE} s ON s.id = f.shape WHERE f.id > ? AND f.id <= ?",
            (after, through),
        )
