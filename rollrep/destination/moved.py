"""What a mirror operation moved, table by table: for its report, its event, and who watches.

Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

Progress = Callable[[str, int], None]
"""called with (table, rows) as rows arrive"""


@dataclasses.dataclass
class Moved:
    """What a mirror operation moved of one table, and by which rung of the ladder."""

    table: str
    rung: str
    rows: int = 0
    bytes: int | None = 0
    """on the wire; None where tables travelled together"""
    seconds: float = 0.0


@dataclasses.dataclass
class Copied:
    """What a mirror operation moved."""

    tables: list[Moved] = dataclasses.field(default_factory=list)
    operations: int = 0

    def add(self, later: Copied) -> None:
        """What was moved afterwards of the same tables, or of others."""
        mine = {each.table: each for each in self.tables}
        for each in later.tables:
            first = mine.get(each.table)
            if first is None:
                self.tables.append(each)
                continue
            first.rows, first.seconds = first.rows + each.rows, first.seconds + each.seconds
            first.bytes = None if None in (first.bytes, each.bytes) else (first.bytes or 0) + (each.bytes or 0)
        self.operations += later.operations
