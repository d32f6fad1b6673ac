"""Healing: a damaged segment is what it was again after a pull, or stays as it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import pull_once
from test_cli import Place
from test_mending import Life, as_it_was, cut_short, files_of

from rollrep.core.errors import Temporary
from rollrep.destination import compaction
from rollrep.destination.catalog import Catalog
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.store import Store
from rollrep.destination.trash import reading
from rollrep.source import reader
from rollrep.wire.messages import Batch
from rollrep.wire.session import LogOverrun, Session


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Life:
    made = Life(tmp_path_factory.mktemp("life"))
    made.live(virtual=False)
    return made


def flip_rows(path: Path) -> None:
    """Its manifest, at the end, stays."""
    raw = bytearray(path.read_bytes())
    raw[40] ^= 4
    path.write_bytes(raw)


def pulled_again(life: Life, *, rows_of_a_batch: int | None = None) -> list[str]:
    """What a pull healed; the application has written nothing meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        if rows_of_a_batch:
            patch.setattr(reader, "IMAGE_ROWS", rows_of_a_batch)
        return pull_once(life.store, life.path).healed


@pytest.mark.parametrize("number", [0, 3, -1])
@pytest.mark.parametrize("rows_of_a_batch", [None, 3])
def test_pull_fetches_a_damaged_segment_again_when_the_log_has_its_rows(
    rows_of_a_batch: int | None, number: int, followed: Life, tmp_path: Path
) -> None:
    life = as_it_was(followed, tmp_path)
    life.pulled()
    every, file = life.restorable(), files_of(life.store, "segment")[number]
    flip_rows(file)
    assert pulled_again(life) == [], "nobody has looked"
    assert len(life.verified().problems) == 1
    assert pulled_again(life, rows_of_a_batch=rows_of_a_batch) == [str(file.relative_to(life.store.folder))]
    assert life.verified().problems == [] and life.verified().notes == []
    assert life.restorable() == every
    assert pulled_again(life) == []
    # The catalog is the same when it is made again of the files.
    before = catalog_of(life)
    rebuild_catalog(life.store, dry_run=False)
    assert catalog_of(life) == before and life.restorable() == every


def catalog_of(life: Life) -> object:
    with Catalog(life.store.catalog) as catalog:
        return catalog.segments(), [each[1:] for each in catalog.points()], catalog.holes()


def test_joined_segment_is_healed_with_all_ends_of_pulls_in_it(followed: Life, tmp_path: Path) -> None:
    life = as_it_was(followed, tmp_path)
    life.pulled()
    every = life.restorable()
    with pytest.MonkeyPatch.context() as patch, life.store.locked(), Catalog(life.store.catalog) as catalog:
        patch.setattr(compaction, "TOGETHER", 4)
        assert compaction.compact(life.store, catalog)
    for rows in (None, 20):
        for file in files_of(life.store, "segment"):
            flip_rows(file)
        assert life.verified().lost
        assert pulled_again(life, rows_of_a_batch=rows)
        assert life.verified().problems == [] and life.restorable() == every


@pytest.mark.parametrize(
    "why", ["the log has forgotten", "another history", "no manifest", "somebody reads", "the line is cut"]
)
def test_damaged_segment_stays_as_it_is_when_it_can_not_be_fetched_again(
    why: str, followed: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = as_it_was(followed, tmp_path)
    life.pulled()
    file = files_of(life.store, "segment")[3]
    (cut_short if why == "no manifest" else flip_rows)(file)
    if why == "another history":
        with Catalog(life.store.catalog) as catalog:
            catalog.connection.execute("UPDATE segment SET proof = 'another' WHERE path LIKE ?", (f"%{file.name}",))
    lost = life.verified().lost
    before, harmed = sorted(life.store.folder.rglob("*")), file.read_bytes()
    if why == "the log has forgotten":
        monkeypatch.setattr(Session, "batches", forgotten)
    with reading(life.store) if why == "somebody reads" else contextlib.nullcontext():
        if why == "the line is cut":
            monkeypatch.setattr(reader, "IMAGE_ROWS", 3)
            with pytest.raises(Temporary):
                pull_once(life.store, life.path, cut_after=1_500)
        else:
            assert pulled_again(life) == []
    assert file.read_bytes() == harmed
    assert [each for each in sorted(life.store.folder.rglob("*")) if each.suffix == ".segment"] == [
        each for each in before if each.suffix == ".segment"
    ]
    assert life.verified().lost == lost
    if why in ("somebody reads", "the line is cut"):
        assert pulled_again(life)


def forgotten(session: Session, after: int, through: int) -> Iterator[object]:
    raise LogOverrun(through)
    yield


@pytest.mark.parametrize("rows_of_a_batch", [None, 3])
def test_segment_is_healed_when_the_line_is_cut_behind_its_last_row(
    rows_of_a_batch: int | None, followed: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = as_it_was(followed, tmp_path)
    life.pulled()
    every = life.restorable()
    flip_rows(files_of(life.store, "segment")[3])
    assert len(life.verified().problems) == 1
    received = Session.batches

    def cut_at_the_end(self: Session, after: int, through: int) -> Iterator[tuple[Batch, bytes]]:
        yield from received(self, after, through)
        raise Temporary("the line was cut")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "batches", cut_at_the_end)
        with pytest.raises(Temporary):
            pulled_again(life, rows_of_a_batch=rows_of_a_batch)
    pulled_again(life)
    assert life.verified().problems == [] and life.restorable() == every


def test_commands_tell_of_a_segment_that_was_fetched_again(tmp_path: Path) -> None:
    place = Place(tmp_path).pulled()
    place.write("UPDATE posts SET title = title || 'x'")
    place.good("source", "point", place.db, "--label", "one")
    place.good("pull", "shop")
    [file] = files_of(Store(place.store, "shop"), "segment")
    flip_rows(file)
    assert place.run("verify", "shop").returncode == 16
    assert place.run("check", "shop").returncode == 16
    done = place.run("pull", "shop", "--json")
    [told] = json.loads(done.stdout)["jobs"]
    assert done.returncode == 0 and told["fetched_again"] == [f"archive/1/{file.name}"]
    assert f"archive/1/{file.name} was damaged; its rows were fetched again" in done.stderr
    for command in ("check", "status"):
        assert "files were damaged; none of those is in use any more" in place.good(command, "shop").stdout
    place.good("verify", "shop")
    assert "all was right" in place.good("check", "shop").stdout
    assert place.run("restore", "shop", "--at", "label:one", "--output", "out.db").returncode == 0
