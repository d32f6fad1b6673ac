"""Points that somebody declared and that are not kept: the pull says so, with their labels, and so does status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sources import copy_source
from test_cli import Place
from test_history_lost import configure

from rollrep.wire import messages
from rollrep.wire.messages import Answer, Hello

MANY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO t SELECT i, i FROM n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.write("CREATE TABLE t(a, b)")
    return made.pulled()


def label(place: Place, *labels: str) -> None:
    place.write(*(f"INSERT INTO _rollrep_point(label) VALUES ('{each}')" for each in labels))


def pulled(place: Place, command: str = "pull") -> tuple[list[str], dict[str, Any]]:
    """(what stderr says, what JSON does)"""
    done = place.run(command, "shop", "--json")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines(), json.loads(done.stdout)["jobs"][0]["points_not_kept"]


def kept(place: Place) -> set[str]:
    return {each["label"] for each in place.told("points", "shop")["points"] if each["label"]}


def test_labels_are_named_when_they_were_written_behind_a_migration_that_no_pull_saw(place: Place) -> None:
    label(place, "before")
    place.write("ALTER TABLE t ADD COLUMN c")
    label(place, "before-deploy", "it''s")
    place.write("INSERT INTO t VALUES (1, 2, 3)")
    said, told = pulled(place)
    assert kept(place) == {"before"}
    [line] = said
    assert line == (
        "rollrep: shop: NOT KEPT the points 'before-deploy' and 'it's': the log can't vouch for what was written between a"
        " change of the schema and the pull that saw it; what is kept: rollrep points shop"
    )
    assert [(each["label"], each["why"]) for each in told["labels"]] == [
        ("before-deploy", "schema"),
        ("it's", "schema"),
    ]
    assert (told["more"], told["forgotten"]) == (0, 0)
    assert " ago, the points 'before-deploy' and 'it's': the log can't" in place.good("status").stdout
    assert pulled(place) == ([], None)


def test_label_is_named_when_capture_was_repaired_before_it_was_written(place: Place) -> None:
    place.write("ALTER TABLE t ADD COLUMN c")
    place.good("source", "install", place.db)
    label(place, "repaired", "last")
    said, told = pulled(place)
    assert kept(place) == {"last"}
    assert len(said) == 1 and "the point 'repaired': the log can't vouch" in said[0]
    assert [each["label"] for each in told["labels"]] == ["repaired"]


def test_label_is_named_when_the_schema_is_as_it_was_again(place: Place) -> None:
    place.write("CREATE VIEW v AS SELECT 1")
    label(place, "inside")
    place.write("DROP VIEW v")
    label(place, "after")
    [said], _ = pulled(place)
    assert kept(place) == {"after"}
    assert "NOT KEPT the point 'inside': the log can't vouch" in said


def test_labels_are_named_when_the_mirror_was_lost(place: Place) -> None:
    label(place, "known")
    place.good("pull")
    label(place, "one", "two", "head")
    for ending in ("", "-wal", "-shm"):
        place.mirror().with_name(place.mirror().name + ending).unlink(missing_ok=True)
    [said], told = pulled(place)
    assert "NOT KEPT the points 'one' and 'two': the mirror was lost" in said
    assert [each["why"] for each in told["labels"]] == ["first", "first"]
    assert kept(place) == {"known", "head"}
    assert "the mirror was lost; see: rollrep timeline shop" in place.good("status").stdout


@pytest.mark.parametrize("keys", [100_000, 1])
def test_labels_in_a_hole_are_named_and_those_that_are_forgotten_counted(place: Place, keys: int) -> None:
    label(place, "first")
    place.good("source", "install", place.db, "--keep-rows", 100, "--keep-keys", keys)
    assert pulled(place) == ([], None)
    label(place, "gone")
    place.write(MANY)
    label(place, "inside")
    place.write("INSERT INTO t VALUES (0, 0)")
    said, told = pulled(place)
    assert kept(place) == {"first"}
    assert [(each["label"], each["why"]) for each in told["labels"]] == [("inside", "pruned")]
    named, counted = said
    assert "NOT KEPT the point 'inside': the log had forgotten rows that lead there before they were pulled" in named
    if keys == 1:
        assert told["forgotten"] is None
        assert f"NOT KEPT points since {told['since']}, if there were any" in counted
    else:
        assert told["forgotten"] == 1
        assert f"NOT KEPT up to 1 point since {told['since']}: the log forgot" in counted
    assert pulled(place) == ([], None)


@pytest.mark.parametrize("keys", [100_000, 1])
def test_nothing_is_said_of_points_when_a_hole_has_none_and_there_were_none(place: Place, keys: int) -> None:
    place.good("source", "install", place.db, "--keep-rows", 100, "--keep-keys", keys)
    place.write(MANY)
    place.good("pull")


def test_label_is_named_when_a_mirror_operation_jumped_over_it(place: Place) -> None:
    label(place, "jumped", "end")
    said, told = pulled(place, "mirror")
    assert kept(place) == {"end"}
    assert len(said) == 1 and "'jumped'" in said[0]
    assert [each["why"] for each in told["labels"]] == ["requested"]


def test_only_labels_since_the_last_pull_are_named_when_the_source_was_restored_from_a_backup(place: Place) -> None:
    configure(place, "mirror")
    label(place, "old", "older")
    place.good("pull")
    backup = place.folder / "backup.db"
    copy_source(place.db, backup)
    label(place, "lost at the source")
    place.good("pull")
    for ending in ("-wal", "-shm"):
        place.db.with_name(place.db.name + ending).unlink(missing_ok=True)
    shutil.copyfile(backup, place.db)
    label(place, "new", "newest", "head")
    said, told = pulled(place)
    assert [each["label"] for each in told["labels"]] == ["new", "newest"]
    assert len(said) == 1 and "the source's history had become another one" in said[0]
    assert kept(place) == {"old", "older", "lost at the source", "head"}


def test_most_labels_are_counted_when_there_are_many(place: Place) -> None:
    place.write("ALTER TABLE t ADD COLUMN c")
    place.good("source", "install", place.db)
    label(place, *(f"label {number} {'x' * 400}" for number in range(130)))
    said, told = pulled(place)
    assert (len(told["labels"]), told["more"]) == (99, 30)
    assert all(len(each["label"]) <= 200 for each in told["labels"])
    assert len(said) == 1 and " and 124 more: " in said[0]


def test_labels_of_fetched_rows_are_counted_and_cut_when_there_are_many(place: Place) -> None:
    place.write("ALTER TABLE t ADD COLUMN c")
    label(place, *(f"label {number} {'x' * 400}" for number in range(130)))
    [said], told = pulled(place)
    assert (len(told["labels"]), told["more"]) == (100, 30)
    assert all(len(each["label"]) <= 200 for each in told["labels"])
    assert " and 125 more: " in said


def test_older_sides_understand_each_other_when_one_asks_for_labels() -> None:
    asked = json.loads(messages.encode(Hello("0", "db", tell_labels_after=7)))
    assert asked.pop("tell_labels_after") == 7
    assert messages.decode_from_destination(json.dumps(asked).encode()) == Hello("0", "db")
    assert messages.decode_from_destination(json.dumps({**asked, "unheard_of": {"a": 1}}).encode()) == Hello("0", "db")
    assert Answer.__struct_defaults__[-1] is None
