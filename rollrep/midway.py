"""Tables that something may write to while one of their own rows is being written.

    our BEFORE trigger: which rows are in NEW's way?      TOUCHED
    the application's BEFORE triggers                 \
    ON DELETE actions of the rows that REPLACE removes  > may put another row in NEW's way, which goes unannounced
    their triggers                                    /
    the row is written, our AFTER trigger             PUT

Triggers fire newest first, and ours are the newest, so no trigger of ours sees the table after the application's.  But
whatever they write is logged itself, before the PUT.  So rows in the log's order, each put by OR REPLACE under the same
UNIQUE indexes, tell which row went, as where an index can't be probed.

With recursive_triggers on, a REPLACE fires DELETE triggers and hides nothing.

Read-only.  Knows: SQLite's schema table, pragmas and words.  Does not know: capture, the log.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apsw

from rollrep.core import sql
from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows

PUT, GONE = "put", "gone"
"""what happens to rows of a table: put in or changed; removed"""

Event = tuple[str, str]
"""a table's folded name, and PUT or GONE"""

TIMES = ("BEFORE", "AFTER", "INSTEAD")


@dataclasses.dataclass(frozen=True)
class Written:
    """What a trigger does, and whether it does so before a row is put."""

    before_put: bool
    events: tuple[Event, ...]


class Midway:
    """Read once for all tables, because each reading reads the whole schema."""

    def __init__(self, db: apsw.Connection) -> None:
        self._triggers: dict[str, list[Written]] = {}
        rows = all_rows(
            db,
            "SELECT tbl_name, sql FROM sqlite_schema WHERE type='trigger' AND substr(name, 1, ?) != ?",
            (len(PREFIX), PREFIX),
        )
        for table, text in rows:
            self._triggers.setdefault(sql.fold(table), []).append(what_it_writes(text))
        self._references: dict[str, list[tuple[str, str, str]]] = {}
        for child, parent, on_update, on_delete in acting_references(db):
            self._references.setdefault(sql.fold(parent), []).append((sql.fold(child), on_update, on_delete))

    def is_put_to(self, table: str) -> bool:
        """Whether rows of `table` may be put between our BEFORE trigger and the last removal by its REPLACE."""
        own = sql.fold(table)
        begun = [*self._by_references((own, GONE))]
        begun += [event for each in self._triggers.get(own, ()) if each.before_put for event in each.events]
        seen = set(begun)
        while begun:
            event = begun.pop()
            for follows in (*self._by_references(event), *self._by_triggers(event)):
                if follows not in seen:
                    seen.add(follows)
                    begun.append(follows)
        return (own, PUT) in seen

    def _by_triggers(self, event: Event) -> Iterator[Event]:
        for each in self._triggers.get(event[0], ()):
            yield from each.events

    def _by_references(self, event: Event) -> Iterator[Event]:
        parent, what = event
        for child, on_update, on_delete in self._references.get(parent, ()):
            action = on_delete if what == GONE else on_update
            if action.startswith("SET") or (action == "CASCADE" and what == PUT):
                yield child, PUT
            elif action == "CASCADE":
                yield child, GONE


def acting_references(db: apsw.Connection) -> list[tuple[str, str, str, str]]:
    """(child, parent, ON UPDATE, ON DELETE) of each foreign key that does more than to refuse."""
    return all_rows(
        db,
        'SELECT s.name, f."table", f.on_update, f.on_delete FROM sqlite_schema s, pragma_foreign_key_list(s.name) f'
        " WHERE s.type='table'"
        " AND (f.on_update NOT IN ('NO ACTION', 'RESTRICT') OR f.on_delete NOT IN ('NO ACTION', 'RESTRICT'))",
    )


def what_it_writes(statement: str) -> Written:
    """What a CREATE TRIGGER does to which tables; names that it only reads are none of them.

    >>> what_it_writes("CREATE TRIGGER a UPDATE ON t BEGIN INSERT INTO [u] SELECT * FROM v; DELETE FROM w; END").events
    (('u', 'put'), ('u', 'gone'), ('w', 'gone'))
    >>> [what_it_writes(f"CREATE TRIGGER a {when} ON t BEGIN SELECT 1; END").before_put
    ...     for when in ("INSERT", "AFTER INSERT", "BEFORE UPDATE OF a", "BEFORE DELETE")]
    [True, False, True, False]
    """
    bare = [token.upper() for token in sql.tokens_of(statement)]
    # SQLite keeps the text from the name on, behind words of its own.
    time = bare[3]
    event = bare[4] if time in TIMES else time
    begin = bare.index("BEGIN", 4)
    names = sql.words_of(statement)[begin:]
    events: list[Event] = []
    for n, word in enumerate(bare[begin:]):
        if word == "INTO":
            table = names[n + 1]
        elif word == "UPDATE":
            table = names[n + 3] if names[n + 1] == "or" else names[n + 1]
        elif word == "FROM" and names[n - 1] == "delete":
            events.append((names[n + 1], GONE))
            continue
        else:
            continue
        # The conflict clause of the application's statement overrides those inside: any of them may be a REPLACE.
        events += [(table, PUT), (table, GONE)]
    return Written(time in ("BEFORE", event) and event in ("INSERT", "UPDATE"), tuple(events))
