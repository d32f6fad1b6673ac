"""The triggers that record a table's operations, in the application's own transaction.

    BEFORE INSERT, BEFORE UPDATE OF a unique column    TOUCHED  key   what a REPLACE would remove unseen
    AFTER INSERT                                       PUT      the whole row as it now is
    AFTER UPDATE                                       PATCH    the values that changed, and a mask of which
    AFTER UPDATE that moved the key                    DELETE   the old key; and a PUT
    AFTER DELETE                                       DELETE   the old key

Where nothing can come between a row's write and our AFTER trigger, the values are NEW's.  Otherwise
(the application's own triggers, foreign key actions) each trigger reads again what is now behind the
key, and logs that truth: a PUT where there is a row, a DELETE where there is none.  A PATCH needs OLD to be what
the log said last, so such tables have none, nor have those without a rowid, whose keys may change in letters
alone (NOCASE), nor very wide ones.

REPLACE removes rows without firing their DELETE triggers
(https://www.sqlite.org/lang_conflict.html), so keys that collide on another UNIQUE index are logged
before the statement as touched.  Under OR IGNORE or an upsert that is harmless.  The PUT that follows tells
what became of them, but for one case: UPDATE OR REPLACE removes a row whose ON DELETE CASCADE removes the
very row being updated, and no PUT follows.  So an UPDATE of a table with such actions notes its touched keys
as pending, and the DELETE of the updated row logs those that are gone.

Pure: plans in, SQL text out.  Knows: the log's columns, core.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollrep.core import sql
from rollrep.core.nouns import MASK_BITS, PREFIX, Op
from rollrep.source.inspect import TablePlan, Unique
from rollrep.source.tables import KEY_SIZE, LOG, PENDING

ROW_SIZE = 24
FIXED_SIZE = 6
"""bytes we count for a row's own head, and for each value that can't be long"""

EVENTS = ("touch_insert", "touch_update", "insert", "update", "delete")


def trigger_name(event: str, table: str) -> str:
    return f"{PREFIX}{event}_{table}"


def pin_name(table: str) -> str:
    """An index over no row at all: it exists so that VACUUM keeps the table's rowids.

    VACUUM renumbers the rowids of a table without INTEGER PRIMARY KEY unless it has an index
    (https://www.sqlite.org/lang_vacuum.html); one with `WHERE 0` costs nothing to keep.
    """
    return f"{PREFIX}pin_{table}"


def pin_index(plan: TablePlan) -> str:
    table = plan.shape.table
    return f"CREATE INDEX {sql.name(pin_name(table))} ON {sql.name(table)}({sql.name(plan.shape.columns[1])}) WHERE 0"


def capture_triggers(plan: TablePlan, shape_id: int) -> dict[str, str]:
    """Trigger name to CREATE TRIGGER text, in the order to create them.

    Triggers fire newest first, so an UPDATE that moves a key logs in one trigger, old key first.
    """
    table = plan.shape.table
    bodies: dict[str, tuple[str, list[str]]] = {}
    if plan.uniques:
        bodies["touch_insert"] = ("BEFORE INSERT", _touches(plan, shape_id, updating=False))
        bodies["touch_update"] = (_touch_update_event(plan), _touches(plan, shape_id, updating=True))
    pending = plan.reread and bool(plan.uniques)
    if pending:
        bodies["touch_update"][1].extend(_note_pending(plan, shape_id, unique) for unique in plan.uniques)
    if plan.reread:
        bodies["insert"] = ("AFTER INSERT", [_log_row_again(plan, shape_id, "new")])
        bodies["update"] = (
            "AFTER UPDATE",
            [*_log_truth(plan, shape_id, "old", _moved(plan)), _log_row_again(plan, shape_id, "new")],
        )
        bodies["delete"] = ("AFTER DELETE", _log_truth(plan, shape_id, "old", ""))
        if pending:
            bodies["update"][1].append(_forget_pending(plan, shape_id))
            bodies["delete"][1].extend([_settle_pending(plan, shape_id), _forget_pending(plan, shape_id)])
    else:
        bodies["insert"] = ("AFTER INSERT", [_log_new(plan, shape_id)])
        bodies["update"] = (
            "AFTER UPDATE",
            [_log_old_key(plan, shape_id, _moved(plan)), *_log_update(plan, shape_id)],
        )
        bodies["delete"] = ("AFTER DELETE", [_log_old_key(plan, shape_id, "")])
    return {
        trigger_name(event, table): _create(event, table, when, statements)
        for event, (when, statements) in bodies.items()
        if statements
    }


def _create(event: str, table: str, when: str, statements: Sequence[str]) -> str:
    body = "".join(f"  {statement};\n" for statement in statements)
    return f"CREATE TRIGGER {sql.name(trigger_name(event, table))} {when} ON {sql.name(table)} BEGIN\n{body}END"


def _into(width: int) -> str:
    return f"INSERT INTO {LOG}(at, shape, op, size, {', '.join(f'v{n}' for n in range(width))})"


def _head(shape_id: int, op: Op, size: str) -> str:
    return f"julianday('now'), {shape_id}, {op:d}, {size}"


def _log_new(plan: TablePlan, shape_id: int, condition: str = "") -> str:
    columns = plan.shape.columns
    values = f"{_head(shape_id, Op.PUT, _size(plan, 'new'))}, {sql.names(columns, 'new.')}"
    return f"{_into(len(columns))} {f'SELECT {values} WHERE {condition}' if condition else f'VALUES ({values})'}"


def _log_update(plan: TablePlan, shape_id: int) -> list[str]:
    """A PATCH where the key stayed, a PUT where it moved."""
    shape = plan.shape
    if shape.without_rowid or shape.width > MASK_BITS:
        return [_log_new(plan, shape_id)]
    moved, rest = _moved(plan), shape.columns[1:]
    changed = {column: _changed(plan, column) for column in rest}
    values = [f"CASE WHEN {changed[column]} THEN new.{sql.name(column)} END" for column in rest]
    mask = sql.balanced(["0", *(f"(({changed[column]}) << {n})" for n, column in enumerate(rest, 1))], "+")
    lengths = [f"CASE WHEN {changed[c]} THEN {_length('new', c)} ELSE 0 END" for c in plan.sized_columns]
    size = sql.balanced([str(ROW_SIZE + FIXED_SIZE + shape.width), *lengths], "+")
    logged = ", ".join([f"new.{sql.name(shape.columns[0])}", *values, mask])
    return [
        _log_new(plan, shape_id, moved),
        f"{_into(shape.logged_width)} SELECT {_head(shape_id, Op.PATCH, size)}, {logged} WHERE NOT {moved}",
    ]


def _changed(plan: TablePlan, column: str) -> str:
    """SQL that is true unless NEW's value is exactly OLD's; where that can't be told cheaply, also when it is."""
    old, new = f"old.{sql.name(column)}", f"new.{sql.name(column)}"
    if column in plan.loose_columns:
        return sql.differs(old, new)
    return f"{old} COLLATE BINARY IS NOT {new}"


def _log_row_again(plan: TablePlan, shape_id: int, side: str, condition: str = "") -> str:
    shape = plan.shape
    return (
        f"{_into(shape.width)} SELECT {_head(shape_id, Op.PUT, _size(plan, 't'))}, {sql.names(shape.columns, 't.')}"
        f" FROM {sql.name(shape.table)} t WHERE {_same_key(plan, side)}{condition and ' AND ' + condition}"
    )


def _log_old_key(plan: TablePlan, shape_id: int, condition: str) -> str:
    key = plan.shape.key
    return (
        f"{_into(len(key))} SELECT {_head(shape_id, Op.DELETE, str(KEY_SIZE))}, {sql.names(key, 'old.')}"
        f"{condition and ' WHERE ' + condition}"
    )


def _log_truth(plan: TablePlan, shape_id: int, side: str, condition: str) -> list[str]:
    """A DELETE where the key has no row now, a PUT of the row that stands there again otherwise."""
    table = sql.name(plan.shape.table)
    gone = f"NOT EXISTS (SELECT 1 FROM {table} t WHERE {_same_key(plan, side)})"
    return [
        _log_old_key(plan, shape_id, f"{condition} AND {gone}" if condition else gone),
        _log_row_again(plan, shape_id, side, condition),
    ]


def _same_key(plan: TablePlan, side: str) -> str:
    return " AND ".join(f"t.{sql.name(column)} = {side}.{sql.name(column)}" for column in plan.shape.key)


def _moved(plan: TablePlan) -> str:
    changed = [f"old.{sql.name(column)} IS NOT new.{sql.name(column)}" for column in plan.shape.key]
    return changed[0] if len(changed) == 1 else "(" + " OR ".join(changed) + ")"


def _size(plan: TablePlan, side: str) -> str:
    """SQL for the bytes of a row: text and blobs by their length, everything else by a constant."""
    fixed = ROW_SIZE + FIXED_SIZE * (plan.shape.width - len(plan.sized_columns))
    return sql.balanced([str(fixed), *(_length(side, column) for column in plan.sized_columns)], "+")


def _length(side: str, column: str) -> str:
    return f"ifnull(length(CAST({side}.{sql.name(column)} AS BLOB)), 0)"


def _touch_update_event(plan: TablePlan) -> str:
    columns: list[str] = []
    for unique in plan.uniques:
        if unique.columns is None:
            return "BEFORE UPDATE"
        columns.extend(column for column in unique.columns if column not in columns)
    return f"BEFORE UPDATE OF {sql.names(columns)}"


def _touches(plan: TablePlan, shape_id: int, *, updating: bool) -> list[str]:
    return [_touch(plan, shape_id, unique, updating=updating) for unique in plan.uniques]


def _note_pending(plan: TablePlan, shape_id: int, unique: Unique) -> str:
    shape = plan.shape
    width = range(shape.key_width)
    into = ", ".join([*(f"n{n}" for n in width), *(f"k{n}" for n in width)])
    return (
        f"INSERT INTO {PENDING}(shape, {into})"
        f" SELECT {shape_id}, {sql.names(shape.key, 'old.')}, {sql.names(shape.key)}"
        f" FROM {sql.name(shape.table)} WHERE {_collides(plan, unique, updating=True)}"
    )


def _of_old_row(plan: TablePlan, shape_id: int) -> str:
    same = " AND ".join(f"n{n} IS old.{sql.name(column)}" for n, column in enumerate(plan.shape.key))
    return f"shape = {shape_id} AND {same}"


def _settle_pending(plan: TablePlan, shape_id: int) -> str:
    shape = plan.shape
    keys = [f"k{n}" for n in range(shape.key_width)]
    same = " AND ".join(f"t.{sql.name(column)} = p.{key}" for column, key in zip(shape.key, keys, strict=True))
    return (
        f"{_into(shape.key_width)} SELECT {_head(shape_id, Op.DELETE, str(KEY_SIZE))}, {', '.join(keys)}"
        f" FROM {PENDING} p WHERE {_of_old_row(plan, shape_id)}"
        f" AND NOT EXISTS (SELECT 1 FROM {sql.name(shape.table)} t WHERE {same})"
    )


def _forget_pending(plan: TablePlan, shape_id: int) -> str:
    return f"DELETE FROM {PENDING} WHERE {_of_old_row(plan, shape_id)}"


def _touch(plan: TablePlan, shape_id: int, unique: Unique, *, updating: bool) -> str:
    shape = plan.shape
    return (
        f"{_into(shape.key_width)} SELECT {_head(shape_id, Op.TOUCHED, str(KEY_SIZE))}, {sql.names(shape.key)}"
        f" FROM {sql.name(shape.table)} WHERE {_collides(plan, unique, updating=updating)}"
    )


def _collides(plan: TablePlan, unique: Unique, *, updating: bool) -> str:
    """SQL that is true of the rows, other than the updated one, that NEW would collide with on an index."""
    shape = plan.shape
    if unique.columns is not None:
        terms = zip(unique.columns, unique.terms, strict=True)
        probes = [f"{term} COLLATE {coll} = {_incoming(plan, column)}" for column, (term, coll) in terms]
    else:
        # The index's own text is evaluated over a one-row query that gives NEW's values the columns'
        # names, so an expression never has to be rewritten.
        row = ", ".join(f"{_incoming(plan, c)} AS {sql.name(c)}" for c in plan.columns)
        newer = f"FROM (SELECT {row}) AS {sql.name(shape.table)}"
        probes = [f"({term}) COLLATE {coll} = (SELECT {term} {newer})" for term, coll in unique.terms]
        if unique.where:
            probes.append(f"({unique.where})")
    if updating:
        probes.append(f"NOT ({_same_key_bare(plan)})")
    return " AND ".join(probes)


def _incoming(plan: TablePlan, column: str) -> str:
    """NEW's value as it will be put in: OR REPLACE puts the default in the place of a NULL that may not be.

    BEFORE triggers still see the NULL (https://www.sqlite.org/lang_conflict.html, REPLACE).
    """
    new = f"new.{sql.name(column)}"
    return f"ifnull({new}, {plan.defaults[column]})" if column in plan.defaults else new


def _same_key_bare(plan: TablePlan) -> str:
    table = sql.name(plan.shape.table)
    return " AND ".join(f"{table}.{sql.name(column)} IS old.{sql.name(column)}" for column in plan.shape.key)
