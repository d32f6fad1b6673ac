"""The commands that give the past back: which points there are, and a file of one of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import at_option, chosen_point, config_option, naming, output_path, store_for
from rollrep.cli.output import emit, json_option, reporting, say, somebody_watches
from rollrep.cli.virtual import earlier_json, earlier_sentences, restored_json, restored_sentences
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import PartlyDone
from rollrep.core.moments import Latest, parse_moment
from rollrep.core.units import show_bytes, show_count, show_duration


@click.command("points", short_help="List the points that are known.")
@click.argument("job")
@config_option
@json_option
@click.pass_context
@reporting("points")
def points_command(ctx: click.Context, job: str, config: Path | None, as_json: bool) -> None:
    """List the points of JOB that are known, oldest first."""
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.choosing import restorable
    from rollrep.destination.shadow_archive import ShadowArchive
    from rollrep.jobs.telling import point_json

    store = store_for(ctx, config, job)
    with Catalog(store.catalog) as catalog:
        points = restorable(catalog)
        earlier = ShadowArchive(store, catalog).earlier_each([(point.line, point.id) for point in points])
    both = list(zip(points, earlier, strict=True))
    emit(
        as_json,
        "points",
        {"job": job, "points": [{**point_json(point), "earlier": earlier_json(late)} for point, late in both]},
        *(
            f"{point.point:>6}  {iso(point.time)}  id {point.id:<10} {point.kind:<12} {point.label or ''}".rstrip()
            + (f"  (of an earlier moment: {', '.join(each.table for each in late)})" if late else "")
            for point, late in both
        ),
    )


@click.command("restore", short_help="Give back the database as it was at a moment.")
@click.argument("job")
@at_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, readable=False), required=True, help="The file to write."
)
@click.option("-t", "--table", "tables", multiple=True, help="Only this table, with its indexes; repeatable.")
@click.option("--verify", is_flag=True, help="Also look every row up in every index (integrity_check).")
@click.option("--force", is_flag=True, help="Replace the file if it exists; a link stays, and its file is replaced.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; say what would be restored.")
@config_option
@json_option
@click.pass_context
@reporting("restore")
def restore_command(
    ctx: click.Context,
    job: str,
    at: str,
    output: Path,
    tables: tuple[str, ...],
    verify: bool,
    force: bool,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Give back the database of JOB as it was at a moment, as a file.

    The moment that was chosen is always said: the nearest point at or before what was asked for.  The exit code
    is 3 when a virtual table is of an earlier moment than the rest, also with -n; which, and of when, is said.

    Every page of the file is checked before it is given, and its rows against the digests of the snapshot that
    they come from.  `--verify` checks its indexes too, as every rehearsal does.
    """
    import dataclasses

    from rollrep.destination.catalog import Catalog
    from rollrep.destination.partial import wanted_shapes
    from rollrep.destination.restore import layout_of, plan, plan_newest, restore
    from rollrep.destination.shadow_archive import ShadowArchive
    from rollrep.jobs.telling import tell_restored

    store = store_for(ctx, config, job)
    began = clock.monotonic_s()
    parse_moment(at, now=clock.now())
    output_path(ctx, config, output, force=force, database=True)
    with naming(job), Catalog(store.catalog) as catalog:
        point, moment = chosen_point(catalog, job, at)
        found = plan_newest(store, catalog, point) if isinstance(moment, Latest) else plan(catalog, point)
        chosen = dataclasses.replace(found, tables=tables)
        told: dict[str, Any] = {"point": point.point, "id": point.id, "time": iso(point.time), "tables": list(tables)}
        if dry_run:
            if layout := layout_of(store, chosen) if tables else None:
                wanted_shapes(layout, tables)
            late = () if tables else ShadowArchive(store, catalog).earlier(point.line, point.id)
            for sentence in earlier_sentences(catalog, point, late):
                say(f"{job}: {sentence}")
            planned = {"dry_run": True, **told, **_plan_json(chosen), "earlier": earlier_json(late)}
            emit(as_json, "restore", planned, _plan_said(chosen, output))
            if late:
                # As the restore itself would: what was written would be all there, but not all of one moment.
                sys.exit(PartlyDone.exit_code)
            return
        progress = say if somebody_watches() and not as_json else lambda _text: None
        restored = restore(
            store, catalog, chosen, output.absolute(), force=force, progress=progress, every_index=verify
        )
        for sentence in restored_sentences(catalog, restored, job):
            say(f"{job}: {sentence}")
    told |= {"output": str(output), "seconds": round(clock.monotonic_s() - began, 3), "verified": verify}
    tell_restored(job, restored)
    emit(as_json, "restore", {**told, **restored_json(restored)}, _restored_said(restored, told))
    if restored.earlier:
        sys.exit(PartlyDone.exit_code)


def _restored_said(restored: Any, told: dict[str, Any]) -> str:
    size = show_bytes(restored.output.stat().st_size)
    checked = "integrity" if told["verified"] else "structure"
    return (
        f"{told['output']}: {show_count(restored.rows, 'row')}, {size}, {checked} ok,"
        f" in {show_duration(told['seconds'])}"
    )


def _plan_json(chosen: Any) -> dict[str, object]:
    if chosen.from_mirror:
        return {"from": "mirror", "snapshot": None, "changes": 0, "segments": 0, "operations": 0, "bytes_read": None}
    return {
        "from": "archive",
        "snapshot": chosen.chain[0].path,
        "changes": len(chosen.chain) - 1,
        "segments": len(chosen.segments),
        "operations": chosen.operations,
        "bytes_read": chosen.bytes_read,
    }


def _plan_said(chosen: Any, output: Path) -> str:
    what = f"write {output}" + (f" with only {', '.join(chosen.tables)}" if chosen.tables else "")
    if chosen.from_mirror:
        return f"would copy the mirror, which stands at this point, and {what}"
    changes = f" and {show_count(len(chosen.chain) - 1, 'change')} of it" if len(chosen.chain) > 1 else ""
    return (
        f"would unpack {chosen.chain[0].path}{changes}, replay {show_count(chosen.operations, 'log row')}"
        f" of {show_count(len(chosen.segments), 'segment')}"
        f" ({show_bytes(chosen.bytes_read)} to read), and {what}"
    )


COMMANDS: dict[str, click.Command] = {command.name or "": command for command in (points_command, restore_command)}
