"""Digests of a mirror's key ranges, and where they are not the source's: the SQL beneath comparing.

    parts.asked    the ranges that were asked for           chunk.groups   what the source says of them
    parts.part     the same groups, cut by the source's keys
    parts.taken    our count and digest of each

Knows: the wire's digests, SQL of the mirror's tables.  Does not know: the wire's conversation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import apsw

from rollrep.core import sql
from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Op, Shape
from rollrep.core.tokens import key_columns, make_key, show_token
from rollrep.query import all_rows, load_digests, one_value, own_collations
from rollrep.wire import digests
from rollrep.wire.digests import ASKED, LONG_BYTES, PART, SHORT_BYTES, Scan
from rollrep.wire.messages import KeyRange

TAKEN = f"{digests.SCHEMA}.taken"
STANDING = f"{digests.SCHEMA}.standing"
DIFFERS = "(g.rows IS NOT ifnull(d.rows, 0) OR g.digest IS NOT d.digest)"


@dataclasses.dataclass(frozen=True)
class Differing:
    """Where the groups that were compared last are not the source's."""

    ranges: list[KeyRange]
    """adjoining ones as one"""
    parts: int
    """how many groups differ"""
    of: int
    """how many were compared"""


class Parts:
    """Takes digests of one table of `db`.  Use it outside of transactions; `close` it before the next table."""

    def __init__(self, db: apsw.Connection, shape: Shape) -> None:
        self._db = db
        self._shape = shape
        load_digests(db, "shathree")
        self.scan = scan_of(db, shape)
        self._encoding = str(db.pragma("encoding"))
        db.execute(f"ATTACH ':memory:' AS {digests.SCHEMA}")

    def close(self) -> None:
        self._db.execute(f"DETACH {digests.SCHEMA}")

    def digest_of(self, span: KeyRange) -> tuple[int, str]:
        """(rows, digest as hexadecimal digits) of one range."""
        self.ask([span])
        self._db.execute(f"INSERT INTO {PART} SELECT 1, *, NULL, NULL FROM {ASKED}")
        taken = [row for query in digests.passes(self.scan, LONG_BYTES) for row in all_rows(self._db, query)]
        return (taken[0][1], taken[0][2].hex()) if taken else (0, "")

    def ask(self, ranges: Sequence[KeyRange]) -> None:
        """Makes `parts.asked` these ranges."""
        width = self._shape.key_width
        for statement in (*digests.drop_part_tables(), *digests.part_tables(width)):
            self._db.execute(statement)
        for span, asked in enumerate(ranges):
            for end in (asked.after, asked.through):
                if end is not None and len(end) != width:
                    raise VerifyFailed(f"a key of {self._shape.table} came with {len(end)} values")
            self._db.execute(*digests.ask_range(span, asked, width))

    def take_groups(self, ranges: Sequence[KeyRange], group_rows: int) -> None:
        """Takes our digests of the groups in `chunk.groups`, which must cover `ranges` to their ends."""
        width = self._shape.key_width
        self.ask(ranges)
        his, keys = (", ".join(f"{letter}{n}" for n in range(width)) for letter in ("hi", "k"))
        self._db.execute(
            f"INSERT INTO {PART}(span, hi_open, {his}) SELECT span, hi_open, {keys} FROM chunk.groups ORDER BY rowid"
        )
        for statement in digests.fill_lower_ends(width):
            self._db.execute(statement)
        same = " AND ".join(f"p.hi{n} IS a.hi{n}" for n in range(width))
        covered = one_value(
            self._db,
            f"SELECT count(*) FROM {ASKED} a JOIN {PART} p ON p.n = (SELECT max(n) FROM {PART} q WHERE q.span = a.span)"
            f" WHERE p.hi_open = a.hi_open AND (a.hi_open OR ({same}))",
        )
        if covered != len(ranges):
            raise VerifyFailed("the source sent digests of other rows than it was asked for")
        self._take(TAKEN, digests.passes(self.scan, digests.group_digest_bytes(group_rows)))

    def differing(self) -> Differing:
        """Where the groups that were taken last are not what the source says of them."""
        width = self._shape.key_width
        tokens = key_columns(f"p.{end}{n}" for end in ("lo", "hi") for n in range(width))
        rows = all_rows(
            self._db,
            f"SELECT p.n, p.span, p.lo_open, p.hi_open, {tokens} {self._compared()} WHERE {DIFFERS} ORDER BY p.n",
        )
        ranges: list[KeyRange] = []
        last: tuple[int, int] | None = None
        for n, span, lo_open, hi_open, *flat in rows:
            key = make_key(flat)
            after, through = None if lo_open else key[:width], None if hi_open else key[width:]
            if last == (n - 1, span):
                ranges[-1] = KeyRange(ranges[-1].after, through)
            else:
                ranges.append(KeyRange(after, through))
            last = (n, span)
        return Differing(ranges, len(rows), int(one_value(self._db, f"SELECT count(*) FROM {PART}")))

    def differing_rows(self, most_keys: int) -> tuple[int, list[str]]:
        """(how many rows are changed, missing here or only here, the first keys of them as SQL literals).

        Call it after groups of one row were taken.
        """
        at_key = digests.digest_query(self.scan, digests.is_through(self.scan), "NOT p.hi_open", SHORT_BYTES)
        self._take(STANDING, [at_key])
        tokens = key_columns(f"p.hi{n}" for n in range(self._shape.key_width))
        rows = all_rows(
            self._db,
            "SELECT p.n, p.lo_open, p.hi_open, g.rows > 0, g.rows > 0 AND s.digest IS NOT g.digest,"
            f" ifnull(d.rows, 0) - (g.rows > 0 AND s.n IS NOT NULL), {tokens} {self._compared()}"
            f" LEFT JOIN {STANDING} s ON s.n = p.n WHERE {DIFFERS} ORDER BY p.n",
        )
        keys: list[str] = []
        for n, lo_open, hi_open, at_source, other, only_here, *flat in rows:
            if len(keys) >= most_keys:
                break
            if only_here:
                within = digests.inside(self.scan, lo_open=bool(lo_open), hi_open=bool(hi_open))
                here = f"{within} AND NOT ({digests.is_through(self.scan)})" if at_source else within
                keys += self._keys_here(n, here, most_keys - len(keys))
            if other:
                keys.append(self._shown(flat))
        return sum(row[4] + row[5] for row in rows), keys[:most_keys]

    def replace_rows(self, ranges: Sequence[KeyRange]) -> None:
        """Makes the rows within `ranges` those of `chunk.rows`.  Call it inside a transaction."""
        self.ask(ranges)
        keys = ", ".join(self.scan.key)
        target = f"main.{sql.name(self._shape.table)}"
        for lo_open in (False, True):
            for hi_open in (False, True):
                within = digests.inside(self.scan, lo_open=lo_open, hi_open=hi_open)
                self._db.execute(
                    f"DELETE FROM {target} AS t WHERE {f'({keys})' if self._shape.key_width > 1 else keys} IN (SELECT"
                    f" {', '.join(self.scan.bare_key)} FROM {ASKED} p CROSS JOIN {self.scan.source} ON {within}"
                    f" WHERE p.lo_open = {lo_open:d} AND p.hi_open = {hi_open:d})"
                )
        values = ", ".join(f"v{n}" for n in range(self._shape.width))
        self._db.execute(
            f"INSERT OR REPLACE INTO {target}({sql.names(self._shape.columns)})"
            f" SELECT {values} FROM chunk.rows ORDER BY rowid"
        )

    def note_changes(self, shape_id: int, ranges: Sequence[KeyRange], first_id: int) -> int:
        """Puts into `batch.log`, under ids after `first_id`, what makes the rows within `ranges` those of `chunk.rows`.

        Only what differs: a DELETE of each row that is only here, a PUT of each that is missing or another one.
        Gives how many.  Call it inside a transaction.
        """
        self.ask(ranges)
        width, key_width = self._shape.width, self._shape.key_width
        noted = 0
        names = [f"v{n}" for n in range(width)]
        keys, there = ", ".join(self.scan.key), ", ".join(names[:key_width])
        into = "INSERT INTO batch.log(id, at, shape, op, {}) SELECT ?1 + {}, 0, ?2, {:d}, {}"
        for lo_open in (False, True):
            for hi_open in (False, True):
                within = digests.inside(self.scan, lo_open=lo_open, hi_open=hi_open)
                gone = into.format(there, "row_number() OVER ()", Op.DELETE, ", ".join(self.scan.bare_key))
                self._db.execute(
                    f"{gone} FROM {ASKED} p CROSS JOIN {self.scan.source} ON {within} WHERE p.lo_open = {lo_open:d}"
                    f" AND p.hi_open = {hi_open:d} AND {f'({keys})' if key_width > 1 else keys} NOT IN"
                    f" (SELECT {there} FROM chunk.rows)",
                    (first_id + noted, shape_id),
                )
                noted += self._db.changes()
        same = " AND ".join(f"{key} = r.v{n}" for n, key in enumerate(self.scan.key))
        differs = sql.balanced(
            [sql.differs(f"t.{sql.name(column)}", f"r.v{n}") for n, column in enumerate(self._shape.columns)], " OR "
        )
        put = into.format(", ".join(names), "row_number() OVER ()", Op.PUT, ", ".join(f"r.{name}" for name in names))
        self._db.execute(
            f"{put} FROM chunk.rows r LEFT JOIN {self.scan.source} ON {same}"
            f" WHERE {self.scan.bare_key[0]} IS NULL OR {differs}",
            (first_id + noted, shape_id),
        )
        return noted + self._db.changes()

    def _compared(self) -> str:
        return f"FROM {PART} p JOIN chunk.groups g ON g.rowid = p.n LEFT JOIN {TAKEN} d ON d.n = p.n"

    def _take(self, table: str, queries: Iterable[str]) -> None:
        self._db.execute(f"DROP TABLE IF EXISTS {table}")
        self._db.execute(f"CREATE TABLE {table}(n INTEGER PRIMARY KEY, rows, digest)")
        for query in queries:
            self._db.execute(f"INSERT INTO {table} {query}")

    def _keys_here(self, part: int, condition: str, most: int) -> list[str]:
        tokens = key_columns(self.scan.bare_key)
        query = (
            f"SELECT {tokens} FROM {PART} p CROSS JOIN {self.scan.source} ON {condition} WHERE p.n = ?"
            f" ORDER BY {', '.join(self.scan.key)} LIMIT ?"
        )
        return [self._shown(flat) for flat in all_rows(self._db, query, (part, most))]

    def _shown(self, flat: Sequence[object]) -> str:
        return ", ".join(show_token(token, self._encoding) for token in make_key(flat))


def scan_of(db: apsw.Connection, shape: Shape) -> Scan:
    """How the rows of a table of the mirror are reached in key order."""
    utf8 = db.pragma("encoding") == "UTF-8"
    if not shape.without_rowid:
        return digests.scan_of(shape, None, (), utf8=utf8)
    index = one_value(db, "SELECT name FROM pragma_index_list(?) WHERE origin = 'pk'", (shape.table,))
    return digests.scan_of(shape, index, own_collations(db, shape.table, shape.key), utf8=utf8)
