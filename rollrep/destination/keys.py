"""Which segments speak of a row: an index of keys, made as segments are read, and rebuilt when it is gone.

    keys.db   seen(line, first, shape, keys, digest)     one row per segment and shape, and one that names its shapes

    keys      " 17 21 305 "   each key once, in the table's order, packed
                                 └── a segment that does not say the key does not hold a row of it

It only ever says *not there*: what may be there is read from the segment itself.  A row of it counts only with its
digest, which is of the segment's proof as well, so it is of that very segment.  Keys that SQLite finds equal are
written as the same text; two that are not may share one, which costs a look.

Knows: SQL of its own table and of a batch.  Does not know: what is asked of a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import apsw
import zstandard

from rollrep.core.nouns import Op, Shape
from rollrep.core.tokens import bind_key
from rollrep.destination.catalog_rows import Segment
from rollrep.query import all_rows, closed_on_error, find_row, one_value

FORMAT = 1
AT_A_TIME = min(4, os.cpu_count() or 1)
"""segments that are looked at beside each other"""
ALL_SHAPES = 0
SMALLEST_PACKED_BYTES = 256
AT_ONCE = 4 * AT_A_TIME
"""rows of the index in memory"""
MOST_WAITING = 64
"""segments whose keys wait to be written together"""
SCHEMA = f"""
CREATE TABLE seen(line, first, shape, keys, digest, PRIMARY KEY (line, first, shape)) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""


class KeyIndex:
    """The index of one job; no lock of the job is needed, and without it all works, only slower."""

    def __init__(self, path: Path) -> None:
        self._db: apsw.Connection | None = None
        self._waiting: list[tuple[int, int, int, bytes, bytes]] = []
        self._lock = threading.Lock()
        for _ in range(2):
            try:
                self._db = _open(path)
                return
            except (apsw.Error, OSError):
                # Damaged, or of another format, it is made anew; where nothing can be written, there is none.
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        self._write()
        if self._db is not None:
            self._db.close()

    def forget_before(self, line: int, first: int) -> None:
        """Forgets segments that are gone."""
        gone = "FROM seen WHERE line = ? AND first < ?"
        with contextlib.suppress(apsw.Error):
            if self._db is not None and find_row(self._db, f"SELECT 1 {gone} LIMIT 1", (line, first)):
                self._db.execute(f"DELETE {gone}", (line, first))

    def may_hold(self, segments: Sequence[Segment], shape: Shape, key: Sequence[str]) -> Iterator[tuple[Segment, bool]]:
        """The segments of one line that may hold rows with this key, and whether each is in the index already."""
        known = self._known(segments, shape, f" {key_text(shape, key)} ".encode())
        for segment in segments:
            may_hold = known.get(segment.first)
            if may_hold is not False:
                yield segment, may_hold is not None

    def learn(self, db: apsw.Connection, segment: Segment, shapes: Sequence[Shape]) -> None:
        """Notes the keys of `batch` of `db`, which is this segment; called from any thread."""
        if self._db is None:
            return
        names = " ".join(str(shape.id) for shape in shapes)
        learned = []
        for shape_id, text in [(ALL_SHAPES, names), *((shape.id, _keys_in(db, shape)) for shape in shapes)]:
            keys = f" {text} ".encode()
            if len(keys) >= SMALLEST_PACKED_BYTES:
                keys = zstandard.ZstdCompressor(level=3).compress(keys)
            learned.append((segment.line, segment.first, shape_id, keys, _digest(segment, shape_id, keys)))
        with self._lock:
            self._waiting += learned
            if len(self._waiting) >= MOST_WAITING:
                self._write()

    def _known(self, segments: Sequence[Segment], shape: Shape, sought: bytes) -> dict[int, bool]:
        """Whether a segment may hold the key, by its first log id; of those that are in the index.

        The keys of all segments together are hundreds of megabytes, so those of a few are unpacked at a time.
        """
        if self._db is None or not segments:
            return {}
        by_first = {segment.first: segment for segment in segments}
        found: dict[int, dict[int, bool]] = {}

        def says(row: tuple[Any, ...]) -> bool | None:
            """Whether it names what is sought: the shape, or a key of it.  None where it is not of that segment."""
            first, shape_id, keys, digest = row
            segment = by_first.get(first)
            if segment is None or digest != _digest(segment, shape_id, keys):
                return None
            return (f" {shape.id} ".encode() if shape_id == ALL_SHAPES else sought) in _unpacked(keys)

        with contextlib.suppress(apsw.Error), futures.ThreadPoolExecutor(AT_A_TIME) as readers:
            rows = self._db.execute(
                "SELECT first, shape, keys, digest FROM seen"
                " WHERE line = ? AND first BETWEEN ? AND ? AND shape IN (?, ?)",
                (segments[0].line, segments[0].first, segments[-1].first, ALL_SHAPES, shape.id),
            )
            while some := list(itertools.islice(rows, AT_ONCE)):
                for (first, shape_id, *_), said in zip(some, readers.map(says, some), strict=True):
                    if said is not None:
                        found.setdefault(first, {})[shape_id] = said
        return {
            first: each.get(shape.id, False)
            for first, each in found.items()
            if ALL_SHAPES in each and (shape.id in each or not each[ALL_SHAPES])
        }

    def _write(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._db is not None and self._waiting:
                with self._db:
                    self._db.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", self._waiting)
        self._waiting.clear()


def key_text(shape: Shape, key: Sequence[str]) -> str:
    """A key as the index writes it; equal for keys that SQLite finds equal in this table.

    >>> shape = Shape(1, "t", ("k", "v"), 1, False, True, ("NOCASE",), (), False, True)
    >>> [key_text(shape, [token]) for token in ("t:4142", "t:6142", "i:1", "r:0x1p+0")]
    ['t6162', 't6162', 'n1.0', 'n1.0']
    """
    expressions, bound = bind_key(key)
    # An expression stands in a text several times, and what is bound to it must, too: so it is given a name first.
    names = [f"v{n}" for n in range(len(expressions))]
    columns = ", ".join(f"{expression} AS {name}" for expression, name in zip(expressions, names, strict=True))
    with contextlib.closing(apsw.Connection(":memory:")) as db:
        return str(one_value(db, f"SELECT {_text(shape)} FROM (SELECT {columns})", bound))


def _keys_in(db: apsw.Connection, shape: Shape) -> str:
    order = "v0" if shape.key_width == 1 and not shape.without_rowid else "1"
    keys = (
        f"SELECT DISTINCT {_text(shape)} AS k FROM batch.log WHERE shape = ? AND op IN"
        f" ({Op.PUT:d}, {Op.DELETE:d}, {Op.TOUCHED:d}, {Op.PATCH:d}) ORDER BY {order}"
    )
    return str(one_value(db, f"SELECT ifnull(group_concat(k, ' '), '') FROM ({keys})", (shape.id,)))


def _text(shape: Shape) -> str:
    """SQL for the text of the key of a log row."""
    if not shape.without_rowid:
        return "v0"
    return " || ',' || ".join(_value_text(f"v{n}", collation) for n, collation in enumerate(shape.key_collations))


def _value_text(value: str, collation: str) -> str:
    folded = {"NOCASE": f"lower({value})", "RTRIM": f"rtrim({value}, ' ')"}.get(collation.upper(), value)
    return (
        f"CASE typeof({value}) WHEN 'text' THEN 't' || hex(CAST({folded} AS BLOB)) WHEN 'blob' THEN 'b' || hex({value})"
        f" WHEN 'null' THEN '-' ELSE 'n' || printf('%!.17g', CAST({value} AS REAL)) END"
    )


def _digest(segment: Segment, shape_id: int, keys: bytes) -> bytes:
    said = f"{segment.line} {segment.first} {segment.last} {segment.proof} {shape_id} ".encode()
    return hashlib.blake2b(said + keys, digest_size=16).digest()


def _unpacked(keys: bytes) -> bytes:
    return keys if keys[:1] == b" " else zstandard.ZstdDecompressor().decompress(keys)


def _open(path: Path) -> apsw.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = apsw.Connection(str(path))
    with closed_on_error(db):
        db.set_busy_timeout(2_000)
        db.execute("PRAGMA synchronous = NORMAL").fetchall()
        version = int(one_value(db, "PRAGMA user_version"))
        if version == 0:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            with db:
                all_rows(db, SCHEMA)
        elif version != FORMAT:
            raise apsw.NotADBError(f"format {version}")
    return db
