"""Pages of a database on their way: like beside like, so that they pack well.

    page   header │ cell pointers │ free │ cells                       as SQLite has it
    pack   kinds of all pages │ headers with pointers │ cells of table leaves │ of index leaves │ … │ pages of no kind

Pointers are put down as differences from one another: cells of one size lie at equal distances.  What lies in the
free stretch between pointers and cells means nothing (https://sqlite.org/fileformat2.html, 1.6) and travels as zeros
where a page is surely of a b-tree.

Pure: bytes in, bytes out.  Knows: SQLite's file format.  Does not know: where pages come from.
"""

from __future__ import annotations

LEAVES = (13, 10)
INTERIOR = (5, 2)
KINDS = (*LEAVES, *INTERIOR, 0)
"""first bytes of a b-tree's pages, and 0 for all others"""
MOST_PAGES = 1 << 25
"""in a larger file an overflow page may begin like one of a b-tree, by the number of the next one"""
PENDING_BYTE = 0x4000_0000
"""the page that holds this byte is never used: locks lie there"""
_HEADERS = {13: 8, 10: 8, 5: 12, 2: 12}


def pack_pages(raw: bytes, page_size: int, *, blanks: bool) -> bytes:
    """Whole pages in another order of bytes, just as many and one more for each.

    `blanks` says that what begins like a page of a b-tree surely is one, so that its free bytes may be left out: so
    it is in a file of fewer than MOST_PAGES without auto_vacuum, whose own pages begin like any.

    >>> page = bytes([13, 0, 0, 0, 2, 1, 244, 0, 1, 250, 1, 244]) + b"old" * 162 + b"a" + b"two" * 2 + b"one" * 2 + b"a"
    >>> packed = pack_pages(page, 512, blanks=False)
    >>> unpack_pages(packed, 512) == page
    True
    >>> unpack_pages(pack_pages(page, 512, blanks=True), 512).count(b"old")
    0
    """
    kinds = bytearray()
    heads: list[bytes] = []
    bodies: dict[int, list[bytes]] = {kind: [] for kind in KINDS}
    for start in range(0, len(raw), page_size):
        page = raw[start : start + page_size]
        kind, body = page[0], _HEADERS.get(page[0], 0)
        cells = int.from_bytes(page[3:5], "big")
        first = int.from_bytes(page[5:7], "big") or 65_536
        begins = body
        body += 2 * cells
        if kind not in _HEADERS or not body <= first <= page_size:
            kinds.append(0)
            bodies[0].append(page)
            continue
        kinds.append(kind)
        heads.append(page[:begins] + _differences(page[begins:body]))
        bodies[kind].append(bytes(first - body) + page[first:] if blanks else page[body:])
    return b"".join([bytes(kinds), *heads, *(piece for kind in KINDS for piece in bodies[kind])])


def unpack_pages(packed: bytes, page_size: int) -> bytes:
    """The pages again.  Raises ValueError where that is none of `pack_pages`."""
    count, rest = divmod(len(packed), page_size + 1)
    if rest:
        raise ValueError("these are no whole pages")
    heads: list[bytes] = []
    at = count
    for kind in packed[:count]:
        if kind == 0:
            heads.append(b"")
            continue
        if kind not in _HEADERS:
            raise ValueError(f"there is no page of kind {kind}")
        begins = at + _HEADERS[kind]
        ends = begins + 2 * int.from_bytes(packed[at + 3 : at + 5], "big")
        if ends - at > page_size or ends > len(packed):
            raise ValueError("a page has more cells than it has room for")
        heads.append(packed[at:begins] + _sums(packed[begins:ends]))
        at = ends
    pages = [b""] * count
    for kind in KINDS:
        for number in range(count):
            if packed[number] == kind:
                body = page_size - len(heads[number])
                pages[number] = heads[number] + packed[at : at + body]
                at += body
    return b"".join(pages)


def _differences(pointers: bytes) -> bytes:
    """Each two bytes less the two before them.

    As one number with a digit for each that is one subtraction; what is borrowed comes back in `_sums`.
    """
    number = int.from_bytes(_swapped(pointers), "little")
    every = (1 << 8 * len(pointers)) - 1
    return ((number - (number << 16)) & every).to_bytes(len(pointers), "little")


def _sums(differences: bytes) -> bytes:
    """What `_differences` was made of: each digit and all before it."""
    number, bits = int.from_bytes(differences, "little"), 8 * len(differences)
    every, summed = (1 << bits) - 1, 16
    while summed < bits:
        number = (number + (number << summed)) & every
        summed *= 2
    return _swapped(number.to_bytes(len(differences), "little"))


def _swapped(pairs: bytes) -> bytes:
    """The file has the higher byte first."""
    swapped = bytearray(len(pairs))
    swapped[::2], swapped[1::2] = pairs[1::2], pairs[::2]
    return bytes(swapped)
