"""Adding a job to rollrep.toml: what a person wrote there stays, byte for byte.

    rollrep init ──► the file with one more section ──► read back ──► in its place, at once or not at all

Knows: how the configuration is read.  Does not know: SSH, what an address means.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from shlex import quote

from rollrep.core.errors import UsageError
from rollrep.destination.outputs import require_regular
from rollrep.jobs.config import Job, parse_config, quoted

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def job_section(name: str, source: str, *, identity: Path | None = None, known_hosts: Path | None = None,
                ssh_config: Path | None = None, remote_command: str | None = None) -> str:  # fmt: skip
    """The text that `add_job` adds, for showing it first.

    Paths are as typed: relative ones mean from the present folder, and are written absolute.

    >>> print(job_section("shop", "ssh://backup@shop-prod/shop", identity=Path("~/.ssh/rollrep")), end="")
    [jobs.shop]
    source = "ssh://backup@shop-prod/shop"
    identity = "~/.ssh/rollrep"
    every = "10s"       # how often to pull
    snapshot = "1h"     # how often the mirror becomes a snapshot
    # every point of the last 7 days; before that the newest snapshot of so many hours, days, months
    keep = { operations = "7d", hourly = 48, daily = 30, monthly = 12 }
    """
    optional = {"identity": identity, "known_hosts": known_hosts, "ssh_config": ssh_config}
    lines = [f"[jobs.{name if _BARE_KEY.fullmatch(name) else quoted(name)}]", f"source = {quoted(source)}"]
    lines += [f"{key} = {quoted(_as_typed(value))}" for key, value in optional.items() if value is not None]
    if remote_command is not None:
        lines.append(f"remote_command = {quoted(remote_command)}")
    lines += [
        'every = "10s"       # how often to pull',
        'snapshot = "1h"     # how often the mirror becomes a snapshot',
        "# every point of the last 7 days; before that the newest snapshot of so many hours, days, months",
        'keep = { operations = "7d", hourly = 48, daily = 30, monthly = 12 }',
    ]
    return "\n".join(lines) + "\n"


_TEMPLATE = """\
# rollrep: what is pulled from where, how often, and how long it stays.
# Durations are 10s, 15m, 1h, 7d, 2w.  `rollrep check` says whether all of it works.

store = "./rollrep-data"    # one folder per job inside; relative to this file's folder
"""


def add_job(path: Path, name: str, source: str, *, identity: Path | None = None,
            known_hosts: Path | None = None, ssh_config: Path | None = None,
            remote_command: str | None = None) -> Job:  # fmt: skip
    """The job, now also in `path`, which is written if it did not exist.

    What stood there stays, byte for byte; the file is replaced at once or not at all.  UsageError when the
    name is taken or the file is wrong already.
    """
    section = job_section(name, source, identity=identity, known_hosts=known_hosts, ssh_config=ssh_config,
                          remote_command=remote_command)  # fmt: skip
    require_regular(path, "another --config")
    target = path.resolve()  # a link stays a link
    try:
        before = target.read_bytes()
        mode = target.stat().st_mode & 0o777
    except FileNotFoundError:
        before, mode = b"", None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}", remedy=f"see: ls -l {quote(str(path))}") from error
    if not before.strip():
        before += _TEMPLATE.encode()
    if name in parse_config(before, path).jobs:
        raise UsageError(f'{path} has a job "{name}" already', remedy="choose another name, or edit the file")
    newline = "\r\n" if b"\r\n" in before else "\n"
    gap = ("" if before.endswith(b"\n") else newline) + newline
    after = before + (gap + section.replace("\n", newline)).encode(errors="surrogatepass")
    try:
        job = parse_config(after, path).jobs[name]
    except UsageError as error:
        raise UsageError(f"the job can't be added: {error.facts}", remedy=error.remedy) from None
    if job.source != source:
        raise UsageError(f"the source {source!r} can't be written as TOML", remedy="give it in plain letters")
    _replace(target, after, mode)
    return job


def _as_typed(path: Path) -> str:
    return str(path if str(path).startswith("~") else path.absolute())


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    """`target` holds `data`, also after a power cut; at no moment is it half written."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"{target} can't be written: {error.strerror}", remedy=f"see: ls -ld {quote(str(target.parent))}"
        ) from error
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
