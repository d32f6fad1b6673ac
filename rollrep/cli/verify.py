"""`rollrep verify`: is the data right?"""

from __future__ import annotations

from pathlib import Path

import click

from rollrep.cli.options import config_of, config_option, jobs_of
from rollrep.cli.output import emit, json_option, reporting, same_config, somebody_watches
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.core.units import show_count


@click.command("verify", short_help="Is what lies here whole, and is the mirror the source?")
@click.argument("job")
@click.option("--against-source", is_flag=True, help="Compare the mirror with the source, by digests.")
@click.option("--table", "tables", multiple=True, metavar="GLOB", help="Only tables whose name matches; repeatable.")
@click.option("--repair", is_flag=True, help="Put damaged files aside; against the source, mend the rows that differ.")
@click.option("-n", "--dry-run", is_flag=True, help="With --repair: repair nothing; say what would be.")
@config_option
@json_option
@click.pass_context
@reporting("verify")
def verify_command(
    ctx: click.Context,
    job: str,
    against_source: bool,
    tables: tuple[str, ...],
    repair: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Is what lies here whole, and is the mirror of JOB the source?

    Without --against-source every file at rest is read to its last byte: segments, snapshots, the catalog, the
    mirror; a damaged one is named, and so is every point that can't be restored without it.  --repair puts the
    damaged ones into the trash, and from then on nothing speaks of them or of those points.

    With --against-source the mirror is brought up to the source and compared with it at one position per range,
    while the application writes on; --repair makes the rows that differ what the source has.

    Exits with 16 when something is not as it should be.
    """
    from rollrep.cli.progress import CopyProgress
    from rollrep.destination.verify import Asked
    from rollrep.jobs.run import error_json
    from rollrep.jobs.verify import verify_rest, verify_source

    if tables and not against_source:
        raise UsageError("--table is compared with the source", remedy=f"rollrep verify {job} --against-source")
    loaded = config_of(ctx, config)
    [chosen] = jobs_of(loaded, [job])
    with CopyProgress(enabled=somebody_watches() and not as_json, doing="verifying") as bar:
        if against_source:
            found = verify_source(
                loaded, chosen, Asked(tables, repair and not dry_run), lambda table, rows: bar.advance(job, table, rows)
            )
            right, lines, told = found.verified.equal, found.lines(), found.as_json()
            if repair and dry_run and not right:
                lines = [*lines[:-1], *found.would(), lines[-1]]
            facts = f"the mirror of {job} is not its source"
            schema = bool(found.verified.schema) and not any(not table.equal for table in found.verified.tables)
            remedy = f"rollrep mirror {job}" if schema else f"rollrep verify {job} --against-source --repair"
        else:
            rest = verify_rest(
                loaded, chosen, lambda name, _: bar.advance(job, name, 0), repair=repair, dry_run=dry_run
            )
            right, lines, told = not rest.remedies, rest.lines(), rest.as_json()
            facts = f"what is kept of {job} has {show_count(len(rest.at_rest.problems), 'problem')}"
            remedy = "; then: ".join(rest.remedies)
    if right:
        emit(as_json, "verify", {**told, "error": None}, *lines)
        return
    wrong = VerifyFailed(facts, remedy=same_config(remedy))
    emit(as_json, "verify", {**told, "error": error_json(wrong)}, *lines)
    if as_json:
        ctx.exit(wrong.exit_code)
    raise wrong


COMMANDS: dict[str, click.Command] = {"verify": verify_command}
