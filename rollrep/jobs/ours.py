"""Files that no command writes over, whatever it is told: the configuration, a job's folder, a local source.

Knows: configuration, addresses.  Does not know: what is written.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rollrep.core.errors import RollrepError, UsageError
from rollrep.destination.in_use import SIDE_FILES
from rollrep.destination.store import Store
from rollrep.jobs.config import Config, Job
from rollrep.transport.address import parse_address


def refuse_ours(config: Config, target: Path, give: str) -> None:
    """Raises UsageError where `target`, links followed, is one of these; `give` is what to give instead, in words."""
    if _is_same(target, config.path):
        raise UsageError(f"{target} is the configuration, and is never replaced", remedy=f"give {give}")
    for folder in target.parents:
        if _is_same(folder.parent, config.store) and (folder.name in config.jobs or _is_store(config, folder)):
            raise UsageError(
                f"{target} would lie in {folder}, where rollrep keeps a job's own files", remedy=f"give {give}"
            )
    for job in config.jobs.values():
        source = _local_source(job)
        if source and (_is_same(target, source) or target in _beside(source)):
            raise UsageError(
                f"{target} is of the source of {job.name}, and what was not pulled of it would be lost",
                remedy=f"give {give}, or stop the application and move its database away first, with its -wal",
            )


def _beside(database: Path) -> list[Path]:
    """What SQLite would read as a part of it, there or not."""
    return [database.with_name(database.name + ending) for ending in SIDE_FILES]


def _is_same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False


def _is_store(config: Config, folder: Path) -> bool:
    """Also of a job that the configuration has no more."""
    return Store(config.store, folder.name).catalog.is_file()


def _local_source(job: Job) -> Path | None:
    with contextlib.suppress(RollrepError):  # a pull says what is wrong with it
        address = parse_address(job.source)
        return Path(os.path.realpath(address.database)) if address.host is None else None
    return None
