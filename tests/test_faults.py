"""Faults that no other page of tests injects, through the command as a person has it: full disks, a source too fast.

What docs/faults.md says of each fault is held against the tests there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source
from test_cli import ROLLREP, Place, only_object, sentence


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# ---------------------------------------------------------------- disks


def on_small_disk(place: Place, script: str) -> list[dict[str, object]]:
    """What `script` prints, a JSON object a line, with the store on a real file system of 3 MiB of its own."""
    place.store.mkdir(mode=0o700, exist_ok=True)
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    begin = f'mount -t tmpfs -o size=3m,mode=0700 none {place.store} && exec {sys.executable} -c "$0"'
    environment = {**os.environ, "HOME": str(place.home), "ROLLREP": str(ROLLREP), "STORE": str(place.store)}
    done = subprocess.run(
        [*own, "sh", "-c", begin, textwrap.dedent(script)],
        capture_output=True, text=True, check=False, cwd=place.folder, env=environment, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


FILL = """
    import json, os, pathlib, subprocess

    store = pathlib.Path(os.environ["STORE"])
    mirror, filler = store / "shop" / "mirror.db", store / "filler"

    def run(*arguments):
        done = subprocess.run([os.environ["ROLLREP"], *arguments, "--json"], capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        told = json.loads(done.stdout)
        error = told["jobs"][0]["error"] or {}
        print(json.dumps({"code": done.returncode, "facts": error.get("facts", ""), "remedy": error.get("remedy", "")}))
        return done.returncode

    def leave(room):
        with open(filler, "wb") as file:
            stat = os.statvfs(store)
            os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - room)
"""


@pytest.mark.parametrize("room", [0, 12, 60, 140, 280])
def test_pull_goes_on_by_itself_when_the_disk_was_full_at_any_step(place: Place, room: int) -> None:
    """`room` KiB are left for the first pull, then for one that resumes; each time room is made afterwards."""
    place.installed()
    place.write("CREATE TABLE big(id INTEGER PRIMARY KEY, b BLOB)")
    write = "import sqlite3, sys; c = sqlite3.connect('app.db'); c.execute('INSERT INTO big(b) VALUES (randomblob(150000))'); c.commit(); c.close()"
    told = on_small_disk(
        place,
        FILL
        + f"""
    write = {write!r}
    subprocess.run(["python3", "-c", write], check=True)
    for _ in range(2):
        leave({room} << 10)
        run("pull", "shop")
        filler.unlink()
        run("pull", "shop")
        subprocess.run(["python3", "-c", write], check=True)
    run("pull", "shop")
    subprocess.run(["cp", mirror, "mirror.db"], check=True)
    for extra in store.glob("shop/mirror.db-wal"):
        subprocess.run(["cp", extra, "mirror.db-wal"], check=True)
    """,
    )
    first, after_first, second, after_second, last = told
    for full in (first, second):
        assert full["code"] in ((18,) if room < 40 else (0, 18)), full
        if full["code"] == 18:
            assert "no room on the disk" in str(full["facts"]) and "make room" in str(full["remedy"])
    assert [each["code"] for each in (after_first, after_second, last)] == [0, 0, 0]
    copy_source(place.db, place.folder / "oracle.db")
    oracle.assert_same(place.folder / "oracle.db", place.folder / "mirror.db")


NEED_ROOM = {
    "repair": ("verify", "shop", "--against-source", "--repair"),
    "rehearse": ("rehearse", "shop", "--at", "latest"),
    "export": ("export", "shop", "data/out.export"),
    "restore": ("restore", "shop", "-o", "data/out.db"),
    "rebuild": ("catalog", "shop", "--rebuild"),
}
READ = {
    "points": ("points", "shop"),
    "status": ("status", "shop"),
    "query": ("query", "shop", "SELECT count(*) FROM users"),
    "history": ("history", "shop", "users", "1"),
}


def test_commands_end_with_18_and_then_with_0_when_the_disk_was_full(place: Place) -> None:
    """3 MiB, of which not one byte is left: SQLite can't even make the memory that readers share."""
    place.installed()
    told = on_small_disk(
        place,
        FILL
        + f"""
    import contextlib, sqlite3
    def all_of(names):
        for name, arguments in names.items():
            command = [os.environ["ROLLREP"], *arguments, "--json"]
            done = subprocess.run(command, capture_output=True, text=True)
            left = [each.name for each in store.rglob("*") if ".part" in each.name or each.name.startswith("out.")]
            print(json.dumps({{"name": name, "code": done.returncode, "said": done.stdout + done.stderr, "left": left}}))
    subprocess.run([os.environ["ROLLREP"], "pull", "--json"], check=True, stdout=subprocess.DEVNULL)
    with contextlib.closing(sqlite3.connect(mirror)) as db:
        db.execute("UPDATE users SET admin = 5")
        db.commit()
    leave(0)
    all_of({ {**NEED_ROOM, **READ}!r})
    filler.unlink()
    all_of({NEED_ROOM!r})
    """,
    )
    full, after = told[: len(NEED_ROOM) + len(READ)], told[-len(NEED_ROOM) :]
    for each in full:
        assert "Traceback" not in str(each["said"]), each
        assert each["code"] == 18 or each["name"] in READ, each
        assert each["code"] == 0 or ("no room on the disk" in str(each["said"]) and "make room" in str(each["said"]))
        assert each["left"] == [], "what could not be written to its end is gone"
    assert [each["code"] for each in after] == [0] * len(NEED_ROOM), after


def test_install_ends_with_18_and_leaves_the_database_when_its_disk_is_full(place: Place) -> None:
    told = on_small_disk(
        place,
        FILL
        + """
    import shutil, sqlite3
    db = store / "app.db"
    for room in (0, 8, 24, 48):
        shutil.copy("app.db", db)
        leave(room << 10)
        before = db.read_bytes()
        done = subprocess.run([os.environ["ROLLREP"], "source", "install", db, "--json"], capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        same = done.returncode == 0 or db.read_bytes() == before
        filler.unlink()
        sound = sqlite3.connect(db).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        print(json.dumps({"code": done.returncode, "said": done.stdout, "same": same, "sound": sound}))
        for each in store.iterdir():
            each.unlink()
    """,
    )
    assert [(each["code"], each["same"], each["sound"]) for each in told] == [(18, True, True)] * 4, told


# ---------------------------------------------------------------- a source too fast


def test_pull_ends_with_14_when_the_source_outruns_every_copy(place: Place) -> None:
    place.write("CREATE TABLE busy(id INTEGER PRIMARY KEY, v)", "INSERT INTO busy VALUES (1, 0)")
    place.good("source", "install", place.db, "--keep-rows", 50)
    job = f'[jobs.shop]\nsource = "local:{place.db}"\n'
    busy = Path(__file__).with_name("busy_source.py")
    place.configure(f'{job}remote_command = "{sys.executable} {busy} {place.db}"\n')
    remedy = sentence(place.run("pull"), 14, "shop can't be mirrored", "faster than it can be copied", "its log holds")
    assert not place.mirror().exists()
    status = place.run("status", "--json")
    failure = only_object(status.stdout)["jobs"][0]["failure"]
    assert (status.returncode, failure["kind"], failure["exit_code"]) == (14, "cannot_keep_up", 14)
    numbers = r"writes ([\d,]+) log rows .* \(([\d,]+) rows? a second\), and its log holds (\d+) rows"
    found = re.search(numbers, failure["facts"])
    assert found, failure["facts"]
    written, _copied, held = (int(each.replace(",", "")) for each in found.groups())
    assert written > 1_000 and 50 <= held < 100, "it writes 2,000 rows before each of its answers"
    before, _, command = remedy.partition(": ")
    assert before == "more room, on the source"
    place.good(*shlex.split(command)[1:])
    place.good("pull")
    assert place.mirror().exists(), "with what was advised, the same source is kept up with"
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\n')
    place.good("pull")
    place.assert_mirrored()


# ---------------------------------------------------------------- files that are not what they were


def test_store_is_its_owners_alone_when_the_umask_is_wide(place: Place) -> None:
    before = os.umask(0)
    try:
        place.pulled()
        place.good("source", "point", place.db, "--label", "x")
        place.good("pull")
        for command in (("query", "shop", "--at", "label:x", "SELECT 1"), ("history", "shop", "users", "1"),
                        ("rehearse", "shop"), ("prune", "shop"), ("verify", "shop"),
                        ("snapshot", "shop", "--pin"), ("catalog", "shop", "--rebuild")):  # fmt: skip
            assert place.run(*command).returncode == 0
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in [place.store, *place.store.rglob("*")]}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_mirror_follows_again_when_it_was_put_back_from_an_older_copy(place: Place) -> None:
    place.pulled()
    older = place.mirror().read_bytes()
    place.write("UPDATE users SET admin = 1 - admin", "DELETE FROM posts WHERE id % 3 = 0")
    place.good("pull")
    for more in ("-wal", "-shm"):
        place.mirror().with_name(f"mirror.db{more}").unlink(missing_ok=True)
    place.mirror().write_bytes(older)
    place.write("UPDATE users SET admin = 1 - admin WHERE id % 2")
    place.good("pull")
    place.assert_mirrored()
    point = place.told("points", "shop")["points"][-1]
    assert (
        place.run("restore", "shop", "--at", f"point:{point['point']}", "-o", place.folder / "out.db").returncode == 0
    )
    oracle.assert_same(place.mirror(), place.folder / "out.db")


def test_pull_leaves_mirror_and_snapshots_when_the_source_is_damaged(place: Place) -> None:
    place.pulled()
    place.write("UPDATE users SET admin = 1 - admin", "PRAGMA wal_checkpoint(TRUNCATE)")
    hashed = oracle.dbhash(place.mirror())
    whole = place.db.read_bytes()
    snapshots = {path: path.read_bytes() for path in (place.store / "shop" / "snapshots").iterdir()}
    place.db.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))
    done = place.run("pull")
    sentence(done, 1, "app.db", "damaged")
    assert oracle.dbhash(place.mirror()) == hashed
    assert {path: path.read_bytes() for path in snapshots} == snapshots
    place.db.write_bytes(whole)
    place.good("pull")
    place.assert_mirrored()


# ---------------------------------------------------------------- people


def restored(place: Place) -> Path:
    output = place.folder / "latest.db"
    assert place.run("restore", "shop", "-o", output).returncode == 0
    return output


def test_check_says_how_old_the_mirror_is_when_nobody_pulled(place: Place) -> None:
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nevery = "100ms"\n')
    place.pulled()
    time.sleep(2)
    done = place.run("check", "shop")
    assert any(line.startswith(("WARN", "FAIL")) and ": fresh: " in line for line in done.stdout.splitlines())
    place.good("pull")


def test_only_what_is_left_out_goes_when_a_table_is_excluded_later(place: Place) -> None:
    place.pulled()
    assert place.run("source", "install", place.db, "--exclude", "posts").returncode == 0
    [job] = place.told("pull")["jobs"]
    assert job["tables_mirrored"] == []
    for file in (place.mirror(), restored(place)):
        with contextlib.closing(apsw.Connection(str(file))) as db:
            assert db.execute("SELECT (SELECT count(*) FROM posts), count(*) > 10 FROM users").fetchall() == [(0, 1)]
    assert place.run("source", "install", place.db, "--exclude", "").returncode == 0
    place.good("pull")
    place.assert_mirrored()


def test_mirror_follows_when_a_table_becomes_a_virtual_one(place: Place) -> None:
    place.write("CREATE TABLE words(a)", "INSERT INTO words VALUES ('one')")
    place.pulled()
    place.write("DROP TABLE words", "CREATE VIRTUAL TABLE words USING fts5(a)", "INSERT INTO words VALUES ('two')")
    place.good("pull")
    place.assert_mirrored()
