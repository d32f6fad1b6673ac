"""What commands write over, and what they never do: each refusal leaves every file as it was, byte for byte."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import WRITING, Place, refusal, sentence

from rollrep.destination import in_use

HOLDS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode = " + sys.argv[2])
db.execute("CREATE TABLE IF NOT EXISTS mine(a)")
db.execute("INSERT INTO mine VALUES (1)")
print("open", flush=True)
sys.stdin.readline()
"""
MODES = ("wal", "delete")


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("pulled")).pulled()


@contextlib.contextmanager
def application(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a database open and does nothing."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, path, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "open\n"
        yield process
        process.kill()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "command",
    [("restore", "shop", "--force", "-o"), ("export", "shop", "--force"), ("timeline", "shop", "--html")],
    ids=lambda command: command[0],
)
def test_database_stays_when_an_application_has_it_open(pulled: Place, mode: str, command: tuple[str, ...]) -> None:
    live = pulled.folder / f"live-{mode}-{command[0]}.db"
    with application(live, mode) as process:
        refusal(pulled, 11, (*command, live), f"process {process.pid} (", "  next: stop that process and type it again")
    if command[0] == "restore":
        assert pulled.run(*command, live).returncode == 0
        with contextlib.closing(sqlite3.connect(live)) as db:
            assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'mine'").fetchone() == (0,)


def test_database_stays_when_only_its_locks_can_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another user's process."""
    monkeypatch.setattr(in_use, "PROCESSES", tmp_path / "none")
    with application(tmp_path / "live.db", "wal"):
        assert in_use.user_of(tmp_path / "live.db") == "another process"
    assert in_use.user_of(tmp_path / "live.db") == ""


def test_restore_refuses_when_the_wal_of_a_database_that_is_gone_lies_there(place: Place) -> None:
    place.pulled()
    old = place.folder / "old.db"
    with application(old, "wal"):
        place.run("points", "shop")
    old.unlink()
    refusal(place, 2, ("restore", "shop", "-o", old), "old.db-wal is left of a database that is gone", "--force")
    assert place.run("restore", "shop", "-o", old, "--force").returncode == 0
    with contextlib.closing(sqlite3.connect(old)) as db:
        assert db.execute("SELECT count(*) > 0, sum(name = 'mine') FROM sqlite_schema").fetchone() == (1, 0)


def test_restore_refuses_when_an_application_goes_on_with_a_file_that_was_removed(place: Place) -> None:
    place.pulled()
    live = place.folder / "live.db"
    with application(live, "wal") as process:
        live.unlink()
        for force in ((), ("--force",)):
            sentence(place.run("restore", "shop", "-o", live, *force), 11, f"process {process.pid} (")


@pytest.mark.parametrize("command", WRITING[:-1], ids=lambda command: command[0])
def test_file_is_its_owners_alone_unless_it_replaces_one_that_was_not(
    pulled: Place, tmp_path: Path, command: tuple[str, ...]
) -> None:
    output = tmp_path / "out"
    before = os.umask(0o022)
    try:
        assert pulled.run(*command, output).returncode == 0
        assert output.stat().st_mode & 0o777 == 0o600
        output.chmod(0o664)
        if os.geteuid() == 0:
            os.chown(output, 1, 1)
        owner = (output.stat().st_uid, output.stat().st_gid)
        assert pulled.run(*command, output).returncode == 0
    finally:
        os.umask(before)
    assert output.stat().st_mode & 0o777 == 0o664
    assert (output.stat().st_uid, output.stat().st_gid) == owner


@pytest.mark.parametrize("dry", [(), ("-n",)])
def test_restore_refuses_a_table_that_is_none_when_it_is_dry_too(pulled: Place, dry: tuple[str, ...]) -> None:
    for at in ("latest", "point:1"):
        refused = ("restore", "shop", "--at", at, "-o", pulled.folder / "new.db", *dry)
        done = pulled.run(*refused, "-t", "postz")
        assert (done.returncode, "did you mean posts?" in done.stderr) == (2, True), done.stderr
    assert pulled.run(*refused, "-t", "POSTS", "-n").returncode == 0


@pytest.mark.parametrize("command", WRITING[:-2], ids=lambda command: command[0])
def test_dry_run_refuses_an_output_as_the_command_does(pulled: Place, command: tuple[str, ...]) -> None:
    there = pulled.folder / "there"
    there.write_bytes(b"precious")
    plainly = tuple(each for each in command if each != "--force")
    refusal(pulled, 2, (*plainly[:-1], "-n", plainly[-1], there), "exists already", "--force")
    assert pulled.run(*command[:-1], "-n", command[-1], there).returncode == 0
    assert there.read_bytes() == b"precious"


@pytest.mark.parametrize("command", WRITING[:-1], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("path", "why"),
    [("rollrep.toml", "is the configuration"), ("app.db", "is of the source of shop"),
     ("app.db-wal", "is of the source of shop"), ("data/shop/mirror.db", "where rollrep keeps a job's own files"),
     ("data/shop/archive/new", "where rollrep keeps a job's own files"), ("link", "where rollrep keeps"),
     ("data/gone/catalog.db", "where rollrep keeps a job's own files")],
)  # fmt: skip
def test_output_is_refused_when_it_is_forced_upon_what_is_rollreps_or_a_source(
    pulled: Place, command: tuple[str, ...], path: str, why: str
) -> None:
    with contextlib.suppress(FileExistsError):
        (pulled.folder / "link").symlink_to(pulled.store / "shop" / "catalog.db")
        (pulled.store / "gone").mkdir()
        (pulled.store / "gone" / "catalog.db").write_bytes(b"of a job that the configuration has no more")
    refusal(pulled, 2, (*command, pulled.folder / path), why, "  next: give another ")


def test_local_source_is_given_back_when_what_was_left_of_it_is_moved_away(place: Place) -> None:
    place.pulled()
    place.db.rename(place.folder / "old.db")
    assert place.run("restore", "shop", "-o", place.db).returncode == 0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
