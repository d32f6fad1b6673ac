"""`rollrep timeline`: what of the past can be restored, at a glance."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollrep.cli.options import config_option, output_path, store_for
from rollrep.cli.output import emit, json_option, reporting
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import UsageError

if TYPE_CHECKING:
    from rollrep.destination.timeline import LineSeen, Timeline


@click.command("timeline", short_help="Show what of the past can be restored.")
@click.argument("job")
@click.option(
    "--html", type=click.Path(path_type=Path, readable=False), help="Write a page to look at, one file, and no bar."
)
@config_option
@json_option
@click.pass_context
@reporting("timeline")
def timeline_command(ctx: click.Context, job: str, html: Path | None, config: Path | None, as_json: bool) -> None:
    """Show what of the past of JOB can be restored: a bar per line of history, its holes, labels and snapshots.

    --html FILE writes the same as one static page, which needs no server and no network; the file is
    replaced; of a link, the file that it leads to.
    """
    from rollrep.cli.bar import ASCII, UNICODE, bar_lines
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.timeline import read_timeline

    store = store_for(ctx, config, job)
    target = output_path(ctx, config, html, force=True, give="another --html") if html else None
    with Catalog(store.catalog) as catalog:
        timeline = read_timeline(store, catalog)
    if target is not None:
        _write_page(timeline, target)
        emit(as_json, "timeline", {**timeline_json(timeline), "html": str(html)}, f"{html}: the timeline of {job}")
        return
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    width = shutil.get_terminal_size((100, 24)).columns
    lines = bar_lines(timeline, width, UNICODE if encoding == "utf8" else ASCII)
    emit(as_json, "timeline", {**timeline_json(timeline), "html": None}, *lines)


def _write_page(timeline: Timeline, target: Path) -> None:
    from rollrep.cli.page import page
    from rollrep.destination.outputs import as_before
    from rollrep.destination.unfinished import unfinished

    temporary = unfinished(target)
    try:
        temporary.write_text(page(timeline, clock.now()), encoding="utf-8", errors="replace")
        as_before(temporary, target)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(
            f"{target} can't be written: {error.strerror}",
            remedy=f"give another file: rollrep timeline {timeline.job} --html FILE",
        ) from error


def timeline_json(timeline: Timeline) -> dict[str, object]:
    """What `timeline --json` promises."""
    span = timeline.span
    return {
        "job": timeline.job,
        "oldest": iso(span[0]) if span else None,
        "newest": iso(span[1]) if span else None,
        "confirmed": iso(timeline.confirmed) if timeline.confirmed else None,
        "bytes": timeline.bytes,
        "lines": [_line_json(line) for line in timeline.lines],
        "freshness": [
            {"hour": iso(each.hour), "pulls": each.pulls, "longest_s": round(each.longest_s, 3)}
            for each in timeline.freshness
        ],
    }


def _line_json(line: LineSeen) -> dict[str, object]:
    from rollrep.jobs.telling import point_json

    return {
        "line": line.story.line,
        "epoch": line.story.epoch,
        "reason": line.story.reason,
        "began": iso(line.story.began),
        "stretches": [
            {"begin": iso(each.begin), "end": iso(each.end), "first_id": each.first, "last_id": each.last}
            for each in line.stretches
        ],
        "holes": [
            {"begin": iso(each.begin), "end": iso(each.end), "after_id": each.hole.after,
             "until_id": each.hole.until, "reason": each.hole.reason, "reasons": list(each.reasons)}
            for each in line.holes
        ],
        "snapshots": [
            {"time": iso(each.snapshot.time), "id": each.snapshot.id, "path": each.snapshot.path,
             "bytes": each.snapshot.bytes, "raw_bytes": each.snapshot.raw_bytes, "labels": list(each.note.labels),
             "pinned": each.note.pinned}
            for each in line.snapshots
        ],
        "points": len(line.points),
        "labelled": [point_json(each.point) for each in line.points if each.point.label],
    }  # fmt: skip


COMMANDS: dict[str, click.Command] = {"timeline": timeline_command}
