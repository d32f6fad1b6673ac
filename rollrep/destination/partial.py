"""Some tables of a restored database, as a database of their own.

    whole file ──► new file: the tables that were asked for, their indexes and rows, the header's numbers

Rows travel with their rowids, to the storage class.  Triggers and views stay behind: they may speak of tables
that are not there.

Knows: SQL of tables by their shape, the schema.  Does not know: how the whole file came to be.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rollrep.core import sql
from rollrep.core.errors import UsageError
from rollrep.core.nouns import Layout, Shape
from rollrep.destination.mirror_db import open_mirror, transaction
from rollrep.destination.replay import set_sequence
from rollrep.destination.schema import evolve
from rollrep.destination.shadows import virtual_names
from rollrep.query import all_rows, one_value


def wanted_shapes(layout: Layout, tables: Sequence[str]) -> tuple[Shape, ...]:
    """The shapes of `tables`, by name in any case; all where none is named.  Raises UsageError for an unknown one."""
    if not tables:
        return layout.shapes
    known = {sql.fold(shape.table): shape for shape in layout.shapes}
    for table in tables:
        if sql.fold(table) not in known:
            raise unknown_table(table, layout)
    return tuple(shape for name, shape in known.items() if name in {sql.fold(table) for table in tables})


def unknown_table(table: str, layout: Layout, where: str = "at that point there is") -> UsageError:
    """The error for a table that the database did not have then, or that is not carried."""
    if sql.fold(table) in {sql.fold(name) for name in virtual_names(layout)}:
        return UsageError(
            f"{table} is, or is part of, a virtual table, which is restored with its whole database only",
            remedy="leave out --table, and take what you need from the file",
        )
    names = [shape.table for shape in layout.shapes]
    near = difflib.get_close_matches(table, names, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"there were: {', '.join(sorted(names)) or 'none'}"
    return UsageError(f"{where} no table {table} that is carried", remedy=remedy)


def copy_tables(whole: Path, target: Path, layout: Layout, tables: Sequence[str]) -> Layout:
    """Writes `tables` of the mirror at `whole` to the new file `target`; the layout that has only these."""
    shapes = wanted_shapes(layout, tables)
    names = {sql.fold(shape.table) for shape in shapes}
    objects = tuple(
        each for each in layout.objects if each.type in ("table", "index") and sql.fold(each.table) in names
    )
    refused = tuple(each for each in layout.refused if sql.fold(each.table) in names)
    part = msgspec.structs.replace(layout, objects=objects, shapes=shapes, refused=refused, virtuals=())
    with contextlib.closing(open_mirror(target, layout=part)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("ATTACH ? AS whole", (str(whole),))
        with transaction(db):
            evolve(db, None, part)
            for shape in shapes:
                columns, table = sql.names(shape.columns), sql.name(shape.table)
                db.execute(
                    f"INSERT INTO main.{table}({columns}) SELECT {columns} FROM whole.{table}"
                    f" ORDER BY {sql.names(shape.key)}"
                )
            if any(shape.autoincrement for shape in shapes):
                set_sequence(db, dict(all_rows(db, "SELECT name, seq FROM whole.sqlite_sequence")), shapes)
        for pragma in ("user_version", "application_id"):
            db.execute(f"PRAGMA main.{pragma} = {int(one_value(db, f'PRAGMA whole.{pragma}')):d}")
        db.execute("DETACH whole")
    return part
