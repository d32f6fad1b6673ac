"""Comparing without sending: digests of a table's key ranges, and the rows of those that differ.

    stretch   ├──────────────── as many rows as 30 ms allow: one digest
    groups    ├────┼────┼────┼  of 512, 16 or one row each, within the ranges that were asked for
    rows      ├─┤     ├┤        whole rows, within the ranges that were asked for

Each is read in one transaction with the log's tail, so it is of an exact position, and writers go on.

Knows: the reader, the wire's digests, SQL of the tables it reads.  Does not know: what is compared with what.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core import sql
from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Shape
from rollrep.core.tokens import key_columns, make_key
from rollrep.query import all_rows, find_row, one_row, one_value
from rollrep.source.leaves import Leaves
from rollrep.source.log import Meta
from rollrep.source.reader import (
    FIRST_CHUNK_ROWS,
    IMAGE_BYTES,
    IMAGE_PAGE_SIZE,
    IMAGE_ROWS,
    STRETCH_ROWS,
    STRETCH_S,
    Reader,
    Tail,
    check_key,
    scan_of,
)
from rollrep.wire import digests, messages
from rollrep.wire.digests import ASKED, LONG_BYTES, PART, Scan
from rollrep.wire.images import rows_table
from rollrep.wire.messages import Key, KeyRange

MOST_SPARSE = 2
"""keys of whole numbers of which at least one in so many is there are cut into groups by number"""
RANGES_AT_ONCE = 64
"""whose rows are read by one statement"""
MOST_PARTS = 8_192
"""of one answer, unless a single range has more"""


class Digests:
    """What one connection is asked about its tables.  `db` has SQLite's digest functions loaded."""

    def __init__(self, db: apsw.Connection, reader: Reader, path: Path) -> None:
        self._db = db
        self._reader = reader
        self._path = path
        self._leaves: Leaves | None = None
        self._utf8 = db.pragma("encoding") == "UTF-8"
        self._stretch_rows: dict[tuple[int, int], int] = {}
        self._send_rows: dict[int, int] = {}

    def close(self) -> None:
        if self._leaves is not None:
            self._leaves.close()
            self._leaves = None

    def leaves(
        self, meta: Meta, shape: Shape, wanted: messages.SendStretch
    ) -> tuple[Tail, tuple[messages.Leaves, bytes | None] | None] | None:
        """The tail of the log, and digests of the first leaves that are wanted; None where they can't be told."""
        self._leaves = self._leaves or Leaves(self._path)
        return self._leaves.stretch(meta, shape, wanted)

    def cells(self, wanted: messages.SendCells) -> tuple[messages.Cells, bytes | None]:
        """Digests of the cells of leaves that were told.  Raises RollrepError where none were."""
        if self._leaves is None:
            raise RollrepError("cells were asked for before leaves were told")
        return self._leaves.cells(wanted)

    def stretch(self, meta: Meta, shape: Shape, span: KeyRange, position: int) -> tuple[Tail, messages.Stretch | None]:
        """The tail of the log, and one digest of the first rows within `span`.  Raises Gone."""
        with self._parts(shape) as scan:
            tail, facts, found = self._reader.with_tail(meta, position, lambda: self._stretch(scan, span))
        if found is None:
            return tail, None
        rows, digest, last_key = found
        return tail, messages.Stretch(shape.id, rows, digest, last_key, facts if facts.head.id > position else None)

    def groups(
        self, meta: Meta, shape: Shape, ranges: Sequence[KeyRange], group_rows: int, position: int
    ) -> tuple[Tail, tuple[messages.Groups, bytes] | None]:
        """The tail of the log, and digests of groups of rows within `ranges`.  Raises Gone."""
        _require_groups(group_rows, len(ranges))
        with self._parts(shape) as scan, self._image("groups_image"):
            tail, facts, answered = self._reader.with_tail(
                meta, position, lambda: self._groups(scan, ranges, group_rows)
            )
            if answered is None:
                return tail, None
            image, packed = self._reader.pack("groups_image")
            return tail, (messages.Groups(shape.id, answered, facts, image), packed)

    def stretch_in_groups(
        self, meta: Meta, shape: Shape, span: KeyRange, group_rows: int, position: int
    ) -> tuple[Tail, tuple[messages.Groups, bytes] | None]:
        """The tail of the log, and digests of groups of the first rows within `span`.  Raises Gone."""
        _require_groups(group_rows, 1)
        with self._parts(shape) as scan, self._image("groups_image"):
            tail, facts, found = self._reader.with_tail(
                meta, position, lambda: self._stretch_in_groups(scan, span, group_rows)
            )
            if found is None:
                return tail, None
            rows, last_key = found
            image, packed = self._reader.pack("groups_image")
            return tail, (messages.Groups(shape.id, 1, facts, image, rows, last_key), packed)

    def rows(
        self, meta: Meta, shape: Shape, ranges: Sequence[KeyRange], position: int
    ) -> tuple[Tail, tuple[messages.Rows, bytes] | None]:
        """The tail of the log, and the rows within `ranges`, as many as fit into an image.  Raises Gone."""
        with self._parts(shape) as scan, self._image("rows_image"):
            tail, facts, found = self._reader.with_tail(meta, position, lambda: self._rows(scan, ranges))
            if found is None:
                return tail, None
            rows, answered, last_key = found
            image, packed = self._reader.pack("rows_image")
            return tail, (messages.Rows(shape.id, rows, answered, last_key, facts, image), packed)

    @contextlib.contextmanager
    def _image(self, name: str) -> Iterator[None]:
        self._reader.attach(name)
        try:
            yield
        finally:
            self._db.execute(f"DETACH {name}")

    @contextlib.contextmanager
    def _parts(self, shape: Shape) -> Iterator[Scan]:
        with self._image(digests.SCHEMA):
            for statement in digests.part_tables(shape.key_width):
                self._db.execute(statement)
            yield scan_of(self._db, shape, utf8=self._utf8)

    def _stretch(self, scan: Scan, span: KeyRange) -> tuple[int, str, Key | None]:
        began, limit = time.perf_counter(), self._limit(scan.shape, 0)
        last_key = self._end_of_stretch(scan, span, limit)
        self._ask(scan.shape, [KeyRange(span.after, last_key or span.through)])
        self._db.execute(f"INSERT INTO {PART} SELECT 1, *, NULL, NULL FROM {ASKED}")
        taken = [row for query in digests.passes(scan, LONG_BYTES) for row in all_rows(self._db, query)]
        _, rows, digest = taken[0] if taken else (1, 0, b"")
        if last_key:
            self._learn_limit(scan.shape, 0, limit, time.perf_counter() - began)
        return rows, digest.hex(), last_key

    def _stretch_in_groups(self, scan: Scan, span: KeyRange, group_rows: int) -> tuple[int, Key | None]:
        began, limit = time.perf_counter(), self._limit(scan.shape, group_rows)
        last_key = self._end_of_stretch(scan, span, limit)
        self._groups(scan, [KeyRange(span.after, last_key or span.through)], group_rows)
        if last_key:
            self._learn_limit(scan.shape, group_rows, limit, time.perf_counter() - began)
        return int(one_value(self._db, "SELECT ifnull(sum(rows), 0) FROM groups_image.groups")), last_key

    def _limit(self, shape: Shape, group_rows: int) -> int:
        return self._stretch_rows.get((shape.id, group_rows), FIRST_CHUNK_ROWS)

    def _learn_limit(self, shape: Shape, group_rows: int, rows: int, spent_s: float) -> None:
        """Rows are mostly like those before them: as many as a stretch may take."""
        fitting = int(rows * STRETCH_S / max(1e-4, spent_s))
        self._stretch_rows[shape.id, group_rows] = max(1, min(STRETCH_ROWS, rows * 4, fitting))

    def _end_of_stretch(self, scan: Scan, span: KeyRange, rows: int) -> Key | None:
        """The key of the last of the first `rows` rows within `span`; None where there are not so many."""
        shape = scan.shape
        self._ask(shape, [span])
        within = digests.inside(scan, lo_open=span.after is None, hi_open=span.through is None)
        tokens = key_columns(f"t.{sql.name(column)}" for column in shape.key)
        found = find_row(
            self._db,
            f"SELECT {tokens} FROM {ASKED} p CROSS JOIN {scan.source} ON {within} WHERE p.span = 0"
            f" ORDER BY {', '.join(scan.key)} LIMIT 1 OFFSET {rows - 1}",
        )
        self._db.execute(f"DELETE FROM {ASKED}")
        return make_key(found) if found else None

    def _groups(self, scan: Scan, ranges: Sequence[KeyRange], group_rows: int) -> int:
        shape = scan.shape
        self._ask(shape, ranges)
        answered = 0
        close = digests.close_span(shape.key_width)
        for span, asked in enumerate(ranges):
            parts = self._cut(scan, span, asked, group_rows)
            self._db.execute(close, (span,))
            answered += 1
            if parts >= MOST_PARTS:
                break
        for statement in digests.fill_lower_ends(shape.key_width):
            self._db.execute(statement)
        names = ", ".join(f"p.hi{n}" for n in range(shape.key_width))
        size = digests.group_digest_bytes(group_rows)
        self._db.execute(f"CREATE TABLE {digests.SCHEMA}.taken(n INTEGER PRIMARY KEY, rows, digest)")
        for query in digests.passes(scan, size):
            self._db.execute(f"INSERT INTO {digests.SCHEMA}.taken {query}")
        self._db.execute(digests.groups_table("groups_image.groups", shape.key_width))
        self._db.execute(
            f"INSERT INTO groups_image.groups SELECT p.span, p.hi_open, ifnull(d.rows, 0), d.digest, {names}"
            f" FROM {PART} p LEFT JOIN {digests.SCHEMA}.taken d ON d.n = p.n ORDER BY p.n"
        )
        return answered

    def _cut(self, scan: Scan, span: int, asked: KeyRange, group_rows: int) -> int:
        """Cuts one range after every `group_rows` rows; how many parts there are then in all."""
        width = range(scan.shape.key_width)
        into = f"INSERT INTO {PART}(span, hi_open, {', '.join(f'hi{n}' for n in width)})"
        within = digests.inside(scan, lo_open=asked.after is None, hi_open=asked.through is None)
        keys, order = ", ".join(scan.bare_key), ", ".join(scan.key)
        if group_rows == 1:
            self._db.execute(
                f"{into} SELECT ?1, 0, {keys} FROM {ASKED} p CROSS JOIN {scan.source} ON {within}"
                f" WHERE p.span = ?1 ORDER BY {order}",
                (span,),
            )
        elif not self._cut_by_number(scan, span, within, group_rows):
            self._db.execute(
                f"{into} SELECT ?1, 0, {', '.join(f'k{n}' for n in width)} FROM (SELECT"
                f" {', '.join(f'{key} AS k{n}' for n, key in enumerate(scan.bare_key))},"
                f" row_number() OVER (ORDER BY {order}) AS row FROM {ASKED} p CROSS JOIN {scan.source} ON {within}"
                f" WHERE p.span = ?1) WHERE row % {group_rows:d} = 0 ORDER BY row",
                (span,),
            )
        return int(one_value(self._db, f"SELECT ifnull(max(n), 0) FROM {PART}"))

    def _cut_by_number(self, scan: Scan, span: int, within: str, group_rows: int) -> bool:
        """Cuts a range of whole numbers into equal pieces, without looking at rows; False where many are missing."""
        if scan.shape.without_rowid:
            return False
        key = scan.bare_key[0]
        rows, first, last = one_row(
            self._db,
            f"SELECT count(*), min({key}), max({key}) FROM {ASKED} p CROSS JOIN {scan.source} ON {within}"
            " WHERE p.span = ?",
            (span,),
        )
        if rows == 0 or last - first >= MOST_SPARSE * rows:
            return False
        step = max(1, (last - first) * group_rows // rows)
        self._db.execute(
            f"INSERT INTO {PART}(span, hi_open, hi0) WITH RECURSIVE ends(k) AS (SELECT ?2 UNION ALL"
            f" SELECT k + ?4 FROM ends WHERE k + ?4 < ?3) SELECT ?1, 0, k FROM ends WHERE k < ?3",
            (span, first + step - 1, last, step),
        )
        return True

    def _rows(self, scan: Scan, ranges: Sequence[KeyRange]) -> tuple[int, int, Key | None]:
        shape = scan.shape
        self._ask(shape, ranges)
        self._db.execute(rows_table("rows_image.rows", shape.width))
        room = self._send_rows.get(shape.id, FIRST_CHUNK_ROWS)
        columns = sql.names(shape.columns, "t.")
        copied, answered, last_key = 0, 0, None
        at_once = RANGES_AT_ONCE
        while answered < len(ranges):
            asked = ranges[answered]
            within = digests.inside(scan, lo_open=asked.after is None, hi_open=asked.through is None)
            some = 1 if _is_open(asked) else _first_closed(ranges[answered : answered + at_once])
            self._db.execute(
                f"INSERT INTO rows_image.rows SELECT {columns} FROM {ASKED} p CROSS JOIN {scan.source} ON {within}"
                f" WHERE p.span >= ?1 AND p.span < ?1 + ?2 ORDER BY p.span, {', '.join(scan.key)} LIMIT ?3",
                (answered, some, room - copied),
            )
            added = self._db.changes()
            if copied + added < room:
                copied += added
                answered += some
            elif some > 1:
                # In one of them there is no more room: looked at one by one, it is known in which.
                self._db.execute("DELETE FROM rows_image.rows WHERE rowid > ?", (copied,))
                at_once = 1
            else:
                copied += added
                last_key = self._reader.last_key(shape)
                break
        if copied:
            pages = one_value(self._db, "SELECT page_count FROM pragma_page_count('rows_image')")
            size_per_row = max(1, pages * IMAGE_PAGE_SIZE // copied)
            self._send_rows[shape.id] = max(1, min(IMAGE_ROWS, room * 4, IMAGE_BYTES // size_per_row))
        return copied, answered, last_key

    def _ask(self, shape: Shape, ranges: Sequence[KeyRange]) -> None:
        for span, asked in enumerate(ranges):
            for end in (asked.after, asked.through):
                if end is not None:
                    check_key(shape, end)
            self._db.execute(*digests.ask_range(span, asked, shape.key_width))


def _is_open(asked: KeyRange) -> bool:
    return asked.after is None or asked.through is None


def _first_closed(ranges: Sequence[KeyRange]) -> int:
    """How many of them have two ends, before one that has not."""
    return next((number for number, asked in enumerate(ranges) if _is_open(asked)), len(ranges))


def _require_groups(group_rows: int, ranges: int) -> None:
    """Raises RollrepError where what was asked for over the wire is nothing."""
    if group_rows < 1 or ranges < 1:
        raise RollrepError(f"groups of {group_rows} rows in {ranges} ranges are nothing to ask for")
