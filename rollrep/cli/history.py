"""Every version of one row."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from rollrep.cli.options import chosen_point, config_option, naming, store_for
from rollrep.cli.output import emit, json_option, reporting, say, somebody_watches
from rollrep.core.errors import NotRestorable
from rollrep.core.literals import as_json as value_json
from rollrep.core.literals import shown


@click.command("history", short_help="Show every version of one row.")
@click.argument("job")
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@click.option("--since", help="Only what came after this moment; the row as it was then comes first.")
@click.option("--until", help="Only what came up to this moment.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest so many versions.")
@config_option
@json_option
@click.pass_context
@reporting("history")
def history_command(
    ctx: click.Context,
    job: str,
    table: str,
    key: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Show every version of one row of JOB that snapshots and archive know of, oldest first.

    KEY is the primary key or the rowid; COLUMN=VALUE, repeated, is the one row that has these values now. A blob is
    x'00ff'. Where no operations are known there is a hole, and what happened in it is not guessed.
    """
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.choosing import restorable
    from rollrep.destination.history import RowHistory, key_meant
    from rollrep.destination.stretches import Window

    store = store_for(ctx, config, job)
    with naming(job), Catalog(store.catalog) as catalog:
        ends = [chosen_point(catalog, job, text)[0] if text else None for text in (since, until)]
        window = Window(*((point.line, point.id) if point else None for point in ends))
        key_of, layout = key_meant(store, table, key)
        progress = say if somebody_watches() and not as_json else lambda _text: None
        versions = list(RowHistory(store, catalog, table, key_of, progress).versions(window))
        _require_some(versions, layout, table, key)
        entries = [_entry(version, point) for version, point in _with_points(versions, restorable(catalog))]
    hidden = 0 if limit is None else max(0, len(entries) - limit)
    if hidden:
        say(f"{job}: {hidden} older versions are not shown (--limit {limit})")
    told = {"job": job, "table": table, "key": list(key), "versions": [json for json, *_ in entries[hidden:]]}
    emit(as_json, "history", told, *_lines(entries[hidden:]))


def _require_some(versions: Sequence[Any], layout: Any, table: str, words: Sequence[str]) -> None:
    from rollrep.destination.partial import unknown_table

    if any(version.row is not None for version in versions):
        return
    if layout is not None and all(version.detail.startswith("there was no table") for version in versions):
        raise unknown_table(table, layout, "in all that is known there is")
    holes = sum(version.what == "hole" for version in versions)
    ids = [version.id for version in versions]
    raise NotRestorable(
        f"no row {' '.join(words)} of {table} is known of from log id {min(ids, default=0)} on"
        + (f", with {holes} holes" if holes else ""),
        remedy="see what rows there are: rollrep query JOB --at ... 'SELECT ...'",
    )


def _with_points(versions: Sequence[Any], points: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Each version with the first point at which the row was so; None where it was so at no point."""
    places = [(point.line, point.id) for point in points]
    found = []
    for number, version in enumerate(versions):
        later = versions[number + 1] if number + 1 < len(versions) else None
        at = bisect.bisect_left(places, (version.line, version.id))
        is_there = at < len(places) and places[at][0] == version.line
        if later is not None and is_there and later.line == version.line:
            is_there = places[at][1] < later.id or (later.what == "hole" and places[at][1] == later.id)
        found.append((version, points[at] if is_there and version.what != "hole" else None))
    return found


def _entry(version: Any, point: Any) -> tuple[dict[str, Any], Any, Any]:
    def values(row: dict[str, str] | None) -> dict[str, Any] | None:
        return None if row is None else {name: value_json(token, version.encoding) for name, token in row.items()}

    told = {
        "what": version.what,
        "line": version.line,
        "id": version.id,
        "time": version.time,
        "point": point.point if point else None,
        "row": values(version.row),
        "changed": list(version.changed),
        "detail": version.detail,
    }
    return told, version, point


def _lines(entries: Sequence[tuple[dict[str, Any], Any, Any]]) -> list[str]:
    """A table: log id, time, point, what happened, and only the columns that changed."""
    rows = [("LOG ID", "TIME", "POINT", "WHAT", "")]
    lines = {version.line for _, version, _ in entries}
    before: Any = None
    line = None
    for _, version, point in entries:
        if version.line != line:
            line, before = version.line, None
            if len(lines) > 1:
                rows.append(("", f"line {line}", "", "", ""))
        where = f"{point.point}{' ' + point.label if point.label else ''}" if point else ""
        rows.append((str(version.id), version.time or "", where, version.what, _said(version, before)))
        before = None if version.what == "hole" else version.row
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return [
        f"{row[0]:>{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


def _said(version: Any, before: dict[str, str] | None) -> str:
    if version.row is None:
        return version.detail or ("no such row" if version.what == "found" else "")
    if before is None:
        parts = [f"{name}={shown(token, version.encoding)}" for name, token in version.row.items()]
    else:
        parts = [
            f"{name} {shown(before[name], version.encoding)} → {shown(version.row[name], version.encoding)}"
            for name in version.changed
            if name in before
        ]
    return ", ".join(parts) + (f"  ({version.detail})" if version.detail else "")


COMMANDS: dict[str, click.Command] = {"history": history_command}
