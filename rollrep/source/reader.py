"""Reading the log and the tables out, as images, in short read transactions.

    log rows (after, through]  ──►  log_image.log      one INSERT ... SELECT: no value becomes Python
    rows of a table by key     ──►  rows_image.rows

An image is a whole SQLite database in memory, serialized and zstd-compressed.  The read transaction
ends before compression begins, so it lasts as long as copying some MiB does.

Knows: SQL of the log and of the tables it reads, core, the wire's messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import apsw
import msgspec
import zstandard

from rollrep.core import sql
from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Facts, Shape
from rollrep.core.tokens import Bindable, bind_key, key_columns, make_key
from rollrep.query import all_rows, one_row, one_value, own_collations
from rollrep.source.database import reading
from rollrep.source.log import MS_AT, MS_OF_1970, Meta, proof_of, read_facts
from rollrep.source.tables import LOG, SHAPE
from rollrep.wire import digests
from rollrep.wire.digests import Scan
from rollrep.wire.images import log_table, log_width, rows_table
from rollrep.wire.messages import Batch, Chunk, Image

IMAGE_ROWS = 65_536
IMAGE_BYTES = 8 << 20
"""what one image holds at most, unpacked, unless a single row is larger"""
LOG_STEP_ROWS = 250
"""log rows between two looks at how large their image has become"""
FIRST_CHUNK_ROWS = 1_000
"""rows of a table's first chunk; after it, their size is known"""
STRETCH_S = 0.03
"""how long the digest of one stretch may take, in seconds of its read transaction"""
STRETCH_ROWS = 1 << 20
IMAGE_PAGE_SIZE = 16_384
COMPRESSION_LEVEL = 3

Tail = tuple[Batch, bytes] | None

T = TypeVar("T")


class Gone(Exception):
    """Log rows that were wanted are not there any more; the log begins at `oldest`."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


class Reader:
    """Makes images from one connection.  `db` has the digest functions loaded."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._shapes: dict[int, Shape] = {}
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        self._chunk_rows: dict[int, int] = {}
        self._row_bytes = 1.0
        """what a log row of the last image took on average"""

    def batch(self, meta: Meta, after: int, through: int) -> tuple[Batch, bytes]:
        """The next batch after `after` and its packed image, in a read transaction of its own.

        Raises Gone when the log no longer holds the row after `after`.
        """
        self.attach("log_image")
        try:
            with reading(self._db):
                first, last, shapes, proof = self._copy_log(after, through)
            image, packed = self.pack("log_image")
        finally:
            self._db.execute("DETACH log_image")
        return Batch(meta.epoch, first, last, proof, shapes, image), packed

    def chunk(
        self, meta: Meta, shape: Shape, after_key: tuple[str, ...] | None, position: int
    ) -> tuple[tuple[Batch, bytes] | None, tuple[Chunk, bytes] | None]:
        """The log after `position`, and the next rows of a table, both read in one transaction.

        Rows are left out (None) when the log alone fills an image.  Raises Gone as `batch` does.
        """
        self.attach("log_image")
        self.attach("rows_image")
        try:
            tail: tuple[Batch, bytes] | None = None
            with reading(self._db):
                facts = read_facts(self._db, meta)
                head = facts.head.id
                copied = self._copy_log(position, head) if head > position else None
                found = self._copy_rows(shape, after_key) if copied is None or copied[1] == head else None
            if copied:
                first, last, shapes, proof = copied
                image, packed = self.pack("log_image")
                tail = (Batch(meta.epoch, first, last, proof, shapes, image), packed)
            if found is None:
                return tail, None
            rows, last_key, complete = found
            image, packed = self.pack("rows_image")
            return tail, (Chunk(shape.id, rows, last_key, complete, facts, image), packed)
        finally:
            self._db.execute("DETACH log_image")
            self._db.execute("DETACH rows_image")

    def with_tail(
        self, meta: Meta, position: int, read: Callable[[], T]
    ) -> tuple[tuple[Batch, bytes] | None, Facts, T | None]:
        """(the log after `position`, facts at its head, what `read` gives), all read in one transaction.

        Nothing is read (None) when the log alone fills an image.  Raises Gone as `batch` does.
        """
        self.attach("log_image")
        try:
            with reading(self._db):
                facts = read_facts(self._db, meta)
                head = facts.head.id
                copied = self._copy_log(position, head) if head > position else None
                found = read() if copied is None or copied[1] == head else None
            if copied is None:
                return None, facts, found
            first, last, shapes, proof = copied
            image, packed = self.pack("log_image")
            return (Batch(meta.epoch, first, last, proof, shapes, image), packed), facts, found
        finally:
            self._db.execute("DETACH log_image")

    def rows_image(self, width: int, select: str) -> tuple[int, Image, bytes]:
        """An image of the rows that `select` gives: how many, what the wire says of it, packed."""
        self.attach("rows_image")
        try:
            self._db.execute(rows_table("rows_image.rows", width))
            self._db.execute(f"INSERT INTO rows_image.rows {select}")
            rows = self._db.changes()
            image, packed = self.pack("rows_image")
            return rows, image, packed
        finally:
            self._db.execute("DETACH rows_image")

    def _copy_log(self, after: int, through: int) -> tuple[int, int, tuple[Shape, ...], str]:
        """Copies log rows into the log's image; (first, last, shapes of its rows, proof of the last)."""
        # Rows are mostly of the size of those before them, so the first count is mostly the only one.
        through = min(through, after + max(1, min(IMAGE_ROWS, int(IMAGE_BYTES / self._row_bytes * 0.95))))
        while True:
            rows, size, first = one_row(
                self._db, f"SELECT count(*), sum(size), min(id) FROM {LOG} WHERE id > ? AND id <= ?", (after, through)
            )
            if rows != through - after or first != after + 1:
                oldest = one_value(self._db, f"SELECT ifnull(min(id), 0) FROM {LOG}")
                raise Gone(oldest)
            self._row_bytes = max(1.0, size / rows)
            if size <= IMAGE_BYTES or rows == 1:
                break
            through = after + max(1, min(rows - 1, int(rows * IMAGE_BYTES / size * 0.9)))
        found = all_rows(self._db, f"SELECT DISTINCT shape FROM {LOG} WHERE id > ? AND id <= ?", (after, through))
        shapes = tuple(self._shape(shape_id) for (shape_id,) in sorted(found) if shape_id != 0)
        through = self._insert_log(after, through, log_width(shapes))
        proof = proof_of(self._db, through)
        assert proof is not None
        return after + 1, through, shapes, proof

    def _insert_log(self, after: int, through: int, width: int) -> int:
        """Fills the log's image; returns the last row in it, which is an earlier one where the rows turn out large."""
        values = ", ".join(f"l.v{n}" for n in range(width))
        self._db.execute(log_table("log_image.log", width))
        pages, last = 2 * IMAGE_BYTES // IMAGE_PAGE_SIZE, after
        # `size` is what capture made of a row, and older triggers took blobs for numbers: an image that is cut by
        # nothing else may be larger than anybody takes, and no pull would get past it.
        while last < through and (last == after or self._pages("log_image") <= pages):
            begin, last = last, min(through, last + LOG_STEP_ROWS)
            self._db.execute(
                "INSERT INTO log_image.log"
                f" SELECT l.id, {MS_AT.format('l.at')} - ifnull({MS_AT.format('p.at')}, {MS_OF_1970}),"
                f" l.shape, l.op, {values} FROM {LOG} l LEFT JOIN {LOG} p ON p.id = l.id - 1 AND p.id > ?1"
                " WHERE l.id > ?2 AND l.id <= ?3",
                (after, begin, last),
            )
        return last

    def _pages(self, name: str) -> int:
        return int(one_value(self._db, "SELECT page_count FROM pragma_page_count(?)", (name,)))

    def _copy_rows(self, shape: Shape, after_key: tuple[str, ...] | None) -> tuple[int, tuple[str, ...] | None, bool]:
        """Copies rows into the rows' image in key order; (how many, the last one's key, whether that was all)."""
        limit = self._chunk_rows.get(shape.id, min(FIRST_CHUNK_ROWS, IMAGE_ROWS))
        scan = scan_of(self._db, shape, utf8=True)
        ends: list[str] = []
        bound: list[Bindable] = []
        if after_key is not None:
            check_key(shape, after_key)
            ends, bound = bind_key(after_key)
        # A condition may say an end twice, and a bound value is said once: so each is a name.
        given = ", ".join(f"{end} AS e{n}" for n, end in enumerate(ends)) or "NULL"
        beyond = digests.after_key(scan, [f"(SELECT e{n} FROM given)" for n in range(len(ends))])
        columns = ", ".join(f"t.{sql.name(column)}" for column in shape.columns)
        self._db.execute(rows_table("rows_image.rows", shape.width))
        self._db.execute(
            f"WITH given AS (SELECT {given}) INSERT INTO rows_image.rows SELECT {columns} FROM {scan.source}"
            f" WHERE {beyond} ORDER BY {', '.join(scan.key)} LIMIT {limit}",
            bound,
        )
        rows = self._db.changes()
        if rows == 0:
            return 0, after_key, True
        last_key = self.last_key(shape)
        size_per_row = max(1, self._pages("rows_image") * IMAGE_PAGE_SIZE // rows)
        self._chunk_rows[shape.id] = max(1, min(IMAGE_ROWS, limit * 4, IMAGE_BYTES // size_per_row))
        return rows, last_key, rows < limit

    def last_key(self, shape: Shape) -> tuple[str, ...]:
        """The key of the last row in the rows' image, which has one."""
        tokens = key_columns(f"v{n}" for n in range(shape.key_width))
        return make_key(one_row(self._db, f"SELECT {tokens} FROM rows_image.rows ORDER BY rowid DESC LIMIT 1"))

    def _shape(self, shape_id: int) -> Shape:
        if shape_id not in self._shapes:
            body = one_value(self._db, f"SELECT body FROM {SHAPE} WHERE id=?", (shape_id,))
            self._shapes[shape_id] = msgspec.json.decode(body, type=Shape)
        return self._shapes[shape_id]

    def attach(self, name: str) -> None:
        """An empty image by that name; call it outside of transactions."""
        self._db.execute(f"ATTACH ':memory:' AS {name}")
        self._db.execute(f"PRAGMA {name}.page_size = {IMAGE_PAGE_SIZE}")

    def pack(self, name: str) -> tuple[Image, bytes]:
        """How the image `name` is announced, and its packed bytes.  It is empty afterwards: a row may be large."""
        raw = self._db.serialize(name)
        self._db.execute(f"DETACH {name}")
        self.attach(name)
        return pack_image(self._compressor, raw)


def check_key(shape: Shape, key: tuple[str, ...]) -> None:
    """Raises RollrepError where `key`, which came over the wire, has not as many values as a key of the table."""
    if len(key) != shape.key_width:
        raise RollrepError(f"a key of {shape.table} has {shape.key_width} values, not {len(key)}")


def slices(packed: bytes, size: int) -> Iterable[memoryview]:
    """`packed` in pieces of `size` bytes, without copying."""
    view = memoryview(packed)
    return (view[start : start + size] for start in range(0, len(view), size))


def pack_image(compressor: zstandard.ZstdCompressor, raw: bytes) -> tuple[Image, bytes]:
    """What is said of bytes that follow, and these bytes as they travel."""
    packed = compressor.compress(raw)
    return Image(len(raw), len(packed), hashlib.sha256(packed).hexdigest()), packed


def scan_of(db: apsw.Connection, shape: Shape, *, utf8: bool) -> Scan:
    """How the rows of a table are read in the order of its key, whose collations may not be its columns'."""
    if not shape.without_rowid:
        return digests.scan_of(shape, None, (), utf8=utf8)
    index = one_value(db, "SELECT name FROM pragma_index_list(?) WHERE origin = 'pk'", (shape.table,))
    return digests.scan_of(shape, index, own_collations(db, shape.table, shape.key), utf8=utf8)
