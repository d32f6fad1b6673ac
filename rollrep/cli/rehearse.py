"""`rollrep rehearse`: would a restore work today?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import chosen_point, config_of, config_option, jobs_of, naming
from rollrep.cli.output import emit, json_option, reporting, same_config, say, somebody_watches
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import PartlyDone, RollrepError, VerifyFailed
from rollrep.core.moments import parse_moment
from rollrep.core.units import show_bytes, show_count, show_duration

RANDOM = "random"


@click.command("rehearse", short_help="Restore to a scratch file, check it, remove it.")
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option(
    "--at", default=RANDOM, show_default=True, help="random, or what restore takes: latest, label:X, '2h ago'."
)
@click.option("--due", is_flag=True, help="Only jobs whose `rehearse` in rollrep.toml says that it is time; for cron.")
@config_option
@json_option
@click.pass_context
@reporting("rehearse")
def rehearse_command(
    ctx: click.Context, jobs: tuple[str, ...], at: str, due: bool, config: Path | None, as_json: bool
) -> None:
    """Restore a point of JOB (or of all jobs) to a scratch file, check it, ask it your questions, and remove it.

    `rehearse_queries` in rollrep.toml are the questions: each must give a row, or the value it says.  The result
    is shown by `rollrep check`.  Pulls go on meanwhile.  Exits with 16 when something is not as it should be.
    """
    from rollrep.jobs.run import error_json

    loaded = config_of(ctx, config)
    if at != RANDOM:
        parse_moment(at, now=clock.now())
    told: list[dict[str, Any]] = []
    failed: list[RollrepError] = []
    lines: list[str] = []
    for job in jobs_of(loaded, jobs):
        error: RollrepError | None = None
        result: dict[str, Any] = {"job": job.name}
        try:
            with naming(job.name):
                found = _one(loaded, job, at, due=due, quiet=as_json)
            if found is None:
                continue
            result = found.as_json()
            lines.append(_said(found))
            if found.wrong:
                error = VerifyFailed(
                    f"the rehearsal of {job.name} failed: {found.wrong}",
                    remedy=f"rollrep verify {job.name}, which names damaged files and what stays restorable"
                    if found.failed or found.damaged
                    else f"look at it: rollrep shell {job.name} --at point:{found.point.point}",
                )
        except RollrepError as caught:
            error = caught
        if error:
            error.remedy = same_config(error.remedy)
        told.append({**result, "error": error_json(error) if error else None})
        if error:
            failed.append(error)
            say(f"rollrep: {error.facts}")
            say(f"  next: {error.remedy}")
    emit(as_json, "rehearse", {"jobs": told}, *lines)
    if failed:
        codes = {each.exit_code for each in failed}
        sys.exit(codes.pop() if len(failed) == len(told) and len(codes) == 1 else PartlyDone.exit_code)


def _one(config: Any, job: Any, at: str, *, due: bool, quiet: bool) -> Any:
    """The rehearsal of one job; None where it is not due."""
    from rollrep.destination.catalog import Catalog
    from rollrep.jobs.rehearse import due_in_s, random_point, rehearse
    from rollrep.jobs.run import store_of

    if due:
        store = store_of(config, job)
        store.require()
        with Catalog(store.catalog) as catalog:
            if due_in_s(job, catalog) > 0:
                return None

    def choose(catalog: Catalog) -> Any:
        return random_point(catalog) if at == RANDOM else chosen_point(catalog, job.name, at)[0]

    progress = say if somebody_watches() and not quiet else lambda _text: None
    return rehearse(config, job, choose, progress)


def _said(found: Any) -> str:
    asked = len(found.queries)
    right = sum(each.right for each in found.queries)
    questions = f", {right} of {asked} queries as expected" if asked else ""
    if found.failed:
        return f"{found.job}: point {found.point.point} of {iso(found.point.time)} could NOT be restored"
    return (
        f"{found.job}: point {found.point.point} of {iso(found.point.time)} restored in"
        f" {show_duration(found.seconds)}: {show_count(found.rows, 'row')}, {show_bytes(found.bytes)},"
        f" integrity ok{questions}"
    )


COMMANDS: dict[str, click.Command] = {"rehearse": rehearse_command}
