"""A mirror operation under an application that writes all the while: it converges, or it says that it can't."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair import Pair
from sources import pull_once

from rollrep.core.errors import CannotKeepUp
from rollrep.source import reader
from rollrep.source.tables import Limits
from rollrep.wire import session
from rollrep.wire.messages import SendChunk, SendShadows
from rollrep.wire.session import Session

FILLED = (
    "CREATE TABLE note(id INTEGER PRIMARY KEY, body);"
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 3000) INSERT INTO note SELECT i, i FROM c;"
)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.mark.parametrize("before", [SendChunk, SendShadows])
def test_mirror_operation_ends_when_the_log_is_long_enough_and_never_caught_up_with(
    pair: Pair, before: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much is written before each answer as one answer carries: nothing is pruned, and nothing but log comes."""
    monkeypatch.setattr(reader, "IMAGE_ROWS", 20)
    monkeypatch.setattr(session, "ANSWERS", 10)
    pair.create(FILLED + "CREATE VIRTUAL TABLE words USING fts5(word)", Limits())
    say, written = Session._say, iter(range(400))

    def write_first(self: Session, message: object) -> None:
        if isinstance(message, before) and next(written, None) is not None:
            pair.do("UPDATE note SET body = body || 'x' WHERE id <= 25")
        say(self, message)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_say", write_first)
    with pytest.raises(CannotKeepUp):
        pull_once(pair.store, pair.path)
    assert next(written, None) is not None, "it ended by itself, not because the writing did"
