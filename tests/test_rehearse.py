"""Rehearsals: a restore that is proven before the day it is needed, and says so when it would not work."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import apsw
import pytest
from test_cli import Place, refusal

from rollrep.core.errors import UsageError
from rollrep.destination import restore as restoring
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.mirror_db import STATE
from rollrep.destination.store import Store
from rollrep.jobs import rehearse as rehearsing
from rollrep.jobs.config import RehearsalQuery, load_config, parse_config
from rollrep.jobs.rehearse import random_point, rehearse


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path).pulled()
    made.write("CREATE TABLE ledger(id INTEGER PRIMARY KEY, amount)")
    made.good("pull")
    made.write("INSERT INTO ledger VALUES (1, 5), (2, -5)")
    made.good("source", "point", made.db, "--label", "balanced")
    made.good("pull")
    return made


def asking(place: Place, **queries: str) -> None:
    lines = "\n".join(f"{name} = {text}" for name, text in queries.items())
    job = f'[jobs.shop]\nsource = "local:{place.db}"\nrehearse = "7d"\n'
    place.configure(f"{job}[jobs.shop.rehearse_queries]\n{lines}\n")


def told(place: Place, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = place.run("rehearse", *arguments, "--json")
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "rollrep.rehearse/1"
    return found["jobs"][0]  # type: ignore[no-any-return]


def checked(place: Place) -> dict[str, Any] | None:
    items = json.loads(place.run("check", "shop", "--json").stdout)["jobs"][0]["items"]
    return next((item for item in items if item["item"] == "rehearsed"), None)


def left_over(place: Place) -> list[Path]:
    return list((place.store / "shop" / "rehearsal").rglob("*"))


def test_rehearsal_is_right_and_shown_when_every_query_gives_what_it_should(place: Place) -> None:
    assert checked(place) is None
    asking(
        place,
        any='"SELECT 1 FROM ledger"',
        balance='{ sql = "SELECT sum(amount) FROM ledger", equals = 0 }',
        word='{ sql = "SELECT \'yes\'", equals = "yes" }',
    )
    never = checked(place)
    assert never is not None and (never["state"], never["next"]) == ("WARN", "rollrep rehearse shop")
    found = told(place, "shop", "--at", "label:balanced")
    assert found["right"] and found["error"] is None
    assert [(each["name"], each["right"]) for each in found["queries"]] == [
        ("any", True), ("balance", True), ("word", True),
    ]  # fmt: skip
    assert found["rows"] > 0 and found["bytes"] > 0
    item = checked(place)
    assert item is not None and item["state"] == "OK" and "3 queries as expected" in item["text"]
    assert left_over(place) == []


ODD = [
    ('"SELECT 1 FROM ledger WHERE amount > 100"', "gave no row"),
    ('{ sql = "SELECT sum(amount) FROM ledger", equals = 1 }', "gave 0, not 1"),
    ('{ sql = "SELECT count(*) FROM ledger", equals = "2" }', "gave 2, not '2'"),
    ('"SELECT 1 FROM no_such_table"', "no such table"),
    ('"DELETE FROM ledger"', "does more than read"),
]


def test_rehearsal_ends_with_16_when_a_query_gives_something_else(place: Place) -> None:
    for query, said in ODD:
        asking(place, odd=query)
        found = told(place, "shop", "--at", "latest", code=16)
        assert not found["right"]
        assert "odd" in found["wrong"] and said in found["wrong"]
        assert found["error"]["kind"] == "verify"
    item = checked(place)
    assert item is not None and item["state"] == "FAIL" and said in item["text"]
    assert place.run("check", "shop").returncode == 16
    assert left_over(place) == []
    asking(place, fine='"SELECT 1"')
    assert told(place, "shop", "--at", "latest")["right"]
    assert place.run("check", "shop").returncode == 0


def test_rehearsal_ends_with_16_when_a_file_is_damaged(place: Place) -> None:
    [segment] = sorted((place.store / "shop" / "archive").rglob("*.segment"))[-1:]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    found = told(place, "shop", "--at", "latest", code=16)
    assert segment.name in found["wrong"]
    # The sentence is one that can be followed.
    done = place.run("rehearse", "shop", "--at", "latest")
    assert done.returncode == 16 and "next: rollrep verify shop" in done.stderr
    assert left_over(place) == []


def test_rehearsal_is_only_done_when_it_is_due(place: Place) -> None:
    asking(place, fine='"SELECT 1"')
    assert told(place, "--due")["right"]
    done = place.run("rehearse", "--due")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Catalog(place.store / "shop" / "catalog.db") as catalog:
        catalog.connection.execute("UPDATE event SET at = '2020-01-01T00:00:00.000Z' WHERE kind = 'rehearsal'")
    item = checked(place)
    assert item is not None and item["state"] == "WARN" and "every 7 d was wanted" in item["text"]
    assert told(place, "--due")["right"]
    place.configure()
    done = place.run("rehearse", "--due")
    assert (done.returncode, done.stdout) == (0, ""), "nobody asked for it"


def test_others_are_rehearsed_when_one_fails(place: Place) -> None:
    shutil.copytree(place.store / "shop", place.store / "bad")
    job = f'source = "local:{place.db}"\n'
    place.configure(
        f'[jobs.bad]\n{job}rehearse_queries = {{ none = "SELECT 1 WHERE 0" }}\n[jobs.new]\n{job}[jobs.shop]\n{job}'
    )
    done = place.run("rehearse", "--at", "latest", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)["jobs"]
    assert [each["error"] and each["error"]["exit_code"] for each in found] == [16, 10, None]


def test_pull_and_rehearsal_do_not_touch_one_another_when_both_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(place.config)
    job = config.jobs["shop"]
    seen: list[str] = []

    def meanwhile(step: str) -> None:
        seen.append(step)
        place.write("INSERT INTO ledger(amount) VALUES (1)")
        place.good("pull")
        assert place.run("rehearse", "shop").returncode == 11

    found = rehearse(config, job, random_point, meanwhile)
    assert seen and not found.wrong
    place.assert_mirrored()
    assert left_over(place) == []


def test_leftovers_go_when_a_rehearsal_was_killed(place: Place) -> None:
    folder = place.store / "shop" / "rehearsal"
    folder.mkdir()
    (folder / ".shop.db.part").write_bytes(b"x" * 100)
    assert told(place, "shop")["right"]
    assert left_over(place) == []


def test_every_point_is_rehearsed_when_it_is_left_to_chance_for_long(place: Place) -> None:
    with Catalog(Store(place.store, "shop").catalog) as catalog:
        points = {each.point for each in restorable(catalog)}
        assert len(points) > 2
        assert {random_point(catalog).point for _ in range(300)} == points


def test_state_that_is_not_sound_is_found_when_it_is_rehearsed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(place.config)

    def restored_badly(*arguments: Any, **how: Any) -> Any:
        real = restoring.finish

        def spoil(path: Path, layout: Any, **how: Any) -> int:
            with contextlib.closing(apsw.Connection(str(path))) as db:
                db.execute("PRAGMA writable_schema = ON").fetchall()
                db.execute(
                    "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'ledger')"
                    " WHERE name = ?", (STATE,),
                )  # fmt: skip
            return real(path, layout, **how)

        monkeypatch.setattr(restoring, "finish", spoil)
        return restoring.restore(*arguments, **how)

    monkeypatch.setattr(rehearsing, "restore", restored_badly)
    found = rehearse(config, config.jobs["shop"], random_point, lambda _: None)
    assert "malformed" in found.wrong, "a table's pages were given away"


def test_rehearsal_refuses_when_there_is_nothing_or_no_such_point(place: Place) -> None:
    asking(place, fine='"SELECT 1"')
    assert place.run("rehearse", "shop", "--at", "label:nope").returncode == 17
    assert place.run("rehearse", "shop", "--at", "17").returncode == 2
    refusal(place, 2, ("rehearse", "shpo"), 'did you mean "shop"?')


def test_queries_are_read_when_they_are_written_either_way() -> None:
    text = (
        'store = "."\n[jobs.a]\nsource = "local:/a"\nrehearse = "2w"\n'
        'rehearse_queries = { any = "SELECT 1", sum = { sql = "SELECT 2", equals = 2.5 } }\n'
    )
    job = parse_config(text.encode(), Path("rollrep.toml")).jobs["a"]
    assert job.rehearse_s == 14 * 86400
    assert job.rehearse_queries == (RehearsalQuery("any", "SELECT 1"), RehearsalQuery("sum", "SELECT 2", 2.5))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('rehearse_queries = "SELECT 1"', "is not a table"),
        ("rehearse_queries = { any = 1 }", "is not a table"),
        ("rehearse_queries = { any = { equals = 1 } }", '"any" has no sql'),
        ('rehearse_queries = { any = { sql = "SELECT 1", equal = 1 } }', 'did you mean "equals"?'),
        ('rehearse_queries = { any = { sql = "SELECT 1", equals = true } }', "is no value"),
        ('rehearse_queries = { any = " " }', "is not a text"),
        ('rehearse_queries = { any = "SELECT 1; SELECT 2" }', "is 2 statements"),
        ('rehearse_queries = { any = { sql = "-- SELECT 1", equals = 1 } }', "is 0 statements"),
        ('rehearse = "often"', "is not a duration"),
    ],
)
def test_configuration_is_refused_with_its_line_when_a_rehearsal_is_wrong(line: str, said: str) -> None:
    text = f'store = "."\n[jobs.a]\nsource = "local:/a"\n{line}\n'
    with pytest.raises(UsageError) as caught:
        parse_config(text.encode(), Path("rollrep.toml"))
    assert str(caught.value).startswith("rollrep.toml:4: ") and said in str(caught.value)
    assert caught.value.remedy
