"""A disk under a seed: every write of a run goes through here, has a number and a name, and can be the last one.

    SQLite ── apsw VFS ──┐                        ┌─► the real file
    files  ── io.open ───┼─► step(who, what) ─────┼─► ENOSPC, EIO
    names  ── os.* ──────┘   1, 2, 3, ...         └─► "this process died here": the folder as it was at that step

A process that dies is not unwound: its folder is copied at that very step, and put in the place of what it left
when it had run to its end.  That is what kill -9 leaves: no handler, no ROLLBACK, no `finally`.  A loss of power
leaves less: of what was not synced, any part.

Knows: apsw, files.  Does not know: rollrep, but for the names of its functions, which name the steps, and that the
catalog's pages have checksums.
"""

# Strings and os.path, because what Path does is what is watched here.
# ruff: noqa: PTH112, PTH113, PTH115, PTH119, PTH120, PTH123
from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import random
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from rollrep.destination import checksums

VFS = "rollrep-sim"
REAL = apsw.Connection
JULIAN_MS_OF_1970 = 210_866_760_000_000


class Died(BaseException):
    """Stands for `kill -9` where a process shares this one's memory; no handler of the code expects it."""


class Clock:
    """Time that passes only by being looked at, and by jumps; both machines have their own."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.offset_s = {"source": 1_790_000_000.0, "destination": 1_790_000_003.0}

    def look(self, machine: str) -> float:
        self.elapsed_s += 0.000_7
        return self.offset_s[machine] + self.elapsed_s

    def monotonic(self) -> float:
        self.elapsed_s += 0.000_7
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += max(0.0, seconds)


class DiskFault:
    """The `at`-th write of the destination fails, and `more` after it."""

    def __init__(self, code: int, at: int, more: int) -> None:
        self.code = code
        self.at = at
        self.more = more
        self.hit = 0

    def due(self) -> bool:
        self.at -= 1
        if self.at > 0 or self.at <= -self.more:
            return False
        self.hit += 1
        return True


class Unsynced:
    """What a loss of power may take: each file's writes since its last sync, and names not synced with their folder."""

    def __init__(self) -> None:
        self.since: dict[str, list[tuple[int, bytes | None, bytes]]] = {}
        """path → (offset, what was written there or None for a truncation, what had been there)"""
        self.renamed: list[tuple[str, str, bytes | None]] = []

    def wrote(self, path: str, offset: int, data: bytes | None) -> None:
        """Call it before the write; `data` None: before the file is cut there."""
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                had = file.read(-1 if data is None else len(data))
        except FileNotFoundError:
            had = b""
        self.since.setdefault(path, []).append((offset, data, had))

    def sync(self, path: str) -> None:
        self.since.pop(path, None)

    def sync_folder(self, folder: str) -> None:
        self.renamed = [each for each in self.renamed if os.path.dirname(each[1]) != folder]

    def moved(self, source: str, target: str, before: bytes | None) -> None:
        self.renamed.append((source, target, before))
        self.since.pop(target, None)
        if source in self.since:
            self.since[target] = self.since.pop(source)

    def image(self, path: str, content: bytearray, rng: random.Random) -> bytes:
        """One of the contents that the file may have after the power came back."""
        since = self.since[path]
        for offset, data, had in reversed(since):
            if data is None:
                content[offset:] = had
            else:
                # What was longer than before ended there.
                content[offset : offset + len(data)] = had
        keep = rng.choice([0.0, 0.5, 0.9])
        for offset, data, _ in since:
            if rng.random() >= keep:
                continue
            if data is None:
                del content[offset:]
            else:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)


class Disk:
    """One folder tree.  `who` says whose steps are being counted; steps of "app" and "judge" are not."""

    def __init__(self, folder: Path, clock: Clock, seed: int) -> None:
        self.folder = str(folder)
        self.store = str(folder / "store")
        self.clock = clock
        self.who = "judge"
        self.steps: Counter[str] = Counter()
        self.names: Counter[str] = Counter()
        self.at_step: Callable[[str, int, str], None] = lambda _who, _number, _name: None
        self.fault: DiskFault | None = None
        self.unsynced = Unsynced()
        self.mirror = str(folder / "store" / "job" / "mirror.db")
        self.mirror_touched = True
        """whether anything was done to the mirror's files since somebody looked"""
        self._random = random.Random(seed)

    @contextlib.contextmanager
    def acting(self, who: str) -> Iterator[None]:
        before, self.who = self.who, who
        try:
            yield
        finally:
            self.who = before

    def step(self, what: str, path: str = "") -> None:
        """Called before anything is done that another process, or the next one, could see."""
        who = self.who
        if who not in ("pull", "serve"):
            return
        self.steps[who] += 1
        if path.startswith(self.mirror):
            self.mirror_touched = True
        name = f"{caller()}: {what}{kind_of(path)}"
        self.names[f"{who} {name}"] += 1
        self.at_step(who, self.steps[who], name)

    def may_fail(self, path: str, what: str) -> None:
        """Raises what SQLite, or a file, says of a disk that is full or broken."""
        if self.fault and self.who == "pull" and path.startswith(self.store) and self.fault.due():
            if what == "sqlite":
                if self.fault.code == errno.ENOSPC:
                    raise apsw.FullError("database or disk is full")
                raise apsw.IOError("disk I/O error")
            raise OSError(self.fault.code, os.strerror(self.fault.code), path)

    def machine(self) -> str:
        return "source" if self.who in ("app", "serve") else "destination"

    def randomness(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def image(self, target: Path, *, power: bool, rng: random.Random) -> None:
        """The store as it would be found by whoever comes next, had everything ended now."""
        if not os.path.isdir(self.store):
            target.mkdir()
            return
        shutil.copytree(self.store, target)
        if not power:
            return
        for path in sorted(target.rglob("*")):
            if not path.is_file():
                continue
            here = str(Path(self.store) / path.relative_to(target))
            if path.name.endswith("-shm"):
                path.unlink()
            elif here in self.unsynced.since:
                path.write_bytes(self.unsynced.image(here, bytearray(path.read_bytes()), rng))
        for source, there, before in reversed(self.unsynced.renamed):
            moved = target / Path(there).relative_to(self.store)
            if rng.random() < 0.5 or not moved.exists():
                continue
            moved.replace(target / Path(source).relative_to(self.store))
            if before is not None:
                moved.write_bytes(before)


LABELS: dict[types.CodeType, str] = {}


def caller() -> str:
    """`destination/archive.add`: the function of rollrep that does what is being done."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        label = LABELS.get(code)
        if label is None:
            file = code.co_filename
            ours = "/rollrep/" in file and not file.endswith("/rollrep/query.py")
            module = file.rpartition("/rollrep/")[2].removesuffix(".py")
            label = LABELS[code] = f"{module}.{code.co_name}" if ours else ""
        if label:
            return label
        frame = frame.f_back
    return "?"


@functools.lru_cache(4096)
def kind_of(path: str) -> str:
    """What a path is, without what differs from run to run."""
    name = os.path.basename(path)
    if name.startswith("."):
        name = "output"
    for ending in ("-wal", "-journal", "-shm", ".part"):
        if name.endswith(ending):
            return f" {kind_of(path.removesuffix(ending)).strip()}{ending}"
    if name.endswith((".segment", ".snapshot", ".shadows", ".note")):
        return f" *{name[name.rindex('.') :]}"
    return f" {name}" if name.endswith(".db") or "lock" in name else ""


class Connection(REAL):
    """apsw's, each of whose statements is a step."""

    disk: Disk

    def execute(self, statements: str, *arguments: Any, **more: Any) -> Any:
        if self.disk.who in ("pull", "serve"):
            self.disk.step(statements.split(None, 1)[0].upper())
        return REAL.execute(self, statements, *arguments, **more)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._path = name if isinstance(name, str) else (name.filename() if name else "")
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._disk.who == "pull":
            self._disk.step("write", self._path)
            self._disk.may_fail(self._path, "sqlite")
        if self._path.startswith(self._disk.store):
            self._disk.unsynced.wrote(self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        if self._disk.who == "pull":
            self._disk.step("truncate", self._path)
        if self._path.startswith(self._disk.store):
            self._disk.unsynced.wrote(self._path, size, None)
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        # Nothing is really synced: that costs time, and no run outlives a loss of real power.
        if self._disk.who == "pull":
            self._disk.step("sync", self._path)
            if self._disk.fault and self._disk.fault.code == errno.EIO:
                self._disk.may_fail(self._path, "sqlite")
        # Whoever asks for it: who closes a database last writes its WAL back, and that may be the judge.
        if self._disk.store in self._path:
            self._disk.unsynced.sync(self._path)


class _Vfs(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__(VFS, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        return _File(self.disk, name, flags)

    def xDelete(self, filename: str, sync: bool) -> None:  # noqa: N802
        self.disk.step("delete", filename)
        self.disk.unsynced.sync(filename)
        super().xDelete(filename, sync)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return JULIAN_MS_OF_1970 + int(self.disk.clock.look(self.disk.machine()) * 1_000)

    def xCurrentTime(self) -> float:  # noqa: N802
        return self.xCurrentTimeInt64() / 86_400_000

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        self.disk.clock.sleep(microseconds / 1e6)
        return microseconds

    def xRandomness(self, count: int) -> bytes:  # noqa: N802
        return self.disk.randomness(count)


class _Raw(io.FileIO):
    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        self._disk = disk
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        self._disk.step("write", str(self.name))
        self._disk.may_fail(str(self.name), "file")
        self._disk.unsynced.wrote(str(self.name), self.tell(), bytes(data))
        return super().write(data)


@contextlib.contextmanager
def installed(disk: Disk) -> Iterator[None]:
    """Everything that this process writes goes through `disk`, until the end of it."""
    vfs = _Vfs(disk)
    _without_checksums()
    apsw.set_default_vfs(VFS)
    made = type("Connection", (Connection,), {"disk": disk})
    apsw.Connection = made  # type: ignore[misc,assignment]
    undo = [(io, "open", io.open)]
    io.open = _opening(disk)  # type: ignore[assignment]
    for name in ("replace", "rename", "unlink", "mkdir", "link", "fsync", "rmdir"):
        undo.append((os, name, getattr(os, name)))  # type: ignore[arg-type]
        setattr(os, name, _stepping(disk, name, getattr(os, name)))
    undo.append((os, "copy_file_range", os.copy_file_range))  # type: ignore[arg-type]
    os.copy_file_range = _copying(disk, os.copy_file_range)
    try:
        yield
    finally:
        for module, name, was in undo:
            setattr(module, name, was)
        apsw.Connection = REAL  # type: ignore[misc]
        _without_checksums()
        apsw.set_default_vfs("unix")
        apsw.unregister_vfs(VFS)
        del vfs


def _without_checksums() -> None:
    """What looks at the catalog's pages goes through to the disk that was there first, until it is made known again."""
    if checksums.VFS in apsw.vfs_names():
        apsw.unregister_vfs(checksums.VFS)


def _opening(disk: Disk) -> Any:
    really = io.open

    def opening(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        path = os.fspath(file) if not isinstance(file, int) else ""
        if disk.who != "pull" or "w" not in mode or not str(path).startswith(disk.store):
            return really(file, mode, *arguments, **more)
        disk.step("open", path)
        disk.may_fail(path, "file")
        disk.unsynced.sync(path)
        raw = io.BufferedWriter(_Raw(disk, path, "wb"))
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding=more.get("encoding"), write_through=True)

    return opening


def _copying(disk: Disk, really: Callable[..., int]) -> Any:
    """A file copied by the kernel: one step, and pages that nobody has synced."""

    def copying(source: int, target: int, count: int, from_offset: int, to_offset: int) -> int:
        path = os.readlink(f"/proc/self/fd/{target}")
        if disk.who == "pull" and path.startswith(disk.store):
            disk.step("copy", path)
            disk.may_fail(path, "file")
            for at in range(0, count, 4096):
                piece = os.pread(source, min(4096, count - at), from_offset + at)
                disk.unsynced.wrote(path, to_offset + at, piece)
        return really(source, target, count, from_offset, to_offset)

    return copying


def _stepping(disk: Disk, name: str, really: Callable[..., Any]) -> Any:
    def stepping(*arguments: Any, **more: Any) -> Any:
        if disk.who != "pull":
            return really(*arguments, **more)
        first = arguments[0]
        path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.fspath(first)
        if not path.startswith(disk.store):
            return really(*arguments, **more)
        disk.step(name, path)
        if name in ("mkdir", "link") or (disk.fault and disk.fault.code == errno.EIO and name != "unlink"):
            disk.may_fail(path, "file")
        if name not in ("replace", "rename", "link"):
            done = really(*arguments, **more)
            if name == "fsync":
                (disk.unsynced.sync_folder if os.path.isdir(path) else disk.unsynced.sync)(path)
            elif name == "unlink":
                disk.unsynced.sync(path)
            return done
        target = os.fspath(arguments[1])
        before = Path(target).read_bytes() if os.path.isfile(target) else None
        done = really(*arguments, **more)
        if os.path.isfile(target):
            disk.unsynced.moved(path, target, before)
        disk.mirror_touched = disk.mirror_touched or target == disk.mirror
        return done

    return stepping
