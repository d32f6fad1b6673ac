"""How every command speaks: data on stdout, everything else on stderr, one JSON object with `--json`."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import click

from rollrep.core.errors import DiskFull, RollrepError
from rollrep.strangers import unknown_here

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(command)


def emit(as_json: bool, schema: str, data: Mapping[str, object], *lines: str) -> None:
    """Either the object, or the lines for people."""
    if as_json:
        click.echo(json.dumps({"schema": f"rollrep.{schema}/1", **data}))
    else:
        for line in lines:
            click.echo(line)


def say(text: str) -> None:
    """Something for the person, beside the data."""
    click.echo(text, err=True)


def somebody_watches() -> bool:
    """Whether a person looks on; in cron and scripts, silence means that all is well."""
    return sys.stderr.isatty()


def fail(error: RollrepError, schema: str, as_json: bool) -> NoReturn:
    """Says the error's sentence and its remedy, and ends with its exit code."""
    say(f"rollrep: {error.facts}")
    if error.remedy:
        say(f"  next: {error.remedy}")
    if as_json:
        told = {
            "kind": error.kind,
            "facts": error.facts,
            "remedy": error.remedy,
            "exit_code": error.exit_code,
        }
        emit(True, schema, {"error": told})
    sys.exit(error.exit_code)


def reporting(schema: str) -> Callable[[F], F]:
    """Turns the errors of a command into sentences and exit codes."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return command(*args, **kwargs)
            except RollrepError as error:
                fail(error, schema, bool(kwargs.get("as_json")))
            except Exception as error:
                # Also to read takes some room: SQLite keeps shared memory beside a database.
                from rollrep.jobs.run import is_room_missing

                known: RollrepError | None = unknown_here(error)
                if known is None and is_room_missing(error):
                    known = DiskFull(f"no room on the disk ({error})", remedy="make room, and type it again: df -h")
                if known is None:
                    raise
                fail(known, schema, bool(kwargs.get("as_json")))

        return run  # type: ignore[return-value]

    return decorate


def set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO if verbose else logging.WARNING, format="rollrep: %(message)s"
    )
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
