"""How every command speaks: data on stdout, everything else on stderr, one JSON object with `--json`.

    emit, tell, say    for people: what would steer a terminal, or begin another line, is written out
    script             for machines, too: exact, but for what would steer the terminal it is shown on

Labels, names and reasons come from the source, which may be hostile.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import click

from rollrep.cli.streams import refuse_bytes, speaking
from rollrep.core.errors import DiskFull, RollrepError, UsageError
from rollrep.strangers import unknown_here

_log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

# Control characters but the tab, ends of lines, and what turns the direction of a text around (UAX 9).
_STEERING = re.compile(
    "[\\x00-\\x08\\x0a-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def plain(text: str) -> str:
    """The text as one line that steers no terminal.

    >>> plain("paid \\x1b[2J\\n  OK  all is well"), plain("Müller\\t1 €")
    ('paid \\\\x1b[2J\\\\n  OK  all is well', 'Müller\\t1 €')
    """
    return _STEERING.sub(lambda found: repr(found[0])[1:-1], text)


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(command)


def emit(as_json: bool, schema: str, data: Mapping[str, object], *lines: str) -> None:
    """Either the object, or the lines for people."""
    if as_json:
        click.echo(json.dumps({"schema": f"rollrep.{schema}/1", **data}))
    else:
        for line in lines:
            tell(line)


def tell(line: str, *, err: bool = False) -> None:
    """A line for people."""
    click.echo(plain(line), err=err)


def say(text: str) -> None:
    """Something for the person, beside the data."""
    tell(text, err=True)


def script(text: str) -> None:
    """Lines for a program: exact, unless it is a terminal that would read them."""
    if sys.stdout.isatty():
        text = "\n".join(map(plain, text.split("\n")))
    # Without a colour, click takes what looks like one out of the data.
    click.echo(text, color=True)


def somebody_watches() -> bool:
    """Whether a person looks on; in cron and scripts, silence means that all is well."""
    return sys.stderr.isatty()


def same_config(text: str) -> str:
    """The text with the configuration that this command was given by -c in each command of it that needs one."""
    from rollrep.cli.main import DESTINATION

    context = click.get_current_context(silent=True)
    given = context and (context.params.get("config") or context.find_root().params.get("config"))
    if not given:
        return text
    commands = rf"\brollrep (?=(?:{'|'.join(DESTINATION)})\b)"
    return re.sub(commands, lambda _: f"rollrep -c {shlex.quote(str(given))} ", text)


def fail(error: RollrepError, schema: str, as_json: bool) -> NoReturn:
    """Says the error's sentence and its remedy, and ends with its exit code."""
    error.remedy = same_config(error.remedy)
    with speaking():
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
        with speaking():
            emit(True, schema, {"error": told})
    sys.exit(error.exit_code)


def fail_usage(error: click.ClickException) -> NoReturn:
    """What click says of a command line, said as every other error is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "rollrep"
    said = " ".join(error.format_message().split()).rstrip(".")
    remedy = getattr(error, "remedy", "") or f"see: {path} --help"
    typed = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv
    # The command was never called, so nobody knows its options.
    schema = ".".join(path.split()[1:]) or "usage"
    fail(UsageError(said[:1].lower() + said[1:], remedy=remedy), schema, "--json" in typed)


def reporting(schema: str) -> Callable[[F], F]:
    """Turns the errors of a command into sentences and exit codes."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                refuse_bytes(kwargs.values())
                return command(*args, **kwargs)
            except RollrepError as error:
                fail(error, schema, bool(kwargs.get("as_json")))
            except Exception as error:
                # Also to read takes some room: SQLite keeps shared memory beside a database.
                from rollrep.jobs.run import is_disk_failing, is_room_missing

                known: RollrepError | None = unknown_here(error)
                if known is None and is_room_missing(error):
                    known = DiskFull(
                        f"no room on the disk ({error})", remedy="nothing was lost; make room, and type it again: df -h"
                    )
                if known is None and isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
                    known = UsageError(f"{error.filename} is too long for a file's name", remedy="give a shorter one")
                if known is None and is_disk_failing(error):
                    # What they say is the best sentence there is; a traceback is not.
                    _log.debug("%s failed", schema, exc_info=True)
                    job = kwargs.get("job")
                    remedy = f"see what is whole: rollrep verify {job}" if job else "look at the disk: dmesg"
                    known = RollrepError(f"{type(error).__name__}: {error}", remedy=remedy)
                if known is None:
                    raise
                fail(known, schema, bool(kwargs.get("as_json")))

        return run  # type: ignore[return-value]

    return decorate


class _Plain(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return plain(super().formatMessage(record))


def set_up_logging(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("rollrep: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO if verbose else logging.WARNING)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
