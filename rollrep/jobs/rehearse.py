"""Rehearsing a restore: done, checked, timed, asked the person's own questions, and cleaned up.

    point (random, or named) ──► rehearsal/<job>.db ──► integrity_check ──► rehearse_queries ──► gone
                                                                                  └► an event, for `check`

It holds no lock of the job: pulls go on.  A pull does not rehearse by itself, because a pull promises to be quick,
and a rehearsal takes as long as the worst day would; `check` says when one is due, and `rehearse --due` is for cron.

A restore or a question that fails is no error here: it is what a rehearsal is for, and stands in what is returned.

Knows: configuration, the destination's restore and reading.  Does not know: the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from rollrep.core import clock
from rollrep.core.clock import iso, monotonic_s
from rollrep.core.errors import DiskFull, Locked, NotRestorable, RollrepError
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import restorable
from rollrep.destination.reading import ask, reader
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.jobs.config import Config, Job, RehearsalQuery
from rollrep.jobs.run import store_of, translated

REHEARSAL_EVENT = "rehearsal"
"""the kind of the catalog's events that `check` looks for"""

Progress = Callable[[str], None]
Choose = Callable[[Catalog], CatalogPoint]
"""which point is rehearsed"""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One of the person's questions, and what came of it."""

    name: str
    right: bool
    said: str
    """what it gave, in words; what was wrong with it where it was not right"""
    seconds: float


@dataclasses.dataclass
class Rehearsal:
    """What was rehearsed, and whether all was right."""

    job: str
    point: CatalogPoint
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    queries: list[Asked] = dataclasses.field(default_factory=list)
    failed: str = ""
    """why the restore itself failed; empty where it did not"""
    damaged: tuple[Path, ...] = ()
    """files that the restore went around"""

    @property
    def wrong(self) -> str:
        """A sentence about what was wrong; empty where nothing was."""
        if self.failed:
            return f"point {self.point.point} could not be restored: {self.failed}"
        if self.damaged:
            return f"point {self.point.point} was restored by another way, as {self.damaged[0]} is damaged"
        bad = [each for each in self.queries if not each.right]
        return "; ".join(f"point {self.point.point}: {each.name}: {each.said}" for each in bad)

    def as_json(self) -> dict[str, object]:
        return {
            "job": self.job,
            "right": not self.wrong,
            "wrong": self.wrong or None,
            "point": self.point.point,
            "id": self.point.id,
            "time": iso(self.point.time),
            "rows": self.rows,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "queries": [
                {"name": each.name, "right": each.right, "said": each.said, "seconds": round(each.seconds, 3)}
                for each in self.queries
            ],
        }


def random_point(catalog: Catalog) -> CatalogPoint:
    """Any point that can be restored, each as likely as the other.  Raises NotRestorable where there is none."""
    points = restorable(catalog)
    if not points:
        raise NotRestorable("there is no point yet", remedy="pull first: rollrep pull JOB")
    return random.choice(points)


def due_in_s(job: Job, catalog: Catalog) -> float:
    """Seconds until the next rehearsal is due; not more than 0 where it is, infinite where nobody asked for any."""
    if job.rehearse_s is None:
        return float("inf")
    last = catalog.last_event(REHEARSAL_EVENT)
    return job.rehearse_s - (clock.now() - last[0]).total_seconds() if last else 0.0


def rehearse(config: Config, job: Job, choose: Choose, progress: Progress) -> Rehearsal:
    """Restores a point and throws it away again; the result is remembered for `check`.

    Raises core's errors where nothing could be rehearsed: no such point, no room for it, another rehearsal running.
    """
    store = store_of(config, job)
    store.require()
    with translated(config, job, "make room, and rehearse again"), Catalog(store.catalog) as catalog:
        point = choose(catalog)
        with _scratch(store) as folder:
            found = _rehearse(store, catalog, job, point, folder, progress)
        # One INSERT: SQLite's own lock is enough beside a pull.
        catalog.note(REHEARSAL_EVENT, **found.as_json())
    return found


def _rehearse(
    store: Store, catalog: Catalog, job: Job, point: CatalogPoint, folder: Path, progress: Progress
) -> Rehearsal:
    found = Rehearsal(job.name, point)
    output = folder / f"{job.name}.db"
    began = monotonic_s()
    try:
        restored = restore(
            store, catalog, plan(catalog, point), output, force=False, progress=progress, every_index=True
        )
    except (DiskFull, apsw.FullError):
        raise
    except (RollrepError, apsw.Error) as error:
        found.failed = getattr(error, "facts", str(error))
        return found
    found.seconds, found.rows, found.bytes = monotonic_s() - began, restored.rows, output.stat().st_size
    found.damaged = restored.damaged
    for query in job.rehearse_queries:
        progress(f"asking {query.name}")
        found.queries.append(_ask(output, query))
    return found


def _ask(path: Path, query: RehearsalQuery) -> Asked:
    began = monotonic_s()
    try:
        with reader(path) as db:
            row = next(ask(db, query.sql)[1], None)
    except RollrepError as error:
        return Asked(query.name, False, error.facts, monotonic_s() - began)
    right, said = judge(query, row)
    return Asked(query.name, right, said, monotonic_s() - began)


def judge(query: RehearsalQuery, row: tuple[Any, ...] | None) -> tuple[bool, str]:
    """Whether the first row of an answer is what was expected, and what it is in words.  Pure.

    >>> judge(RehearsalQuery("sum", "SELECT ...", 0), (0.0,)), judge(RehearsalQuery("sum", "SELECT ...", 0), ("0",))
    ((True, 'gave 0.0'), (False, "gave '0', not 0"))
    >>> judge(RehearsalQuery("any", "SELECT ..."), None)
    (False, 'gave no row')
    """
    if not row:
        return False, "gave no row"
    if query.equals is None:
        return True, "gave a row"
    # True == 1 can't happen: neither SQLite nor the configuration gives a bool.
    right = bool(row[0] == query.equals)
    return right, f"gave {row[0]!r}" + ("" if right else f", not {query.equals!r}")


@contextlib.contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    """An empty folder in the job's own, so on a disk that is meant for copies; empty again afterwards."""
    held = os.open(store.folder / "rehearsal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(f"a restore of {store.job} is being rehearsed already", remedy="wait for it") from error
        # What a killed rehearsal left goes first.
        shutil.rmtree(store.rehearsal, ignore_errors=True)
        store.rehearsal.mkdir(mode=0o700)
        try:
            yield store.rehearsal
        finally:
            shutil.rmtree(store.rehearsal, ignore_errors=True)
    finally:
        os.close(held)
