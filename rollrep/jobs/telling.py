"""What plugins and `--json` are told of a point, and plugins of a restore; what is said of points that are not kept.

Knows: hooks, the catalog's nouns.  Does not know: pulls, transports; a restore needs none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rollrep.core.clock import iso
from rollrep.core.units import show_count
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


WHY_MISSED = {
    "schema": "the log can't vouch for what was written between a change of the schema and the pull that saw it",
    "pruned": "the log had forgotten rows that lead there before they were pulled",
    "requested": "the tables were mirrored again, and nothing leads there",
    "first": "the mirror was lost, and nothing leads there",
}
OTHERWISE = "the source's history had become another one, and nothing leads there"
MOST_NAMED = 5


def said_of_missed(told: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about points that are not kept, as `pull --json` gives them: which they are, and why.

    >>> def said(count, **more):
    ...     labels = [{"label": f"v{number}", "why": "requested"} for number in range(count)]
    ...     return list(said_of_missed({"labels": labels, "more": 0, "forgotten": 0, "since": "noon", **more}))
    >>> said(1)
    ["the point 'v0': the tables were mirrored again, and nothing leads there"]
    >>> said(6, more=2)
    ["the points 'v0', 'v1', 'v2', 'v3', 'v4' and 3 more: the tables were mirrored again, and nothing leads there"]
    >>> said(0, forgotten=None)
    ['points since noon, if there were any: the log forgot them before they were pulled, and nobody knows their labels']
    """
    labels = list(told["labels"])
    for number, (why, those) in enumerate(itertools.groupby(labels, lambda each: each["why"])):
        names = [f"'{each['label']}'" for each in those]
        more = max(0, len(names) - MOST_NAMED) + (told["more"] if number == 0 else 0)
        named = names[:MOST_NAMED] + ([f"{more:,} more"] if more else [])
        said = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        yield f"the point{'s' if len(named) > 1 else ''} {said}: {WHY_MISSED.get(why, OTHERWISE)}"
    if told["forgotten"] != 0:
        count = told["forgotten"]
        which = f"up to {show_count(count, 'point')}" if count else "points"
        unsure = "" if count else ", if there were any"
        yield (
            f"{which} since {told['since']}{unsure}: the log forgot them before they were pulled,"
            " and nobody knows their labels"
        )


def tell_restored(job: str, restored: Restored) -> None:
    hook = plugin_manager().hook.rollrep_restored
    call_safely(hook, job=job, output=restored.output, point=point_json(restored.point))
