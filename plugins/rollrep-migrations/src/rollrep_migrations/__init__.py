"""DROP COLUMN of columns that rollrep's triggers are in the way of, from inside the application that migrates.

    ALTER TABLE t DROP COLUMN c  ──► release: rollrep's triggers on t go, in the same transaction
                                     recapture: `rollrep source install`, a process of its own

Runs on the application's own connection and never opens the file itself: closing a second one would drop the
first's locks (https://www.sqlite.org/howtocorrupt.html, 2.2.1).  Knows: how rollrep's objects are named.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

PREFIX = "_rollrep_"
Execute = Callable[[str], Sequence[Sequence[Any]]]
"""Runs one statement, without parameters, and gives its rows"""

log = logging.getLogger(__name__)

_NAME = r"""("(?:[^"]|"")+"|`(?:[^`]|``)+`|\[[^\]]+\]|[^\s."`\[]+)"""
_DROPS = re.compile(rf"\s*ALTER\s+TABLE\s+(?:{_NAME}\s*\.\s*)?{_NAME}\s+DROP\s+(?!CONSTRAINT\b)\S", re.IGNORECASE)


def table_losing_a_column(statement: str) -> str | None:
    """The table's name, where `statement` drops a column.

    >>> table_losing_a_column('ALTER TABLE "my ""shop" DROP COLUMN "vat"'), table_losing_a_column("DROP TABLE t")
    ('my "shop', None)
    >>> table_losing_a_column("alter table main.[t] drop vat"), table_losing_a_column("ALTER TABLE t ADD drop x")
    ('t', None)
    """
    found = _DROPS.match(statement)
    if not found:
        return None
    name = found.group(2)
    quote = name[0]
    if quote in '"`':
        return name[1:-1].replace(quote * 2, quote)
    return name[1:-1] if quote == "[" else name


def release(statement: str, execute: Execute) -> bool:
    """Whether rollrep's objects were taken off the table that `statement` drops a column of."""
    table = table_losing_a_column(statement)
    if table is None:
        return False
    literal = "'" + table.replace("'", "''") + "'"
    found = execute(
        "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'index')"
        f" AND tbl_name = {literal} COLLATE NOCASE AND substr(name, 1, {len(PREFIX)}) = '{PREFIX}'"
    )
    for kind, name in found:
        execute(f"DROP {kind.upper()} " + '"' + name.replace('"', '""') + '"')
    return bool(found)


def recapture(path: str) -> None:
    """Captures again what was released; where that can't be done now, the next pull does it."""
    program = shutil.which("rollrep")
    if program is None:
        log.info("rollrep is not on the PATH: the next pull captures %s again", path)
        return
    done = subprocess.run([program, "source", "install", path], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("the next pull captures %s again; now it failed: %s", path, done.stderr.strip())
