"""The messages, who says them, and what may follow.

    destination                                source
    Hello (position) ────────────────────────► Answer | Refusal
    SendBatches (after, through) ────────────► Batch+data ... Batch+data, Done | Overrun
    SendChunk (shape, after key, position) ──► [Batch+data], Chunk+data | Done | Overrun | Changed
    SendForgotten (after, at) ───────────────► Bridge+data | Done (they don't reach back so far) | Changed
    SendRanges (position) ───────────────────► Ranges | Done (nothing is known) | Changed
    SendStretch, SendGroups, SendRows ───────► [Batch+data], Stretch | Leaves[+data] | Groups+data | Rows+data,
                                               or as above
    SendCells (of leaves that were told) ────► Cells+data
    SendShadows (position, digests) ─────────► [Batch+data], ShadowRows+data ..., Shadows | Done | Overrun | Changed
    Hello again, at any time after an answer is whole; the end of the stream at any time

A Batch, a Chunk, Groups or Rows announce an image: a zstd-compressed SQLite database that follows in data frames.
JSON, decoded strictly by type: what is not one of these is refused.

Knows: core.  Does not know: frames, SQLite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import msgspec

from rollrep.core.nouns import Epoch, Facts, Integer, Layout, Point, Position, Shape
from rollrep.core.windows import Lasting

AnswerKind = Literal["resume", "up_to_date", "mirror"]
MOST_LABELS, MOST_SIGNS = 100, 200
"""how many labels are told, and how much of each"""
ByLeaves = Literal["", "as one", "each"]
MirrorReason = Literal["", "first", "pruned", "epoch", "diverged", "ahead", "schema", "requested"]


class Message(msgspec.Struct, frozen=True, tag_field="say", tag=True):
    """Base of everything said."""


class Hello(Message, frozen=True):
    """Opens a pull.  `database` is a name the key may pull, or a path; the rest is what the mirror has."""

    version: str
    database: str
    position: Position | None = None
    schema_digest: str | None = None
    schema_version: Integer | None = None
    """what it was when the destination reached `position`"""
    database_id: str | None = None
    instance: str | None = None
    mirror_requested: bool = False
    tell_lasting: bool = False
    """asks for `Answer.lasting`, which a pull does not need"""
    tell_rows: bool = False
    """asks for `Answer.rows`, where somebody watches"""
    tell_labels_after: Integer | None = None
    """asks for `Answer.labels`; up to this log id they are known"""


class Labels(msgspec.Struct, frozen=True):
    """The labelled points of the log, behind what the destination knows where it is of this log."""

    points: tuple[Point, ...]
    """the newest of them, oldest first; a long label is cut"""
    more: Integer
    """older ones than these"""
    forgotten: Integer | None
    """rows behind it that may have been points, and of which only the time is left; None where that is gone too"""


class Answer(Message, frozen=True):
    """How to go on from `Hello.position`, and everything read in the same transaction as `facts.head`."""

    kind: AnswerKind
    reason: MirrorReason
    facts: Facts
    oldest: Integer
    forgotten_through: Integer
    database_id: str
    instance: str
    schema_digest: str
    layout: Layout | None
    """None when the destination's schema_digest is the same"""
    version: str
    sqlite_version: str
    journal_mode: str
    lasting: Lasting | None = None
    """how long the log lasts for a destination there, where that was asked for"""
    rows: dict[int, int] = msgspec.field(default_factory=dict)
    """about how many each table has, by shape, where that was asked for and tables are to be mirrored"""
    labels: Labels | None = None
    """where that was asked for and tables are to be mirrored, which may jump over points"""


class Refusal(Message, frozen=True):
    """The source can't or won't: `error` is the class name of one of core's errors."""

    error: str
    facts: str
    remedy: str = ""


class SendBatches(Message, frozen=True):
    """Log rows `after` < id ≤ `through`, which is a head from an Answer."""

    after: Integer
    through: Integer


class Image(msgspec.Struct, frozen=True):
    """The database that follows in data frames: `packed_bytes` of zstd, `raw_bytes` unpacked."""

    raw_bytes: Integer
    packed_bytes: Integer
    sha256: str
    """of the packed bytes"""


class Batch(Message, frozen=True):
    """Log rows `first` to `last`, without a hole, in the image's table `log`."""

    epoch: Epoch
    first: Integer
    last: Integer
    proof: str
    shapes: tuple[Shape, ...]
    image: Image


class Done(Message, frozen=True):
    """The answer is whole."""


class Overrun(Message, frozen=True):
    """Rows that were asked for were pruned meanwhile; the log begins at `oldest`."""

    oldest: Integer


class Changed(Message, frozen=True):
    """The schema changed since the Answer: say Hello again."""


class SendChunk(Message, frozen=True):
    """The next rows of a table after `after_key` (None: from its start), and the log after `position`.

    Key values are tokens (`rollrep.core.tokens`), so that a value of any kind travels exactly.
    """

    shape: Integer
    after_key: tuple[str, ...] | None
    position: Integer
    schema_digest: str


class Chunk(Message, frozen=True):
    """Rows in the image's table `rows`, as they are at `facts.head`; the log up to there came before.

    `complete` says that no row is left after `last_key`.
    """

    shape: Integer
    rows: Integer
    last_key: tuple[str, ...] | None
    complete: bool
    facts: Facts
    image: Image


Key = tuple[str, ...]


class KeyRange(msgspec.Struct, frozen=True, array_like=True):
    """The rows of a table with `after` < key ≤ `through`; None: from the first one, to the last one."""

    after: Key | None
    through: Key | None


class SendStretch(Message, frozen=True):
    """One digest of as many rows after `after_key`, up to `through_key`, as a short read transaction allows, and the
    log after `position`.

    With `group_rows` the answer is Groups of so many rows each instead.  With `leaves` it is Leaves, where the source
    can tell them; `of_pages` is what their digests may be of.
    """

    shape: Integer
    after_key: Key | None
    position: Integer
    schema_digest: str
    group_rows: Integer = 0
    through_key: Key | None = None
    leaves: ByLeaves = ""
    of_pages: bool = False


class Stretch(Message, frozen=True):
    """`rows` rows up to `last_key` (None: to the end of what was asked for) have this digest at `facts.head`.

    `facts` is None when the log has not grown since the position that was asked with.
    """

    shape: Integer
    rows: Integer
    digest: str
    last_key: Key | None
    facts: Facts | None


class Leaves(Message, frozen=True):
    """The `leaves` of the table's b-tree that hold the `rows` rows up to `last_key` (None: to the end of what was asked
    for), by their digests, as `rollrep.wire.leaves` takes them: one after another in the image, or one of all of these.

    The first and the last may hold rows beyond both ends too.  Digests are `of_pages` as they lie there, or of rows.
    """

    shape: Integer
    number: Integer
    """by which they may be asked for their cells, for some answers more"""
    rows: Integer
    leaves: Integer
    digest: str
    last_key: Key | None
    image: Image | None
    of_pages: bool = False


class SendCells(Message, frozen=True):
    """Digests of the cells of some of the leaves that were told each under `number`, as they were then."""

    shape: Integer
    number: Integer
    leaves: tuple[Integer, ...]
    """which of them, counted from 0, in order"""
    key: str
    """of the digests, by chance: nobody can write rows whose digests he knows to be the same"""


class Cells(Message, frozen=True):
    """For each leaf that was asked for how many cells it has, in two bytes; then the digests of all of them.

    None where these leaves are not known any more.
    """

    shape: Integer
    image: Image | None


class SendGroups(Message, frozen=True):
    """Digests of groups of `group_rows` rows within each of `ranges`, and the log after `position`."""

    shape: Integer
    ranges: tuple[KeyRange, ...]
    group_rows: Integer
    position: Integer
    schema_digest: str


class Groups(Message, frozen=True):
    """The image's table `groups` covers the first `answered` of the ranges that were asked for.

    Of a stretch that was asked for by its start, it covers the `rows` rows up to `last_key` (None: to the end of what
    was asked for) as one range.
    """

    shape: Integer
    answered: Integer
    facts: Facts
    image: Image
    rows: Integer = 0
    last_key: Key | None = None


class SendRows(Message, frozen=True):
    """The rows within each of `ranges`, and the log after `position`."""

    shape: Integer
    ranges: tuple[KeyRange, ...]
    position: Integer
    schema_digest: str


class Rows(Message, frozen=True):
    """The image's table `rows` holds the first `answered` ranges, and of the next one the rows up to `last_key`."""

    shape: Integer
    rows: Integer
    answered: Integer
    last_key: Key | None
    facts: Facts
    image: Image


class SendPages(Message, frozen=True):
    """The whole database by its pages, where that may be."""

    schema_digest: str


class Pages(Message, frozen=True):
    """So many pages follow, in parts, as of `facts.head`; then Done, sooner where the line is too slow for them."""

    facts: Facts
    pages: Integer


class PagePart(Message, frozen=True):
    """Pages `first` and those that follow it, as `rollrep.wire.pages` packs them; what comes later counts."""

    first: Integer
    pages: Integer
    image: Image


class SendForgotten(Message, frozen=True):
    """The rows behind forgotten keys: those of log rows after `after`, which was written at `at_ms`."""

    after: Integer
    at_ms: Integer
    schema_digest: str


class Bridge(Message, frozen=True):
    """For log rows `after` + 1 to `last`, which are forgotten: each of their keys once, in the image's table `log`.

    A PUT of the row as it is at `facts.head`, or a DELETE where there is none.  `at_ms` is that of log row `last`.
    `is_last` says that the log itself begins after `last`.
    """

    epoch: Epoch
    last: Integer
    at_ms: Integer
    is_last: bool
    rows: Integer
    shapes: tuple[Shape, ...]
    facts: Facts
    image: Image


class SendRanges(Message, frozen=True):
    """Where was written since a mirror at `position`, of which not even the keys are known any more."""

    position: Position
    schema_digest: str


class Ranges(Message, frozen=True):
    """`numbers` of the ranges of each shape's keys that were written to behind log row `anchor`, written at `at_ms`.

    Numbers are those of `rollrep.wire.forgotten_ranges`, with keys in ranges of `widths`.
    """

    epoch: Epoch
    anchor: Integer
    at_ms: Integer
    widths: dict[Integer, Integer]
    numbers: dict[Integer, tuple[Integer, ...]]


class Range(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of a table's keys, from the range before it up to and including `through`; None: to the end."""

    through: tuple[str, ...] | None
    digest: str


class SendShadows(Message, frozen=True):
    """What has changed in shadow tables, and the log after `position`, all of one moment.

    `known` are digests of what the destination has: by table, ranges that cover all keys, in order.
    """

    position: Integer
    seen_at: Integer
    """the log id under which the destination has a state of them already; another state must get another id"""
    schema_digest: str
    known: dict[str, tuple[Range, ...]]
    most_bytes: Integer = 0
    """where this is not 0: what may be sent at most, and the rest when asked again"""


class ShadowRows(Message, frozen=True):
    """Rows of a shadow table, in the image's table `rows`; what stood in the `ranges` before is gone.

    `ranges` are numbers of the ranges that were asked about.  The first message for a table names all that
    differ; more may follow with the rest of their rows.  With `through`, the last of them is only given up to
    that key.
    """

    table: str
    ranges: tuple[Integer, ...]
    through: tuple[str, ...] | None
    rows: Integer
    image: Image


class Shadows(Message, frozen=True):
    """The answer to SendShadows is whole: the shadow tables as of `facts.head`, unless it is not `complete`."""

    facts: Facts
    complete: bool


Ask = SendChunk | SendStretch | SendGroups | SendRows
"""what is answered with the log's tail first, both read in one transaction"""
FromDestination = (
    Hello | SendBatches | SendForgotten | SendRanges | SendPages
    | SendChunk | SendStretch | SendCells | SendGroups | SendRows | SendShadows
)  # fmt: skip
FromSource = (
    Answer | Refusal | Batch | Bridge | Ranges | Done | Overrun | Changed
    | Chunk | Stretch | Leaves | Cells | Groups | Rows | Pages | PagePart | ShadowRows | Shadows
)  # fmt: skip

_encoder = msgspec.json.Encoder()
_from_destination = msgspec.json.Decoder(FromDestination)
_from_source = msgspec.json.Decoder(FromSource)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode_from_destination(payload: bytes) -> FromDestination:
    """Raises msgspec.DecodeError on anything that is not such a message, exactly typed."""
    with _strictly():
        message: FromDestination = _from_destination.decode(payload)
    return message


def decode_from_source(payload: bytes) -> FromSource:
    """Raises msgspec.DecodeError on anything that is not such a message, exactly typed."""
    with _strictly():
        message: FromSource = _from_source.decode(payload)
    return message


@contextlib.contextmanager
def _strictly() -> Iterator[None]:
    """Also a field that nobody knows is read to its end, however deep it is nested, and names before they are text."""
    try:
        yield
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deep") from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("it is not UTF-8") from error
