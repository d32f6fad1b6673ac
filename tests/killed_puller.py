"""Pulls in processes of their own that die at a given call: what `kill -9` leaves behind.

    python killed_puller.py      stdin: {"store": …, "db": …, "calls": 817, "settings": {"rollrep.source.reader.IMAGE_ROWS": 9}}
                                 stdout: its exit status, 9 if killed

Each pull runs in a fork of this process, which itself opens no database: so no lock and no connection is
carried over.  Source and destination run in one process here and die together, at the so-many-th call of a
function of rollrep, wherever that is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

KILLED = 9


class KilledPuller:
    """The other end of it, for a test."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def pull(self, store: Path, db: Path, calls: int, settings: Mapping[str, int] | None = None) -> int:
        """The exit status of a pull that is killed at its `calls`-th call: 0, or KILLED.

        `settings` are constants of rollrep that are others in it.
        """
        assert self._process.stdin and self._process.stdout
        wanted = {"store": str(store), "db": str(db), "calls": calls, "settings": dict(settings or {})}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate("", timeout=30)


@contextlib.contextmanager
def killed_puller() -> Iterator[KilledPuller]:
    puller = KilledPuller()
    try:
        yield puller
    finally:
        puller.close()


@contextlib.contextmanager
def counted_calls() -> Iterator[list[int]]:
    """How many calls there were of functions of rollrep, as the only element, in this thread and in new ones."""
    calls = [0]

    def count() -> None:
        calls[0] += 1

    _at_each_call(count)
    try:
        yield calls
    finally:
        threading.setprofile(None)
        sys.setprofile(None)


def _die_at(calls: int) -> None:
    left = calls

    def count() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            os._exit(KILLED)

    _at_each_call(count)


def _at_each_call(do: Callable[[], None]) -> None:
    def look(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and f"{os.sep}rollrep{os.sep}" in frame.f_code.co_filename:
            do()

    threading.setprofile(look)
    sys.setprofile(look)


def _pull(wanted: dict[str, Any]) -> None:
    from sources import pull_once

    from rollrep.core.errors import MirrorNeeded, Temporary
    from rollrep.destination.store import Store

    store = Store(Path(wanted["store"]), "job")
    store.create()
    for name, value in wanted["settings"].items():
        module, _, constant = name.rpartition(".")
        setattr(sys.modules[module], constant, value)
    _die_at(wanted["calls"])
    with contextlib.suppress(Temporary, MirrorNeeded):
        pull_once(store, Path(wanted["db"]))


def main() -> None:
    sys.path[:0] = [str(Path(__file__).parent)]
    import sources  # noqa: F401  imported here, once, so that a fork need not

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _pull(json.loads(line))
                status = 0
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
