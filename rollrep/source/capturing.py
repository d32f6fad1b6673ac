"""The triggers of one table: put on it, taken off it, and whether they stand as they would be made now.

Knows: capture's texts, tables.  Does not know: which tables, and what of it is remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import apsw
import msgspec

from rollrep.core import sql
from rollrep.core.nouns import PREFIX, Shape
from rollrep.query import all_rows, one_value
from rollrep.source import capture
from rollrep.source.inspect import TablePlan
from rollrep.source.log import current_shapes
from rollrep.source.pins import Pins, is_pinned, pin
from rollrep.source.tables import FORGOTTEN, LOG, PENDING, RANGE, SHAPE, WATCHED
from rollrep.wire.forgotten_ranges import width_for

OURS = f"{PREFIX}*"


Trigger = tuple[int, str, str]
"""rowid in sqlite_schema, name, text"""


def triggers_by_table(db: apsw.Connection) -> dict[str, list[Trigger]]:
    """The triggers on each table, by its folded name; at once, because each reading reads the whole schema."""
    found: dict[str, list[Trigger]] = {}
    rows = all_rows(db, "SELECT tbl_name, rowid, name, sql FROM sqlite_schema WHERE type='trigger'")
    for table, rowid, name, text in rows:
        found.setdefault(sql.fold(table), []).append((rowid, name, text))
    return found


def stands(plan: TablePlan, known: Shape, triggers: Mapping[str, Sequence[Trigger]], pins: Pins) -> bool:
    """Whether capture of the table stands exactly as we would make it now, and has since it was made."""
    if msgspec.structs.replace(plan.shape, id=known.id) != known:
        return False
    expected = capture.capture_triggers(plan, known.id)
    rows = triggers.get(sql.fold(plan.shape.table), ())
    ours = {name: text for _, name, text in rows if name.startswith(PREFIX)}
    if ours != expected:
        return False
    # Triggers fire newest first: one of the application's made after ours could end the statement
    # (RAISE(IGNORE)) with the row changed and ours never asked.
    oldest_of_ours = min(rowid for rowid, name, _ in rows if name in ours)
    if any(rowid > oldest_of_ours for rowid, name, _ in rows if name not in ours):
        return False
    return not plan.pin_rowids or is_pinned(pins, plan.shape.table)


def capture_tables(db: apsw.Connection, plans: Sequence[TablePlan]) -> None:
    """Captures the tables from now on, each under a new shape id.

    Nothing captures them: `release`.  The log must be wide enough: `make_room`.
    """
    if not plans:
        return
    shape_id = int(one_value(db, f"SELECT ifnull(max(id), 0) FROM {SHAPE}"))
    pin(db, [plan.shape.table for plan in plans if plan.pin_rowids])
    # Those of a capture that has ended are nobody's, and what has not fallen yet will say where it lay.
    db.execute(f"DELETE FROM {RANGE} WHERE key != {WATCHED}")
    for plan in plans:
        shape_id += 1
        _note_shape(db, msgspec.structs.replace(plan.shape, id=shape_id))
        for statement in capture.capture_triggers(plan, shape_id).values():
            db.execute(statement)


def _note_shape(db: apsw.Connection, shape: Shape) -> None:
    width = None
    if not shape.without_rowid:
        largest = f"SELECT ifnull(max({sql.name(shape.key[0])}), 0) FROM main.{sql.name(shape.table)}"
        width = width_for(one_value(db, largest))
    db.execute(
        f"INSERT INTO {SHAPE}(id, tbl, is_current, key_width, since, body, range_width)"
        f" VALUES (?, ?, 1, ?, (SELECT ifnull(max(id), 0) + 1 FROM {LOG}), ?, ?)",
        (shape.id, shape.table, shape.key_width, msgspec.json.encode(shape).decode(), width),
    )


def release(db: apsw.Connection, tables: Collection[str]) -> None:
    """Drops what captures `tables`, also where a rename has carried our triggers to another name."""
    named_after = {capture.trigger_name(event, table) for event in capture.EVENTS for table in tables}
    folded = {sql.fold(table) for table in tables}
    # All at once, because each reading reads the whole schema.
    ours = all_rows(db, "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?", (OURS,))
    for name, table in ours:
        if name in named_after or sql.fold(table) in folded:
            db.execute(f"DROP TRIGGER {sql.name(name)}")
    for shape in current_shapes(db):
        if shape.table in tables:
            db.execute(f"UPDATE {SHAPE} SET is_current = 0 WHERE id = ?", (shape.id,))


def make_room(db: apsw.Connection, plans: Sequence[TablePlan]) -> None:
    """Gives our tables the columns that all `plans` need, before their triggers are there.

    ALTER TABLE parses every trigger of the database anew: a second, for each column, with a thousand tables.
    """
    key_width = max((plan.shape.key_width for plan in plans), default=0)
    _widen(db, LOG, "v", max((plan.shape.logged_width for plan in plans), default=0))
    _widen(db, FORGOTTEN, "k", key_width)
    _widen(db, PENDING, "n", key_width)
    _widen(db, PENDING, "k", key_width)


def _widen(db: apsw.Connection, table: str, letter: str, width: int) -> None:
    have = int(one_value(db, "SELECT count(*) FROM pragma_table_info(?) WHERE name GLOB ?", (table, f"{letter}[0-9]*")))
    for n in range(have, width):
        db.execute(f"ALTER TABLE {table} ADD COLUMN {letter}{n}")
