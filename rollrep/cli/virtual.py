"""What is said of virtual tables: which a point has only as they were earlier, which were rebuilt.

Knows: the catalog's points, what a restore returns.  Does not know: how any of it came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rollrep.cli.output import same_config
from rollrep.core.clock import iso

if TYPE_CHECKING:
    from rollrep.destination.catalog import Catalog
    from rollrep.destination.catalog_rows import CatalogPoint
    from rollrep.destination.restore import Restored
    from rollrep.destination.shadow_archive import Earlier


def earlier_json(earlier: Sequence[Earlier]) -> list[dict[str, object]]:
    return [{"table": each.table, "as_of_id": each.as_of} for each in earlier]


def earlier_sentences(catalog: Catalog, point: CatalogPoint, earlier: Sequence[Earlier]) -> list[str]:
    """One sentence for each table that is of an earlier moment than `point`, with that moment."""
    times = {each.id: each.time for each in catalog.points() if each.line == point.line}
    return [
        f"the virtual table {each.table} is as of log id {each.as_of}"
        + (f", {iso(times[each.as_of])}" if each.as_of in times else "")
        + ": it changed between that and this point, and only the ends of pulls see virtual tables"
        for each in earlier
    ]


def restored_sentences(catalog: Catalog, restored: Restored, job: str) -> list[str]:
    """What a person must know of a restored file that is not all exact: virtual tables, indexes; empty where it is."""
    return [
        *(f"the index {each} was rebuilt from its content, as that was at this point" for each in restored.rebuilt),
        *earlier_sentences(catalog, restored.point, restored.earlier),
        *restored.complaints,
        *(
            f"without the index {each.name}, which only the application can make: {each.sql}"
            for each in restored.left_out
        ),
        *(
            same_config(f"{path} is damaged, and was not used; what to do: rollrep verify {job}")
            for path in restored.damaged
        ),
    ]


def restored_json(restored: Restored) -> dict[str, object]:
    return {
        "rows": restored.rows,
        "earlier": earlier_json(restored.earlier),
        "rebuilt": list(restored.rebuilt),
        "complaints": list(restored.complaints),
        "left_out": [{"index": each.name, "table": each.table, "sql": each.sql} for each in restored.left_out],
        "damaged": [str(path) for path in restored.damaged],
    }
