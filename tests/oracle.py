"""The second opinion: what is in a database file, exactly, and where two of them differ.

    a.db ── dump ──► tables, schema, ... ─┐
                                          ├──► differences ──► assert_same: "table t, rowid=7: ... / ..."
    b.db ── dump ──► tables, schema, ... ─┘

Nothing here shares code with rollrep, so that it can disagree with it.  Values are taken apart inside SQL
(`typeof`, `hex(cast(x AS blob))`), so text that is no text is still compared, byte for byte; a real is its
eight bytes, so -0.0 is not 0.0 and 1 is not 1.0.  Rows are put in order by Python, so no collation of the
application is needed.

Closing any SQLite handle on a file drops the POSIX locks that *another* SQLite library in the same process
holds on it (sqlite.org/howtocorrupt.html, 2.2.1), and apsw carries a library of its own.  So: `dump` and
`assert_same` are for files that nobody in this process has open through `sqlite3`; `snapshot` makes such a
file of one that is open, through `sqlite3` itself.  `dbhash` is another process and always harmless.
"""

from __future__ import annotations

import sqlite3
import struct
import subprocess
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

PREFIX = "_rollrep_"
SHOWN = 5

Value = tuple[str, Any]
"""('null', None), ('integer', 1), ('real', '3ff0000000000000'), ('text', '61'), ('blob', '00FF')."""


@dataclass(frozen=True)
class Table:
    """Rows by their key: the rowid, or the primary key of a table without one."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: dict[tuple[Value, ...], tuple[Value, ...]]


def dump(path: str | Path, *, skip_prefix: str = PREFIX) -> dict[str, Any]:
    """All of `path` in one read transaction: `tables` (name → Table), `schema`, `sequence`, `header`.

    A virtual table is in `tables` by its shadow tables, row for row (its SQL is in `schema`).  Left out is all
    that is named `skip_prefix…`, belongs to such a table, or is SQLite's own.
    """
    with closing(_open(path)) as con, con:
        names = [
            name
            for name, kind in con.execute("SELECT name, type FROM pragma_table_list WHERE schema = 'main'")
            if kind in ("table", "shadow")
            and not name.startswith(skip_prefix)
            and not name.lower().startswith("sqlite_")
        ]
        schema = [
            row
            for row in con.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")
            if not row[1].lower().startswith("sqlite_")
            and not row[1].startswith(skip_prefix)
            and not row[2].startswith(skip_prefix)
        ]
        pragmas = ("user_version", "application_id", "encoding", "page_size")
        return {
            "tables": {name: _table(con, name) for name in sorted(names)},
            "schema": schema,
            "sequence": _sequence(con, skip_prefix),
            "header": {name: con.pragma(name) for name in pragmas},
        }


def _open(path: str | Path) -> apsw.Connection:
    """A reader that leaves no trace: it never creates, writes or checkpoints."""
    if not Path(path).is_file():
        raise FileNotFoundError(path)
    con = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    con.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    con.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 1)
    con.set_busy_timeout(30_000)
    con.pragma("query_only", True)
    return con


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _table(con: apsw.Connection, name: str) -> Table:
    info = con.execute("SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden != 1", (name,)).fetchall()
    columns = tuple(column for column, _ in info)
    [(without_rowid,)] = con.execute("SELECT wr FROM pragma_table_list(?) WHERE schema = 'main'", (name,))
    if without_rowid:
        key = tuple(column for column, pk in sorted(info, key=lambda row: row[1]) if pk)
    else:
        # A column may be called rowid; then one of the other two names still means the real one.
        taken = {column.lower() for column in columns}
        key = tuple(alias for alias in ("rowid", "_rowid_", "oid") if alias not in taken)[:1]
    # A blob is only ever seen as its hexadecimal digits, and so is a text: it may be no UTF-8.
    parts = ", ".join(
        f"typeof({c}), iif(typeof({c}) IN ('text', 'blob'), hex(CAST({c} AS BLOB)), {c})"
        for c in map(_quote, (*key, *columns))
    )
    rows: dict[tuple[Value, ...], tuple[Value, ...]] = {}
    seen: Counter[tuple[Value, ...]] = Counter()
    for flat in con.execute(f"SELECT {parts} FROM {_quote(name)}"):
        values = tuple(_value(flat[n], flat[n + 1]) for n in range(0, len(flat), 2))
        at, row = values[: len(key)], values[len(key) :]
        if not key:  # all three names are taken: the row is its own key, equal rows are numbered
            seen[row] += 1
            at = (*row, ("integer", seen[row]))
        rows[at] = row
    return Table(columns, key, dict(sorted(rows.items(), key=lambda item: _order(item[0]))))


def _value(kind: str, value: Any) -> Value:
    return (kind, struct.pack(">d", value).hex()) if kind == "real" else (kind, value)


def _order(key: tuple[Value, ...]) -> list[tuple[str, Any]]:
    return [(kind, 0 if value is None else value) for kind, value in key]


def _sequence(con: apsw.Connection, skip_prefix: str) -> dict[str, list[Value]]:
    """What AUTOINCREMENT remembers; a list, since nothing keeps the table from holding a name twice."""
    found: dict[str, list[Value]] = {}
    if con.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchall():
        for name, kind, seq in con.execute("SELECT name, typeof(seq), seq FROM sqlite_sequence ORDER BY 1, 3"):
            if isinstance(name, str) and not name.startswith(skip_prefix):
                found.setdefault(name, []).append(_value(kind, seq))
    return found


def assert_same(a_path: str | Path, b_path: str | Path, *, skip_prefix: str = PREFIX) -> None:
    """Raises AssertionError with the first few differences, each with its table, key and both sides."""
    a, b = dump(a_path, skip_prefix=skip_prefix), dump(b_path, skip_prefix=skip_prefix)
    found = differences(a, b)
    if found:
        more = "" if len(found) <= SHOWN else f"\n... and {len(found) - SHOWN} more"
        raise AssertionError(f"{a_path} is not {b_path}:\n" + "\n".join(found[:SHOWN]) + more)


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """One readable line for each thing that is not the same in two dumps."""
    found = [
        f"{part} {name}: {left.get(name)!r} / {right.get(name)!r}"
        for part in ("header", "sequence")
        for left, right in [(a[part], b[part])]
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    ]
    for only, side in ((a, b), (b, a)):
        where = "first" if only is a else "second"
        found += [f"schema, only in the {where}: {row}" for row in only["schema"] if row not in side["schema"]]
    for name in sorted(a["tables"].keys() & b["tables"].keys()):
        found += _rows_apart(name, a["tables"][name], b["tables"][name])
    return found


def _rows_apart(name: str, a: Table, b: Table) -> Iterable[str]:
    if (a.columns, a.key) != (b.columns, b.key):
        yield f"table {name}: columns {a.key} {a.columns} / {b.key} {b.columns}"
        return
    if len(a.rows) != len(b.rows):
        yield f"table {name}: {len(a.rows)} rows / {len(b.rows)} rows"
    for key in [*a.rows, *(key for key in b.rows if key not in a.rows)]:
        left, right = a.rows.get(key), b.rows.get(key)
        if left == right:
            continue
        shown = ", ".join(f"{c}={_short(v)}" for c, v in zip(a.key or ("row",), key, strict=False))
        if left is None or right is None:
            yield f"table {name}, {shown}: only in the {'second' if left is None else 'first'}"
        else:
            yield f"table {name}, {shown}: " + "; ".join(
                f"{column} {_short(x)} / {_short(y)}"
                for column, x, y in zip(a.columns, left, right, strict=True)
                if x != y
            )


def _short(value: Value) -> str:
    """`text:616263` and the like; long ones cut in the middle, so that both ends still show."""
    kind, held = value
    if kind == "real":
        return f"real:{struct.unpack('>d', bytes.fromhex(held))[0]!r}({held})"
    text = f"{kind}:{held}"
    return text if len(text) <= 60 else f"{text[:40]}...{text[-12:]}({len(text)})"


def snapshot(path: str | Path, copy: str | Path) -> Path:
    """`copy`, now page for page what `path` held at one moment, its write-ahead log included.

    The backup runs inside a read transaction, so it is of one moment and never starts again under writes.
    It uses `sqlite3` and not apsw: the workload of a test has the same file open through that library.
    """
    copy = Path(copy)
    if copy.exists():
        raise FileExistsError(copy)
    uri = f"{Path(path).resolve().as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)) as source,
        closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target)
        source.execute("COMMIT")
    return copy


def dbhash(path: str | Path, *options: str) -> str:
    """SHA-1 of the logical content as SQLite's own `dbhash` sees it; `--without-schema`, `--like PATTERN`.

    It does not see rowids, and it counts every ordinary table, ours too: a coarser second witness.
    """
    program = apsw.sqlite_extra.path("sqlite3_dbhash")
    done = subprocess.run([program, *options, path], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise RuntimeError(f"dbhash of {path} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout.split()[0]
