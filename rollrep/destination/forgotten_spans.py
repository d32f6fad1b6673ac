"""Which keys of each table may differ from the source's, where it knows only the ranges that were written to.

    source   ranges written to behind row A, which it knows by id and time      A ≤ the mirror's position
    here     row A is archived, with that time: so both histories are one up to A
             whatever was archived behind A may be what the source has lost since: its ranges too

A source that was put back from a backup has rows with ids like ours that are others.  Such a row behind A is in one of
the two lists, and whatever is in neither was not written to since A by either.

Knows: the archive, the wire's session and ranges.  Does not know: how they are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rollrep.destination.archive import Archive
from rollrep.destination.images import at_ms_of, scratch
from rollrep.destination.mirror_db import State
from rollrep.query import all_rows
from rollrep.wire.forgotten_ranges import key_ranges, number_sql
from rollrep.wire.messages import KeyRange, Ranges, SendRanges
from rollrep.wire.session import Session

Spans = Mapping[int, Sequence[KeyRange]]
"""by shape id: outside of these keys, the mirror is the source"""


def forgotten_spans(session: Session, archive: Archive, state: State) -> Spans | None:
    """None where it can't be known.  Raises SchemaChanged, and VerifyFailed where a segment is damaged."""
    told = session.ranges(SendRanges(state.position, state.schema_digest))
    if told is None or told.epoch != state.position.epoch or told.anchor > state.position.id:
        return None
    own = _archived_behind(archive, state, told)
    if own is None:
        return None
    spans = {}
    for shape in state.layout.shapes:
        numbers = {*told.numbers.get(shape.id, ()), *own.get(shape.id, ())}
        # Where removals are not announced, one may have been at any key.
        known = told.widths.get(shape.id) if shape.touches_logged else None
        spans[shape.id] = key_ranges(numbers, known)
    return spans


def _archived_behind(archive: Archive, state: State, told: Ranges) -> dict[int, set[int]] | None:
    """Numbers of the ranges of what is archived behind the anchor; None where the archive does not hold all of it."""
    position = state.position
    if told.anchor == position.id:
        return {} if position.at_ms == told.at_ms else None
    numbers: dict[int, set[int]] = {}
    reached = 0
    with scratch(state.layout.encoding) as db:
        for holds in archive.attached(db, state.line, told.anchor - 1, position.id):
            if not reached and at_ms_of(db, told.anchor) != told.at_ms:
                return None
            reached = holds.last
            for shape in holds.shapes:
                width = told.widths.get(shape.id)
                found = all_rows(
                    db,
                    f"SELECT DISTINCT {number_sql('v0', str(width) if width else 'NULL')} FROM batch.log"
                    " WHERE shape = ? AND id > ? AND id <= ?",
                    (shape.id, told.anchor, position.id),
                )
                numbers.setdefault(shape.id, set()).update(number for (number,) in found)
    return numbers if reached >= position.id else None
