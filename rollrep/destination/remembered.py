"""What is remembered of the newest pull: how it went, how the last one failed, how long the log lasted then.

    kind       written by                            holds
    pull       a pull that ended well                answer, reason, operations, bytes, seconds
    failure    a pull that did not                   kind, facts, remedy, exit_code
    lasting    a pull, once in LASTING_EVERY_S       what the source said of its log
    missed     a pull that did not keep points       their labels, and why

A row of each kind and no more: pulls come too often to be events.  Nothing else needs them to be there, so a
catalog without them is whole.

Knows: SQL of its own table in the catalog.  Does not know: who asks for it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import msgspec

from rollrep.core.clock import from_iso, iso, now
from rollrep.core.windows import Lasting
from rollrep.destination.catalog import Catalog
from rollrep.query import find_row, has_table

PULL, FAILURE, LASTING, MISSED = "pull", "failure", "lasting", "missed"
LASTING_EVERY_S = 60.0
"""it costs the source 5 ms, and does not change faster than a rate that lasts"""


def remember(catalog: Catalog, kind: str, detail: Mapping[str, object]) -> None:
    """Takes the place of what was remembered of that kind."""
    catalog.connection.execute("CREATE TABLE IF NOT EXISTS remembered(kind TEXT PRIMARY KEY, at, detail) WITHOUT ROWID")
    catalog.connection.execute(
        "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?)", (kind, iso(now()), json.dumps(detail))
    )


def remembered(catalog: Catalog, kind: str) -> tuple[dt.datetime, dict[str, Any]] | None:
    """(when, by the destination's clock, and what); None where nothing of the kind is."""
    if not has_table(catalog.connection, "remembered"):
        return None
    row = find_row(catalog.connection, "SELECT at, detail FROM remembered WHERE kind = ?", (kind,))
    return (from_iso(row[0]), json.loads(row[1])) if row else None


def known_lasting(catalog: Catalog) -> Lasting | None:
    """What a source said of its log the last time that it was asked."""
    known = remembered(catalog, LASTING)
    return msgspec.convert(known[1], Lasting) if known else None


def is_lasting_due(catalog: Catalog) -> bool:
    """Whether the next pull should ask how long the log lasts."""
    known = remembered(catalog, LASTING)
    return known is None or abs((now() - known[0]).total_seconds()) >= LASTING_EVERY_S
