"""Which snapshots stay, and why: a plan, made before anything is deleted.

    last = 2  hourly = 3  operations = 7d                                     now
                                                                               │
    ──●───────────────●──────────╫─────●────────●──────────●────●────●────●────●
      no rule keeps it │         ║     no rule keeps them  │hourly    │last     newest
                       base      └ now - operations

Rules see the source's time of a snapshot, in UTC.  Each hour, day, ISO week or month that has snapshots is a
bucket; a rule keeps the newest snapshot of its newest buckets.  Empty buckets do not count, so a source that
slept for a month loses nothing by it.  Order is by log id, and a clock that was wrong lets nothing go:

    told      mon   tue   2035   wed   2019   thu   now      2035 is after now, 2019 before what came before it:
    believed  mon   tue          wed          thu            neither is believed
    at most   mon   tue   wed    wed   thu    thu            as of the next that is: only what is old by this goes

Rules are asked of the believed alone, and once more of the others, so that neither takes the place of the other.
What is after now may be right, and the clock of who asks wrong: so of those who come after such a one, once more.
Whatever the rules say:

- the newest snapshot stays, and so does one that is pinned;
- the operations that are kept can be replayed: their base stays, and so do the bases they will have later, so
  that a base is never older than twice `operations`.  Behind a hole that is true anew: nothing before it leads
  there, so each stretch between holes has bases of its own for as long as it has operations that are kept;
- nothing configured means that all stay.

Pure: "now" is data.  Does not know: files, the catalog, the archive.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Dated(Protocol):
    """A snapshot, as far as retention cares."""

    @property
    def time(self) -> dt.datetime:
        """The source's time of the snapshot's point; aware."""

    @property
    def key(self) -> str:
        """Tells snapshots of one time apart, always in the same order."""


Item = TypeVar("Item", bound=Dated)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """How many snapshots each rule keeps, and for how long operations are kept.  All zero: keep all."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    operations_s: float = 7 * 86400.0

    @property
    def keeps_all(self) -> bool:
        return not (self.last or self.hourly or self.daily or self.weekly or self.monthly)


@dataclasses.dataclass(frozen=True)
class Verdict(Generic[Item]):
    """Whether a snapshot stays, and why."""

    item: Item
    kept: bool
    reason: str


def plan_snapshots(
    snapshots: Sequence[Item],
    keep: Grid,
    now: dt.datetime,
    *,
    pinned: Collection[str] = (),
    begins: Collection[str] = (),
) -> list[Verdict[Item]]:
    """A verdict for each of `snapshots`, oldest first.  `pinned` are keys; `begins` those that nothing leads to.

    The order of keys is the order of the log.  Planning again what was kept, at the same `now`, keeps all of it
    where the source's clock was right.
    """
    oldest_first = sorted(snapshots, key=lambda each: (each.key, each.time))
    reasons: list[list[str]] = [["pinned"] if each.key in pinned else [] for each in oldest_first]
    if oldest_first:
        reasons[-1].append("newest")
    if keep.keeps_all:
        for each in reasons:
            each.append("no rule is configured")
    else:
        times = [each.time for each in oldest_first]
        for index, reason in _by_rules(times, keep, now):
            reasons[index].append(reason)
        by_rules = [bool(each) for each in reasons]
        at_latest = latest_times(times, now)
        stretches = _stretches(oldest_first, begins)
        for stretch, following in itertools.zip_longest(stretches, stretches[1:]):
            # Its newest operation is not younger than what begins the next stretch.
            if following and (now - at_latest[following.start]).total_seconds() >= keep.operations_s:
                continue
            for index, reason in _bases(times, at_latest, by_rules, stretch, now, keep.operations_s):
                reasons[index].append(reason)
    return [
        Verdict(item, bool(why), ", ".join(why) or "no rule keeps it")
        for item, why in zip(oldest_first, reasons, strict=True)
    ]


def latest_times(times: Sequence[dt.datetime], now: dt.datetime) -> list[dt.datetime]:
    """When snapshots were taken at the latest, given what the source's clock said, in the order of the log.  Pure.

    >>> year = lambda number: dt.datetime(number, 1, 1, tzinfo=dt.UTC)
    >>> [each.year for each in latest_times([year(n) for n in (2021, 2035, 2022, 1970, 2023, 1970)], year(2024))]
    [2021, 2022, 2022, 2023, 2023, 2024]
    """
    found: list[dt.datetime] = []
    latest = now
    for time, is_believed in zip(reversed(times), reversed(_believed(times, now)), strict=True):
        latest = time if is_believed else latest
        found.append(latest)
    return found[::-1]


def _believed(times: Sequence[dt.datetime], now: dt.datetime) -> list[bool]:
    """Which times are neither after `now` nor before a believed one of earlier in the log."""
    found: list[bool] = []
    latest = None
    for time in times:
        found.append(time <= now and (latest is None or time >= latest))
        latest = time if found[-1] else latest
    return found


def _by_rules(times: Sequence[dt.datetime], keep: Grid, now: dt.datetime) -> Iterator[tuple[int, str]]:
    for index in range(len(times) - 1, -1, -1)[: keep.last]:
        yield index, f"one of the last {keep.last}"
    rules: tuple[tuple[str, int, Callable[[dt.datetime], str]], ...] = (
        ("hourly", keep.hourly, lambda time: f"{time:%Y-%m-%d %H}"),
        ("daily", keep.daily, lambda time: f"{time:%Y-%m-%d}"),
        ("weekly", keep.weekly, lambda time: f"{time:%G-W%V}"),
        ("monthly", keep.monthly, lambda time: f"{time:%Y-%m}"),
    )
    at_latest, groups = latest_times(times, now), _groups(times, now)
    for rule, buckets, bucket_of in rules:
        names = [bucket_of(time.astimezone(dt.UTC)) for time in times]
        *believed, others = [_newest_of(group, times, names, buckets) for group in groups]
        # What is older at the latest than all that the rule keeps would be gone, whatever its bucket is.
        since = max((times[kept[-1]] for kept in believed if kept and len(kept) == buckets), default=None)
        for index in itertools.chain(*believed, others):
            if since is None or at_latest[index] >= since:
                yield index, f"{rule} {names[index]}"


def _groups(times: Sequence[dt.datetime], now: dt.datetime) -> list[list[int]]:
    """Those that are believed, those of them that an earlier one contradicts, which is after `now`, and the others."""
    groups: list[list[int]] = [[], [], []]
    highest = itertools.accumulate(times, max)
    for index, (time, is_believed, high) in enumerate(zip(times, _believed(times, now), highest, strict=True)):
        groups[2 if not is_believed else time < high].append(index)
    return groups


def _newest_of(
    indexes: Sequence[int], times: Sequence[dt.datetime], names: Sequence[str], buckets: int
) -> list[int]:  # fmt: skip
    """The newest of each of the newest `buckets`, newest first."""
    found: dict[str, int] = {}
    for index in sorted(indexes, key=lambda index: (times[index], index), reverse=True):
        found.setdefault(names[index], index)
    return list(found.values())[:buckets]


def _stretches(oldest_first: Sequence[Dated], begins: Collection[str]) -> list[range]:
    """The indexes of snapshots with no hole between them."""
    starts = [index for index, each in enumerate(oldest_first) if index == 0 or each.key in begins]
    return [range(*ends) for ends in itertools.pairwise([*starts, len(oldest_first)])]


def _bases(
    times: Sequence[dt.datetime],
    at_latest: Sequence[dt.datetime],
    by_rules: Sequence[bool],
    stretch: range,
    now: dt.datetime,
    operations_s: float,
) -> Iterator[tuple[int, str]]:
    """The snapshot from which the oldest kept operation is replayed, and those that will take its place.

    Without the latter, a grid that looks back less far than `operations` would leave the same old snapshot
    as base for ever, and the operations since then could never be let go.
    """
    reach = dt.timedelta(seconds=operations_s)
    base = max((index for index in stretch if now - at_latest[index] >= reach), default=stretch.start)
    yield base, "base of the kept operations"
    # Of a clock that is ahead for good, all were at the latest taken now; how far apart they are it tells all the same.
    apart = list(itertools.accumulate(reversed(times), min))[::-1]
    while base < stretch.stop - 1:
        within = [index for index in stretch if index > base and apart[index] - apart[base] <= reach]
        ruled = [index for index in within if by_rules[index]]
        # How old it is at the latest is told by the one after it, which would else be another one each time.
        is_told_by_next = apart[base] != times[base]
        base = base + 1 if is_told_by_next or not within else (ruled or within)[-1]
        if not by_rules[base]:
            yield base, "later base of the kept operations"
