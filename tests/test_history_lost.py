"""A source whose history is another one: mirrored, or where the job is to stop, left until somebody has looked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from oracle import assert_same
from sources import copy_source
from test_cli import Place

WRITE = "UPDATE posts SET title = title || 'x'"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    configure(made, "stop")
    return made


def configure(place: Place, what: str) -> None:
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\non_history_lost = "{what}"\n')


def restored_from_backup(place: Place, more: int) -> None:
    """The source as it was before what the mirror has of it, and `more` statements since."""
    backup = place.folder / "backup.db"
    copy_source(place.db, backup)
    place.write(WRITE)
    place.good("pull")
    for ending in ("-wal", "-shm"):
        place.db.with_name(place.db.name + ending).unlink(missing_ok=True)
    shutil.copyfile(backup, place.db)
    backup.unlink()
    place.write(*[WRITE] * more)


@pytest.mark.parametrize(
    ("more", "keep_rows", "says"), [(0, 0, "is older"), (2, 0, "is not the mirror's"), (9, 100, "is not the mirror's")]
)
def test_pull_stops_and_what_it_says_goes_on_when_the_source_was_restored(
    place: Place, more: int, keep_rows: int, says: str
) -> None:
    place.pulled()
    if keep_rows:
        place.good("source", "install", place.db, "--keep-rows", keep_rows)
        place.good("pull")
    restored_from_backup(place, more)
    before = {name: data for name, data in place.files().items() if name.startswith("data/shop/mirror.db")}
    points = place.told("points", "shop")["points"]
    for _ in range(2):
        done = place.run("pull", "shop")
        assert (done.returncode, done.stdout) == (14, "")
        assert says in done.stderr and "rollrep mirror shop goes on" in done.stderr
    assert {name: data for name, data in place.files().items() if name.startswith("data/shop/mirror.db")} == before
    assert place.told("points", "shop")["points"] == points
    checked = place.run("check", "shop")
    assert checked.returncode == 14
    assert "FAIL    shop: log: " in checked.stdout and "next: rollrep mirror shop\n" in checked.stdout
    place.good("mirror", "shop")
    place.assert_mirrored()
    assert {point["point"] for point in points} <= {each["point"] for each in place.told("points", "shop")["points"]}
    place.good("pull", "shop")
    place.good("check", "shop")


def test_pull_stops_when_the_log_was_begun_anew(place: Place) -> None:
    place.pulled()
    place.write("DELETE FROM _rollrep_log", WRITE)
    done = place.run("pull", "shop", "--json")
    assert done.returncode == 14
    [job] = json.loads(done.stdout)["jobs"]
    assert (job["error"]["kind"], job["error"]["exit_code"]) == ("mirror_needed", 14)
    assert "begun anew" in job["error"]["facts"]
    place.good("mirror", "shop")
    place.assert_mirrored()


def test_accepted_source_is_mirrored_when_the_job_stops_at_another_history(place: Place) -> None:
    place.pulled()
    place.good("source", "uninstall", place.db)
    place.good("source", "install", place.db)
    assert place.run("pull", "shop").returncode == 2
    place.good("mirror", "shop", "--accept-source")
    place.assert_mirrored()


def test_pull_goes_on_when_the_log_has_only_forgotten(place: Place) -> None:
    place.pulled().good("source", "install", place.db, "--keep-rows", 40)
    place.write(*[WRITE] * 60)
    place.good("pull", "shop")
    place.assert_mirrored()


@pytest.mark.parametrize("configured", ["", "mirror"])
def test_pull_mirrors_and_keeps_the_old_line_when_it_may(place: Place, configured: str) -> None:
    configure(place, configured) if configured else place.configure()
    place.pulled()
    restored_from_backup(place, 2)
    points = place.told("points", "shop")["points"]
    place.good("pull", "shop")
    place.assert_mirrored()
    assert {point["point"] for point in points} <= {each["point"] for each in place.told("points", "shop")["points"]}


def test_configuration_is_refused_when_it_says_something_else(place: Place) -> None:
    configure(place, "ask")
    done = place.run("pull", "shop")
    assert done.returncode == 2
    assert "rollrep.toml:4: " in done.stderr and 'write "mirror" or "stop"' in done.stderr


def test_copy_is_told_apart_and_no_line_is_lost_when_both_go_on_and_answer_in_turn(place: Place) -> None:
    """The same database on two machines, by the same name: nothing tells them apart but what was written since."""
    configure(place, "mirror")
    place.pulled()
    copy = place.folder / "copy.db"
    copy_source(place.db, copy)
    then: dict[int, Path] = {}
    reasons: list[str] = []

    def other_answers() -> None:
        for ending in ("-wal", "-shm"):
            place.db.with_name(place.db.name + ending).unlink(missing_ok=True)
        place.db.rename(place.folder / "waits.db")
        copy.rename(place.db)
        (place.folder / "waits.db").rename(copy)

    for turn in range(3):
        place.write(f"UPDATE posts SET title = 'turn {turn}' WHERE id % 7 = {turn}")
        answer = place.told("pull", "shop")["jobs"][0]
        assert turn == 0 or answer["answer"] == "mirror", answer
        reasons.append(answer["reason"])
        place.assert_mirrored()
        point = max(place.told("points", "shop")["points"], key=lambda each: each["point"])
        then[point["point"]] = place.folder / f"turn{turn}.db"
        copy_source(place.db, then[point["point"]])
        other_answers()
    assert {"diverged", "ahead"} & {*reasons}, reasons
    for number, kept in then.items():
        done = place.run("restore", "shop", "--at", f"point:{number}", "-o", place.folder / "out.db", "--force")
        assert done.returncode == 0, done.stderr
        assert_same(kept, place.folder / "out.db")


def test_pull_stops_when_a_copy_that_went_on_answers_and_the_job_says_so(place: Place) -> None:
    place.pulled()
    backup = place.folder / "copy.db"
    copy_source(place.db, backup)
    place.write(WRITE, WRITE)
    place.good("pull")
    before = place.mirror().read_bytes()
    for ending in ("-wal", "-shm"):
        place.db.with_name(place.db.name + ending).unlink(missing_ok=True)
    backup.rename(place.db)
    place.write(*[WRITE] * 2, "UPDATE posts SET title = 'elsewhere'")
    assert place.run("pull", "shop").returncode == 14
    assert place.mirror().read_bytes() == before
