"""Columns that the application may drop while our triggers name them.

    (SELECT (SELECT new."c") FROM (SELECT NULL AS "c") AS new)
                    |                                  |
                    NEW's, while there is a column c   NULL, when there is none any more

ALTER TABLE ... DROP COLUMN reads every trigger again without the column, and fails at the first name that means
nothing (https://www.sqlite.org/lang_altertable.html, 5).  SQLite looks for a name from the inside outward: in a SELECT
without FROM first among NEW and OLD, then among the tables of the SELECT around it.  So there it finds another
`new`, whose columns are all NULL.

Pure: SQL text in, SQL text out.  Knows: how SQLite resolves names.
"""

from __future__ import annotations

from collections.abc import Iterable

from rollrep.core import sql


def despite_drop(expression: str, columns: Iterable[str], *sides: str) -> str:
    """`expression` over `sides` (new, old), as SQL that has a meaning without `columns` too: then they are NULL.

    >>> print(despite_drop('new."c"', ["c"], "new"))
    (SELECT (SELECT new."c") FROM (SELECT NULL AS "c") AS new)
    >>> print(despite_drop('new."id"', [], "new"))
    new."id"
    """
    nulls = ", ".join(f"NULL AS {sql.name(column)}" for column in columns)
    if not nulls:
        return expression
    query = f"SELECT {expression}"
    # One FROM for each side: a second subquery in one FROM would be kept in a temporary table.
    for side in sides:
        query = f"SELECT ({query}) FROM (SELECT {nulls}) AS {side}"
    return f"({query})"


def joined_despite_drop(table: str, columns: Iterable[str], one_row_table: str) -> str:
    """A FROM clause of `table` as t, in which `columns` can be named, without a `t.`, whether it has them or not.

    A NATURAL join takes a column that both sides have from the left.  Nothing is ever found on the right, so a
    column that is there alone is NULL; a real table there, because SQLite would make a temporary one otherwise.
    """
    nulls = ", ".join(f"NULL AS {sql.name(column)}" for column in columns)
    return f"{table} t" + (f" NATURAL LEFT JOIN (SELECT {nulls} FROM {one_row_table} WHERE 0)" if nulls else "")
