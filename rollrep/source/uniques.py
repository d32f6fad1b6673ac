"""A table's UNIQUE indexes beside its key, and whether a BEFORE trigger can tell which row NEW collides with on one.

    UNIQUE (hall, place)                              columns, probed by their names
    CREATE UNIQUE INDEX ... (lower(email)) WHERE ...  its text, over NEW's values under the columns' names
    UNIQUE (generated), a text that can't be read     not probed
    CREATE UNIQUE INDEX ... (v, id > 0)               not probed: SQLite has not chosen the id yet

Read-only.  Knows: SQLite's schema pragmas, core.  Does not know: the log, triggers.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import apsw

from rollrep.core import sql
from rollrep.query import all_rows


@dataclasses.dataclass(frozen=True)
class Unique:
    """A UNIQUE index other than the key, as SQL terms to probe it with."""

    terms: tuple[tuple[str, str], ...]
    """(SQL expression over the table's columns, collation)"""
    where: str
    """the partial index's condition; empty for a full index"""
    columns: tuple[str, ...] | None
    """the plain columns it names; None where expressions or a condition may name others"""
    lasting: bool
    """a constraint of the table: SQLite drops none of its columns; what CREATE INDEX made can be dropped before them"""


@dataclasses.dataclass(frozen=True)
class Unknown:
    """The columns of which NEW does not hold, before the row is written, what will be written."""

    chosen: Collection[str]
    """the INTEGER PRIMARY KEY: -1 until SQLite has chosen it (https://www.sqlite.org/lang_createtrigger.html, 2)"""
    defaulted: Collection[str]
    """NOT NULL with a default: generated columns are still those of the NULL that OR REPLACE puts it in place of"""
    generated: Collection[str]
    table_text: str

    def are_in(self, terms: Sequence[str]) -> bool:
        """Whether what an index sorts by depends on them.

        >>> text = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, g AS (v + 1), [h] AS (-ID))"
        >>> [Unknown({"id"}, (), {"g"}, text).are_in([term]) for term in ("abs(v)", "v + iD", "g")]
        [False, True, True]
        >>> Unknown({"id"}, {"v"}, {"g"}, "CREATE TABLE t(id INTEGER PRIMARY KEY, v, g AS (v + 1))").are_in(["v", "g"])
        True
        """
        named = {word for term in terms for word in sql.words_of(term)}
        if not named.isdisjoint(map(sql.fold, self.chosen)):
            return True
        if named.isdisjoint(map(sql.fold, self.generated)):
            return False
        return not _generating_words(self.table_text).isdisjoint(map(sql.fold, [*self.chosen, *self.defaulted]))


def uniques_of(
    db: apsw.Connection,
    stored: set[str],
    indexes: Sequence[tuple[str, int, str, int]],
    key_index: str | None,
    texts: Mapping[str, str],
    unknown: Unknown,
) -> tuple[list[Unique], bool]:
    """The UNIQUE indexes other than the key, and whether every one of them can be probed."""
    found: list[Unique] = []
    all_probed = True
    for index, unique, origin, partial in indexes:
        if not unique or index == key_index:
            continue
        lasting = origin != "c"
        parts = all_rows(db, "SELECT cid, name, coll FROM pragma_index_xinfo(?) WHERE key", (index,))
        plain = all(cid >= 0 for cid, _, _ in parts)
        columns = tuple(name for _, name, _ in parts)
        # An UPDATE never names a generated column, so one in the index means any column may matter.
        if plain and not partial and stored.issuperset(columns):
            found.append(Unique(tuple((sql.name(n), coll) for _, n, coll in parts), "", columns, lasting))
            continue
        parsed = parse_index(texts[index]) if index in texts else None
        # No two rows are equal in the key itself, so such an index removes nothing that the key would not.
        has_key = any(name in unknown.chosen for _, name, _ in parts)
        if parsed is None or len(parsed[0]) != len(parts) or (not has_key and unknown.are_in(parsed[0])):
            all_probed = False
            continue
        terms = tuple(
            (sql.name(name) if cid >= 0 else expression, coll or "BINARY")
            for (cid, name, coll), expression in zip(parts, parsed[0], strict=True)
        )
        found.append(Unique(terms, parsed[1], None, lasting))
    return found, all_probed


def parse_index(statement: str) -> tuple[list[str], str] | None:
    """(the indexed terms without COLLATE/ASC/DESC, the WHERE condition or "") of a CREATE INDEX, or None.

    >>> parse_index("CREATE UNIQUE INDEX u ON t(lower(email), b DESC) WHERE gone = 0")
    (['lower(email)', 'b'], 'gone = 0')
    >>> parse_index("CREATE UNIQUE INDEX u ON t(a || ',' || b)")
    (["a || ',' || b"], '')
    >>> parse_index("CREATE UNIQUE INDEX u ON t(a + 1 -- one\\n, b) WHERE b > 0 /* open")
    (['a + 1', 'b'], 'b > 0')
    """
    bare = sql.without_comments(statement)
    tokens = [(m.group(), m.start(), m.end()) for m in sql.TOKEN.finditer(bare)]
    on = next((i for i, (token, *_) in enumerate(tokens) if token.upper() == "ON"), None)
    if on is None or on + 2 >= len(tokens) or tokens[on + 2][0] != "(":
        return None
    terms, depth, start = [], 0, tokens[on + 2][2]
    for position in range(on + 2, len(tokens)):
        token, begin, end = tokens[position]
        depth += (token == "(") - (token == ")")
        if depth == 0 or (depth == 1 and token == ","):
            terms.append(_ORDER.sub("", bare[start:begin].strip()).strip())
            start = end
        if depth == 0:
            rest = tokens[position + 1 :]
            if not rest:
                return terms, ""
            return (terms, bare[rest[0][2] :].strip()) if rest[0][0].upper() == "WHERE" else None
    return None


_ORDER = re.compile(
    r"""(\s+COLLATE\s+("(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|\S+))?(\s+(ASC|DESC))?\s*$""",
    re.IGNORECASE,
)


def _generating_words(table_text: str) -> set[str]:
    """The words in the expressions of all generated columns: one may be made of another."""
    found, depth = set(), 0
    tokens = sql.tokens_of(table_text)
    for before, token in itertools.pairwise(tokens):
        if depth or before.upper() == "AS":
            depth += (token == "(") - (token == ")")
            found.add(sql.fold(sql.unquoted(token)))
    return found
