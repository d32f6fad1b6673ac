"""`rollrep source migrate DB -- COMMAND`: a migration that nothing of ours stands in the way of."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click
import msgspec

from rollrep.cli.output import emit, json_option, reporting, say
from rollrep.core.errors import UsageError


@click.command(
    "migrate",
    short_help="Run a migration with our triggers out of its way.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("db", type=click.Path(path_type=Path, readable=False), metavar="DB")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, run nothing; say what would be done.")
@json_option
@reporting("source.migrate")
def migrate_command(db: Path, command: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Run COMMAND, a migration of DB, with rollrep's triggers out of its way, and capture again.

    Its input and output are left alone, and its exit code is the one that is passed on.  Every table is compared with
    the mirror at the next pull.  With --json, the object follows what COMMAND wrote.
    """
    from rollrep.source.migrate import migrate, tables_concerned

    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no program {command[0]}", remedy="give COMMAND as you would type it in a shell")
    tables = tables_concerned(db)
    told: dict[str, object] = {"database": str(db), "command": list(command), "dry_run": dry_run}
    if dry_run:
        emit(
            as_json,
            "source.migrate",
            {**told, "released": tables, "captured": [], "refused": [], "command_exit_code": None},
            f"{db}: would take the triggers off {', '.join(tables) or 'no table'}, run {shlex.join(command)}, and"
            " capture again",
        )
        return
    code, report = migrate(db, command)
    refused = [msgspec.to_builtins(each) for each in report.refused]
    if as_json:
        captured = list(report.captured)
        emit(True, "source.migrate", {**told, "released": tables, "captured": captured, "refused": refused,
                                      "command_exit_code": code})  # fmt: skip
    say(
        f"rollrep: {db}: {shlex.join(command)} ended with {code}; captured again:"
        f" {', '.join(report.captured) or 'no table'}"
    )
    for each in report.refused:
        say(f"  NOT CARRIED {each.name}: {each.reason}")
    sys.exit(code)
