"""Rows that a REPLACE may have removed unseen: which they are, and whether the source still has them.

    log of a key      PATCH ── TOUCHED                      open: was it removed, or was it an OR IGNORE, an upsert?
    asked now         the row is not there                  it was: the TOUCHED becomes a DELETE
                      it is there                           it was not: the TOUCHED goes
    logged meanwhile  PUT, whether there is a row or not    what was there counts no more: a DELETE, too
                      PATCH, TOUCHED, DELETE                it was there: the TOUCHED goes

No other log row of the key came since, so what is asked later than the TOUCHED tells what it meant.

Knows: SQL of a batch, the wire's session.  Does not know: what else was gathered, or is replayed.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import PREFIX, Facts, Op, Shape
from rollrep.destination.answers import answered
from rollrep.destination.container import unpack
from rollrep.destination.images import attach_rows
from rollrep.destination.leaves import LEAST
from rollrep.destination.mirror_db import transaction
from rollrep.destination.net import key_values
from rollrep.query import all_rows
from rollrep.wire.leaves import rowid_key, rowids
from rollrep.wire.messages import Key, KeyRange, Rows, SendRows
from rollrep.wire.session import Session, Tail

OPEN = f"{PREFIX}open"
MOST_KEYS = 512
"""asked for in one message"""


def open_touches(shape: Shape) -> str:
    """SQL for (log id, first value of the key) of each key whose last log row in `batch` is a TOUCHED.

    Its parameters are the shape's id, the first and the last log id.
    """
    # A bare column is that of the row with the largest id (https://www.sqlite.org/lang_select.html, 2.5).
    return (
        "SELECT id, v0 FROM (SELECT max(id) AS id, op, v0 FROM batch.log WHERE shape = ? AND id BETWEEN ? AND ?"
        f" GROUP BY {key_values(shape)}) WHERE op = {Op.TOUCHED:d}"
    )


class OpenTouches:
    """Those of one table with one integer key, in what `batch.log` of `db` holds up to the log id `until`.

    `take_tail` puts the log that comes with an answer into `batch.log`, and gives the log id that is reached.
    """

    def __init__(self, db: apsw.Connection, shape: Shape, until: int, take_tail: Callable[[Tail], int]) -> None:
        self._db = db
        self._shape = shape
        self._until = until
        self._take_tail = take_tail

    def settle(self, session: Session, position: int, schema_digest: str) -> Facts | None:
        """Makes a DELETE of each that was removed, and leaves none; gives the facts of the last answer, if one came.

        Call it outside of transactions.  Raises VerifyFailed where the source answers something else, SchemaChanged
        and LogOverrun as the session does.
        """
        self._db.execute(f"CREATE TEMP TABLE {OPEN}(k INTEGER PRIMARY KEY, id)")
        facts = None
        try:
            self._db.execute(
                f"INSERT INTO temp.{OPEN}(id, k) {open_touches(self._shape)}", (self._shape.id, LEAST, self._until)
            )
            while ranges := self._next():
                session.ask(SendRows(self._shape.id, tuple(ranges), position, schema_digest))
                tail, found = session.read(position, Rows)
                if tail:
                    position = self._take_tail(tail)
                if found is None:
                    continue
                said, packed = found
                facts = said.facts
                whole, _ = answered(ranges, said)
                attach_rows(self._db, unpack(packed, said.image.raw_bytes), self._shape)
                self._take_rows(whole[-1])
            # What is left of them says nothing more, and behind one that goes another may stand.
            self._db.execute(
                f"DELETE FROM batch.log WHERE op = {Op.TOUCHED:d} AND shape = ? AND id <= ?",
                (self._shape.id, self._until),
            )
        finally:
            self._db.execute(f"DROP TABLE temp.{OPEN}")
        return facts

    def _next(self) -> list[KeyRange]:
        """The next keys that are open, as ranges; those that follow each other are one."""
        ranges: list[KeyRange] = []
        for (key,) in all_rows(self._db, f"SELECT k FROM temp.{OPEN} ORDER BY k LIMIT {MOST_KEYS}"):
            after: Key | None = rowid_key(None if key == LEAST else key - 1)
            if ranges and ranges[-1].through == after:
                after = ranges.pop().after
            ranges.append(KeyRange(after, rowid_key(key)))
        return ranges

    def _take_rows(self, last: KeyRange) -> None:
        """`chunk.rows` holds all rows of those keys that are not beyond the range `last`."""
        ends = rowids(last)
        if ends is None:
            raise VerifyFailed(f"the source sent a key of {self._shape.table} that is no whole number")
        with transaction(self._db):
            self._db.execute(
                f"UPDATE batch.log SET op = {Op.DELETE:d} WHERE id IN (SELECT o.id FROM temp.{OPEN} o LEFT JOIN"
                " (SELECT v0 AS k, min(id), op FROM batch.log WHERE shape = ? AND id > ? GROUP BY v0) n ON n.k = o.k"
                f" WHERE o.k <= ? AND (n.op = {Op.PUT:d}"
                " OR (n.op IS NULL AND o.k NOT IN (SELECT v0 FROM chunk.rows))))",
                (self._shape.id, self._until, ends[1]),
            )
            self._db.execute(f"DELETE FROM temp.{OPEN} WHERE k <= ?", (ends[1],))
            if not self._db.changes():
                raise VerifyFailed(
                    f"the source says that there are more rows of {self._shape.table}, and does not go on"
                )
