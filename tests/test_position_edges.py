"""Where a position stands to the ends of the log, one id apart each, through real pulls.

    ids   .. p-1 | p          p+1 ...... p' = newest
          pruned | oldest

A log of 40 rows prunes when an id is a multiple of 31: at 93 it then begins with 54.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import oracle
import pytest
from pair import Pair
from sources import pull_once

from rollrep.destination import bridging
from rollrep.destination.catalog import Catalog
from rollrep.destination.pull import Outcome
from rollrep.source.database import open_source
from rollrep.source.install import renew_epoch
from rollrep.source.tables import Limits

SCHEMA = "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT, n)"
KEEP_ROWS, PRUNED_AT, OLDEST = 40, 93, 54


class EdgePair(Pair):
    """Written to one log row at a time."""

    def start(self, keep_keys: int = 100_000) -> None:
        self.create(SCHEMA, Limits(keep_rows=KEEP_ROWS, keep_keys=keep_keys))

    def ends(self) -> tuple[int, int]:
        oldest, newest = self.db.execute("SELECT min(id), max(id) FROM _rollrep_log").fetchone()
        return oldest, newest

    def write_until(self, newest: int) -> None:
        while self.ends()[1] < newest:
            self.do("INSERT INTO account(owner, n) VALUES ('somebody', 1)")
        assert self.ends()[1] == newest

    def pull(self) -> Outcome:
        outcome = pull_once(self.store, self.path)
        assert outcome.position is not None
        oracle.assert_same(self.path, self.store.mirror)
        return outcome

    def stands_at(self, log_id: int) -> None:
        """The mirror is pulled at this id exactly, over forgotten keys where it has to be."""
        self.write_until(log_id)
        position = self.pull().position
        assert position is not None and position.id == log_id

    def goes_on(self) -> None:
        """And the next pull, after one more row, resumes."""
        self.do("INSERT INTO account(owner, n) VALUES ('later', 2)")
        outcome = self.pull()
        assert (outcome.answer, outcome.operations) == ("resume", 1)

    def holes(self) -> int:
        with Catalog(self.store.catalog) as catalog:
            return len(catalog.holes())

    def lines(self) -> list[str]:
        with Catalog(self.store.catalog) as catalog:
            return [story.reason for story in catalog.line_stories()]


@pytest.fixture
def pair(tmp_path: Path) -> EdgePair:
    return EdgePair(tmp_path)


@pytest.mark.parametrize("after", [0, 1])
def test_nothing_or_one_row_moves_when_the_position_is_the_newest_row_or_the_one_before(
    pair: EdgePair, after: int
) -> None:
    pair.start()
    pair.stands_at(50)
    pair.write_until(50 + after)
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason, outcome.operations) == (("up_to_date", "resume")[after], "", after)
    pair.goes_on()


@pytest.mark.parametrize("keep_keys", [100_000, 0])
@pytest.mark.parametrize(
    ("before_oldest", "answer"), [(-1, "resume"), (0, "resume"), (1, "mirror"), (2, "mirror"), (3, "mirror")]
)
def test_log_is_resumed_as_long_as_it_holds_the_row_when_it_begins_near_the_position(
    pair: EdgePair, before_oldest: int, answer: str, keep_keys: int
) -> None:
    pair.start(keep_keys)
    position = OLDEST - before_oldest
    pair.stands_at(position)
    before = pair.point() if before_oldest < 0 else None
    pair.write_until(PRUNED_AT)
    assert pair.ends() == (OLDEST, PRUNED_AT)
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason) == (answer, "" if answer == "resume" else "pruned")
    if answer == "resume":
        assert outcome.operations == PRUNED_AT - position - (before is not None)
    else:
        assert {each.rung for each in outcome.moved} <= {bridging.RUNG if keep_keys else "digests"}
        # With its own key left and nothing forgotten after it, there is nothing that the archive lacks.
        assert pair.holes() == (0 if keep_keys and before_oldest == 1 else 1)
    assert pair.lines() == ["first"]
    if before:
        pair.same_at(*before)
    pair.goes_on()
    after = pair.point()
    pair.pull()
    pair.same_at(*after)


@pytest.mark.parametrize("rows", [0, 1])
def test_first_pull_is_right_when_the_log_holds_nothing_or_one_row(pair: EdgePair, rows: int) -> None:
    pair.start()
    newest = pair.ends()[1]
    pair.write_until(newest + rows)
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason) == ("mirror", "first")
    assert outcome.position is not None and outcome.position.id == newest + rows
    pair.goes_on()


def test_first_pull_is_right_when_the_log_has_rolled(pair: EdgePair) -> None:
    pair.start(0)
    pair.write_until(PRUNED_AT)
    assert (pair.pull().reason, pair.holes()) == ("first", 0)
    pair.goes_on()


@pytest.mark.parametrize("more", [0, 1, 60])
def test_new_epoch_is_mirrored_when_the_log_was_emptied(pair: EdgePair, more: int) -> None:
    """Ids begin again, and soon pass the position's own."""
    pair.start()
    pair.stands_at(50)
    pair.do("DELETE FROM _rollrep_log")
    if more:
        pair.do("INSERT INTO account(owner, n) VALUES ('first of the new', 1)")
        pair.write_until(more)
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason, pair.lines()) == ("mirror", "epoch", ["first", "epoch"])
    pair.goes_on()


@pytest.mark.parametrize("more", [0, 5])
def test_new_epoch_is_mirrored_when_ids_and_rows_go_on_as_they_were(pair: EdgePair, more: int) -> None:
    pair.start()
    pair.stands_at(50)
    with contextlib.closing(open_source(pair.path)) as db:
        renew_epoch(db)
    pair.write_until(pair.ends()[1] + more)
    assert (pair.pull().reason, pair.lines()) == ("epoch", ["first", "epoch"])
    pair.goes_on()


@pytest.mark.parametrize("change", ["at = at + 0.001", "n = 1.0", "n = '1'", "owner = 'SOMEBODY'", "op = 5"])
@pytest.mark.parametrize("stands", ["newest", "middle", "oldest"])
def test_history_is_another_when_the_row_at_the_position_was_altered(pair: EdgePair, change: str, stands: str) -> None:
    pair.start()
    pair.stands_at(OLDEST)
    newest = {"newest": OLDEST, "middle": OLDEST + 3, "oldest": PRUNED_AT}[stands]
    pair.write_until(newest)
    assert pair.ends() == ({"oldest": OLDEST}.get(stands, 1), newest)
    values = change.replace("owner", "v1").replace("n =", "v2 =")
    pair.do(f"UPDATE _rollrep_log SET {values} WHERE id = ?", (OLDEST,))
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason) == ("mirror", "diverged")
    assert pair.lines() == ["first", "diverged"]
    pair.goes_on()


def test_log_is_resumed_when_another_row_than_that_at_the_position_was_written_over_with_the_same(
    pair: EdgePair,
) -> None:
    """What must not be taken for another history: the very same values, and rows before the position."""
    pair.start()
    pair.stands_at(50)
    pair.write_until(55)
    pair.do("UPDATE _rollrep_log SET v1 = v1, v2 = v2 WHERE id = 50")
    pair.do("UPDATE _rollrep_log SET v1 = 'x' WHERE id = 49")
    outcome = pair.pull()
    assert (outcome.answer, outcome.operations) == ("resume", 5)


def test_position_behind_the_newest_row_is_ahead_when_rows_were_taken_from_the_end(pair: EdgePair) -> None:
    pair.start()
    pair.stands_at(50)
    pair.do("DELETE FROM _rollrep_log WHERE id = 50")
    outcome = pair.pull()
    assert (outcome.answer, outcome.reason) == ("mirror", "ahead")
    pair.goes_on()
