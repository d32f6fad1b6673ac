"""The leaves of a table's b-tree as SQLite itself reads them: whatever lies in a WAL, and of one moment.

    SELECT over the keys ──► SQLite ──► its file or its WAL
                              ▲ pages       │
                              └──── seen ◄──┘

No SQL gives a page.  But SQLite reads all of its pages through a file system that may be ours, which does nothing but
look; and it counts rows along a table's leaves, each once, and nothing else.  It would not read what it still knows,
so it is made to forget before.  Whether all leaves were seen is then counted: they have just the rows that there are.

Knows: apsw's file systems, how a leaf tells its rows.  Does not know: digests, who compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import apsw

from rollrep.query import find_row, one_value
from rollrep.wire.leaves import KIND, Broken, key_at, rows_of

T = TypeVar("T")

_numbers = itertools.count()


class Seen(NamedTuple):
    """The leaves that have the rows that were asked for, in key order; the first and the last may have others too."""

    pages: list[bytes]
    rows: int
    last: int | None
    """the key of the last row of these; None: up to the end of what was asked for"""


class LeafPages:
    """Opens a connection that sees what it reads; `close` it."""

    def __init__(self, connect: Callable[[str], apsw.Connection], most_bytes: int) -> None:
        """`connect` opens the connection through the file system by this name; so many bytes are seen at once."""
        self._watch = _Watch(f"rollrep_leaves_{next(_numbers)}")
        try:
            self.db = connect(self._watch.name)
        except BaseException:
            self._watch.unregister()
            raise
        self._watch.interrupt = self.db.interrupt
        self.page_size = int(self.db.pragma("page_size"))
        self._whole = self.db.read("main", 0, 20, 1) == (True, b"\0")
        """whether nobody keeps the ends of pages for something else"""
        self._most = max(2, most_bytes // self.page_size)

    def close(self) -> None:
        self.db.close()
        self._watch.unregister()

    def first(self, source: str, key: str, after: int | None, through: int | None, rows: int) -> Seen | None:
        """The leaves of the first `rows` rows `after` < key ≤ `through`, of fewer where these are too many.

        What the last leaf has besides counts among them.  None where leaves can't be seen.  `source` is the table in a
        FROM, bound to its own b-tree, `key` its rowid.
        """
        within, bound = _within(key, after, through)
        query = f"SELECT {key} FROM {source} WHERE {within} ORDER BY {key} LIMIT 1 OFFSET {rows - 1}"
        pages, found = self._seen(lambda: find_row(self.db, query, bound))
        try:
            if found is not None:
                last = int(found[0])
            elif len(pages) == self._most:
                last = key_at(pages[-1], -1)
                if through is not None:
                    last = min(last, through)
            else:
                return self._checked(pages, after, through, self._count(source, key, after, through))
            seen = self._checked(pages, after, last, rows if found else self._count(source, key, after, last))
            if seen is None:
                return None
            end = key_at(seen.pages[-1], -1)
            if through is not None and end >= through:
                return seen._replace(rows=seen.rows + _count(seen.pages[-1], last, through))
            return seen._replace(rows=seen.rows + _count(seen.pages[-1], last, None), last=end)
        except Broken:
            return None

    def within(self, source: str, key: str, after: int | None, through: int | None) -> Seen | None:
        """The leaves of all rows `after` < key ≤ `through`; None where they can't be seen, or are too many."""
        within, bound = _within(key, after, through)
        pages, rows = self._seen(lambda: one_value(self.db, f"SELECT count(*) FROM {source} WHERE {within}", bound))
        try:
            return self._checked(pages, after, through, int(rows)) if rows is not None else None
        except Broken:
            return None

    def _count(self, source: str, key: str, after: int | None, through: int | None) -> int:
        within, bound = _within(key, after, through)
        return int(one_value(self.db, f"SELECT count(*) FROM {source} WHERE {within}", bound))

    def _seen(self, ask: Callable[[], T]) -> tuple[list[bytes], T | None]:
        """The leaves that SQLite read for an answer, and the answer; None where it would have read too many."""
        # The schema has leaves too, which are read when it has changed.
        find_row(self.db, "SELECT 1 FROM main.sqlite_schema LIMIT 0")
        self.db.execute("PRAGMA shrink_memory").fetchall()
        pages: list[bytes] = []
        self._watch.look(pages, self.page_size, self._most)
        try:
            return pages, ask()
        except apsw.InterruptError:
            return pages, None
        finally:
            self._watch.look(None, 0, 0)

    def _checked(self, pages: list[bytes], after: int | None, last: int | None, rows: int) -> Seen | None:
        """None where they have not just `rows` rows `after` < key ≤ `last`: SQLite knew some without reading."""
        if not self._whole:
            return None
        pages = [page for page in pages if rows_of(page)]
        # Where a key is looked for, the leaf before it may be the first to be read; where rows end, one behind.
        while pages and after is not None and key_at(pages[0], -1) <= after:
            del pages[0]
        while pages and last is not None and key_at(pages[-1], 0) > last:
            del pages[-1]
        there = sum(map(rows_of, pages))
        if pages and after is not None:
            there -= _count(pages[0], None, after)
        if pages and last is not None:
            there -= _count(pages[-1], last, None)
        return Seen(pages, rows, None) if there == rows else None


def _within(key: str, after: int | None, through: int | None) -> tuple[str, list[int]]:
    ends = [(f"{key} > ?", after), (f"{key} <= ?", through)]
    return (
        " AND ".join(term for term, end in ends if end is not None) or "1",
        [end for _, end in ends if end is not None],
    )


def _count(page: bytes, after: int | None, through: int | None) -> int:
    """How many rows of a leaf have `after` < key ≤ `through`.  Raises Broken."""
    keys = [key_at(page, number) for number in range(rows_of(page))]
    return sum((after is None or key > after) and (through is None or key <= through) for key in keys)


class _Watch(apsw.VFS):
    """The file system there is, and what is read through it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.seen: list[bytes] | None = None
        self.size = self.most = 0
        self.interrupt: Callable[[], None] = lambda: None

    def look(self, seen: list[bytes] | None, size: int, most: int) -> None:
        """From now on, leaves that are read are put into `seen`, so many at most, and then it ends; None: no more."""
        self.seen, self.size, self.most = seen, size, most

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> _File:  # noqa: N802
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, watch: _Watch, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._watch = watch

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        data = super().xRead(amount, offset)
        watch = self._watch
        if watch.seen is not None and amount == watch.size and data[:1] == KIND and len(watch.seen) < watch.most:
            watch.seen.append(data)
            if len(watch.seen) == watch.most:
                watch.interrupt()
        return data
