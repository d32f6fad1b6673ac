"""Digests of key ranges: the SQL by which both sides take them, so that equal rows give equal bytes.

    key space   ──(────────](───────](──────────](──── ...      parts: after < key ≤ through
    parts.part      rows 512   rows 512   rows 512              each with its count and its digest

A digest is SQLite's own SHA-3 over each column's values, in key order, storage class and length included
(https://sqlite.org/src/file/ext/misc/shathree.c, `sha3_agg`), and over these digests again.  So 1 is not
1.0, text is no blob, -0.0 is not 0.0, and what stands after a NUL counts.  Text of a UTF-16 database is
taken as its bytes, because turning it into UTF-8 would make different invalid texts equal.

One statement takes the digests of many parts: parts in the outer loop, the table's own b-tree in the
inner one.  Another index would give the rows in another order, so none may be used.

Pure: text in, text out.  Knows: core, the messages' ranges.  Does not know: who reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rollrep.core import sql
from rollrep.core.nouns import Shape
from rollrep.core.tokens import Bindable, bind_key
from rollrep.wire.messages import KeyRange

LONG_BYTES = 16
"""a digest that says that rows are equal"""
SHORT_BYTES = 8
"""a digest that only finds where, inside a part that is known to differ, rows do"""
LONG_GROUP_ROWS = 256
SCHEMA = "parts"
PART = f"{SCHEMA}.part"
ASKED = f"{SCHEMA}.asked"


@dataclasses.dataclass(frozen=True)
class Scan:
    """How the rows of one table are reached in key order, in one database."""

    shape: Shape
    bare_key: tuple[str, ...]
    """the key columns of `t`"""
    key: tuple[str, ...]
    """the same, with a collation where the column's own is not the key's"""
    source: str
    """the FROM term, `... AS t`, bound to the table's own b-tree"""
    utf8: bool


def part_tables(key_width: int) -> list[str]:
    """The tables of the attached `parts`: the ranges that were asked for, and the parts of each."""
    lo, hi = _columns("lo", key_width), _columns("hi", key_width)
    return [
        f"CREATE TABLE {ASKED}(span INTEGER PRIMARY KEY, lo_open, hi_open, {lo}, {hi})",
        f"CREATE TABLE {PART}(n INTEGER PRIMARY KEY, span, lo_open, hi_open, {lo}, {hi}, rows, digest)",
    ]


def drop_part_tables() -> list[str]:
    return [f"DROP TABLE IF EXISTS {ASKED}", f"DROP TABLE IF EXISTS {PART}"]


def ask_range(span: int, asked: KeyRange, key_width: int) -> tuple[str, list[Bindable]]:
    """The statement that puts one range among those that are asked for, and what to bind to it.

    Each end has `key_width` values, which the caller has checked.  Raises RollrepError as `bind_token` does.
    """
    terms: list[str] = []
    bound: list[Bindable] = []
    for end in (asked.after, asked.through):
        expressions, values = bind_key(end) if end is not None else (["NULL"] * key_width, [])
        terms += expressions
        bound += values
    # Nothing but values differs from one range to the next: so SQLite compiles one statement for all.
    opens = [asked.after is None, asked.through is None]
    return f"INSERT INTO {ASKED} VALUES (?, ?, ?, {', '.join(terms)})", [span, *opens, *bound]


def fill_lower_ends(key_width: int) -> list[str]:
    """A part begins where the one before it ends, and the first of a span where the span does."""
    lo, hi = _columns("lo", key_width), _columns("hi", key_width)
    before = f"FROM {PART} q WHERE q.n = part.n - 1 AND q.span = part.span"
    return [
        f"UPDATE {PART} SET (lo_open, {lo}) = (SELECT lo_open, {lo} FROM {ASKED} a WHERE a.span = part.span)",
        f"UPDATE {PART} SET (lo_open, {lo}) = (SELECT 0, {hi} {before}) WHERE EXISTS (SELECT 1 {before})",
    ]


def close_span(key_width: int) -> str:
    """The part behind the last whole group of span ?1, unless that group ends where the span does."""
    hi = _columns("hi", key_width)
    same = " AND ".join(f"q.hi{n} IS a.hi{n}" for n in range(key_width))
    return (
        f"INSERT INTO {PART}(span, hi_open, {hi}) SELECT span, hi_open, {hi} FROM {ASKED} a WHERE span = ?1"
        f" AND (hi_open OR NOT EXISTS (SELECT 1 FROM {PART} q WHERE q.span = ?1 AND {same}"
        f" AND q.n = (SELECT max(n) FROM {PART})))"
    )


def group_digest_bytes(group_rows: int) -> int:
    """How long the digest of a group is: large groups may be the last word, small ones only say where to look."""
    return LONG_BYTES if group_rows >= LONG_GROUP_ROWS else SHORT_BYTES


def groups_table(name: str, key_width: int) -> str:
    """The table in which parts travel: span, whether its upper end is open, count, digest, upper key."""
    return f"CREATE TABLE {name}(span, hi_open, rows, digest, {_columns('k', key_width)})"


def _columns(letters: str, key_width: int) -> str:
    return ", ".join(f"{letters}{n}" for n in range(key_width))


def scan_of(shape: Shape, key_index: str | None, collations: Sequence[str], *, utf8: bool) -> Scan:
    """`key_index` is the index behind the key of a WITHOUT ROWID table, `collations` those of the key's columns.

    >>> shape = Shape(1, "t", ("k", "v"), 1, False, True, ("NOCASE",), (), False, True)
    >>> scan_of(shape, "i", ["BINARY"], utf8=True).key
    ('t."k" COLLATE NOCASE',)
    """
    bare = tuple(f"t.{sql.name(column)}" for column in shape.key)
    if not shape.without_rowid:
        return Scan(shape, bare, bare, f"main.{sql.name(shape.table)} AS t NOT INDEXED", utf8)
    assert key_index is not None, "a WITHOUT ROWID table has an index behind its key"
    key = tuple(sql.collated(bare, collations, shape.key_collations))
    return Scan(shape, bare, key, f"main.{sql.name(shape.table)} AS t INDEXED BY {sql.name(key_index)}", utf8)


def inside(scan: Scan, *, lo_open: bool, hi_open: bool, row: str = "p", lower: str = "lo") -> str:
    """SQL that is true of the rows of `t` in part `p`.

    The unary plus takes the affinity from the part's columns: with one, SQLite would enter an index by the
    first column of a row value only, and read all rows of one tenant for each of its parts.
    """
    terms = []
    if not lo_open:
        terms += _beyond(scan, ">", [f"+{row}.{lower}{n}" for n in range(len(scan.key))])
    if not hi_open:
        terms += _beyond(scan, "<=", [f"+{row}.hi{n}" for n in range(len(scan.key))])
    return " AND ".join(terms) or "1"


def after_key(scan: Scan, ends: Sequence[str]) -> str:
    """SQL that is true of the rows of `t` beyond a key, given as SQL expressions; of all where none is."""
    return " AND ".join(_beyond(scan, ">", [f"+{end}" for end in ends])) if ends else "1"


def is_through(scan: Scan, row: str = "p") -> str:
    """SQL that is true of the one row of `t` whose key is the upper end of part `p`."""
    return " AND ".join(f"{term} = +{row}.hi{n}" for n, term in enumerate(scan.key))


def digest_query(scan: Scan, condition: str, which: str, digest_bytes: int) -> str:
    """(n, rows, digest) of each part that has rows, in order of n.

    `condition` joins `t` with `p`; `which` chooses among the parts.
    """
    return (
        f"SELECT p.n, count(*), {_digest(scan, digest_bytes)} FROM {PART} p CROSS JOIN {scan.source}"
        f" ON {condition} WHERE {which} GROUP BY p.n"
    )


def passes(scan: Scan, digest_bytes: int) -> Iterator[str]:
    """The queries that together take the digests of all parts: open ends need conditions of their own."""
    for lo_open, hi_open in ((True, True), (True, False), (False, False), (False, True)):
        which = f"p.lo_open = {lo_open:d} AND p.hi_open = {hi_open:d}"
        yield digest_query(scan, inside(scan, lo_open=lo_open, hi_open=hi_open), which, digest_bytes)


def _beyond(scan: Scan, operator: str, ends: Sequence[str]) -> list[str]:
    """`key operator ends`.  A first column with a COLLATE says it alone too: in a row value it enters no index."""
    if len(scan.key) == 1:
        return [f"{scan.key[0]} {operator} {ends[0]}"]
    terms = [f"({', '.join(scan.key)}) {operator} ({', '.join(ends)})"]
    if "COLLATE" in scan.key[0].rpartition('"')[2]:
        terms.append(f"{scan.key[0]} {'>=' if operator == '>' else '<='} {ends[0]}")
    return terms


def _digest(scan: Scan, digest_bytes: int) -> str:
    parts: list[str] = []
    for column in scan.shape.columns:
        value = f"t.{sql.name(column)}"
        if not scan.utf8:
            value = f"CASE typeof({value}) WHEN 'text' THEN hex(CAST({value} AS BLOB)) ELSE {value} END"
        parts.append(f"hex(substr(sha3_agg({value}), 1, {digest_bytes}))")
    return f"substr(sha3({sql.balanced(parts, ' || ')}), 1, {digest_bytes})"
