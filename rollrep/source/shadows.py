"""What differs of the shadow tables, as of one moment of the log.

    digests of ranges (the destination's)  ──►  the same ranges digested here, the log's tail beside them,
                                                all in one read transaction
    ranges that differ                     ──►  a temporary file ──► images, after the transaction has ended

No trigger may stand on a shadow table, and none of what the modules write by themselves is a sure sign of a
change: FTS5's structure record stays as it was when a text without a word changes, and comes back to what it was
after a 'rebuild'.  So every row is digested, in SQLite's C code, some 250 MB a second.

The log must tell two states apart: where the tables changed and nothing was logged since the destination
saw them last, a mark is logged, so that the new state has a position of its own.  So it is where the newest row
is a consistency point: a change that only virtual tables saw may have come after it.

Knows: the reader, the wire's ranges.  Does not know: modules, what a shadow table means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import apsw

from rollrep.core import sql
from rollrep.core.errors import Temporary
from rollrep.core.nouns import Facts, Shape
from rollrep.core.tokens import key_columns, make_key
from rollrep.query import one_row, one_value
from rollrep.source.database import writing
from rollrep.source.log import VIRTUAL_MARK, Meta, write_unseen_mark
from rollrep.source.reader import IMAGE_BYTES, IMAGE_PAGE_SIZE, Reader
from rollrep.wire.images import rows_table
from rollrep.wire.messages import Batch, Key, SendShadows, ShadowRows
from rollrep.wire.ranges import digest_query, range_where

SIDE = "shadow_rows"
TRIES = 5
STEP_ROWS = 2_000


class Shadows:
    """One answer to SendShadows; a context, because its rows wait in a temporary file until they are sent."""

    def __init__(self, db: apsw.Connection, reader: Reader, shapes: Mapping[str, Shape], wanted: SendShadows) -> None:
        self._db = db
        self._reader = reader
        self._shapes = shapes
        self._wanted = wanted
        self._differ: dict[str, list[int]] = {}
        self._cut: Key | None = None
        self.complete = True

    def __enter__(self) -> Shadows:
        self._db.execute(f"ATTACH '' AS {SIDE}")
        self._db.execute(f"PRAGMA {SIDE}.page_size = {IMAGE_PAGE_SIZE}")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.execute(f"DETACH {SIDE}")

    def read(self, meta: Meta) -> tuple[tuple[Batch, bytes] | None, Facts | None]:
        """The log's tail and the facts at its end; what differs then is in `rows`.

        The facts are None where the log alone fills an image.  Raises Gone as the reader does.
        """
        for _ in range(TRIES):
            tail, head, compared = self._reader.with_tail(meta, self._wanted.position, self._compare)
            facts = head if compared else None
            known = facts is not None and (facts.head.id == self._wanted.seen_at or facts.point is not None)
            if not self._differ or not known:
                return tail, facts
            with writing(self._db):
                write_unseen_mark(self._db, VIRTUAL_MARK)
        raise Temporary(f"the log of {self._db.filename} is set back again and again", remedy="pull again")

    def rows(self) -> Iterator[tuple[ShadowRows, bytes]]:
        """The rows of the ranges that differ, in images of some MiB."""
        for n, (table, ranges) in enumerate(self._differ.items()):
            width = self._shapes[table].width
            values = ", ".join(f"v{each}" for each in range(width))
            total, longest = int(one_value(self._db, f"SELECT ifnull(max(rowid), 0) FROM {SIDE}.t{n}")), 1
            after, first = 0, True
            while first or after < total:
                through = min(total, after + longest)
                rows, image, packed = self._reader.rows_image(
                    width,
                    f"SELECT {values} FROM {SIDE}.t{n} WHERE rowid > {after} AND rowid <= {through} ORDER BY rowid",
                )
                cut = self._cut if first and n == len(self._differ) - 1 else None
                yield ShadowRows(table, tuple(ranges) if first else (), cut, rows, image), packed
                longest = max(1, min(longest * 16, 65_536, longest * IMAGE_BYTES // image.raw_bytes))
                after, first = through, False

    def _compare(self) -> bool:
        """Takes what differs; true, for the reader's sake: it was called."""
        for n in range(len(self._differ)):
            self._db.execute(f"DROP TABLE {SIDE}.t{n}")
        self._differ, self._cut, self.complete = {}, None, True
        for table, known in self._wanted.known.items():
            shape, after = self._shapes[table], None
            for number, each in enumerate(known):
                if self._digest(shape, after, each.through) != each.digest:
                    self._take(shape, after, each.through, number)
                    if not self.complete:
                        return True
                after = each.through
        return True

    def _digest(self, shape: Shape, after: Key | None, through: Key | None) -> str:
        digest: str = one_value(self._db, "SELECT sha1_query(?)", (digest_query(shape, after, through),))
        return digest

    def _take(self, shape: Shape, after: Key | None, through: Key | None, number: int) -> None:
        if shape.table not in self._differ:
            self._db.execute(rows_table(f"{SIDE}.t{len(self._differ)}", shape.width))
            self._differ[shape.table] = []
        self._differ[shape.table].append(number)
        into = f"{SIDE}.t{list(self._differ).index(shape.table)}"
        while True:
            self._db.execute(
                f"INSERT INTO {into} SELECT {sql.names(shape.columns)} FROM main.{sql.name(shape.table)}"
                f" WHERE {range_where(shape, after, through)} ORDER BY {sql.names(shape.key)} LIMIT {STEP_ROWS}"
            )
            if self._db.changes() < STEP_ROWS:
                return
            parts = key_columns(f"v{n}" for n in range(shape.key_width))
            found = one_row(self._db, f"SELECT {parts} FROM {into} ORDER BY rowid DESC LIMIT 1")
            after = make_key(found)
            if self._wanted.most_bytes and self._bytes() > self._wanted.most_bytes:
                self._cut, self.complete = after, False
                return

    def _bytes(self) -> int:
        pages = one_value(self._db, f"SELECT page_count FROM pragma_page_count('{SIDE}')")
        return int(pages) * IMAGE_PAGE_SIZE
