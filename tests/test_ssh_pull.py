"""Pulling over a real sshd: the key that may pull and nothing else, and lines that break everywhere.

sshd, the serve process and the pull are all real; only the network between them is a proxy that can be cut.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from sources import copy_source
from ssh_servers import OpensshServer, Proxy, free_port, make_key, public_file, public_line

from rollrep.core.errors import Temporary
from rollrep.destination.catalog import Catalog
from rollrep.destination.pull import Outcome, Wishes, pull
from rollrep.destination.store import Store
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits
from rollrep.transport import Address, Options, open_stream
from rollrep.wire.session import Session

pytestmark = [pytest.mark.sshd, pytest.mark.timeout(300)]

ROLLREP = Path(sys.executable).with_name("rollrep")
SERVE = f"{ROLLREP} source serve"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
Done = subprocess.CompletedProcess[str]


class Place:
    """A source behind sshd, and a destination with a key of its own."""

    def __init__(self, folder: Path, sshd: OpensshServer) -> None:
        self.folder = folder
        self.sshd = sshd
        self.home = folder / "home"
        self.home.mkdir()
        self.db = folder / "app.db"
        self.config = folder / "rollrep.toml"
        self.store = folder / "data"
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(sshd.known_line)
        self.write(
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB)",
            "CREATE UNIQUE INDEX u ON t(a)",
            "INSERT INTO t(a, b) VALUES ('one', x'00'), ('two', NULL)",
        )
        self.configure()

    def configure(
        self, database: str = "", *, port: int = 0, command: str = SERVE, identity: Path | None = None
    ) -> None:
        address = f"ssh://{self.sshd.user}@{self.sshd.host}:{port or self.sshd.port}/{database or self.db}"
        self.config.write_text(
            f'store = "{self.store}"\n[jobs.shop]\nsource = "{address}"\nremote_command = {json.dumps(command)}\n'
            f'identity = "{identity or self.sshd.client_key}"\nknown_hosts = "{self.known_hosts}"\nssh_config = "/dev/null"\n'
        )

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLREP", "XDG", "SSH"))}
        return {**kept, "HOME": str(self.home)}

    def run(self, *arguments: object, path: str = "") -> Done:
        environment = self.environment()
        environment["PATH"] = path or f"{ROLLREP.parent}:{environment['PATH']}"
        done = subprocess.run(
            [ROLLREP, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120,
            cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def good(self, *arguments: object) -> Done:
        done = self.run(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done

    def write(self, *statements: str) -> None:
        script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        script += "[c.execute(s).fetchall() for s in sys.argv[2:]]\nc.close()"
        subprocess.run([sys.executable, "-c", script, self.db, *statements], check=True)

    def installed(self) -> Place:
        with contextlib.closing(open_source(self.db)) as db:
            install(db, Limits(keep_bytes=256 << 20))
        return self

    def authorized(self, *names: str) -> str:
        """Puts the line that `authorize` prints into authorized_keys, and nothing else."""
        pairs = [f"--db={name}={self.db}" for name in names or ("shop",)]
        line = self.run("source", "authorize", *pairs, public_file(self.sshd.client_key)).stdout
        assert line.count("\n") == 1
        self.sshd.authorized_keys.write_text(line)
        return line

    @property
    def mirror(self) -> Path:
        return self.store / "shop" / "mirror.db"

    def assert_mirrored(self) -> None:
        assert_same(self.db, self.mirror, self.folder)

    def ssh(self, *arguments: str, program: str = "ssh", **more: object) -> Done:
        options = [
            "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentitiesOnly=yes",
            "-o", "LogLevel=ERROR", "-F", "/dev/null", "-i", str(self.sshd.client_key),
            "-P" if program == "sftp" else "-p", str(self.sshd.port),
        ]  # fmt: skip
        return subprocess.run(
            [program, *options, *arguments], capture_output=True, text=True, check=False, timeout=30,
            **{"env": self.environment(), "stdin": subprocess.DEVNULL, **more},
        )  # type: ignore[call-overload,no-any-return]  # fmt: skip

    @property
    def login(self) -> str:
        return f"{self.sshd.user}@{self.sshd.host}"


@pytest.fixture
def place(tmp_path: Path, sshd: OpensshServer) -> Place:
    return Place(tmp_path, sshd)


def assert_same(db: Path, mirror: Path, folder: Path) -> None:
    copy = folder / "oracle.db"
    copy.unlink(missing_ok=True)
    copy_source(db, copy)
    oracle.assert_same(copy, mirror)


def sentence(done: Done, code: int, *holding: str) -> None:
    assert done.returncode == code, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("rollrep: ") and lines[1].startswith("  next: ")
    for part in holding:
        assert part in done.stderr, done.stderr


# ---------------------------------------------------------------- a key that can pull, and nothing else


def test_key_pulls_when_its_line_is_the_one_that_authorize_prints(place: Place) -> None:
    place.installed().authorized()
    # The job's own remote_command is what everybody has; the key's line decides what really runs.
    place.configure("shop", command="rollrep source serve")
    place.good("pull")
    place.assert_mirrored()
    place.write("UPDATE t SET b = a", "INSERT INTO t(a) VALUES ('three')")
    told = json.loads(place.good("pull", "--json").stdout)
    assert (told["jobs"][0]["answer"], told["jobs"][0]["operations"]) == ("resume", 3)
    place.assert_mirrored()
    assert place.good("check").stdout.count("OK") >= 3


def test_key_pulls_when_rollrep_was_not_on_the_path_of_who_authorized_it(place: Place) -> None:
    place.installed()
    done = place.run(
        "source", "authorize", f"--db=shop={place.db}", public_file(place.sshd.client_key), path="/usr/bin:/bin"
    )
    place.sshd.authorized_keys.write_text(done.stdout)
    place.configure("shop", command="rollrep source serve")
    place.good("pull")
    place.assert_mirrored()


def test_key_pulls_when_names_and_paths_need_quoting(place: Place) -> None:
    odd = place.folder / 'it\'s a "shop" $HOME \\ `x`.db'
    place.db.rename(odd)
    for ending in ("-wal", "-shm"):
        side = place.db.with_name(place.db.name + ending)
        if side.exists():
            side.rename(odd.with_name(odd.name + ending))
    place.db = odd
    place.installed().authorized()
    place.configure("shop")
    place.good("pull")
    place.assert_mirrored()


def test_restricted_key_runs_nothing_else_when_asked_to(place: Place) -> None:
    place.installed().authorized()
    secret = place.folder / "secret"
    secret.write_text("do not show")
    for command in (
        "ls", f"cat {secret}", f"rollrep source uninstall {place.db}", f"{ROLLREP} source install {place.db} --keep-rows 1",
        f"touch {place.folder}/made", f"{SERVE}; touch {place.folder}/made", f"touch {place.folder}/made; {SERVE}",
        f"sh -c 'touch {place.folder}/made' source serve", "'unbalanced", "",
    ):  # fmt: skip
        done = place.ssh(place.login, command)
        assert "do not show" not in done.stdout
        assert "secret" not in done.stdout
        assert "Traceback" not in done.stderr, command
        assert not (place.folder / "made").exists()
        if command and "source serve" not in command:
            assert done.returncode == 2, command
            assert "this key may only pull with rollrep" in done.stderr, command
    with contextlib.closing(open_source(place.db)) as db:
        assert db.execute("SELECT keep_rows FROM _rollrep_meta").fetchall() == [(Limits().keep_rows,)]


def test_restricted_key_runs_nothing_else_when_it_sends_an_environment(place: Place) -> None:
    """What Debian's sshd takes over from a client."""
    made = place.folder / "made"
    hostile = {
        "LC_ALL": f"$(touch {made})",
        "LANG": "../../x",
        "LC_X": f"() {{ :; }}; touch {made}",
        "LC_LONG": "x" * 9_000,
    }
    send = {"env": {**os.environ, **hostile}}
    assert "LC_LONG=xxx" in place.ssh("-o", "SendEnv=LANG LC_*", place.login, "env", **send).stdout, "it comes over"
    place.installed().authorized()
    said = [
        place.ssh("-o", "SendEnv=LANG LC_*", place.login, command, **more)
        for command in ("rollrep source serve", f"rollrep source serve --db x={place.db} source serve")
        for more in (send, {})
    ]
    assert not made.exists()
    assert {(done.returncode, done.stdout) for done in said} == {(0, "")}, said
    place.configure("x")
    sentence(place.run("pull"), 2, "this key may not pull 'x'")


def test_restricted_key_gets_no_files_when_it_tries_sftp(place: Place) -> None:
    # The fixture's sshd has no subsystem, so the server is named; a forced command takes the place of either.
    server = next(path for path in SFTP_SERVERS if Path(path).exists())
    free = place.ssh("-s", server, place.login, program="sftp", input=f"cd {place.folder}\nls\n", stdin=None)
    assert "app.db" in free.stdout, free.stderr
    place.installed().authorized()
    done = place.ssh("-s", server, place.login, program="sftp", input=f"cd {place.folder}\nls\n", stdin=None)
    assert done.returncode != 0
    assert "app.db" not in done.stdout


def test_restricted_key_gets_no_forwarding_when_it_tries(place: Place) -> None:
    def reaches() -> bool:
        port = free_port()
        options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{port}:127.0.0.1:{place.sshd.port}", place.login]
        child = subprocess.Popen(
            ["ssh", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={place.known_hosts}", "-F", "/dev/null", "-i",
             str(place.sshd.client_key), "-p", str(place.sshd.port), *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and child.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as line:
                    line.settimeout(5)
                    return line.recv(4) == b"SSH-"
                time.sleep(0.05)
            return False
        finally:
            child.kill()
            child.wait()

    assert reaches(), "without the restriction it must, or this test can't fail"
    place.installed().authorized()
    assert not reaches()


@pytest.mark.parametrize("database", ["other", "shop2", "/etc/passwd", "the path of its own"])
def test_restricted_key_is_refused_when_it_asks_for_another_database(place: Place, database: str) -> None:
    """A path is none of its names, also where a log lies there that could be pulled."""
    database = str(place.db) if database == "the path of its own" else database
    place.installed().authorized("shop", "copy")
    place.configure(database)
    sentence(place.run("pull"), 2, f"this key may not pull '{database}'")
    done = place.run("pull")
    assert "copy" not in done.stderr
    assert not place.mirror.exists()


def test_path_is_pulled_when_the_key_is_free(place: Place) -> None:
    place.installed()
    place.configure(f"/{str(place.db).lstrip('/')}")
    assert f"//{str(place.db).lstrip('/')}" in place.config.read_text()
    place.good("pull")
    place.assert_mirrored()


# ---------------------------------------------------------------- who is it


def test_exit_code_says_what_is_wrong_when_host_or_key_are_not_right(place: Place) -> None:
    place.installed()
    stranger = make_key(place.folder / "stranger")
    wrong_line = place.sshd.known_line.replace(public_line(place.sshd.host_key), public_line(stranger))

    place.known_hosts.write_text("")
    unknown = place.run("pull")
    sentence(unknown, 13, place.sshd.fingerprint, "not a known host", "rollrep check shop --accept-host-key")
    place.known_hosts.write_text(wrong_line)
    sentence(place.run("pull"), 13, place.sshd.fingerprint, "another key")
    assert place.sshd.login_attempts() == 0
    assert not place.mirror.exists()

    place.known_hosts.write_text(place.sshd.known_line)
    place.configure(identity=stranger)
    sentence(place.run("pull"), 12, str(stranger), "authorized_keys")
    place.configure(identity=place.folder / "no-such-key")
    sentence(place.run("pull"), 2, "no-such-key")

    place.configure()
    place.known_hosts.write_text("")
    wrong = place.run("check", "shop", "--accept-host-key", "SHA256:wrong")
    sentence(wrong, 13, place.sshd.fingerprint, "rollrep check shop --accept-host-key")
    [accept] = re.findall(r"rollrep (check shop --accept-host-key \S+)", unknown.stderr)
    assert place.run(*accept.split()).returncode == 0
    place.good("pull")
    place.assert_mirrored()


def test_noise_is_named_when_the_login_shell_prints(place: Place) -> None:
    place.installed()
    place.configure(command=f"sh -c 'echo hello; exec {SERVE}'")
    sentence(place.run("pull"), 1, "'hello'", "before rollrep speaks", "silent")
    place.configure(command=f"sh -c 'echo to stderr >&2; exec {SERVE}'")
    place.good("pull")
    place.assert_mirrored()


@pytest.mark.parametrize("command", ["rollrepp source serve", "/no/such/rollrep source serve", "/etc/passwd"])
def test_remote_command_is_named_when_it_is_not_there(place: Place, command: str) -> None:
    place.installed()
    place.configure(command=command)
    sentence(place.run("pull"), 10, "can't be started", "remote_command")


def test_pull_ends_with_75_and_its_cause_when_serve_dies_at_once(place: Place) -> None:
    place.installed()
    place.configure(command="sh -c 'echo out of memory >&2; exit 9'")
    sentence(place.run("pull"), 75, "out of memory")


def test_pull_ends_with_75_when_nobody_listens(place: Place) -> None:
    place.installed()
    port = free_port()
    place.known_hosts.write_text(place.sshd.known_line.replace(str(place.sshd.port), str(port)))
    place.configure(port=port)
    sentence(place.run("pull"), 75, "refused")


# ---------------------------------------------------------------- lines that break

CUTS = 5
BLOB = 1_000_000


def options(place: Place, proxy: Proxy) -> Options:
    place.known_hosts.write_text(place.sshd.known_line.replace(f":{place.sshd.port} ", f":{proxy.port} "))
    return Options(
        identity=place.sshd.client_key, known_hosts=place.known_hosts, ssh_config=Path("/dev/null"),
        remote_command=SERVE, connect_timeout_s=10.0, stall_timeout_s=10.0,
    )  # fmt: skip


def pull_through(place: Place, store: Store, proxy: Proxy) -> Outcome:
    address = Address(str(place.db), place.sshd.host, place.sshd.user, proxy.port)
    store.create()
    stream = open_stream(address, options(place, proxy))
    try:
        with store.locked():
            return pull(store, Session(stream, "the source"), Wishes(str(place.db)), lambda _table, _rows: None)
    finally:
        stream.close()


def assert_dense(store: Store, head: int) -> None:
    """The archive holds each log row once: segments neither overlap nor leave a gap, and none is left over."""
    with Catalog(store.catalog) as catalog:
        found = catalog.connection.execute("SELECT first, last, path FROM segment ORDER BY first").fetchall()
    for (_, last, _), (first, _, _) in itertools.pairwise(found):
        assert first == last + 1
    assert found[-1][1] == head
    on_disk = sorted(str(path.relative_to(store.folder)) for path in store.archive.rglob("*") if path.is_file())
    assert on_disk == sorted(path for _, _, path in found)


@pytest.mark.parametrize("kind", ["resume", "mirror"])
def test_mirror_is_the_source_when_the_line_was_cut_at_any_place(place: Place, kind: str) -> None:
    place.installed()
    before = Store(place.folder / "before", "job")
    with Proxy(place.sshd.port) as proxy:
        if kind == "resume":
            pull_through(place, before, proxy)
    place.write(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12)"
        f" INSERT INTO t(a, b) SELECT 'blob ' || i, randomblob({BLOB}) FROM n",
        "UPDATE t SET a = a || '!' WHERE id % 5 = 0",
        "DELETE FROM t WHERE id % 4 = 0",
        *(f"INSERT INTO t(a) VALUES ('small {n}')" for n in range(30)),
    )
    with contextlib.closing(open_source(place.db)) as db:
        [(head,)] = db.execute("SELECT max(id) FROM _rollrep_log").fetchall()

    def begin(name: str) -> Store:
        store = Store(place.folder / name, "job")
        if kind == "resume":
            shutil.copytree(before.folder, store.folder)
        return store

    with Proxy(place.sshd.port) as proxy:
        whole = pull_through(place, begin("whole"), proxy)
        length = proxy.passed
    assert whole.answer == kind
    assert length > 8 * BLOB
    cut_short = 0
    rng = random.Random(f"{kind} {CUTS}")
    for turn in range(CUTS):
        store = begin(f"cut-{turn}")
        with Proxy(place.sshd.port) as proxy:
            proxy.cut_after(length * turn // CUTS + rng.randrange(length // CUTS))
            try:
                pull_through(place, store, proxy)
            except Temporary:
                cut_short += 1
        with Proxy(place.sshd.port) as proxy:
            outcome = pull_through(place, store, proxy)
        assert_same(place.db, store.mirror, place.folder)
        assert outcome.position == whole.position
        if kind == "resume":
            assert outcome.operations in (whole.operations, 0)
            assert_dense(store, head)
        shutil.rmtree(store.folder.parent)
    assert cut_short >= CUTS - 2


@contextlib.contextmanager
def writer(place: Place, seed: int) -> Iterator[subprocess.Popen[str]]:
    """An application that writes until its stdin ends."""
    script = """
        import random, select, sqlite3, sys, time
        rng = random.Random(int(sys.argv[2]))
        con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.004)[0]:
            con.execute("BEGIN IMMEDIATE")
            for _ in range(rng.randrange(1, 30)):
                n = rng.randrange(400)
                kind = rng.randrange(5)
                if kind < 2:
                    con.execute("INSERT OR REPLACE INTO t(id, a, b) VALUES (?, ?, randomblob(?))",
                                (n, f"a{rng.randrange(500)}", rng.choice((0, 10, 3000))))
                elif kind == 2:
                    con.execute("UPDATE OR REPLACE t SET id = ?, a = a || 'x' WHERE id = ?", (rng.randrange(400), n))
                elif kind == 3:
                    con.execute("DELETE FROM t WHERE id = ?", (n,))
                else:
                    con.execute("UPDATE t SET b = hex(b) WHERE id = ? AND length(b) < 9000", (n,))
            con.execute("COMMIT")
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), place.db, str(seed)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout and child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.communicate("stop\n", timeout=30)
        assert child.returncode == 0


KILLS = 6


@pytest.mark.parametrize("keep_rows", [300, 100_000])
def test_mirror_is_the_source_when_the_pull_was_killed_at_any_moment(place: Place, keep_rows: int) -> None:
    with contextlib.closing(open_source(place.db)) as db:
        install(db, Limits(keep_rows=keep_rows))
    began = time.monotonic()
    place.good("pull")
    usual_s = time.monotonic() - began
    rng = random.Random(20 + keep_rows)
    killed = 0
    with writer(place, 1):
        for _ in range(KILLS):
            child = subprocess.Popen(
                [ROLLREP, "-c", place.config, "pull"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=place.environment(), cwd=place.folder,
            )  # fmt: skip
            # Half of the time goes by before the first byte: the end is where the work is.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(rng.uniform(0.4, 1.1) * usual_s)
            killed += child.poll() is None
            child.send_signal(signal.SIGKILL)
            child.wait()
    place.good("pull")
    place.assert_mirrored()
    assert killed >= KILLS // 3
    place.good("pull")
    place.assert_mirrored()
    assert place.run("restore", "shop", "-o", place.folder / "out.db").returncode == 0
    assert_same(place.db, place.folder / "out.db", place.folder)


def test_mirror_is_the_source_when_serve_was_killed_at_any_moment(place: Place) -> None:
    place.installed()
    pid_file = place.folder / "serve.pid"
    place.configure(command=f"sh -c 'echo $$ > {pid_file}; exec {SERVE}'")
    place.good("pull")
    rng = random.Random(21)
    killed = 0
    with writer(place, 2):
        for _ in range(KILLS):
            pid_file.unlink(missing_ok=True)
            child = subprocess.Popen(
                [ROLLREP, "-c", place.config, "pull"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, env=place.environment(), cwd=place.folder,
            )  # fmt: skip
            while child.poll() is None and not (pid_file.exists() and pid_file.read_text().endswith("\n")):
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.6))
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid_file.read_text()), signal.SIGKILL)
                killed += 1
            _, said = child.communicate(timeout=60)
            # It tries again by itself: a serve that dies once is no reason to fail.
            assert (child.returncode, said) == (0, "")
    place.good("pull")
    place.assert_mirrored()
    assert killed >= KILLS // 3


def test_pull_goes_on_when_the_line_stalls_and_comes_back(place: Place) -> None:
    place.installed()
    store = Store(place.folder / "stalled", "job")
    with Proxy(place.sshd.port) as proxy:
        pull_through(place, store, proxy)
    place.write("INSERT INTO t(a) VALUES ('after')")
    with Proxy(place.sshd.port) as proxy:
        address = Address(str(place.db), place.sshd.host, place.sshd.user, proxy.port)
        stream = open_stream(address, options(place, proxy))
        with contextlib.closing(stream), store.locked():
            proxy.stall()
            threading.Timer(0.5, proxy.resume).start()
            outcome = pull(store, Session(stream, "the source"), Wishes(str(place.db)), lambda _table, _rows: None)
    assert outcome.operations == 1
    assert_same(place.db, store.mirror, place.folder)


def test_source_is_left_as_it_was_when_it_was_only_pulled(place: Place) -> None:
    place.installed()
    place.good("pull")
    place.write("UPDATE t SET b = a")
    with contextlib.closing(apsw.Connection(str(place.db), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        before = (
            db.execute("SELECT * FROM _rollrep_meta").fetchall(),
            db.execute("SELECT * FROM _rollrep_log").fetchall(),
        )
    held = place.db.read_bytes()
    place.good("pull")
    place.good("mirror", "shop")
    assert place.db.read_bytes() == held
    with contextlib.closing(apsw.Connection(str(place.db), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        after = (
            db.execute("SELECT * FROM _rollrep_meta").fetchall(),
            db.execute("SELECT * FROM _rollrep_log").fetchall(),
        )
    assert after == before
