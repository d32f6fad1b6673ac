"""The script that takes rows back on the live source; printed, and never run by rollrep."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rollrep.cli.diff import compared, nothing_differs, raise_partly, said_state
from rollrep.cli.options import config_option, naming, output_path, store_for
from rollrep.cli.output import emit, json_option, reporting, say, script
from rollrep.core import sql
from rollrep.core.errors import SchemaProblem, UsageError
from rollrep.core.units import show_count

KINDS = {"removed": ("removed",), "added": ("added",), "changed": ("changed", "moved")}


@click.command("undo", short_help="Write the SQL script that takes changes back; you run it.")
@click.argument("job")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("-t", "--table", "tables", multiple=True, help="Only this table; repeatable.")
@click.option("--key", "keys", multiple=True, help="Only the row with this key, or COLUMN=VALUE; with one --table.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(sorted(KINDS)),
    help="Only rows that diff calls so; repeatable. --only removed brings back what was deleted, and no more.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, readable=False), help="Write the script to this file.")
@click.option("--force", is_flag=True, help="Replace the file if it exists; a link stays, and its file is replaced.")
@click.option("-n", "--dry-run", is_flag=True, help="Write no script; say what it would take back.")
@config_option
@json_option
@click.pass_context
@reporting("undo")
def undo_command(
    ctx: click.Context,
    job: str,
    before: str,
    after: str,
    tables: tuple[str, ...],
    keys: tuple[str, ...],
    only: tuple[str, ...],
    output: Path | None,
    force: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Print the SQL script that takes back what happened to JOB between A and B.

    A and B are moments as --at takes them. The script is for the live source, beside its application: read it, then run
    it there with SQLite's shell. It takes a row back only where the row is still exactly as it was at B and no foreign
    key would be broken; others are left alone and listed as conflicts. rollrep never runs it.

    Ends with 3 when a table can't be taken back, because it is another at A than at B, or is a virtual table; it is
    named. With 15 when nothing of what differs, or of the tables that you name, can be.
    """
    from rollrep.destination.undo import is_meant, plan_undo, undo_script, write_lines

    if keys and len(tables) != 1:
        raise UsageError("--key is of one table", remedy="name it: --table TABLE")
    store = store_for(ctx, config, job)
    target = output_path(ctx, config, output, force=force) if output else None
    with naming(job), compared(store, job, before, after, tables) as (db, found, _, a, b):

        def wanted(table: Any, change: Any) -> bool:
            if only and not any(change.kind in KINDS[word] for word in only):
                return False
            return not keys or is_meant(change, keys, table.after.primary_key if table.after else (), found.encoding)

        undo = plan_undo(db, found, wanted)
        _require_possible(undo, found, tables, before, after)
        _require_rows(undo, keys, only, tables, before, after)
        told = {"job": job, "a": a, "b": b, "rows": undo.rows, "refused": undo.refused}
        told |= {"tables": [table.name for table in undo.tables], "triggers": list(undo.triggers)}
        lines = itertools.chain(_header(job, a, b, undo), undo_script(db, found, undo, wanted))
        size = show_count(undo.rows, "row")
        if dry_run:
            names = ", ".join(table.name for table in undo.tables)
            said = f"would take {size} back, of {names}" if undo.rows else "nothing to take back"
            emit(as_json, "undo", {"dry_run": True, **told}, said)
        elif output and target:
            write_lines(target, lines)
            said = f"{output}: takes {size} back; read it, then: sqlite3 app.db < {shlex.quote(str(output))}"
            emit(as_json, "undo", {**told, "output": str(output)}, said)
        elif as_json:
            emit(True, "undo", {**told, "sql": "\n".join(lines)})
        else:
            for line in lines:
                script(line)
    _say_refused(job, undo, as_json)


def _say_refused(job: str, undo: Any, as_json: bool) -> None:
    for name, why in undo.refused.items():
        say(f"{job}: {name} is not taken back: {why}")
    if undo.refused:
        raise_partly(as_json, len(undo.refused))


def _require_possible(undo: Any, found: Any, tables: tuple[str, ...], before: str, after: str) -> None:
    """Raises SchemaProblem where nothing of what differs, or of what was asked for, can be taken back."""
    if undo.rows or not undo.refused:
        return
    # What could not be compared may be the same; then the others are all that was asked for, and don't differ.
    remade = [name for name in undo.refused if name not in found.not_compared]
    refused = {sql.fold(name) for name in undo.refused}
    if remade or (tables and all(sql.fold(table) in refused for table in tables)):
        name, why = next(((name, undo.refused[name]) for name in remade), next(iter(undo.refused.items())))
        diff = f"rollrep diff JOB {shlex.join((before, after))}"
        raise SchemaProblem(f"{name} can't be taken back: {why}", remedy=f"see what differs: {diff}")


def _require_rows(
    undo: Any, keys: tuple[str, ...], only: tuple[str, ...], tables: tuple[str, ...], before: str, after: str
) -> None:
    if undo.rows:
        return
    diff = f"rollrep diff JOB {shlex.join((before, after))}"
    if keys:
        raise UsageError(
            f"no row {' '.join(keys)} of {tables[0]} differs between A and B{_in_kind(only)}",
            remedy=f"see which do: {diff} --rows --table {shlex.quote(tables[0])}",
        )
    if only and not undo.refused:
        raise UsageError(f"no row was {' or '.join(only)} between A and B", remedy=f"see what differs: {diff}")


def _in_kind(only: tuple[str, ...]) -> str:
    return f" by being {' or '.join(only)}" if only else ""


def _header(job: str, a: dict[str, Any], b: dict[str, Any], undo: Any) -> Iterator[str]:
    # The shell must stop at the first error, or it would go on outside of the transaction.
    yield ".bail on"
    yield ".timeout 10000"
    yield f"-- Takes back what happened to {job} between"
    yield f"--   A  {said_state(a)}, and"
    yield f"--   B  {said_state(b)}."
    size = f"{show_count(undo.rows, 'row')} of {show_count(len(undo.tables), 'table')}"
    yield f"-- {size}. Made by rollrep, and not run by it: read it first."
    yield "-- Run it on the live source, beside its application:  sqlite3 app.db < this file"
    yield "-- It is one transaction. A row is taken back only if it still is exactly as it was at B, and breaks no"
    yield "-- foreign key; others are left alone and listed as conflicts. What AUTOINCREMENT remembers stays as it is."
    if undo.triggers:
        names = ", ".join(" ".join(name.split()) for name in undo.triggers)
        yield f"-- CAREFUL: these triggers of the application will fire: {names}"
    if not undo.rows:
        yield f"-- {nothing_differs(undo.refused).capitalize()}."


COMMANDS: dict[str, click.Command] = {"undo": undo_command}
