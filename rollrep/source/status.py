"""What a rolling log says of itself, for people and for `--json`.

Knows: the log, capture's checks.  Does not know: the wire.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from shlex import quote

import apsw
import msgspec

from rollrep.core.units import show_bytes, show_count, show_duration, show_forecast
from rollrep.core.windows import Lasting
from rollrep.query import one_row, one_value
from rollrep.source.alone import is_taken_away, migration_runs
from rollrep.source.database import reading
from rollrep.source.inspect import inspect, virtual_tables
from rollrep.source.log import TIME, count_points, current_shapes, forgotten_reach, is_current, read_ends, read_meta
from rollrep.source.tables import FORGOTTEN, LOG, Limits
from rollrep.source.window import read_windows

MOST_WAL_BYTES = 256 << 20
"""SQLite begins it anew after some 4 MB, unless a transaction is larger or somebody still reads an old state"""


@dataclasses.dataclass(frozen=True)
class Status:
    database_id: str
    epoch: str
    oldest_id: int
    newest_id: int
    pruned_through: int
    rows: int
    bytes: int
    limits: Limits
    keys: int
    forgotten_through: int
    log_reaches: str | None
    """the time of the oldest row the log holds"""
    keys_reach: str | None
    points: int
    tables: dict[str, str]
    """table to "captured", "changed: ..." or "not carried: ..." """
    journal_mode: str
    wal_bytes: int
    """the size of the write-ahead log beside the database"""
    migration: str | None
    """"running", or "interrupted": then the next pull captures again; None where capture stands"""
    lasting: Lasting | None
    """how long a destination may sleep; None where the log is empty"""
    now: str

    def as_json(self) -> dict[str, object]:
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "limits"}
        told["lasting"] = msgspec.to_builtins(self.lasting)
        limits = self.limits
        told["limits"] = {
            "rows": limits.keep_rows,
            "bytes": limits.keep_bytes,
            "age_s": limits.keep_age_s,
            "keys": limits.keep_keys,
        }
        return told

    def lines(self, name: str) -> list[str]:
        limits = self.limits
        lines = [
            f"{name}: epoch {self.epoch}, log ids {self.oldest_id} to {self.newest_id},"
            f" {show_count(self.points, 'point')}",
            f"  rows     {self.rows:,} of {limits.keep_rows:,}",
            f"  bytes    {show_bytes(self.bytes)} of {show_bytes(limits.keep_bytes)}",
            f"  reaches  {self.log_reaches or 'nowhere yet'} (limit {show_duration(limits.keep_age_s)})",
            f"  keys     {self.keys:,} of {limits.keep_keys:,} forgotten rows"
            + (f", back to {self.keys_reach}" if self.keys_reach else ""),
        ]
        lines += lasting_lines(self.lasting) if self.lasting else []
        if self.journal_mode != "wal":
            lines.append(f"  WARN     journal_mode is {self.journal_mode}; better: PRAGMA journal_mode = WAL")
        if self.wal_bytes >= MOST_WAL_BYTES:
            lines.append(
                f"  WARN     its WAL has grown to {show_bytes(self.wal_bytes)}: somebody may read in a transaction that"
                f" does not end: fuser -v {quote(name)}"
            )
        if self.migration == "running":
            lines.append("  PENDING  a migration runs: nothing is captured until it is over")
        elif self.migration:
            lines.append(
                f"  WARN     a migration was interrupted: nothing is captured; rollrep source install {quote(name)}"
            )
        states: dict[str, list[str]] = {}
        for table, state in sorted(self.tables.items()):
            states.setdefault(state, []).append(table)
        lines += [f"  {state}: {', '.join(tables)}" for state, tables in states.items()]
        return lines


def lasting_lines(lasting: Lasting) -> list[str]:
    """How long a destination that has everything may sleep, rate by rate."""
    lines = []
    for rate, left in zip(lasting.rates, lasting.newest, strict=True):
        grows = f"at the {rate.name} rate ({rate.rows_per_s:,.1f} rows, {show_bytes(round(rate.bytes_per_s))} a second)"
        if left.log_s is None or left.keys_s is None:
            lines.append(f"  lasts    for ever {grows}")
        else:
            lines.append(f"  lasts    {show_forecast(left.log_s)}, its keys {show_forecast(left.keys_s)}, {grows}")
    return lines


def read_status(db: apsw.Connection) -> Status:
    """Raises NotSetUp where no rolling log is installed."""
    with reading(db):
        meta = read_meta(db)
        ends = read_ends(db)
        oldest, newest = (ends.oldest, ends.newest) if ends else (0, 0)
        rows, size, reaches = one_row(
            db,
            f"SELECT count(*), ifnull(sum(size), 0), (SELECT {TIME.format('at')} FROM {LOG} ORDER BY id LIMIT 1)"
            f" FROM {LOG}",
        )
        return Status(
            database_id=meta.database,
            epoch=meta.epoch,
            oldest_id=oldest,
            newest_id=newest,
            pruned_through=meta.pruned_through,
            rows=rows,
            bytes=size,
            limits=meta.limits,
            keys=one_value(db, f"SELECT count(*) FROM {FORGOTTEN}"),
            forgotten_through=meta.forgotten_through,
            log_reaches=reaches,
            keys_reach=forgotten_reach(db),
            points=count_points(db),
            tables=_table_states(db),
            journal_mode=str(db.pragma("journal_mode")),
            wal_bytes=wal.stat().st_size if (wal := Path(db.filename + "-wal")).is_file() else 0,
            migration=("running" if migration_runs(db) else "interrupted") if is_taken_away(db) else None,
            lasting=read_windows(db, meta, ends).lasting(None) if ends else None,
            now=one_value(db, f"SELECT {TIME.format(chr(39) + 'now' + chr(39))}"),
        )


def _table_states(db: apsw.Connection) -> dict[str, str]:
    meta = read_meta(db)
    plans, refused = inspect(db, meta.include, meta.exclude)
    virtuals = virtual_tables(db, meta.include, meta.exclude)[0]
    captured = {shape.table: shape for shape in current_shapes(db)}
    changed = not is_current(db)
    states = {each.name: f"not carried: {each.reason}" for each in refused}
    states.update({each.name: f"virtual ({each.module}): carried as of the end of each pull" for each in virtuals})
    for plan in plans:
        table = plan.shape.table
        known = captured.get(table)
        if known is None and is_taken_away(db):
            states[table] = "not captured: a migration took its triggers away"
        elif known is None:
            states[table] = "new: captured from the next pull on"
        elif changed and known.columns != plan.shape.columns:
            states[table] = "changed: captured anew at the next pull"
        else:
            states[table] = "captured"
    return states
