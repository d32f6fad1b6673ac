"""How long the log lasts: what is promised must be there, and what is advised must help."""

from __future__ import annotations

import contextlib
import json
import random
import shlex
from pathlib import Path

import apsw
import msgspec
import pytest
from pair import Pair
from sources import pull_once, session
from test_cli import Place

from rollrep.core.windows import Left, Rate, left
from rollrep.destination.catalog import Catalog
from rollrep.source import window
from rollrep.source.database import open_source, reading
from rollrep.source.log import read_ends, read_meta
from rollrep.source.tables import Limits
from rollrep.source.window import Windows, read_windows
from rollrep.wire.messages import Answer, Hello

SCHEMA = "CREATE TABLE note(id INTEGER PRIMARY KEY, body)"
WRITE = (
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?) INSERT INTO note(body)"
    " SELECT printf('%.*c', ?, 'x') FROM c"
)
DAY_S, HOUR_S, MINUTE_S = 86_400.0, 3600.0, 60.0


class LastingPair(Pair):
    """Its log says that it was written when the test likes."""

    def write(self, rows: int, size: int = 10) -> None:
        self.do(WRITE, (rows, size))

    def wrote(self, rows: int, ago_s: float, over_s: float, size: int = 10) -> None:
        """`rows` rows that were written from `ago_s` ago on, within `over_s`."""
        before = self.newest()
        self.write(rows, size)
        self.do(
            "UPDATE _rollrep_log SET at = julianday('now') - (? - ? * (id - ?) / ?) / 86400.0 WHERE id > ?",
            (ago_s, over_s, before, rows, before),
        )

    def newest(self) -> int:
        return int(self.db.execute("SELECT max(id) FROM _rollrep_log").fetchone()[0])

    def oldest(self) -> int:
        return int(self.db.execute("SELECT min(id) FROM _rollrep_log").fetchone()[0])

    def forgotten_through(self) -> int:
        return int(self.db.execute("SELECT forgotten_through FROM _rollrep_meta").fetchone()[0])

    def windows(self) -> Windows:
        with contextlib.closing(open_source(self.path)) as db, reading(db):
            ends = read_ends(db)
            assert ends is not None
            return read_windows(db, read_meta(db), ends)

    def rates(self) -> dict[str, Rate]:
        return {rate.name: rate for rate in self.windows().rates}


@pytest.fixture
def pair(tmp_path: Path) -> LastingPair:
    return LastingPair(tmp_path)


def counted(pair: LastingPair, over_s: float) -> float:
    """Rows a second in the log's last `over_s`, counted one by one."""
    found = pair.db.execute(
        "SELECT count(*) FROM _rollrep_log WHERE at >= julianday('now') - ? / 86400.0", (over_s,)
    ).fetchone()[0]
    return float(found) / over_s


@pytest.mark.parametrize("samples", [1024, 60_000])
def test_rates_are_those_of_the_rows_when_a_burst_came_after_quiet_days(
    pair: LastingPair, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "SAMPLES", samples)
    pair.create(SCHEMA, Limits())
    pair.do("UPDATE _rollrep_log SET at = julianday('now') - 3.0")
    pair.wrote(8_000, 2 * DAY_S, 1.7 * DAY_S, size=100)
    pair.wrote(30_000, 6 * HOUR_S, 5 * MINUTE_S, size=1000)
    pair.wrote(900, 50 * MINUTE_S, 20 * MINUTE_S)
    pair.wrote(120, 4 * MINUTE_S, 4 * MINUTE_S)
    rates = pair.rates()
    assert rates["present"].rows_per_s == pytest.approx(counted(pair, 300), rel=0.02)
    assert rates["hourly"].rows_per_s == pytest.approx(counted(pair, 3600), rel=0.02)
    assert rates["peak"].rows_per_s == pytest.approx(100, rel=0.02)
    assert rates["peak"].bytes_per_s == pytest.approx(100 * 1_035, rel=0.04)
    assert rates["hourly"].bytes_per_s < 100


def test_rate_is_no_burst_when_the_clock_was_set_back(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits())
    pair.do("UPDATE _rollrep_log SET at = julianday('now') - 3.0")
    pair.wrote(5_000, 20 * HOUR_S, 10 * HOUR_S)
    pair.wrote(5_000, 15 * HOUR_S, 10 * HOUR_S)
    assert pair.rates()["peak"].rows_per_s < 3 * 500 / HOUR_S


def test_rates_are_seen_in_forgotten_keys_when_the_log_has_lost_the_burst(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits(keep_rows=2_000))
    pair.do("UPDATE _rollrep_log SET at = julianday('now') - 1.0")
    pair.wrote(1_800, 20 * HOUR_S, MINUTE_S)
    while pair.oldest() < 1_700:
        pair.wrote(100, 2 * MINUTE_S, MINUTE_S)
    assert pair.rates()["peak"].rows_per_s >= 0.9 * 1_800 / 60


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        (Limits(keep_rows=1_000, keep_keys=3_000), 10),
        (Limits(keep_rows=100, keep_keys=50), 10),
        (Limits(keep_bytes=300_000, keep_keys=2_000), 200),
        (Limits(keep_bytes=4_000_000, keep_keys=700), 20_000),
        (Limits(keep_rows=3_000, keep_bytes=300_000, keep_keys=1), 90),
    ],
)
@pytest.mark.parametrize("filled", [0, 1, 3])
def test_position_is_held_as_long_as_was_promised_when_rows_come_at_that_rate(
    pair: LastingPair, limits: Limits, size: int, filled: int
) -> None:
    """One row a second: so the seconds that are promised are rows, and can be written."""
    pair.create(SCHEMA, limits)
    rng = random.Random(f"{limits} {filled}")
    for _ in range(filled):
        pair.write(rng.randrange(400, 900), size)
    pair.write(1, size)
    held = pair.db.execute("SELECT id, (SELECT ifnull(sum(size), 0) FROM _rollrep_log) FROM _rollrep_log").fetchall()
    position = rng.choice(held[len(held) // 2 :])[0] if filled else held[-1][0]
    row_bytes = pair.db.execute("SELECT size FROM _rollrep_log ORDER BY id DESC LIMIT 1").fetchone()[0]
    found = pair.windows()
    said = left(found.curve, found.room, Rate("present", 1.0, float(row_bytes)), position)
    assert said.log_s is not None and said.keys_s is not None and said.log_s <= said.keys_s
    written = 0
    for seconds, is_held in (
        (said.log_s, lambda: pair.oldest() <= position),
        (said.keys_s, lambda: pair.oldest() <= position or pair.forgotten_through() < position),
    ):
        while written < int(seconds) - 1:
            written += 1
            pair.write(1, size)
            assert is_held(), f"lost after {written} rows, {seconds} were promised"
        step = limits.step + max(limits.step, int(limits.keep_bytes / 8 / row_bytes) + 1 if size > 50 else 0)
        while is_held():
            written += 1
            pair.write(1, size)
            assert written < seconds + 2 * step, "it lasts far longer than was said"


def test_log_lasts_for_ever_when_nothing_is_written(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits())
    pair.do("UPDATE _rollrep_log SET at = julianday('now') - 30.0")
    assert {each.log_s for each in pair.windows().left(pair.newest())} == {None}


def test_age_ends_what_rows_and_bytes_would_hold_when_it_is_the_nearest_limit(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits(keep_age_s=2 * HOUR_S))
    pair.do("UPDATE _rollrep_log SET at = julianday('now') - 1.5 / 24.0")
    pair.wrote(3_000, HOUR_S, HOUR_S)
    present, *_ = pair.windows().left(1)
    assert present.log_s is not None
    # One every 1.2 s: the next step is up to 4,093 of them away, and no row goes before it.
    assert present.log_s == pytest.approx(max(0.5 * HOUR_S, (4_093 - pair.newest() % 4_093) * 1.2), rel=0.1)
    [newest, *_] = pair.windows().left(pair.newest())
    assert newest.log_s == pytest.approx(2 * HOUR_S, rel=0.1)


def test_nothing_is_left_when_the_log_has_gone_past_the_position(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits(keep_rows=100, keep_keys=100))
    pair.write(300)
    assert pair.oldest() > 50
    now, *_ = pair.windows().left(pair.oldest() - 1)
    assert now.log_s == 0.0 and now.keys_s is not None and now.keys_s > 0
    pair.write(400)
    gone, *_ = pair.windows().left(1)
    assert gone == Left("present", 0.0, 0.0)


def test_few_rows_are_read_when_the_log_is_long(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits())
    pair.write(60_000)
    counts = []
    for rows in (0, 60_000):
        if rows:
            pair.write(rows)
        with contextlib.closing(open_source(pair.path)) as db, reading(db):
            ends = read_ends(db)
            assert ends is not None
            before = db.status(apsw.SQLITE_DBSTATUS_CACHE_HIT)[0] + db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
            read_windows(db, read_meta(db), ends)
            after = db.status(apsw.SQLITE_DBSTATUS_CACHE_HIT)[0] + db.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
            counts.append(after - before)
    assert counts[1] < 2 * counts[0] < 40_000


def test_position_has_no_time_left_to_tell_when_its_history_is_another(pair: LastingPair) -> None:
    pair.create(SCHEMA, Limits())
    pair.write(10)
    position = pull_once(pair.store, pair.path).position
    assert position is not None

    def ask(**how: object) -> Answer:
        with session() as talk:
            return talk.hello(Hello("0", str(pair.path), msgspec.structs.replace(position, **how), tell_lasting=True))

    good = ask().lasting
    assert good is not None and good.position == good.newest
    for how in ({"epoch": "0" * 16}, {"proof": "another"}, {"id": position.id + 1}):
        other = ask(**how).lasting
        assert other is not None and other.position is None
    with session() as talk:
        assert talk.hello(Hello("0", str(pair.path), position)).lasting is None


def item(place: Place, name: str = "window") -> dict[str, object]:
    [job] = json.loads(place.run("check", "shop", "--json").stdout)["jobs"]
    return next(each for each in job["items"] if each["item"] == name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def spread(place: Place, after: int, from_s: float, to_s: float) -> int:
    """Lets the rows after `after` have been written from one moment ago to another; the newest id."""
    with contextlib.closing(apsw.Connection(str(place.db))) as db:
        newest = int(db.execute("SELECT max(id) FROM _rollrep_log").fetchone()[0])
        db.execute(
            "UPDATE _rollrep_log SET at = julianday('now') - (? - ? * (id - ?) / ?) / 86400.0 WHERE id > ?",
            (from_s, from_s - to_s, after, newest - after, after),
        )
    return newest


BURST = "UPDATE posts SET title = title || 'x'"


@pytest.mark.parametrize("limit", [("--keep-rows", 9_000), ("--keep-bytes", "1MiB"), ("--keep-age", "50m")])
def test_check_warns_and_what_it_advises_helps_when_a_burst_would_fill_the_log(
    place: Place, limit: tuple[str, object]
) -> None:
    place.good("source", "install", place.db, *limit)
    place.good("pull", "shop")
    quiet = item(place)
    if limit[0] != "--keep-age":
        assert (quiet["state"], quiet["next"]) == ("OK", None)
    place.write(*[BURST] * 20)
    place.good("pull", "shop")
    warned = item(place)
    assert warned["state"] == "WARN"
    assert "1 h or more are wanted" in str(warned["text"])
    assert "mirroring took" in str(warned["text"])
    peak = warned["lasting"]["position"][-1]  # type: ignore[index]
    assert peak["rate"] == "peak" and 0 < peak["log_s"] < 3600
    before, colon, command = str(warned["next"]).partition(": ")
    assert (before, colon) == ("on the source", ": ")
    assert command.startswith(f"rollrep source install {place.db} --keep-")
    place.good(*shlex.split(command)[1:])
    assert (item(place)["state"], item(place)["next"]) == ("OK", None)


def test_check_advises_to_pull_when_only_the_mirror_lies_behind(place: Place) -> None:
    place.good("source", "install", place.db, "--keep-rows", 3_000)
    place.write(*[BURST] * 10)
    newest = spread(place, 0, 20 * HOUR_S, 10 * HOUR_S)
    place.good("pull", "shop")
    place.write(*[BURST] * 10)
    rows = spread(place, newest, 10 * HOUR_S, 0.0) - newest
    # At this rate the newest row lasts for hours, and the mirror's does not.
    place.good("source", "install", place.db, "--keep-rows", rows + 20)
    warned = item(place)
    assert (warned["state"], warned["next"]) == ("WARN", "rollrep pull shop")
    place.good("pull", "shop")
    assert item(place)["state"] == "OK"


def test_status_says_how_long_one_may_sleep_when_rows_were_written(place: Place) -> None:
    place.installed().write(*[BURST] * 3)
    told = place.told("source", "status", place.db)["lasting"]
    assert [each["rate"] for each in told["newest"]] == ["present", "hourly", "peak"]
    assert told["limits"]["rows"] == Limits().keep_rows
    assert all(0 < each["log_s"] < each["keys_s"] for each in told["newest"])
    said = place.good("source", "status", place.db).stdout
    assert said.count("  lasts    ") == 3 and "at the peak rate (" in said


def test_catalog_knows_how_long_mirroring_took_when_it_did(place: Place) -> None:
    place.pulled()
    with Catalog(place.store / "shop" / "catalog.db") as catalog:
        last = catalog.last_event("mirror")
    assert last is not None and item(place)["mirror_took_s"] == last[1]["seconds"] > 0
