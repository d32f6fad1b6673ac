"""Ways to ask SQLite something and get it as a plain value, and its own digest functions.

apsw types every column as "one of five"; here what comes back is Any, and the caller, who wrote the
SELECT, says what it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import apsw

Bindings = Sequence[Any]


def all_rows(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> list[tuple[Any, ...]]:
    """Every row."""
    return list(db.execute(sql, bindings))


def find_row(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> tuple[Any, ...] | None:
    """The first row, or None."""
    return db.execute(sql, bindings).fetchone()


def one_row(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> tuple[Any, ...]:
    """The first row of a query that always has one."""
    found = find_row(db, sql, bindings)
    assert found is not None, f"no row: {sql}"
    return found


def one_value(db: apsw.Connection, sql: str, bindings: Bindings = ()) -> Any:
    """The first column of the first row, or None where there is no row."""
    found = find_row(db, sql, bindings)
    return found[0] if found else None


@contextlib.contextmanager
def closed_on_error(db: apsw.Connection) -> Iterator[None]:
    """Closes a connection that could not be made ready: one that is only dropped lives on until it is collected."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(apsw.Error):  # what went wrong first is what is to be said
            db.close()
        raise


def has_table(db: apsw.Connection, name: str) -> bool:
    """Whether `main` has this table now, without a reading of its whole schema.

    `table_exists` alone answers from the schema as this connection parsed it last, whatever others did since.

    >>> db = apsw.Connection(":memory:")
    >>> _ = db.execute("CREATE TABLE t(a)")
    >>> has_table(db, "t"), has_table(db, "u")
    (True, False)
    """
    # Any statement on a table makes SQLite look whether what it has parsed is the schema still.
    all_rows(db, "SELECT 1 FROM sqlite_schema LIMIT 0")
    return db.table_exists("main", name)


def own_collations(db: apsw.Connection, table: str, columns: Sequence[str]) -> tuple[str, ...]:
    """What SQLite compares values of these columns of `main` by, where no other is said; an index may have others.

    >>> db = apsw.Connection(":memory:")
    >>> _ = db.execute("CREATE TABLE t(a COLLATE RTRIM, b, PRIMARY KEY (a COLLATE NOCASE)) WITHOUT ROWID")
    >>> own_collations(db, "t", ["a", "b"])
    ('RTRIM', 'BINARY')
    """
    return tuple(str(db.column_metadata("main", table, column)[1]) for column in columns)


def text_bytes(column: str) -> str:
    """SQL for a text as the bytes it is stored in: `as_text` reads what need not be valid in any encoding."""
    return f"CAST(CAST({column} AS TEXT) AS BLOB)"


def as_text(db: apsw.Connection, stored: bytes | None) -> str | None:
    """What `text_bytes` gave, with U+FFFD where it is no text; apsw raises UnicodeDecodeError there.

    >>> db = apsw.Connection(":memory:")
    >>> [as_text(db, one_value(db, f"SELECT {text_bytes(each)}")) for each in ("CAST(x'61ff' AS TEXT)", "7", "NULL")]
    ['a\ufffd', '7', None]
    """
    return None if stored is None else stored.decode(str(db.pragma("encoding")), errors="replace")


def load_digests(db: apsw.Connection, *names: str) -> None:
    """Gives `db` SQLite's own digest functions, `sha1` or `shathree` (they ship inside apsw's wheel)."""
    from apsw import sqlite_extra  # a question to the past needs none, and is asked by a new process

    db.enable_load_extension(True)
    for name in names:
        sqlite_extra.load(db, name)
    db.enable_load_extension(False)
