"""The words both sides share: position, shape, table, point, facts of a source.

All are frozen values that travel as JSON inside the wire's messages and the archive's manifests.
Knows: nothing.
"""

from __future__ import annotations

import datetime as dt
import enum
from typing import Annotated

import msgspec

PREFIX = "_rollrep_"
"""Every object of ours inside somebody's database has a name that begins so."""

MASK_BITS = 60
"""Bits of a mask that stand for one value each; all further values share the next bit."""


Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""One that SQLite can hold: JSON's may be larger, and no statement takes those."""
Epoch = Annotated[str, msgspec.Meta(pattern=r"\A[\w-]{1,100}\Z")]
Time = Annotated[str, msgspec.Meta(pattern=r"\A[-0-9T:.Z]{1,40}\Z")]
"""ISO 8601 in UTC.  Epochs and times become parts of file names: nothing that could lead to another folder comes in."""
EARLIEST_YEAR, LATEST_YEAR = 1900, 9000
"""times between these are moments in every zone, and stay so when as much as anybody keeps is taken from them"""
Encoding = Annotated[str, msgspec.Meta(pattern=r"\AUTF-(8|16le|16be)\Z")]
Collation = Annotated[str, msgspec.Meta(pattern=r"\A\w{1,100}\Z")]
"""Encodings and collations stand in SQL unquoted, so they are words and nothing else."""


def require_moment(time: str) -> None:
    """Raises ValueError, which msgspec makes its own, where a `Time` is no moment.

    >>> require_moment("2026-11-22T19:08:01.123Z")
    >>> require_moment("2026-02-30T00:00:00.000Z")
    Traceback (most recent call last):
    ValueError: day is out of range for month
    """
    found = dt.datetime.fromisoformat(time)
    if found.tzinfo is None or not EARLIEST_YEAR <= found.year <= LATEST_YEAR:
        raise ValueError(f"{time} is no time of a source")


class Op(enum.IntEnum):
    """What a log row records.  The numbers are at rest in archives: never reuse one."""

    DELETE = 0
    """the row with this key is gone"""
    PUT = 1
    """the row with this key is now exactly this"""
    TOUCHED = 2
    """the statement that follows may remove the row with this key, unseen (a REPLACE does)"""
    POINT = 3
    """a consistency point: v0 label, v1 kind, v2 sqlite_sequence, v3 whether the schema had changed"""
    MARK = 4
    """something about the log itself: v0 what, v1 details"""
    PATCH = 5
    """the values of the row with this key that an UPDATE changed, and behind them a mask: bit n for value n"""


class Position(msgspec.Struct, frozen=True):
    """How far a destination has come: the last log row it has, and proof that it is that row."""

    epoch: Epoch
    id: Integer
    proof: str
    at_ms: Integer | None = None
    """the row's time, since 1970, where it is known: it proves the row when the log has forgotten its values"""


class Shape(msgspec.Struct, frozen=True):
    """One uninterrupted capture of one table: which value of a log row is which column.

    `columns` are in log order, key columns first.  A rowid table without an INTEGER PRIMARY KEY has
    its rowid as first value, under the name by which it can be reached (`rowid`, `oid`, `_rowid_`),
    and `hidden_key` is true.  Another shape id of the same table means that operations between the two
    may be missing, so the table must be mirrored again.
    """

    id: Integer
    table: str
    columns: tuple[str, ...]
    key_width: Integer
    hidden_key: bool
    without_rowid: bool
    key_collations: tuple[Collation, ...]
    unique_columns: tuple[str, ...]
    """columns that some UNIQUE index other than the key names; ("*",) when that can't be told"""
    autoincrement: bool
    touches_logged: bool
    """false where a REPLACE may remove rows that nothing announces: such a table is replayed row by row"""

    @property
    def key(self) -> tuple[str, ...]:
        return self.columns[: self.key_width]

    @property
    def width(self) -> int:
        return len(self.columns)

    @property
    def logged_width(self) -> int:
        """How many values a log row of this shape may have: the row's own, and the mask of a PATCH."""
        return len(self.columns) + 1


class SchemaObject(msgspec.Struct, frozen=True):
    """A row of sqlite_schema that is the application's own."""

    type: str
    name: str
    table: str
    sql: str


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is not carried, and why, in words for the person: a table, or an index of one that is carried."""

    table: str
    reason: str
    index: str | None = None
    """only this one of the table's indexes is left out"""

    @property
    def name(self) -> str:
        """What it is called in the source's schema, where tables and indexes never share a name."""
        return self.index or self.table


class Virtual(msgspec.Struct, frozen=True):
    """A virtual table, carried as what it is on disk: its text in the schema, and its shadow tables.

    The shapes of shadow tables have id 0: no trigger ever stands on one, so no log row names them.
    """

    name: str
    module: str
    shadows: tuple[Shape, ...]


class Layout(msgspec.Struct, frozen=True):
    """Everything about a source's schema that the mirror must have too."""

    objects: tuple[SchemaObject, ...]
    shapes: tuple[Shape, ...]
    refused: tuple[Refused, ...]
    since: Integer
    """the log id of the first mark that the destination has not seen: rows before it are of the schema it has"""
    encoding: Encoding
    page_size: Integer
    auto_vacuum: Integer
    journal_mode: str
    virtuals: tuple[Virtual, ...] = ()


class Point(msgspec.Struct, frozen=True):
    """A consistency point as it stands in the log: prefix of the log up to and including `id`."""

    id: Integer
    time: Time
    kind: str
    label: str | None
    sequence: str | None = None
    """sqlite_sequence at the point, as `HEXNAME:SEQ HEXNAME:SEQ`; None where there is no such table.

    No trigger sees that table, and it can't be derived: an INSERT OR IGNORE that inserts nothing raises it.
    """
    schema_changed: bool = False
    """the schema was not the captured one any more, so the log may not tell all that led here"""

    def __post_init__(self) -> None:
        require_moment(self.time)


class Facts(msgspec.Struct, frozen=True):
    """What no trigger sees, read in the same transaction as `head`.  `time` is the source's own clock."""

    head: Position
    time: Time
    user_version: Integer
    application_id: Integer
    sequence: tuple[tuple[str, Integer], ...]
    """rows of sqlite_sequence of the captured tables"""
    point: Point | None = None
    """the consistency point that the row at `head` is, if it is one"""
    schema_version: Integer | None = None
    """SQLite's count of changes to the schema, which tells what its text does not: rollrep/source/doubt.py"""

    def __post_init__(self) -> None:
        require_moment(self.time)
