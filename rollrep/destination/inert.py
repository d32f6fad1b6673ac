"""Modules that do nothing: by them a virtual table is created and dropped without its own module's code being run.

    CREATE VIRTUAL TABLE ft USING fts5(title, tokenize = 'the application's own')
        with FTS5        makes five shadow tables, and fails where the tokenizer is not known
        with this        enters the text into the schema as it stands, and nothing else

The shadow tables are ordinary ones, made from their own text and filled with the source's rows.  So any module
can be carried, also one that is not here, and no module's code sees a schema that somebody else sent.

Knows: apsw.  Does not know: layouts.
"""

from __future__ import annotations

from typing import Any

import apsw

from rollrep.core import sql
from rollrep.core.nouns import Layout

CACHE_KIB = 40_960
"""of every connection that goes through a whole database"""
STREAMED_KIB = 2_048
"""where each page is read once, in its order: to remember more of them only takes time"""


class _Inert:
    """A virtual table's module and the table itself: both know nothing."""

    def Create(self, _db: Any, _module: str, _database: str, _table: str, *_arguments: Any) -> tuple[str, _Inert]:  # noqa: N802
        return "CREATE TABLE empty(hidden)", self

    Connect = Create

    def BestIndexObject(self, _info: Any) -> bool:  # noqa: N802
        return False

    def Destroy(self) -> None:  # noqa: N802
        """The schema's row goes; shadow tables are dropped by whoever made them."""

    def Disconnect(self) -> None:  # noqa: N802
        """Nothing is held."""


def make_inert(db: apsw.Connection, modules: set[str]) -> None:
    """From now on `db` has these modules as ones that do nothing, SQLite's own under these names included."""
    for module in sorted(modules):
        if sql.fold(module) == "fts5":
            # It reaches into what the module it came with owns, and that is freed.
            db.create_scalar_function("fts5", None)
        db.create_module(module, _Inert())  # type: ignore[arg-type]


def integrity_problems(db: apsw.Connection, layout: Layout | None = None) -> list[str]:
    """What SQLite's own integrity_check says of every b-tree of the main database, a few lines at most.

    Modules of the layout are inert from here on: one that is not known, or a tokenizer that is not, would end the
    check, and an index that the application itself left out of step with its content is no damage.  Nor is a row
    that it wrote with its checks switched off.
    """
    return _problems(db, layout, "integrity_check", CACHE_KIB)


def structure_problems(db: apsw.Connection, layout: Layout | None = None) -> list[str]:
    """The same without looking each row up in each index: every page is read and the entries of each index are
    counted, at the speed of a copy."""
    return _problems(db, layout, "quick_check", STREAMED_KIB)


def _problems(db: apsw.Connection, layout: Layout | None, check: str, cache_kib: int) -> list[str]:
    make_inert(db, {each.module for each in layout.virtuals} if layout else set())
    for pragma in ("ignore_check_constraints = ON", f"main.cache_size = -{cache_kib}"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    lines = [str(row[0]) for row in db.execute(f"PRAGMA main.{check}(3)")]
    return [] if lines == ["ok"] else lines
