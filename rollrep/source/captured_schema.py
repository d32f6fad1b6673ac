"""The schema as it was captured: which objects it had, and by which text.

    _rollrep_meta.schema_text    table t CREATE TABLE t(a, b)
                                 trigger _rollrep_insert_t CREATE TRIGGER ...
                                 ^ an object is looked for where a line begins like this, and nowhere else

With a thousand tables it is megabytes.  SQL's instr() goes through all of them for each object, so the text is read
once, and its lines are known by their beginnings.

Knows: the log's meta row.  Does not know: what a difference means.
"""

from __future__ import annotations

import re

import apsw

from rollrep.core.nouns import PREFIX
from rollrep.query import all_rows, as_text, one_value, text_bytes
from rollrep.source.tables import META

_HEAD = re.compile(r"^(?:table|index|view|trigger) [^ \n]*", re.MULTILINE)
_WORD = re.compile(r"[^ \n]*")


class CapturedSchema:
    """
    >>> captured = CapturedSchema("table a b CREATE TABLE [a b](c)\\ntable t CREATE TABLE t(a) -- not\\ntable\\nu")
    >>> captured.has("table", "a b"), captured.has("table", "b"), captured.has("table", "u"), captured.has("view", "t")
    (True, False, False, False)
    >>> captured.has("table", "t", "CREATE TABLE t(a)"), captured.has("table", "t", "CREATE TABLE t(a, b)")
    (True, False)
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._places: dict[str, list[int]] = {}
        for found in _HEAD.finditer(text):
            self._places.setdefault(found[0], []).append(found.start())

    def has(self, kind: str, name: str, text: str = "") -> bool:
        """Whether an object was there, and its text was or began with `text`."""
        # A name may have spaces and line ends of its own.
        word = _WORD.match(name)
        places = self._places.get(f"{kind} {word[0]}", ()) if word else ()
        return any(self._text.startswith(f"{kind} {name} {text}", place) for place in places)


def captured_schema(db: apsw.Connection) -> CapturedSchema | None:
    """None while capture is taken away for a migration."""
    text = as_text(db, one_value(db, f"SELECT {text_bytes('schema_text')} FROM {META}"))
    return None if text is None else CapturedSchema(text)


def count_new_objects(db: apsw.Connection, captured: CapturedSchema | None) -> int:
    """How many objects of the application's there are by names that were not captured: each took a change to make."""
    if captured is None:
        return 0
    rows = all_rows(
        db,
        f"SELECT type, {text_bytes('name')} FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT GLOB '{PREFIX}*'",
    )
    return sum(not captured.has(kind, as_text(db, name) or "") for kind, name in rows)
