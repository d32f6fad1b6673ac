"""`rollrep status`: how does each job stand, as far as is known here?"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from rollrep.cli.options import config_of, config_option, jobs_of
from rollrep.cli.output import emit, json_option, reporting, same_config
from rollrep.core.clock import iso
from rollrep.core.errors import PartlyDone
from rollrep.core.units import show_bytes, show_count, show_duration, show_rate

if TYPE_CHECKING:
    from rollrep.jobs.status import History, Mirroring, Status


@click.command("status", short_help="How old is each mirror, and is it in trouble? Without asking the source.")
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@config_option
@json_option
@click.pass_context
@reporting("status")
def status_command(ctx: click.Context, jobs: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """How old is the mirror of each JOB, is it in trouble, and will it be?

    Everything is what the store knows: the source is not asked, so it works when that is gone.  `rollrep check`
    asks it.  Exits with 0 when nothing is wrong, also with a warning of what is to come; else with the code of the
    last pull's error, 10 when nothing was pulled, 16 when a verify or a rehearsal failed, 1 when the mirror is only
    old; 3 when jobs differ.
    """
    from rollrep.jobs.status import status_of

    loaded = config_of(ctx, config)
    found = [status_of(loaded, job) for job in jobs_of(loaded, jobs)]
    for each in found:
        each.troubles = [dataclasses.replace(item, next=same_config(item.next)) for item in each.troubles]
        each.results = [dataclasses.replace(item, next=same_config(item.next)) for item in each.results]
    lines = [line for each in found for line in _lines(each)]
    emit(as_json, "status", {"jobs": [status_json(each) for each in found]}, *lines)
    codes = {each.exit_code for each in found}
    if codes != {0}:
        sys.exit(codes.pop() if len(codes) == 1 else PartlyDone.exit_code)


def _lines(found: Status) -> Iterator[str]:
    yield f"{found.verdict:8}{found.job}: {_age(found)}"
    for trouble in found.troubles:
        # "529 ms ago: ..." alone leaves open what was.
        subject = f"{trouble.item} " if trouble in found.events else ""
        yield f"  {trouble.state:8} {subject}{trouble.text}"
        if trouble.next:
            yield f"    next: {trouble.next}"
    if found.confirmed is None:
        return
    yield _told("was", f"the source at {iso(found.confirmed)}, by the source's clock{_clocks(found)}")
    if found.pulled:
        yield _told("pulled", _pulled(found.pulled))
    if found.failure and not any(each.item == "pull" for each in found.troubles):
        yield _told("failed", f"{show_duration(found.failure['ago_s'])} ago, once: {found.failure['facts']}")
    if found.state:
        position = found.state.position
        yield _told("at", f"log id {position.id:,} of line {found.state.line}, {show_count(found.points, 'point')}")
    if found.bandwidth:
        yield _told("link", f"receives at most {show_rate(found.bandwidth)}")
    if found.sleep and not found.sleep.next:
        yield _told("log", found.sleep.text.removeprefix("the log "))
    yield from (_told("mirror", text) for text in _mirroring(found.mirroring))
    yield from _history(found.job, found.history)
    snapshots = found.snapshots
    newest = f", the newest of {iso(snapshots.newest)}" if snapshots.newest else ""
    pinned = f", {snapshots.pinned:,} pinned" if snapshots.pinned else ""
    yield _told("keeps", f"{show_count(snapshots.count, 'snapshot')}{newest}{pinned}")
    sizes = ", ".join(f"{name} {show_bytes(size)}" for name, size in found.sizes.items() if size)
    yield _told("size", f"{show_bytes(sum(found.sizes.values()))}: {sizes}")
    yield from (_told(each.item, each.text) for each in found.results if each not in found.troubles)


def _age(found: Status) -> str:
    if found.age_s is not None:
        return f"the mirror is {show_duration(found.age_s)} old"
    unread = any(each.item == "store" for each in found.troubles)
    return "what the store knows can't be read" if unread else "there is no mirror yet"


def _told(what: str, text: str) -> str:
    return f"  {what:8} {text}"


def _clocks(found: Status) -> str:
    differ_s = found.clocks_differ_s
    if not differ_s:
        return ""
    return f", which is {show_duration(differ_s)} {'behind' if differ_s > 0 else 'ahead of'} ours"


def _pulled(told: dict[str, Any]) -> str:
    answer = str(told["answer"]).replace("_", " ") + (f" ({told['reason']})" if told["reason"] else "")
    carried = f"; not carried: {', '.join(told['not_carried'])}" if told["not_carried"] else ""
    return (
        f"{show_duration(told['ago_s'])} ago: {answer}, {show_count(told['operations'], 'operation')},"
        f" {show_bytes(told['bytes_received'])} received in {show_duration(told['seconds'])}{carried}"
    )


def _mirroring(known: Mirroring) -> Iterator[str]:
    if known.under_way:
        done, tables = known.under_way.tables_done, show_count(known.under_way.tables, "table")
        yield f"is being made again ({known.under_way.reason}): {done:,} of {tables} done; a pull goes on from there"
    if known.last:
        yield f"was made again {show_duration(known.last['ago_s'])} ago ({known.last['reason']}): {_made(known.last)}"
    if known.estimate_s is not None:
        yield f"would take about {show_duration(known.estimate_s)} to make again"


def _history(job: str, known: History) -> Iterator[str]:
    from rollrep.cli.bar import REASONS, why_lost
    from rollrep.jobs.telling import said_of_missed

    if began := known.began:
        reason = REASONS.get(began.reason, began.reason)
        kept = f"what was before is kept as line {known.before}"
        yield _told("line", f"{began.line} began {iso(began.began)}: {reason}; {kept}")
    if known.holes:
        newest, count = known.holes[-1], len(known.holes)
        which = "a hole" if count == 1 else f"{count:,} holes, the newest"
        span = f"from {iso(newest.begin)} to {iso(newest.end)}"
        yield _told("lost", f"{which} {span}: {why_lost(newest)}; see: rollrep timeline {job}")
    if known.missed:
        ago = show_duration(known.missed["ago_s"])
        yield from (_told("lost", f"{ago} ago, {each}") for each in said_of_missed(known.missed))


def _made(told: dict[str, Any]) -> str:
    tables = told["tables"]
    rungs = " and ".join(sorted({str(each["rung"]) for each in tables}))
    rows = show_count(sum(each["rows"] for each in tables), "row")
    return f"{rows} of {show_count(len(tables), 'table')}, by {rungs or 'nothing'}, in {show_duration(told['seconds'])}"


def status_json(found: Status) -> dict[str, object]:
    position = found.state.position if found.state else None
    return {
        "job": found.job,
        "state": found.verdict,
        "troubles": [each.as_json() for each in found.troubles],
        "age_s": found.age_s,
        "confirmed": iso(found.confirmed) if found.confirmed else None,
        "clocks_differ_s": found.clocks_differ_s,
        "every_s": found.every_s,
        "bandwidth": found.bandwidth,
        "position": {"epoch": position.epoch, "id": position.id} if position else None,
        "line": found.state.line if found.state else None,
        "points": found.points,
        "pulled": found.pulled,
        "failure": found.failure,
        "lasting": msgspec.to_builtins(found.lasting),
        "mirroring": msgspec.to_builtins(found.mirroring),
        "history": {
            "holes": [
                {"begin": iso(each.begin), "end": iso(each.end), "reasons": list(each.reasons)}
                for each in found.history.holes
            ],
            "line_began": iso(found.history.began.began) if found.history.began else None,
            "line_reason": found.history.began.reason if found.history.began else None,
            "line_before": found.history.before or None,
            "points_not_kept": found.history.missed,
        },
        "snapshots": {
            "count": found.snapshots.count,
            "pinned": found.snapshots.pinned,
            "newest": iso(found.snapshots.newest) if found.snapshots.newest else None,
        },
        "bytes": found.sizes,
        "results": [each.as_json() for each in found.results],
    }


COMMANDS: dict[str, click.Command] = {"status": status_command}
