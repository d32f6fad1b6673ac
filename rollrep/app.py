"""What an application uses inside its own process: one statement on its own connection.

    connection.execute("INSERT INTO _rollrep_point(label) VALUES (?)", ("invoices closed",))

`point` is that statement with a name.  It knows nothing but the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


def point(connection: sqlite3.Connection, label: str | None = None) -> int:
    """The log id of a new consistency point, written in the connection's present transaction.

    The point becomes visible, and restorable, when that transaction commits; a rollback takes it back.
    Raises sqlite3.OperationalError ("no such table: _rollrep_point") where no rolling log is installed.
    """
    connection.execute("INSERT INTO _rollrep_point(label) VALUES (?)", (label,))
    newest: int = connection.execute("SELECT max(id) FROM _rollrep_log").fetchone()[0]
    return newest
