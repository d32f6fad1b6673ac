"""`rollrep source ...`: what one types beside the application."""

from __future__ import annotations

import contextlib
import fnmatch
import getpass
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import click
import msgspec

from rollrep.cli.groups import Suggesting
from rollrep.cli.migrate import migrate_command
from rollrep.cli.output import emit, json_option, reporting, say, script, tell
from rollrep.core.errors import NotSetUp, UsageError
from rollrep.core.nouns import Virtual
from rollrep.core.units import parse_bytes, parse_duration_s, show_bytes, show_count, show_duration
from rollrep.source.database import open_source, translated
from rollrep.source.inspect import virtual_tables
from rollrep.source.install import Report, install, uninstall
from rollrep.source.log import has_log, read_meta, write_point
from rollrep.source.makeable import references_to_no_key
from rollrep.source.tables import Limits

DEFAULTS = Limits()
MOST = 2**63 - 1
"""SQLite's largest integer"""

database = click.argument("db", type=click.Path(path_type=Path, readable=False), metavar="DB")


@click.group(cls=Suggesting)
def source() -> None:
    """What one types beside the application."""


source.add_command(migrate_command)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    with contextlib.closing(open_source(path)) as db, translated(path):
        yield db


@source.command("install", short_help="Install the rolling log, or bring it up to date.")
@database
@click.option("--keep-rows", type=int, help=f"Rows the log holds.  [default: {DEFAULTS.keep_rows:,}]")
@click.option("--keep-bytes", help=f"Bytes the log holds.  [default: {show_bytes(DEFAULTS.keep_bytes)}]")
@click.option("--keep-age", help=f"How old its rows may be.  [default: {DEFAULTS.keep_age_s / 86400:.0f}d]")
@click.option("--keep-keys", type=int, help=f"Keys of forgotten rows it holds.  [default: {DEFAULTS.keep_keys:,}]")
@click.option("--tables", multiple=True, metavar="GLOB", help="Capture only these tables (repeatable).")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave these tables out (repeatable).")
@click.option("--print-sql", is_flag=True, help="Print the statements, as one transaction, and run nothing.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@json_option
@reporting("source.install")
def install_command(
    db: Path,
    keep_rows: int | None,
    keep_bytes: str | None,
    keep_age: str | None,
    keep_keys: int | None,
    tables: tuple[str, ...],
    exclude: tuple[str, ...],
    print_sql: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install the rolling log in DB, or bring it up to date.

    One transaction; doing it again changes nothing.  What is not given stays as it was chosen before.
    """
    dry_run = dry_run or print_sql
    with _opened(db) as connection:
        before = read_meta(connection, older_too=True) if has_log(connection) else None
        old = before.limits if before else DEFAULTS
        limits = Limits(
            keep_rows=_positive("--keep-rows", keep_rows, old.keep_rows),
            keep_bytes=_positive("--keep-bytes", parse_bytes(keep_bytes) if keep_bytes else None, old.keep_bytes),
            keep_age_s=parse_duration_s(keep_age) if keep_age else old.keep_age_s,
            keep_keys=_positive("--keep-keys", keep_keys, old.keep_keys),
        )
        include = tables or (before.include if before else ())
        left_out = exclude or (before.exclude if before else ())
        report = install(connection, limits, include, left_out, dry_run=dry_run)
        journal_mode = str(connection.pragma("journal_mode"))
        virtuals = virtual_tables(connection, include, left_out)[0]
        loose = [each for each in references_to_no_key(connection) if each[1] in {*report.captured, *report.kept}]
    done = "brought up to date"
    if report.created:
        done = "made anew, and every destination mirrors again" if before else "installed"
    told = _report_json(db, report, journal_mode, dry_run, print_sql)
    told["virtual"] = [{"table": each.name, "module": each.module} for each in virtuals]
    names = [
        *report.captured,
        *report.kept,
        *(each.table for each in report.refused),
        *(each.name for each in virtuals),
    ]
    told["unmatched"] = unmatched = [glob for glob in include if not fnmatch.filter(names, glob)]
    emit(as_json, "source.install", told | {"references_to_no_key": loose})
    if as_json:
        return
    if print_sql and report.statements:
        script(";\n".join(("BEGIN IMMEDIATE", *report.statements, "COMMIT")) + ";")
    for line in _told_installed(db, report, done, virtuals, journal_mode, loose, dry_run):
        tell(line, err=print_sql)
    for glob in unmatched:
        tell(f"  WARN       --tables {glob}: no table that is left has such a name", err=print_sql)


def _positive(option: str, value: int | None, otherwise: int) -> int:
    if value is None:
        return otherwise
    if not 1 <= value <= MOST:
        raise UsageError(f"{option} is {value}", remedy=f"give a number from 1 to {MOST}")
    return value


def _report_json(db: Path, report: Report, journal_mode: str, dry_run: bool, print_sql: bool) -> dict[str, object]:
    return {
        "database": str(db),
        "database_id": report.database,
        "epoch": report.epoch,
        "created": report.created,
        "captured": list(report.captured),
        "kept": list(report.kept),
        "released": list(report.released),
        "refused": [msgspec.to_builtins(each) for each in report.refused],
        "limits": _limits_json(report.limits),
        "journal_mode": journal_mode,
        "dry_run": dry_run,
        "statements": list(report.statements) if print_sql else len(report.statements),
    }


def _limits_json(limits: Limits) -> dict[str, object]:
    return {
        "rows": limits.keep_rows,
        "bytes": limits.keep_bytes,
        "age_s": limits.keep_age_s,
        "keys": limits.keep_keys,
    }


def _told_installed(
    db: Path,
    report: Report,
    done: str,
    virtuals: Sequence[Virtual],
    journal_mode: str,
    loose: list[tuple[str, str]],
    dry_run: bool,
) -> Iterator[str]:
    would = "would be " if dry_run else ""
    if not report.statements:
        yield f"{db}: all is as it should be; nothing was changed"
    else:
        yield f"{db}: the rolling log {'is' if not dry_run else 'would be'} {done}"
    total = len(report.captured) + len(report.kept)
    yield f"  captured   {show_count(total, 'table')}" + (
        f" ({would}new: {', '.join(report.captured)})" if report.captured else ""
    )
    if report.released:
        yield f"  released   {', '.join(report.released)}"
    if virtuals:
        names = ", ".join(f"{each.name} ({each.module})" for each in virtuals)
        yield f"  virtual    {names}: carried as of the end of each pull"
    for each in report.refused:
        yield f"  NOT CARRIED {each.name}: {each.reason}"
    if any("application's own" in each.reason for each in report.refused):
        yield "             a plugin can give what only the application has: see docs/collations.md"
    limits = report.limits
    yield (
        f"  keeps      {limits.keep_rows:,} rows, {show_bytes(limits.keep_bytes)}, {show_duration(limits.keep_age_s)},"
        f" whichever is reached first; then {limits.keep_keys:,} keys"
    )
    if journal_mode != "wal":
        yield (
            f"  WARN       journal_mode is {journal_mode}: a pull makes the application's writes wait for moments;"
            " better: PRAGMA journal_mode = WAL"
        )
    for child, parent in loose:
        yield (
            f"  WARN       {child} refers to {parent} by a foreign key, and to no key of it: with foreign_keys on,"
            f" SQLite takes no row into {parent} any more, now that it has triggers;"
            f" mend the reference, or --exclude {parent}"
        )
    if dry_run:
        return
    name = re.sub("[^A-Za-z0-9._-]+", "-", db.stem).strip("-._") or "app"  # as a job may be called
    path = db.resolve()
    user, host = getpass.getuser(), platform.node()
    yield "  next, on the other machine:"
    yield f"    rollrep init {name} {shlex.quote(f'ssh://{user}@{host}/{path}')}"
    yield f"    rollrep pull {name}"
    named = shlex.quote(f"{name}={path}")
    yield f"  or with a key that can do nothing else, here: rollrep source authorize --db {named} KEY.pub"


@source.command("uninstall", short_help="Remove every trace of the rolling log.")
@database
@json_option
@reporting("source.uninstall")
def uninstall_command(db: Path, as_json: bool) -> None:
    """Remove every trace of the rolling log from DB.

    Destinations keep what they have.  Should it be installed once more, it is another database to them: a pull
    ends with 2 and changes nothing, until `rollrep mirror JOB --accept-source` says that it is the right one.
    """
    with _opened(db) as connection:
        if not has_log(connection):
            raise NotSetUp(f"{db} has no rolling log", remedy="nothing to remove")
        tables = uninstall(connection)
    emit(
        as_json,
        "source.uninstall",
        {"database": str(db), "released": tables},
        f"{db}: the rolling log is removed; no longer captured: {', '.join(tables) or 'no table was'}",
    )


@source.command("status", short_help="What the log holds and captures, how far back it reaches.")
@database
@json_option
@reporting("source.status")
def status_command(db: Path, as_json: bool) -> None:
    """Show what the log of DB holds, how far back it reaches, and what it captures."""
    from rollrep.source.status import read_status

    with _opened(db) as connection:
        status = read_status(connection)
    emit(as_json, "source.status", status.as_json(), *status.lines(str(db)))


@source.command("point", short_help="Write a consistency point.", context_settings={"allow_extra_args": True})
@database
@click.option("--label", help="What the point is called.")
@click.option(
    "--deadline",
    default="10s",
    show_default=True,
    help="How long plugins may take to bring the application to rest.",
)
@json_option
@click.pass_context
@reporting("source.point")
def point_command(ctx: click.Context, db: Path, label: str | None, deadline: str, as_json: bool) -> None:
    """Write a consistency point: the database is in a known good state now.

    Plugins that can are asked to bring the application to rest for it.
    """
    from rollrep.hooks import call_safely, plugin_manager, quiesced

    if ctx.args:
        words = " ".join(ctx.args)
        meant = shlex.join(["rollrep", "source", "point", str(db), "--label", words])
        raise UsageError(f"{words!r} is no part of this command; a label is given by --label", remedy=meant)
    hooks = plugin_manager()
    asked = bool(hooks.hook.rollrep_quiesce.get_hookimpls())
    with _opened(db) as connection:
        read_meta(connection)
        with quiesced(hooks, db.resolve(), label, parse_duration_s(deadline)) as at_rest:
            kind = "plugin" if asked and at_rest else "operator"
            point = write_point(connection, label, kind)
    if asked and not at_rest:
        say("rollrep: a plugin could not bring the application to rest in time; the point says so (kind operator)")
    call_safely(hooks.hook.rollrep_point_written, database=db.resolve(), id=point.id, time=point.time, label=label)
    emit(
        as_json,
        "source.point",
        {"id": point.id, "time": point.time, "label": point.label, "kind": point.kind},
        f"{point.id}\t{point.time}\t{point.label or ''}",
    )


def _named_databases(pairs: tuple[str, ...]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not name or not path.startswith("/"):
            raise UsageError(
                f"--db {pair!r} is not NAME=/absolute/path", remedy="for example: --db shop=/srv/shop/app.db"
            )
        named[name] = Path(path)
    return named


@source.command("serve", short_help="Speak the protocol; SSH starts this, people do not.")
@click.option("--db", "databases", multiple=True, metavar="NAME=PATH", help="Serve only these databases (repeatable).")
@reporting("source.serve")
def serve_command(databases: tuple[str, ...]) -> None:
    """Speak the protocol on stdin and stdout; SSH starts this, people do not.

    With --db, in a forced command of authorized_keys, nothing but the named databases can be pulled.
    """
    from rollrep.source.serve import serve

    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    named = _named_databases(databases)
    if named and asked and asked.split()[-2:] != ["source", "serve"]:
        raise UsageError("this key may only pull with rollrep", remedy=f"it may pull: {', '.join(sorted(named))}")
    if sys.stdin.isatty():
        say("rollrep source serve speaks with another rollrep, over SSH; end it with Ctrl-D")
    serve(sys.stdin.buffer, sys.stdout.buffer, named or None)


def _public_key(path: Path) -> str:
    """The one key in a file as ssh-keygen writes it, as one line."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} can't be read as a public key: {error}", remedy="make one: ssh-keygen -t ed25519"
        ) from error
    keys = [fields for fields in lines if fields and not fields[0].startswith("#")]
    if any(len(fields) < 2 or not fields[0].startswith(("ssh-", "ecdsa-", "sk-")) for fields in keys) or not keys:
        raise UsageError(f"{path} is not a public key", remedy="give the file that ends in .pub")
    if len(keys) > 1:
        raise UsageError(
            f"{path} holds {len(keys)} keys, and a line is for one", remedy="put each into a file of its own"
        )
    return " ".join(keys[0])


@source.command("authorize", short_help="Print the authorized_keys line of a key that can only pull.")
@click.option("--db", "databases", multiple=True, required=True, metavar="NAME=PATH", help="What the key may pull.")
@click.argument("key", type=click.Path(path_type=Path, readable=False), metavar="KEY.pub")
@json_option
@reporting("source.authorize")
def authorize_command(databases: tuple[str, ...], key: Path, as_json: bool) -> None:
    """Print the authorized_keys line that lets KEY.pub pull the named databases, and nothing else."""
    named = _named_databases(databases)
    for name, path in named.items():
        with _opened(path) as connection:
            if not has_log(connection):
                raise NotSetUp(
                    f"{name} ({path}) has no rolling log",
                    remedy=f"install it: rollrep source install {shlex.quote(str(path))}",
                )
    public = _public_key(key)
    program = shutil.which("rollrep") or str(Path(sys.argv[0]).absolute())
    options = " ".join(f"--db {shlex.quote(f'{name}={path}')}" for name, path in named.items())
    command = f"{shlex.quote(program)} source serve {options}".replace('"', '\\"')
    line = f'restrict,command="{command}" {public}'
    emit(as_json, "source.authorize", {"line": line, "databases": {n: str(p) for n, p in named.items()}}, line)
    if not as_json:
        say(f"put this line into ~{getpass.getuser()}/.ssh/authorized_keys, or into that of whoever may read the file")
