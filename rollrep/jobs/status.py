"""How does a job stand?  Everything that its store knows, without asking the source.

    confirmed   the source's time at which the mirror was the source        how old is it?
    remembered  how the newest pull went, how the last one failed           is it in trouble?
                how long the log lasted then, less what has passed          will it be?
    events      mirror operations, verifies, rehearsals
    timeline    what is missing of the past that is kept
    files       snapshots, sizes

Times are the destination's, but for `confirmed` and those of snapshots; where the two clocks differ, so does the
age, and that is said.  Nothing is written, and no lock is held: a pull may be at work meanwhile.

Knows: the store, configuration, what check says of events.  Does not know: transports, the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt

import apsw
import msgspec

from rollrep.core import clock
from rollrep.core.errors import NotSetUp, RollrepError
from rollrep.core.units import show_duration
from rollrep.core.windows import Lasting, later
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import LineStory
from rollrep.destination.in_place import read_reached
from rollrep.destination.mirror_db import State, state_of
from rollrep.destination.notes import read_note
from rollrep.destination.remembered import LASTING, MISSED, PULL, remembered
from rollrep.destination.store import Store
from rollrep.destination.timeline import HoleSeen, Timeline, read_timeline
from rollrep.jobs.check import (
    FAIL,
    OK,
    PENDING,
    WARN,
    Item,
    Told,
    is_stale,
    last_failure,
    pull_troubles,
    rehearsed,
    told_of,
    verified,
)
from rollrep.jobs.config import Config, Job
from rollrep.jobs.run import store_of
from rollrep.jobs.sleeping import Sleep, judge
from rollrep.transport.address import parse_address

CLOCKS_DIFFER_S = 10.0
"""less than that is how long a pull takes, and no clock that is wrong"""


@dataclasses.dataclass(frozen=True)
class UnderWay:
    """A mirror operation that has begun and is not published."""

    reason: str
    tables: int
    tables_done: int


@dataclasses.dataclass(frozen=True)
class Mirroring:
    """What is known of mirror operations, and of the next one."""

    under_way: UnderWay | None
    last: Told | None
    estimate_s: float | None
    """how long one would take that reads or copies all of the mirror as it is now"""


@dataclasses.dataclass(frozen=True)
class Snapshots:
    count: int
    pinned: int
    newest: dt.datetime | None
    """the source's time"""


@dataclasses.dataclass(frozen=True)
class History:
    """Where the past that is kept is not one unbroken history."""

    holes: tuple[HoleSeen, ...] = ()
    """of all lines, the newest last"""
    began: LineStory | None = None
    """the present line, where it is not the first that is kept"""
    before: int = 0
    """the line before it"""
    missed: Told | None = None
    """points with a label that were not kept the last time that this was so"""


@dataclasses.dataclass
class Status:
    """One job, as its store knows it."""

    job: str
    every_s: float
    bandwidth: int | None
    age_s: float | None = None
    """None where no pull has ended yet"""
    confirmed: dt.datetime | None = None
    clocks_differ_s: float = 0.0
    """by how much the source's clock is behind ours; negative where it is ahead; 0 where nobody can tell"""
    state: State | None = None
    points: int = 0
    pulled: Told | None = None
    failure: Told | None = None
    """the last pull that failed, where none went well since"""
    lasting: Lasting | None = None
    """as it is now: less what has passed since the newest pull"""
    sleep: Sleep | None = None
    mirroring: Mirroring = dataclasses.field(default_factory=lambda: Mirroring(None, None, None))
    history: History = dataclasses.field(default_factory=History)
    snapshots: Snapshots = dataclasses.field(default_factory=lambda: Snapshots(0, 0, None))
    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    results: list[Item] = dataclasses.field(default_factory=list)
    """of verifies and rehearsals, as `check` says them"""
    troubles: list[Item] = dataclasses.field(default_factory=list)
    """what makes `verdict` what it is, the worst first"""

    @property
    def events(self) -> list[Item]:
        """Those troubles that are results of verifies and rehearsals."""
        names = {each.item for each in self.results}
        return [each for each in self.troubles if each.item in names]

    @property
    def verdict(self) -> str:
        return self.troubles[0].state if self.troubles else OK

    @property
    def exit_code(self) -> int:
        """0 unless the mirror is in trouble: old, missing, or known to be wrong."""
        return next((each.exit_code for each in self.troubles if each.exit_code), 0)


def status_of(config: Config, job: Job) -> Status:
    """What the store of a job knows.  Never raises for what is wrong with it: that is a trouble."""
    store = store_of(config, job)
    found = Status(job.name, job.every_s, job.bandwidth)
    try:
        store.require()
        with Catalog(store.catalog) as catalog:
            _read(found, store, catalog, job)
        found.state = state_of(store.mirror)
    except NotSetUp as error:
        found.troubles = [Item("pull", PENDING, error.facts, f"rollrep pull {job.name}", error.exit_code)]
    except RollrepError as error:
        # Half of what was read would pass for all there is.
        found = Status(job.name, job.every_s, job.bandwidth)
        found.troubles = [Item("store", FAIL, error.facts, error.remedy, error.exit_code)]
    return found


def _read(found: Status, store: Store, catalog: Catalog, job: Job) -> None:
    now = clock.now()
    found.confirmed = catalog.confirmed()
    timeline = read_timeline(store, catalog)
    found.points, found.sizes, found.history = len(timeline.points), timeline.bytes, _history(timeline, catalog, now)
    found.pulled = told_of(remembered(catalog, PULL), now)
    found.failure = last_failure(catalog, now)
    if found.confirmed:
        found.age_s = max(0.0, (now - found.confirmed).total_seconds())
        found.clocks_differ_s = _clocks_differ_s(found.pulled, found.confirmed)
    found.results = verified(job, catalog) + rehearsed(job, catalog)
    found.mirroring = _mirroring(store, catalog, found.sizes["mirror"], job.bandwidth, now)
    snapshots = catalog.snapshots()
    pinned = sum(read_note(store, each).pinned is not None for each in snapshots)
    found.snapshots = Snapshots(len(snapshots), pinned, max((each.time for each in snapshots), default=None))
    found.lasting = _lasting(catalog, found.pulled, now)
    if found.lasting:
        # How long mirroring takes has a line of its own here.
        database = parse_address(job.source).database
        found.sleep = judge(found.lasting, job.every_s, None, f"rollrep pull {job.name}", database)
    found.troubles = _troubles(found, job)


def _history(timeline: Timeline, catalog: Catalog, now: dt.datetime) -> History:
    missed = told_of(remembered(catalog, MISSED), now)
    if missed and not (timeline.span and missed["since"] and clock.from_iso(missed["since"]) >= timeline.span[0]):
        missed = None
    holes = sorted((hole for line in timeline.lines for hole in line.holes), key=lambda each: each.end)
    pulled = [line.story for line in timeline.lines if line.story.line > 0]
    if len(pulled) < 2:
        return History(tuple(holes), missed=missed)
    return History(tuple(holes), pulled[-1], pulled[-2].line, missed)


def _clocks_differ_s(pulled: Told | None, confirmed: dt.datetime) -> float:
    """The source read its clock while the pull went on; a clock that says something else is another clock."""
    if pulled is None:
        return 0.0
    ended = clock.from_iso(pulled["at"])
    behind_s = (ended - confirmed).total_seconds()
    if behind_s < -CLOCKS_DIFFER_S or behind_s > pulled["seconds"] + CLOCKS_DIFFER_S:
        return behind_s
    return 0.0


def _lasting(catalog: Catalog, pulled: Told | None, now: dt.datetime) -> Lasting | None:
    """What a source said of its log, less the time that has passed since.

    A pull that went well since then stands at the newest row; so what was said of that one counts from it on.
    """
    known = remembered(catalog, LASTING)
    if known is None:
        return None
    asked_at, lasting = known[0], msgspec.convert(known[1], Lasting)
    pulled_at = clock.from_iso(pulled["at"]) if pulled else None
    if pulled_at and pulled_at >= asked_at:
        left = later(lasting.newest, (now - pulled_at).total_seconds())
    elif lasting.position is not None:
        left = later(lasting.position, (now - asked_at).total_seconds())
    else:
        return None
    return msgspec.structs.replace(lasting, position=left)


def _mirroring(store: Store, catalog: Catalog, mirror_bytes: int, bandwidth: int | None, now: dt.datetime) -> Mirroring:
    # What an older rollrep noted of one tells less, and nothing that could be shown.
    known = next((each for each in catalog.events("mirror") if "seconds" in each[1]), None)
    whole = next((told for _, told in catalog.events("mirror") if _read_all(told)), None)
    estimate_s = _estimate_s(whole, mirror_bytes, bandwidth) if whole else None
    return Mirroring(_under_way(store), told_of(known, now), estimate_s)


def _estimate_s(last: Told, mirror_bytes: int, bandwidth: int | None) -> float:
    """As long as the last one took, by size; and what it received may come no faster now than it may."""
    at_least_s = last["bytes_received"] / bandwidth if bandwidth else 0.0
    return float(max(last["seconds"], at_least_s) * mirror_bytes / last["mirror_bytes"])


def _read_all(told: Told) -> bool:
    """Whether a mirror operation copied or compared every table, so that its rate tells what the next would take."""
    if not told.get("mirror_bytes"):
        return False
    rungs = {each["rung"] for each in told["tables"]}
    return told["reason"] != "schema" and bool(rungs) and rungs <= {"copy", "digests", "pages"}


def _under_way(store: Store) -> UnderWay | None:
    # It may be published, and so be gone, between one call and the next.
    with contextlib.suppress(apsw.Error, msgspec.DecodeError, RollrepError):
        for path in (store.staging, store.mirror):
            if state := state_of(path):
                reached = read_reached(store, path, state)
                if reached or state.reason:
                    done = len(state.copied) + (len(reached.done) if reached else 0)
                    return UnderWay(reached.reason if reached else state.reason, len(state.layout.shapes), done)
    return None


def _troubles(found: Status, job: Job) -> list[Item]:
    """Everything that is not as it should be, the worst first."""
    pull = f"rollrep pull {job.name}"
    troubles = pull_troubles(job, found.failure, found.age_s)
    if found.age_s is None:
        troubles.append(Item("pull", PENDING, "no pull has ended yet", pull, NotSetUp.exit_code))
    elif is_stale(job, found.age_s):
        troubles.append(Item("fresh", WARN, f"a pull every {show_duration(job.every_s)} was wanted", pull))
    troubles += [each for each in found.results if each.state == FAIL]
    if found.sleep and found.sleep.next:
        troubles.append(Item("window", WARN, found.sleep.text, found.sleep.next, 0))
    troubles += [dataclasses.replace(each, exit_code=0) for each in found.results if each.state == WARN]
    return sorted(troubles, key=lambda each: (FAIL, PENDING, WARN).index(each.state))
