"""Which snapshots stay, and why: a plan, made before anything is deleted.

    last = 2  hourly = 3  operations = 7d                                     now
                                                                               │
    ──●───────────────●──────────╫─────●────────●──────────●────●────●────●────●
      no rule keeps it │         ║     no rule keeps them  │hourly    │last     newest
                       base      └ now - operations

Rules see the source's time of a snapshot, in UTC.  Each hour, day, ISO week or month that has snapshots is a
bucket; a rule keeps the newest snapshot of its newest buckets.  Empty buckets do not count, so a source that
slept for a month loses nothing by it.  Whatever the rules say:

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

    The order of keys is the order of the log.  Planning again what was kept, at the same `now`, keeps all of it.
    """
    oldest_first = sorted(snapshots, key=lambda each: (each.time, each.key))
    reasons: list[list[str]] = [["pinned"] if each.key in pinned else [] for each in oldest_first]
    if oldest_first:
        reasons[-1].append("newest")
    if keep.keeps_all:
        for each in reasons:
            each.append("no rule is configured")
    else:
        for index, reason in _by_rules(oldest_first, keep):
            reasons[index].append(reason)
        by_rules = [bool(each) for each in reasons]
        stretches = _stretches(oldest_first, begins)
        for number, stretch in enumerate(stretches):
            if number + 1 < len(stretches):
                # Its newest operation is not younger than what begins the next stretch.
                until = min(oldest_first[index].time for index in stretches[number + 1])
                if (now - until).total_seconds() >= keep.operations_s:
                    continue
            times = [oldest_first[index].time for index in stretch]
            for nth, reason in _bases(times, [by_rules[index] for index in stretch], now, keep.operations_s):
                reasons[stretch[nth]].append(reason)
    return [
        Verdict(item, bool(why), ", ".join(why) or "no rule keeps it")
        for item, why in zip(oldest_first, reasons, strict=True)
    ]


def _by_rules(oldest_first: Sequence[Dated], keep: Grid) -> Iterator[tuple[int, str]]:
    newest_first = range(len(oldest_first) - 1, -1, -1)
    for index in newest_first[: keep.last]:
        yield index, f"one of the last {keep.last}"
    rules: tuple[tuple[str, int, Callable[[dt.datetime], str]], ...] = (
        ("hourly", keep.hourly, lambda time: f"{time:%Y-%m-%d %H}"),
        ("daily", keep.daily, lambda time: f"{time:%Y-%m-%d}"),
        ("weekly", keep.weekly, lambda time: f"{time:%G-W%V}"),
        ("monthly", keep.monthly, lambda time: f"{time:%Y-%m}"),
    )
    for rule, buckets, bucket_of in rules:
        seen: set[str] = set()
        for index in newest_first:
            bucket = bucket_of(oldest_first[index].time.astimezone(dt.UTC))
            if bucket in seen:
                continue
            if len(seen) == buckets:
                break
            seen.add(bucket)
            yield index, f"{rule} {bucket}"


def _stretches(oldest_first: Sequence[Dated], begins: Collection[str]) -> list[list[int]]:
    """The indexes of snapshots with no hole between them; each stretch oldest first, in the order of the log."""
    found: list[list[int]] = []
    for index in sorted(range(len(oldest_first)), key=lambda index: oldest_first[index].key):
        if not found or oldest_first[index].key in begins:
            found.append([])
        found[-1].append(index)
    return [sorted(stretch) for stretch in found]


def _bases(
    times: Sequence[dt.datetime], by_rules: Sequence[bool], now: dt.datetime, operations_s: float
) -> Iterator[tuple[int, str]]:
    """The snapshot from which the oldest kept operation is replayed, and those that will take its place.

    Without the latter, a grid that looks back less far than `operations` would leave the same old snapshot
    as base for ever, and the operations since then could never be let go.
    """
    if not times:
        return
    reach = dt.timedelta(seconds=operations_s)
    base = max((index for index, time in enumerate(times) if now - time >= reach), default=0)
    yield base, "base of the kept operations"
    while base < len(times) - 1:
        within = [index for index in range(base + 1, len(times)) if times[index] - times[base] <= reach]
        ruled = [index for index in within if by_rules[index]]
        base = ruled[-1] if ruled else within[-1] if within else base + 1
        if not by_rules[base]:
            yield base, "later base of the kept operations"
