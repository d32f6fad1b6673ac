"""Running processes and saying what they took: CPU of a process and all its children, peaks of each.

Knows: Linux (/proc, wait4).  Does not know: what runs.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

POLL_S = 0.01


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a finished process took, its own children included."""

    stdout: str
    cpu_s: float
    wall_s: float
    peaks: tuple[int, ...] = ()
    """bytes of resident memory at the highest, of the process and of each child, largest first"""


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    peaks: bool = False,
    children: bool = True,
) -> Usage:
    """Raises RuntimeError with the process's last words where it fails.

    Without `children` the only peak is the process's own: to look for children takes a tenth of a core, for hours too.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=env, cwd=cwd
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        seen: dict[int, int] = {}
        watcher = threading.Thread(target=_watch, args=(child.pid, seen, children), daemon=True)
        if peaks:
            watcher.start()
        # Neither stream of these commands outgrows a pipe's buffer.
        stdout, stderr = child.stdout.read().decode(), child.stderr.read().decode(errors="replace")
        # wait4 counts a child's children too, once they were waited for: man 2 getrusage.
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if peaks:
        watcher.join()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{stdout[-2000:]}{stderr[-2000:]}")
    wall = time.perf_counter() - began
    return Usage(stdout, used.ru_utime + used.ru_stime, wall, tuple(sorted(seen.values(), reverse=True)))


def cpu_s(pid: int) -> float:
    """CPU seconds so far of a running process."""
    import psutil  # an application that only asks for its peak does without its memory

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_bytes(pid: int | str = "self") -> int:
    """The highest resident memory so far of a running process; 0 when it is gone."""
    return next((int(line.split()[1]) << 10 for line in _status(pid) if line.startswith("VmHWM:")), 0)


def _watch(pid: int, seen: dict[int, int], children: bool) -> None:
    """Keeps each process's high-water mark: it only grows, so a look every 10 ms misses the last 10 ms at most."""
    while Path(f"/proc/{pid}").exists():
        for each in [pid, *(_children(pid) if children else ())]:
            if peak := peak_bytes(each):
                seen[each] = peak
        time.sleep(POLL_S)
        if any(line.startswith("State:\tZ") for line in _status(pid)):
            return


def _children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def _status(pid: int | str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
