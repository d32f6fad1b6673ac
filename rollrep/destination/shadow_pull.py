"""Bringing the shadow tables to a moment of the source, in one conversation.

    digests of what is here ──► source ──► [the log up to that moment], the ranges that differ
    ranges ──► the rows that really differ ──► archive ──► mirror, in the transaction of the log's rows

Knows: shadows, their archive, the wire's session.  Does not know: what replays the log, when a pull is over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apsw

from rollrep.core.nouns import Facts
from rollrep.destination.container import unpack
from rollrep.destination.mirror_db import State
from rollrep.destination.shadows import (
    Change,
    Received,
    attach_change,
    detach_change,
    known_ranges,
    make_change,
    put_change,
    shadow_shapes,
)
from rollrep.destination.store import TEMPORARY, Store
from rollrep.query import load_digests
from rollrep.wire.messages import Batch, SendShadows, Shadows
from rollrep.wire.session import Session


@dataclasses.dataclass
class Answered:
    """What one question brought: the log's tail, and the moment of the source that all is of."""

    tail: tuple[Batch, bytes] | None = None
    facts: Facts | None = None
    """None where there was so much log that no shadow table was looked at: ask again after it"""
    complete: bool = False


class ShadowPull:
    """The shadow tables of one mirror during one pull.  `state` says what the mirror is."""

    def __init__(self, store: Store, mirror: apsw.Connection, state: State) -> None:
        self._got = store.folder / f"shadows-got.db{TEMPORARY}"
        self._changed = store.folder / f"shadows.db{TEMPORARY}"
        self._mirror = mirror
        self._encoding = state.layout.encoding
        self._digest = state.schema_digest
        self._shapes = shadow_shapes(state.layout)
        self._received: Received | None = None
        self.change: Change | None = None
        self._is_attached = False
        load_digests(mirror, "sha1")

    def ask(self, session: Session, position: int, seen_at: int, *, most_bytes: int = 0) -> Answered:
        """One question and its answer; what differs is in `change` then, None where nothing does.

        `seen_at` is the log id under which a state is known already.  Raises SchemaChanged and LogOverrun.
        """
        self.close()
        known = known_ranges(self._mirror, self._shapes)
        received = self._received = Received(self._got, self._encoding, self._shapes)
        answered = Answered()
        for said in session.shadows(SendShadows(position, seen_at, self._digest, known, most_bytes)):
            if isinstance(said, Shadows):
                answered.facts, answered.complete = said.facts, said.complete
            elif isinstance(said[0], Batch):
                answered.tail = (said[0], said[1])
            else:
                received.add(said[0], unpack(said[1], said[0].image.raw_bytes), known)
        if received.ranges:
            change = make_change(self._mirror, received, self._shapes, self._changed)
            self.change = change if change.tables else None
        return answered

    def ask_until_complete(self, session: Session, position: int, seen_at: int) -> Iterator[Answered]:
        """Answers to the same question, each after the log that the one before brought, until one has facts."""
        while True:
            answered = self.ask(session, position, seen_at)
            yield answered
            if answered.facts:
                return
            position = answered.tail[0].last if answered.tail else position

    def attach(self) -> None:
        """Puts the change beside the mirror; call it outside of transactions."""
        if self.change:
            attach_change(self._mirror, self.change)
            self._is_attached = True

    def put(self) -> None:
        """Makes the change, inside the transaction that moves the position."""
        if self.change:
            put_change(self._mirror, self.change)

    def detach(self) -> None:
        if self._is_attached:
            detach_change(self._mirror)
            self._is_attached = False

    def close(self) -> None:
        """Removes the files."""
        if self._received:
            self._received.close()
        self._received, self.change = None, None
        self._got.unlink(missing_ok=True)
        self._changed.unlink(missing_ok=True)
