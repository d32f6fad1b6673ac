"""A bar while tables are copied, on a terminal only."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class CopyProgress:
    """`advance(job, table, rows)` as rows arrive; silent unless `enabled`."""

    def __init__(self, *, enabled: bool, doing: str = "mirroring") -> None:
        self._doing = doing
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not enabled:
            return
        # Loaded late: a pull from cron starts often, and shows no bar.
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.completed:,.0f} rows"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task("", visible=False)

    def __enter__(self) -> CopyProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, job: str, table: str, rows: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{job}: {self._doing} {table}", advance=rows, visible=True)
