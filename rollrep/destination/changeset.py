"""Differences as a changeset of SQLite's session extension, which other programs can apply, invert and combine.

    copy of the one ── the script's statements, recorded by a session ──► changeset

Recorded, and not by `sqlite3session_diff`, which takes 1 for 1.0.  What was recorded is applied to the copy before it
is believed: rows that swap values which must be unique can't be said in a changeset at all.  It knows rows by their
PRIMARY KEY (https://www.sqlite.org/sessionintro.html), so what has none can't be in it.  That is said, table by table.

Knows: the script, apsw's sessions.  Does not know: where the differences come from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import apsw

from rollrep.destination import container
from rollrep.destination.differences import Differences, TableDifference, rows_of
from rollrep.destination.outputs import as_before
from rollrep.destination.script import row_statements
from rollrep.destination.snapshots import full_disk_as_oserror
from rollrep.destination.unfinished import unfinished


def write_changeset(db: apsw.Connection, found: Differences, before: Path, output: Path) -> dict[str, str]:
    """Writes the changeset that leads from `before` to the other; what it can't hold, and why."""
    left_out = {change.name: f"its {change.type} is another" for change in found.schema}
    left_out |= dict.fromkeys(found.header, "it is in no table")
    for table in found.tables:
        if reason := _reason(db, table):
            left_out[table.name] = reason
    part = unfinished(output)
    with tempfile.TemporaryDirectory(prefix="rollrep-") as folder:
        copy = Path(folder) / "copy.db"
        try:
            with container.disk_room(part), full_disk_as_oserror():
                shutil.copyfile(before, copy)
                with contextlib.closing(_open(copy)) as target:
                    refused: str | None = ""
                    while refused is not None:
                        tables = tuple(table for table in found.tables if table.name not in left_out)
                        _record(db, dataclasses.replace(found, tables=tables), target, part)
                        refused = _refused(target, part)
                        if refused is not None:
                            left_out[refused] = "rows of it swap values that must be unique"
            as_before(part, output)
            part.replace(output)
        finally:
            part.unlink(missing_ok=True)
    return left_out


def _reason(db: apsw.Connection, table: TableDifference) -> str:
    """Why a changeset can't hold the table's rows; empty where it can."""
    if table.is_remade or table.after is None:
        return "the table is another"
    primary = table.after.primary_key
    if not primary:
        return "it has no PRIMARY KEY"
    if table.after.without_rowid or not table.after.hidden_key:
        return ""
    for change in rows_of(db, table):
        if any(row is not None and row[name] == "n:" for row in (change.before, change.after) for name in primary):
            return "a row's PRIMARY KEY is NULL"
    return ""


def _open(copy: Path) -> apsw.Connection:
    target = apsw.Connection(str(copy))
    target.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    target.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
    for pragma in ("foreign_keys = OFF", "ignore_check_constraints = ON", "synchronous = OFF"):
        target.execute(f"PRAGMA {pragma}").fetchall()
    return target


def _record(db: apsw.Connection, found: Differences, target: apsw.Connection, output: Path) -> None:
    with output.open("wb") as file:
        session = apsw.Session(target, "main")
        for table in found.tables:
            session.attach(table.name)
        target.execute("BEGIN")
        for statement in row_statements(db, found):
            target.execute(statement)
        session.changeset_stream(_writing(file))
        target.execute("ROLLBACK")
        session.close()


def _refused(target: apsw.Connection, changeset: Path) -> str | None:
    """The table in which the changeset meets a conflict where there can be none; None where it applies."""
    met: list[str] = []

    def conflict(_reason: int, change: apsw.TableChange) -> int:
        met.append(change.name)
        return apsw.SQLITE_CHANGESET_ABORT

    target.execute("BEGIN")
    try:
        with changeset.open("rb") as file:
            apsw.Changeset.apply(file.read, target, conflict=conflict)
    except apsw.AbortError:
        return met[0]
    finally:
        target.execute("ROLLBACK")
    return None


def _writing(file: BinaryIO) -> Callable[[memoryview], None]:
    def write(piece: memoryview) -> None:
        file.write(piece)

    return write
