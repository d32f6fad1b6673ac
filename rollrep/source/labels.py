"""The labels of points that the log still has: a destination that jumps over them can say their names.

Knows: SQL of the log and of its forgotten keys.  Does not know: which of them a destination keeps.
"""

from __future__ import annotations

import apsw

from rollrep.core.nouns import Op, Point
from rollrep.query import all_rows, as_text, one_value, text_bytes
from rollrep.source.log import TIME, Meta
from rollrep.source.tables import FORGOTTEN, LOG
from rollrep.wire.messages import MOST_LABELS, MOST_SIGNS, Hello, Labels


def labels_for(db: apsw.Connection, meta: Meta, hello: Hello, known_id: int | None) -> Labels | None:
    """What `hello` asks for; `known_id` is where the destination stands, None where its history is another one.

    Call it inside a read transaction, and only where tables are to be mirrored: it reads the whole log.
    """
    if hello.tell_labels_after is None:
        return None
    after = hello.tell_labels_after if known_id is not None else 0
    those = f"FROM {LOG} WHERE id > ? AND op = {Op.POINT:d} AND v0 IS NOT NULL"
    count = one_value(db, f"SELECT count(*) {those}", (after,))
    rows = all_rows(
        db,
        f"SELECT id, {TIME.format('at')}, {text_bytes('v1')}, {text_bytes('v0')}, v3 {those}"
        f" ORDER BY id DESC LIMIT {MOST_LABELS}",
        (after,),
    )
    points = [point for row in reversed(rows) if (point := _point(db, *row))]
    forgotten = 0 if known_id is None else _forgotten(db, meta, max(after, known_id))
    return Labels(tuple(points), count - len(rows), forgotten)


def _point(
    db: apsw.Connection, log_id: int, time: str, kind: bytes | None, label: bytes, changed: object
) -> Point | None:  # fmt: skip
    name = (as_text(db, label) or "")[:MOST_SIGNS]
    try:
        return Point(log_id, time, as_text(db, kind) or "application", name, None, bool(changed))
    except (TypeError, ValueError):
        return None  # somebody wrote another time there; who replays the row says so


def _forgotten(db: apsw.Connection, meta: Meta, after: int) -> int | None:
    if after < min(meta.forgotten_through, meta.pruned_through):
        return None
    # Points leave a row without a key, and so do marks, which are few.
    return int(one_value(db, f"SELECT count(*) FROM {FORGOTTEN} WHERE id > ? AND shape = 0", (after,)))
