"""Faults that no other page of tests injects, through the command as a person has it: full disks, a source too fast.

What docs/faults.md says of each fault is held against the tests there are.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import apsw
import killed_app
import oracle
import pytest
from click.testing import CliRunner
from pair import FollowedPair
from sources import copy_source
from test_cli import ROLLREP, Place, only_object, sentence

from rollrep.cli.main import cli
from rollrep.jobs import run
from rollrep.jobs.run import options_of


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


@pytest.mark.parametrize("room", [0, 12, 140])
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
    "diff": ("diff", "shop", "point:1", "latest"),
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
        if each["code"] and each["name"] in ("restore", "query", "diff", "history"):
            assert "nothing was lost; make room, and type it again" in str(each["said"]), each
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


# ---------------------------------------------------------------- another machine


def on_another_machine(place: Place, files: Path) -> str:
    """A remote_command whose serve sees another host name, another machine id, and `files` where the source lies."""
    (place.folder / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    own = "" if os.geteuid() == 0 else " --map-root-user"
    script = (
        f"hostname elsewhere; mount --bind {place.folder}/machine-id /etc/machine-id; mount --bind {files} {place.db};"
        f" exec {sys.executable} -m rollrep source serve"
    )
    return json.dumps(f"unshare --mount --uts{own} sh -c {shlex.quote(script)}")


def test_copy_on_another_machine_is_refused_when_it_answers_at_the_same_path(place: Place) -> None:
    """Two machines with one file each, of one identity and one log; both go on. Then the one is as the other was."""
    place.pulled()
    copy = place.folder / "copy.db"
    copy_source(place.db, copy)
    job = f'[jobs.shop]\nsource = "local:{place.db}"\n'
    place.write("UPDATE users SET admin = 1 - admin")
    place.good("pull")
    place.configure(f"{job}remote_command = {on_another_machine(place, copy)}\n")
    kept = place.mirror().read_bytes()
    remedy = sentence(place.run("pull"), 2, "shop", "a copy of the database on another machine", "untouched")
    assert place.mirror().read_bytes() == kept
    place.good(*shlex.split(remedy.partition("rollrep ")[2]))
    place.assert_mirrored(db=copy)
    place.configure(job)
    sentence(place.run("pull"), 2, "another machine")
    place.good("mirror", "shop", "--accept-source")
    place.assert_mirrored()


# ---------------------------------------------------------------- an application that dies


KILLS = int(os.environ.get("ROLLREP_KILLS", "25"))


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_log_and_tables_agree_when_the_application_is_killed_at_any_moment(tmp_path: Path, journal: str) -> None:
    """The mirror is what the log says, since every pull resumes; the source is what the tables say."""
    pair = FollowedPair(tmp_path)
    pair.do(killed_app.SCHEMA)
    pair.do(f"PRAGMA journal_mode = {journal}")
    pair.install()
    pair.db.close()  # whoever comes after a death finds what it left
    pair.pull()
    dice = random.Random(journal)
    resumed = 0
    for life in range(KILLS):
        steps = int(10 ** dice.uniform(1, 5)) if life % 3 else 0
        command = [sys.executable, killed_app.__file__, str(pair.path), str(life), str(steps)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
            assert app.stdout is not None and app.stdout.readline() == "ready\n"
            if not steps:
                time.sleep(dice.uniform(0, 0.1))
                app.kill()
            assert app.wait(60) == -signal.SIGKILL
        answer, _ = pair.pull()
        assert answer in ("resume", "up_to_date")
        resumed += answer == "resume"
        oracle.assert_same(pair.path, pair.store.mirror)
    assert resumed > KILLS / 4, "many lives come to a COMMIT"


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
    place.good("pull")
    place.assert_mirrored()  # by what the archive has: the source has nothing new
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


@pytest.mark.parametrize("whole_bytes", [0, 4096])
def test_commands_end_with_16_and_how_to_make_it_again_when_the_mirror_is_damaged(
    place: Place, whole_bytes: int
) -> None:
    place.pulled()
    mirror = place.mirror()
    mirror.write_bytes(mirror.read_bytes()[:whole_bytes] + b"\x5a" * (mirror.stat().st_size - whole_bytes))
    for command in (("pull",), ("verify", "shop", "--against-source")):
        sentence(place.run(*command), 16, "mirror.db is damaged", "rollrep mirror shop")
    for command in (("status",), ("check",), ("verify", "shop")):
        done = place.run(*command)
        assert (done.returncode, "rollrep mirror shop" in done.stdout + done.stderr) == (16, True), done
    place.good("mirror", "shop")
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
    [late] = [line for line in done.stdout.splitlines() if line.startswith("WARN") and ": fresh: " in line]
    assert re.search(r"the mirror was the source [2-9](\.\d)? s ago; .* a pull every 100 ms was wanted", late), late
    assert "        next: rollrep pull shop" in done.stdout.splitlines()
    status = place.run("status", "shop")
    assert status.returncode == 1, "cron and scripts look at this one"
    assert re.match(r"WARN +shop: the mirror is [2-9](\.\d)? s old\n", status.stdout), status.stdout
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nevery = "1h"\n')
    place.good("pull")
    assert "OK      shop: fresh: " in place.good("check").stdout
    place.good("status")


@pytest.fixture
def switch() -> Iterator[tuple[str, list[str]]]:
    """A dead-man's switch: its address, and what it was sent."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            seen.append(f"{self.path} {body}".strip())
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{{job}}", seen
        server.shutdown()
        thread.join()


def test_pull_is_tried_again_by_itself_when_the_source_hung_up(place: Place) -> None:
    """Three times it ends before a word; the fourth try is the last."""
    place.installed()
    job = f'[jobs.shop]\nsource = "local:{place.db}"\nremote_command = "sh {place.folder}/source.sh"\n'
    place.configure(job)
    tries = place.folder / "tries"
    script = f"echo >> {tries}; [ $(wc -l < {tries}) -ge %d ] && exec {sys.executable} -m rollrep source serve"
    for good_at, code in ((4, 0), (9, 75)):
        tries.unlink(missing_ok=True)
        (place.folder / "source.sh").write_text(script % good_at)
        done = place.run("pull")
        assert (done.returncode, tries.read_text().count("\n")) == (code, 4), done.stderr
    place.assert_mirrored()
    sentence(done, 75, "shop")


HANGS = "remote_command = \"sh -c 'touch asked; cat > eaten'\"\n"
"""a source that is there and says nothing"""


@contextlib.contextmanager
def hanging_pull(place: Place, **environment: str) -> Iterator[None]:
    """Inside, a pull of all jobs has come to one that `HANGS`; it is killed there."""
    asked = place.folder / "asked"
    asked.unlink(missing_ok=True)
    kept = {**os.environ, "HOME": str(place.home), **environment}
    with subprocess.Popen([ROLLREP, "pull"], cwd=place.folder, env=kept, start_new_session=True) as pull:
        while not asked.exists():
            assert pull.poll() is None
            time.sleep(0.01)
        yield
        os.killpg(pull.pid, signal.SIGKILL)


def test_job_that_hangs_holds_no_other_when_it_comes_last(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two jobs hangs until its stall timeout, then the other is pulled; from then on it comes last."""
    hangs, good = (f'[jobs.{name}]\nsource = "local:{place.db}"\n' for name in ("hangs", "shop"))
    place.configure(hangs + good)
    place.installed()
    place.good("pull", "hangs")
    place.configure(hangs + HANGS + good)
    with monkeypatch.context() as patched:
        patched.chdir(place.folder)
        stalls_s = {"hangs": 0.2, "shop": 60.0}
        patched.setattr(run, "options_of", lambda job: replace(options_of(job), stall_timeout_s=stalls_s[job.name]))
        patched.setattr(run, "FIRST_PAUSE_S", 0.01)
        done = CliRunner().invoke(cli, ["pull"])
    assert done.exit_code == 3, done.output
    assert "hangs: nothing arrived" in done.output and "next:" in done.output
    place.assert_mirrored()
    place.write("UPDATE users SET admin = 1 - admin")
    with hanging_pull(place):
        place.assert_mirrored()
    assert [job["job"] for job in only_object(place.run("status", "--json").stdout)["jobs"]] == ["hangs", "shop"]


def test_switch_hears_of_a_job_only_when_it_was_pulled_well(place: Place, switch: tuple[str, list[str]]) -> None:
    """The installed plugin and the real command: who is not heard of was not pulled, or said that it failed."""
    address, seen = switch
    bad = f'[jobs.bad]\nsource = "local:{place.folder}/none.db"\n'
    good = f'[jobs.shop]\nsource = "local:{place.db}"\n'
    place.configure(bad + good)
    place.installed()
    place.run("status", ROLLREP_PING_URL=address)
    place.run("check", ROLLREP_PING_URL=address)
    assert seen == [], "nobody pulled"
    assert place.run("pull", ROLLREP_PING_URL=address).returncode == 3
    started, failed, *well = seen
    assert (started, well) == ("/bad/start", ["/shop/start", "/shop"])
    assert failed.startswith("/bad/fail the source says: there is no file ")
    seen.clear()
    place.configure(good + HANGS)
    with hanging_pull(place, ROLLREP_PING_URL=address):
        pass
    assert seen == ["/shop/start"], "a pull that died is not heard of again"


def test_source_is_waited_for_when_its_lock_goes_in_time(place: Place) -> None:
    """A writer of a moment is no error: `point` has no second try, so it is SQLite that waits."""
    place.installed()
    hold = (
        "import sqlite3, sys, time; c = sqlite3.connect('app.db', isolation_level=None); c.execute('BEGIN EXCLUSIVE')"
    )
    hold += "; print('held', flush=True); time.sleep(3); c.execute('COMMIT')"
    with subprocess.Popen([sys.executable, "-c", hold], cwd=place.folder, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        place.good("source", "point", place.db, "--label", "behind it")
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
