"""What the commands of the destination share: which configuration, which jobs, which moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rollrep.cli.output import say
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import RollrepError, UsageError
from rollrep.destination.outputs import OTHER, output_file
from rollrep.destination.store import Store
from rollrep.jobs.config import Config, Job, find_config, load_config, unknown_job

if TYPE_CHECKING:
    from rollrep.core.moments import Moment
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.catalog_rows import CatalogPoint

config_option = click.option(
    "-c", "--config", type=click.Path(path_type=Path, readable=False), help="The configuration file (rollrep.toml)."
)
at_option = click.option(
    "--at", default="latest", show_default=True, help="latest, point:17, label:X, id:45678, a time, '2h ago'."
)


def config_of(ctx: click.Context, config: Path | None) -> Config:
    return load_config(find_config(config or ctx.obj, os.environ))


def jobs_of(config: Config, names: Sequence[str]) -> list[Job]:
    """The jobs that are named; all where none is."""
    missing = next((name for name in names if name not in config.jobs), None)
    if missing is not None:
        raise unknown_job(config, missing)
    if not config.jobs:
        raise UsageError(f"{config.path} has no jobs", remedy="add one: rollrep init JOB SOURCE")
    return [config.jobs[name] for name in names] or list(config.jobs.values())


def store_for(ctx: click.Context, config: Path | None, job: str) -> Store:
    """The store of a job that has been pulled.  Raises NotSetUp where it was not."""
    loaded = config_of(ctx, config)
    [found] = jobs_of(loaded, [job])
    store = Store(loaded.store, found.name)
    store.require()
    return store


def output_path(
    ctx: click.Context, config: Path | None, asked: Path, *, force: bool, give: str = OTHER, database: bool = False
) -> Path:
    """The path to write for `asked`, as `output_file` says; never a file of rollrep's own, nor a source."""
    from rollrep.jobs.ours import refuse_ours

    os.umask(0o077)  # while it is being written, too
    loaded = config_of(ctx, config)
    # First: to look whether a database is in use opens it, and of ours that would let go of locks.
    refuse_ours(loaded, Path(os.path.realpath(asked)), give)
    return output_file(asked.absolute(), force=force, give=give, database=database)


@contextlib.contextmanager
def naming(job: str) -> Iterator[None]:
    """Remedies that say JOB say its name."""
    try:
        yield
    except RollrepError as error:
        error.remedy = error.remedy.replace(" JOB", f" {job}")
        raise


def chosen_point(catalog: Catalog, job: str, at: str) -> tuple[CatalogPoint, Moment]:
    """The point that `--at` means; it is always said, with its zone, and how far it is from what was asked."""
    from rollrep.core.moments import parse_moment, show_distance
    from rollrep.destination.choosing import find_point

    moment = parse_moment(at, now=clock.now())
    point = find_point(catalog, moment)
    asked = getattr(moment, "moment", None)
    distance = f", {show_distance(point.time, asked)} than asked" if asked and asked != point.time else ""
    local = point.time.astimezone()
    say(
        f"{job}: point {point.point} ({point.kind}{', ' + point.label if point.label else ''}), log id"
        f" {point.id}, {iso(point.time)} = {local:%Y-%m-%d %H:%M:%S %Z}{distance}"
    )
    return point, moment
