"""Does a mirror operation keep up?  What it moved, what was written meanwhile, and what to type when it does not.

    hello ───── rows, rows, … ───── the log rolled over ───── hello        one attempt; some are made
      │ head, time                                              │ head, time

A log overtakes an operation only between two of its questions.  So more room helps, whatever the copy takes: as
much as is written in a few such attempts.

Knows: answers of a source, core's windows.  Does not know: the operation, the wire.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable
from shlex import quote

from rollrep.core.clock import from_iso, monotonic_s
from rollrep.core.errors import CannotKeepUp
from rollrep.core.units import show_count
from rollrep.core.windows import SHORTEST_S, Lasting, Rate, install_options, room_for
from rollrep.wire.messages import Answer

SO_MANY_ATTEMPTS = 4
"""what is written in the time of so many is what the log is advised to hold"""

Progress = Callable[[str, int], None]


class Pace:
    """Of one mirror operation, through all of its attempts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began_s = monotonic_s()
        self._rows = 0
        self._answers: list[Answer] = []

    def count(self, table: str, rows: int) -> None:
        """Rows came; tells who watches."""
        self._rows += rows
        self._progress(table, rows)

    def hello(self, answer: Answer) -> None:
        """An attempt begins from here, and so the one before has ended."""
        self._answers.append(answer)

    def cannot_keep_up(self, job: str, database: str, lasting: Lasting | None) -> CannotKeepUp:
        """The error for it, with its three numbers; `lasting` says what limits the log has.

        `database` is what the source calls it: a path, or a name.
        """
        first, last = self._answers[0], self._answers[-1]
        times = [from_iso(answer.facts.time).timestamp() for answer in self._answers]
        # By the source's clock, which has milliseconds, and may be set meanwhile.
        longest_s = max((after - before for before, after in itertools.pairwise(times)), default=0.0)
        written = max(0, last.facts.head.id - first.facts.head.id) / max(times[-1] - times[0], 0.001)
        copied = self._rows / max(monotonic_s() - self._began_s, 0.001)
        held = last.facts.head.id - last.oldest + 1
        path = shlex.quote(database) if database.startswith("/") else "DB"
        return CannotKeepUp(
            f"{job} can't be mirrored: its source writes {show_count(round(written), 'log row')} a second, which is"
            f" faster than it can be copied ({show_count(round(copied), 'row')} a second), and its log holds"
            f" {show_count(held, 'row')}",
            remedy=f"more room, on the source: rollrep source install {quote(str(path))}"
            f"{_room(lasting, written, held, longest_s)}",
        )


def _room(lasting: Lasting | None, rows_per_s: float, held: int, longest_s: float) -> str:
    """Options for `install` that hold what is written in a few attempts, and no less than twice what is held."""
    if lasting is None:
        return f" --keep-rows {2 * held}"
    busiest = max(lasting.rates, key=lambda rate: rate.rows_per_s)
    row_bytes = busiest.bytes_per_s / busiest.rows_per_s if busiest.rows_per_s else 0.0
    seconds = max(SHORTEST_S, SO_MANY_ATTEMPTS * longest_s, 2 * held / max(rows_per_s, 0.001))
    wanted = room_for(lasting.limits, Rate("present", rows_per_s, rows_per_s * row_bytes), seconds)
    return install_options(lasting.limits, wanted) or f" --keep-rows {2 * held}"
