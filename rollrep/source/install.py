"""Installing, repairing and removing the rolling log, each in one transaction.

    install     create or repair: new tables are captured, changed ones captured anew, limits set
    repair      the same with the stored choices; `serve` calls it when the schema has changed
    uninstall   every trace goes, triggers first

A table whose capture may have missed something gets a new shape id; a destination that sees an id it
does not know mirrors that table again, and no other.

Knows: inspect, capture, tables, log.  Does not know: the wire.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Sequence

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.nouns import PREFIX, Op, Refused
from rollrep.query import all_rows, find_row, has_table, one_row, one_value
from rollrep.source.alone import refuse_while_migrated
from rollrep.source.capturing import OURS, capture_tables, make_room, release, stands, triggers_by_table
from rollrep.source.database import changing_schema, writing
from rollrep.source.doubt import count_changes
from rollrep.source.inspect import inspect
from rollrep.source.log import (
    CHANGES_KNOWN,
    DOUBT_MARK,
    HEADER_MARK,
    MIGRATING_MARK,
    Meta,
    current_shapes,
    has_log,
    is_current,
    is_whole,
    knows_header,
    read_header,
    read_meta,
    schema_version,
    write_unseen_mark,
)
from rollrep.source.pins import read_pins
from rollrep.source.renewed import tables_with_renewed_indexes
from rollrep.source.tables import (
    FORGOTTEN,
    FORMAT,
    LOG,
    META,
    NEWEST_OBJECT,
    PENDING,
    POINT_SIZE,
    PRUNE,
    RANGE,
    SCHEMA_TEXT,
    SEQUENCE,
    SHAPE,
    WATCH,
    WRITE_POINT,
    Limits,
    create_tables,
    drop_tables,
    keep_sequence,
    point_trigger,
    prune_trigger,
    watch_trigger,
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What an installation did, table by table."""

    epoch: str
    database: str
    limits: Limits
    created: bool
    captured: tuple[str, ...]
    """tables captured from now on"""
    kept: tuple[str, ...]
    """tables whose capture went on undisturbed"""
    released: tuple[str, ...]
    """tables captured before and not any more"""
    refused: tuple[Refused, ...]
    statements: tuple[str, ...]


TABLES = frozenset({LOG, FORGOTTEN, RANGE, SHAPE, PENDING, META})


class _DryRun(Exception):
    """Takes a transaction back whose statements were only to be seen."""


def install(
    db: apsw.Connection,
    limits: Limits,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    *,
    dry_run: bool = False,
    migrating: bool = False,
    in_doubt: Sequence[str] = (),
) -> Report:
    """Creates the log or brings it up to the schema as it is now; all of it or nothing.

    Idempotent: where nothing has changed, nothing is written, but for tables `in_doubt`, which are captured anew.
    Raises Temporary while a migration runs, unless the caller is the one who is `migrating`.
    """
    statements: list[str] = []
    try:
        with changing_schema(db):
            db.exec_trace = lambda cursor, _text, _bindings: _noted(statements, cursor.expanded_sql)
            try:
                if not migrating and has_log(db):
                    refuse_while_migrated(db)
                report = _install(db, limits, tuple(include), tuple(exclude), frozenset(in_doubt))
            finally:
                db.exec_trace = None
            if dry_run:
                raise _DryRun
    except _DryRun:
        pass
    return dataclasses.replace(report, statements=tuple(statements))


def repair(db: apsw.Connection, meta: Meta, in_doubt: Sequence[str] = ()) -> Report | None:
    """Captures anew what a change of the schema has left uncaptured, and what is `in_doubt`; None where all is well.

    Takes a write transaction only where something has changed.
    """
    if is_current(db) and is_whole(db, meta.pruned_through) and not in_doubt:
        return None
    refuse_while_migrated(db)
    return install(db, meta.limits, meta.include, meta.exclude, in_doubt=in_doubt)


def release_all(db: apsw.Connection) -> None:
    """Takes every trigger and pin off the application's tables and ends every capture; the log stays.

    Until the next `install` nothing is logged but points, and those say that the log can't vouch for them.
    """
    with changing_schema(db):
        version = schema_version(db)
        release(db, {shape.table for shape in current_shapes(db)})
        for name in _objects_of_ours(db, "index"):
            db.execute(f"DROP INDEX {sql.name(name)}")
        _write_mark(db, MIGRATING_MARK, {CHANGES_KNOWN: schema_version(db) - version})
        db.execute(f"UPDATE {META} SET schema_text = NULL")


def note_header(db: apsw.Connection, seen_through: int) -> None:
    """Logs a MARK where user_version or application_id is another than before, and no row was logged since.

    No trigger sees them.  A destination that stands at the newest row, `seen_through`, has them as they were
    there; with a row of their own, the points before it keep those they had.
    """
    if knows_header(db) or db.readonly("main"):
        return
    with writing(db):
        if seen_through == one_value(db, f"SELECT max(id) FROM {LOG}"):
            write_unseen_mark(db, HEADER_MARK)
        _remember_header(db)


def uninstall(db: apsw.Connection) -> list[str]:
    """Removes every object of ours, also of a log that is not whole; returns the tables that were captured."""
    with changing_schema(db):
        return _remove(db)


def renew_epoch(db: apsw.Connection) -> None:
    """Begins another epoch in a log that somebody has cut: what is in it is believed no more."""
    with writing(db):
        _begin_epoch(db)


def _remove(db: apsw.Connection) -> list[str]:
    found = all_rows(db, "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type='trigger' AND name GLOB ?", (OURS,))
    # Triggers go first: one that stays without its log would make every write fail.
    for kind in ("trigger", "index"):
        for name in _objects_of_ours(db, kind):
            db.execute(f"DROP {kind.upper()} IF EXISTS {sql.name(name)}")
    for statement in drop_tables():
        db.execute(statement)
    return sorted(table for (table,) in found if not table.startswith(PREFIX))


def _install(
    db: apsw.Connection,
    limits: Limits,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    in_doubt: frozenset[str],
) -> Report:
    version = schema_version(db)
    created = _create_log(db)
    accounted = 0 if created else count_changes(db)
    in_doubt |= set(tables_with_renewed_indexes(db, current_shapes(db)))
    is_another = not is_current(db)
    _set_choices(db, limits, include, exclude)
    plans, refused = inspect(db, include, exclude)
    old = {shape.table: shape for shape in current_shapes(db)}
    triggers, pins = triggers_by_table(db), read_pins(db)
    kept, to_capture = [], []
    for plan in plans:
        known = old.pop(plan.shape.table, None)
        if known is not None and plan.shape.table not in in_doubt and stands(plan, known, triggers, pins):
            kept.append(plan.shape.table)
        else:
            to_capture.append(plan)
    captured = [plan.shape.table for plan in to_capture]
    if to_capture or old:
        release(db, {*captured, *old})
    make_room(db, to_capture)
    capture_tables(db, to_capture)
    _set_log_triggers(db, limits)
    if not created:
        _mend_log(db)
    if is_another or not is_current(db) or (not created and tuple(refused) != read_meta(db).refused):
        changes = schema_version(db) - version + accounted
        detail = {"captured": captured, "released": sorted(old), CHANGES_KNOWN: changes}
        _remember_schema(db, "installed" if created else DOUBT_MARK if in_doubt else "recaptured", detail, refused)
    meta = read_meta(db)
    return Report(
        epoch=meta.epoch,
        database=meta.database,
        limits=limits,
        created=created,
        captured=tuple(captured),
        kept=tuple(kept),
        released=tuple(old),
        refused=tuple(refused),
        statements=(),
    )


def _create_log(db: apsw.Connection) -> bool:
    """Whether there was none, or none that is whole."""
    there = {name for name in _objects_of_ours(db, "table") if name in TABLES}
    if there == TABLES:
        return False
    database = secrets.token_hex(8)
    if there:
        # Without one of its tables every write of the application fails: the log is made anew, now.
        database = one_value(db, f"SELECT database FROM {META}") if META in there else database
        _remove(db)
    for statement in create_tables():
        db.execute(statement)
    db.execute(
        f"INSERT INTO {META}(only_row, format, database, epoch, bytes, counted_through, pruned_through,"
        " forgotten_through, cut, span) VALUES (1, ?, ?, ?, 0, 0, 0, 0, 0, 1)",
        (FORMAT, database, secrets.token_hex(8)),
    )
    _remember_header(db)
    return True


def _remember_schema(db: apsw.Connection, mark: str, detail: object, refused: Sequence[Refused]) -> None:
    _write_mark(db, mark, detail)
    db.execute(
        f"UPDATE {META} SET schema_text = {SCHEMA_TEXT}, refused = ?, since = (SELECT max(id) FROM {LOG})",
        (msgspec.json.encode(refused).decode(),),
    )


def _write_mark(db: apsw.Connection, what: str, detail: object) -> None:
    db.execute(
        f"INSERT INTO {LOG}(at, shape, op, size, v0, v1) VALUES (julianday('now'), 0, {Op.MARK:d}, {POINT_SIZE}, ?, ?)",
        (what, json.dumps(detail)),
    )


def _remember_header(db: apsw.Connection) -> None:
    db.execute(f"UPDATE {META} SET user_version = ?, application_id = ?", read_header(db))


def _set_choices(db: apsw.Connection, limits: Limits, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
    wanted = (
        limits.keep_rows,
        limits.keep_bytes,
        limits.keep_age_s / 86_400.0,
        limits.keep_keys,
        json.dumps(include),
        json.dumps(exclude),
    )
    columns = "keep_rows, keep_bytes, keep_age_days, keep_keys, include, exclude"
    if find_row(db, f"SELECT {columns} FROM {META}") != wanted:
        db.execute(f"UPDATE {META} SET ({columns}) = (?, ?, ?, ?, ?, ?)", wanted)


def _set_log_triggers(db: apsw.Connection, limits: Limits) -> None:
    key_width = int(one_value(db, f"SELECT ifnull(max(key_width), 1) FROM {SHAPE}"))
    with_sequence = has_table(db, "sqlite_sequence")
    if with_sequence and not has_table(db, SEQUENCE):
        db.execute(keep_sequence())
    write_point = point_trigger(with_sequence=with_sequence)
    wanted = {WATCH: watch_trigger(), PRUNE: prune_trigger(limits, key_width), WRITE_POINT: write_point}
    for trigger, text in wanted.items():
        found = find_row(db, "SELECT sql FROM sqlite_schema WHERE name=?", (trigger,))
        # WRITE_POINT has to be the newest object of all.
        if found is None or found[0] != text or (trigger == WRITE_POINT and not is_current(db) and not _is_newest(db)):
            db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            db.execute(text)


def _is_newest(db: apsw.Connection) -> bool:
    return bool(one_value(db, NEWEST_OBJECT) == WRITE_POINT)


def _mend_log(db: apsw.Connection) -> None:
    """Starts a new epoch where somebody emptied or cut the log: ids go on upward."""
    if is_whole(db, one_value(db, f"SELECT pruned_through FROM {META}")):
        return
    _begin_epoch(db)


def _begin_epoch(db: apsw.Connection) -> None:
    pruned, counted = one_row(db, f"SELECT pruned_through, counted_through FROM {META}")
    newest = max(pruned, counted, one_value(db, f"SELECT ifnull(max(id), 0) FROM {LOG}"))
    db.execute(f"DELETE FROM {LOG}")
    db.execute(f"DELETE FROM {FORGOTTEN}")
    db.execute(f"DELETE FROM {RANGE}")
    db.execute(
        f"UPDATE {META} SET epoch = ?, bytes = 0, counted_through = ?, pruned_through = ?, forgotten_through = ?",
        (secrets.token_hex(8), newest, newest, newest),
    )
    db.execute(
        f"INSERT INTO {LOG}(id, at, shape, op, size, v0, v1) VALUES (?, julianday('now'), 0, {Op.MARK:d},"
        f" {POINT_SIZE}, 'new epoch', 'the log was cut')",
        (newest + 1,),
    )


def _objects_of_ours(db: apsw.Connection, kind: str) -> list[str]:
    rows = all_rows(db, "SELECT name FROM sqlite_schema WHERE type=? AND name GLOB ?", (kind, OURS))
    return [name for (name,) in rows]


def _noted(statements: list[str], text: str) -> bool:
    if text.lstrip().upper().startswith(("CREATE", "INSERT", "UPDATE", "DELETE", "DROP", "ALTER")):
        statements.append(text.strip())
    return True
