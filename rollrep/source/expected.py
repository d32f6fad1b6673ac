"""About how many rows a table has, from a few look-ups: counting them would read all of it.

    least key ····x··xx···x····x·xx·· greatest key       64 places, and how far it is from each to the next row

Knows: SQL of the table it looks at.  Does not know: what it is for.
"""

from __future__ import annotations

import apsw

from rollrep.core import sql
from rollrep.core.nouns import Shape
from rollrep.query import one_row, one_value

PLACES = 64
GOLDEN = 0.618033988749895
"""spreads places that no rhythm of keys falls in with"""


def rows_about(db: apsw.Connection, shape: Shape) -> int:
    """0 also for a table without rowids: nothing is known of those."""
    if shape.without_rowid:
        return 0
    table, key = sql.name(shape.table), sql.name(shape.key[0])
    ends = f"SELECT (SELECT min({key}) FROM main.{table}), (SELECT max({key}) FROM main.{table})"
    least, greatest = one_row(db, ends)
    if least is None:
        return 0
    far = 0
    for place in range(1, PLACES + 1):
        wanted = least + int((greatest - least) * (place * GOLDEN % 1.0))
        far += int(one_value(db, f"SELECT min({key}) FROM main.{table} WHERE {key} >= ?", (wanted,))) - wanted
    return round((int(greatest) - int(least) + 1) / (1 + far / PLACES))
