"""The timeline: what the bar, the JSON and the page say is what can be restored, and a hole is never hidden."""

from __future__ import annotations

import datetime as dt
import html.parser
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair import FollowedPair
from sources import session
from test_cli import Place, refusal
from test_keeping import silent
from test_retention import DAY, HOUR, NOW

from rollrep.cli.bar import ASCII, UNICODE, bar_lines, cells
from rollrep.cli.page import page
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Hole, LineStory, Segment, Snapshot
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire
from rollrep.destination.keeping import annotate, make_snapshot
from rollrep.destination.notes import Note
from rollrep.destination.pull import Wishes, pull
from rollrep.destination.reach import reach_of
from rollrep.destination.retention import Grid
from rollrep.destination.store import Store
from rollrep.destination.timeline import LineSeen, SnapshotSeen, Timeline, line_seen, read_timeline
from rollrep.source.install import uninstall

STORY = LineStory(1, "e", "first", NOW - 10 * DAY)


def line_of(
    snapshots: list[tuple[int, dt.datetime]],
    segments: list[tuple[int, int]],
    points: list[tuple[int, dt.datetime]],
    holes: list[tuple[int, int]] = [],  # noqa: B006
    labels: dict[int, str] | None = None,
) -> LineSeen:
    taken = [Snapshot(1, log_id, time, f"s{log_id}", 10, 10) for log_id, time in snapshots]
    return line_seen(
        STORY,
        [SnapshotSeen(each, Note()) for each in taken],
        [CatalogPoint(log_id, 1, "e", log_id, "pull", (labels or {}).get(log_id), time) for log_id, time in points],
        [Hole(1, after, until, "pruned") for after, until in holes],
        reach_of([Segment(1, first, last, "", "", 1) for first, last in segments], taken),
    )


def test_hole_is_drawn_when_it_is_narrower_than_a_cell() -> None:
    seen = line_of(
        [(1, NOW - 10 * DAY), (20, NOW - 5 * DAY)],
        [(2, 10), (21, 30)],
        [(1, NOW - 10 * DAY), (10, NOW - 5 * DAY - HOUR / 60), (20, NOW - 5 * DAY), (30, NOW)],
        [(10, 20)],
    )
    drawn = cells(seen, NOW - 10 * DAY, NOW, 40, UNICODE)
    assert len(drawn) == 40
    assert drawn.count("╳") in (1, 2)
    assert set(drawn) <= set("━●╳")


def test_hole_is_one_when_all_that_was_kept_between_it_and_others_is_gone() -> None:
    seen = line_of(
        [(5, NOW - 9 * DAY), (50, NOW - DAY)],
        [(51, 60)],
        [(5, NOW - 9 * DAY), (50, NOW - DAY), (60, NOW)],
        [(2, 4), (7, 9), (20, 30), (40, 50)],
    )
    [hole] = seen.holes
    assert (hole.begin, hole.end) == (NOW - 9 * DAY, NOW - DAY)
    assert (hole.hole.after, hole.hole.until) == (7, 50)


def test_no_hole_of_no_time_begins_a_line_when_nothing_before_it_is_kept() -> None:
    points = [(50, NOW - DAY), (60, NOW)]
    assert line_of([points[0]], [(51, 60)], points, [(7, 9), (40, 50)]).holes == ()


def test_hole_is_told_once_when_pruning_took_what_lay_between(pair: FollowedPair) -> None:
    pair.install(keep_rows=1)
    for number in range(4):
        pair.do(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
            f" INSERT INTO t(v) SELECT {number} FROM n"
        )
        assert pair.pull() == ("mirror", "pruned")
    before = timeline_of(pair).lines[0]
    assert len(before.holes) == 4
    with Catalog(pair.store.catalog) as catalog:
        first, *_, newest = restorable(catalog)
        annotate(pair.store, catalog, first, make_snapshot(pair.store, catalog, first, silent), None, True)
        expire(pair.store, catalog, Grid(last=1, operations_s=0.001), newest.time + DAY)
        assert len(catalog.holes()) == 4
    [line] = timeline_of(pair).lines
    [hole] = line.holes
    assert (hole.begin, hole.end) == (line.points[0].time, line.points[-1].time)
    said = bar_lines(timeline_of(pair), 80, ASCII)
    assert len([each for each in said if each.startswith("hole")]) == 1
    with Catalog(pair.store.catalog) as catalog:
        annotate(pair.store, catalog, first, make_snapshot(pair.store, catalog, first, silent), None, False)
        expire(pair.store, catalog, Grid(last=1, operations_s=0.001), newest.time + DAY)
    assert timeline_of(pair).lines[0].holes == ()


def test_snapshot_alone_is_a_moment_and_not_a_stretch_when_nothing_leads_on() -> None:
    seen = line_of([(1, NOW - 10 * DAY), (9, NOW - DAY)], [(10, 20)], [(1, NOW - 10 * DAY), (9, NOW - DAY), (20, NOW)])
    assert [(each.first, each.last) for each in seen.stretches] == [(1, 1), (9, 20)]
    assert cells(seen, NOW - 10 * DAY, NOW, 20, ASCII) == "o" + " " * 17 + "o="


def test_time_does_not_go_back_when_the_clock_did() -> None:
    times = [NOW - 3 * HOUR, NOW, NOW - 2 * HOUR, NOW + HOUR]
    seen = line_of([(1, times[0])], [(2, 4)], list(zip((1, 2, 3, 4), times, strict=True)))
    assert [each.time for each in seen.points] == [times[0], NOW, NOW, NOW + HOUR]
    assert seen.stretches[0].end == NOW + HOUR


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_stretches_hold_every_restorable_point_and_no_other(parts: list[tuple[int, bool, bool]]) -> None:
    at, time = 0, NOW - 100 * DAY
    snapshots, segments, points = [], [], []
    for count, is_archived, is_snapshot in parts:
        first, at, time = at + 1, at + count, time + HOUR
        if is_archived:
            segments.append((first, at))
        if is_snapshot:
            snapshots.append((at, time))
        points.append((at, time))
    seen = line_of(snapshots, segments, points)
    inside = {log_id for log_id, _ in points for each in seen.stretches if each.first <= log_id <= each.last}
    assert inside == {each.point.id for each in seen.points}
    width = 50
    drawn = cells(seen, points[0][1], max(points[-1][1], points[0][1] + HOUR), width, ASCII)
    assert (set(drawn) == {" "}) == (not seen.stretches)


@pytest.fixture
def pair(tmp_path: Path) -> FollowedPair:
    made = FollowedPair(tmp_path)
    made.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    return made


def timeline_of(pair: FollowedPair) -> Timeline:
    with Catalog(pair.store.catalog) as catalog:
        return read_timeline(pair.store, catalog)


def hostile(pair: FollowedPair) -> str:
    """A label that would be markup."""
    label = "<script>alert('x')</script>\"&' </style>"
    pair.do("INSERT INTO t VALUES (1, 2)")
    pair.do("INSERT INTO _rollrep_point(label) VALUES (?)", (label,))
    pair.pull()
    return label


def test_line_is_a_branch_when_the_source_was_mirrored_anew(pair: FollowedPair) -> None:
    pair.do("INSERT INTO t VALUES (1, 2)")
    pair.do("INSERT INTO _rollrep_point(label) VALUES ('same name')")
    pair.pull()
    uninstall(pair.db)
    pair.install()
    wishes = Wishes(str(pair.path), accept_source=True)
    with session() as talk, pair.store.locked():
        assert pull(pair.store, talk, wishes, lambda _table, _rows: None).answer == "mirror"
    pair.do("INSERT INTO _rollrep_point(label) VALUES ('same name')")
    pair.pull()
    seen = timeline_of(pair)
    assert [line.story.line for line in seen.lines] == [1, 2]
    assert all(line.points for line in seen.lines)
    said = "\n".join(bar_lines(seen, 80, ASCII))
    assert "line 1" in said and "line 2 began" in said
    assert "line 2, the present one" in page(seen, NOW)
    labels = [line for line in said.splitlines() if line.startswith("label")]
    assert [line[-18:] for line in labels] == ["same name (line 1)", "same name (line 2)"]
    rows = re.findall(r"<td>same name</td><td class=n>\d+</td><td class=n>(\d)</td>", page(seen, NOW))
    assert rows == ["2", "1"]


def test_freshness_is_the_oldest_that_the_mirror_became_when_it_was_pulled_in_an_hour(pair: FollowedPair) -> None:
    with Catalog(pair.store.catalog, create=True) as catalog:
        before = catalog.freshness()
        for time in ("2030-01-01T10:10:00.000Z", "2030-01-01T10:10:05.000Z", "2030-01-01T10:40:05.000Z"):
            catalog.confirm(time)
        catalog.confirm("2030-01-01T13:40:05.000Z")
        catalog.confirm("2030-01-01T13:30:05.000Z")  # the clock was set back
        found = catalog.freshness()[len(before) :]
    assert [(each.hour.hour, each.pulls) for each in found] == [(10, 3), (13, 2)]
    assert found[1].longest_s == 3 * 3600
    assert found[0].longest_s >= 1800


def test_catalog_without_freshness_is_read_when_an_older_rollrep_wrote_it(pair: FollowedPair) -> None:
    with Catalog(pair.store.catalog) as catalog:
        catalog.connection.execute("DROP TABLE freshness")
    assert timeline_of(pair).freshness == ()
    pair.pull()
    assert timeline_of(pair).freshness != ()


class Reader(html.parser.HTMLParser):
    """What a browser would fetch or run, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link", "iframe", "object"):
            self.fetched.append(tag)
        self.fetched += [f"{name}={value}" for name, value in attrs if name in ("src", "href", "onclick", "onload")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_page_fetches_and_runs_nothing_when_a_label_is_markup(pair: FollowedPair) -> None:
    label = hostile(pair)
    with Catalog(pair.store.catalog) as catalog:
        point = restorable(catalog)[-1]
        annotate(pair.store, catalog, point, make_snapshot(pair.store, catalog, point, silent), "<b>pin", pin=True)
    text = page(timeline_of(pair), NOW)
    reader = read_page(text)
    assert reader.fetched == []
    assert label in "".join(reader.text)
    assert "url(" not in text and "@import" not in text and "http:" not in text and "https:" not in text
    assert "Content-Security-Policy" in text and "prefers-color-scheme:dark" in text


def test_page_is_whole_when_nothing_can_be_restored(tmp_path: Path) -> None:
    with Catalog(tmp_path / "catalog.db", create=True) as catalog:
        seen = read_timeline(Store(tmp_path, "job"), catalog)
    assert "Nothing can be restored yet" in "".join(read_page(page(seen, NOW)).text)
    assert bar_lines(seen, 80, ASCII) == ["job: nothing can be restored yet"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path).pulled()


def test_bar_is_as_wide_as_the_terminal_and_plain_when_it_knows_no_unicode(place: Place) -> None:
    place.good("source", "point", place.db, "--label", "now")
    place.good("pull")
    for columns, encoding, sign in (("60", "utf-8", "◆"), ("120", "ascii", "*")):
        done = place.run("timeline", "shop", COLUMNS=columns, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        row = next(line for line in done.stdout.splitlines() if line.startswith("line 1"))
        assert len(row) == int(columns)
        assert sign in row
        assert encoding != "ascii" or done.stdout.isascii()


def test_timeline_json_is_what_points_says_when_both_are_asked(place: Place) -> None:
    place.good("source", "point", place.db, "--label", "now")
    place.good("pull")
    told = json.loads(place.good("timeline", "shop", "--json").stdout)
    points = json.loads(place.good("points", "shop", "--json").stdout)["points"]
    assert all(point.pop("earlier") == [] for point in points)
    assert told["schema"] == "rollrep.timeline/1"
    assert sum(line["points"] for line in told["lines"]) == len(points)
    assert told["lines"][0]["labelled"] == [point for point in points if point["label"]]
    assert told["oldest"] == points[0]["time"]
    assert told["bytes"]["mirror"] > 0 and told["bytes"]["snapshots"] > 0


def test_page_is_one_file_with_commands_that_work_when_it_is_written(place: Place) -> None:
    place.good("source", "point", place.db, "--label", "now")
    place.good("pull")
    place.good("timeline", "shop", "--html", "page.html")
    text = (place.folder / "page.html").read_text()
    read_page(text)
    command = re.findall(r"<code>rollrep ([^<]+)</code>", text)[0]
    done = place.run(*command.split())
    assert done.returncode == 0, done.stderr
    assert (place.folder / "then.db").is_file()
    assert place.run("timeline", "shop", "--html", place.folder).returncode == 2
    assert place.run("timeline", "shop", "--html", place.folder / "no" / "page.html").returncode == 2


def test_timeline_refuses_when_nothing_was_pulled(tmp_path: Path) -> None:
    refusal(Place(tmp_path).installed(), 10, ("timeline", "shop"), "rollrep pull shop")
