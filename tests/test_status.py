"""`rollrep status`: how old, in trouble or not, and what is to come; all of it without the source.

freezegun holds the destination's clock.  It does not reach SQLite's own `now`, so not the source's times either:
exactly what two machines with two clocks are.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner
from freezegun import freeze_time
from sources import copy_source, pull_once

from rollrep.cli.main import cli
from rollrep.core.clock import from_iso, iso, now
from rollrep.core.errors import DiskFull, NotRestorable, RollrepError, Temporary
from rollrep.core.moments import ByPoint
from rollrep.core.nouns import Point
from rollrep.destination.catalog import Catalog
from rollrep.destination.checksums import open_checked
from rollrep.destination.choosing import find_point
from rollrep.destination.remembered import FAILURE, remember
from rollrep.destination.store import Store
from rollrep.hooks import plugin_manager
from rollrep.jobs import check
from rollrep.jobs.config import load_config
from rollrep.jobs.rehearse import REHEARSAL_EVENT
from rollrep.jobs.run import error_json, run_pull
from rollrep.source import pages
from rollrep.source import status as source_status
from rollrep.source.install import install
from rollrep.source.tables import Limits

KEYS = {
    "job", "state", "troubles", "age_s", "confirmed", "clocks_differ_s", "every_s", "bandwidth", "position", "line", "points", "pulled",
    "failure", "lasting", "mirroring", "history", "snapshots", "bytes", "results",
}  # fmt: skip


class Shop:
    """A source, a configuration and a store; commands run in this process, where the clock can be held."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.db"
        self.db = apsw.Connection(str(self.path))
        self.do("CREATE TABLE note(id INTEGER PRIMARY KEY, body); PRAGMA journal_mode = WAL")
        self.config = folder / "rollrep.toml"
        self.store = Store(folder / "data", "shop")
        self.configure()

    def configure(self, more: str = "", *, jobs: str = "") -> None:
        job = f'[jobs.shop]\nsource = "local:{self.path}"\n'
        self.config.write_text(f'store = "{self.store.folder.parent}"\n{job}{more}\n{jobs}')

    def do(self, sql: str) -> None:
        self.db.execute(sql).fetchall()

    def pull(self) -> RollrepError | None:
        config = load_config(self.config)
        hooks = plugin_manager()
        return run_pull(config, config.jobs["shop"], hooks, lambda *_: None, tries=1).error

    def pulled(self, limits: Limits | None = None) -> Shop:
        install(self.db, limits or Limits())
        assert self.pull() is None
        return self

    def type(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner(env={"ROLLREP_CONFIG": str(self.config)}).invoke(cli, arguments)
        return done.exit_code, done.stdout

    def status(self) -> tuple[int, dict[str, Any]]:
        code, said = self.type("status", "--json")
        told = json.loads(said)
        assert told["schema"] == "rollrep.status/1"
        assert all(set(job) == KEYS for job in told["jobs"])
        return code, told["jobs"][0]

    def confirmed(self) -> dt.datetime:
        with Catalog(self.store.catalog) as catalog:
            found = catalog.confirmed()
        assert found is not None
        return found

    def note(self, kind: str, detail: Mapping[str, object]) -> None:
        with Catalog(self.store.catalog) as catalog:
            catalog.note(kind, **detail)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def texts(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["state"], each["item"]) for each in told["troubles"]]


def test_status_says_how_old_the_mirror_is_by_the_time_its_source_had_when_time_passes(shop: Shop) -> None:
    confirmed = shop.pulled().confirmed()
    for later_s, code, said in (
        (7, 0, "is 7 s old"),
        (100, 0, "1 min 40 s old"),
        (101, 1, "WARN"),
        (259_200, 1, "3 d old"),
    ):
        with freeze_time(confirmed + dt.timedelta(seconds=later_s)):
            found, told = shop.status()
            assert (found, told["age_s"]) == (code, later_s)
            assert said in shop.type("status", "shop")[1]
        assert texts(told) == ([("WARN", "fresh")] if code else [])
    assert told["troubles"][0]["next"] == "rollrep pull shop"


def test_every_command_counts_the_same_points_when_nothing_leads_to_one(shop: Shop) -> None:
    """As an older rollrep left them: pulls that were cut before their snapshot, and a line that began after."""
    shop.pulled()
    with Catalog(shop.store.catalog) as catalog:
        ghost = catalog.add_point(catalog.begin_line("an epoch", "requested"), Point(7, iso(now()), "pull", None))
    assert ghost is not None
    assert shop.status()[1]["points"] == 1
    assert "; 1 point" in shop.type("check")[1]
    code, said = shop.type("verify", "shop")
    assert code == 0 and "1 of 1 points can be restored" in said and "can't be restored" not in said
    with Catalog(shop.store.catalog) as catalog, pytest.raises(NotRestorable, match="no snapshot leads to") as refused:
        find_point(catalog, ByPoint(ghost.point))
    assert refused.value.remedy.endswith("rollrep points JOB")


@pytest.mark.parametrize(
    "told",
    [
        {"tables": ["note"], "rows": 3},
        {"tables": [{"table": "note", "rung": "copy", "rows": 3, "bytes": 90}]},
    ],
    ids=["by_name", "by_rung"],
)
def test_status_leaves_out_a_mirror_operation_when_an_older_rollrep_noted_less_of_it(
    shop: Shop, told: dict[str, object]
) -> None:
    shop.pulled()
    with contextlib.closing(open_checked(shop.store.catalog, create=False)) as catalog:
        catalog.execute("UPDATE event SET detail = ? WHERE kind = 'mirror'", (json.dumps({"reason": "first", **told}),))
    assert (shop.status()[0], shop.status()[1]["mirroring"]["last"]) == (0, None)
    code, said = shop.type("status", "shop")
    assert code == 0 and "was made again" not in said
    assert shop.type("check", "shop")[0] == 0


@pytest.mark.parametrize("begun", [False, True])
def test_catalog_that_was_never_begun_is_no_pull_when_the_disk_was_full(shop: Shop, begun: bool) -> None:
    """Its file is made before its first page, and its first page before its tables."""
    shop.store.create()
    with contextlib.closing(open_checked(shop.store.catalog, create=True)) as db:
        if begun:
            db.pragma("journal_mode", "wal")
    assert (shop.store.catalog.stat().st_size > 0) == begun
    for command in ("status", "points", "timeline"):
        code, said = shop.type(command, "shop", "--json")
        assert code == 10 and "nothing has been pulled for shop yet" in said and "rollrep pull shop" in said
    shop.pulled()
    assert shop.type("status", "shop")[0] == 0


def test_check_fails_with_how_to_make_the_catalog_again_when_it_is_gone(shop: Shop) -> None:
    for path in shop.pulled().store.folder.glob("catalog.db*"):
        path.unlink()
    code, said = shop.type("check", "shop")
    assert code == 16 and "FAIL" in said and "catalog.db is gone" in said and "PENDING" not in said
    assert "next: make it again from them: rollrep catalog shop --rebuild" in said


def test_status_says_no_half_of_what_there_is_when_the_catalog_is_damaged(shop: Shop) -> None:
    shop.pulled()
    catalog = bytearray(shop.store.catalog.read_bytes())
    catalog[len(catalog) // 2 :] = bytes(len(catalog) - len(catalog) // 2)
    shop.store.catalog.write_bytes(catalog)
    code, told = shop.status()
    assert (code, texts(told)) == (16, [("FAIL", "store")])
    assert told["confirmed"] is None and told["points"] == 0
    said = shop.type("status", "shop")[1]
    assert said.startswith("FAIL    shop: what the store knows can't be read\n") and "--rebuild" in said
    assert "no mirror" not in said and "snapshot" not in said


def test_check_warns_of_a_reader_that_never_ends_when_the_mirror_s_wal_grows_by_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "MOST_WAITING_BYTES", 100_000)
    shop.pulled()

    def readers() -> dict[str, Any] | None:
        [job] = json.loads(shop.type("check", "--json")[1])["jobs"]
        return next((item for item in job["items"] if item["item"] == "readers"), None)

    with contextlib.closing(apsw.Connection(str(shop.store.mirror))) as reader:
        reader.execute("BEGIN; SELECT count(*) FROM note").fetchall()
        for blob in range(3):
            shop.do(f"INSERT INTO note(body) VALUES (randomblob({40_000 + blob}))")
            assert shop.pull() is None
        warned = readers()
        assert warned is not None and (warned["state"], warned["next"]) == ("WARN", f"fuser -v {shop.store.mirror}")
        assert warned["waiting_bytes"] > 120_000
        reader.execute("COMMIT")
        assert readers() is None, "what was kept is written back by the very next who looks"


def test_source_status_warns_when_the_wal_has_grown(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.pulled()
    with contextlib.closing(apsw.Connection(str(shop.path))) as reader:
        reader.execute("BEGIN; SELECT count(*) FROM note").fetchall()
        shop.do("INSERT INTO note(body) VALUES (randomblob(5000000))")
        assert "WARN" not in shop.type("source", "status", str(shop.path))[1]
        assert json.loads(shop.type("source", "status", str(shop.path), "--json")[1])["wal_bytes"] > 5_000_000
        monkeypatch.setattr(source_status, "MOST_WAL_BYTES", 4_000_000)
        said = shop.type("source", "status", str(shop.path))[1]
        assert "WARN     its WAL has grown to" in said and f"fuser -v {shop.path}" in said


def test_status_takes_what_has_passed_from_what_the_log_holds_when_the_source_is_gone(shop: Shop) -> None:
    shop.pulled(Limits(keep_rows=4_000))
    shop.do(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 900) INSERT INTO note SELECT i, i FROM c"
    )
    with freeze_time(shop.confirmed() + dt.timedelta(hours=1), tick=True):
        assert shop.pull() is None, "an hour later it asks again how long the log lasts"
    shop.db.close()
    shop.path.unlink()
    told = shop.status()[1]
    now = from_iso(told["pulled"]["at"])
    for hours in (0, 1, 5_000):
        with freeze_time(now + dt.timedelta(hours=hours)):
            lasting = shop.status()[1]["lasting"]
        for left, newest in zip(lasting["position"], lasting["newest"], strict=True):
            assert newest["log_s"] > 0 and newest["keys_s"] > newest["log_s"]
            assert left["log_s"] == pytest.approx(max(0, newest["log_s"] - hours * 3600), abs=0.01)
            assert left["keys_s"] == pytest.approx(max(0, newest["keys_s"] - hours * 3600), abs=0.01)
    assert lasting["position"][-1]["log_s"] == 0


def test_status_warns_of_what_is_to_come_with_the_command_when_the_log_would_be_short(shop: Shop) -> None:
    install(shop.db, Limits(keep_rows=100))
    shop.do(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 900) INSERT INTO note SELECT i, i FROM c"
    )
    assert shop.pull() is None
    code, told = shop.status()
    assert (code, told["state"], texts(told)) == (0, "WARN", [("WARN", "window")])
    assert told["troubles"][0]["next"].startswith(f"on the source: rollrep source install {shop.path} --keep-rows ")


def test_status_says_why_and_what_to_do_when_the_last_pull_failed(shop: Shop) -> None:
    shop.pulled()
    moved = shop.path.with_name("moved.db")
    shop.db.close()
    shop.path.rename(moved)
    error = shop.pull()
    assert error is not None and error.exit_code == 2
    code, told = shop.status()
    assert (code, told["state"], texts(told)) == (2, "FAIL", [("FAIL", "pull")])
    assert error.facts in told["troubles"][0]["text"] and told["troubles"][0]["next"] == error.remedy
    assert {key: told["failure"][key] for key in ("kind", "facts")} == {"kind": "usage", "facts": error.facts}
    assert told["pulled"]["answer"] == "mirror", "the last good one is remembered beside it"
    moved.rename(shop.path)
    assert shop.pull() is None
    code, told = shop.status()
    assert (code, told["state"], told["failure"]) == (0, "OK", None)


@pytest.mark.parametrize("error", [DiskFull("no room", remedy="rollrep pull JOB"), Temporary("no line")])
def test_check_shows_the_last_pull_s_failure_as_status_does_when_the_source_answers(
    shop: Shop, error: RollrepError
) -> None:
    config = load_config(shop.pulled().config)
    with Catalog(shop.store.catalog) as catalog:
        remember(catalog, FAILURE, error_json(error))
    confirmed = shop.confirmed()
    for later_s in (60, 3600):
        with freeze_time(confirmed + dt.timedelta(seconds=later_s)):
            is_trouble = not isinstance(error, Temporary) or later_s == 3600
            shown = [each.as_json() for each in check.check_job(config, config.jobs["shop"]) if each.item == "pull"]
            assert shown == [each for each in shop.status()[1]["troubles"] if each["item"] == "pull"]
            assert len(shown) == is_trouble
            assert shop.type("check", "shop")[0] == (error.exit_code if is_trouble else 0)
    assert shop.pull() is None
    assert shop.type("check", "shop")[0] == 0


def test_failure_is_no_trouble_before_the_mirror_is_old_when_it_may_go_away_by_itself(shop: Shop) -> None:
    shop.pulled()
    shop.configure('remote_command = "false"')
    error = shop.pull()
    assert isinstance(error, Temporary)
    confirmed = shop.confirmed()
    for later_s, code in ((60, 0), (3600, 75)):
        with freeze_time(confirmed + dt.timedelta(seconds=later_s)):
            found, told = shop.status()
            said = shop.type("status")[1]
        assert (found, told["state"]) == (code, "FAIL" if code else "OK")
        assert error.facts in said
    assert texts(told) == [("FAIL", "pull"), ("WARN", "fresh")]


def test_status_says_why_when_no_pull_has_ever_come_to_the_source(shop: Shop) -> None:
    install(shop.db, Limits())
    shop.config.write_text(
        f'store = "{shop.store.folder.parent}"\n[jobs.shop]\nsource = "ssh://nobody@127.0.0.1:1/shop"\n'
    )
    error = shop.pull()
    assert isinstance(error, Temporary)
    code, told = shop.status()
    assert (code, told["state"], texts(told)) == (75, "FAIL", [("FAIL", "pull"), ("PENDING", "pull")])
    assert told["failure"]["facts"] == error.facts and error.facts in told["troubles"][0]["text"]
    assert error.facts in shop.type("check")[1]
    shop.configure()
    assert shop.pull() is None
    assert shop.status()[0] == 0


def test_status_says_what_to_type_when_nothing_was_pulled(shop: Shop) -> None:
    shop.configure(jobs=f'[jobs.other]\nsource = "local:{shop.path}"')
    code, told = shop.status()
    assert (code, told["state"], told["troubles"][0]["next"]) == (10, "PENDING", "rollrep pull shop")
    shop.pulled()
    assert shop.type("status")[0] == 3, "one job is well and the other is not there yet"
    assert shop.type("status", "shop")[0] == 0
    assert shop.type("status", "shpo")[0] == 2


def test_status_names_the_damage_when_the_catalog_is_none(shop: Shop) -> None:
    shop.pulled()
    shop.store.catalog.write_bytes(b"no catalog at all" * 1000)
    code, told = shop.status()
    assert (code, told["state"]) == (16, "FAIL")
    assert "rollrep catalog shop --rebuild" in told["troubles"][0]["next"]


def test_status_says_that_another_clock_runs_at_the_source_when_it_does(shop: Shop) -> None:
    install(shop.db, Limits())
    for hours, said in ((2, "2 h behind ours"), (-3, "3 h ahead of ours")):
        ours = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
        with freeze_time(ours, tick=True):
            assert shop.pull() is None
            told = shop.status()[1]
            assert said.removesuffix(" ours") in shop.type("status")[1]
        assert told["clocks_differ_s"] == pytest.approx(hours * 3600, abs=20)
    assert shop.pull() is None
    assert shop.status()[1]["clocks_differ_s"] == 0


def test_status_tells_of_a_mirror_operation_when_one_is_under_way_and_how_long_the_next_would_take(shop: Shop) -> None:
    shop.do("CREATE TABLE big(a PRIMARY KEY) WITHOUT ROWID; CREATE TABLE later(a)")
    shop.do(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 9000) INSERT INTO big SELECT hex(randomblob(9)) FROM c"
    )
    shop.pulled()
    first = shop.status()[1]["mirroring"]
    assert (first["under_way"], first["last"]["reason"]) == (None, "first")
    assert first["estimate_s"] == pytest.approx(first["last"]["seconds"])
    assert "mirror (first)" in shop.type("status")[1]
    with contextlib.closing(apsw.Connection(str(shop.store.mirror))) as mirror:
        mirror.execute("UPDATE big SET a = a || 'x'")
    with pytest.raises(Temporary):
        pull_once(shop.store, shop.path, mirror=True, cut_after=50_000)
    found = shop.status()[1]["mirroring"]["under_way"]
    assert (found["reason"], found["tables"]) == ("requested", 3)
    assert "is being made again (requested): " in shop.type("status")[1]
    pull_once(shop.store, shop.path)
    after = shop.status()[1]
    assert after["mirroring"]["under_way"] is None
    tables = [{"table": "big", "rung": "digests", "rows": 3, "bytes": 9, "seconds": 1}]
    size = after["bytes"]["mirror"]
    shop.note(
        "mirror", {"reason": "pruned", "tables": tables, "seconds": 6.0, "mirror_bytes": size // 2, "bytes_received": 9}
    )
    assert shop.status()[1]["mirroring"]["estimate_s"] == pytest.approx(12.0, rel=0.01)
    shop.configure('bandwidth = "1KB/s"')
    shop.note(
        "mirror", {"reason": "pruned", "tables": tables, "seconds": 6.0, "mirror_bytes": size, "bytes_received": 9_000}
    )
    assert shop.status()[1]["mirroring"]["estimate_s"] == pytest.approx(9.0, rel=0.01)
    tables[0]["rung"] = "forgotten keys"
    shop.note("mirror", {"reason": "pruned", "tables": tables, "seconds": 0.1, "mirror_bytes": size})
    found = shop.status()[1]["mirroring"]
    assert found["estimate_s"] == pytest.approx(9.0, rel=0.01), "a bridge reads nothing but what changed"
    assert found["last"]["seconds"] == 0.1


def test_status_tells_of_holes_and_of_a_source_that_went_back_as_long_as_they_are_kept(shop: Shop) -> None:
    shop.pulled(Limits(keep_rows=1, keep_keys=1))
    assert "lost" not in shop.type("status")[1]
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO note(body) SELECT i FROM n"
    shop.do(many)
    assert shop.pull() is None
    code, said = shop.type("status")
    assert code == 0
    assert re.search(
        r"^  lost     a hole from .*Z to .*Z: the log had forgotten what was needed; see: rollrep timeline shop$",
        said,
        re.M,
    )
    backup = shop.path.with_name("backup.db")
    copy_source(shop.path, backup)
    shop.do(many)
    assert shop.pull() is None
    shop.db.close()
    for ending in ("-wal", "-shm"):
        shop.path.with_name(shop.path.name + ending).unlink(missing_ok=True)
    shutil.copyfile(backup, shop.path)
    assert shop.pull() is None
    code, said = shop.type("status")
    assert code == 0 and "  lost     2 holes, the newest from" in said
    assert re.search(
        r"^  line     2 began .*Z: the source was set back; what was before is kept as line 1$", said, re.M
    )
    history = shop.status()[1]["history"]
    assert [each["reasons"] for each in history["holes"]] == [["pruned"], ["pruned"]]
    assert (history["line_reason"], history["line_before"]) == ("ahead", 1)


def test_status_shows_what_the_newest_rehearsal_found(shop: Shop) -> None:
    shop.pulled()
    for wrong, code in (("point 1: books: gave 3, not 0", 16), (None, 0)):
        shop.note(REHEARSAL_EVENT, {"right": not wrong, "wrong": wrong, "point": 1, "seconds": 0.4, "queries": [1]})
        found, told = shop.status()
        assert (found, [each["item"] for each in told["results"]]) == (code, ["rehearsed"])
        text = shop.type("status")[1]
        assert (wrong or "point 1 in 0.4 s, 1 query as expected") in text
        assert ("  FAIL     rehearsed " if wrong else "  rehearsed ") in text


def test_status_changes_nothing_and_waits_for_nobody_when_a_pull_holds_the_lock(shop: Shop) -> None:
    shop.pulled()
    before = {path: path.read_bytes() for path in shop.store.folder.rglob("*") if path.is_file()}
    with shop.store.locked():
        assert shop.status()[0] == 0
    after = {path: path.read_bytes() for path in shop.store.folder.rglob("*") if path.is_file()}
    assert before == after


def test_status_says_how_long_a_mirror_operation_would_take_when_the_first_copy_went_by_pages(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LEAST_BYTES", 0)
    install(shop.db, Limits())
    pull_once(shop.store, shop.path)
    with Catalog(shop.store.catalog) as catalog:
        assert {each["rung"] for _, told in catalog.events("mirror") for each in told["tables"]} == {"pages"}
    mirroring = shop.status()[1]["mirroring"]
    assert mirroring["estimate_s"] == pytest.approx(mirroring["last"]["seconds"])


def test_status_estimates_nothing_when_the_only_mirror_operation_was_of_a_database_without_tables(shop: Shop) -> None:
    shop.do("DROP TABLE note")
    shop.pulled()
    mirroring = shop.status()[1]["mirroring"]
    assert (mirroring["estimate_s"], mirroring["last"]["reason"]) == (None, "first")
