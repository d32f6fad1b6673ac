"""docs/support.md holds: what it says is carried arrives, what it says is refused is refused with those words.

Each row of its table names its test; those of the features of `features.py` are here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import apsw
import forked
import oracle
import pytest
from features import CARRIED, REFUSED
from pair import FollowedPair

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "support.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| feature")
]
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").glob("test_*.py")))
NOT_INSIDE = ("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA", "!INSERT OR ROLLBACK")
"""statements that mean nothing, or another thing, inside a savepoint"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    made.db.create_scalar_function("mine", lambda value: f"<{value}>", 1, deterministic=True)
    made.db.create_collation("locale", lambda a, b: (a > b) - (a < b))
    yield made
    made.db.close()


def do(pair: FollowedPair, statement: str) -> None:
    """`!` before a statement says that it must fail."""
    if statement.startswith("!"):
        with pytest.raises(apsw.ConstraintError):
            pair.do(statement[1:])
    else:
        pair.do(statement)


@pytest.mark.parametrize("feature", CARRIED)
def test_feature_arrives(feature: str, pair: FollowedPair) -> None:
    """Once each statement is pulled by itself, once all of them at once; restored in the middle and at the end."""
    schema, statements = CARRIED[feature]
    pair.start(schema)
    before = pair.point_pulled()
    pair.do("SAVEPOINT all_at_once")
    for statement in statements:
        if not statement.startswith(NOT_INSIDE) and "other" not in statement:
            do(pair, statement)
    pair.do("ROLLBACK TO all_at_once")
    pair.do("RELEASE all_at_once")
    pair.same()
    for statement in statements:
        do(pair, statement)
        if not pair.db.in_transaction:
            assert pair.pull()[0] in ("resume", "up_to_date", "mirror")
            oracle.assert_same(pair.path, pair.store.mirror)
    assert not pair.db.in_transaction
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)


@pytest.mark.parametrize("feature", REFUSED)
def test_install_names_what_is_not_carried(feature: str, pair: FollowedPair) -> None:
    schema, table, reason = REFUSED[feature]
    pair.do(schema + "; CREATE TABLE plain(id INTEGER PRIMARY KEY, a); PRAGMA journal_mode = WAL")
    said = forked.run("source", "install", pair.path, check=True).stdout
    assert f"NOT CARRIED {table}: {reason}\n" in said
    assert pair.pull() == ("mirror", "first")
    pair.do("INSERT INTO plain(a) VALUES (1)")
    assert pair.pull() == ("resume", "")
    with apsw.Connection(str(pair.store.mirror)) as mirror:
        assert mirror.execute("SELECT a FROM plain").fetchall() == [(1,)]
        assert not mirror.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchall()


@pytest.mark.parametrize(
    ("child", "loose"),
    [
        ("x REFERENCES p(a)", True), ("x REFERENCES p(b)", False), ("x REFERENCES p", False), ("x REFERENCES nowhere", False),
        ("x, y, FOREIGN KEY (x, y) REFERENCES p(b, c)", False), ("x, y, FOREIGN KEY (x, y) REFERENCES p", True),
        ("x REFERENCES p(d)", True),
    ],
)  # fmt: skip
def test_install_warns_when_a_foreign_key_refers_to_no_key(child: str, loose: bool, pair: FollowedPair) -> None:
    pair.do(
        "CREATE TABLE p(id INTEGER PRIMARY KEY, a, b UNIQUE, c, d, UNIQUE(b, c)); CREATE UNIQUE INDEX i ON p(d) WHERE d > 1;"
        f"CREATE TABLE c({child})"
    )
    install = ("source", "install", pair.path)
    said = forked.run(*install, check=True).stdout
    assert ("WARN       c refers to p by a foreign key, and to no key of it" in said) == loose
    told = json.loads(forked.run(*install, "--json", check=True).stdout)
    assert told["references_to_no_key"] == ([["c", "p"]] if loose else [])
    if loose:
        pair.do("PRAGMA foreign_keys = ON")
        with pytest.raises(apsw.SQLError, match="foreign key mismatch"):
            pair.do("INSERT INTO p DEFAULT VALUES")
        forked.run(*install, "--exclude", "p", check=True)
        pair.do(
            "SELECT * FROM p"
        )  # SQLite looks at the changed schema when it runs a statement, not when it refuses one
        pair.do("INSERT INTO p DEFAULT VALUES")


def named_tests() -> Iterator[tuple[str, str | None]]:
    """(test, which of its parameters or None) that the page names."""
    for row in ROWS:
        found = re.findall(r"`(test_\w+)(?:\[([^`]*)\])?`", row[-1])
        assert found, f"no test is named for {row[0]}"
        yield from ((name, which or None) for name, which in found)


def test_page_names_tests_that_exist() -> None:
    missing = [name for name, _ in named_tests() if f"def {name}(" not in TESTS]
    assert not missing
    named = {
        which
        for name, which in named_tests()
        if name in ("test_feature_arrives", "test_install_names_what_is_not_carried")
    }
    assert named == CARRIED.keys() | REFUSED.keys()


def test_page_says_what_install_says_of_what_is_refused() -> None:
    assert {row[1] for row in ROWS} == {"carried", "refused", "differs"}
    for row in ROWS:
        which = next((w for w in REFUSED if f"[{w}]" in row[-1]), None)
        assert (row[1] == "refused") == (which is not None), row
        if which:
            _, table, reason = REFUSED[which]
            assert f"`NOT CARRIED {table}: {reason}`" in row[2], row


def test_total_changes_counts_our_rows(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(a)")
    before = pair.db.total_changes()
    pair.do("INSERT INTO t VALUES (1), (2)")
    assert (pair.db.changes(), pair.db.total_changes() - before) == (2, 4)
    assert ("_rollrep_log",) in pair.db.execute("SELECT name FROM sqlite_schema").fetchall()


def test_statistics_are_not_carried(pair: FollowedPair) -> None:
    pair.start("CREATE TABLE t(a); CREATE INDEX i ON t(a); INSERT INTO t VALUES (1)")
    pair.do("ANALYZE")
    assert pair.pull()[0] in ("resume", "up_to_date", "mirror")
    oracle.assert_same(pair.path, pair.store.mirror)
    with apsw.Connection(str(pair.store.mirror)) as mirror:
        assert not mirror.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'").fetchall()
