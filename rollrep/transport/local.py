"""A source on this machine: `python -m rollrep source serve` as a child process.

    we ── stdin ──▶ child          one pipe each way
       ◀─ stdout ──
       ◀─ stderr ── a thread keeps the last 4 KiB

The child leads a session of its own, so that Ctrl-C reaches only us and we end it in order.

Knows: processes and pipes.  Does not know: what flows through.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import IO

from rollrep.core.errors import Temporary, UsageError
from rollrep.transport.base import Address, Options, Stream
from rollrep.transport.tail import Tail

_GRACE_S = 1.0
_EXIT_WAIT_S = 2.0
_WAIT_S = 1.0
_DRAIN_WAIT_S = 0.5


def open_local(address: Address, options: Options) -> Stream:
    """A stream to a child process; `options.remote_command` is run instead when it is not the usual one.

    Raises UsageError when the command can't be started.
    """
    command = [sys.executable, "-m", "rollrep", "source", "serve"]
    if options.remote_command != Options().remote_command:
        command = shlex.split(options.remote_command)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except (OSError, IndexError) as error:
        raise UsageError(
            f"{shlex.join(command)!r} can't be started for {address.database}: {error}",
            remedy="correct remote_command in the job",
        ) from error
    return LocalStream(child, options.stall_timeout_s)


class LocalStream:
    """The pipes of one child process, as a Stream."""

    def __init__(self, child: subprocess.Popen[bytes], stall_timeout_s: float) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        self._stdin, self._stdout = child.stdin, child.stdout
        self._stall_timeout_s = stall_timeout_s
        self._closed = self._ended = False
        self._tail = Tail()
        os.set_blocking(self._stdin.fileno(), False)
        self._drain = threading.Thread(
            target=_drain, args=(child.stderr, self._tail), name="rollrep-stderr", daemon=True
        )
        self._drain.start()

    def read(self, limit: int) -> bytes:
        if self._closed:
            return b""
        try:
            self._wait(self._stdout, select.POLLIN, "nothing arrived from")
            data = os.read(self._stdout.fileno(), limit)
        except (OSError, ValueError) as error:
            if self._closed:  # by another thread, while this one waited
                return b""
            raise Temporary(f"the child process can't be read: {error}") from error
        self._ended = self._ended or not data
        return data

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            if self._closed:
                raise Temporary("the stream to the child process is closed")
            try:
                self._wait(self._stdin, select.POLLOUT, "nothing could be sent to")
                rest = rest[os.write(self._stdin.fileno(), rest) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:
                raise Temporary(f"the child process takes nothing more: {error}") from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._end()
        # Only now: a reader in another thread has seen the end, and its descriptor can't become another's.
        with contextlib.suppress(OSError):
            self._stdout.close()

    def diagnosis(self) -> str:
        # An ended child may have left its last words in the pipe.
        if self._ended or self._child.poll() is not None:
            self._drain.join(_DRAIN_WAIT_S)
        return self._tail.text()

    def exit_status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(_EXIT_WAIT_S)
        return None

    def _wait(self, pipe: IO[bytes], event: int, what: str) -> None:
        # poll and not select: select can't take a descriptor above 1,023.
        poll = select.poll()
        poll.register(pipe.fileno(), event)
        deadline = time.monotonic() + self._stall_timeout_s
        # In short waits: Python sees a signal that came just before one when it is over.
        while not poll.poll(min(_WAIT_S, max(0.0, deadline - time.monotonic())) * 1000):
            if time.monotonic() >= deadline:
                raise Temporary(f"{what} the child process for {self._stall_timeout_s:g} s")

    def _end(self) -> None:
        """Waits a moment for the end of stdin to do its work, then ends the whole group."""
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._child.pid, number)
            deadline = time.monotonic() + (_GRACE_S if number else _GRACE_S / 5)
            while time.monotonic() < deadline:
                if self._child.poll() is not None:
                    return
                time.sleep(0.005)


def _drain(stderr: IO[bytes], tail: Tail) -> None:
    with stderr, contextlib.suppress(OSError, ValueError):
        while data := os.read(stderr.fileno(), 65536):
            tail.feed(data)
