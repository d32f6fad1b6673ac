"""Durations and sizes, as people write and read them.

    written          means              shown
    10s 15m 1h30m    seconds (float)    10 s   15 min   1 h 30 min
    64MiB 64M        64 × 1024²         64 MiB
    64MB             64 × 1000²         61 MiB

A number without a unit is never a duration: nobody can tell whether 10 is seconds or minutes.

Knows: durationpy, humanize.  Does not know: what is measured.
"""

from __future__ import annotations

import re

import durationpy

from rollrep.core.errors import UsageError

# durationpy also knows "mm" (30 days), which looks like minutes or milliseconds, so units are listed here.
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w|y))+", re.ASCII)
_BYTES = r"(\d+(?:\.\d+)?) ?(?:([kmgtp])(i?b)?|b)?"
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}

_DURATION_REMEDY = "write a number with a unit: 10s, 15m, 1h, 7d, 2w"
_RATE_REMEDY = "write bytes a second: 500KiB/s, 2MB/s, 1G/s"
_BYTES_REMEDY = "write a number of bytes, or one with a unit: 1048576, 64MiB, 64MB, 1G"


def parse_duration_s(text: str) -> float:
    """Seconds, more than zero.  Units are ms, s, m (minutes), h, d, w, y (365 days).

    >>> parse_duration_s("10s"), parse_duration_s("1h30m"), parse_duration_s("7d"), parse_duration_s("2w")
    (10.0, 5400.0, 604800.0, 1209600.0)
    >>> parse_duration_s("10")
    Traceback (most recent call last):
    rollrep.core.errors.UsageError: "10" is not a duration; write a number with a unit: 10s, 15m, 1h, 7d, 2w
    """
    stripped = text.strip()
    if not _DURATION.fullmatch(stripped):
        raise UsageError(f'"{text}" is not a duration', remedy=_DURATION_REMEDY)
    try:
        seconds = durationpy.from_str(stripped).total_seconds()
    except durationpy.DurationError as error:
        raise UsageError(f'"{text}" is not a duration ({error})', remedy=_DURATION_REMEDY) from None
    if seconds <= 0:
        raise UsageError(f'"{text}" is no time at all', remedy=_DURATION_REMEDY)
    return seconds


def parse_bytes(text: str) -> int:
    """Bytes, zero or more.  `K M G T P` and `KiB …` count in 1024s, as `du` and `dd` do; `kB MB …` in 1000s.

    >>> parse_bytes("64MiB"), parse_bytes("64MB"), parse_bytes("1G"), parse_bytes("1048576")
    (67108864, 64000000, 1073741824, 1048576)
    >>> parse_bytes("1.5 KiB")
    1536
    """
    found = re.fullmatch(_BYTES, text.strip(), re.ASCII | re.IGNORECASE)
    if not found:
        raise UsageError(f'"{text}" is not a size', remedy=_BYTES_REMEDY)
    number, letter, suffix = found.groups()
    base = 1000 if (suffix or "").lower() == "b" else 1024
    import decimal

    size = decimal.Decimal(number) * (base ** _POWERS[letter.lower()] if letter else 1)
    if size != int(size):
        raise UsageError(f'"{text}" is not a whole number of bytes', remedy=_BYTES_REMEDY)
    return int(size)


def parse_rate(text: str) -> int:
    """Bytes a second, one at least; units as in `parse_bytes`.

    >>> parse_rate("2MB/s"), parse_rate("512 KiB/s")
    (2000000, 524288)
    >>> parse_rate("2MB")
    Traceback (most recent call last):
    rollrep.core.errors.UsageError: "2MB" is not a rate; write bytes a second: 500KiB/s, 2MB/s, 1G/s
    """
    size, slash, unit = text.strip().rpartition("/")
    try:
        rate = parse_bytes(size) if (slash, unit.strip()) == ("/", "s") else 0
    except UsageError:
        rate = 0
    if rate < 1:
        raise UsageError(f'"{text}" is not a rate', remedy=_RATE_REMEDY)
    return rate


def show_rate(bytes_per_s: int) -> str:
    """As people write it; in the unit that makes it shortest.

    >>> show_rate(2_000_000), show_rate(512 << 10), show_rate(100)
    ('2 MB/s', '512 KiB/s', '100 bytes/s')
    """
    import humanize

    in_1000s = humanize.naturalsize(bytes_per_s).replace(".0 ", " ").replace("Byte", "byte")
    return min(show_bytes(bytes_per_s), in_1000s, key=lambda shown: ("." in shown, len(shown))) + "/s"


def show_count(count: int, word: str) -> str:
    """`count` of what `word` names.

    >>> show_count(0, "row"), show_count(1, "row"), show_count(1234, "log row")
    ('0 rows', '1 row', '1,234 log rows')
    """
    return f"{count:,} {word if count == 1 else word + 's'}"


def show_bytes(size: int) -> str:
    """`size` in 1024s, short.

    >>> show_bytes(0), show_bytes(1), show_bytes(1536), show_bytes(64 * 2**20)
    ('0 bytes', '1 byte', '1.5 KiB', '64 MiB')
    """
    import humanize

    return humanize.naturalsize(size, binary=True).replace(".0 ", " ").replace("Byte", "byte")


def show_duration(seconds: float) -> str:
    """The two largest units of `seconds`, short; without sign.

    >>> show_duration(0.45), show_duration(5.25), show_duration(59.96), show_duration(192)
    ('450 ms', '5.2 s', '1 min', '3 min 12 s')
    >>> show_duration(11_520), show_duration(2 * 86400), show_duration(40 * 86400 + 7200)
    ('3 h 12 min', '2 d', '40 d 2 h')
    """
    seconds = abs(seconds)
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms" if seconds else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:  # "2 d 5 s" would claim a precision that "2 d 3 h" does not
            break
        if len(parts) == 2:
            break
    return " ".join(parts)


def show_forecast(seconds: float) -> str:
    """As show_duration, for what is to come: nobody plans by the days of another year.

    >>> show_forecast(11_520), show_forecast(400 * 86400)
    ('3 h 12 min', 'over a year')
    """
    return show_duration(seconds) if seconds < 365 * 86400 else "over a year"
