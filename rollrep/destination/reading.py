"""Reading a restored file, and nothing else: any SELECT, no other file, no change.

Three things hold the door: the file is opened read-only, as one that never changes (so not even a lock or a
write-ahead log appears beside it), and an authorizer refuses whatever is not reading.

Knows: what SQLite lets an authorizer see.  Does not know: which file it is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

import apsw

from rollrep.core import sql
from rollrep.core.errors import UsageError, VerifyFailed
from rollrep.query import all_rows

_READS = frozenset(
    {
        apsw.SQLITE_SELECT,
        apsw.SQLITE_READ,
        apsw.SQLITE_RECURSIVE,
        apsw.SQLITE_TRANSACTION,
        apsw.SQLITE_SAVEPOINT,
    }
)
_WRITES = frozenset({apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE})
_FORBIDDEN_FUNCTIONS = frozenset({"load_extension", "fts3_tokenizer", "writefile", "edit"})
_READING_PRAGMAS = frozenset(
    {
        "collation_list", "compile_options", "database_list", "foreign_key_check", "foreign_key_list", "function_list",
        "index_info", "index_list", "index_xinfo", "integrity_check", "module_list", "pragma_list", "quick_check",
        "table_info", "table_list", "table_xinfo",
    }
)  # fmt: skip
_PRAGMAS_TO_ASK = frozenset(
    {"application_id", "encoding", "freelist_count", "page_count", "page_size", "schema_version", "user_version",
     "auto_vacuum", "journal_mode", "foreign_keys", "data_version"}
)  # fmt: skip
STEPS = 100_000
"""of SQLite's machine, some milliseconds"""
REMEDY = "the past can be read; to change a copy of it: rollrep restore JOB --at ... --output FILE"


@contextlib.contextmanager
def reader(path: Path) -> Iterator[apsw.Connection]:
    """A connection that can read the database at `path`."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)) as db:
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
        # An R*Tree prepares what writes its shadow tables when it is only read; here nothing can run it.
        shadows = frozenset(
            name for (name,) in all_rows(db, "SELECT name FROM pragma_table_list WHERE type = 'shadow'")
        )
        db.authorizer = functools.partial(_judge, shadows)
        # While SQLite works, Python hears of no signal: a question that never ends could not be stopped.
        db.set_progress_handler(lambda: False, STEPS)
        yield db


def ask(db: apsw.Connection, statement: str) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
    """The names of the columns, and the rows as they are read.

    Raises UsageError for SQL that is wrong, that writes, or that is more than one statement; also from the rows.
    """
    cursor = db.cursor()
    names: list[tuple[str, ...]] = []

    def begins(found: apsw.Cursor, _sql: str, _bindings: object) -> bool:
        if names:
            raise UsageError("that is more than one statement", remedy="ask one at a time, or: rollrep shell JOB")
        names.append(tuple(column[0] for column in found.description_full) if found.description_full else ())
        return True

    cursor.exec_trace = begins
    with _as_usage(db.filename):
        cursor.execute(statement)
    return (names[0] if names else ()), _rows(cursor, db.filename)


def _rows(cursor: apsw.Cursor, path: str) -> Iterator[tuple[Any, ...]]:
    with _as_usage(path):
        yield from cursor


@contextlib.contextmanager
def _as_usage(path: str) -> Iterator[None]:
    try:
        yield
    except (apsw.AuthError, apsw.ReadOnlyError) as error:
        raise UsageError(f"that does more than read: {error}", remedy=REMEDY) from error
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        raise VerifyFailed(
            f"{path} is damaged: {error}", remedy=f"it is made again once it is gone: rm {quote(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(
            "a text in the answer is not UTF-8", remedy="ask for its bytes: hex(CAST(column AS BLOB))"
        ) from error
    except apsw.Error as error:
        raise UsageError(
            f"SQLite: {error}",
            remedy="see what there is: rollrep query JOB 'SELECT type, name, sql FROM sqlite_schema'",
        ) from error


def _judge(
    shadows: frozenset[str], action: int, first: str | None, second: str | None, _database: str | None,
    _trigger: str | None,
) -> int:  # fmt: skip
    if action in _READS or (action in _WRITES and first in shadows):
        return apsw.SQLITE_OK
    if action == apsw.SQLITE_FUNCTION:
        return apsw.SQLITE_DENY if sql.fold(second or "") in _FORBIDDEN_FUNCTIONS else apsw.SQLITE_OK
    if action == apsw.SQLITE_PRAGMA:
        name = sql.fold(first or "")
        asked = name in _READING_PRAGMAS or (name in _PRAGMAS_TO_ASK and second is None)
        return apsw.SQLITE_OK if asked else apsw.SQLITE_DENY
    return apsw.SQLITE_DENY
