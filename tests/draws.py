"""anything.Draw by a seed, for tests that need no shrinking; and databases that it makes."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import anything
import apsw


class SeededDraw:
    """anything.Draw, by random.Random."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[Any]) -> Any:
        return self._random.choice(options)

    def some(self, options: Sequence[Any], least: int, most: int) -> list[Any]:
        distinct = list(dict.fromkeys(options))
        return self._random.sample(distinct, self.count(least, min(most, len(distinct))))

    def count(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def chance(self, one_in: int) -> bool:
        return self._random.randrange(one_in) == 0


def attempt(db: apsw.Connection, sql: str) -> bool:
    """Whether it worked; statements of applications often do not."""
    try:
        for row in db.execute(sql):
            del row
    except UnicodeDecodeError:
        return True
    except apsw.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        return False
    return True


def create(db: apsw.Connection, draw: SeededDraw) -> None:
    """A schema of any kind: tables, indexes, triggers, a view."""
    names = draw.some(anything.TABLE_NAMES, 2, 4)
    for number, name in enumerate(names):
        attempt(db, anything.create_table(draw, name, names[:number]))
    if not anything.read_tables(db):
        db.execute("CREATE TABLE thing(id INTEGER PRIMARY KEY, a UNIQUE, b)")
    for number in range(draw.count(0, 3)):
        attempt(db, anything.create_index(draw, draw.pick(anything.read_tables(db)), f"index {number}"))
    for number in range(draw.count(0, 2)):
        tables = anything.read_tables(db)
        attempt(db, anything.create_trigger(draw, draw.pick(tables), draw.pick(tables), f"trigger {number}"))
    if draw.chance(3):
        for sql in anything.create_view(draw, draw.pick(anything.read_tables(db)), "a view"):
            attempt(db, sql)


def write(db: apsw.Connection, draw: SeededDraw, statements: int) -> None:
    for _ in range(statements):
        tables = anything.read_tables(db)
        with contextlib.suppress(IndexError):
            attempt(db, anything.statement(draw, tables))


def migrate(db: apsw.Connection, draw: SeededDraw, number: int) -> None:
    tables = anything.read_tables(db)
    if tables:
        for sql in anything.migration(draw, tables, number):
            attempt(db, sql)
