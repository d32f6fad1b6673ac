"""Values as SQL, as JSON and as people read them: exact to the storage class, from one result column each.

    row ── value_column ──► 17, 0.5, None, 't:6162', 'b:00ff' ── read_value ──► i:17 r:0x1.0p-1 n: t:6162 b:00ff
                                                                    │
                        literal  'ab'   x'00ff'   CAST(x'ff' AS TEXT)   5404319552844596 * 1.0 / (1 << 54)
                        as_json  "ab"   {"blob": "00ff"}   {"text": "ff"}   {"real": "inf"}

A literal is read as the same value by every SQLite, however old: of reals with many digits it is arithmetic on
whole numbers that is exact, because SQLite's own reading of decimal digits is not always.

Pure.  Knows: tokens.  Does not know: where values come from.
"""

from __future__ import annotations

import math
from typing import Any

from rollrep.core.tokens import make_token, show_token

_LARGEST_SHIFT = 62
_EXACT_DIGITS = 15
_EXACT_POWER = 22
_WIDEST = 60


def value_column(column: str) -> str:
    """SQL for the one result column that `read_value` reads.  Text comes as its bytes: it need not be valid."""
    return (
        f"CASE typeof({column}) WHEN 'text' THEN 't:' || hex(CAST({column} AS BLOB))"
        f" WHEN 'blob' THEN 'b:' || hex({column}) ELSE {column} END"
    )


def read_value(found: Any) -> str:
    """The token of what `value_column` gave.

    >>> read_value(17), read_value(None), read_value("t:6162"), read_value(0.5)
    ('i:17', 'n:', 't:6162', 'r:0x1.0000000000000p-1')
    """
    if isinstance(found, str):
        return found
    return make_token("null" if found is None else "number", None, found)


def literal(token: str, encoding: str) -> str:
    """SQL that any SQLite reads as exactly this value; `encoding` is the database's, as SQLite names it.

    >>> literal("t:6974277300", "UTF-8"), literal("t:69742773", "UTF-8"), literal("b:00FF", "")
    ("CAST(x'6974277300' AS TEXT)", "'it''s'", "x'00ff'")
    >>> literal("r:" + (0.1 + 0.2).hex(), "UTF-8"), literal("r:" + (0.1).hex(), "UTF-8"), literal("n:", "")
    ('1351079888211149 * 1.0 / (1 << 52)', '0.1', 'NULL')
    """
    kind, _, rest = token.partition(":")
    if kind == "r":
        return _real(float.fromhex(rest))
    if kind == "t":
        text = _plain_text(bytes.fromhex(rest), encoding)
        return f"CAST(x'{rest.lower()}' AS TEXT)" if text is None else "'" + text.replace("'", "''") + "'"
    return {"b": f"x'{rest.lower()}'", "n": "NULL"}.get(kind, rest)


def as_json(token: str, encoding: str) -> Any:
    """Numbers and valid texts are themselves; else {"blob": hex}, {"text": hex}, {"real": "inf"}.

    >>> as_json("t:6162", "UTF-8"), as_json("t:ff", "UTF-8"), as_json("b:00", "UTF-8"), as_json("i:17", "UTF-8")
    ('ab', {'text': 'ff'}, {'blob': '00'}, 17)
    """
    kind, _, rest = token.partition(":")
    if kind == "t":
        try:
            return bytes.fromhex(rest).decode(encoding)
        except UnicodeDecodeError:
            return {"text": rest.lower()}
    if kind == "r":
        number = float.fromhex(rest)
        return number if math.isfinite(number) else {"real": str(number)}
    return {"b": {"blob": rest.lower()}, "n": None}[kind] if kind in "bn" else int(rest)


def shown(token: str, encoding: str) -> str:
    """As `literal` where it is short and readable, on one line and cut where it is long.

    >>> shown("t:610a62", "UTF-8"), shown("i:17", "UTF-8")
    ("'a\\\\nb'", '17')
    """
    text = show_token(token, encoding)
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 12]}…{text[-6:]} ({len(text)})"


def folded(token: str, encoding: str) -> str:
    """The same for any two values that some collation of SQLite's own finds equal; perhaps for others, too.

    >>> folded("t:4120", "UTF-8") == folded("t:61", "UTF-8"), folded("i:1", "") == folded("r:0x1p+0", "")
    (True, True)
    """
    kind, _, rest = token.partition(":")
    if kind == "t":
        return "t:" + bytes.fromhex(rest).decode(encoding, "replace").casefold().rstrip(" ")
    if kind in "ir":
        return f"n:{float(rest) if kind == 'i' else float.fromhex(rest)}".replace("-0.0", "0.0")
    return token.upper()


def _real(number: float) -> str:
    if math.isinf(number):
        return "9e999" if number > 0 else "-9e999"
    text = repr(number)
    digits, _, power = text.lower().lstrip("-").partition("e")
    whole, _, fraction = digits.partition(".")
    if len((whole + fraction).strip("0")) <= _EXACT_DIGITS and (
        abs(int(power or 0)) + len(whole.strip("0")) + len(fraction) <= _EXACT_POWER
    ):
        return text
    significand, exponent = math.frexp(number)
    mantissa, exponent = int(math.ldexp(significand, 53)), exponent - 53
    while mantissa % 2 == 0:
        mantissa, exponent = mantissa // 2, exponent + 1
    sign, left = ("*", exponent) if exponent > 0 else ("/", -exponent)
    written = f"{mantissa} * 1.0"
    while left:
        step = min(left, _LARGEST_SHIFT)
        written += f" {sign} (1 << {step})"
        left -= step
    return written


def _plain_text(stored: bytes, encoding: str) -> str | None:
    """The text, if it can stand between quotes in a script; None where it could be read as something else.

    A shell reads scripts line by line and drops a carriage return at a line's end.  Conversion to UTF-16 replaces
    what is no character.
    """
    try:
        text = stored.decode(encoding)
    except UnicodeDecodeError:
        return None
    odd = any((sign < " " and sign not in "\n\t") or sign in "\x7f\ufeff\ufffe\uffff" for sign in text)
    return None if odd else text
