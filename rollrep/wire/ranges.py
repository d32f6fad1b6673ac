"""Ranges of a table's keys, as SQL that both sides run word for word.

    keys    -∞ ....... i:40 ....... i:97 ....... +∞
    ranges      1st         2nd           3rd              each up to and including its last key

A digest by SQLite's `sha1_query` covers the text of its query too, so two sides agree only where both the
range and every row in it, to the storage class, are the same.  Keys are tokens, written as literals.

Pure: SQL text.  Knows: tokens, shapes.  Does not know: how a table is divided.
"""

from __future__ import annotations

from rollrep.core import sql
from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Shape
from rollrep.core.tokens import bind_token
from rollrep.wire.messages import Key


def range_where(shape: Shape, after: Key | None, through: Key | None) -> str:
    """The condition for `after` < key ≤ `through`; None is an open end.  Raises RollrepError on no tokens.

    >>> from rollrep.core.nouns import Shape
    >>> shape = Shape(0, "t", ("id", "x"), 1, False, False, ("BINARY",), (), False, True)
    >>> range_where(shape, ("i:4",), ("t:6162",))
    '"id" > 4 AND "id" <= +CAST(x\\'6162\\' AS TEXT)'
    """
    parts = [f"{_side(shape)} > {_literals(shape, after)}"] if after is not None else []
    parts += [f"{_side(shape)} <= {_literals(shape, through)}"] if through is not None else []
    return " AND ".join(parts) or "1"


def digest_query(shape: Shape, after: Key | None, through: Key | None) -> str:
    """The query whose `sha1_query` is the digest of a range of `main`'s table."""
    order = sql.names(shape.key)
    return (
        f"SELECT {sql.names(shape.columns)} FROM main.{sql.name(shape.table)}"
        f" WHERE {range_where(shape, after, through)} ORDER BY {order}"
    )


def _side(shape: Shape) -> str:
    names = sql.names(shape.key)
    return f"({names})" if shape.key_width > 1 else names


def _literals(shape: Shape, key: Key) -> str:
    if len(key) != shape.key_width:
        raise RollrepError(f"a key of {shape.table} has {shape.key_width} values, not {len(key)}")
    values = ", ".join(_literal(token) for token in key)
    return f"({values})" if shape.key_width > 1 else values


def _literal(token: str) -> str:
    _, value = bind_token(token)  # which refuses what is no token
    if isinstance(value, bytes):
        # The plus keeps a column's own affinity out of it: the value is compared as it is stored.
        return f"x'{value.hex()}'" if token.startswith("b:") else f"+CAST(x'{value.hex()}' AS TEXT)"
    if isinstance(value, float):
        return repr(value) if abs(value) != float("inf") else ("9e999" if value > 0 else "-9e999")
    return "NULL" if value is None else str(value)
