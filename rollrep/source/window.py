"""How long the log of this source lasts: samples of its rows and of its forgotten keys, and rates from them.

Ids are dense and every row leaves its time when it is forgotten, so one look-up by id tells when it was written.
Some SAMPLES of them, and a search by halves for where the last minutes and the last hour began, are all that is
read, however long the log is.  Sizes that lie between two samples are estimated, and scaled so that their sum is the
sum that pruning keeps.

Knows: SQL of the log and of the forgotten keys, the rules of core's windows.  Does not know: the wire.
"""

from __future__ import annotations

import bisect
import dataclasses
import sys

import apsw

from rollrep.core.windows import Curve, Lasting, Left, Rate, RateName, Room, Sample, left, peak_of, rate_over
from rollrep.query import all_rows, one_row, one_value
from rollrep.source.log import MS_AT, Ends, Meta
from rollrep.source.tables import FORGOTTEN, LOG, META

SAMPLES = 1024
"""rows that are looked at, at most; where no more are known, everything is exact"""
NOW = "julianday('now')"
_SECONDS = f"{MS_AT} / 1000.0"
SPANS: tuple[tuple[RateName, float], ...] = (("present", 300.0), ("hourly", 3600.0))


@dataclasses.dataclass(frozen=True)
class Windows:
    """The rates at which the log grows, and the curve that they were read from."""

    curve: Curve
    room: Room
    rates: tuple[Rate, ...]

    def left(self, position: int) -> tuple[Left, ...]:
        """For a destination at log id `position`, rate by rate: present, hourly, peak."""
        return tuple(left(self.curve, self.room, rate, position) for rate in self.rates)

    def lasting(self, position: int | None) -> Lasting:
        """As it is told; `position` is that of the destination that asks."""
        asked = None if position is None else self.left(position)
        return Lasting(self.room, self.rates, self.left(self.curve.newest.id), asked)


def read_windows(db: apsw.Connection, meta: Meta, ends: Ends) -> Windows:
    """Call it inside a read transaction."""
    limits = meta.limits
    # Never before the newest row, should the clock have been set back since.
    newest_s, wall_s = one_row(
        db, f"SELECT {_SECONDS.format('at')}, {_SECONDS.format(NOW)} FROM {LOG} WHERE id = ?", (ends.newest,)
    )
    wall_s = max(newest_s, wall_s)
    curve = _curve(db, meta, ends, wall_s)
    rates = [rate_over(curve, name, _last_before(db, meta, ends, wall_s - seconds), seconds) for name, seconds in SPANS]
    room = Room(limits.keep_rows, limits.keep_bytes, limits.keep_age_s, limits.keep_keys)
    return Windows(curve, room, (*rates, peak_of(curve, rates)))


def _curve(db: apsw.Connection, meta: Meta, ends: Ends, wall_s: float) -> Curve:
    first = _first_known(meta, ends)
    step = max(1, -(-(ends.newest - first) // SAMPLES))
    rows = all_rows(
        db,
        "WITH RECURSIVE wanted(id) AS (SELECT ?1 UNION ALL SELECT id + ?3 FROM wanted WHERE id + ?3 < ?2)"
        f" SELECT w.id, {_SECONDS.format('ifnull(l.at, f.at)')}, l.size"
        f" FROM (SELECT id FROM wanted UNION SELECT ?2) w LEFT JOIN {LOG} l ON l.id = w.id"
        f" LEFT JOIN {FORGOTTEN} f ON f.id = w.id WHERE ifnull(l.at, f.at) IS NOT NULL ORDER BY w.id",
        (first, ends.newest, step),
    )
    held, counted = one_row(db, f"SELECT bytes, counted_through FROM {META}")
    held += one_value(db, f"SELECT ifnull(sum(size), 0) FROM {LOG} WHERE id > ?", (counted,))
    row_bytes = held / (ends.newest - ends.oldest + 1)
    told = sum(size * (min(step, log_id - ends.oldest + 1)) for log_id, _, size in rows if size is not None)
    scale = held / told if told > 0 else 1.0
    samples: list[Sample] = []
    last_s, time_s, total, before = rows[0][1], 0.0, 0.0, first - 1
    for log_id, at_s, size in rows:
        # Where the clock was set back, time stands still for one step, and neither runs backwards nor waits.
        time_s += max(0.0, at_s - last_s)
        last_s = at_s
        total += (row_bytes if size is None else size * scale) * (log_id - before)
        samples.append(Sample(log_id, time_s, total))
        before = log_id
    now_s = time_s + wall_s - last_s
    prune_step = meta.limits.step
    return Curve(samples, now_s, ends.oldest, held, prune_step - ends.newest % prune_step)


def _first_known(meta: Meta, ends: Ends) -> int:
    """The oldest id whose time is known: that of a forgotten key, or of the log's oldest row."""
    return min(ends.oldest, meta.forgotten_through + 1) if meta.pruned_through > meta.forgotten_through else ends.oldest


def _last_before(db: apsw.Connection, meta: Meta, ends: Ends, at_s: float) -> int:
    """The last row that was written before `at_s`; where none is known, the one before the first that is."""
    known = range(_first_known(meta, ends), ends.newest + 1)

    def written_s(log_id: int) -> float:
        found = one_value(
            db,
            f"SELECT ifnull((SELECT {_SECONDS.format('at')} FROM {LOG} WHERE id = ?1),"
            f" (SELECT {_SECONDS.format('at')} FROM {FORGOTTEN} WHERE id = ?1))",
            (log_id,),
        )
        return -sys.float_info.max if found is None else float(found)

    return known.start + bisect.bisect_left(known, at_s, key=written_s) - 1
