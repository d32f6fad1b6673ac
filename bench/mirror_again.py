"""Mirroring again: seconds and bytes on the wire, beside `sqlite3_rsync` over the same sshd.

    before ──► mirrored by both ──► changed ──► one pull │ one sqlite3_rsync      each from fresh copies

`sqlite3_rsync` has the same database without a log, as its user would have it; the changes are the same statements.
Seconds of ours are from the start of the command until the mirror is the source; the snapshot that follows is said
apart, because the peer makes none.  Bytes are TCP's, both ways, through the relay before sshd.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw.sqlite_extra
import zstandard

from bench import processes, workload
from bench.loopback import Loopback, loopback
from bench.report import Figure
from bench.stage import ROOT, Stage, application_command, environment, mirror_of, require_same, rollrep, settle

ROWS, QUICK_ROWS = 4_400_000, 440_000
"""1 GB and 100 MB, indexes included"""
INSERTED_AT_A_TIME = 50_000
KEYS_FORGOTTEN = ("--keep-keys", "1")
WRITER_RATE = 200


@dataclasses.dataclass(frozen=True)
class Case:
    """What happens to the source between two mirrors, and what is promised of the second."""

    name: str
    change: str
    """SQL with {n}, a hundredth of the rows, and {rows}; what a VACUUM follows stands alone"""
    limits: tuple[str, ...] = ()
    vacuum: bool = False
    first: bool = False
    least: Callable[[Path, Path, Sequence[str]], float] | None = None
    """seconds of what nobody can leave out, given (the peer's replica before, the source now, how to log in): no
    rollrep"""
    bytes_ratio: float | None = None
    """ours against the peer's, at most"""
    time_ratio: float | None = None
    most_bytes: int | None = None
    answers: tuple[str, ...] = ("mirror",)


RANDOM = (
    "UPDATE account SET note = hex(randomblob(12)), balance = abs(random() % 1000000000)"
    " WHERE id IN (SELECT id FROM picked)"
)
CLUSTERED = "UPDATE account SET note = 'changed ' || id, balance = id WHERE id BETWEEN {rows} / 3 AND {rows} / 3 + {n}"


def put_rows(replica: Path, source: Path, _: Sequence[str]) -> float:
    """To put the rows that changed into the replica when they are known: a transaction, and what SQLite writes back."""
    with contextlib.closing(sqlite3.connect(source)) as db:
        db.execute("ATTACH ? AS before", (str(replica),))
        rows = db.execute(
            "SELECT n.note, n.balance, n.id FROM main.account n JOIN before.account b USING (id)"
            " WHERE n.note <> b.note OR n.balance <> b.balance"
        ).fetchall()
    began = time.monotonic()
    with contextlib.closing(sqlite3.connect(replica)) as db, db:
        db.execute("PRAGMA synchronous = NORMAL")
        db.executemany("UPDATE account SET note = ?, balance = ? WHERE id = ?", rows)
    return time.monotonic() - began


PACK = """
import sys, zstandard
zstandard.ZstdCompressor(level=1).copy_stream(open(sys.argv[1], "rb"), sys.stdout.buffer)
"""


def pack_and_send(replica: Path, source: Path, ssh: Sequence[str]) -> float:
    """To make the file half as large and to have it here on the disk: C all the way, and nobody looks at a page."""
    began = time.monotonic()
    command = [*ssh, shlex.join([sys.executable, "-c", PACK, str(source)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender, replica.open("wb") as file:
        assert sender.stdout is not None
        zstandard.ZstdDecompressor().copy_stream(sender.stdout, file)
        os.fsync(file.fileno())
    if sender.returncode or replica.stat().st_size != source.stat().st_size:
        raise RuntimeError(f"{source} did not arrive")
    return time.monotonic() - began


CASES = (
    Case("1 % random, keys still known", RANDOM, least=put_rows, bytes_ratio=1 / 20, time_ratio=1 / 4),
    Case("the same, keys forgotten (digests)", RANDOM, KEYS_FORGOTTEN, bytes_ratio=1 / 4, time_ratio=1.0),
    Case("nothing changed, keys forgotten", "UPDATE account SET score = score WHERE id <= {n}", KEYS_FORGOTTEN,
         time_ratio=1.2, most_bytes=100_000),
    Case("1 % clustered, keys still known", CLUSTERED, bytes_ratio=1 / 3, time_ratio=1.2),
    Case("1 % clustered, keys forgotten (digests)", CLUSTERED, KEYS_FORGOTTEN, bytes_ratio=1 / 3, time_ratio=1.2),
    Case("rows deleted and VACUUM on the source: a resume", "DELETE FROM account WHERE id IN (SELECT id FROM picked)",
         ("--keep-rows", "500000"), vacuum=True, answers=("resume",)),
    Case("first copy", "", first=True, least=pack_and_send, bytes_ratio=1 / 2, time_ratio=1.0),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """One mirror, by one of both."""

    seconds: float
    bytes: int
    snapshot_s: float = 0.0
    peaks: tuple[float, float] = (0.0, 0.0)
    """MB of (the destination's process, the source's)"""
    longest_read_ms: float = 0.0
    least_s: float = 0.0


def measure(stage: Stage) -> list[Figure]:
    bench = _Bench(stage)
    wanted = os.environ.get("MIRROR_AGAIN", "")
    figures: list[Figure] = []
    with loopback(stage.folder / "sshd") as line:
        bench.prepare(line)
        for case in CASES:
            if wanted in case.name:
                figures += _figures(case, bench.case(line, case))
        if not stage.quick or wanted == "writer":
            figures += bench.writer(line)
    return figures


def _figures(case: Case, runs: Sequence[tuple[Run, Run]]) -> Iterator[Figure]:
    ours, theirs = [run[0] for run in runs], [run[1] for run in runs]
    yield Figure(f"{case.name}: sqlite3_rsync", [run.seconds for run in theirs], "s")
    yield Figure(f"{case.name}: rollrep", [run.seconds for run in ours], "s")
    ratios = [a.seconds / b.seconds for a, b in runs]
    yield Figure(f"{case.name}: time, ours over its", ratios, at_most=case.time_ratio)
    if case.least:
        what = f"{case.name}: time, {case.least.__name__.replace('_', ' ')} over its"
        yield Figure(what, [run.least_s / run.seconds for run in theirs])
    yield Figure(f"{case.name}: sqlite3_rsync", [run.bytes / 1e3 for run in theirs], "KB")
    most = case.most_bytes / 1e3 if case.most_bytes else None
    yield Figure(f"{case.name}: rollrep", [run.bytes / 1e3 for run in ours], "KB", at_most=most)
    if not case.most_bytes:
        yield Figure(f"{case.name}: bytes, ours over its", [a.bytes / b.bytes for a, b in runs],
                     at_most=case.bytes_ratio)  # fmt: skip
    yield Figure(f"{case.name}: the snapshot after it", [run.snapshot_s for run in ours], "s")
    for side, what in enumerate(("destination", "source")):
        yield Figure(f"{case.name}: peak memory, {what}", [run.peaks[side] for run in ours], "MB", at_most=200)
    most = None if case.first else 100
    yield Figure(f"{case.name}: longest read transaction", [run.longest_read_ms for run in ours], "ms", at_most=most)


class _Bench:
    """The prepared files: `before` and `plain` as they were mirrored, `store` with the mirror of `before`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rows = stage.pick(ROWS, QUICK_ROWS)
        folder = stage.folder
        self._plain, self._before, self._store = folder / "plain.db", folder / "before.db", folder / "kept"
        self._used, self._job = folder / "app.db", folder / "job"
        self._replica = folder / "replica" / "app.db"
        self._watched = folder / "served.json"

    def prepare(self, line: Loopback) -> None:
        _make(self._plain, self._rows)
        _copy(self._plain, self._used)
        # Fewer rows than change, so that a position before the change is pruned; the keys of all of them stay.
        rollrep("source", "install", str(self._used), "--keep-rows", str(self._rows // 500))
        settle(self._used)
        _copy(self._used, self._before)
        self._job.mkdir()
        serve = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "bench.served", str(self._watched)]
        serve += ["source", "serve"]
        (self._job / "rollrep.toml").write_text(
            'store = "./rollrep-data"\n[jobs.bench]\n'
            f'source = "ssh://{line.user}@127.0.0.1:{line.port}/{self._used}"\n'
            f'identity = "{line.key}"\nknown_hosts = "{line.known_hosts}"\nremote_command = "{shlex.join(serve)}"\n'
        )
        shutil.copytree(self._job, self._store.with_name("empty"))
        self._pull(line)
        self._job.rename(self._store)

    def case(self, line: Loopback, case: Case) -> list[tuple[Run, Run]]:
        changed = [self._changed(of, case) for of in (self._before, self._plain)]
        runs = []
        for repetition in range(self._stage.pick(3, 1)):
            both: dict[str, Run] = {}
            for who in random.Random(repetition).sample(["ours", "theirs"], 2):
                if who == "ours":
                    self._place(changed[0], empty=case.first)
                    both[who] = self._pull(line, case)
                    require_same(self._used, mirror_of(self._job / "rollrep.toml"))
                else:
                    both[who] = self._rsync(line, changed[1], case)
            runs.append((both["ours"], both["theirs"]))
            print(f"  {case.name}: {both}", file=sys.stderr, flush=True)
        for path in changed:
            path.unlink()
        return runs

    def writer(self, line: Loopback) -> Iterator[Figure]:
        """What a paced application pays while tables are compared, against the same without."""
        case = CASES[1]
        changed = self._changed(self._before, case)
        alone, during = [], []
        for _ in range(self._stage.pick(3, 1)):
            for found, mirrors in ((alone, False), (during, True)):
                self._place(changed, empty=False)
                count = WRITER_RATE * self._stage.pick(8, 3)
                command = application_command(self._used, "update", count, 1, "--rate", str(WRITER_RATE))
                with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as child:
                    if mirrors:
                        self._pull(line)
                    told = json.loads(child.communicate()[0])
                found.append(told["cpu_s"] / told["transactions"] * 1e6)
        yield Figure(f"a writer of {WRITER_RATE} transactions per second, alone", alone, "us CPU")
        yield Figure("the same, while tables are compared", during, "us CPU")
        ratios = [b / a for a, b in zip(alone, during, strict=True)]
        yield Figure("its CPU time per transaction during the mirror, against alone", ratios, at_most=1.1)

    def _changed(self, of: Path, case: Case) -> Path:
        path = self._stage.folder / f"changed-{of.name}"
        _copy(of, path)
        if case.limits and of == self._before:
            rollrep("source", "install", str(path), *case.limits)
        with contextlib.closing(sqlite3.connect(path)) as db:
            draws = random.Random(5)
            db.create_function("randomblob", 1, draws.randbytes)
            db.create_function("random", 0, lambda: draws.getrandbits(62))
            db.execute("PRAGMA temp_store = memory").fetchall()
            db.execute("CREATE TEMP TABLE picked(id INTEGER PRIMARY KEY)")
            n = self._rows // 100
            keys = random.Random(4).sample(range(1, self._rows), n)
            db.executemany("INSERT INTO picked VALUES (?)", ((key,) for key in keys))
            # As an application would: many transactions, so that the log is pruned as it grows.
            for statement in _in_pieces(case.change.format(n=n, rows=self._rows)):
                db.execute(statement)
                db.commit()
            if case.vacuum:
                db.execute("VACUUM")
        settle(path)
        return path

    def _place(self, source: Path, *, empty: bool) -> None:
        _copy(source, self._used)
        shutil.rmtree(self._job, ignore_errors=True)
        _copy_tree(self._store.with_name("empty") if empty else self._store, self._job)
        os.sync()  # or the disk is still busy with these copies while the pull is timed

    def _pull(self, line: Loopback, case: Case | None = None) -> Run:
        self._watched.unlink(missing_ok=True)
        before = line.bytes
        config = self._job / "rollrep.toml"
        with _first_part(self._job / "rollrep-data" / "bench" / "snapshots") as whole:
            began = time.monotonic()
            used = rollrep("pull", "bench", "--json", config=config, peaks=True)
            ended = time.monotonic()
        told: dict[str, Any] = json.loads(used.stdout)["jobs"][0]
        if case and told["answer"] not in case.answers:
            raise RuntimeError(f"{case.name}: answered {told['answer']}, {told['reason']}")
        until = whole[0] if whole else ended
        sent = line.bytes - before
        watched = [json.loads(each) for each in _wait_for(self._watched).splitlines()]
        longest = max(max(each["transaction_ms"], each["statement_ms"]) for each in watched)
        peaks = (used.peaks[0] / 1e6, max(each["peak_bytes"] for each in watched) / 1e6)
        return Run(until - began, sent, ended - until, peaks, longest)

    def _rsync(self, line: Loopback, source: Path, case: Case) -> Run:
        program = apsw.sqlite_extra.path("sqlite3_rsync")
        self._replica.parent.mkdir(exist_ok=True)
        self._place_replica(case)
        ssh = self._stage.folder / "ssh"
        # It splits neither options nor quotes from the program's name.
        ssh.write_text(
            f'#!/bin/sh\nexec ssh -i {line.key} -o UserKnownHostsFile={line.known_hosts} -o BatchMode=yes "$@"\n'
        )
        ssh.chmod(0o700)
        before = line.bytes
        command = [program, f"{line.user}@127.0.0.1:{source}", str(self._replica), "--ssh", str(ssh)]
        used = processes.run([*command, "--exe", str(program), "-p", str(line.port)])
        sent = line.bytes - before
        require_same(source, self._replica)
        if not case.least:
            return Run(used.wall_s, sent)
        self._place_replica(case)
        login = [str(ssh), "-p", str(line.port), f"{line.user}@127.0.0.1"]
        return Run(used.wall_s, sent, least_s=case.least(self._replica, source, login))

    def _place_replica(self, case: Case) -> None:
        _remove(self._replica)
        if not case.first:
            _copy(self._plain, self._replica)
            os.sync()


@contextlib.contextmanager
def _first_part(folder: Path) -> Iterator[list[float]]:
    """When the first unfinished file appears in `folder`: then the mirror is whole, and its snapshot begins."""
    seen: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            if any(folder.glob("*.part")):
                seen.append(time.monotonic())
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _make(path: Path, rows: int) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in workload.SCHEMA:
            if "INDEX" not in statement:
                db.execute(statement)
        for first in range(0, rows, INSERTED_AT_A_TIME):
            count = min(INSERTED_AT_A_TIME, rows - first)
            # A second note makes a row 150 bytes.
            more = random.Random(first)
            db.executemany(
                workload.INSERT,
                (
                    (*values[:3], f"{values[3]} {workload.item(more, 0)[2]}"[:60], *values[4:])
                    for values in workload.accounts(count, seed=first, first=first + 1)
                ),
            )
            db.commit()
        for statement in workload.SCHEMA:
            if "INDEX" in statement:
                db.execute(statement)
    settle(path)


def _in_pieces(statement: str) -> list[str]:
    """The change as some hundred statements, each of the rows of every hundredth key."""
    return [f"{statement} AND id % 100 = {n}" for n in range(100)] if statement else []


def _copy(source: Path, target: Path) -> None:
    _remove(target)
    subprocess.run(["cp", "--reflink=auto", str(source), str(target)], check=True)


def _copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", "--reflink=auto", str(source), str(target)], check=True)


def _remove(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _wait_for(path: Path) -> str:
    """What `serve` wrote when it ended, a moment after the connection did."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()).endswith("\n"):
            return text
        time.sleep(0.02)
    raise RuntimeError("the source's process did not say what it took")
