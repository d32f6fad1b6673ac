"""Another time of day for SQLite: Python imports this first where this folder is on its path.

`now` of every database that is opened through apsw is BENCH_SHIFT_S seconds from the present.  Nothing else is
shifted: what an application or a source says of the time comes from SQLite.
"""

import os

import apsw


class Shifted(apsw.VFS):
    """SQLite's own file system with another clock."""

    def __init__(self, shift_s: float) -> None:
        self._shift_ms = round(shift_s * 1000)
        super().__init__("shifted", "", makedefault=True)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return super().xCurrentTimeInt64() + self._shift_ms


shifted = Shifted(float(os.environ["BENCH_SHIFT_S"]))
