"""`rollrep catalog`: the index of a job's files, made again from them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rollrep.cli.options import config_of, config_option, jobs_of, naming
from rollrep.cli.output import emit, json_option, reporting
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.core.units import show_count


@click.command("catalog", short_help="Make the catalog again from the other files.")
@click.argument("job")
@click.option(
    "--rebuild", is_flag=True, help="Make catalog.db again from the other files; the old one is kept beside it."
)
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; say what it would hold.")
@config_option
@json_option
@click.pass_context
@reporting("catalog")
def catalog_command(
    ctx: click.Context, job: str, rebuild: bool, dry_run: bool, config: Path | None, as_json: bool
) -> None:
    """Make the catalog of JOB again, from its segments, snapshots and mirror alone.

    For a catalog that is gone or damaged.  What can be restored comes back; points get new numbers, and what only
    the old catalog knew (reasons, events) does not.  Exits with 16 when a file is damaged and had to be left out.
    """
    from rollrep.destination.rebuild import rebuild_catalog
    from rollrep.destination.store import Store, nothing_pulled
    from rollrep.jobs.run import translated

    if not rebuild:
        raise UsageError("catalog does one thing, and only when asked to", remedy=f"rollrep catalog {job} --rebuild")
    loaded = config_of(ctx, config)
    [chosen] = jobs_of(loaded, [job])
    store = Store(loaded.store, job)
    if not store.folder.is_dir():
        raise nothing_pulled(job)
    with naming(job), translated(loaded, chosen, "make room, and rebuild again"), store.locked():
        done = rebuild_catalog(store, dry_run=dry_run)
    told = {
        "job": job, "dry_run": dry_run, "lines": done.lines, "segments": done.segments, "snapshots": done.snapshots,
        "points": done.points, "holes": done.holes, "damaged": done.damaged, "not_used": done.not_used,
        "old": str(done.old) if done.old else None,
    }  # fmt: skip
    would = "would hold" if dry_run else "holds"
    lines = [*(f"{job}: {each}" for each in done.damaged), *(f"{job}: note: {each}" for each in done.not_used)]
    lines.append(
        f"{job}: the catalog {would} {show_count(done.points, 'point')} of {show_count(done.lines, 'line')},"
        f" {show_count(done.snapshots, 'snapshot')} and {show_count(done.segments, 'segment')}; points have new numbers"
    )
    if done.old:
        lines.append(f"{job}: the old one is {done.old}")
    emit(as_json, "catalog", told, *lines)
    if done.damaged:
        sys.exit(VerifyFailed.exit_code)


COMMANDS: dict[str, click.Command] = {"catalog": catalog_command}
