"""Chains: the snapshots that are put together to one state.

    whole ◄── change ◄── change ◄── change        each names the log id of the one that it leads on from

Knows: what the catalog says of snapshots.  Does not know: what is in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rollrep.core.errors import VerifyFailed
from rollrep.destination.catalog_rows import Snapshot


def chain_of(snapshot: Snapshot, snapshots: Iterable[Snapshot]) -> tuple[Snapshot, ...]:
    """A whole snapshot and the changes that lead from it to `snapshot`, in this order.  Pure.

    Raises VerifyFailed where one is not among `snapshots`.
    """
    known = {each.id: each for each in snapshots if each.line == snapshot.line}
    chain = [snapshot]
    while (base := chain[-1].base) is not None:
        if base not in known or base >= chain[-1].id:
            raise VerifyFailed(
                f"{chain[-1].path} leads on from the snapshot at log id {base}, which is missing",
                remedy="see what is whole, and what to do: rollrep verify JOB",
            )
        chain.append(known[base])
    return tuple(reversed(chain))


def usable(snapshots: Iterable[Snapshot], damaged: Collection[str] = frozenset()) -> list[Snapshot]:
    """Those whose chain is whole, without the paths `damaged`; they come oldest first, line by line.  Pure."""
    found: dict[tuple[int, int], Snapshot] = {}
    for each in snapshots:
        if each.path not in damaged and (each.base is None or (each.line, each.base) in found):
            found[each.line, each.id] = each
    return list(found.values())
