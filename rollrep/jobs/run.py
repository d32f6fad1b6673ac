"""Running one pull of one job: the stream opened, the pull done, tried again where that can help.

    open stream ──► pull under the store's lock ──► hooks told

Only Temporary is tried again, with growing, jittered pauses; everything else would fail the same way.

Knows: configuration, transports, the destination's pull, hooks.  Does not know: the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import apsw
import pluggy
import tenacity

from rollrep.core.clock import iso, monotonic_s
from rollrep.core.errors import DiskFull, RollrepError, Temporary, VerifyFailed
from rollrep.destination.catalog import Catalog
from rollrep.destination.mirror_db import mirror_problems
from rollrep.destination.pull import Outcome, Wishes, pull
from rollrep.destination.recording import record_archived
from rollrep.destination.remembered import FAILURE, PULL, remember, remembered
from rollrep.destination.store import NO_ROOM, Store
from rollrep.hooks import call_safely
from rollrep.jobs.config import Config, Job
from rollrep.jobs.telling import point_json
from rollrep.strangers import unknown_here
from rollrep.transport import Address, Options, open_stream
from rollrep.transport.address import parse_address
from rollrep.wire.session import Session

TRIES = 4
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

_log = logging.getLogger(__name__)

Progress = Callable[[str, str, int], None]
"""called with (job, table, rows) while tables are copied, and with "" for the log's"""
Expect = Callable[[str, int], None]
"""called with (job, rows): about how many are to come"""


@dataclasses.dataclass
class Result:
    """What became of one job, as `pull --json` tells it."""

    job: str
    outcome: Outcome
    bytes_received: int = 0
    seconds: float = 0.0
    error: RollrepError | None = None
    reached: bool = False
    """whether a stream to the source was open, however it went on"""

    def as_json(self) -> dict[str, object]:
        position = self.outcome.position
        snapshot = self.outcome.snapshot
        return {
            "job": self.job,
            "answer": self.outcome.answer or None,
            "reason": self.outcome.reason or None,
            "operations": self.outcome.operations,
            "bytes_received": self.bytes_received,
            "position": {"epoch": position.epoch, "id": position.id} if position else None,
            "time": self.outcome.time or None,
            "seconds": round(self.seconds, 3),
            "tables_mirrored": self.outcome.tables_mirrored,
            "rows_mirrored": self.outcome.rows_mirrored,
            "tables": [dataclasses.asdict(each) for each in self.outcome.moved],
            "points_recorded": len(self.outcome.points),
            "points_not_kept": self.outcome.missed.as_json() if self.outcome.missed else None,
            "snapshot": snapshot.path if snapshot else None,
            "not_carried": self.outcome.refused,
            "fetched_again": self.outcome.healed,
            "error": error_json(self.error) if self.error else None,
        }


def error_json(error: RollrepError) -> dict[str, object]:
    return {"kind": error.kind, "facts": error.facts, "remedy": error.remedy, "exit_code": error.exit_code}


def store_of(config: Config, job: Job) -> Store:
    return Store(config.store, job.name)


def options_of(job: Job) -> Options:
    return Options(
        identity=job.identity,
        known_hosts=job.known_hosts,
        ssh_config=job.ssh_config,
        remote_command=job.remote_command,
        bandwidth=job.bandwidth,
    )


def where(address: Address) -> str:
    """The source's host as messages call it."""
    return address.host or "the source"


@contextlib.contextmanager
def session_with(job: Job) -> Iterator[tuple[Session, Address]]:
    """A Session with the job's source, closed at the end."""
    address = parse_address(job.source)
    stream = open_stream(address, options_of(job))
    try:
        yield Session(stream, where(address)), address
    finally:
        stream.close()


def surest_first(config: Config, jobs: Sequence[Job]) -> list[Job]:
    """The jobs in the order in which they are pulled: one that hangs holds nobody whose last pull went well.

    Those that failed the last time come last, and those that never were pulled.
    """
    return sorted(jobs, key=lambda job: _is_in_doubt(store_of(config, job))) if len(jobs) > 1 else list(jobs)


def _is_in_doubt(store: Store) -> bool:
    if not store.exists():
        return True
    try:
        with Catalog(store.catalog) as catalog:
            failed, pulled = remembered(catalog, FAILURE), remembered(catalog, PULL)
    except (RollrepError, apsw.Error, OSError):
        return True  # the pull says what is wrong
    return failed is not None and (pulled is None or failed[0] > pulled[0])


def run_pull(
    config: Config,
    job: Job,
    hooks: pluggy.PluginManager,
    progress: Progress,
    *,
    expect: Expect | None = None,
    mirror: bool = False,
    accept_source: bool = False,
    tries: int = TRIES,
) -> Result:
    """One pull of one job.  Never raises a RollrepError: it stands in the result."""
    result = Result(job.name, Outcome())
    began = monotonic_s()
    call_safely(hooks.hook.rollrep_pull_started, job=job.name)
    store = store_of(config, job)
    make_room = "nothing was lost; make room and pull again (rollrep deletes nothing good to make room)"
    try:
        with translated(config, job, make_room):
            parse_address(job.source)
            store.create()
            stop = job.stop_on_history_lost
            wishes = Wishes("", job.snapshot_s, job.keep, mirror, accept_source, stop)
            with store.locked():
                try:
                    with translated(config, job, make_room):
                        _try_pull(store, job, wishes, result, progress, expect, tries)
                except RollrepError as error:
                    result.error = error
                result.seconds = monotonic_s() - began
                _remember(store, result)
    except RollrepError as error:
        result.error = error
        result.seconds = monotonic_s() - began
    _tell(hooks, store, result)
    return result


def _remember(store: Store, result: Result) -> None:
    """How it went, for `status`; also of the first pull, which may have come to nobody's door."""
    # Whatever it can't be written for stands in the result already, or will in that of the next pull.
    with contextlib.suppress(RollrepError, apsw.Error, OSError), _catalog(store) as catalog:
        if result.error:
            remember(catalog, FAILURE, {**error_json(result.error), "reached": result.reached})
            record_archived(store, catalog)
            return
        told = result.as_json()
        kept = ("answer", "reason", "operations", "bytes_received", "seconds", "not_carried")
        remember(catalog, PULL, {key: told[key] for key in kept})


def _catalog(store: Store) -> Catalog:
    store.require_catalog_of_files()
    return Catalog(store.catalog, create=True)


@contextlib.contextmanager
def translated(config: Config, job: Job, make_room: str) -> Iterator[None]:
    """Turns SQLite's and the file system's errors about a job into ours; `make_room` is what cures a full disk."""
    try:
        yield
    except DiskFull as error:
        # Whoever raised it does not know for what command, nor that it may be read in `status` later.
        error.remedy = make_room
        raise
    except (apsw.Error, OSError) as error:
        if is_room_missing(error):
            raise DiskFull(f"no room on the disk of {config.store}", remedy=make_room) from error
        if unknown := unknown_here(error):
            raise unknown from error
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
            mirror = store_of(config, job).mirror
            for problem in mirror_problems(mirror)[:1]:
                raise VerifyFailed(
                    f"{mirror} is damaged: {problem}",
                    remedy=f"archive and snapshots are untouched; make it again: rollrep mirror {job.name}",
                ) from error
        # What they say is the best sentence there is; a traceback is not.
        _log.debug("work on %s failed", job.name, exc_info=True)
        raise RollrepError(f"{type(error).__name__}: {error}", remedy=f"see: rollrep check {job.name}") from error


def is_room_missing(error: BaseException | None) -> bool:
    """Also where it is not SQLite's own "full": a note of ours, or the shared memory beside a database.

    And behind "cannot rollback": SQLite rolls back by itself then, and apsw's `with db` tries once more.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if isinstance(error, apsw.FullError):
            return True
        if isinstance(error, apsw.IOError) and getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
            return True
        error = error.__context__
    return False


def is_disk_failing(error: BaseException) -> bool:
    """Whether a disk could not read or write, or gave something else than was written."""
    if isinstance(error, OSError):
        return error.errno == errno.EIO
    return isinstance(error, (apsw.IOError, apsw.CorruptError, apsw.NotADBError))


def _try_pull(
    store: Store, job: Job, wishes: Wishes, result: Result, progress: Progress, expect: Expect | None, tries: int
) -> None:
    def once() -> None:
        with session_with(job) as (session, address):
            result.reached = True
            try:
                result.outcome = pull(
                    store,
                    session,
                    dataclasses.replace(wishes, database=address.database),
                    lambda table, rows: progress(job.name, table, rows),
                    functools.partial(expect, job.name) if expect else None,
                )
            finally:
                result.bytes_received += session.bytes_received

    retrying(job.name, tries)(once)


def retrying(job: str, tries: int = TRIES) -> tenacity.Retrying:
    """Tries again, with growing pauses, what failed for a Temporary reason."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Temporary),
        stop=tenacity.stop_after_attempt(tries),
        wait=tenacity.wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S) + tenacity.wait_random(0, 1),
        before_sleep=lambda state: _log.info(
            "%s: %s; trying again", job, state.outcome.exception() if state.outcome else ""
        ),
        reraise=True,
    )


def _tell(hooks: pluggy.PluginManager, store: Store, result: Result) -> None:
    outcome, job = result.outcome, result.job
    if outcome.answer == "mirror" and result.error is None:
        call_safely(
            hooks.hook.rollrep_mirrored,
            job=job,
            reason=outcome.reason,
            tables=outcome.tables_mirrored,
            rows=outcome.rows_mirrored,
        )
    if outcome.points:
        points = [point_json(point) for point in outcome.points]
        call_safely(hooks.hook.rollrep_points_recorded, job=job, points=points)
    if outcome.snapshot:
        call_safely(
            hooks.hook.rollrep_snapshot_taken,
            job=job,
            path=store.folder / outcome.snapshot.path,
            time=iso(outcome.snapshot.time),
        )
    told: Mapping[str, object] = {**result.as_json(), "error": str(result.error) if result.error else None}
    call_safely(hooks.hook.rollrep_pulled, job=job, result=told)
