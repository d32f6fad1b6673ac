"""What differs between two states of a database: counted, row by row, as SQL, or as a changeset."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import chosen_point, config_of, config_option, naming, output_path, store_for
from rollrep.cli.output import emit, json_option, reporting, say, somebody_watches, tell
from rollrep.cli.output import script as write_script
from rollrep.core import sql
from rollrep.core.clock import iso
from rollrep.core.errors import PartlyDone, UsageError
from rollrep.core.literals import as_json as value_json
from rollrep.core.literals import shown
from rollrep.core.units import show_count

FILE = "file:"
SOURCE = "source"
SIGNS = {"removed": "-", "added": "+", "changed": "~", "moved": "~"}


@click.command("diff", short_help="Say what differs between two moments.")
@click.argument("job")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("-t", "--table", "tables", multiple=True, help="Only this table; repeatable.")
@click.option(
    "--summary", "how", flag_value="summary", default="summary", help="How many rows of which tables (the default)."
)
@click.option("--rows", "how", flag_value="rows", help="Every row that differs, and in what.")
@click.option("--sql", "how", flag_value="sql", help="A script that makes A what B is.")
@click.option(
    "--changeset", type=click.Path(path_type=Path, readable=False), help="Write this file: a changeset of SQLite's."
)
@click.option(
    "--force", is_flag=True, help="Replace the changeset's file if it exists; a link stays, and its file is replaced."
)
@click.option("-n", "--dry-run", is_flag=True, help="Write no changeset; say what differs.")
@config_option
@json_option
@click.pass_context
@reporting("diff")
def diff_command(
    ctx: click.Context,
    job: str,
    before: str,
    after: str,
    tables: tuple[str, ...],
    how: str,
    changeset: Path | None,
    force: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Say what differs between two states of JOB, to the storage class.

    A and B are moments as --at takes them; file:PATH, any SQLite database; or source, the source as it is now, for
    which the job is pulled. Rows are told apart by their rowid, or
    by the primary key of a table WITHOUT ROWID; that rowid is all a changeset can't say of a row.

    Ends with 3 when something could not be compared, or put into the changeset; it is named.
    """
    from rollrep.destination.changeset import write_changeset

    store = store_for(ctx, config, job)
    target = output_path(ctx, config, changeset, force=force, give="another --changeset") if changeset else None
    if SOURCE in (before, after):
        pull_first(ctx, config, job)
        before, after = ("latest" if text == SOURCE else text for text in (before, after))
    with naming(job), compared(store, job, before, after, tables) as (db, found, first, a, b):
        told: dict[str, Any] = {"job": job, "a": a, "b": b, "not_compared": found.not_compared}
        missing = {name: f"{name} was not compared: {why}" for name, why in found.not_compared.items()}
        if changeset and target and not dry_run:
            left_out = write_changeset(db, found, first, target)
            missing |= {name: f"{name} is not in the changeset: {why}" for name, why in left_out.items()}
            size = changeset.stat().st_size
            told |= {"changeset": str(changeset), "bytes": size, "left_out": left_out}
            emit(as_json, "diff", told, f"{changeset}: {size:,} bytes")
        elif how == "sql":
            _emit_sql(as_json, db, found, told)
        else:
            _emit_rows(as_json, db, found, told, with_rows=how == "rows")
    for line in missing.values():
        say(f"{job}: {line}")
    if missing:
        raise_partly(as_json, len(missing))


def raise_partly(as_json: bool, count: int) -> None:
    if as_json:
        # The object is out already, and says what is missing.
        raise SystemExit(PartlyDone.exit_code)
    raise PartlyDone(f"{show_count(count, 'table')} left out", remedy="see the lines above for which and why")


@contextlib.contextmanager
def compared(
    store: Any, job: str, before: str, after: str, tables: tuple[str, ...]
) -> Iterator[tuple[Any, Any, Path, dict[str, Any], dict[str, Any]]]:
    """(a connection to both states, what differs, the first one's file, what is told of each), while inside."""
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.differences import all_tables, beside, compare

    with Catalog(store.catalog) as catalog, contextlib.ExitStack() as inside:
        chosen = [resolve(catalog, job, text) for text in (before, after)]
        (first, a), (second, b) = (inside.enter_context(state(store, catalog, each)) for each in chosen)
        db = inside.enter_context(beside(first, second))
        require_tables(tables, all_tables(db))
        found = compare(db, tables)
        if "point" in a and (a["line"], a["id"]) == (b.get("line"), b.get("id")):
            # What can't be compared can't differ either, where both are one state.
            found = dataclasses.replace(found, not_compared={})
        yield db, found, first, a, b


def pull_first(ctx: click.Context, config: Path | None, job: str) -> None:
    """Brings the mirror to a commit of the source, which is the newest point then.  Raises what the pull ended with."""
    from rollrep.hooks import plugin_manager
    from rollrep.jobs.run import run_pull

    loaded = config_of(ctx, config)
    result = run_pull(loaded, loaded.jobs[job], plugin_manager(), lambda _job, _table, _rows: None)
    if result.error:
        raise result.error


def resolve(catalog: Any, job: str, text: str) -> Any:
    """The point that `text` means, or the path of a file.  Both sides are known before any is restored."""
    if text.startswith(FILE):
        return Path(text.removeprefix(FILE)).expanduser()
    return chosen_point(catalog, job, text)[0]


@contextlib.contextmanager
def state(store: Any, catalog: Any, chosen: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A file that is the state, and what to tell of it."""
    from rollrep.destination.states import copied_file, point_file

    if isinstance(chosen, Path):
        with copied_file(chosen) as copy:
            yield copy, {"file": str(chosen)}
        return
    with point_file(store, catalog, chosen, say if somebody_watches() else lambda _text: None) as path:
        yield path, {"point": chosen.point, "id": chosen.id, "line": chosen.line, "time": iso(chosen.time)}


def require_tables(tables: tuple[str, ...], names: list[str]) -> None:
    import difflib

    known = {sql.fold(name) for name in names}
    for table in tables:
        if sql.fold(table) not in known:
            near = difflib.get_close_matches(table, names, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(names)) or 'none'}"
            raise UsageError(f"neither has a table {table}", remedy=remedy)


def nothing_differs(left_out: Collection[str]) -> str:
    """What is said where no difference was found, beside the tables `left_out`."""
    return "nothing that was compared differs" if left_out else "nothing differs"


def said_state(told: dict[str, Any]) -> str:
    """One line, whatever a file is called."""
    if "file" in told:
        return f"file {shown('t:' + str(told['file']).encode().hex(), 'UTF-8')}"
    return f"point {told['point']}, log id {told['id']}, {told['time']}"


def _emit_sql(as_json: bool, db: Any, found: Any, told: dict[str, Any]) -> None:
    from rollrep.destination.script import script

    if as_json:
        emit(True, "diff", {**told, "sql": "\n".join(script(db, found))})
        return
    write_script(f"-- From A, {said_state(told['a'])},\n-- to   B, {said_state(told['b'])}.")
    write_script("-- It makes a database that is exactly A exactly B:  sqlite3 -bail COPY_OF_A < this file")
    if found.is_empty:
        write_script(f"-- {nothing_differs(found.not_compared).capitalize()}.")
    for statement in script(db, found):
        write_script(statement)


def _emit_rows(as_json: bool, db: Any, found: Any, told: dict[str, Any], *, with_rows: bool) -> None:
    from rollrep.destination.differences import rows_of

    if as_json:
        tables = []
        for table in found.tables:
            entry: dict[str, Any] = {"table": table.name, "is_remade": table.is_remade, **_counts(table)}
            if with_rows:
                entry["rows"] = [_row_json(change, found.encoding) for change in rows_of(db, table)]
            tables.append(entry)
        objects = [
            {"kind": each.kind, "type": each.type, "name": each.name, "before": each.before, "after": each.after}
            for each in found.schema
        ]
        header = {name: list(pair) for name, pair in found.header.items()}
        sequence = {
            name: [[value_json(token, found.encoding) for token in side] for side in pair]
            for name, pair in found.sequence.items()
        }
        emit(True, "diff", {**told, "objects": objects, "header": header, "sequence": sequence, "tables": tables})
        return
    for change in found.schema:
        tell(f"schema: {change.type} {change.name} {change.kind}")
    for name, (before, after) in found.header.items():
        tell(f"header: {name} {before} → {after}")
    for name, sides in found.sequence.items():
        old, new = (", ".join(shown(token, found.encoding) for token in side) or "none" for side in sides)
        tell(f"sqlite_sequence: {name} {old} → {new}")
    for table in found.tables:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in _counts(table).items() if count)
        tell(f"{table.name}: {counts or 'no row'}")
        if with_rows:
            for change in rows_of(db, table):
                tell("  " + said_change(change, found.encoding))
    if found.is_empty:
        tell(nothing_differs(found.not_compared))


def _counts(table: Any) -> dict[str, int]:
    counts = table.counts
    changed = counts.get("changed", 0) + counts.get("moved", 0)
    return {"added": counts.get("added", 0), "removed": counts.get("removed", 0), "changed": changed}


def said_change(change: Any, encoding: str) -> str:
    """`~ id=7: balance 100 → 120`."""
    key = ", ".join(f"{name}={shown(token, encoding)}" for name, token in change.key.items())
    before, after = change.before or {}, change.after or {}
    if change.before is not None and change.after is not None:
        what = ", ".join(
            f"{name} {_side(before, name, encoding)} → {_side(after, name, encoding)}" for name in change.changed
        )
    else:
        row = {name: token for name, token in {**before, **after}.items() if name not in change.key}
        what = ", ".join(f"{name}={shown(token, encoding)}" for name, token in row.items())
    return f"{SIGNS[change.kind]} {key}: {what}" if what else f"{SIGNS[change.kind]} {key}"


def _side(row: dict[str, str], name: str, encoding: str) -> str:
    return shown(row[name], encoding) if name in row else "(no such column)"


def _row_json(change: Any, encoding: str) -> dict[str, Any]:
    def values(row: dict[str, str] | None) -> dict[str, Any] | None:
        return None if row is None else {name: value_json(token, encoding) for name, token in row.items()}

    kind = "changed" if change.kind == "moved" else change.kind
    return {
        "kind": kind,
        "key": values(change.key),
        "before": values(change.before),
        "after": values(change.after),
        "changed": change.changed,
    }


COMMANDS: dict[str, click.Command] = {"diff": diff_command}
