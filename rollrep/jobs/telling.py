"""What plugins and `--json` are told of a point, and plugins of a restore.

Knows: hooks, the catalog's nouns.  Does not know: pulls, transports; a restore needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollrep.core.clock import iso
from rollrep.hooks import call_safely, plugin_manager

if TYPE_CHECKING:
    from rollrep.destination.catalog_rows import CatalogPoint
    from rollrep.destination.restore import Restored


def point_json(point: CatalogPoint) -> dict[str, object]:
    """A catalog point as `points --json` gives it."""
    return {
        "point": point.point,
        "id": point.id,
        "epoch": point.epoch,
        "kind": point.kind,
        "label": point.label,
        "time": iso(point.time),
    }


def tell_restored(job: str, restored: Restored) -> None:
    hook = plugin_manager().hook.rollrep_restored
    call_safely(hook, job=job, output=restored.output, point=point_json(restored.point))
