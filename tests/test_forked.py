"""A forked command is the started one: what it says, how it ends, what it finds around it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forked
import pytest
from pair import FollowedPair

AROUND = """
import json, os, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "signals": {name: status[name].strip() for name in ("SigBlk", "SigIgn", "SigCgt")}, "umask": status["Umask"].strip(),
    "files": sorted(os.listdir("/proc/self/fd")), "streams": [os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in range(3)],
    "folder": os.getcwd(), "environment": dict(os.environ), "priority": os.nice(0), "session": os.getsid(0),
    "parent": {
        name: status_of_parent[name].strip()
        for status_of_parent in [dict(line.split(":", 1) for line in open(f"/proc/{os.getppid()}/status"))]
        for name in ("SigBlk", "SigIgn", "SigCgt", "Umask", "Threads")
    },
    "open": sorted({os.readlink(f"/proc/{os.getppid()}/fd/{n}").partition(":")[0] for n in os.listdir(f"/proc/{os.getppid()}/fd")}),
}))
"""


def started(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> forked.Done:
    return subprocess.run(
        [forked.ROLLREP, *map(str, arguments)], cwd=cwd, env=env, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",), ("--help",), ("nonsense",), ("pull", "--nope"), ("restore", "shop"), ("source",), ("status",),
        ("source", "install", "none.db"), ("source", "install", "--print-sql", "app.db"), ("source", "point"), ("source", "install", "-n", "app.db"), ("restore", "shop", "--at", "01/02"), ("-c", "größer.toml", "pull"),
    ],
)  # fmt: skip
def test_forked_command_says_and_ends_as_the_started_one(pair: FollowedPair, arguments: tuple[str, ...]) -> None:
    one, other = (run(*arguments, cwd=pair.folder) for run in (started, forked.run))
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    assert one.stdout + one.stderr


def test_forked_command_finds_around_it_what_the_started_one_finds(pair: FollowedPair) -> None:
    env = {**os.environ, "TZ": "Asia/Kathmandu", "HOME": str(pair.folder), "NAME": "größer\n"}
    del env["PATH"]

    def found(run: Callable[..., forked.Done]) -> Any:
        done = run("source", "migrate", pair.path, "--", sys.executable, "-c", AROUND, cwd=pair.folder, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[0])

    forked.run("--version")
    before = os.umask(0o027)
    try:
        assert found(forked.run) == found(started)
    finally:
        os.umask(before)


def test_times_are_those_of_the_zone_when_each_command_has_its_own(pair: FollowedPair) -> None:
    config = pair.folder / "rollrep.toml"
    config.write_text(f'store = "{pair.store.folder.parent}"\n[jobs.job]\nsource = "local:{pair.path}"\n')
    for zone in ("UTC", "Asia/Kathmandu", "America/Caracas"):
        env = {**os.environ, "TZ": zone}
        one, other = (run("query", "job", "SELECT 1", cwd=pair.folder, env=env) for run in (started, forked.run))
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_command_is_started_when_a_variable_is_read_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('started')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert forked.run("--version", env=env).stdout.startswith("started\n")
    assert not forked.run("--version").stdout.startswith("started\n")


def test_commands_run_at_once_and_end_by_a_signal_when_it_is_sent(pair: FollowedPair) -> None:
    """One waits for a line that never comes, and is killed; others end meanwhile."""
    waits = "import os, time; open('pid', 'w').write(str(os.getppid())); time.sleep(60)"
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(
            forked.run, "source", "migrate", pair.path, "--", sys.executable, "-c", waits, cwd=pair.folder
        )
        while not (told := pair.folder / "pid").exists() or not told.read_text():
            assert not slow.done(), slow.result()
            time.sleep(0.01)
        assert [done.returncode for done in pool.map(lambda _: forked.run("--version"), range(4))] == [0] * 4
        assert not slow.done()
        os.kill(int(told.read_text()), signal.SIGTERM)
        assert slow.result().returncode == 143


def test_command_is_killed_when_it_takes_too_long(pair: FollowedPair) -> None:
    pids = pair.folder / "pids"
    waits = "import os, time; print(os.getppid(), os.getpid(), file=open('pids', 'w'), flush=True); time.sleep(60)"
    command = ("source", "migrate", pair.path, "--", sys.executable, "-c", waits)
    for seconds in (1, 5, 25):
        with pytest.raises(subprocess.TimeoutExpired):
            forked.run(*command, cwd=pair.folder, timeout=seconds)
        if pids.exists() and (told := pids.read_text()):
            break
    killed, sleeping = map(int, told.split())
    os.kill(sleeping, signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(killed, 0)
            time.sleep(0.01)
