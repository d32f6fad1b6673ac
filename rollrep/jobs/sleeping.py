"""May this job sleep so long?  What a source says of its log, judged by how often the job means to pull.

    the log holds where the job stands     ≥ FEW_PULLS × every, and an hour, at the peak rate     OK
    less, and it would hold a job that has everything                                             pull
    less, also for that one                                                                       larger limits

The limits that are advised are such that the answer is OK when they are typed.  Pure.

Knows: core's windows.  Does not know: the source, the catalog.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from shlex import quote

import msgspec

from rollrep.core.units import show_duration, show_forecast
from rollrep.core.windows import Lasting, Left, install_options, room_for

FEW_PULLS = 5
"""a job should be able to miss so many pulls"""
SHORT_S = 3600.0
AMPLE = 2
"""times what would do: so much the limits that are advised hold"""


@dataclasses.dataclass(frozen=True)
class Sleep:
    """A sentence, the command that cures it ("" where nothing is to be cured), and keys for --json."""

    text: str
    next: str
    more: Mapping[str, object]


def judge(lasting: Lasting, every_s: float, mirror_took_s: float | None, pull: str, database: str) -> Sleep:
    """`pull` is the command that pulls the job, `database` what the source calls it: a path, or a name."""
    wanted_s = max(FEW_PULLS * every_s, SHORT_S)
    mine = lasting.newest if lasting.position is None else lasting.position
    text = "; ".join(_said(left) for left in mine)
    if mirror_took_s is not None:
        text += f"; mirroring took {show_duration(mirror_took_s)} the last time"
    more = {
        "lasting": msgspec.to_builtins(lasting),
        "wanted_s": wanted_s,
        "mirror_took_s": mirror_took_s,
    }
    if _is_enough(mine, wanted_s):
        return Sleep(f"the log holds this job {text}", "", more)
    text = f"the log holds this job {text}; {show_duration(wanted_s)} or more are wanted"
    if _is_enough(lasting.newest, wanted_s):
        return Sleep(text, pull, more)
    return Sleep(text, _larger(lasting, wanted_s * AMPLE, database), more)


def _is_enough(left: tuple[Left, ...], wanted_s: float) -> bool:
    return all(each.log_s is None or each.log_s >= wanted_s for each in left)


def _said(left: Left) -> str:
    if left.log_s is None or left.keys_s is None:
        return f"for ever at the {left.rate} rate"
    return f"{show_forecast(left.log_s)} at the {left.rate} rate (its keys {show_forecast(left.keys_s)})"


def _larger(lasting: Lasting, seconds: float, database: str) -> str:
    now, room = lasting.limits, lasting.limits
    for rate in lasting.rates:
        room = room_for(room, rate, seconds)
    path = shlex.quote(database) if database.startswith("/") else "DB"
    return f"on the source: rollrep source install {quote(str(path))}{install_options(now, room)}"
