"""One folder per job: where everything of a job lies, and who may work on it.

    <store>/<job>/
      mirror.db        the living copy, an ordinary SQLite database; its position is inside it
      mirror.next.db   a mirror operation under way; it becomes, or is poured into, mirror.db
      catalog.db       what exists: lines, segments, points, snapshots, holes, events
      archive/         segments, verbatim
      snapshots/       the mirror at points
      trash/           what retention let go of, for a day
      cache/           restored points that were looked at; it may be removed any time
      keys.db          which segments speak of which rows; it may be removed any time
      rehearsal/       a restore that is being rehearsed; it is empty otherwise
      lock             held by the kernel for whoever works here; its text names them

Folders are 0700 and files 0600: a backup is as secret as what it is a backup of.

Knows: core.  Does not know: SQL, what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from rollrep.core.clock import iso, now
from rollrep.core.errors import Locked, NotSetUp, UsageError, VerifyFailed

TEMPORARY = ".part"
"""the ending of a file that is being written; found at start, it is a leftover"""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """The folder of one job."""

    def __init__(self, root: Path, job: str) -> None:
        self.job = job
        self.folder = root / job
        self.mirror = self.folder / "mirror.db"
        self.staging = self.folder / "mirror.next.db"
        self.changes = self.folder / "mirror.changes.db"
        self.incoming = self.folder / f"incoming.db{TEMPORARY}"
        self.pages = self.folder / f"pages.db{TEMPORARY}"
        self.catalog = self.folder / "catalog.db"
        self.archive = self.folder / "archive"
        self.snapshots = self.folder / "snapshots"
        self.trash = self.folder / "trash"
        self.reading = self.folder / "reading.lock"
        self.cache = self.folder / "cache"
        self.keys = self.folder / "keys.db"
        self.rehearsal = self.folder / "rehearsal"

    def exists(self) -> bool:
        """Whether a pull ever began to keep something: a full disk leaves a catalog without a byte.

        Raises UsageError where this user may not look.
        """
        with self.permitted():
            return self.catalog.is_file() and self.catalog.stat().st_size > 0

    @contextlib.contextmanager
    def permitted(self) -> Iterator[None]:
        """Raises UsageError where a file can't be opened for whose it is, or because its disk can only be read."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise not_permitted(self.folder, str(error.strerror)) from error

    def create(self) -> None:
        """Makes the folders.  Raises UsageError where they can't be made or written, OSError where there is no room."""
        _private()
        try:
            for folder in (self.folder, self.archive, self.snapshots):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder):
                _refuse_planted(folder)
            self.reading.touch(mode=0o600)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise UsageError(
                f"the store {self.folder} can't be made: {error.strerror}",
                remedy='give a folder that this user can write: store = "/path" in rollrep.toml',
            ) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(
                f"the store {self.folder} can't be written by this user",
                remedy=f"see: ls -ld {quote(str(self.folder))}",
            )

    def require(self) -> None:
        """Raises NotSetUp where nothing was ever pulled, VerifyFailed where the catalog of what was is gone."""
        self.require_catalog_of_files()
        if not self.exists():
            raise nothing_pulled(self.job)

    def require_catalog_of_files(self) -> None:
        """Raises VerifyFailed where there are files and no catalog: a new one would not know of them."""
        if self.exists():
            return
        if self.mirror.is_file() or any(
            path.is_file() for folder in (self.archive, self.snapshots) for path in folder.rglob("*")
        ):
            raise VerifyFailed(
                f"{self.catalog} is gone, and the archive, the snapshots or the mirror of {self.job} are there",
                remedy=f"make it again from them: rollrep catalog {self.job} --rebuild",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process works on a job.  The kernel lets go of the lock when its holder dies."""
        import filelock  # those who only read take no lock

        _private()
        lock = filelock.FileLock(self.folder / "lock", timeout=0, mode=0o600)
        note = self.folder / "lock.holder"
        try:
            with self.permitted():
                lock.acquire()
        except filelock.Timeout as error:
            holder = ""
            with contextlib.suppress(OSError):
                holder = note.read_text().strip()
            raise Locked(
                f"{self.job} is being worked on by {holder or 'another process'}",
                remedy=_about_holder(holder),
            ) from error
        try:
            with contextlib.suppress(OSError):  # it is only for messages; what needs room says so itself
                note.write_text(f"process {os.getpid()} on {platform.node()} since {iso(now())}\n")
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink()
            lock.release()

    def sweep(self) -> list[Path]:
        """Removes what a killed process left half-written; call it under the lock.

        Not in the cache and the rehearsal's folder: work goes on there without this lock, and they sweep themselves.
        """
        found = (path for path in self.folder.rglob(f"*{TEMPORARY}*") if path.is_file())
        leftovers = [path for path in found if not {self.cache, self.rehearsal} & set(path.parents)]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return leftovers


def _refuse_planted(folder: Path) -> None:
    """Raises UsageError where another user made `folder` where everybody may: a link there leads anywhere."""
    owners = {folder.lstat().st_uid, folder.stat().st_uid}
    if folder.parent.stat().st_mode & stat.S_IWOTH and not owners <= {os.geteuid(), 0}:
        raise UsageError(
            f"the store {folder} belongs to another user, in a folder where everybody may write",
            remedy='give a folder of your own: store = "/path" in rollrep.toml',
        )


def _about_holder(said: str) -> str:
    """What to do about who holds the lock; the note about it is a text, and may be missing."""
    found = re.match(r"process (\d+) on (\S+)", said)
    if not found:
        return "wait for it, and type it again"
    where = "" if found[2] == platform.node() else f", on {found[2]}"
    return f"wait for it, or see what it does{where}: ps -f -p {found[1]}"


def _private() -> None:
    """What this process writes from now on is its owner's alone; SQLite asks the umask too."""
    os.umask(0o077)


def not_permitted(folder: Path, why: str) -> UsageError:
    return UsageError(
        f"the store {folder} can't be opened: {why}; to read it takes writing, too (locks, SQLite's WAL)",
        remedy=f"work as the user whose it is, or on a copy of it where there can be written; see:"
        f" ls -ld {quote(str(folder))}",
    )


def nothing_pulled(job: str) -> NotSetUp:
    return NotSetUp(f"nothing has been pulled for {job} yet", remedy=f"pull it: rollrep pull {job}")
