"""Forgotten ranges: which stretches of a table's keys were written to, long after the keys themselves are gone.

    keys      … -1 │ 0 ......... 4,095 │ 4,096 ..... 8,191 │ …                stretches of `width` keys
    number         0                   0                   1   …  RANGES - 1, which has no end

Only whole numbers are divided like this: of a table with another key it is known that it was written to, ANYWHERE.

Pure: numbers and SQL text.  Knows: the messages' ranges.  Does not know: who wrote, who compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rollrep.wire.messages import Key, KeyRange

RANGES = 2_048
ANYWHERE = RANGES
SLOTS = 4_096
"""shape id times this, and the number of a range, are one key of the source's table of them"""
LEAST_WIDTH = 4_096
"""keys; fewer are compared in the time that it takes to ask"""
SMALL_GAP = 3
"""ranges between two that were written to; they are compared in the time that it takes to ask once more"""
LARGEST = (1 << 63) - 1
"""of SQLite's whole numbers"""
WHOLE = (KeyRange(None, None),)


def width_for(largest: int) -> int:
    """Keys in each range of a table that may come to twice its largest key before the last range gets them all.

    >>> width_for(1_000), width_for(50_000_000)
    (4096, 48829)
    """
    return max(LEAST_WIDTH, 2 * largest // RANGES + 1)


def number_sql(value: str, width: str) -> str:
    """SQL for the number of the range that the key `value` lies in; both are SQL, and a `width` of NULL is of none."""
    divided = f"CASE typeof({value}) WHEN 'integer' THEN {value} / {width} END"
    return f"ifnull(max(0, min({RANGES - 1}, {divided})), {ANYWHERE})"


def key_ranges(numbers: Iterable[int], width: int | None) -> Sequence[KeyRange]:
    """The keys of those ranges in order, neighbours as one.

    >>> [(span.after, span.through) for span in key_ranges({0, 1, 4, 10}, 4_096)]
    [(None, ('i:20479',)), (('i:40959',), ('i:45055',))]
    >>> [(span.after, span.through) for span in key_ranges({RANGES - 1}, 4_096)]
    [(('i:8384511',), None)]
    >>> [(span.after, span.through) for span in key_ranges({1_023}, width_for((1 << 63) - 1))]
    [(('i:9214364837600034815',), None)]
    >>> key_ranges({3, ANYWHERE}, None) == WHOLE
    True
    """
    found: list[KeyRange] = []
    last = -SMALL_GAP - 2
    for number in sorted(numbers):
        if number >= ANYWHERE or width is None:
            return WHOLE
        end = (number + 1) * width - 1
        through = None if number == RANGES - 1 or end >= LARGEST else (f"i:{end}",)
        if number <= last + 1 + SMALL_GAP:
            found[-1] = KeyRange(found[-1].after, through)
        else:
            found.append(KeyRange(None if number == 0 else (f"i:{number * width - 1}",), through))
        last = number
    return found


def beyond(spans: Iterable[KeyRange], after: Key | None) -> list[KeyRange]:
    """What of `spans`, which are of `key_ranges`, follows the key `after`; all of it where that is None.

    >>> [(span.after, span.through) for span in beyond(key_ranges({0, 5}, 4_096), ("i:20500",))]
    [(('i:20500',), ('i:24575',))]
    """
    if after is None:
        return list(spans)
    left = [span for span in spans if span.through is None or _number(span.through) > _number(after)]
    if left and (left[0].after is None or _number(left[0].after) < _number(after)):
        left[0] = KeyRange(after, left[0].through)
    return left


def _number(key: Key) -> int:
    return int(key[0].removeprefix("i:"))
