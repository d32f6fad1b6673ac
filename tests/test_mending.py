"""Damage at rest: nothing wrong is ever restored, what can be restored is, and `verify --repair` leaves no trouble."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import io
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import copy_source, pull_once
from test_cli import Place
from test_history import versions_of

from rollrep.cli.output import reporting
from rollrep.core.errors import NotRestorable, VerifyFailed
from rollrep.core.moments import ById
from rollrep.destination import snapshots
from rollrep.destination.at_rest import AtRest, verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.expire import expiry_of, run_expiry
from rollrep.destination.mending import Mended, mend, would_mend
from rollrep.destination.reach import Reach
from rollrep.destination.restore import plan, plan_newest, restore
from rollrep.destination.retention import Grid
from rollrep.destination.snapshots import take_snapshot
from rollrep.destination.store import Store
from rollrep.jobs.config import Config, Job
from rollrep.jobs.rehearse import rehearse
from rollrep.source.tables import Limits

ROUNDS = 8


class Life(FollowedPair):
    """Pulls, of which some end in a snapshot, and for each log id that a pull ended at the source as it was."""

    kept: dict[int, Path]

    def live(self, *, virtual: bool) -> None:
        text = "CREATE VIRTUAL TABLE f USING fts5(x);" if virtual else ""
        rows = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300)"
        self.create(
            "CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, note);"
            + text
            + f"{rows} INSERT INTO account SELECT i, 'owner ' || i, hex(randomblob(20)) FROM c",
            Limits(keep_rows=100_000),
        )
        self.kept = {}
        for number in range(ROUNDS):
            self.do("UPDATE account SET note = ? WHERE id % 40 = ?", (f"round {number}", number))
            if virtual:
                self.do("INSERT INTO f VALUES (?)", (f"round{number}",))
            self.pulled(snapshot_s=0.0 if number in (2, 4, 5) else 3600.0)

    def pulled(self, snapshot_s: float = 3600.0) -> None:
        at = pull_once(self.store, self.path, snapshot_s=snapshot_s).position
        assert at is not None
        self.kept[at.id] = self.folder / f"{at.id}.db"
        copy_source(self.path, self.kept[at.id])

    def verified(self) -> AtRest:
        with self.store.locked():
            return verify_at_rest(self.store, lambda _what, _bytes: None)

    def mended(self) -> Mended:
        found = self.verified()
        with self.store.locked(), Catalog(self.store.catalog) as catalog:
            return mend(self.store, catalog, found)

    def restorable(self) -> set[int]:
        """The log ids of the points that are said to be restorable; each was, and is as it was."""
        with Catalog(self.store.catalog) as catalog:
            points = restorable(catalog)
            output = self.folder / "restored.db"
            ways = [plan(catalog, point) for point in points]
            # The mirror, where it stands there.
            ways += [plan_newest(self.store, catalog, point) for point in points[-1:]]
            for chosen in ways:
                made = restore(self.store, catalog, chosen, output, force=True, progress=lambda _: None)
                assert not made.earlier
                oracle.assert_same(self.kept[chosen.point.id], output)
        return {point.id for point in points}


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Life]:
    made = {}
    for virtual in (False, True):
        made[virtual] = Life(tmp_path_factory.mktemp("life"))
        made[virtual].live(virtual=virtual)
    return made


def as_it_was(life: Life, folder: Path) -> Life:
    """The same source, and a copy of what its pulls left, to be harmed."""
    again = Life(folder)
    again.db.close()
    again.path, again.db, again.kept = life.path, life.db, dict(life.kept)
    shutil.copytree(life.store.folder, again.store.folder)
    return again


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.write_bytes(raw)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


HARMS: dict[str, Callable[[Path], None]] = {"flipped": flip, "cut short": cut_short, "gone": Path.unlink}


def files_of(store: Store, ending: str) -> list[Path]:
    found = sorted([*store.archive.rglob(f"*.{ending}"), *store.snapshots.glob(f"*.{ending}")])
    assert found, f"there is no file of the kind {ending}"
    return found


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("ending", ["segment", "snapshot", "change", "shadows"])
def test_points_that_are_listed_can_be_restored_when_a_file_is_damaged(
    lives: dict[bool, Life], tmp_path: Path, ending: str, harm: str
) -> None:
    whole = lives[ending == "shadows"]
    every, files = set(whole.kept), files_of(whole.store, ending)
    for number in {0, len(files) // 2, len(files) - 1}:
        (folder := tmp_path / str(number)).mkdir()
        life = as_it_was(whole, folder)
        file = files_of(life.store, ending)[number]
        HARMS[harm](file)
        with Catalog(life.store.catalog) as catalog:
            for point in restorable(catalog):
                with contextlib.suppress(VerifyFailed):
                    oracle.assert_same(life.kept[point.id], life.restored(point))
        found = life.verified()
        assert [Path(each.path) for each in found.problems][:1] == [file]
        listed = life.restorable()
        assert listed == {point.id for point in found.restorable}
        assert listed | {point.id for point in found.lost} == every
        with Catalog(life.store.catalog) as catalog:
            planned = would_mend(life.store, catalog, found)
        mended = life.mended()
        assert mended == planned, "-n says what would be"
        path, is_gone = str(file.relative_to(life.store.folder)), harm == "gone"
        assert (path in mended.files, path in mended.missing) == (not is_gone, is_gone)
        assert all(any(life.store.trash.glob(f"*/{each}")) for each in mended.files)
        assert life.restorable() == every - {point.id for point in mended.lost} >= listed
        assert life.verified().problems == []
        # What follows is as if nothing had been, and so is the catalog when it is made again.
        life.do("UPDATE account SET note = 'later' WHERE id = 7")
        life.pulled()
        life.same()
        assert max(life.restorable()) > max(every) and life.verified().problems == []


def test_point_before_damage_is_named_when_nothing_whole_leads_to_it(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    flip(files_of(life.store, "segment")[0])
    [lost] = life.verified().lost
    with Catalog(life.store.catalog) as catalog, pytest.raises(NotRestorable, match=f"leads to point {lost.point}"):
        find_point(catalog, ById(lost.id))


def test_nothing_is_let_go_of_that_leads_around_damage(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    segments = files_of(life.store, "segment")
    flip(segments[3])
    life.verified()
    before = life.restorable()
    with life.store.locked(), Catalog(life.store.catalog) as catalog:
        now = catalog.points()[-1].time
        planned = expiry_of(life.store, catalog, Grid(last=1), now)
        # Without the damage the snapshots in between go, as the archive leads there from the first one.
        assert planned.lost == () and {
            each.reason for each in planned.files if each.item.path.endswith(segments[3].name)
        }
        assert run_expiry(life.store, catalog, planned) is not None
    assert life.restorable() == before


def test_damage_is_forgotten_when_the_file_is_put_right(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    every, file = life.restorable(), files_of(life.store, "segment")[0]
    whole = file.read_bytes()
    flip(file)
    assert life.verified().lost
    # Retention comes in between, and forgets no point for it.
    with life.store.locked(), Catalog(life.store.catalog) as catalog:
        catalog.drop_points_nothing_leads_to()
    file.write_bytes(whole)
    assert life.verified().problems == [] and life.restorable() == every


def test_snapshot_is_taken_when_what_led_to_the_mirror_is_damaged(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    for file in [*files_of(life.store, "segment"), *files_of(life.store, "snapshot")]:
        flip(file)
    newest = max(life.kept)
    assert life.mended().lost and life.restorable() == {newest}


def test_snapshot_that_is_damaged_is_taken_again_when_the_mirror_stands_there(
    lives: dict[bool, Life], tmp_path: Path
) -> None:
    life = as_it_was(lives[False], tmp_path)
    life.do("UPDATE account SET note = 'later' WHERE id = 7")
    life.pulled(snapshot_s=0.0)
    with Catalog(life.store.catalog) as catalog:
        newest = catalog.snapshots()[-1]
    for file in [*files_of(life.store, "segment"), life.store.folder / newest.path]:
        flip(file)
    life.verified()
    with life.store.locked(), Catalog(life.store.catalog) as catalog:
        assert take_snapshot(life.store, catalog).id == newest.id == max(life.kept)
    assert max(life.kept) in life.restorable()


def test_pull_takes_a_whole_snapshot_when_a_segment_behind_the_last_one_is_damaged(
    lives: dict[bool, Life], tmp_path: Path
) -> None:
    life = as_it_was(lives[False], tmp_path)
    flip(files_of(life.store, "segment")[-1])
    life.do("UPDATE account SET note = 'later' WHERE id = 7")
    life.pulled(snapshot_s=0.0)
    assert [point.id for point in life.verified().lost] == sorted(life.kept)[-2:-1]
    assert max(life.kept) in life.restorable()


def harm_index(mirror: Path) -> None:
    """Entries of an index that are none, in a page of the right form: no row is damaged."""
    with contextlib.closing(apsw.Connection(str(mirror))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        [(page,)] = db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'sqlite_autoindex_account_1' AND pagetype = 'leaf' LIMIT 1"
        ).fetchall()
        size = int(db.pragma("page_size"))
    raw = mirror.read_bytes()
    at = raw.rindex(b"owner", (page - 1) * size, page * size)
    mirror.write_bytes(raw[:at] + b"OWNER" + raw[at + 5 :])


def harm_table(mirror: Path, table: str = "account") -> None:
    with contextlib.closing(apsw.Connection(str(mirror))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        [(page,)] = db.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' LIMIT 1", (table,)
        ).fetchall()
        size = int(db.pragma("page_size"))
    raw = bytearray(mirror.read_bytes())
    raw[(page - 1) * size : page * size] = b"x" * size
    mirror.write_bytes(raw)


def harm_header(mirror: Path) -> None:
    raw = bytearray(mirror.read_bytes())
    raw[:100] = bytes(100)
    mirror.write_bytes(raw)


@pytest.mark.parametrize("harm", [harm_index, harm_table, harm_header])
def test_damaged_mirror_is_made_again_when_it_is_asked_for(
    lives: dict[bool, Life], tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    life = as_it_was(lives[False], tmp_path)
    every = life.restorable()
    harm(life.store.mirror)
    assert [each.remedy for each in life.verified().problems] == ["rollrep mirror job"]
    if harm is not harm_index:
        # The newest point comes of snapshot and archive then; `PRAGMA quick_check` looks no row up in an index.
        assert life.restorable() == every
    pull_once(life.store, life.path, mirror=True)
    oracle.assert_same(life.path, life.store.mirror)
    assert life.verified().problems == []
    life.same()


def test_commands_lead_out_of_a_damaged_mirror(tmp_path: Path) -> None:
    place = Place(tmp_path).pulled()
    mirror = place.store / "shop" / "mirror.db"
    harm_table(mirror, "posts")
    done = place.run("restore", "shop", "--output", "out.db")
    assert (
        done.returncode == 0
        and f"{mirror} is damaged, and was not used; what to do: rollrep verify shop" in done.stderr
    )
    place.write("UPDATE posts SET title = 'x'")
    for command in (("pull", "shop"), ("verify", "shop")):
        done = place.run(*command)
        assert done.returncode == 16 and "rollrep mirror shop" in done.stderr
    for command in (("mirror", "shop"), ("verify", "shop"), ("check", "shop")):
        place.good(*command)


def test_commands_lead_out_of_a_damaged_archive(tmp_path: Path) -> None:
    place = Place(tmp_path).pulled()
    for label in ("one", "two", "three"):
        place.write("UPDATE posts SET title = title || 'x'")
        place.good("source", "point", place.db, "--label", label)
        place.good("pull", "shop")
    [_, file, _] = files_of(Store(place.store, "shop"), "segment")
    flip(file)
    done = place.run("verify", "shop")
    assert done.returncode == 16 and f"{file}: " in done.stdout
    assert "shop: 2 points can't be restored because of that: 3 two, 4 three\n" in done.stdout
    assert "next: rollrep pull shop; then: rollrep verify shop --repair\n" in done.stderr
    done = place.run("restore", "shop", "--at", "label:two", "--output", "out.db")
    assert done.returncode == 17 and "nothing that is whole leads to point 3 any more" in done.stderr
    would = place.run("verify", "shop", "--repair", "-n")
    assert would.returncode == 16 and file.exists()
    assert (
        f"shop: --repair would put {file.relative_to(place.store / 'shop')} into the trash, for a day" in would.stdout
    )
    assert "shop: --repair would lose 1 point: 3 two\n" in would.stdout
    done = place.good("verify", "shop", "--repair")
    assert "can't be restored any more: 3 two" in done.stdout and not file.exists()
    for command in (("verify", "shop"), ("check", "shop"), ("pull", "shop"), ("points", "shop"), ("timeline", "shop")):
        done = place.good(*command)
    assert "a file was damaged, and put aside" in done.stdout
    place.good("catalog", "shop", "--rebuild")
    place.good("verify", "shop")


def test_file_is_not_said_to_lie_in_the_trash_when_it_is_missing(tmp_path: Path) -> None:
    place = Place(tmp_path).pulled()
    place.write("UPDATE posts SET title = title || 'x'")
    place.good("pull", "shop")
    [file] = files_of(Store(place.store, "shop"), "segment")
    file.unlink()
    name = file.relative_to(place.store / "shop")
    would = place.run("verify", "shop", "--repair", "-n").stdout
    assert f"{name} is gone: --repair would have the catalog forget it" in would
    said = place.good("verify", "shop", "--repair").stdout
    assert f"{name} is gone, and the catalog no longer names it" in said and "trash" not in said


def test_history_goes_around_damage_that_is_known(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    flip(files_of(life.store, "segment")[0])
    with pytest.raises(VerifyFailed):
        versions_of(life, "account", ("id",), ("i:40",))
    life.verified()
    assert [each.what for each in versions_of(life, "account", ("id",), ("i:40",))].count("hole") == 1


def test_rehearsal_is_no_success_when_it_went_around_a_file(lives: dict[bool, Life], tmp_path: Path) -> None:
    life = as_it_was(lives[False], tmp_path)
    job = Job("job", f"local:{life.path}")
    config = Config(tmp_path / "rollrep.toml", life.store.folder.parent, {"job": job})
    with Catalog(life.store.catalog) as catalog:
        chosen = catalog.snapshots()[-1]
    flip(life.store.folder / chosen.path)
    found = rehearse(config, job, lambda catalog: find_point(catalog, ById(chosen.id)), lambda _: None)
    assert not found.failed and found.damaged == (life.store.folder / chosen.path,) and "is damaged" in found.wrong


def test_way_to_a_point_is_of_one_moment_when_retention_comes_in_between(
    lives: dict[bool, Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = as_it_was(lives[False], tmp_path)
    reach = Catalog.reach

    def then_pruned(self: Catalog, damaged: Collection[str] = frozenset()) -> Reach:
        found = reach(self, damaged)
        with monkeypatch.context() as patched, Catalog(life.store.catalog) as catalog:
            patched.setattr(Catalog, "reach", reach)
            now = catalog.points()[-1].time + dt.timedelta(days=30)
            run_expiry(life.store, catalog, expiry_of(life.store, catalog, Grid(last=1, operations_s=0.0), now))
        return found

    with Catalog(life.store.catalog) as catalog:
        first = restorable(catalog)[1]
        monkeypatch.setattr(Catalog, "reach", then_pruned)
        chosen = plan(catalog, first)
        monkeypatch.undo()
        with pytest.raises(NotRestorable):
            plan(catalog, first)
        # What was let go of lies in the trash for a day.
        restore(life.store, catalog, chosen, tmp_path / "restored.db", force=True, progress=lambda _: None)
    oracle.assert_same(life.kept[first.id], tmp_path / "restored.db")


@pytest.mark.parametrize("ending", ["segment", "snapshot", "change"])
def test_restore_goes_around_a_file_that_the_disk_cannot_read(
    lives: dict[bool, Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    life = as_it_was(lives[False], tmp_path)
    file = files_of(life.store, ending)[-1]
    opened = Path.open

    class Unreadable(io.FileIO):
        def readinto(self, _buffer: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def unreadable(path: Path, *how: Any, **more: Any) -> Any:
        return io.BufferedReader(Unreadable(path)) if path == file else opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", unreadable)
    found = life.verified()
    assert [(each.path, "Input/output error" in each.text) for each in found.problems][:1] == [(str(file), True)]
    assert life.restorable() == {point.id for point in found.restorable}
    with Catalog(life.store.catalog) as catalog:
        catalog.know_damaged(())
        for point in found.restorable:
            oracle.assert_same(life.kept[point.id], life.restored(point))
        for point in found.lost:
            with pytest.raises(VerifyFailed, match="Input/output error"):
                life.restored(point)


def test_newest_point_comes_of_the_archive_when_the_mirror_cannot_be_read(
    lives: dict[bool, Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = as_it_was(lives[False], tmp_path)

    def unreadable(*_: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(snapshots, "copy_file", unreadable)
    assert life.restorable() == set(life.kept)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), apsw.IOError("disk I/O error")])
def test_command_ends_in_a_sentence_when_the_disk_fails(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @reporting("restore")
    def command(job: str) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        command(job="shop")
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "next: see what is whole: rollrep verify shop" in said and str(error) in said
