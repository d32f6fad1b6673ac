"""Images: SQLite databases in memory that carry rows here, put beside the mirror to be read by SQL.

    batch.log      operations                 chunk.rows     rows of one table, in key order
                                 chunk.groups   digests of groups of its rows

An image is believed only when its one table is exactly what is expected: nothing else in it is read.

Knows: the wire's image layouts.  Does not know: where images come from, what is done with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Op, Point, Shape
from rollrep.query import all_rows, as_text, find_row, one_row, one_value, text_bytes
from rollrep.wire.digests import groups_table
from rollrep.wire.images import log_table, log_width, rows_table

TIME = "strftime('%Y-%m-%dT%H:%M:%fZ', ms / 1000.0, 'unixepoch')"


ENCODINGS = {1: "UTF-8", 2: "UTF-16le", 3: "UTF-16be"}
"""at byte 56 of a database's header (https://www.sqlite.org/fileformat2.html)"""


@contextlib.contextmanager
def scratch(encoding: str) -> Iterator[apsw.Connection]:
    """A database in memory with an empty `batch`; SQLite joins only databases of one encoding."""
    with contextlib.closing(apsw.Connection(":memory:")) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'").fetchall()
        db.execute("ATTACH ':memory:' AS batch")
        yield db


def at_ms_of(db: apsw.Connection, log_id: int) -> int:
    """The time of a log row of `batch`, in milliseconds since 1970; 0 where it begins later."""
    # An image's first row has its whole time, each other what has passed since the row before.
    return int(one_value(db, "SELECT ifnull(sum(at), 0) FROM batch.log WHERE id <= ?", (log_id,)))


def encoding_of(image: bytes) -> str:
    return ENCODINGS.get(int.from_bytes(image[56:60]), "UTF-8")


def attach_log(
    db: apsw.Connection,
    raw: bytes,
    first: int,
    last: int,
    shapes: Sequence[Shape],
    *,
    sparse: bool = False,
    name: str = "batch",
) -> None:
    """Makes `batch`, or what is attached as `name`, this image.

    Raises VerifyFailed where it is not rows `first` to `last`, each once.

    `sparse`: ids may be missing, as where each forgotten key stands there only once.
    """
    attach_image(db, name, raw, log_table("log", log_width(shapes)))
    _require_ids(db, name, first, last, sparse=sparse)


def attach_log_file(db: apsw.Connection, path: Path, first: int, last: int, shapes: Sequence[Shape]) -> None:
    """Makes `batch` the image in the file `path`, as `attach_log` does; ids may be missing."""
    db.execute("DETACH batch")
    try:
        db.execute("ATTACH ? AS batch", (str(path),))
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise VerifyFailed(f"{path} is no database: {error}") from error
    _require_table(db, "batch", log_table("log", log_width(shapes)))
    # Replay writes there too, and what it wrote is worth nothing when the transaction is taken back.
    for pragma in ("journal_mode", "synchronous"):
        db.execute(f"PRAGMA batch.{pragma} = OFF").fetchall()
    _require_ids(db, "batch", first, last, sparse=True)


def detach_log_file(db: apsw.Connection) -> None:
    """Makes `batch` of no file again."""
    if any(name == "batch" for _, name, _ in all_rows(db, "PRAGMA database_list")):
        db.execute("DETACH batch")
    db.execute("ATTACH ':memory:' AS batch")


def _require_ids(db: apsw.Connection, name: str, first: int, last: int, *, sparse: bool) -> None:
    low, high, rows = one_row(db, f"SELECT min(id), max(id), count(*) FROM {name}.log")
    right = (
        rows == 0 or first <= low <= high <= last if sparse else (low, high, rows) == (first, last, last - first + 1)
    )
    if not right:
        raise VerifyFailed(f"a batch holds log rows {low} to {high} ({rows}), not {first} to {last}")


def attach_rows(db: apsw.Connection, raw: bytes, shape: Shape) -> None:
    """Makes `chunk` this image of rows of `shape`."""
    attach_image(db, "chunk", raw, rows_table("rows", shape.width))


def attach_groups(db: apsw.Connection, raw: bytes, shape: Shape) -> None:
    """Makes `chunk` this image of digests of groups of rows of `shape`."""
    attach_image(db, "chunk", raw, groups_table("groups", shape.key_width))


def points_in(db: apsw.Connection) -> tuple[Point, ...]:
    """The consistency points in `batch`.  Raises VerifyFailed where one has no time."""
    if find_row(db, f"SELECT 1 FROM batch.log WHERE op = {Op.POINT:d} LIMIT 1") is None:
        return ()
    found = all_rows(
        db,
        f"SELECT id, {TIME}, {text_bytes('v1')}, {text_bytes('v0')}, {text_bytes('v2')}, v3"
        " FROM (SELECT *, sum(at) OVER (ORDER BY id) AS ms FROM batch.log)"
        f" WHERE op = {Op.POINT:d} AND shape = 0 ORDER BY id",
    )
    if any(time is None for _, time, *_ in found):
        raise VerifyFailed("a batch holds a point without a time")
    try:
        return tuple(
            Point(
                log_id,
                time,
                as_text(db, kind) or "application",
                as_text(db, label),
                as_text(db, sequence),
                bool(changed),
            )
            for log_id, time, kind, label, sequence, changed in found
        )
    except ValueError as error:
        raise VerifyFailed(f"a batch holds a point of no time: {error}") from error


def attach_image(db: apsw.Connection, name: str, raw: bytes, expected: str) -> None:
    """Puts an image, of the one table whose text is `expected`, beside the mirror.  Raises VerifyFailed on another."""
    try:
        db.deserialize(name, raw)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise VerifyFailed(f"a {name} is no database: {error}") from error
    _require_table(db, name, expected)


def _require_table(db: apsw.Connection, name: str, expected: str) -> None:
    try:
        found = all_rows(db, f"SELECT type, sql FROM {name}.sqlite_schema")
    except (apsw.NotADBError, apsw.CorruptError, UnicodeDecodeError) as error:
        raise VerifyFailed(f"a {name} is no database: {error}") from error
    if found != [("table", expected)]:
        raise VerifyFailed(f"a {name} holds something else than was asked for")
