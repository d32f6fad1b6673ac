"""The command as a person and a script meet it: exit code, one sentence, the next command, the JSON that is promised.

Everything runs `rollrep` in a process of its own (see forked.py).  A command that refuses leaves every file as it
was; that is checked each time, byte for byte.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import forked
import make
import oracle
import pytest
from forked import ROLLREP
from sources import copy_source

from rollrep.cli.main import DESTINATION
from rollrep.core.errors import Temporary, VerifyFailed
from rollrep.destination.in_use import openers

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SOURCE_COMMANDS = ("install", "status", "point", "uninstall")
Done = subprocess.CompletedProcess[str]


class Place:
    """A folder with a source, a configuration and a store, as one person would have them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.db = make.build("rails", folder / "app.db", rows=120)
        self.config = folder / "rollrep.toml"
        self.store = folder / "data"
        self.configure()

    def configure(self, text: str = "") -> None:
        job = f'[jobs.shop]\nsource = "local:{self.db}"\n'
        self.config.write_text(f'store = "{self.store}"\n{text or job}')

    def run(self, *arguments: object, under: tuple[str, ...] = (), **environment: str) -> Done:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLREP", "XDG", "SSH"))}
        path = f"{ROLLREP.parent}:{kept['PATH']}"
        env = {**kept, "PATH": path, "HOME": str(self.home), "TZ": "UTC", **environment}
        if under:
            done = subprocess.run(
                [*under, str(ROLLREP), *map(str, arguments)],
                capture_output=True, text=True, check=False, timeout=100, cwd=self.folder, stdin=subprocess.DEVNULL, env=env,
            )  # fmt: skip
        else:
            done = forked.run(*arguments, cwd=self.folder, env=env)
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    def good(self, *arguments: object) -> Done:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done

    def told(self, *arguments: object) -> dict[str, Any]:
        return only_object(self.good(*arguments, "--json").stdout)

    def installed(self) -> Place:
        self.good("source", "install", self.db)
        return self

    def pulled(self) -> Place:
        self.installed().good("pull")
        return self

    def write(self, *statements: str) -> None:
        script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        script += "[c.execute(s) for s in sys.argv[2:]]\nc.close()"
        subprocess.run([sys.executable, "-c", script, self.db, *statements], check=True)

    def files(self) -> dict[str, bytes]:
        """Every file and folder, with its bytes; locks and SQLite's shared memory hold nothing that lasts."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(self.folder.rglob("*"))
            if not path.name.endswith(("-shm", "-wal"))
        }

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def mirror(self, job: str = "shop") -> Path:
        return self.store / job / "mirror.db"

    def assert_mirrored(self, job: str = "shop", db: Path | None = None) -> None:
        copy = self.folder / "oracle.db"
        copy.unlink(missing_ok=True)
        copy_source(db or self.db, copy)
        oracle.assert_same(copy, self.mirror(job))
        copy.unlink()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """For tests of what is refused, which change no file."""
    return Place(tmp_path_factory.mktemp("pulled")).pulled()


def only_object(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is, on one line."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def sentence(done: Done, code: int, *holding: str) -> str:
    """The remedy of a refusal: its exit code, nothing on stdout, one sentence and one next command on stderr."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("rollrep: ") and len(lines[0]) > 20
    assert lines[1].startswith("  next: ") and len(lines[1]) > 10
    for part in holding:
        assert part in done.stderr, done.stderr
    assert " JOB" not in done.stderr.replace("rollrep init JOB SOURCE", ""), "the job has a name"
    return lines[1].removeprefix("  next: ")


def refusal(place: Place, code: int, arguments: tuple[object, ...], *holding: str) -> str:
    """`sentence`, and no file was made, changed or removed; then the same with --json."""
    before, names = place.files(), place.names()
    remedy = sentence(place.run(*arguments), code, *holding)
    assert place.names() == names
    assert place.files() == before
    done = place.run(*arguments, "--json")
    assert done.returncode == code
    told = only_object(done.stdout)
    assert re.fullmatch(r"rollrep\.[a-z.]+/1", told["schema"])
    error = told["error"] if "error" in told else next(job["error"] for job in told["jobs"] if job["error"])
    assert set(error) == {"kind", "facts", "remedy", "exit_code"}
    assert error["exit_code"] == code
    assert error["facts"] and error["remedy"]
    assert place.files() == before
    return remedy


# ---------------------------------------------------------------- beside the application


@pytest.mark.parametrize("command", SOURCE_COMMANDS)
def test_source_refuses_when_the_file_is_missing(place: Place, command: str) -> None:
    refusal(place, 2, ("source", command, place.folder / "nope.db"), "nope.db")


@pytest.mark.parametrize("command", SOURCE_COMMANDS)
@pytest.mark.parametrize(
    "content", [b"this is a text file, not a database\n" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_source_refuses_when_the_file_is_no_database(place: Place, command: str, content: bytes) -> None:
    other = place.folder / "notes.txt"
    other.write_bytes(content)
    refusal(place, 2, ("source", command, other), "notes.txt")


@pytest.mark.parametrize("command", SOURCE_COMMANDS)
def test_source_refuses_when_it_is_given_a_folder(place: Place, command: str) -> None:
    (place.folder / "folder").mkdir()
    refusal(place, 2, ("source", command, place.folder / "folder"), "folder")


@pytest.mark.parametrize("command", ["status", "point", "uninstall"])
def test_source_says_what_to_install_when_there_is_no_log(place: Place, command: str) -> None:
    remedy = refusal(place, 10, ("source", command, place.db), "app.db", "no rolling log")
    if command != "uninstall":
        assert remedy == f"install it: rollrep source install {place.db}"
        assert place.run(*shlex.split(remedy.partition("rollrep ")[2])).returncode == 0
        assert place.run("source", command, place.db).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("ssh-ed25519 AAAA one\nssh-ed25519 AAAB two\n", "holds 2 keys"), ("# none\n", "is not a public key"),
     ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXkt\n", "is not a public key")],
)  # fmt: skip
def test_authorize_refuses_a_file_that_is_not_one_public_key(place: Place, text: str, said: str) -> None:
    place.installed()
    key = place.folder / "id.pub"
    key.write_text(text)
    refusal(place, 2, ("source", "authorize", "--db", f"shop={place.db}", key), said)
    key.write_text("# of the old machine\n\nssh-ed25519 AAAA one\n")
    assert place.run("source", "authorize", "--db", f"shop={place.db}", key).stdout.endswith('" ssh-ed25519 AAAA one\n')


def test_source_refuses_when_the_database_can_not_be_written(place: Place) -> None:
    place.db.chmod(0o444)
    place.folder.chmod(0o755)
    before = place.files()
    sentence(place.run("source", "install", place.db, under=powerless()), 2, "app.db")
    assert place.files() == before


@pytest.mark.parametrize("limit", ["--keep-rows", "--keep-bytes", "--keep-keys"])
def test_install_refuses_a_limit_that_no_integer_holds(place: Place, limit: str) -> None:
    refusal(place, 2, ("source", "install", place.db, limit, "9" * 24), limit, "give a number from 1 to ")


@contextlib.contextmanager
def locked(place: Place) -> Iterator[None]:
    """While another process has the source all to itself."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); print(); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, place.db], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate()


def test_source_ends_with_75_when_the_database_is_locked(place: Place) -> None:
    with locked(place):
        sentence(place.run("source", "install", place.db), 75, "app.db", "locked")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_source_hears_a_signal_at_once_when_it_waits_for_a_lock(place: Place, number: int, code: int) -> None:
    place.installed()
    child = [ROLLREP, "source", "point", place.db]
    with locked(place), subprocess.Popen(child, stderr=subprocess.PIPE, text=True) as waiting:
        while waiting.pid not in openers([place.db]):
            assert waiting.poll() is None
        time.sleep(0.5)  # for the lock, now
        began = time.monotonic()
        waiting.send_signal(number)
        _, err = waiting.communicate(timeout=20)
    assert time.monotonic() - began < 3
    assert (waiting.returncode, err.strip()) == (code, "")
    place.good("source", "point", place.db)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("pul",), ("'pul'", 'did you mean "pull"?')),
        (("zzz",), ("'zzz'", "rollrep --help")),
        (("source", "zzz"), ("'zzz'", "rollrep source --help")),
    ],
)
def test_command_is_guessed_or_the_list_named_when_it_is_not_one(
    place: Place, typed: tuple[str, ...], said: tuple[str, ...]
) -> None:
    done = place.run(*typed)
    assert done.returncode == 2
    assert all(text in done.stderr for text in said), done.stderr


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize("command", ["pull", "points", "mirror", "check", "restore"])
def test_job_is_guessed_when_its_name_is_misspelled(place: Place, command: str) -> None:
    more = ("-o", place.folder / "out.db") if command == "restore" else ()
    refusal(place, 2, (command, "shpo", *more), '"shpo"', 'did you mean "shop"?', "rollrep.toml")


@pytest.mark.parametrize(
    ("text", "holding"),
    [
        ('[jobs.shop]\nsource = "local:/a.db"\n\nevry = "10s"\n', ("rollrep.toml:5:", '"evry"', 'did you mean "every"?')),
        ('[jobs.shop]\nsource = "local:/a.db"\nkeep = { dayly = 3 }\n', ("rollrep.toml:4:", 'did you mean "daily"?')),
        ('[jobs.shop]\nsource = local:/a.db\n', ("rollrep.toml:3:", "not TOML")),
        ('[jobs.shop]\nsource = "local:/a.db"\nevery = "10"\n', ("rollrep.toml:4:", "10", "not a duration")),
        ("[jobs.shop]\nevery = \"10s\"\n", ("rollrep.toml:2:", "no source")),
        ('[job.shop]\nsource = "local:/a.db"\n', ("rollrep.toml:2:", 'did you mean "jobs"?')),
    ],
)  # fmt: skip
def test_configuration_is_refused_with_its_line_when_it_is_wrong(
    place: Place, text: str, holding: tuple[str, ...]
) -> None:
    place.configure(text)
    for command in ("pull", "check"):
        refusal(place, 2, (command,), *holding)


@pytest.mark.parametrize(
    "source", ["app.db", "/srv/app.db", "ssh://host", "ssh://host/srv/app.db", "shop-prod:/srv/app.db"]
)
def test_address_is_refused_with_a_better_one_when_it_is_none(place: Place, source: str) -> None:
    place.configure(f'[jobs.shop]\nsource = "{source}"\n')
    before = place.files()
    sentence(place.run("pull"), 2, source.rpartition("/")[2])
    assert place.files() == before


def test_init_is_named_when_there_is_no_configuration(place: Place) -> None:
    place.config.unlink()
    refusal(place, 10, ("pull",), "rollrep.toml", "rollrep init")
    refusal(place, 2, ("-c", place.folder / "other.toml", "pull"), "other.toml")


# ---------------------------------------------------------------- pulling


def test_pull_refuses_when_the_source_file_is_missing_or_no_database(place: Place) -> None:
    place.db.unlink()
    sentence(place.run("pull"), 2, str(place.db))
    place.db.write_bytes(b"text " * 1000)
    sentence(place.run("pull"), 2, str(place.db))
    assert not place.mirror().exists()


def test_pull_says_what_to_install_when_the_source_has_no_log(place: Place) -> None:
    sentence(place.run("pull"), 10, str(place.db), "rollrep source install")
    assert not place.mirror().exists()


def test_log_of_an_older_rollrep_is_made_anew_by_what_a_pull_says_to_type(place: Place) -> None:
    place.good("source", "install", place.db, "--keep-rows", "777", "--exclude", "posts")
    place.good("pull")
    place.write("UPDATE _rollrep_meta SET format = 2", "DROP TRIGGER _rollrep_prune", "DROP TABLE _rollrep_range")
    remedy = sentence(place.run("pull"), 1, "made by an older rollrep").partition("rollrep source ")[2]
    assert (
        "would be made anew, and every destination mirrors again" in place.good("source", *remedy.split(), "-n").stdout
    )
    assert "is made anew, and every destination mirrors again" in place.good("source", *remedy.split()).stdout
    again = place.told("source", "install", place.db)
    assert (again["limits"]["rows"], "posts" in again["kept"], "comments" in again["kept"]) == (777, False, True)
    assert place.told("pull")["jobs"][0]["answer"] == "mirror"


def test_pull_says_what_to_install_when_the_log_was_taken_out(place: Place) -> None:
    place.pulled()
    before = oracle.dbhash(place.mirror())
    place.good("source", "uninstall", place.db)
    sentence(place.run("pull"), 10, str(place.db), "rollrep source install")
    assert oracle.dbhash(place.mirror()) == before


def test_pull_leaves_the_mirror_when_it_is_of_another_source_and_the_next_command_works(place: Place) -> None:
    place.pulled()
    before = oracle.dbhash(place.mirror())
    other = make.build("notes", place.folder / "other.db", rows=100)
    place.good("source", "install", other)
    place.configure(f'[jobs.shop]\nsource = "local:{other}"\n')
    kept = place.mirror().read_bytes()
    names = place.names()
    remedy = sentence(place.run("pull"), 2, "shop", "untouched")
    assert place.names() == names
    assert place.mirror().read_bytes() == kept
    assert oracle.dbhash(place.mirror()) == before
    [command] = re.findall(r"rollrep (mirror shop --accept-source)", remedy)
    place.good(*command.split())
    place.assert_mirrored(db=other)
    # What the old source was stays restorable: it may be the only copy.
    points = place.told("points", "shop")["points"]
    assert {point["epoch"] for point in points} >= {points[0]["epoch"], points[-1]["epoch"]}
    place.run("restore", "shop", "--at", f"point:{points[0]['point']}", "-o", place.folder / "old.db")
    assert (place.folder / "old.db").is_file()


def test_pull_leaves_the_mirror_when_a_copy_at_another_path_answers(place: Place) -> None:
    """It has the same identity and the same log: only the place tells it from the source."""
    place.pulled()
    place.write("UPDATE users SET admin = 1 - admin")
    copy = place.folder / "copy.db"
    copy_source(place.db, copy)
    place.configure(f'[jobs.shop]\nsource = "local:{copy}"\n')
    kept = place.mirror().read_bytes()
    remedy = sentence(place.run("pull"), 2, "shop", "a copy of the database on another machine or path", "untouched")
    assert place.mirror().read_bytes() == kept
    [command] = re.findall(r"rollrep (mirror shop --accept-source)", remedy)
    place.good(*command.split())
    place.assert_mirrored(db=copy)


def test_pull_leaves_the_mirror_when_the_log_was_taken_out_and_put_in_again(place: Place) -> None:
    place.pulled()
    place.good("source", "uninstall", place.db)
    place.good("source", "install", place.db)
    kept = place.mirror().read_bytes()
    remedy = sentence(place.run("pull"), 2, "shop", "untouched")
    assert place.mirror().read_bytes() == kept
    [command] = re.findall(r"rollrep (mirror shop --accept-source)", remedy)
    place.good(*command.split())
    place.assert_mirrored()


def powerless() -> tuple[str, ...]:
    """What takes root's power to write everywhere from a command; nothing where we are not root."""
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


@pytest.mark.parametrize("exists", ["the root", "the job", "all"])
def test_pull_refuses_when_the_store_can_not_be_written(place: Place, exists: str) -> None:
    place.installed()
    if exists == "all":
        place.pulled()
    locked = place.store / "shop" if exists != "the root" else place.store
    locked.mkdir(parents=True, exist_ok=True)
    locked.chmod(0o555)
    before, names = place.files(), place.names()
    try:
        sentence(place.run("pull", under=powerless()), 2, str(place.store))
        assert (place.files(), place.names()) == (before, names)
    finally:
        locked.chmod(0o755)


@contextlib.contextmanager
def another_puller(place: Place) -> Iterator[subprocess.Popen[str]]:
    script = """
        import sys
        from pathlib import Path
        from rollrep.destination.store import Store
        store = Store(Path(sys.argv[1]), "shop")
        store.create()
        with store.locked():
            print("held", flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), place.store],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout and holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.communicate(timeout=20)


@pytest.mark.parametrize("command", ["pull", "mirror"])
def test_second_puller_names_the_first_when_both_work_on_one_job(place: Place, command: str) -> None:
    place.pulled()
    with another_puller(place) as holder:
        before = place.files()
        sentence(place.run(command, "shop"), 11, "shop", f"ps -f -p {holder.pid}")
        sentence(place.run(command, "shop"), 11, "shop", f"ps -f -p {holder.pid}")
        assert place.files() == before
        # Reading needs no lock.
        assert place.told("points", "shop")["points"]
        assert place.run("restore", "shop", "-o", place.folder / "out.db").returncode == 0
    place.good("pull")


def test_lock_is_free_when_its_holder_was_killed(place: Place) -> None:
    place.pulled()
    with another_puller(place) as holder:
        holder.kill()
        holder.wait()
        place.good("pull")


def test_point_says_what_to_type_when_its_label_is_given_without_the_option(place: Place) -> None:
    place.installed()
    remedy = refusal(place, 2, ("source", "point", place.db, "before", "the deploy"), "a label is given by --label")
    place.good(*shlex.split(remedy)[1:])
    place.good("pull")
    assert [each["label"] for each in place.told("points", "shop")["points"]] == ["before the deploy"]


def test_every_error_has_a_next_command_when_none_is_given() -> None:
    """Those of the line and of what came over it are raised where nobody knows the job."""
    for kind in (Temporary, VerifyFailed):
        assert len(kind("something is wrong").remedy) > 20
        assert kind("something is wrong", remedy="better").remedy == "better"


def test_other_jobs_are_pulled_when_one_is_bad(place: Place) -> None:
    place.installed()
    bad = f'[jobs.bad]\nsource = "local:{place.folder}/none.db"\n'
    good = f'[jobs.shop]\nsource = "local:{place.db}"\n'
    for text in (bad + good, good + bad):
        place.configure(text)
        sentence(place.run("pull"), 3, "bad", "none.db")
        place.assert_mirrored()
    done = place.run("pull", "--json")
    assert done.returncode == 3
    jobs = {job["job"]: job for job in only_object(done.stdout)["jobs"]}
    assert jobs["shop"]["error"] is None
    assert jobs["shop"]["answer"] == "up_to_date"
    assert jobs["bad"]["error"]["exit_code"] == 2
    assert jobs["bad"]["answer"] is None
    place.configure(bad + bad.replace("bad", "worse"))
    done = place.run("pull")
    assert done.returncode == 2
    assert done.stderr.count("  next: ") == 2


def test_pull_says_nothing_when_all_is_well_and_nobody_watches(place: Place) -> None:
    place.installed()
    for _ in range(2):
        done = place.good("pull")
        assert done.stdout == ""
        place.write("UPDATE users SET admin = 1 - admin")


def test_pull_ends_with_75_when_the_source_stays_locked(place: Place) -> None:
    place.installed()
    with locked(place):
        done = place.run("pull")
    sentence(done, 75, "locked")
    place.good("pull")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_pull_ends_with_the_signals_code_when_it_is_stopped(place: Place, number: int, code: int) -> None:
    place.installed()
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nremote_command = "sleep 20"\n')
    child = subprocess.Popen(
        [ROLLREP, "-c", place.config, "pull"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lock = place.store / "shop" / "lock.holder"
    while not lock.exists():
        assert child.poll() is None
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == code
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("name", ["catalog.db", "mirror.db"])
def test_commands_say_a_sentence_when_the_store_can_not_be_written(place: Place, name: str) -> None:
    place.pulled()
    # Where SQLite can make no file beside it, as on a disk that can only be read.
    (place.store / "shop" / f"{name}-wal").mkdir()
    reading = ["points", "query", "timeline", "restore", "verify"] if name == "catalog.db" else []
    more = {"query": ("SELECT 1",), "restore": ("-o", place.folder / "out.db")}
    for command in ("check", "status", *reading):
        done = place.run(command, "shop", *more.get(command, ()))
        assert done.returncode == 2, done
        assert "can't be opened" in done.stdout + done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- restoring


def test_restore_refuses_when_nothing_was_pulled(place: Place) -> None:
    place.installed()
    out = place.folder / "out.db"
    refusal(place, 10, ("restore", "shop", "-o", out), "rollrep pull shop")
    refusal(place, 10, ("points", "shop"), "rollrep pull shop")


def test_restore_leaves_the_file_when_it_exists(place: Place) -> None:
    place.pulled()
    out = place.folder / "out.db"
    out.write_bytes(b"precious")
    refusal(place, 2, ("restore", "shop", "-o", out), "out.db", "--force")
    assert out.read_bytes() == b"precious"
    assert place.run("restore", "shop", "-o", out, "--force").returncode == 0
    copy_source(place.db, place.folder / "oracle.db")
    oracle.assert_same(place.folder / "oracle.db", out)


def test_index_that_has_another_row_is_found_when_a_restore_is_verified(place: Place) -> None:
    place.write(
        "CREATE TABLE hall(id INTEGER PRIMARY KEY, v)",
        "CREATE INDEX hall_v ON hall(v)",
        "INSERT INTO hall VALUES (1, 2)",
    )
    place.pulled()
    with contextlib.closing(sqlite3.connect(place.mirror(), isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'hall_v'")
        db.execute("DELETE FROM sqlite_schema WHERE name = 'hall_v'")
    with contextlib.closing(sqlite3.connect(place.mirror(), isolation_level=None)) as db:
        db.execute("UPDATE hall SET v = 3")
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_schema SELECT * FROM kept")
        db.execute("DROP TABLE kept")
    quick = place.run("restore", "shop", "--output", "quick.db")
    assert (quick.returncode, "structure ok" in quick.stdout) == (0, True), quick.stderr
    done = place.run("restore", "shop", "--output", "out.db", "--verify")
    assert (done.returncode, f"{place.mirror()} is damaged, and was not used" in done.stderr) == (0, True), done.stderr
    assert "missing from index hall_v" in place.run("verify", "shop").stdout
    sound = only_object(
        place.run("restore", "shop", "--at", "point:1", "--output", "more.db", "--verify", "--json").stdout
    )
    assert sound["verified"] is True


def test_dry_run_ends_as_the_restore_would_when_a_virtual_table_is_of_an_earlier_moment(place: Place) -> None:
    place.installed()
    place.write("CREATE VIRTUAL TABLE search USING fts5(a)", "INSERT INTO search VALUES ('x')")
    place.good("pull")
    place.write("INSERT INTO search VALUES ('y')")
    place.good("source", "point", place.db, "--label", "between")
    place.write("INSERT INTO search VALUES ('z')", "UPDATE posts SET title = 'later'")
    place.good("pull")
    for at, code in (("label:between", 3), ("latest", 0)):
        would = place.run("restore", "shop", "--at", at, "-o", "out.db", "-n", "--force")
        done = place.run("restore", "shop", "--at", at, "-o", "out.db", "--force")
        assert (would.returncode, done.returncode) == (code, code), would.stderr + done.stderr
        assert ("the virtual table search is as of log id" in would.stderr) == (code == 3)


@pytest.mark.parametrize("output", ["none/out.db", "home"])
def test_restore_refuses_when_the_output_can_not_be_written(place: Place, output: str) -> None:
    place.pulled()
    refusal(place, 2, ("restore", "shop", "-o", place.folder / output))


def test_restore_leaves_a_folder_when_it_is_forced_upon_one(place: Place) -> None:
    place.pulled()
    (place.home / "precious").write_text("kept")
    before = place.files()
    done = place.run("restore", "shop", "-o", place.home, "--force")
    assert done.returncode == 2
    assert done.stderr.count("  next: ") == 1
    assert place.files() == before


WRITING = (
    ("restore", "shop", "--force", "-o"), ("undo", "shop", "point:1", "latest", "--force", "-o"),
    ("diff", "shop", "point:1", "latest", "--force", "--changeset"), ("export", "shop", "--force"),
    ("timeline", "shop", "--html"), ("init", "more", "local:/a.db", "-c"),
)  # fmt: skip


@pytest.mark.parametrize("command", WRITING, ids=lambda command: command[0])
def test_output_is_refused_when_it_is_forced_upon_what_is_no_regular_file(
    pulled: Place, tmp_path: Path, command: Any
) -> None:
    """A device can't be made everywhere; a pipe can, and is replaced by a rename as well."""
    pipe, to_pipe, dangling = (tmp_path / name for name in ("pipe", "to-pipe", "dangling"))
    os.mkfifo(pipe)
    to_pipe.symlink_to(pipe)
    dangling.symlink_to("gone")
    for path, why in ((pipe, "is a pipe"), (to_pipe, "is a pipe"), (dangling, "is a link to gone, which is not there")):
        done = pulled.run(*command, path)
        assert (done.returncode, done.stderr.count("  next: give another ")) == (2, 1), done.stderr
        assert why in done.stderr
    assert pipe.is_fifo() and to_pipe.is_symlink() and dangling.is_symlink()
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("command", WRITING[:-1], ids=lambda command: command[0])
def test_link_stays_and_its_file_is_written_when_the_output_is_a_link(
    pulled: Place, tmp_path: Path, command: Any
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    file, link = elsewhere / "file", tmp_path / "link"
    file.write_bytes(b"old")
    link.symlink_to(file)
    assert pulled.run(*command, link).returncode == 0
    assert link.is_symlink() and link.resolve() == file
    assert file.read_bytes() != b"old"
    assert list(elsewhere.iterdir()) == [file]


@pytest.mark.parametrize(
    ("at", "holding"),
    [("point:999", "point 999"), ("label:never", "never"), ("id:99999999", "99999999"), ("id:0", "id 0"),
     ("2099-01-01", "after the newest"), ("@99999999999", "after the newest"),
     ("2001-01-01T00:00:00Z", "before the first"), ("20y ago", "before the first")],
)  # fmt: skip
def test_restore_says_what_exists_when_the_moment_does_not(pulled: Place, at: str, holding: str) -> None:
    refusal(pulled, 17, ("restore", "shop", "--at", at, "-o", pulled.folder / "out.db"), holding)


def test_restore_names_a_command_that_works_when_the_moment_is_before_the_first(place: Place) -> None:
    place.pulled()
    out = place.folder / "out.db"
    remedy = refusal(place, 17, ("restore", "shop", "--at", "2001-01-01", "-o", out))
    [option] = re.findall(r"--at (\S+)", remedy)
    assert place.run("restore", "shop", "--at", option, "-o", out).returncode == 0


@pytest.mark.parametrize(
    "at", ["17", "01/02", "10", "14:30", "", " ", "point:", "point:x", "label:", "pont:3", "2026-13-01", "2026-02-30",
           "yesterday at 25:00", "2h", "soon", "@", "@x", "id:-1", "12h30 agoo", "2026-11-22 25:00", "\u0661\u0662", "point:1;drop"]
)  # fmt: skip
def test_restore_refuses_a_moment_when_it_is_none(pulled: Place, at: str) -> None:
    refusal(pulled, 2, ("restore", "shop", "--at", at, "-o", pulled.folder / "out.db"))


def test_restore_says_which_moment_it_took_when_asked_for_a_time(place: Place) -> None:
    place.pulled()
    point = place.told("points", "shop")["points"][-1]
    done = place.run("restore", "shop", "--at", "now", "-o", place.folder / "out.db", TZ="Europe/Berlin")
    assert done.returncode in (0, 17)
    place.good("pull")
    done = place.run("restore", "shop", "--at", point["time"], "-o", place.folder / "out2.db", TZ="Europe/Berlin")
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert f"point {point['point']}" in line
    assert point["time"] in line
    assert "CET" in line or "CEST" in line


def test_every_command_is_found_under_its_name_when_all_are_loaded() -> None:
    rooms = {room: importlib.import_module(f"rollrep.cli.{room}").COMMANDS for room in set(DESTINATION.values())}
    assert {name: room for room, commands in rooms.items() for name in commands} == DESTINATION


def test_question_to_a_point_that_lies_here_loads_nothing_it_does_not_need(place: Place) -> None:
    place.pulled().run("query", "shop", "SELECT 1")
    script = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from rollrep.cli.main import main; main()"
    )
    asked = [sys.executable, "-c", script, "-c", place.config, "query", "shop", "SELECT 1"]
    loaded = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    assert not {"msgspec", "zstandard", "paramiko", "pluggy", "tenacity", "dateparser", "hashlib"} & set(loaded)


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("pull", "--nope"), ("restore", "shop"), ("source",), ("source", "nope"), ("restore",)]
)
def test_usage_is_said_when_the_command_is_no_command(place: Place, arguments: tuple[str, ...]) -> None:
    before = place.files()
    done = place.run(*arguments)
    assert done.returncode == 2
    assert done.stderr
    assert place.files() == before


@pytest.mark.parametrize(
    ("arguments", "schema", "said", "remedy"),
    [(("nonsense",), "usage", "there is no command 'nonsense'", "see: rollrep --help"),
     (("source", "pont"), "source", "there is no command 'pont'", 'did you mean "point"? see: rollrep source --help'),
     (("--nope", "pull"), "usage", "no such option", "see: rollrep --help"),
     (("pull", "--nope"), "pull", "no such option", "see: rollrep pull --help"),
     (("restore", "shop"), "restore", "missing option '-o' / '--output'", "see: rollrep restore --help"),
     (("source", "point"), "source.point", "missing argument 'DB'", "see: rollrep source point --help"),
     (("undo", "shop", "1", "2", "--only", "x"), "undo", "invalid value for '--only'", "see: rollrep undo --help"),
     (("source", "install", "a", "--keep-rows", "x"), "source.install", "'x' is not a valid integer",
      "see: rollrep source install --help")],
)  # fmt: skip
def test_usage_is_refused_as_anything_else_is(
    pulled: Place, arguments: tuple[str, ...], schema: str, said: str, remedy: str
) -> None:
    assert refusal(pulled, 2, arguments, said) == remedy
    told = only_object(pulled.run(*arguments, "--json").stdout)
    assert (told["schema"], told["error"]["kind"]) == (f"rollrep.{schema}/1", "usage")
    assert pulled.run(*arguments, "--", "--json").stdout == ""


# ---------------------------------------------------------------- the promised JSON

PULL_KEYS = {"job", "answer", "reason", "operations", "bytes_received", "position", "time", "seconds", "tables_mirrored",
             "rows_mirrored", "error"}  # fmt: skip


def pull_job(place: Place, command: str = "pull") -> dict[str, Any]:
    told = place.told(command, *(["shop"] if command == "mirror" else []))
    assert told["schema"] == f"rollrep.{command}/1"
    assert told.keys() >= {"schema", "jobs"}
    [job] = told["jobs"]
    assert job.keys() >= PULL_KEYS
    assert job["job"] == "shop"
    assert job["error"] is None
    assert set(job["position"]) == {"epoch", "id"}
    assert TIME.fullmatch(job["time"])
    assert isinstance(job["seconds"], float) and 0 < job["seconds"] < 60
    assert job["bytes_received"] > 100
    return job


def test_json_of_pull_tells_its_answer_when_it_resumes_mirrors_or_has_nothing_to_do(place: Place) -> None:
    place.installed()
    first = pull_job(place)
    assert (first["answer"], first["reason"]) == ("mirror", "first")
    assert "users" in first["tables_mirrored"]
    with contextlib.closing(apsw.Connection(str(place.db))) as db:
        tables = [name for (name,) in db.execute("SELECT tbl FROM _rollrep_shape WHERE is_current")]
        rows = sum(db.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] for name in tables)
        [(users,)] = db.execute("SELECT count(*) FROM users").fetchall()
    assert first["rows_mirrored"] == rows
    second = pull_job(place)
    assert (second["answer"], second["reason"], second["operations"]) == ("up_to_date", None, 0)
    assert second["position"] == first["position"]
    place.write("UPDATE users SET admin = 1 - admin", "INSERT INTO _rollrep_point(label) VALUES ('p')")
    third = pull_job(place)
    assert (third["answer"], third["reason"], third["operations"]) == ("resume", None, users)
    assert third["position"] == {"epoch": first["position"]["epoch"], "id": first["position"]["id"] + users + 1}
    assert (third["tables_mirrored"], third["rows_mirrored"]) == ([], 0)
    fourth = pull_job(place, "mirror")
    assert (fourth["answer"], fourth["reason"]) == ("mirror", "requested")
    place.assert_mirrored()


def test_json_of_points_lists_them_when_there_are_some(place: Place) -> None:
    place.pulled()
    made = place.told("source", "point", place.db, "--label", "it's 日本")
    assert made["schema"] == "rollrep.source.point/1"
    assert made.keys() >= {"id", "time", "label"}
    assert TIME.fullmatch(made["time"])
    place.good("pull")
    told = place.told("points", "shop")
    assert told["schema"] == "rollrep.points/1"
    keys = {"point", "id", "epoch", "kind", "label", "time", "earlier"}
    assert [set(point) for point in told["points"]] == [keys] * len(told["points"])
    assert all(TIME.fullmatch(point["time"]) for point in told["points"])
    assert [point["id"] for point in told["points"]] == sorted(point["id"] for point in told["points"])
    [found] = [point for point in told["points"] if point["label"]]
    assert (found["id"], found["time"], found["label"]) == (made["id"], made["time"], "it's 日本")
    assert found["kind"] in ("operator", "plugin")


def test_json_of_restore_says_what_was_restored_when_done(place: Place) -> None:
    place.pulled()
    place.told("source", "point", place.db, "--label", "x")
    place.good("pull")
    out = place.folder / "out.db"
    dry = only_object(place.run("restore", "shop", "--at", "label:x", "-o", out, "-n", "--json").stdout)
    assert dry["schema"] == "rollrep.restore/1"
    assert not out.exists()
    told = only_object(place.run("restore", "shop", "--at", "label:x", "-o", out, "--json").stdout)
    assert told.keys() >= {"schema", "point", "id", "time", "output", "rows", "seconds"}
    assert told["schema"] == "rollrep.restore/1"
    assert (dry["point"], dry["id"], dry["time"]) == (told["point"], told["id"], told["time"])
    assert TIME.fullmatch(told["time"])
    assert told["output"] == str(out)
    with contextlib.closing(apsw.Connection(str(out))) as db:
        names = db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        assert told["rows"] == sum(db.execute(f'SELECT count(*) FROM "{name}"').fetchall()[0][0] for (name,) in names)


def test_json_names_its_schema_when_the_command_is_of_the_source(place: Place) -> None:
    installed = place.told("source", "install", place.db)
    assert installed["schema"] == "rollrep.source.install/1"
    assert installed.keys() >= {"epoch", "limits", "captured", "refused", "created", "dry_run", "statements"}
    status = place.told("source", "status", place.db)
    assert status["schema"] == "rollrep.source.status/1"
    assert status.keys() >= {"epoch", "oldest_id", "newest_id", "pruned_through", "rows", "bytes", "limits"}
    assert status["epoch"] == installed["epoch"]
    assert status["limits"] == installed["limits"]
    assert TIME.fullmatch(status["now"])
    key = place.folder / "id.pub"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here\n")
    line = place.told("source", "authorize", "--db", f"shop={place.db}", key)
    assert line["schema"] == "rollrep.source.authorize/1"
    assert line["line"].startswith('restrict,command="') and line["line"].endswith("me@here")
    gone = place.told("source", "uninstall", place.db)
    assert gone["schema"] == "rollrep.source.uninstall/1"
    assert sorted(gone["released"]) == sorted(installed["captured"])


def test_json_names_its_schema_when_the_command_is_check_or_init(place: Place) -> None:
    place.installed()
    made = place.told("init", "other", f"local:{place.db}")
    assert made["schema"] == "rollrep.init/1"
    told = place.told("check", "shop")
    assert told["schema"] == "rollrep.check/1"
    [job] = told["jobs"]
    assert job["job"] == "shop"
    assert {item["item"]: item["state"] for item in job["items"]}["pull"] == "PENDING"
    place.good("pull", "shop")
    [job] = place.told("check", "shop")["jobs"]
    assert {item["item"]: item["state"] for item in job["items"]}["fresh"] == "OK"


def test_verify_ends_with_16_and_says_what_differs_when_the_mirror_was_edited(place: Place) -> None:
    place.installed()
    assert place.run("verify", "shop").returncode == 10
    place.good("pull", "shop")
    told = place.told("verify", "shop", "--against-source")
    assert told["schema"] == "rollrep.verify/1"
    assert told.keys() >= {"equal", "position", "time", "tables", "not_compared", "seconds", "bytes_received"}
    table = next(each for each in told["tables"] if each["rows"] > 10)
    assert table.keys() >= {"table", "rows", "ranges_compared", "rows_differing", "rows_repaired", "keys"}
    with contextlib.closing(apsw.Connection(str(place.store / "shop" / "mirror.db"))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute(f'DELETE FROM "{table["table"]}" WHERE rowid % 2')
    for more in ([], ["--repair", "-n"]):
        done = place.run("verify", "shop", "--against-source", *more)
        assert done.returncode == 16
        assert f"shop: {table['table']}: " in done.stdout
        assert (f" of {table['table']} what the source has" in done.stdout) == bool(more)
        assert "next: rollrep verify shop --against-source --repair" in done.stderr
    checked = place.run("check", "shop")
    assert checked.returncode == 16
    assert "FAIL    shop: verified: against the source" in checked.stdout
    assert (
        place.good("verify", "shop", "--against-source", "--repair").stdout.count("repaired, and compared again") == 1
    )
    assert place.told("verify", "shop")["schema"] == "rollrep.verify/1"
    place.good("check", "shop")
    assert place.run("verify", "shop", "--against-source", "--table", "nothing").returncode == 2
    assert place.run("verify", "shop", "--table", "t").returncode == 2
    [segment] = (place.store / "shop" / "snapshots").glob("*-1-*.snapshot")
    segment.write_bytes(segment.read_bytes()[:-1])
    done = place.run("verify", "shop")
    assert done.returncode == 16
    assert f"{segment}: " in done.stdout and "points can be restored" in done.stdout
    checked = place.run("check", "shop")
    assert checked.returncode == 16
    assert "FAIL    shop: verified: at rest" in checked.stdout


def test_check_ends_with_the_items_code_when_one_fails(place: Place) -> None:
    done = place.run("check", "shop")
    assert done.returncode == 10
    assert any(line.startswith("FAIL") and "no rolling log" in line for line in done.stdout.splitlines())
    assert f"next: install it: rollrep source install {place.db}" in done.stdout
    place.db.unlink()
    assert place.run("check", "shop").returncode == 2


def test_check_says_what_the_next_pull_will_meet_when_the_source_is_not_as_it_was(place: Place) -> None:
    place.pulled().good("source", "install", place.db, "--keep-rows", 40)
    place.write(*["UPDATE posts SET title = title || 'x'"] * 60)
    said = place.run("check", "shop").stdout
    assert "WARN    shop: log: the log has forgotten where the mirror stands" in said
    place.good("pull", "shop")
    assert "shop: log:" not in place.good("check", "shop").stdout
    place.good("source", "uninstall", place.db)
    place.good("source", "install", place.db)
    told = " ".join(place.good("source", "uninstall", "--help").stdout.split())
    assert "a pull ends with 2 and changes nothing, until `rollrep mirror JOB --accept-source`" in told
    pulled, checked = place.run("pull", "shop"), place.run("check", "shop")
    assert pulled.returncode == checked.returncode == 2
    assert "FAIL    shop: source: the source of shop is another database" in checked.stdout
    for said in (pulled.stderr, checked.stdout):
        assert "next: if it is the right one now: rollrep mirror shop --accept-source" in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(("pul", "shop"), '"pull"'), (("source", "instal", "app.db"), '"install"'), (("xyzzy",), "--help")],
)
def test_mistyped_command_is_answered_with_what_may_have_been_meant(
    place: Place, typed: tuple[str, ...], meant: str
) -> None:
    done = place.run(*typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert meant in done.stderr


# ---------------------------------------------------------------- in one go


def test_printed_commands_work_when_they_are_typed_as_printed(place: Place) -> None:
    """What `install` and `init` print as next is what a newcomer types."""
    place.config.unlink()
    place.installed()
    told = place.good("init", "shop", f"local:{place.db}").stdout
    for command in re.findall(r"rollrep (check shop|pull shop)", told):
        assert place.run(*command.split()).returncode == 0
    done = place.run("restore", "shop", "--at", "latest", "-o", "restored.db")
    assert done.returncode == 0
    copy_source(place.db, place.folder / "oracle.db")
    oracle.assert_same(place.folder / "oracle.db", place.folder / "restored.db")


def test_names_are_refused_in_a_sentence_when_no_file_can_have_them(pulled: Place) -> None:
    long = "n" * 250
    refusal(pulled, 2, ("restore", "shop", "-o", pulled.folder / long), "too long for a file's name")
    for command in (("import",), ("source", "install"), ("pull", "-c")):
        refusal(pulled, 2, (*command, long * 2), "too long for a file's name", "give a shorter one")
    assert pulled.run("timeline", "shop", "--html", long).returncode == 0
    (pulled.folder / long).unlink()


def test_check_refuses_a_host_key_when_the_source_is_on_this_machine(pulled: Place) -> None:
    refusal(pulled, 2, ("check", "shop", "--accept-host-key", "SHA256:x"), "there is no host key", "rollrep check shop")


def test_next_commands_work_as_printed_when_paths_have_blanks_and_the_configuration_was_named(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.db = place.db.rename(place.folder / "my app.db")
    named = place.folder / "my rollrep.toml"
    place.config.unlink()

    def next_of(done: Done) -> tuple[str, ...]:
        said = re.findall(r"(?:next: |^        )(?:.*: )?rollrep (.*)", done.stdout + done.stderr, re.MULTILINE)
        return tuple(shlex.split(said[-1]))

    installed = place.good("source", "install", place.db)
    assert shlex.split(re.findall("rollrep init (.*)", installed.stdout)[0])[1].endswith("/my app.db")
    place.good("source", "uninstall", place.db)
    pull = next_of(place.run("-c", named, "init", "shop", f"local:{place.db}"))
    assert pull == ("-c", str(named), "pull", "shop")
    install = next_of(place.run(*pull))
    assert install == ("source", "install", str(place.db))
    place.good(*install)
    assert next_of(place.run("restore", "shop", "-o", "x.db", "-c", named)) == pull
    assert next_of(place.run("-c", named, "status")) == pull
    told = only_object(place.run("-c", named, "check", "--json").stdout)
    assert told["jobs"][0]["items"][-1]["next"] == shlex.join(["rollrep", *pull])
    place.good(*pull)
    mirror = place.folder / "rollrep-data" / "shop" / "mirror.db"
    mirror.write_bytes(b"x" * 9000)
    damaged = only_object(place.run("-c", named, "pull", "--json").stdout)["jobs"][0]["error"]["remedy"]
    for said in (damaged, only_object(place.run("verify", "shop", "-c", named, "--json").stdout)["error"]["remedy"]):
        assert said.endswith(shlex.join(["rollrep", "-c", str(named), "mirror", "shop"]))
