"""Leaves of a table's b-tree and their cells, as digests: the cheapest that two copies of a table can be compared by.

    page    header │ pointers, in key order │ free │ cells, anywhere          as SQLite keeps it, and each copy else
    digest  of the page                                                       cheap, where copies were never apart
            of all its cells, the one with the largest key first              so it is of rows, and of no layout

A cell says how long it is, and then its key and its record; so bytes that are equal are the same rows, under the same
text of the table.  What a cell keeps on overflow pages is not among them: a leaf with such a cell has no digest that
says anything, and such a cell neither.  In a leaf that was filled in order its cells lie side by side in that order.

Pure: bytes in, bytes out.  Knows: SQLite's file format (https://sqlite.org/fileformat2.html, 1.6).  Does not know:
where pages come from, what is compared with what.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Iterable
from operator import sub

from rollrep.core.errors import VerifyFailed
from rollrep.core.tokens import bind_token
from rollrep.wire.messages import Key, KeyRange

KIND = b"\r"
"""the first byte of a leaf of a table with rowids"""
LEAF_BYTES = 16
"""a digest that says that rows are equal"""
CELL_BYTES = 8
"""a digest that only finds where, inside a leaf that is known to differ, rows do"""
Leaf = tuple[bytes, list[bytes] | None]
"""a leaf's digest, and its cells in key order where they had to be found for that"""
NO_LEAF, NO_CELL = bytes(LEAF_BYTES), bytes(CELL_BYTES)
"""of what can't be told; equal to nothing"""
MOST_KEY_BYTES = 64
"""of a key that may be whatever somebody sends"""
MOST_BYTES = 8 << 20
"""of the leaves of one answer"""

_HEADER = struct.Struct(">BHHHB")
_LEAST_CELL = 4


class Broken(VerifyFailed):
    """A page is no sound leaf."""

    def __init__(self) -> None:
        super().__init__("a page of a table is damaged", remedy="check the file: sqlite3 FILE 'PRAGMA integrity_check'")


def rowids(span: KeyRange) -> tuple[int | None, int | None] | None:
    """Both ends of a range of whole numbers; None where its keys are others.

    >>> rowids(KeyRange(("i:4",), None)), rowids(KeyRange(("t:61",), None)), rowids(KeyRange(("i:4", "i:5"), None))
    ((4, None), None, None)
    """
    ends: list[int | None] = []
    for key in (span.after, span.through):
        if key is None:
            ends.append(None)
            continue
        value = bind_token(key[0])[1] if len(key) == 1 else None
        if not isinstance(value, int):
            return None
        ends.append(value)
    return ends[0], ends[1]


def is_beyond(key: Key | None, other: Key | None) -> bool:
    """Whether a rowid comes after another one; None: whether the end of all comes after the beginning.

    >>> is_beyond(("i:5",), ("i:4",)), is_beyond(None, ("i:4",)), is_beyond(("i:4",), ("i:4",))
    (True, True, False)
    """
    ends = rowids(KeyRange(other, key))
    return ends is not None and (None in ends or ends[0] < ends[1])  # type: ignore[operator]


def rowid_key(rowid: int | None) -> tuple[str] | None:
    """The key on the wire; None for an end that is open."""
    return None if rowid is None else (f"i:{rowid}",)


def page_digest(page: bytes) -> bytes:
    """The digest of a leaf as it lies there; where it `tells_all`, equal ones are equal rows."""
    return hashlib.sha256(page).digest()[:LEAF_BYTES]


def tells_all(page: bytes) -> bool:
    """Whether a leaf is sound, and none of its rows has overflow pages."""
    try:
        return _are_side_by_side(page) or not _any_spills(cells_of(page), len(page))
    except Broken:
        return False


def tell_leaves(pages: Iterable[bytes], *, of_pages: bool) -> list[Leaf]:
    """What is told of each leaf: the digest of its page as it lies there, or of its rows."""
    return [(page_digest(page), None) if of_pages else read_leaf(page) for page in pages]


def read_leaf(page: bytes) -> Leaf:
    """The digest of all rows of a leaf; NO_LEAF where its page does not tell all of them."""
    try:
        if _are_side_by_side(page):
            together, cells = page[page[5] << 8 | page[6] :], None
        else:
            cells = cells_of(page)
            if _any_spills(cells, len(page)):
                return NO_LEAF, cells
            together = b"".join(cells[::-1])
    except Broken:
        return NO_LEAF, None
    return hashlib.sha256(together).digest()[:LEAF_BYTES], cells


def digest_of(leaves: Iterable[bytes]) -> str:
    """One digest of those of some leaves, which says nothing where one is NO_LEAF."""
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def cell_digests(cells: Iterable[bytes], page_size: int, key: str) -> list[bytes]:
    """The digest of each row by its cell, under a key; NO_CELL where that does not tell all of it."""
    spilled, sha256, secret = _least_spilled(page_size), hashlib.sha256, key.encode()[:MOST_KEY_BYTES]
    # The key before the cell, not a hash that takes keys: processors have instructions for SHA-256.
    return [
        sha256(secret + cell).digest()[:CELL_BYTES] if len(cell) < spilled or not _spills(cell, page_size) else NO_CELL
        for cell in cells
    ]


def pack_cells(leaves: Iterable[list[bytes]], page_size: int, key: str) -> bytes:
    """The digests of all rows of some leaves, given by their cells, as they travel."""
    counts, digests = bytearray(), list[bytes]()
    for cells in leaves:
        counts += len(cells).to_bytes(2)
        digests += cell_digests(cells, page_size, key)
    return b"".join([counts, *digests])


def unpack_cells(raw: bytes, leaves: int) -> list[list[bytes]]:
    """The digests of the rows of each of so many leaves.  Raises ValueError where that is none of `pack_cells`."""
    counts = _MANY[leaves].unpack_from(raw) if len(raw) >= 2 * leaves else ()
    if len(raw) != 2 * leaves + CELL_BYTES * sum(counts):
        raise ValueError("these are not the rows of so many leaves")
    found, at = [], 2 * leaves
    for count in counts:
        found.append(split(raw[at : at + count * CELL_BYTES], CELL_BYTES))
        at += count * CELL_BYTES
    return found


def split(raw: bytes, size: int) -> list[bytes]:
    """
    >>> split(b"abcdef", 2)
    [b'ab', b'cd', b'ef']
    """
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def cells_of(page: bytes) -> list[bytes]:
    """The cells of a leaf in key order.  Raises Broken."""
    pointers, size = _pointers(page), len(page)
    if sizes := _sizes_side_by_side(page, pointers):
        return [page[start : start + of] for start, of in zip(pointers, sizes, strict=True)]
    least, largest = 8 + 2 * len(pointers), size - 35
    cells = []
    try:
        for start in pointers:
            payload = page[start]
            end = start + 1
            if payload > 127:
                payload &= 127
                byte = 128
                while byte > 127:
                    byte = page[end]
                    end += 1
                    payload = payload << 7 | byte & 127
            key_ends = end + 8
            while page[end] > 127 and end < key_ends:
                end += 1
            end += 1 + (payload if payload <= largest else _local(payload, size))
            if start < least or end > size:
                raise Broken
            cells.append(page[start:end])
    except IndexError:
        raise Broken from None
    return cells


def rows_of(page: bytes) -> int:
    """How many rows a leaf has."""
    return page[3] << 8 | page[4]


def key_at(page: bytes, number: int) -> int:
    """The rowid of a leaf's row, by its place in key order; below zero from the last one.  Raises Broken."""
    pointers = _pointers(page)
    try:
        return key_of(page[pointers[number] : pointers[number] + 20])
    except IndexError:
        raise Broken from None


def key_of(cell: bytes) -> int:
    """The rowid of a cell, which may have more behind it.  Raises IndexError where it ends before that.

    >>> key_of(bytes([3, 0x81, 0x00]) + b"abc"), key_of(bytes([1] + [255] * 9 + [7]))
    (128, -1)
    """
    at = 0
    while cell[at] > 127:
        at += 1
    key = 0
    for number in range(1, 9):
        byte = cell[at + number]
        key = key << 7 | byte & 127
        if byte < 128:
            return key
    key = key << 8 | cell[at + 9]
    return key - (1 << 64) if key >= 1 << 63 else key


def _are_side_by_side(page: bytes) -> bool:
    """Whether all cells lie so, the last one first, and none may have an overflow page.  Raises Broken."""
    sizes = _sizes_side_by_side(page, _pointers(page))
    return sizes is not None and max(sizes) < _least_spilled(len(page))


def _sizes_side_by_side(page: bytes, pointers: tuple[int, ...]) -> list[int] | None:
    """The sizes of cells that lie side by side, the last one first, with nothing between and behind them."""
    _, free, _, first, fragments = _HEADER.unpack_from(page)
    if free or fragments or not pointers or first != pointers[-1]:
        return None
    sizes = list(map(sub, (len(page), *pointers), pointers))
    return sizes if min(sizes) >= _LEAST_CELL else None


def _pointers(page: bytes) -> tuple[int, ...]:
    count = page[3] << 8 | page[4]
    if page[:1] != KIND or 8 + 2 * count > len(page):
        raise Broken
    return _MANY[count].unpack_from(page, 8)


class _Many(dict[int, struct.Struct]):
    """So many numbers of two bytes."""

    def __missing__(self, count: int) -> struct.Struct:
        made = self[count] = struct.Struct(f">{count}H")
        return made


_MANY = _Many()


@functools.cache
def _least_spilled(page_size: int) -> int:
    """What a cell with overflow pages has on its own page, at least."""
    return (page_size - 12) * 32 // 255 - 23


def _local(payload: int, page_size: int) -> int:
    """What of so large a payload stands on the page, the number of the first overflow page included."""
    least = _least_spilled(page_size)
    some = least + (payload - least) % (page_size - 4)
    return 4 + (some if some <= page_size - 35 else least)


def _any_spills(cells: Iterable[bytes], page_size: int) -> bool:
    least = _least_spilled(page_size)
    return any(_spills(cell, page_size) for cell in cells if len(cell) >= least)


def _spills(cell: bytes, page_size: int) -> bool:
    """Whether a cell has overflow pages."""
    payload = 0
    for byte in cell:
        payload = payload << 7 | byte & 127
        if byte < 128:
            break
    return payload > page_size - 35
