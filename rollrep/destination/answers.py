"""How far an answer of the source goes in the ranges of keys that it was asked for.

    asked    |----- 1 -----|----- 2 -----|----- 3 -----|
    answer   ══════════════════════╪                        one range, and of the next one the rows up to `last_key`

An answer must go on from where it was asked to begin, or a source could keep a pull busy for ever.

Knows: the messages.  Does not know: which keys come after which, that is the table's collation's.
"""

from __future__ import annotations

from collections.abc import Sequence

from rollrep.core.errors import VerifyFailed
from rollrep.wire.messages import Key, KeyRange, Rows


def reached(span: KeyRange, last_key: Key | None) -> KeyRange:
    """The part of `span` up to `last_key`; all of it where that is None.

    Raises VerifyFailed where there is no row between its beginning and `last_key`.

    >>> reached(KeyRange(("i:1",), ("i:9",)), ("i:5",))
    KeyRange(after=('i:1',), through=('i:5',))
    """
    if last_key is None:
        return span
    if last_key == span.after:
        raise VerifyFailed("the source says that there are more rows, and does not go on")
    return KeyRange(span.after, last_key)


def answered(ranges: Sequence[KeyRange], said: Rows) -> tuple[list[KeyRange], list[KeyRange]]:
    """(the ranges, or parts of them, whose rows came, those that are left); the first list is never empty."""
    whole, left = list(ranges[: said.answered]), list(ranges[said.answered :])
    if said.last_key is not None and left:
        whole.append(reached(left[0], said.last_key))
        left[0] = KeyRange(said.last_key, left[0].through)
    if not whole:
        raise VerifyFailed("the source answered nothing of what it was asked for")
    return whole, left
