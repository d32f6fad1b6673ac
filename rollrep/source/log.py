"""The rolling log as data: its meta row, its ends, its shapes, its points.

Read by everything on the source's side; written only by `install` and `write_point`.
Knows: SQL of the log's tables, core.  Does not know: the application's tables, the wire.
"""

from __future__ import annotations

import dataclasses
import json
from shlex import quote

import apsw
import msgspec

from rollrep.core.errors import NotSetUp, RollrepError
from rollrep.core.nouns import Facts, Op, Point, Position, Refused, Shape
from rollrep.query import all_rows, as_text, find_row, has_table, one_row, one_value, text_bytes
from rollrep.source.tables import FORGOTTEN, FORMAT, LOG, META, POINT, POINT_SIZE, SCHEMA_TEXT, SHAPE, Limits

TIME = "strftime('%Y-%m-%dT%H:%M:%fZ', {0})"
"""SQL for a Julian day as ISO 8601 in UTC with milliseconds; on every side the same rounding"""

MS_AT = "CAST({0} * 86400000.0 + 0.5 AS INTEGER)"
"""SQL for a Julian day in milliseconds, rounded as SQLite's own date functions do"""
MS_OF_1970 = 210_866_760_000_000
MS = f"({MS_AT.format('at')} - {MS_OF_1970})"
"""SQL for a log row's time in milliseconds since 1970"""

HEADER_MARK, VIRTUAL_MARK = "header", "virtual tables changed"
"""what a mark says that only gives a log id of its own to a state that no trigger saw come"""

DOUBT_MARK = "columns may be others"
"""what the mark says that makes the log's rows before it, back to any destination's position, untrustworthy"""

CHANGES_KNOWN = "schema_changes"
"""in the details of a mark: how many changes of the schema it accounts for, ours among them"""

MIGRATING_MARK = "migrating"
"""what the mark says after which nothing was captured, because a migration ran"""


@dataclasses.dataclass(frozen=True)
class Meta:
    """The log's one row about itself."""

    database: str
    epoch: str
    limits: Limits
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    refused: tuple[Refused, ...]
    since: int
    pruned_through: int
    forgotten_through: int


@dataclasses.dataclass(frozen=True)
class Ends:
    """The ids that the log holds: `oldest` to `newest`, dense."""

    oldest: int
    newest: int


def is_current(db: apsw.Connection) -> bool:
    """Whether the schema is the one that was captured, our triggers and their order included."""
    return bool(one_value(db, f"SELECT {SCHEMA_TEXT} IS (SELECT schema_text FROM {META})"))


def schema_version(db: apsw.Connection) -> int:
    """SQLite's own count of changes to the schema: each ALTER, CREATE, DROP is one, and VACUUM is too."""
    return int(db.pragma("schema_version"))


def is_whole(db: apsw.Connection, pruned_through: int) -> bool:
    """Whether nobody emptied or cut the log: its oldest row is the one after the last that was pruned.

    The first row of all is a mark, and ids begin again at 1 in a log that was emptied early.
    """
    oldest = find_row(db, f"SELECT id, op FROM {LOG} ORDER BY id LIMIT 1")
    return oldest is not None and oldest[0] == pruned_through + 1 and (pruned_through > 0 or oldest[1] == Op.MARK)


def has_log(db: apsw.Connection) -> bool:
    return has_table(db, META)


def read_meta(db: apsw.Connection, *, older_too: bool = False) -> Meta:
    """Raises NotSetUp where no rolling log is installed, RollrepError where a newer rollrep made it, or an older one.

    With `older_too` the row of an older one is given as well, by who makes that log anew.
    """
    if not has_log(db):
        path = db.filename
        raise NotSetUp(f"{path} has no rolling log", remedy=f"install it: rollrep source install {quote(str(path))}")
    row = find_row(
        db,
        "SELECT format, database, epoch, keep_rows, keep_bytes, keep_age_days, keep_keys, include, exclude,"
        f" refused, since, pruned_through, forgotten_through FROM {META}",
    )
    if row is not None and row[0] < FORMAT and not older_too:
        path = db.filename
        raise RollrepError(
            f"the rolling log of {path} was made by an older rollrep",
            remedy=f"make it anew, and every destination mirrors again: rollrep source install {quote(str(path))}",
        )
    if row is None or row[0] > FORMAT:
        raise RollrepError(
            f"the rolling log of {db.filename} has format {row and row[0]}, this rollrep reads {FORMAT}",
            remedy="use the rollrep version that installed it, or a newer one",
        )
    return Meta(
        database=row[1],
        epoch=row[2],
        limits=Limits(row[3], row[4], row[5] * 86_400.0, row[6]),
        include=tuple(json.loads(row[7])),
        exclude=tuple(json.loads(row[8])),
        refused=msgspec.json.decode(row[9], type=tuple[Refused, ...]),
        since=row[10],
        pruned_through=row[11],
        forgotten_through=row[12],
    )


def read_ends(db: apsw.Connection) -> Ends | None:
    """None where the log is empty, which only somebody's hand can bring about."""
    oldest, newest = one_row(db, f"SELECT (SELECT min(id) FROM {LOG}), (SELECT max(id) FROM {LOG})")
    return None if newest is None else Ends(oldest, newest)


def is_of_this_log(db: apsw.Connection, position: Position) -> bool:
    """Whether what is in the log behind `position` is what a destination that stands there has not seen."""
    # Asked first: it knows what to say where there is no log.
    epoch, ends = read_meta(db).epoch, read_ends(db)
    return ends is not None and position.epoch == epoch and position.id <= ends.newest


def read_header(db: apsw.Connection) -> tuple[int, int]:
    """(user_version, application_id), which no trigger sees."""
    return int(db.pragma("user_version")), int(db.pragma("application_id"))


def knows_header(db: apsw.Connection) -> bool:
    """Whether the log has a row since those numbers last changed."""
    return find_row(db, f"SELECT user_version, application_id FROM {META}") == read_header(db)


def changed_after(db: apsw.Connection, log_id: int) -> int | None:
    """The oldest row after `log_id` that belongs to another capture than was made then; None where none does.

    That is the mark which says that capture was made anew; but where the schema may have been another before
    without anyone's seeing it, no row after `log_id` is to be believed.
    """
    found = find_row(
        db,
        f"SELECT id, v0 FROM {LOG} WHERE id > ? AND op = {Op.MARK:d} AND v0 NOT IN (?, ?) ORDER BY id LIMIT 1",
        (log_id, HEADER_MARK, VIRTUAL_MARK),
    )
    if found is None:
        return None
    return log_id + 1 if found[1] == DOUBT_MARK else int(found[0])


def write_unseen_mark(db: apsw.Connection, what: str) -> None:
    """Logs HEADER_MARK or VIRTUAL_MARK, inside a write transaction."""
    db.execute(
        f"INSERT INTO {LOG}(at, shape, op, size, v0) VALUES (julianday('now'), 0, {Op.MARK:d}, {POINT_SIZE}, ?)",
        (what,),
    )


def current_shapes(db: apsw.Connection) -> list[Shape]:
    rows = all_rows(db, f"SELECT body FROM {SHAPE} WHERE is_current ORDER BY id")
    return [msgspec.json.decode(body, type=Shape) for (body,) in rows]


def proof_of(db: apsw.Connection, log_id: int) -> str | None:
    """A digest of the log row `log_id`, exact to the storage class; None where the row is not there.

    Only the values that the row's shape has are digested: widening the log for another table must not
    change what a destination remembers.  `db` needs `load_digests`.
    """
    found = find_row(
        db,
        f"SELECT coalesce((SELECT s.body FROM {SHAPE} s WHERE s.id = l.shape), '') FROM {LOG} l WHERE l.id = ?",
        (log_id,),
    )
    if found is None:
        return None
    width = msgspec.json.decode(found[0], type=Shape).logged_width if found[0] else 4
    values = ", ".join(f"v{n}" for n in range(width))
    query = f"SELECT id, at, shape, op, {values} FROM {LOG} WHERE id = {log_id:d}"
    digest: str = one_value(db, "SELECT sha1_query(?)", (query,))
    return digest


def read_facts(db: apsw.Connection, meta: Meta) -> Facts:
    """Call inside a read transaction: then `head` is a commit boundary, because SQLite has one writer."""
    ends = read_ends(db)
    if ends is None:
        raise RollrepError(
            f"the rolling log of {db.filename} is empty", remedy=f"rollrep source install {quote(db.filename)}"
        )
    proof = proof_of(db, ends.newest)
    assert proof is not None
    sequence: tuple[tuple[str, int], ...] = ()
    if has_table(db, "sqlite_sequence"):
        sequence = tuple(
            all_rows(db, "SELECT name, seq FROM sqlite_sequence WHERE typeof(seq)='integer' AND typeof(name)='text'")
        )
    header = read_header(db)
    return Facts(
        head=Position(
            meta.epoch, ends.newest, proof, one_value(db, f"SELECT {MS} FROM {LOG} WHERE id = ?", (ends.newest,))
        ),
        time=one_value(db, f"SELECT {TIME.format(chr(39) + 'now' + chr(39))}"),
        user_version=header[0],
        application_id=header[1],
        sequence=sequence,
        point=_point_at(db, ends.newest),
        schema_version=schema_version(db),
    )


def _point_at(db: apsw.Connection, log_id: int) -> Point | None:
    found = find_row(
        db,
        f"SELECT id, {TIME.format('at')}, {text_bytes('v1')}, {text_bytes('v0')}, v2, v3 FROM {LOG}"
        f" WHERE id = ? AND op = {Op.POINT:d}",
        (log_id,),
    )
    if found is None:
        return None
    log_id, time, kind, label, sequence, changed = found
    try:
        return Point(log_id, time, as_text(db, kind) or "application", as_text(db, label), sequence, bool(changed))
    except (TypeError, ValueError):
        return None  # somebody wrote another time there; who replays the row says so


def write_point(db: apsw.Connection, label: str | None, kind: str) -> Point:
    """A new consistency point, committed."""
    db.execute(f"INSERT INTO {POINT}(label, kind) VALUES (?, ?)", (label, kind))
    row = one_row(db, f"SELECT id, {TIME.format('at')}, kind, label FROM {POINT} ORDER BY id DESC LIMIT 1")
    return Point(*row)


def count_points(db: apsw.Connection) -> int:
    return int(one_value(db, f"SELECT count(*) FROM {LOG} WHERE op = {Op.POINT:d}"))


def forgotten_reach(db: apsw.Connection) -> str | None:
    """The time of the oldest forgotten key that has one (an older rollrep wrote one per pruning step)."""
    row = find_row(db, f"SELECT {TIME.format('at')} FROM {FORGOTTEN} WHERE at IS NOT NULL ORDER BY id LIMIT 1")
    return row[0] if row else None


def forgotten_at_ms(db: apsw.Connection, log_id: int) -> int | None:
    """When the log row was written of which only the key is left, in milliseconds; None where that is gone too."""
    row = find_row(db, f"SELECT {MS} FROM {FORGOTTEN} WHERE id = ? AND at IS NOT NULL", (log_id,))
    return row[0] if row else None
