"""Key values as text tokens: any value that SQLite can hold, exactly, in JSON and back.

    i:17     r:0x1.8p+3     t:<hex of the text's bytes>     b:<hex>     n:

Text travels as the bytes it is stored in, because it need not be valid in any encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rollrep.core.errors import RollrepError

Bindable = int | float | bytes | None


def token_columns(column: str) -> str:
    """SQL for the three result columns that `make_token` reads, of one key column."""
    return (
        f"typeof({column}), CASE WHEN typeof({column}) IN ('text', 'blob') THEN hex(CAST({column} AS BLOB)) END,"
        f" CASE WHEN typeof({column}) IN ('integer', 'real') THEN {column} END"
    )


def make_token(kind: str, as_hex: str | None, number: float | None) -> str:
    """
    >>> make_token("integer", None, 17), make_token("text", "6162", None), make_token("real", None, 0.5)
    ('i:17', 't:6162', 'r:0x1.0000000000000p-1')
    """
    if kind in ("text", "blob"):
        return f"{kind[0]}:{as_hex}"
    if kind == "null" or number is None:
        return "n:"
    return f"i:{number:d}" if isinstance(number, int) else f"r:{float(number).hex()}"


def bind_token(token: str) -> tuple[str, Bindable]:
    """(SQL expression with one `?`, what to bind) that gives the token's value again.

    Raises RollrepError on what no `make_token` wrote.

    >>> bind_token("t:6162"), bind_token("i:17")
    (('CAST(? AS TEXT)', b'ab'), ('?', 17))
    """
    kind, _, rest = token.partition(":")
    try:
        if kind == "i":
            number = int(rest)
            if not -(1 << 63) <= number < 1 << 63:
                raise ValueError
            return "?", number
        if kind == "r":
            return "?", float.fromhex(rest)
        if kind == "t":
            return "CAST(? AS TEXT)", bytes.fromhex(rest)
        if kind == "b":
            return "?", bytes.fromhex(rest)
    except (ValueError, OverflowError):
        kind = ""
    if kind == "n":
        return "?", None
    raise RollrepError(f"{token[:80]!r} is no key of a row")


def key_columns(columns: Iterable[str]) -> str:
    """SQL for the result columns that `make_key` reads."""
    return ", ".join(token_columns(column) for column in columns)


def make_key(found: Sequence[Any]) -> tuple[str, ...]:
    """The key behind a row of `key_columns`.

    >>> make_key(("integer", None, 17, "text", "6162", None))
    ('i:17', 't:6162')
    """
    return tuple(make_token(*found[at : at + 3]) for at in range(0, len(found), 3))


def bind_key(key: Iterable[str]) -> tuple[list[str], list[Bindable]]:
    """(an SQL expression for each value, what to bind to them).  Raises RollrepError as `bind_token` does.

    >>> bind_key(("i:17", "t:6162"))
    (['?', 'CAST(? AS TEXT)'], [17, b'ab'])
    """
    tokens = [bind_token(token) for token in key]
    return [expression for expression, _ in tokens], [value for _, value in tokens]


def show_token(token: str, encoding: str) -> str:
    """The token's value as people write it in SQL; `encoding` is the database's, as SQLite names it.

    >>> show_token("i:17", "UTF-8"), show_token("t:6162", "UTF-8"), show_token("t:ff", "UTF-8"), show_token("b:00", "")
    ('17', "'ab'", "x'ff'", "x'00'")
    """
    kind, _, rest = token.partition(":")
    if kind == "t":
        try:
            text = bytes.fromhex(rest).decode(encoding)
        except UnicodeDecodeError:
            return f"x'{rest.lower()}'"
        return "'" + text.replace("'", "''") + "'"
    if kind == "r":
        return repr(float.fromhex(rest))
    return {"b": f"x'{rest.lower()}'", "n": "NULL"}.get(kind, rest)
