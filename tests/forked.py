"""The command, forked from a process that has loaded it: the same program, and its start costs no CPU.

    test ── arguments, folder, environment, pipes ──► a process that has loaded rollrep, and waits
     ▲                                                 └─ fork ──► is `rollrep` with these arguments, to its end
     └──────────────── pid, how it ended ◄─────────────┘

What is forked has one thread, and neither a connection nor a signal handler.  A variable of the environment that is
read while a program starts can't be given to one that has: where one of these differs, the command is started.

Sets are in the order of the process that waits, and every module has been loaded: that each command loads what it
needs is shown by those that are started, as README.md has them (test_readme.py).

For tests of what a command says and does.  Those of the start itself, of what is loaded, of signals and of what other
programs start, start the installed `rollrep`.

Knows: Linux, how an installed script calls `main`.  Does not know: any command.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROLLREP = Path(sys.executable).with_name("rollrep")
Done = subprocess.CompletedProcess[str]
LARGEST = 1 << 20
"""Bytes of a request: arguments and environment."""
SELDOM = {"rollrep.__main__", "rollrep.transport.link", "rollrep.transport.login", "rollrep.transport.ssh"}
"""Not loaded before: with paramiko there is half as much memory again to share, and most tests have no need of SSH."""


# ---------------------------------------------------------------- in the test


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    timeout: float = 100,
) -> Done:
    """What `subprocess.run([ROLLREP, *arguments], stdin=DEVNULL, capture_output=True, text=True, ...)` gives."""
    command = [str(ROLLREP), *map(str, arguments)]
    env = dict(os.environ if env is None else env)
    cwd = cwd or Path.cwd()
    waiting = _started()
    if read_at_start(env) == waiting.read_at_start:
        done = waiting.run(command, cwd, env, timeout)
    else:
        done = subprocess.run(
            command, cwd=cwd, env=env, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    if check:
        done.check_returncode()
    return done


def read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that Python, its libraries and the loader read while a program starts."""
    names = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "OPENSSL_", "SSL_", "VIRTUAL_ENV")
    return {name: value for name, value in env.items() if name.startswith(names)}


class _Waiting:
    """The process that waits; started with the first command, ended by `stop`, or with the tests."""

    def __init__(self) -> None:
        self.read_at_start = read_at_start(os.environ)
        self.asks, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asks.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        with asked:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(asked.fileno())], pass_fds=[asked.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def run(self, command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout_s: float) -> Done:
        with contextlib.ExitStack() as opened:
            reads: dict[str, int] = {}
            gives = [os.open(os.devnull, os.O_RDONLY)]
            for name in ("stdout", "stderr", "end"):
                reading, writing = os.pipe()
                reads[name] = opened.enter_context(os.fdopen(reading, "rb")).fileno()
                gives.append(writing)
            try:
                request = json.dumps([command, str(cwd), dict(env), _umask()]).encode()
                socket.send_fds(self.asks, [request], gives)
            finally:
                for given in gives:
                    os.close(given)
            said = _read(command, reads, timeout_s)
        _, _, code = said["end"].decode().partition(" ")
        assert code, "the process that waits for commands is gone; what ended it stands above"
        text = [said[name].decode().replace("\r\n", "\n").replace("\r", "\n") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(list(command), int(code), *text)

    def stop(self) -> None:
        self.asks.close()
        self.process.wait(30)


_lock = threading.Lock()
_waiting: list[_Waiting] = []


def _started() -> _Waiting:
    with _lock:
        if not _waiting:
            _waiting.append(_Waiting())
        return _waiting[0]


def stop() -> None:
    """Ends the process that waits, where there is one."""
    while _waiting:
        _waiting.pop().stop()


def _umask() -> int:
    """What this process has; os.umask tells only by setting another, which threads would see."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("\nUmask:")[2].split()[0], 8)


def _read(command: Sequence[str], reads: Mapping[str, int], timeout_s: float) -> dict[str, bytes]:
    """All that comes, to the end of each."""
    said = dict.fromkeys(reads, b"")
    until = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as waits:
        for name, reading in reads.items():
            waits.register(reading, selectors.EVENT_READ, name)
        while waits.get_map():
            ready = waits.select(max(0, until - time.monotonic()))
            if not ready:
                os.kill(int(said["end"].split()[0]), signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(command), timeout_s, said["stdout"], said["stderr"])
            for key, _ in ready:
                if part := os.read(key.fd, 1 << 16):
                    said[key.data] += part
                else:
                    waits.unregister(key.fd)
    return said


# ---------------------------------------------------------------- in the process that waits


def become_command(asked: socket.socket) -> None:
    """Forks for each request.  Returns only in what was forked, when all is as a started command finds it."""
    with selectors.DefaultSelector() as waits:
        waits.register(asked, selectors.EVENT_READ)
        while waits.get_map():
            for key, _ in waits.select():
                if key.data:
                    waits.unregister(key.fd)
                    _tell_end(key.fd, *key.data)
                    continue
                request, given, _, _ = socket.recv_fds(asked, LARGEST, 4)
                if not request:
                    waits.unregister(asked)
                    continue
                *streams, end = given
                pid = os.fork()
                if not pid:
                    asked.close()
                    for fd in [
                        end,
                        *(fd for other in waits.get_map().values() if other.data for fd in (other.fd, other.data[1])),
                    ]:
                        os.close(fd)
                    _enter(request, streams)
                    return
                for stream in streams:
                    os.close(stream)
                _tell(end, str(pid))
                waits.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, end))
    sys.exit()


def _enter(request: bytes, streams: Sequence[int]) -> None:
    command, folder, env, umask = json.loads(request)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those that are there took for seekable what they were opened for, and what came instead is a pipe.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv[:] = command


def _tell_end(watched: int, pid: int, end: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _tell(end, f" {code}")
    os.close(end)
    os.close(watched)


def _tell(end: int, text: str) -> None:
    """Nobody may be there any more: a test that took too long."""
    with contextlib.suppress(BrokenPipeError):
        os.write(end, text.encode())


def modules() -> Iterator[str]:
    import rollrep

    for found in pkgutil.walk_packages(rollrep.__path__, "rollrep."):
        if found.name not in SELDOM:
            yield found.name


if __name__ == "__main__":
    # As for the installed script: the folder it lies in comes first.
    sys.path[0] = str(ROLLREP.parent)
    for module in modules():
        importlib.import_module(module)
    assert threading.active_count() == len([*Path("/proc/self/task").iterdir()]) == 1
    # What is here stays as it is, so that forked processes share it.
    gc.collect()
    gc.freeze()
    become_command(socket.socket(fileno=int(sys.argv[1])))
    from rollrep.cli.main import main

    sys.exit(main())
