"""Keys that compare in another way than their columns: PRIMARY KEY(name COLLATE NOCASE), WITHOUT ROWID.

What is one row to the key may be two to the column, or the other way round; a row is found by its key.

Knows: what SQLite says of columns, core.  Does not know: triggers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollrep.core import sql
from rollrep.query import own_collations

if TYPE_CHECKING:
    import apsw

    from rollrep.core.nouns import Shape


def key_collates(db: apsw.Connection, shape: Shape) -> tuple[str, ...]:
    """SQL behind each column of the key that has another collation than its column; empty behind the others."""
    if not shape.without_rowid:
        return ("",)
    own = own_collations(db, shape.table, shape.key)
    return tuple(
        "" if one.casefold() == wanted.casefold() else f" COLLATE {sql.collation(wanted)}"
        for one, wanted in zip(own, shape.key_collations, strict=True)
    )
