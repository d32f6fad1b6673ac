"""`rollrep export` and `rollrep import`: a point as one file."""

from __future__ import annotations

from pathlib import Path

import click

from rollrep.cli.options import (
    at_option,
    chosen_point,
    config_of,
    config_option,
    jobs_of,
    naming,
    output_path,
    store_for,
)
from rollrep.cli.output import emit, json_option, reporting, say, somebody_watches
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.moments import parse_moment
from rollrep.core.units import show_bytes


@click.command("export", short_help="Write one point to a file of its own.")
@click.argument("job")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@at_option
@click.option("--force", is_flag=True, help="Replace the file if it exists; a link stays, and its file is replaced.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; say what would be read.")
@config_option
@json_option
@click.pass_context
@reporting("export")
def export_command(
    ctx: click.Context, job: str, file: Path, at: str, force: bool, dry_run: bool, config: Path | None, as_json: bool
) -> None:
    """Write one point of JOB to FILE: compressed, checksummed, with its manifest; `rollrep import` brings it in again.

    Any zstd program unpacks it to a plain SQLite database, too.
    """
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.restore import plan
    from rollrep.destination.travelling import OTHER_FILE, export_point
    from rollrep.jobs.run import translated

    store = store_for(ctx, config, job)
    loaded = config_of(ctx, config)
    parse_moment(at, now=clock.now())
    output = output_path(ctx, config, file, force=force, give=OTHER_FILE)
    progress = say if somebody_watches() and not as_json else lambda _text: None
    room = "make room, and export again"
    with naming(job), translated(loaded, loaded.jobs[job], room), Catalog(store.catalog) as catalog:
        point, _ = chosen_point(catalog, job, at)
        chosen = plan(catalog, point)
        told = {"job": job, "point": point.point, "id": point.id, "time": iso(point.time), "file": str(file)}
        if dry_run:
            said = f"would read {show_bytes(chosen.bytes_read)} and write {file}"
            emit(as_json, "export", {**told, "dry_run": True, "bytes_read": chosen.bytes_read}, said)
            return
        _, size = export_point(store, catalog, chosen, output, force=force, progress=progress)
    emit(as_json, "export", {**told, "dry_run": False, "bytes": size}, f"{file}: {show_bytes(size)}, integrity ok")


@click.command("import", short_help="Bring an exported point into a job's store.")
@click.argument("file", type=click.Path(path_type=Path, readable=False))
@click.option("--job", help="Into which job; the one it was exported from, where that is not said.")
@click.option("--accept-source", is_flag=True, help="It is of another database than the mirror, and that is right.")
@click.option("-n", "--dry-run", is_flag=True, help="Import nothing; say what FILE is.")
@config_option
@json_option
@click.pass_context
@reporting("import")
def import_command(
    ctx: click.Context, file: Path, job: str | None, accept_source: bool, dry_run: bool, config: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Bring an exported point into a job's store, as a line of its own, to restore and ask like any other.

    The job must stand in rollrep.toml; nothing needs to have been pulled.
    """
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.store import Store
    from rollrep.destination.travelling import import_point, read_exported
    from rollrep.jobs.run import translated
    from rollrep.jobs.telling import point_json

    loaded = config_of(ctx, config)
    holds = read_exported(file.absolute())
    name = job or holds.job
    [chosen] = jobs_of(loaded, [name])
    store = Store(loaded.store, name)
    called = ", ".join(each.label for each in holds.points if each.label)
    what = f"a point of {holds.job} of {holds.time}, log id {holds.position.id}{f' ({called})' if called else ''}"
    told = {"job": name, "file": str(file), "exported_from": holds.job, "id": holds.position.id, "time": holds.time}
    if dry_run:
        emit(as_json, "import", {**told, "dry_run": True}, f"{file}: {what}")
        return
    progress = say if somebody_watches() and not as_json else lambda _text: None
    with naming(name), translated(loaded, chosen, "make room, and import again"):
        store.create()
        store.require_catalog_of_files()
        with store.locked(), Catalog(store.catalog, create=True) as catalog:
            done = import_point(store, catalog, file.absolute(), accept_source=accept_source, progress=progress)
    numbers = ", ".join(f"point:{each.point}" for each in done.points)
    emit(
        as_json,
        "import",
        {
            **told, "dry_run": False, "made": done.made, "line": done.snapshot.line, "snapshot": done.snapshot.path,
            "points": [point_json(each) for each in done.points],
        },
        f"{file}: {what}: {'is now' if done.made else 'was imported before; it is'} {numbers} of {name}",
    )  # fmt: skip


COMMANDS: dict[str, click.Command] = {command.name or "": command for command in (export_command, import_command)}
