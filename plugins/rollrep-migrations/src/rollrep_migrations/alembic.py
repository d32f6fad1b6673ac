"""Alembic: `import rollrep_migrations.alembic` in env.py.  Each statement of SQLAlchemy is looked at before it runs."""

from __future__ import annotations

import atexit
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from rollrep_migrations import recapture, release

_released: set[str] = set()


@event.listens_for(Engine, "before_cursor_execute")
def _watch(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if connection.dialect.name != "sqlite":
        return

    def run(text: str) -> list[Any]:
        cursor.execute(text)
        return list(cursor.fetchall())

    if release(statement, run) and connection.engine.url.database:
        _released.add(connection.engine.url.database)


@atexit.register
def _end() -> None:
    for path in sorted(_released):
        recapture(path)
