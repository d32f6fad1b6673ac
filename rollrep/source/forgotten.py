"""Forgotten keys: what the rolling log still knows about rows it no longer holds.

    ids   1 ........... 40,000 | 40,001 ....... 52,310
          keys only            | whole rows             newest
          (oldest keys fall off the left end)

A destination inside the right part resumes.  Inside the left part it fetches the rows behind the keys, as
they are now.  Further left, the tables are compared.

What it is given must reach back to its own row without a hole, and that row must be the one it knows: ids
alone would let a source that was restored from a backup pass.  The values are gone, but the row's time is
kept, and no other history wrote a row with that id at that millisecond.

Knows: SQL of the forgotten keys and of the tables they are of, the reader.  Does not know: the destination.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import apsw

from rollrep.core import sql
from rollrep.core.nouns import Op, Shape
from rollrep.query import all_rows, one_value
from rollrep.source.database import reading
from rollrep.source.log import MS, forgotten_at_ms, read_facts, read_meta
from rollrep.source.reader import IMAGE_BYTES, IMAGE_PAGE_SIZE, Reader
from rollrep.source.tables import FORGOTTEN
from rollrep.wire import messages
from rollrep.wire.images import log_table, log_width

FIRST_IDS = 512
MOST_IDS = 16_384
"""forgotten ids behind which rows are looked up in one read transaction"""
LOOKING_S = 0.05
"""how long that may take, by what the last ones took"""


class Forgotten:
    """Reads the rows behind forgotten keys, for one connection."""

    def __init__(self, db: apsw.Connection, reader: Reader) -> None:
        self._db = db
        self._reader = reader
        self._ids = FIRST_IDS

    def bridge(self, after: int, at_ms: int, shapes: Mapping[int, Shape]) -> tuple[messages.Bridge, bytes] | None:
        """The next stretch of forgotten keys after `after` with the rows behind them; None where that can't be had."""
        self._reader.attach("log_image")
        try:
            began = time.perf_counter()
            with reading(self._db):
                meta = read_meta(self._db)
                if not meta.forgotten_through < after <= meta.pruned_through or not self._is_same(after, at_ms):
                    return None
                last = min(meta.pruned_through, after + self._ids)
                found = self._shapes(after, last, shapes)
                if found is None:
                    return None
                facts = read_facts(self._db, meta)
                rows = self._copy(after, last, found)
                last_at_ms = one_value(self._db, f"SELECT {MS} FROM {FORGOTTEN} WHERE id = ?", (last,))
            spent_s = time.perf_counter() - began
            pages = one_value(self._db, "SELECT page_count FROM pragma_page_count('log_image')")
            per_id = max(1, pages * IMAGE_PAGE_SIZE // max(1, last - after))
            fitting = int((last - after) * LOOKING_S / max(1e-4, spent_s))
            self._ids = max(1, min(MOST_IDS, self._ids * 4, IMAGE_BYTES // per_id, fitting))
            image, packed = self._reader.pack("log_image")
        finally:
            self._db.execute("DETACH log_image")
        is_last = last == meta.pruned_through
        return messages.Bridge(meta.epoch, last, last_at_ms, is_last, rows, found, facts, image), packed

    def _is_same(self, log_id: int, at_ms: int) -> bool:
        return forgotten_at_ms(self._db, log_id) == at_ms

    def _shapes(self, after: int, last: int, shapes: Mapping[int, Shape]) -> tuple[Shape, ...] | None:
        """The shapes of ids after `after` up to `last`; None where one is of an older capture, or ids are missing."""
        rows = all_rows(
            self._db,
            f"SELECT shape, count(*), count(at) FROM {FORGOTTEN} WHERE id > ? AND id <= ? GROUP BY shape",
            (after, last),
        )
        dense = sum(row[1] for row in rows) == sum(row[2] for row in rows) == last - after
        used = [row[0] for row in rows if row[0] != 0]
        return tuple(shapes[each] for each in used) if dense and all(each in shapes for each in used) else None

    def _copy(self, after: int, last: int, shapes: tuple[Shape, ...]) -> int:
        width = log_width(shapes)
        self._db.execute(log_table("log_image.log", width))
        copied = 0
        for shape in shapes:
            keys = range(shape.key_width)
            grouped = ", ".join(f"k{n} COLLATE {collation}" for n, collation in enumerate(shape.key_collations))
            as_key = [f" COLLATE {collation}" if shape.without_rowid else "" for collation in shape.key_collations]
            terms = [f"t.{sql.name(column)}{as_key[n]} = f.k{n}" for n, column in enumerate(shape.key)]
            there = f"t.{sql.name(shape.key[0])} IS NOT NULL"
            values = [
                f"CASE WHEN {there} THEN t.{sql.name(column)}{f' ELSE f.k{n}' if n < shape.key_width else ''} END"
                for n, column in enumerate(shape.columns)
            ]
            self._db.execute(
                f"INSERT INTO log_image.log(id, at, shape, op, {', '.join(f'v{n}' for n in range(shape.width))})"
                f" SELECT f.id, 0, {shape.id}, CASE WHEN {there} THEN {Op.PUT:d} ELSE {Op.DELETE:d} END,"
                f" {', '.join(values)}"
                f" FROM (SELECT max(id) AS id, {', '.join(f'k{n}' for n in keys)} FROM {FORGOTTEN}"
                f" WHERE id > ? AND id <= ? AND shape = ? GROUP BY {grouped}) f"
                f" LEFT JOIN main.{sql.name(shape.table)} t ON {' AND '.join(terms)}",
                (after, last, shape.id),
            )
            copied += self._db.changes()
        return copied
