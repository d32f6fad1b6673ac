"""Collations and functions that only the application has: true ones that a plugin gives, or inert ones.

    # player.py, installed beside rollrep on both machines
    import apsw

    def connected(connection):
        connection.create_collation("localeaware", compare)
        connection.create_scalar_function("sort_title", sort_title, 1, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)

    # its pyproject.toml
    [project.entry-points."rollrep.connections"]
    player = "player:connected"

With these, all that uses them is carried as if they were SQLite's own; `connection.load_extension` does as well.  They
must be the application's to the last letter: an index that was ordered otherwise is damaged for it.

Without, they exist in a form that does nothing, for as long as a table is made: its text may name them where no row
ever needs them here, in a column without an index, a CHECK, a DEFAULT.  One that is called all the same raises, and
nothing is written.  An index and a generated column do need them: nothing inert is supplied for these.

Knows: what SQLite says of a table.  Does not know: whose table it is.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Never

import apsw

from rollrep.core import sql
from rollrep.core.errors import SchemaProblem
from rollrep.query import all_rows

GROUP = "rollrep.connections"
"""The group of entry points: functions that are called with every connection."""

_UNKNOWN = re.compile(r"(no such collation sequence|no such function|unknown function): (.+?)(?:\(\))?$")

_log = logging.getLogger(__name__)


def meet_connections() -> None:
    """From now on every connection has what plugins give it.  A plugin that raises is logged, and left out."""
    for name, give in _givers() if _is_any_installed() else ():

        def introduce(connection: apsw.Connection, name: str = name, give: Callable[..., object] = give) -> None:
            try:
                give(connection)
            except Exception as error:
                _log.warning("plugin %s failed with a connection: %r", name, error)

        apsw.connection_hooks.append(introduce)


def unknown_here(error: BaseException) -> SchemaProblem | None:
    """What to say of it where SQLite asks for something of the application's that nobody gives here.

    >>> print(unknown_here(apsw.SQLError("no such function: sort_title")).facts)
    the application's own function sort_title is not known here
    """
    if not isinstance(error, apsw.SQLError):
        return None
    if str(error) == "no query solution":
        # All that SQLite says of it, see `missing_collation`.
        return not_known("collation", "of a table WITHOUT ROWID")
    found = _UNKNOWN.search(str(error))
    if found is None:
        return None
    return not_known("collation" if "collation" in found[1] else "function", found[2])


def not_known(kind: str, name: str) -> SchemaProblem:
    """That a `kind` ("collation", "function") of the application's is missing on this machine."""
    return SchemaProblem(
        f"the application's own {kind} {name} is not known here",
        remedy="install the plugin that gives it on both machines: see docs/collations.md",
    )


def missing_collation(db: apsw.Connection, table: str) -> tuple[str, str] | None:
    """A collation that the rows of `table` need to be read and written, and that is not here; and what needs it.

    A WITHOUT ROWID table is itself an index of all its columns: where SQLite lacks the collation of any of them, it
    finds "no query solution" for the simplest SELECT.
    """
    constraints = all_rows(
        db,
        "SELECT x.coll, iif(x.key, 'its keys use', 'it is WITHOUT ROWID and uses') FROM pragma_index_list(?) l,"
        " pragma_index_xinfo(l.name) x WHERE l.origin <> 'c' AND x.coll IS NOT NULL ORDER BY x.key DESC",
        (table,),
    )
    return next(((coll, needs) for coll, needs in constraints if not _is_known(db, coll)), None)


def _is_known(db: apsw.Connection, collation: str) -> bool:
    try:
        all_rows(db, f"SELECT '' = '' COLLATE {sql.name(collation)}")
    except apsw.SQLError:
        return False
    return True


def _is_any_installed() -> bool:
    # `importlib.metadata` takes longer to load than most pulls have to do, and nearly nobody has such a plugin.
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info/entry_points.txt"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if f"[{GROUP}]" in path.read_text():
                    return True
    return False


def _givers() -> list[tuple[str, Callable[..., object]]]:
    import importlib.metadata

    found = []
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            found.append((entry.name, entry.load()))
        except (Exception, SystemExit) as error:
            _log.warning("plugin %s can't be loaded and is left out: %r", entry.name, error)
    return found


class Strangers:
    """Collations and functions that exist while a table is created, and are gone afterwards."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._collations: list[str] = []
        self._functions: list[str] = []

    def __enter__(self) -> Strangers:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._collations:
            self._db.create_collation(name, None)
        for name in self._functions:
            self._db.create_scalar_function(name, None)

    def supply(self, complaint: str, text: str) -> bool:
        """Makes what SQLite misses, if `text` can do with an inert one; whether it is worth trying again."""
        found = re.fullmatch(r"no such (collation sequence|function): (.+)", complaint, re.DOTALL)
        if found is None or not text.upper().startswith("CREATE TABLE"):
            return False
        kind, name = found.groups()
        if name in (*self._collations, *self._functions):
            return False
        if kind == "function":
            # Generated columns, VIRTUAL ones too, are computed where a row is written, so here they would be.
            if re.search(r"\bAS\s*\(", text, re.IGNORECASE):
                return False
            self._functions.append(name)
            self._db.create_scalar_function(name, _uncalled, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)
        else:
            self._collations.append(name)
            self._db.create_collation(name, _uncalled)
        return True


def _uncalled(*_: object) -> Never:
    raise NotImplementedError("only the application has this")
