"""The leaves of a table's b-tree, told by digests: the first rung of comparing.

    stretch   ├──────────────── as many leaves as 30 ms allow        one digest, or one of each leaf or its page
    cells     ├─┤    ├┤         one digest of each row               of leaves that were told

Leaves are read in one transaction with the log's tail, by a connection of their own, and digested when it is over.  The
last few stretches are kept: their cells are told as they were, though the table may have changed since.

Knows: the reader, leaf pages, the wire's leaves.  Does not know: what is compared with what.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import zstandard

from rollrep.core.errors import RollrepError
from rollrep.core.nouns import Shape
from rollrep.leaf_pages import LeafPages, Seen
from rollrep.query import load_digests
from rollrep.source.database import open_source
from rollrep.source.log import Meta
from rollrep.source.reader import (
    COMPRESSION_LEVEL,
    FIRST_CHUNK_ROWS,
    STRETCH_ROWS,
    STRETCH_S,
    Reader,
    Tail,
    pack_image,
    scan_of,
)
from rollrep.wire import messages
from rollrep.wire.leaves import MOST_BYTES, Broken, cells_of, digest_of, pack_cells, rowid_key, rowids, tell_leaves
from rollrep.wire.messages import KeyRange

KEPT = 4
"""stretches; with three questions under way a destination asks for the cells of one soon after"""


class Leaves:
    """What one connection is asked about leaves."""

    def __init__(self, path: Path) -> None:
        self._pages = LeafPages(lambda vfs: open_source(path, vfs=vfs), MOST_BYTES)
        load_digests(self._pages.db, "sha1")
        self._reader = Reader(self._pages.db)
        self._compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
        self._rows: dict[int, int] = {}
        self._number = 0
        self._kept: deque[tuple[int, list[bytes | list[bytes]]]] = deque(maxlen=KEPT)
        """the number and the leaves of each: pages, or their cells where these were found already"""

    def close(self) -> None:
        self._pages.close()

    def stretch(
        self, meta: Meta, shape: Shape, wanted: messages.SendStretch
    ) -> tuple[Tail, tuple[messages.Leaves, bytes | None] | None] | None:
        """The tail of the log, and the first leaves of what is wanted; None where they can't be told.  Raises Gone."""
        ends = rowids(KeyRange(wanted.after_key, wanted.through_key))
        if shape.without_rowid or ends is None:
            return None
        tail, _, found = self._reader.with_tail(meta, wanted.position, lambda: [self._seen(shape, *ends)])
        if found is None:
            return tail, None
        [seen] = found
        if seen is None:
            return None
        leaves = tell_leaves(seen.pages, of_pages=wanted.of_pages)
        digests = [digest for digest, _ in leaves]
        self._number += 1
        image, packed = None, None
        if wanted.leaves == "each" and leaves:
            image, packed = pack_image(self._compressor, b"".join(digests))
            kept = [cells or page for page, (_, cells) in zip(seen.pages, leaves, strict=True)]
            self._kept.append((self._number, kept))
        told = messages.Leaves(
            shape.id,
            self._number,
            seen.rows,
            len(leaves),
            digest_of(digests),
            rowid_key(seen.last),
            image,
            wanted.of_pages,
        )
        return tail, (told, packed)

    def cells(self, wanted: messages.SendCells) -> tuple[messages.Cells, bytes | None]:
        """The cells of some of the leaves of a stretch, if it is still kept.  Raises RollrepError on others."""
        leaves = dict(self._kept).get(wanted.number)
        if leaves is None:
            return messages.Cells(wanted.shape, None), None
        if not all(0 <= each < len(leaves) for each in wanted.leaves):
            raise RollrepError("cells were asked for of leaves that were not told")
        cells = (_cells(leaves[each]) for each in wanted.leaves)
        image, packed = pack_image(self._compressor, pack_cells(cells, self._pages.page_size, wanted.key))
        return messages.Cells(wanted.shape, image), packed

    def _seen(self, shape: Shape, after: int | None, through: int | None) -> Seen | None:
        began, rows = time.perf_counter(), self._rows.get(shape.id, FIRST_CHUNK_ROWS)
        scan = scan_of(self._pages.db, shape, utf8=True)
        seen = self._pages.first(scan.source, scan.bare_key[0], after, through, rows)
        if seen and seen.last is not None:
            # Rows are mostly like those before them: as many as time and memory allow.
            fitting = STRETCH_S / max(1e-4, time.perf_counter() - began)
            room = MOST_BYTES * 7 / 8 / (len(seen.pages) * self._pages.page_size)
            self._rows[shape.id] = max(1, min(STRETCH_ROWS, int(seen.rows * min(4, fitting, room))))
        return seen


def _cells(leaf: bytes | list[bytes]) -> list[bytes]:
    """In key order; none of a page that is no sound leaf."""
    if isinstance(leaf, list):
        return leaf
    try:
        return cells_of(leaf)
    except Broken:
        return []
