"""A hostile source: it speaks the protocol rightly and says what it should not.

    the source's own answer ──► one field replaced ──► the real wire ──► a real pull

Each pull must end in an error of ours, in time, and nothing may lie outside of the job's folder afterwards.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import oracle
import pytest
from hostile_source import Liar, lie, lying, packed_as, scene
from pair import FollowedPair
from sim import memory
from sources import pull_once

from rollrep.core.errors import RollrepError, SchemaProblem, Temporary, VerifyFailed
from rollrep.core.nouns import Layout, SchemaObject
from rollrep.destination import ladder, rows
from rollrep.destination.container import unpack
from rollrep.destination.mirror_db import state_of
from rollrep.destination.store import Store
from rollrep.source import serve
from rollrep.source.tables import Limits
from rollrep.wire import messages
from rollrep.wire.messages import Answer

SCHEMA = "CREATE TABLE t(k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO t VALUES ('a', 1)"
OUTSIDE = "outside.db"
replace = msgspec.structs.replace


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


def hostile(monkeypatch: pytest.MonkeyPatch, change: Callable[[Answer], Answer]) -> None:
    honest = serve._Server._answer
    monkeypatch.setattr(serve._Server, "_answer", lambda *how: change(honest(*how)))


def with_layout(change: Callable[[Layout], Layout]) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, layout=change(answer.layout)) if answer.layout else answer


def refused(pair: FollowedPair, folder: Path) -> RollrepError:
    """What a pull ends with; nothing is made outside of the store."""
    before = {path for path in folder.rglob("*") if pair.store.folder not in path.parents}
    with pytest.raises(RollrepError) as caught:
        pull_once(pair.store, pair.path)
    now = {path for path in folder.rglob("*") if pair.store.folder not in path.parents}
    assert {path.name for path in now - before} <= {"store", "job"}
    return caught.value


@pytest.mark.parametrize("field", ["encoding", "collation", "epoch", "time"])
def test_word_is_refused_when_it_would_lead_out_of_a_statement_or_a_folder(
    pair: FollowedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    attach = f"ATTACH '{tmp_path / OUTSIDE}' AS o; CREATE TABLE o.stolen(a); --"

    def change(answer: Answer) -> Answer:
        layout, facts = answer.layout, answer.facts
        assert layout is not None
        if field == "encoding":
            return replace(answer, layout=replace(layout, encoding=f"UTF-8'; {attach}"))
        if field == "collation":
            [shape] = layout.shapes
            bad = replace(shape, key_collations=(f"BINARY)); {attach}",))
            return replace(answer, layout=replace(layout, shapes=(bad,)))
        if field == "epoch":
            return replace(answer, facts=replace(facts, head=replace(facts.head, epoch="../../../outside")))
        facts = replace(facts)
        msgspec.structs.force_setattr(facts, "time", "../../../outside")  # no honest one can be made
        return replace(answer, facts=facts)

    pair.create(SCHEMA, Limits())
    hostile(monkeypatch, change)
    assert "does not understand" in refused(pair, tmp_path).facts


TEXTS = {
    "a second statement that attaches": "CREATE TABLE x(a); ATTACH '{outside}' AS o; CREATE TABLE o.stolen(a)",
    "a second statement that writes": "CREATE TABLE x(a); INSERT INTO x VALUES (1)",
    "a second statement that drops": "CREATE TABLE x(a); DROP TABLE t",
    "a second statement that deletes": "CREATE TABLE x(a); DELETE FROM _rollrep_state",
    "a pragma": "CREATE TABLE x(a); PRAGMA journal_mode = OFF",
    "a copy of all": "CREATE TABLE x(a); VACUUM INTO '{outside}'",
    "a query without end": "CREATE TABLE x AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i FROM c) SELECT count(*) FROM c",
    "another name": "CREATE TABLE y(a)",
    "a name of ours": "CREATE TABLE x(a); CREATE TABLE _rollrep_batch(a)",
    "another schema": "CREATE TEMP TABLE x(a)",
    "a module that is not announced": "CREATE VIRTUAL TABLE x USING fts5(a)",
    "no definition": "DELETE FROM t",
}


@pytest.mark.parametrize("kind", ["table", "trigger"])
@pytest.mark.parametrize("text", TEXTS)
def test_text_of_the_schema_is_refused_when_it_does_more_than_define_its_object(
    pair: FollowedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, kind: str
) -> None:
    sql = TEXTS[text].format(outside=tmp_path / OUTSIDE)
    pair.start(SCHEMA)
    kept = oracle.dbhash(pair.store.mirror)
    item = SchemaObject(kind, "x", "x", sql)
    hostile(monkeypatch, with_layout(lambda layout: replace(layout, objects=(*layout.objects, item))))
    pair.do("CREATE TABLE new(a)")
    error = refused(pair, tmp_path)
    assert isinstance(error, SchemaProblem) and f"{kind} x" in error.facts.replace("'", "")
    assert oracle.dbhash(pair.store.mirror) == kept


def test_shape_is_refused_and_forgotten_when_its_columns_are_not_those_of_its_table(
    pair: FollowedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was believed where no row came: then every later pull, and `mirror` too, asked the mirror for that column."""

    def change(layout: Layout) -> Layout:
        [shape] = layout.shapes
        return replace(layout, shapes=(replace(shape, columns=("k", "%s%n")),))

    pair.start(SCHEMA)
    with monkeypatch.context() as patched:
        hostile(patched, with_layout(change))
        pair.do("CREATE INDEX by_v ON t(v)")
        error = refused(pair, tmp_path)
    assert isinstance(error, SchemaProblem) and "%s%n" in error.facts
    pair.do("UPDATE t SET v = 2")
    pair.pull()
    oracle.assert_same(pair.path, pair.store.mirror)


def test_text_of_an_imported_schema_is_refused_when_its_history_is_asked(pair: FollowedPair, tmp_path: Path) -> None:
    pair.start(SCHEMA)
    state = state_of(pair.store.mirror)
    assert state is not None
    layout = state.layout
    sql = f"CREATE TABLE t(k, v); ATTACH '{tmp_path / OUTSIDE}' AS o; CREATE TABLE o.stolen(a)"
    bad = replace(layout, objects=(SchemaObject("table", "t", "t", sql),))
    with pytest.raises(SchemaProblem):
        rows.Scratch(bad, bad.shapes[0])
    assert not (tmp_path / OUTSIDE).exists()
    rows.Scratch(layout, layout.shapes[0]).close()


@pytest.mark.parametrize("value", ["'same'", "x'00ff'"])
def test_rows_that_fit_nowhere_are_forgotten_when_the_next_pull_is_honest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A mirror operation gathers rows beside the mirror, to be taken up again: not those of which it died."""

    class OneLie(Liar):
        def say(self, server: Any, message: messages.Message, packed: bytes | None = None) -> None:
            if isinstance(message, messages.Rows) and packed is not None:
                with contextlib.closing(apsw.Connection(":memory:")) as db:
                    db.deserialize("main", unpack(packed, message.image.raw_bytes))
                    db.execute(f"UPDATE rows SET {'v1' if value[0] == chr(39) else 'v0'} = {value}")
                    packed, said = packed_as(db.serialize("main"))
                message = replace(message, image=messages.Image(**said))
            self._write(server, messages.encode(message), packed)

    scene("compared", tmp_path)
    store = Store(tmp_path / "store", "job")
    with lying(OneLie(0, 0, again=False)), pytest.raises(RollrepError, match="can't be replayed on table t") as caught:
        pull_once(store, tmp_path / "app.db")
    assert caught.value.remedy.endswith("rollrep mirror JOB")
    pull_once(store, tmp_path / "app.db")
    oracle.assert_same(tmp_path / "app.db", store.mirror)


def test_pull_ends_when_the_schema_is_said_to_change_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Restless(Liar):
        def say(self, server: Any, message: messages.Message, packed: bytes | None = None) -> None:
            said = messages.Changed() if isinstance(message, messages.Shadows) else message
            self._write(server, messages.encode(said), packed)

    monkeypatch.setattr(ladder, "MOST_CHANGES", 9)
    scene("first", tmp_path)
    store = Store(tmp_path / "store", "job")
    with lying(Restless(0, 0, again=False)), pytest.raises(Temporary, match="keeps changing"):
        pull_once(store, tmp_path / "app.db")
    pull_once(store, tmp_path / "app.db")
    oracle.assert_same(tmp_path / "app.db", store.mirror)


def test_chunk_is_refused_when_there_is_said_to_be_more_for_ever(tmp_path: Path) -> None:
    class Endless(Liar):
        def say(self, server: Any, message: messages.Message, packed: bytes | None = None) -> None:
            said = replace(message, complete=False) if isinstance(message, messages.Chunk) else message
            self._write(server, messages.encode(said), packed)

    scene("first", tmp_path)
    store = Store(tmp_path / "store", "job")
    with lying(Endless(0, 0, again=False)), pytest.raises(VerifyFailed, match="sends nothing"):
        pull_once(store, tmp_path / "app.db")
    pull_once(store, tmp_path / "app.db")
    oracle.assert_same(tmp_path / "app.db", store.mirror)


LIES = int(os.environ.get("ROLLREP_LIES", "12"))


@pytest.mark.timeout(3_600)
def test_pull_ends_in_a_sentence_and_an_honest_source_heals_it_when_one_thing_was_a_lie() -> None:
    """ROLLREP_LIES=10000: any field of any message, any row and byte of any image, in pulls of six kinds."""
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        for seed in range(LIES):
            lie(seed, Path(folder))
