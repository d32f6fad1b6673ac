"""How long a destination may sleep before the log, and then the forgotten keys, overtake it.

    ids   1 ...... 40,000 | 40,001 ......... 52,310  ·  ·  ·  ·  rows not written yet
          keys only       | whole rows       newest
                                ▲ position: overtaken when this row is pruned
                                │           and a second time when its key is, `keep_keys` rows later

All of it is arithmetic over a curve of samples: (id, when it was written, bytes logged up to it).  A rate is in rows
and bytes, because either limit may be the one that prunes.  What is said is never longer than what is to come at
that rate: a step of pruning comes late, and never early.

Knows: nothing but numbers.  Does not know: SQL, the wire.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Literal

import msgspec

RateName = Literal["present", "hourly", "peak"]

SHORTEST_S = 60.0
"""a rate is an average over so long at least, where so much is known: a burst of one second is no rate that lasts"""
_CLOCK_S = 0.001
"""what SQLite's clock tells apart"""
PRUNED_TO = 7 / 8
"""of its bytes, the log keeps so much when the limit is passed"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One row of the curve: its id, its time in seconds, the bytes of all rows up to it."""

    id: int
    at_s: float
    bytes: float


class Rate(msgspec.Struct, frozen=True):
    """Rows and bytes that the log grows by in a second."""

    name: RateName
    rows_per_s: float
    bytes_per_s: float


class Left(msgspec.Struct, frozen=True):
    """Seconds until the log, and until its forgotten keys, overtake a position; None: never at this rate."""

    rate: RateName
    log_s: float | None
    keys_s: float | None


class Room(msgspec.Struct, frozen=True):
    """The log's limits, as far as they bound how long one may sleep."""

    rows: int
    bytes: int
    age_s: float
    keys: int


class Lasting(msgspec.Struct, frozen=True):
    """What a source says of it: its limits, its rates, and what they leave, rate by rate."""

    limits: Room
    rates: tuple[Rate, ...]
    newest: tuple[Left, ...]
    """for a destination that has all there is, and falls asleep now"""
    position: tuple[Left, ...] | None = None
    """for the one that asks; None where its position is none of this log"""


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a log holds and held: `samples` oldest first (at least one), the last one of the newest row."""

    samples: Sequence[Sample]
    now_s: float
    oldest: int
    """the first row that the log holds"""
    held_bytes: float
    """what all rows that the log holds weigh"""
    next_step: int
    """rows that are written at least before the next step of pruning"""

    @property
    def newest(self) -> Sample:
        return self.samples[-1]

    def at(self, log_id: int) -> Sample:
        """The row `log_id`, between the two samples around it."""
        place = bisect.bisect_left(self.samples, log_id, key=lambda sample: sample.id)
        if place == len(self.samples):
            return self.newest
        after = self.samples[place]
        if place == 0 or after.id == log_id:
            return after
        before = self.samples[place - 1]
        share = (log_id - before.id) / (after.id - before.id)
        return Sample(
            log_id,
            before.at_s + share * (after.at_s - before.at_s),
            before.bytes + share * (after.bytes - before.bytes),
        )


def rate_over(curve: Curve, name: RateName, after_id: int, seconds: float) -> Rate:
    """The average since the row `after_id`, the last before these `seconds` began.

    Where less is known than so long, over what is known; that may be milliseconds where the rows before are gone,
    and is SHORTEST_S at least in a log that began just now.

    >>> rows = [Sample(400_000 + n, n / 10_000, n * 50.0) for n in range(100)]
    >>> rate_over(Curve(rows, 0.01, 400_000, 5000.0, 1), "present", 399_999, 300.0)
    Rate(name='present', rows_per_s=10000.0, bytes_per_s=495000.0)
    """
    first = curve.samples[0]
    known_s = max(SHORTEST_S if first.id == 1 else _CLOCK_S, curve.now_s - first.at_s)
    over_s = min(seconds, known_s)
    grown = curve.newest.bytes - curve.at(after_id).bytes
    return Rate(name, max(0, curve.newest.id - after_id) / over_s, max(0.0, grown) / over_s)


def peak_of(curve: Curve, others: Sequence[Rate]) -> Rate:
    """The highest rate that lasted SHORTEST_S anywhere on the curve, and no less than `others`.

    Two samples less than that apart were written within it; two that lie further apart give an average.  Both are
    at most what the highest minute had.

    >>> quiet = [Sample(n, n * 100.0, n * 50.0) for n in range(10)]
    >>> burst = [Sample(9 + n, 901.0, 450.0 + n * 50) for n in range(1, 601)]
    >>> peak_of(Curve([*quiet, *burst], 1000.0, 0, 50.0, 1), ())
    Rate(name='peak', rows_per_s=10.0, bytes_per_s=500.0)
    """
    rows = max([0.0, *(rate.rows_per_s for rate in others)])
    grown = max([0.0, *(rate.bytes_per_s for rate in others)])
    samples, first = curve.samples, 0
    for end in samples[1:]:
        while samples[first + 1].id < end.id and end.at_s - samples[first + 1].at_s >= SHORTEST_S:
            first += 1
        # From `first` it is SHORTEST_S or more to `end`; from the one after it, less, unless it is `end` itself.
        for begin in samples[first : first + 2]:
            if begin.id < end.id:
                over_s = max(SHORTEST_S, end.at_s - begin.at_s)
                rows = max(rows, (end.id - begin.id) / over_s)
                grown = max(grown, (end.bytes - begin.bytes) / over_s)
    return Rate("peak", rows, grown)


def left(curve: Curve, room: Room, rate: Rate, position: int) -> Left:
    """How long the log and its forgotten keys still hold a destination at log id `position`."""
    log_s = _pruned_in_s(curve, room, rate, position)
    keys_s = _pruned_in_s(curve, room, rate, position + room.keys)
    # Each is the least that it may be; a key is there no shorter than its row.
    return Left(rate.name, log_s, keys_s if log_s is None or keys_s is None else max(log_s, keys_s))


def _pruned_in_s(curve: Curve, room: Room, rate: Rate, log_id: int) -> float | None:
    """Seconds until the row `log_id` falls off the log; it may be one that is not written yet."""
    if log_id < curve.oldest:
        return 0.0
    if rate.rows_per_s <= 0:
        return None
    newest = curve.newest
    unwritten = max(0, log_id - newest.id)
    until_written_s = unwritten / rate.rows_per_s
    by_rows_s = max(0, log_id + room.rows - newest.id) / rate.rows_per_s
    after = 0.0 if unwritten else newest.bytes - curve.at(log_id).bytes
    # A step that the bytes bring about comes when there are too many of them, and then leaves PRUNED_TO.
    free = max(PRUNED_TO * room.bytes - after, 0.0 if unwritten else room.bytes - curve.held_bytes, 0.0)
    by_bytes_s = until_written_s + free / rate.bytes_per_s if rate.bytes_per_s > 0 else by_rows_s
    age_s = 0.0 if unwritten else curve.now_s - curve.at(log_id).at_s
    # What is too old goes with the next step only, and the newest row never goes.
    by_age_s = max(until_written_s + max(0.0, room.age_s - age_s), curve.next_step / rate.rows_per_s)
    return min(by_rows_s, by_bytes_s, by_age_s)


def later(left: Sequence[Left], seconds: float) -> tuple[Left, ...]:
    """What is left when so many seconds have passed, at those rates; never more than was.

    >>> later([Left("present", 90.0, 4000.0), Left("peak", None, None)], 100.0)
    (Left(rate='present', log_s=0.0, keys_s=3900.0), Left(rate='peak', log_s=None, keys_s=None))
    """

    def less(left_s: float | None) -> float | None:
        return None if left_s is None else max(0.0, left_s - max(0.0, seconds))

    return tuple(Left(each.rate, less(each.log_s), less(each.keys_s)) for each in left)


def room_for(room: Room, rate: Rate, seconds: float) -> Room:
    """Limits, none below `room`, in which a log that grows at `rate` holds `seconds`; in figures people would choose.

    >>> room_for(Room(1000, 64 << 20, 60.0, 2000), Rate("peak", 31.0, 2000.0), 7200)
    Room(rows=230000, bytes=67108864, age_s=10800.0, keys=2000)
    """
    rows = max(room.rows, _rounded_up(rate.rows_per_s * seconds))
    wanted = rate.bytes_per_s * seconds / PRUNED_TO
    size = room.bytes if wanted <= room.bytes else -(-int(wanted * 1.05) // (1 << 20)) << 20
    age_s = room.age_s if room.age_s >= seconds else -(-seconds * 1.05 // 3600) * 3600.0
    return Room(rows, size, age_s, room.keys)


def install_options(now: Room, then: Room) -> str:
    """What is to be added to `rollrep source install DB`, so that limits `now` become `then`.

    >>> install_options(Room(1000, 64 << 20, 60.0, 2000), Room(230_000, 64 << 20, 10_800.0, 2000))
    ' --keep-rows 230000 --keep-age 3h'
    """
    told = ""
    if then.rows > now.rows:
        told += f" --keep-rows {then.rows}"
    if then.bytes > now.bytes:
        told += f" --keep-bytes {then.bytes >> 20}MiB"
    if then.age_s > now.age_s:
        told += f" --keep-age {then.age_s / 3600:.0f}h"
    return told


def _rounded_up(count: float) -> int:
    """`count` and a little more, in two figures.

    >>> _rounded_up(0), _rounded_up(223_200), _rounded_up(7)
    (0, 230000, 8)
    """
    wanted = int(count * 1.02) + (1 if count > 0 else 0)
    unit: int = 10 ** max(0, len(str(wanted)) - 2)
    return -(-wanted // unit) * unit
