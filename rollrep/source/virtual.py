"""Whose a shadow table is: the virtual tables of a database, each with the tables it keeps its content in.

    CREATE VIRTUAL TABLE ft USING fts5(...)   ──►   ft_data, ft_idx, ft_content, ft_docsize, ft_config

SQLite knows the shadow tables of the modules that it has.  Of a module that is not here (an extension that
only the application loads) nobody knows them: then every ordinary table whose name begins with the virtual
table's and an underscore counts as one.  Taking one too many costs it the log; putting a trigger on a true
one would make any connection in defensive mode fail (https://www.sqlite.org/c3ref/c_dbconfig_defensive.html).

Knows: SQL of sqlite_schema.  Does not know: shapes, capture, the wire.
"""

from __future__ import annotations

import dataclasses
import re

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows

_SPACE = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_NAME = r"""("(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*'|[^\s"'`\[(;.]+)"""
_MODULE = re.compile(
    rf"CREATE{_SPACE}VIRTUAL{_SPACE}TABLE{_SPACE}(?:IF{_SPACE}NOT{_SPACE}EXISTS{_SPACE})?"
    rf"(?:{_NAME}{_SPACE}\.{_SPACE})?{_NAME}{_SPACE}USING{_SPACE}{_NAME}",
    re.IGNORECASE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Owned:
    """A virtual table, its module, and the names of its shadow tables."""

    name: str
    module: str
    shadows: tuple[str, ...]
    is_known: bool
    """whether the module is part of the SQLite that runs here"""


def owned_tables(db: apsw.Connection) -> list[Owned]:
    """Every virtual table of the main database, by name."""
    # Asking for pragma_table_list connects every virtual table; one whose tokenizer is unknown is still listed.
    tables = all_rows(db, "SELECT name, type FROM pragma_table_list WHERE schema = 'main'")
    texts = all_rows(db, "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'")
    modules = {sql.fold(name) for (name,) in all_rows(db, "SELECT name FROM pragma_module_list")}
    virtual = {name for name, kind in tables if kind == "virtual"}
    found = []
    for name, text in sorted(texts):
        if name not in virtual:
            continue
        module = module_of(text)
        is_known = sql.fold(module) in modules
        shadows = sorted(
            table
            for table, kind in tables
            if (kind == "shadow" and sql.fold(table.rpartition("_")[0]) == sql.fold(name))
            or (not is_known and kind == "table" and sql.fold(table).startswith(sql.fold(name) + "_"))
        )
        found.append(Owned(name, module, tuple(t for t in shadows if not t.startswith(PREFIX)), is_known))
    return found


def module_of(text: str) -> str:
    """The module that a CREATE VIRTUAL TABLE names; empty where the text is none.

    >>> module_of("CREATE VIRTUAL TABLE [a b] USING fts5(x)"), module_of('CREATE VIRTUAL TABLE "v" using /* */ "vec0"')
    ('fts5', 'vec0')
    """
    found = _MODULE.match(text)
    if found is None:
        return ""
    name = found.group(3)
    if name[0] in "\"'`":
        return name[1:-1].replace(name[0] * 2, name[0])
    return name[1:-1] if name[0] == "[" else name
