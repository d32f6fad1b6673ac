"""Key values as text tokens: any value that SQLite can hold, exactly, in JSON and back.

    i:17     r:0x1.8p+3     t:<hex of the text's bytes>     b:<hex>     n:

Text travels as the bytes it is stored in, because it need not be valid in any encoding.
"""

from __future__ import annotations

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
    except ValueError:
        kind = ""
    if kind == "n":
        return "?", None
    raise RollrepError(f"{token[:80]!r} is no key of a row")


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
