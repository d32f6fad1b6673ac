"""What a long command is doing: a bar on a terminal, a line now and then where somebody asked for it, else silence.

    terminal    ⠙ shop: mirroring account ━━━━━━━━╸━━━━━━ 1,204,000 of about 5,000,000 rows, 81,000 a second, 46 s left
    -v          the same words, every LINE_EVERY_S
    cron        nothing: noise in its mail hides what matters

How many rows there are is known only about: the source is not made to count them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rollrep.cli.output import plain
from rollrep.core.clock import monotonic_s
from rollrep.core.units import show_count, show_duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0
RATE_OVER_S = 1.0
"""before so long no rate is told: it would be that of the first chunk"""

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class Count:
    """Rows of one job, and since when."""

    began_s: float
    rows: int = 0
    expected: int = 0

    def said(self, now_s: float) -> str:
        """Rows, rate and time left, as far as they are known.

        >>> Count(0.0, 600, 1800).said(30.0), Count(0.0, 600).said(0.5)
        ('600 of about 1,800 rows, 20 a second, 1 min left', '600 rows')
        >>> Count(0.0, 5_000, 1800).said(10.0)
        '5,000 rows, 500 a second'
        """
        knows_end = self.expected >= self.rows > 0
        text = show_count(self.rows, "row")
        if knows_end:
            text = f"{self.rows:,} of about {show_count(self.expected, 'row')}"
        over_s = now_s - self.began_s
        if over_s < RATE_OVER_S or not self.rows:
            return text
        rate = self.rows / over_s
        text += f", {rate:,.0f} a second"
        return f"{text}, {show_duration((self.expected - self.rows) / rate)} left" if knows_end else text


class CopyProgress:
    """`expect(job, rows)` what is to come, `advance(job, table, rows)` as they arrive; a table "" is the log."""

    def __init__(
        self,
        *,
        enabled: bool,
        doing: str = "mirroring",
        console: Console | None = None,
        monotonic_s: Callable[[], float] = monotonic_s,
    ) -> None:
        self._doing = doing
        self._monotonic_s = monotonic_s
        self._counts: dict[str, Count] = {}
        self._said_s = monotonic_s()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not enabled:
            return
        # Loaded late: a pull from cron starts often, and shows no bar.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", visible=False, said="")

    def __enter__(self) -> CopyProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def speaks(self) -> bool:
        """Whether anything is shown at all: only then the source is asked how much there is."""
        return self._bar is not None or _log.isEnabledFor(logging.INFO)

    def expect(self, job: str, rows: int) -> None:
        """About so many rows are to come, from now on."""
        self._counts[job] = Count(self._monotonic_s(), expected=rows)

    def advance(self, job: str, table: str, rows: int) -> None:
        now_s = self._monotonic_s()
        count = self._counts.setdefault(job, Count(now_s))
        count.rows += rows
        description = plain(f"{job}: {self._doing} {table}") if table else f"{job}: fetching the log"
        if self._bar is not None and self._task is not None:
            total = count.expected if count.expected >= count.rows > 0 else None
            self._bar.update(self._task, description=description, completed=count.rows, total=total,
                             said=count.said(now_s), visible=True)  # fmt: skip
        elif now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            _log.info("%s: %s", description, count.said(now_s))
