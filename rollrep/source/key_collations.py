"""Keys that compare in another way than their columns: PRIMARY KEY(name COLLATE NOCASE), WITHOUT ROWID.

What is one row to the key may be two to the column, or the other way round; a row is found by its key.

Knows: what SQLite says of columns, core.  Does not know: triggers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollrep.core import sql
from rollrep.query import all_rows, own_collations

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from rollrep.core.nouns import Shape


def key_collations(db: apsw.Connection, key_index: str | None, key: Sequence[str]) -> tuple[str, ...]:
    """The collation of each column of a WITHOUT ROWID table's key.

    Raises ValueError where one column stands in the key twice, by two collations: what is one row is then said by no
    single one of them.
    """
    found = all_rows(db, "SELECT name, coll FROM pragma_index_xinfo(?) WHERE key", (key_index,))
    by_name = dict(found)
    if len(by_name) < len(found):
        names = [name for name, _ in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"its key compares the column {twice} by more than one collation")
    return tuple(by_name.get(name, "BINARY") for name in key)


def key_collates(db: apsw.Connection, shape: Shape) -> tuple[str, ...]:
    """SQL behind each column of the key that has another collation than its column; empty behind the others."""
    if not shape.without_rowid:
        return ("",)
    own = own_collations(db, shape.table, shape.key)
    return tuple(sql.collated([""] * shape.key_width, own, shape.key_collations))
