"""The commands about what stays: a snapshot because somebody asked for it, and what `keep` lets go of."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rollrep.cli.options import at_option, chosen_point, config_of, config_option, jobs_of, naming, store_for
from rollrep.cli.output import emit, json_option, reporting, same_config, say, somebody_watches
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import NotSetUp, Temporary, UsageError
from rollrep.core.units import show_bytes, show_count, show_duration

if TYPE_CHECKING:
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.catalog_rows import Segment
    from rollrep.destination.expire import Expiry, FileVerdict
    from rollrep.destination.store import Store


@click.command("snapshot", short_help="Make a snapshot of a point; label it, pin it.")
@click.argument("job")
@at_option
@click.option("--label", help="What the point is called from now on; --at label:TEXT finds it.")
@click.option("--pin/--unpin", "pin", default=None, help="Never let go of it, whatever `keep` says; or as `keep` says.")
@click.option("-n", "--dry-run", is_flag=True, help="Write nothing; say what would be made.")
@config_option
@json_option
@click.pass_context
@reporting("snapshot")
def snapshot_command(
    ctx: click.Context,
    job: str,
    at: str,
    label: str | None,
    pin: bool | None,
    dry_run: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a snapshot of JOB: of the newest point, or of the one that --at names.

    Where one stands there already, only its label and its pin change.
    """
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.keeping import annotate, make_snapshot, require_pinned, snapshot_of
    from rollrep.destination.notes import read_note
    from rollrep.jobs.run import translated

    store = store_for(ctx, config, job)
    loaded = config_of(ctx, config)
    if label is not None and not label.strip():
        raise UsageError("--label is empty", remedy=f"rollrep snapshot {job} --label before-upgrade")
    progress = say if somebody_watches() and not as_json else lambda _text: None
    room = "make room, and try again"
    with naming(job), translated(loaded, loaded.jobs[job], room), store.locked(), Catalog(store.catalog) as catalog:
        point, _ = chosen_point(catalog, job, at)
        existing = snapshot_of(catalog, point)
        if pin is False:
            require_pinned(store, existing, point)
        told: dict[str, Any] = {"job": job, "point": point.point, "id": point.id, "time": iso(point.time)}
        if dry_run:
            what = f"change what is said of {existing.path}" if existing else "make a snapshot of it"
            more = {"dry_run": True, "made": existing is None, "snapshot": existing.path if existing else None}
            emit(as_json, "snapshot", {**told, **more}, f"would {what}")
            return
        snapshot = existing if pin is False and existing else make_snapshot(store, catalog, point, progress)
        note = read_note(store, snapshot)
        if label is not None or pin is not None:
            note = annotate(store, catalog, point, snapshot, label, pin)
    if existing is None:
        _tell(job, store.folder / snapshot.path, iso(snapshot.time))
    told |= {
        "dry_run": False, "made": existing is None, "snapshot": snapshot.path, "bytes": snapshot.bytes,
        "labels": list(note.labels), "pinned": note.pinned,
    }  # fmt: skip
    said = [show_bytes(snapshot.bytes), *([f"label {', '.join(note.labels)}"] if note.labels else [])]
    said += ["pinned"] if note.pinned else []
    emit(as_json, "snapshot", told, f"{store.folder / snapshot.path}: {', '.join(said)}")


def _tell(job: str, path: Path, time: str) -> None:
    from rollrep.hooks import call_safely, plugin_manager

    call_safely(plugin_manager().hook.rollrep_snapshot_taken, job=job, path=path, time=time)


@click.command("prune", short_help="Let go of what `keep` does not ask for.")
@click.argument("job")
@click.option("-n", "--dry-run", is_flag=True, help="Remove nothing; say what would go, and why.")
@config_option
@json_option
@click.pass_context
@reporting("prune")
def prune_command(ctx: click.Context, job: str, dry_run: bool, config: Path | None, as_json: bool) -> None:
    """Let go of what `keep` does not ask for, with a reason for every file.

    Every pull does the same.  Files go to the job's trash/ and are removed from there a day later, or when the
    disk is short.  The newest snapshot of each line, pinned ones, and what kept operations need always stay.
    """
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.expire import expiry_of, retention_now, run_expiry
    from rollrep.destination.trash import empty_trash, trash_bytes
    from rollrep.jobs.run import translated

    store = store_for(ctx, config, job)
    loaded = config_of(ctx, config)
    [chosen] = jobs_of(loaded, [job])
    freed = 0
    with translated(loaded, chosen, "make room, and prune again"), Catalog(store.catalog) as catalog:
        # By the source's clock, as when a pull does it: a puller that stood still loses nothing by it.
        confirmed = catalog.confirmed()
        if confirmed is None:
            raise NotSetUp(f"no pull of {job} has ended yet", remedy=f"rollrep pull {job}")
        now = retention_now(confirmed)
        keep = ""
        if dry_run:
            plan = expiry_of(store, catalog, chosen.keep, now)
            keep = _how_to_keep(store, catalog, job, plan)
        else:
            with store.locked():
                freed = empty_trash(store, catalog, clock.now())
                plan = expiry_of(store, catalog, chosen.keep, now)
                if run_expiry(store, catalog, plan) is None:
                    raise Temporary(
                        f"a restore of {job} is running, and nothing is taken away from under it",
                        remedy=f"wait for it, then: rollrep prune {job}",
                    )
    trash = trash_bytes(store.trash)
    lines = _lines(job, plan, dry_run, freed, trash, keep)
    emit(as_json, "prune", _json(job, plan, dry_run, iso(now), freed, trash), *lines)


def _how_to_keep(store: Store, catalog: Catalog, job: str, plan: Expiry) -> str:
    """What to type to keep one of the labels that would be lost, in brackets; empty where there is none."""
    from rollrep.destination.shadow_archive import ShadowArchive

    labelled = [point for point in plan.lost if point.label]
    if not labelled:
        return ""
    late = ShadowArchive(store, catalog).earlier_each([(point.line, point.id) for point in labelled])
    exact = [point for point, earlier in zip(labelled, late, strict=True) if not earlier]
    point = exact[0] if exact else labelled[0]
    # A label means the newest point that is so called.
    is_newest = catalog.points_named(label=point.label)[-1] == point
    at = shlex.quote(f"label:{point.label}" if is_newest else f"point:{point.point}")
    if exact:
        return f" (to keep one: rollrep snapshot {job} --at {at} --pin)"
    return (
        " (a snapshot of none can be made, because virtual tables are known as of an earlier moment only;"
        f" to have one as a file: rollrep restore {job} --at {at} --output FILE)"
    )


def _json(job: str, plan: Expiry, dry_run: bool, now: str, freed: int, trash: int) -> dict[str, object]:
    from rollrep.jobs.telling import point_json

    return {
        "job": job,
        "dry_run": dry_run,
        "now": now,
        "files": [
            {"path": each.item.path, "line": each.item.line, "bytes": each.item.bytes, "kept": each.kept,
             "reason": each.reason}
            for each in plan.files
        ],
        "bytes_going": sum(each.item.bytes for each in plan.going),
        "bytes_kept": sum(each.item.bytes for each in plan.files if each.kept),
        "points_kept": plan.points_kept,
        "points_lost": [point_json(point) for point in plan.lost],
        "oldest_point_kept": point_json(plan.oldest_kept) if plan.oldest_kept else None,
        "trash_bytes_removed": freed,
        "trash_bytes": trash,
    }  # fmt: skip


def _lines(job: str, plan: Expiry, dry_run: bool, freed: int, trash: int, keep: str) -> Iterator[str]:
    from rollrep.destination.catalog_rows import Snapshot

    line, run = 0, list[Any]()
    for each in plan.files:
        if each.item.line != line:
            yield from _of_segments(run)
            line, run = each.item.line, []
            yield f"line {line}"
        if isinstance(each.item, Snapshot):
            state = "keep  " if each.kept else "remove"
            yield f"  {state}  {iso(each.item.time)}  {show_bytes(each.item.bytes):>10}  snapshot    {each.reason}"
        elif run and (run[-1].kept, run[-1].reason) != (each.kept, each.reason):
            yield from _of_segments(run)
            run = [each]
        else:
            run.append(each)
    yield from _of_segments(run)
    going, would = plan.going, "would go" if dry_run else "went to the trash"
    points, files = show_count(plan.points_kept, "point"), show_count(len(plan.files), "file")
    if not going:
        yield f"{job}: nothing goes: {points}, {files} stay"
    else:
        size = show_bytes(sum(each.item.bytes for each in going))
        yield f"{job}: {len(going)} of {files} ({size}) {would}; {points} stay"
    if plan.lost:
        first, last = plan.lost[0], plan.lost[-1]
        no_more = "would no longer be restorable" if dry_run else "are no longer restorable"
        yield (
            f"{job}: {show_count(len(plan.lost), 'point')} {no_more}: {iso(first.time)} to {iso(last.time)}"
            f"{_named(plan)}{same_config(keep)}"
        )
    if plan.oldest_kept and going:
        ago = show_duration((clock.now() - plan.oldest_kept.time).total_seconds())
        oldest = f"point {plan.oldest_kept.point} of {iso(plan.oldest_kept.time)}, {ago} ago"
        yield f"{job}: the oldest that stays is {oldest}"
    if freed:
        yield f"{job}: {show_bytes(freed)} of older trash removed"
    if trash:
        yield f"{job}: {show_bytes(trash)} lie in the trash, for a day"


def _of_segments(run: list[FileVerdict]) -> Iterator[str]:
    if not run:
        return
    state = "keep  " if run[0].kept else "remove"
    first: Segment = run[0].item  # type: ignore[assignment]
    last: Segment = run[-1].item  # type: ignore[assignment]
    size = show_bytes(sum(each.item.bytes for each in run))
    ids = f"log ids {first.first} to {last.last}"
    yield f"  {state}  {ids:<24}  {size:>10}  {len(run)} segment{'s' if len(run) > 1 else ' '}  {run[0].reason}"


def _named(plan: Expiry) -> str:
    labels = [point.label for point in plan.lost if point.label]
    if not labels:
        return ""
    more = ", ..." if len(labels) > 5 else ""
    return f"; among them {', '.join(labels[:5])}{more}"


COMMANDS: dict[str, click.Command] = {command.name or "": command for command in (snapshot_command, prune_command)}
