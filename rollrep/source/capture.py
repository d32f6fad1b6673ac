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
alone (NOCASE), nor very wide ones, nor those whose removals can't be announced: a PUT removes again what it replaced.

REPLACE removes rows without firing their DELETE triggers
(https://www.sqlite.org/lang_conflict.html), so keys that collide on another UNIQUE index are logged
before the statement as touched.  Under OR IGNORE or an upsert that is harmless.  The PUT that follows tells
what became of them, but for two cases: UPDATE OR REPLACE removes a row whose ON DELETE CASCADE removes the
very row being updated, and no PUT follows; or whose ON UPDATE CASCADE changes it before it is read again.  So an
UPDATE of a table with such actions notes its touched keys as pending, and the DELETE or UPDATE of the updated row
logs those that are gone.

Pure: plans in, SQL text out.  Knows: the log's columns, core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rollrep.core import sql
from rollrep.core.nouns import MASK_BITS, PREFIX, Op
from rollrep.source.dropping import despite_drop, joined_despite_drop
from rollrep.source.inspect import TablePlan
from rollrep.source.tables import KEY_SIZE, LOG, META, PENDING
from rollrep.source.uniques import Unique

ROW_SIZE = 24
FIXED_SIZE = 6
"""bytes we count for a row's own head, and for each value that can't be long"""

EVENTS = (
    "touch_insert", "touch_update", "insert", "update", "move", "unmove", "delete", "undelete", "settle",
    "settle_update", "replaced_insert", "replaced_update",
)  # fmt: skip
ROWID_NAMES = ("rowid", "oid", "_rowid_")


def trigger_name(event: str, table: str) -> str:
    return f"{PREFIX}{event}_{table}"


def capture_triggers(plan: TablePlan, shape_id: int) -> dict[str, str]:
    """Trigger name to CREATE TRIGGER text, in the order to create them.

    Triggers fire newest first: so of those of one statement the old key is logged before the new row.

    What decides stands in WHEN wherever it can.  Inside, `INSERT ... SELECT ... WHERE` into a table that has a
    trigger itself, as the log has, goes through a temporary table each time, which costs more than all the rest.
    """
    table = plan.shape.table
    made = (_reread_triggers if plan.reread else _plain_triggers)(plan, shape_id)
    if plan.uniques:
        made = {**_touch_triggers(plan, shape_id), **made}
    if plan.logs_replaced:
        made |= _replaced_triggers(plan, shape_id)
    return {
        trigger_name(event, table): _create(event, table, when, statements)
        for event, (when, statements) in made.items()
    }


Bodies = dict[str, tuple[str, list[str]]]
"""event to (when it fires, its statements)"""


def _plain_triggers(plan: TablePlan, shape_id: int) -> Bodies:
    moved = _moved(plan)
    return {
        "insert": ("AFTER INSERT ON {}", [_log_new(plan, shape_id)]),
        "update": (f"AFTER UPDATE ON {{}} WHEN NOT {moved}", [_log_update(plan, shape_id)]),
        "move": (f"{_moving(plan)} WHEN {moved}", [_log_old_key(plan, shape_id), _log_new(plan, shape_id)]),
        "delete": ("AFTER DELETE ON {}", [_log_old_key(plan, shape_id)]),
    }


def _reread_triggers(plan: TablePlan, shape_id: int) -> Bodies:
    """Each logs what now stands behind the key: a DELETE where there is no row, a PUT of the row otherwise."""
    moved, back = _moved(plan), f"EXISTS ({_row_behind(plan, 'old', '1')})"
    old_key, old_row = [_log_old_key(plan, shape_id)], [_log_row_again(plan, shape_id, "old")]
    made: Bodies = {
        "insert": ("AFTER INSERT ON {}", [_log_row_again(plan, shape_id, "new")]),
        "update": ("AFTER UPDATE ON {}", [_log_row_again(plan, shape_id, "new")]),
        "move": (f"{_moving(plan)} WHEN {moved} AND NOT {back}", old_key),
        "unmove": (f"{_moving(plan)} WHEN {moved} AND {back}", old_row),
        "delete": (f"AFTER DELETE ON {{}} WHEN NOT {back}", old_key),
        "undelete": (f"AFTER DELETE ON {{}} WHEN {back}", old_row),
    }
    if plan.uniques:
        waiting = f"EXISTS (SELECT 1 FROM {PENDING} WHERE {_of_old_row(plan, shape_id)})"
        settled = [_settle_pending(plan, shape_id), _forget_pending(plan, shape_id)]
        made["settle"] = (f"AFTER DELETE ON {{}} WHEN {waiting}", settled)
        made["settle_update"] = (f"AFTER UPDATE ON {{}} WHEN {waiting}", settled)
    return made


def _touch_triggers(plan: TablePlan, shape_id: int) -> Bodies:
    before_update = [_touch(plan, shape_id, unique, updating=True) for unique in plan.uniques]
    if plan.reread:
        before_update.extend(_note_pending(plan, shape_id, unique) for unique in plan.uniques)
    before_insert = [_touch(plan, shape_id, unique, updating=False) for unique in plan.uniques]
    return {
        "touch_insert": (f"BEFORE INSERT ON {{}} WHEN {_collides_at_all(plan, updating=False)}", before_insert),
        "touch_update": (
            f"{_touch_update_event(plan)} ON {{}} WHEN {_collides_at_all(plan, updating=True)}",
            before_update,
        ),
    }


def _replaced_triggers(plan: TablePlan, shape_id: int) -> Bodies:
    """They fire first after a write, when the newest rows of the log are what was touched, one for an index at most."""
    key = plan.shape.key
    same = " AND ".join(f"t.{term} = l.v{n}" for n, (term, _) in enumerate(_key_terms(plan)))
    newest = (
        f"l.id > (SELECT max(id) FROM {LOG}) - {len(plan.uniques)} AND l.shape = {shape_id} AND l.op = {Op.TOUCHED:d}"
    )
    gone = f"FROM {LOG} l WHERE {newest} AND NOT EXISTS (SELECT 1 FROM {sql.name(plan.shape.table)} t WHERE {same})"
    keys = ", ".join(f"l.v{n}" for n in range(len(key)))
    log = f"{_into(len(key))} SELECT {_head(shape_id, Op.DELETE, str(KEY_SIZE))}, {keys} {gone}"
    return {
        f"replaced_{event.lower()}": (f"AFTER {event} ON {{}} WHEN EXISTS (SELECT 1 {gone})", [log])
        for event in ("INSERT", "UPDATE")
    }


def _moving(plan: TablePlan) -> str:
    """The statements that may move a key: those that set it, by any of its names."""
    names = {sql.fold(name): name for name in plan.shape.key}
    if not plan.shape.without_rowid:
        names |= {name: name for name in ROWID_NAMES if name not in names}
    return f"AFTER UPDATE OF {sql.names(names.values())} ON {{}}"


def _create(event: str, table: str, when: str, statements: Sequence[str]) -> str:
    # Not str.format: the names in `when` may hold braces.
    head = when.replace(" ON {}", f" ON {sql.name(table)}", 1)
    body = "".join(f"  {statement};\n" for statement in statements)
    return f"CREATE TRIGGER {sql.name(trigger_name(event, table))} {head} BEGIN\n{body}END"


def _into(width: int) -> str:
    return f"INSERT INTO {LOG}(at, shape, op, size, {', '.join(f'v{n}' for n in range(width))})"


def _head(shape_id: int, op: Op, size: str) -> str:
    return f"julianday('now'), {shape_id}, {op:d}, {size}"


def _despite_drop(plan: TablePlan, expression: str, columns: Iterable[str], *sides: str) -> str:
    return despite_drop(expression, [column for column in columns if column in plan.droppable], *sides)


def _log_new(plan: TablePlan, shape_id: int) -> str:
    columns = plan.shape.columns
    values = [_despite_drop(plan, f"new.{sql.name(column)}", [column], "new") for column in columns]
    size = _despite_drop(plan, _size(plan, _new), plan.sized_columns + plan.numeric_columns, "new")
    return f"{_into(len(columns))} VALUES ({_head(shape_id, Op.PUT, size)}, {', '.join(values)})"


def _log_update(plan: TablePlan, shape_id: int) -> str:
    """A PATCH, or a PUT where there are none; of a row that kept its key."""
    shape = plan.shape
    if shape.without_rowid or shape.width > MASK_BITS or not shape.touches_logged:
        return _log_new(plan, shape_id)
    rest, sides = shape.columns[1:], ("new", "old")
    changed = {column: _changed(plan, column) for column in rest}
    values = [
        _despite_drop(plan, f"CASE WHEN {changed[column]} THEN new.{sql.name(column)} END", [column], *sides)
        for column in rest
    ]
    mask = sql.balanced(["0", *(f"(({changed[column]}) << {n})" for n, column in enumerate(rest, 1))], "+")
    size = _counted(
        plan,
        ROW_SIZE + FIXED_SIZE + shape.width,
        _new,
        lambda c: f"CASE WHEN {changed[c]} THEN {_length(_new(c))} ELSE 0 END",
    )
    head = _head(shape_id, Op.PATCH, _despite_drop(plan, size, plan.sized_columns + plan.numeric_columns, *sides))
    logged = ", ".join([_new(shape.columns[0]), *values, _despite_drop(plan, mask, rest, *sides)])
    return f"{_into(shape.logged_width)} VALUES ({head}, {logged})"


def _changed(plan: TablePlan, column: str) -> str:
    """SQL that is true unless NEW's value is exactly OLD's; where that can't be told cheaply, also when it is."""
    old, new = f"old.{sql.name(column)}", f"new.{sql.name(column)}"
    if column in plan.loose_columns:
        return sql.differs(old, new)
    return f"{old} COLLATE BINARY IS NOT {new}"


def _log_row_again(plan: TablePlan, shape_id: int, side: str) -> str:
    values = ", ".join(_again(plan, column) for column in plan.shape.columns)
    size = _size(plan, lambda column: _again(plan, column))
    row = _row_behind(plan, side, f"{_head(shape_id, Op.PUT, size)}, {values}")
    return f"{_into(plan.shape.width)} {row}"


def _again(plan: TablePlan, column: str) -> str:
    return sql.name(column) if column in plan.droppable else f"t.{sql.name(column)}"


def _row_behind(plan: TablePlan, side: str, what: str) -> str:
    """A query of `what` of the row that now stands behind the key."""
    gone = [column for column in plan.shape.columns if column in plan.droppable] if what != "1" else []
    table = joined_despite_drop(sql.name(plan.shape.table), gone, META)
    return f"SELECT {what} FROM {table} WHERE {_same_key(plan, side)}"


def _log_old_key(plan: TablePlan, shape_id: int) -> str:
    key = plan.shape.key
    return f"{_into(len(key))} VALUES ({_head(shape_id, Op.DELETE, str(KEY_SIZE))}, {sql.names(key, 'old.')})"


def _same_key(plan: TablePlan, side: str) -> str:
    return " AND ".join(f"t.{term} = {side}.{sql.name(column)}" for term, column in _key_terms(plan))


def _key_terms(plan: TablePlan) -> list[tuple[str, str]]:
    """Each column of the key: as it is compared, and its name."""
    terms = zip(plan.shape.key, plan.key_collates, strict=True)
    return [(f"{sql.name(column)}{collate}", column) for column, collate in terms]


def _moved(plan: TablePlan) -> str:
    changed = [f"old.{term} IS NOT new.{sql.name(column)}" for term, column in _key_terms(plan)]
    return changed[0] if len(changed) == 1 else "(" + " OR ".join(changed) + ")"


def _new(column: str) -> str:
    return f"new.{sql.name(column)}"


def _size(plan: TablePlan, named: Callable[[str], str]) -> str:
    """SQL for the bytes of a row: text and blobs by their length, everything else by a constant."""
    fixed = ROW_SIZE + FIXED_SIZE * (plan.shape.width - len(plan.sized_columns))
    return _counted(plan, fixed, named, lambda column: _length(named(column)))


def _counted(plan: TablePlan, fixed: int, named: Callable[[str], str], bytes_of: Callable[[str], str]) -> str:
    sizes = [str(fixed), *(bytes_of(column) for column in plan.sized_columns)]
    if plan.numeric_columns:
        # Every text and every blob is greater than every number, so one comparison tells: no number is measured.
        long = sql.balanced([f"{named(column)} COLLATE BINARY >= ''" for column in plan.numeric_columns], " OR ")
        lengths = sql.balanced([bytes_of(column) for column in plan.numeric_columns], "+")
        sizes.append(f"CASE WHEN {long} THEN {lengths} ELSE 0 END")
    return sql.balanced(sizes, "+")


def _length(value: str) -> str:
    return f"ifnull(length(CAST({value} AS BLOB)), 0)"


def _touch_update_event(plan: TablePlan) -> str:
    columns: list[str] = []
    for unique in plan.uniques:
        if unique.columns is None:
            return "BEFORE UPDATE"
        columns.extend(column for column in unique.columns if column not in columns)
    return f"BEFORE UPDATE OF {sql.names(columns)}"


def _collides_at_all(plan: TablePlan, *, updating: bool) -> str:
    return sql.balanced(
        [_found(plan, unique, "1", updating=updating, ask="EXISTS ") for unique in plan.uniques], " OR "
    )


def _found(plan: TablePlan, unique: Unique, what: str, *, updating: bool, ask: str = "") -> str:
    """`what`, of the row that NEW would collide with on `unique`, as an expression; or whether there is one."""
    found = f"SELECT {what} FROM {_itself(plan)} WHERE {_collides(plan, unique, updating=updating)}"
    named = () if unique.lasting else plan.columns if unique.columns is None else unique.columns
    # A partial index's condition may call the table by its name.
    return _despite_drop(plan, f"{ask}({found})", named, "new", *[_alias(plan)] * bool(unique.where))


def _colliding(plan: TablePlan, unique: Unique, lead: str, *, updating: bool) -> str:
    """A query of `lead` and the keys of the rows that NEW would collide with on `unique`."""
    key = plan.shape.key
    if unique.lasting:
        where = _collides(plan, unique, updating=updating)
        return f"SELECT {lead}, {sql.names(key)} FROM {_itself(plan)} WHERE {where}"
    # There is one at most, so its key can be asked for as values, which have a meaning without the columns.
    keys = [f"{_found(plan, unique, sql.name(part), updating=updating)} AS k{n}" for n, part in enumerate(key)]
    names = ", ".join(f"k{n}" for n in range(len(key)))
    return f"SELECT {lead}, {names} FROM (SELECT {', '.join(keys)}) WHERE k0 IS NOT NULL"


def _note_pending(plan: TablePlan, shape_id: int, unique: Unique) -> str:
    shape = plan.shape
    width = range(shape.key_width)
    into = ", ".join([*(f"n{n}" for n in width), *(f"k{n}" for n in width)])
    lead = f"{shape_id}, {sql.names(shape.key, 'old.')}"
    return f"INSERT INTO {PENDING}(shape, {into}) {_colliding(plan, unique, lead, updating=True)}"


def _of_old_row(plan: TablePlan, shape_id: int) -> str:
    same = " AND ".join(f"n{n} IS old.{sql.name(column)}" for n, column in enumerate(plan.shape.key))
    return f"shape = {shape_id} AND {same}"


def _settle_pending(plan: TablePlan, shape_id: int) -> str:
    shape = plan.shape
    keys = [f"k{n}" for n in range(shape.key_width)]
    same = " AND ".join(f"t.{term} = p.{key}" for (term, _), key in zip(_key_terms(plan), keys, strict=True))
    return (
        f"{_into(shape.key_width)} SELECT {_head(shape_id, Op.DELETE, str(KEY_SIZE))}, {', '.join(keys)}"
        f" FROM {PENDING} p WHERE {_of_old_row(plan, shape_id)}"
        f" AND NOT EXISTS (SELECT 1 FROM {sql.name(shape.table)} t WHERE {same})"
    )


def _forget_pending(plan: TablePlan, shape_id: int) -> str:
    return f"DELETE FROM {PENDING} WHERE {_of_old_row(plan, shape_id)}"


def _touch(plan: TablePlan, shape_id: int, unique: Unique, *, updating: bool) -> str:
    head = _head(shape_id, Op.TOUCHED, str(KEY_SIZE))
    return f"{_into(plan.shape.key_width)} {_colliding(plan, unique, head, updating=updating)}"


def _collides(plan: TablePlan, unique: Unique, *, updating: bool) -> str:
    """SQL that is true of the rows, other than the updated one, that NEW would collide with on an index."""
    if unique.columns is not None:
        terms = zip(unique.columns, unique.terms, strict=True)
        probes = [f"{term} COLLATE {sql.collation(coll)} = {_incoming(plan, column)}" for column, (term, coll) in terms]
    else:
        # The index's own text is evaluated over a one-row query that gives NEW's values the columns'
        # names, so an expression never has to be rewritten.
        row = ", ".join(f"{_incoming(plan, c)} AS {sql.name(c)}" for c in plan.columns)
        newer = f"FROM (SELECT {row}) AS {_alias(plan)}"
        probes = [f"({term}) COLLATE {sql.collation(coll)} = (SELECT {term} {newer})" for term, coll in unique.terms]
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
    return " AND ".join(f"{_alias(plan)}.{term} IS old.{sql.name(column)}" for term, column in _key_terms(plan))


def _alias(plan: TablePlan) -> str:
    """The table's own name, by which a partial index's condition may call it; another where that would hide NEW."""
    table = plan.shape.table
    return sql.name(f"{PREFIX}table" if sql.fold(table) in ("new", "old") else table)


def _itself(plan: TablePlan) -> str:
    return f"{sql.name(plan.shape.table)} AS {_alias(plan)}"
