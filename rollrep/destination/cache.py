"""Points that were looked at: restored files, kept so that the next look costs nothing.

    cache/<epoch>-<line>-<log id>.db       a restored point
    cache/<epoch>-<line>-<log id>.in-use   locked, shared, by each process that reads it
    cache/build.lock                       held by the one process that restores into the cache or makes room

What a log id of a line was never changes, so a file is right for as long as it lies here, whatever is pruned
or branches off.  When there are too many, or too many bytes, the one that was not read for the longest time
goes; one that is being read never does.  Locks are the kernel's: they end with their holder.

Knows: files and locks.  Does not know: how a point is restored, SQL.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.store import TEMPORARY, Store

MOST_FILES = 16
MOST_BYTES = 4 << 30
IN_USE = ".in-use"


class Cache:
    """The cache of one job; no lock of the job is needed."""

    def __init__(self, store: Store) -> None:
        self._folder = store.cache

    @contextlib.contextmanager
    def file(self, point: CatalogPoint, build: Callable[[Path], object]) -> Iterator[Path]:
        """The restored file of `point`, made by `build(path)` when it is not there; it stays while inside."""
        path = self._folder / f"{point.epoch}-{point.line}-{point.id}.db"
        held = self._take(path)
        if held is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with _locked(self._folder / "build.lock", fcntl.LOCK_EX):
                held = self._take(path)
                if held is None:
                    self._sweep()
                    build(path)
                    path.chmod(0o600)
                    held = self._take(path)
                self._make_room()
        assert held is not None, f"{path} was not made"
        try:
            yield path
        finally:
            os.close(held)

    def _take(self, path: Path) -> int | None:
        """Marks `path` as being read until the file number that is returned is closed; None where it is not there."""
        if not path.exists():
            return None
        held = _open(path.with_suffix(IN_USE))
        fcntl.flock(held, fcntl.LOCK_SH)
        try:
            # It may have gone before the lock was ours, and the lock's own file with it.
            os.utime(path)
            if path.with_suffix(IN_USE).stat().st_ino == os.fstat(held).st_ino:
                return held
        except FileNotFoundError:
            pass
        os.close(held)
        return None

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            alone = path.suffix == IN_USE and not path.with_suffix(".db").exists()
            if TEMPORARY in path.name or alone:
                path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        newest_first = sorted(self._folder.glob("*.db"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = 0
        for number, path in enumerate(newest_first, start=1):
            total += path.stat().st_size
            if number > 1 and (number > MOST_FILES or total > MOST_BYTES):
                _remove_unless_read(path)


def _remove_unless_read(path: Path) -> None:
    held = _open(path.with_suffix(IN_USE))
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        path.unlink(missing_ok=True)
        path.with_suffix(IN_USE).unlink(missing_ok=True)
    finally:
        os.close(held)


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    held = _open(path)
    try:
        fcntl.flock(held, how)
        yield
    finally:
        os.close(held)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
