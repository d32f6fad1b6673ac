"""The two kinds of database that travel: how their one table is laid out.

    log(id INTEGER PRIMARY KEY, at, shape, op, v0, v1, ...)     log rows, as they stand in the log
    rows(v0, v1, ...)                                           rows of a table, in key order

`at` is milliseconds since the row before, and for the first row of an image since 1970: small numbers, that change
little from row to row, pack best.
No column has a type, so that every value keeps its storage class.  Both sides compare the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollrep.core.nouns import Shape


def log_width(shapes: Sequence[Shape]) -> int:
    """How many values a log image of these shapes has: a mask behind each row's, and four at least, for points."""
    return max([4, *(shape.logged_width for shape in shapes)])


def log_table(name: str, width: int) -> str:
    values = ", ".join(f"v{n}" for n in range(width))
    return f"CREATE TABLE {name}(id INTEGER PRIMARY KEY, at, shape, op, {values})"


def rows_table(name: str, width: int) -> str:
    return f"CREATE TABLE {name}({', '.join(f'v{n}' for n in range(width))})"
