"""The commands of the destination: where a source's past is kept."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import config_of as _config
from rollrep.cli.options import config_option, naming
from rollrep.cli.options import jobs_of as _jobs
from rollrep.cli.output import emit, json_option, reporting, same_config, say, somebody_watches
from rollrep.core.errors import PartlyDone, UsageError
from rollrep.core.units import show_bytes, show_count, show_duration
from rollrep.jobs.adding import add_job, job_section
from rollrep.jobs.config import FILE_NAME, Config, Job

_FIRST_CONTACT = "    (and, the first time, confirms the source's host key)"


@click.command("init", short_help="Add a pull job to rollrep.toml.")
@click.argument("job")
@click.argument("source")
@click.option("--identity", type=click.Path(path_type=Path, readable=False), help="The private key to log in with.")
@click.option(
    "--known-hosts", type=click.Path(path_type=Path, readable=False), help="The known_hosts file to verify the host by."
)
@click.option(
    "--ssh-config", type=click.Path(path_type=Path, readable=False), help="The ssh_config to resolve the host by."
)
@click.option("--remote-command", help="How rollrep is started on the source.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; print what would be added.")
@config_option
@json_option
@click.pass_context
@reporting("init")
def init_command(
    ctx: click.Context,
    job: str,
    source: str,
    identity: Path | None,
    known_hosts: Path | None,
    ssh_config: Path | None,
    remote_command: str | None,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add a pull job for SOURCE to rollrep.toml.

    SOURCE is ssh://[user@]host[:port]/NAME (a name that the key may pull), ssh://host//absolute/path, or
    local:/absolute/path.
    """
    from rollrep.transport.address import parse_address

    parse_address(source)
    path = config or ctx.obj or Path(os.environ.get("ROLLREP_CONFIG", FILE_NAME))
    how: dict[str, Any] = {
        "identity": identity,
        "known_hosts": known_hosts,
        "ssh_config": ssh_config,
        "remote_command": remote_command,
    }
    if dry_run:
        text = job_section(job, source, **how)
        emit(as_json, "init", {"config": str(path), "job": job, "dry_run": True, "text": text}, *text.splitlines())
        return
    made = add_job(path, job, source, **how)
    emit(
        as_json,
        "init",
        {"config": str(path), "job": made.name, "source": made.source, "dry_run": False},
        f"{path}: job {made.name} pulls {made.source}",
        same_config(f"  next: rollrep check {made.name}") + (_FIRST_CONTACT if made.source.startswith("ssh:") else ""),
        same_config(f"        rollrep pull {made.name}"),
    )


@click.command("check", short_help="Is everything set up right and fresh? With the next command.")
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option("--accept-host-key", metavar="SHA256:...", help="Trust the source's host key if this is its fingerprint.")
@config_option
@json_option
@click.pass_context
@reporting("check")
def check_command(
    ctx: click.Context, jobs: tuple[str, ...], accept_host_key: str | None, config: Path | None, as_json: bool
) -> None:
    """Is the set-up right and fresh?  One line per item, with the next command.

    Exits non-zero when an item fails, with that failure's exit code.
    """
    from rollrep.jobs.check import FAIL, accept, check_job

    loaded = _config(ctx, config)
    chosen = _jobs(loaded, jobs)
    if accept_host_key:
        if len(chosen) != 1:
            raise UsageError(
                "--accept-host-key is for one job",
                remedy=f"rollrep check {chosen[0].name} --accept-host-key {accept_host_key}",
            )
        with naming(chosen[0].name):
            say(f"trusted from now on, in {accept(chosen[0], accept_host_key)}")
    reports = [
        (job.name, [dataclasses.replace(item, next=same_config(item.next)) for item in check_job(loaded, job)])
        for job in chosen
    ]
    lines = [
        line
        for name, items in reports
        for item in items
        for line in (
            f"{item.state:8}{name}: {item.item}: {item.text}",
            *([f"        next: {item.next}"] if item.next else []),
        )
    ]
    told = [{"job": name, "items": [item.as_json() for item in items]} for name, items in reports]
    emit(as_json, "check", {"jobs": told}, *lines)
    codes = {item.exit_code for _, items in reports for item in items if item.state == FAIL}
    if codes:
        sys.exit(codes.pop() if len(codes) == 1 else 1)


@click.command("pull", short_help="Fetch what is new, once.")
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@config_option
@json_option
@click.pass_context
@reporting("pull")
def pull_command(ctx: click.Context, jobs: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Fetch what is new from the sources of all jobs, or of the named ones, once.

    One job that fails does not stop the others; then the exit code is 3, or the error's own when all
    failed alike.
    """
    loaded = _config(ctx, config)
    _pull(loaded, _jobs(loaded, jobs), as_json, "pull")


@click.command("mirror", short_help="Mirror a job again, table by table.")
@click.argument("job")
@click.option("--accept-source", is_flag=True, help="The source is another database or machine now, and that is right.")
@config_option
@json_option
@click.pass_context
@reporting("mirror")
def mirror_command(ctx: click.Context, job: str, accept_source: bool, config: Path | None, as_json: bool) -> None:
    """Mirror JOB again, table by table, although its position may be good."""
    loaded = _config(ctx, config)
    _pull(loaded, _jobs(loaded, [job]), as_json, "mirror", mirror=True, accept_source=accept_source)


def _pull(
    config: Config,
    jobs: list[Job],
    as_json: bool,
    schema: str,
    *,
    mirror: bool = False,
    accept_source: bool = False,
) -> None:
    from rollrep.cli.progress import CopyProgress
    from rollrep.hooks import plugin_manager
    from rollrep.jobs.run import Result, run_pull, surest_first
    from rollrep.jobs.telling import said_of_missed

    hooks = plugin_manager()
    results: list[Result] = []
    with CopyProgress(enabled=somebody_watches() and not as_json) as progress:
        expect = progress.expect if progress.speaks else None
        for job in surest_first(config, jobs):
            result = run_pull(
                config, job, hooks, progress.advance, expect=expect, mirror=mirror, accept_source=accept_source
            )
            results.append(result)
            if result.error:
                result.error.remedy = same_config(result.error.remedy.replace(" JOB", f" {job.name}"))
                say(f"rollrep: {job.name}: {result.error.facts}")
                if result.error.remedy:
                    say(f"  next: {result.error.remedy}")
            for each in result.outcome.refused:
                say(f"rollrep: {job.name}: NOT CARRIED {each}")
            for each in result.outcome.healed:
                say(f"rollrep: {job.name}: {each} was damaged; its rows were fetched again")
            for each in said_of_missed(result.outcome.missed.as_json()) if result.outcome.missed else ():
                say(f"rollrep: {job.name}: NOT KEPT {each}; what is kept: rollrep points {job.name}")
            if somebody_watches() and not as_json and not result.error:
                say(_summary(result))
    if as_json:
        names = [job.name for job in jobs]
        results.sort(key=lambda result: names.index(result.job))
        emit(True, schema, {"jobs": [result.as_json() for result in results]})
    failed = [result.error for result in results if result.error]
    if failed:
        codes = {error.exit_code for error in failed}
        sys.exit(codes.pop() if len(failed) == len(results) and len(codes) == 1 else PartlyDone.exit_code)


def _summary(result: object) -> str:
    from rollrep.jobs.run import Result

    assert isinstance(result, Result)
    outcome = result.outcome
    said = f"{result.job}: {outcome.answer.replace('_', ' ')}"
    if outcome.answer == "mirror":
        tables = show_count(len(outcome.tables_mirrored), "table")
        said += f" ({outcome.reason}): {tables}, {show_count(outcome.rows_mirrored, 'row')},"
    said += f" {show_count(outcome.operations, 'operation')}, {show_bytes(result.bytes_received)} received"
    at = f" at {outcome.time}, log id {outcome.position.id}" if outcome.position else ""
    return f"{said} in {show_duration(result.seconds)}; the mirror is the source{at}"


COMMANDS: dict[str, click.Command] = {
    command.name or "": command
    for command in (
        init_command,
        check_command,
        pull_command,
        mirror_command,
    )
}
