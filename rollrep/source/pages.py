"""A whole database by its pages, in one read transaction: the way of a large first copy.

    SQLite's backup ──► a file that is none ──► runs of pages ──► packed in a thread ──► the wire

Rows would have to be put into every index again; pages come as they are, with their indexes, and are of the one
moment of the transaction.  Writers go on, but the write-ahead log can't begin anew until it ends, so it is given up
where the line is too slow for it, and rows travel.  Pages hold all there is: so only a database of which nothing is
left out goes by them.

Knows: SQLite's backup, SQL of the schema, the wire's pages.  Does not know: what becomes of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import apsw
import zstandard

from rollrep.core.nouns import PREFIX, Facts, Layout
from rollrep.query import all_rows, one_value
from rollrep.source.database import reading
from rollrep.source.log import Meta, read_facts
from rollrep.source.reader import pack_image
from rollrep.wire.messages import PagePart
from rollrep.wire.pages import MOST_PAGES, pack_pages

PART_BYTES = 4 << 20
STEP_PAGES = 256
COMPRESSION = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=20, hash_log=14, chain_log=12, search_log=1, min_match=5
)
"""as fast as level 1, whose table is as small, and denser than level 2: short matches are what rows have in common"""
LEAST_BYTES = 16 << 20
"""of smaller ones the rows are there as soon, and say what they are"""
LONGEST_S = 60.0
"""what the whole copy may take, by the speed of its beginning"""
JUDGED_S = 3.0
"""how long its beginning is"""
_VFS = "rollrep_pages"

Said = Callable[[PagePart, bytes], None]


def go_by_pages(db: apsw.Connection, layout: Layout) -> bool:
    """Whether pages may travel: nothing is left out, readers hold nobody up, and it is large."""
    if layout.refused or layout.virtuals or layout.journal_mode != "wal":
        return False
    pages, size = one_value(db, "SELECT page_count FROM pragma_page_count"), layout.page_size
    if pages * size < LEAST_BYTES or pages >= MOST_PAGES:
        return False
    captured = {shape.table for shape in layout.shapes}
    tables = all_rows(db, "SELECT name FROM sqlite_schema WHERE type = 'table'")
    return all(name in captured or name.startswith((PREFIX, "sqlite_")) for (name,) in tables)


def send_pages(db: apsw.Connection, meta: Meta, begin: Callable[[Facts, int], None], say: Said) -> bool:
    """Says all pages as of the facts that `begin` is told, with their number; False where the line is too slow."""
    began = time.monotonic()
    with ThreadPoolExecutor(1) as packing, reading(db):
        facts = read_facts(db, meta)
        pages = int(one_value(db, "SELECT page_count FROM pragma_page_count"))
        begin(facts, pages)
        packer = _Packer(int(db.pragma("page_size")), blanks=not db.pragma("auto_vacuum"))
        under_way: Future[tuple[PagePart, bytes]] | None = None
        sent = 0
        for first, raw in _runs(db):
            ready = under_way and under_way.result()
            under_way = packing.submit(packer.pack, first, raw)
            if ready:
                say(*ready)
                sent += ready[0].pages
            spent_s = time.monotonic() - began
            if sent and spent_s > JUDGED_S and spent_s * pages / sent > LONGEST_S:
                return False
        if under_way:
            say(*under_way.result())
    return True


class _Packer:
    """Used by one thread only."""

    def __init__(self, page_size: int, *, blanks: bool) -> None:
        self._page_size = page_size
        self._blanks = blanks
        self._compressor = zstandard.ZstdCompressor(compression_params=COMPRESSION)

    def pack(self, first: int, raw: bytes) -> tuple[PagePart, bytes]:
        ordered = pack_pages(raw, self._page_size, blanks=self._blanks)
        image, packed = pack_image(self._compressor, ordered)
        return PagePart(first, len(raw) // self._page_size, image), packed


def _runs(db: apsw.Connection) -> Iterator[tuple[int, bytes]]:
    """(number of the first page, pages that follow one another) of all that a backup writes, as it writes them."""
    vfs = _Vfs()
    try:
        target = apsw.Connection("pages", vfs=_VFS)
        try:
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE", "cache_size = 64"):
                target.execute(f"PRAGMA {pragma}").fetchall()
            with target.backup("main", db, "main") as backup:
                while not backup.done:
                    backup.step(STEP_PAGES)
                    yield from vfs.take(PART_BYTES)
        finally:
            target.close()
        yield from vfs.take(0)
    finally:
        vfs.unregister()


class _Vfs(apsw.VFS):
    """A file system of one file, which keeps nothing: what is written waits to be taken."""

    def __init__(self) -> None:
        super().__init__(_VFS, "")
        self._runs: list[tuple[int, list[bytes]]] = []
        self._waiting = 0
        self._page_size = 0
        self._end = -1
        self.header = b""
        self.size = 0

    def take(self, least: int) -> Iterator[tuple[int, bytes]]:
        """What waits, where it is `least` bytes."""
        if self._waiting < least:
            return
        runs, self._runs, self._waiting, self._end = self._runs, [], 0, -1
        for offset, pieces in runs:
            yield offset // len(pieces[0]) + 1, b"".join(pieces)

    def write(self, data: bytes, offset: int) -> None:
        if offset == 0:
            self.header = data
        if offset == self._end:
            self._runs[-1][1].append(data)
        else:
            self._runs.append((offset, [data]))
        self._end = offset + len(data)
        self._waiting += len(data)
        self.size = max(self.size, self._end)

    def xOpen(self, name: object, flags: object) -> _File:  # noqa: N802
        return _File(self)

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return False

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        return


class _File(apsw.VFSFile):
    """That file.  SQLite reads of it no more than its first page."""

    def __init__(self, vfs: _Vfs) -> None:
        self._vfs = vfs

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return self._vfs.header[offset : offset + amount]

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._vfs.write(bytes(data), offset)

    def xFileSize(self) -> int:  # noqa: N802
        return self._vfs.size

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._vfs.size = newsize

    def xSync(self, flags: int) -> None:  # noqa: N802
        return

    def xClose(self) -> None:  # noqa: N802
        return

    def xLock(self, level: int) -> None:  # noqa: N802
        return

    def xUnlock(self, level: int) -> None:  # noqa: N802
        return

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0
