"""The commands that look at the past without a file of it in sight: one question, or a prompt."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import at_option, chosen_point, config_option, naming, store_for
from rollrep.cli.output import emit, json_option, reporting, say, script, somebody_watches
from rollrep.core.clock import iso
from rollrep.core.errors import UsageError

MEASURED_ROWS = 500
"""rows of an aligned table that its widths are taken from; later ones may stick out"""
WIDEST = 60


@click.command("query", short_help="Ask one SQL question at a moment.")
@click.argument("job")
@click.argument("sql")
@at_option
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated, with a line of names.")
@config_option
@json_option
@click.pass_context
@reporting("query")
def query_command(
    ctx: click.Context, job: str, sql: str, at: str, as_csv: bool, config: Path | None, as_json: bool
) -> None:
    """Ask the database of JOB, as it was at a moment, one SQL question.

    A table on a terminal, else tab-separated lines: no NULL but an empty field, \\t \\n \\\\ for a tab, a line's
    end and a backslash, blobs as X'00ff'.
    """
    from rollrep.destination.reading import ask

    if as_csv and as_json:
        raise UsageError("--csv and --json are two answers", remedy="choose one")
    with _past(ctx, config, job, at) as (db, point):
        names, rows = ask(db, sql)
        if as_json:
            told = [[_json_value(value) for value in row] for row in rows]
            where = {"point": point.point, "id": point.id, "time": iso(point.time)}
            emit(True, "query", {"job": job, **where, "columns": list(names), "rows": told})
        else:
            for line in _lines(names, rows, as_csv=as_csv):
                script(line)


@click.command("shell", short_help="A read-only SQL prompt at a moment.")
@click.argument("job")
@at_option
@config_option
@click.pass_context
@reporting("shell")
def shell_command(ctx: click.Context, job: str, at: str, config: Path | None) -> None:
    """A prompt in the database of JOB as it was at a moment; it can be read, not changed.

    The prompt is apsw's own shell: SQL, and commands that begin with a dot (.help, .tables, .mode).
    """
    import apsw.shell

    with _past(ctx, config, job, at) as (db, _):
        shell: Any = apsw.shell.Shell(db=db)
        # It would lead to every other connection of this process, the catalog's too, and those can write.
        shell.command_connection = None
        # Its start-up file is not read: it may hold commands that were meant for other databases.
        shell.cmdloop(intro="" if not sys.stdin.isatty() else None)


@contextlib.contextmanager
def _past(ctx: click.Context, config: Path | None, job: str, at: str) -> Iterator[tuple[Any, Any]]:
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.reading import reader
    from rollrep.destination.states import point_file

    store = store_for(ctx, config, job)
    progress = say if somebody_watches() else lambda _text: None
    with naming(job), Catalog(store.catalog) as catalog:
        point, _ = chosen_point(catalog, job, at)
        if catalog.knows_virtual_tables():
            _say_what_is_earlier(store, catalog, job, point)
        with point_file(store, catalog, point, progress) as path, reader(path) as db:
            yield db, point


def _say_what_is_earlier(store: Any, catalog: Any, job: str, point: Any) -> None:
    from rollrep.destination.shadow_archive import ShadowArchive

    late = ShadowArchive(store, catalog).earlier(point.line, point.id)
    if late:
        names = ", ".join(each.table for each in late)
        say(f"{job}: virtual tables that may be of an earlier moment: {names}; `rollrep restore` says of which")


def _lines(names: Sequence[str], found: Iterator[Sequence[Any]], *, as_csv: bool) -> Iterator[str]:
    # A question that fails early leaves nothing on stdout, not even the line of names.
    first = list(itertools.islice(found, MEASURED_ROWS))
    rows = itertools.chain(first, found)
    if as_csv:
        yield from (_csv_line(row) for row in itertools.chain([names], rows) if names)
    elif sys.stdout.isatty():
        yield from _aligned(names, rows)
    else:
        yield from ("\t".join(map(_tsv_value, row)) for row in itertools.chain([names], rows) if names)


def _aligned(names: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    if not names:
        return
    first = [[_shown(value) for value in row] for row in itertools.islice(rows, MEASURED_ROWS)]
    widths = [min(WIDEST, max(map(len, column))) for column in zip(names, *first, strict=True)]
    yield "  ".join(name.ljust(width) for name, width in zip(names, widths, strict=True)).rstrip()
    yield "  ".join("─" * width for width in widths)
    for row in itertools.chain(first, ([_shown(value) for value in row] for row in rows)):
        yield "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()


def _shown(value: Any) -> str:
    return "NULL" if value is None else _tsv_value(value)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    return repr(value) if isinstance(value, float) else str(value)


def _tsv_value(value: Any) -> str:
    text = _plain(value)
    for sign, written in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        text = text.replace(sign, written)
    return text


def _csv_line(row: Sequence[Any]) -> str:
    import csv
    import io

    line = io.StringIO()
    # The writer quotes what its line's end is made of, so that end must be one that holds both signs.
    csv.writer(line, lineterminator="\r\n").writerow([_plain(value) for value in row])
    return line.getvalue().removesuffix("\r\n")


def _json_value(value: Any) -> Any:
    """Numbers and texts are themselves; a blob is {"blob": hexadecimal}, an infinite real {"real": "inf"}."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"real": str(value)}
    return value


COMMANDS: dict[str, click.Command] = {command.name or "": command for command in (query_command, shell_command)}
