"""The shadow tables' part in a pull that replays the log: asked when the log is here, committed with its rows.

    gather    what differs as of the log's end, and what was logged until then
    archive   the difference, before the mirror gets it
    put       in the transaction that moves the position
    settle    the catalog learns that this state was seen at the new position

Of a layout without virtual tables nothing is asked, and each step does nothing.

Knows: the order of these steps.  Does not know: what a difference is made of, what replays the log.
"""

from __future__ import annotations

from collections.abc import Callable

import apsw

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Facts
from rollrep.destination.catalog import Catalog
from rollrep.destination.mirror_db import State, seen_at
from rollrep.destination.shadow_archive import ShadowArchive
from rollrep.destination.shadow_pull import ShadowPull
from rollrep.destination.store import Store
from rollrep.wire.messages import Batch
from rollrep.wire.session import Session

Take = Callable[[Batch, bytes, Facts | None], None]
"""archives and gathers log rows; the facts where the batch ends at the head"""


class ShadowStep:
    """The steps for one mirror, which is as `state` says."""

    def __init__(self, store: Store, catalog: Catalog, mirror: apsw.Connection, state: State) -> None:
        self._archive = ShadowArchive(store, catalog)
        self._line, self._from = state.line, seen_at(state)
        self._virtuals = state.layout.virtuals
        self._pull: ShadowPull | None = None
        if self._virtuals:
            # What was archived and never came into the mirror is found anew, from what the mirror has.
            self._archive.drop_beyond(self._line, self._from)
            self._archive.require(self._line, self._from, self._virtuals)
            self._pull = ShadowPull(store, mirror, state)

    @property
    def looks(self) -> bool:
        """Whether there is anything to ask."""
        return self._pull is not None

    @property
    def changes(self) -> bool:
        """Whether what was asked for differs from what the mirror has."""
        return self._pull is not None and self._pull.change is not None

    def gather(self, session: Session, facts: Facts, take: Take) -> Facts:
        """Asks for what differs; the facts of the moment it is of, those given or later ones.

        Raises SchemaChanged and LogOverrun; VerifyFailed where another state has the log id of one that is known.
        """
        if self._pull:
            for found in self._pull.ask_until_complete(session, facts.head.id, self._from):
                if found.tail:
                    take(*found.tail, found.facts)
                facts = found.facts or facts
            if self._pull.change and facts.head.id <= self._from:
                raise VerifyFailed(
                    f"the source says two things of its virtual tables at log id {self._from}",
                    remedy="mirror again: rollrep mirror JOB",
                )
        return facts

    def archive(self, log_id: int) -> list[str]:
        """Archives the difference and puts it beside the mirror, outside of transactions; the tables it changes."""
        if not self._pull or not self._pull.change:
            return []
        changed = self._archive.add(self._line, self._from, log_id, self._pull.change, self._virtuals)
        self._pull.attach()
        return changed

    def put(self) -> None:
        if self._pull:
            self._pull.put()

    def settle(self, log_id: int) -> None:
        """The mirror has the state of `log_id`."""
        if self._pull:
            self._archive.unchanged(self._line, log_id, self._virtuals)

    def close(self) -> None:
        if self._pull:
            self._pull.detach()
            self._pull.close()
