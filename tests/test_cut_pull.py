"""A pull that was cut after its rows were archived, and a source that never came back as it was.

The archive is then the only place that knows the last points before the disk died.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import oracle
import pytest
from sources import copy_source
from test_cli import Place

from rollrep.core.errors import Temporary
from rollrep.destination.pull import _Pull
from rollrep.hooks import plugin_manager
from rollrep.jobs.config import load_config
from rollrep.jobs.run import run_pull

WRITE = "UPDATE posts SET title = title || 'x'"


def cut(folder: Path, monkeypatch: pytest.MonkeyPatch, ended: BaseException) -> Place:
    """A job whose last pull was cut before it replayed what it had archived, and files of its source before and then."""
    place = Place(folder).pulled()
    place.write(WRITE)
    copy_source(place.db, folder / "backup.db")
    place.write(WRITE)
    place.good("source", "point", place.db, "--label", "last")
    copy_source(place.db, folder / "last.db")

    def cut_off(*_: object) -> None:
        raise ended

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(_Pull, "_commit_replay", cut_off)
        config = load_config(place.config)
        assert run_pull(config, config.jobs["shop"], plugin_manager(), lambda *_: None, tries=1).error is ended
    return place


def last_is_exact(place: Place) -> None:
    output = place.folder / "restored.db"
    done = place.run("restore", "shop", "--at", "label:last", "--output", output)
    assert done.returncode == 0, done.stderr
    oracle.assert_same(place.folder / "last.db", output)


def test_points_are_restored_when_the_source_died_while_it_was_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cut(tmp_path, monkeypatch, Temporary("the network went away", remedy="pull again"))
    place.db.unlink()
    last_is_exact(place)


def test_points_are_restored_when_the_pull_was_killed_and_the_source_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cut(tmp_path, monkeypatch, KeyboardInterrupt())
    place.db.unlink()
    assert place.run("pull").returncode != 0
    last_is_exact(place)


def test_points_are_restored_when_the_pull_was_killed_and_the_source_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = cut(tmp_path, monkeypatch, KeyboardInterrupt())
    for ending in ("-wal", "-shm"):
        place.db.with_name(place.db.name + ending).unlink(missing_ok=True)
    (place.folder / "backup.db").replace(place.db)
    place.write(WRITE)
    place.good("pull")
    place.assert_mirrored()
    last_is_exact(place)
