"""restic and borg, as their manuals have it: one repository, a backup of a copy of the database each hour.

Both pack with zstd (restic's `auto`, borg's level 3).  restic always encrypts, borg is told not to.

Knows: their programs.  Does not know: what is in the database.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bench import processes


class Restic:
    name = "restic"

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "restic"
        self._files = ("--repo", str(self.repository), "--cache-dir", str(folder / "restic-cache"))
        self._run("init", "--repository-version", "2")

    def backup(self, copy: Path, hour: int) -> None:
        self._run("backup", "--tag", f"hour-{hour}", "--host", "bench", str(copy))

    def restore(self, copy: Path, target: Path) -> processes.Usage:
        """The newest, into the folder `target`."""
        return self._run("restore", "latest", "--target", str(target), "--include", str(copy))

    def _run(self, *arguments: str) -> processes.Usage:
        return processes.run(["restic", *self._files, *arguments], env={**os.environ, "RESTIC_PASSWORD": "bench"})


class Borg:
    name = "borg"

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "borg"
        self._env = {
            **os.environ,
            "BORG_BASE_DIR": str(folder / "borg-base"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        self._newest = ""
        self._run(["borg", "init", "--encryption", "none", str(self.repository)])

    def backup(self, copy: Path, hour: int) -> None:
        self._newest = f"{self.repository}::hour-{hour}"
        self._run(["borg", "create", "--compression", "zstd,3", self._newest, str(copy)])

    def restore(self, copy: Path, target: Path) -> processes.Usage:
        """The newest, into the folder `target`."""
        target.mkdir(exist_ok=True)
        return self._run(["borg", "extract", self._newest, str(copy).lstrip("/")], cwd=target)

    def _run(self, command: Sequence[str], cwd: Path | None = None) -> processes.Usage:
        return processes.run(command, env=self._env, cwd=cwd)


def require_programs() -> None:
    """Raises RuntimeError where one of the programs that `time_travel` needs is not there."""
    packages = {"restic": "restic", "borg": "borgbackup"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"not on this machine: apt-get install {' '.join(missing)}")


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
