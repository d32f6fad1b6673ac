"""The one place that asks what time it is, so that tests can hold it still (freezegun does).

SQLite's own `now` is not frozen with it; the source's times come from SQLite, on purpose.
"""

from __future__ import annotations

import datetime as dt
import time


def now() -> dt.datetime:
    """The present moment, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def monotonic_s() -> float:
    """Seconds of a clock that never jumps; only differences mean anything."""
    return time.monotonic()


def iso(moment: dt.datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as every `--json` prints times.

    >>> iso(dt.datetime(2026, 11, 22, 19, 8, 1, 123456, tzinfo=dt.UTC))
    '2026-11-22T19:08:01.123Z'
    """
    return moment.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(text: str) -> dt.datetime:
    """The aware moment that `iso` (or SQLite's strftime with the same format) wrote.

    >>> from_iso('2026-11-22T19:08:01.123Z')
    datetime.datetime(2026, 11, 22, 19, 8, 1, 123000, tzinfo=datetime.timezone.utc)
    """
    return dt.datetime.fromisoformat(text)
