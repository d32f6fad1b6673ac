"""Large: seconds, and peak memory of both sides, where a source is large in one way or another.

    10 GB               first copy ─► 1 % changed, a pull ─► verify against the source ─► restore
    100M operations     written through a log with default limits and pulled as they come ─► what the past then costs
    2 GB transaction    pulled; its pull killed twice, and pulled again; on a log that can't hold it
    1,000 tables        install, pulls, status, a migration of one table, restore
    200 columns         capture, pull and diff beside 10 columns with the same bytes; 1,000 columns too

`LARGE='1,000 tables'` does the cases whose names hold that text; `LARGE_MINUTES` (40) is how long operations are
written at most, and the figures say how many those were.  `--quick` is a hundredth of each.  Every mirror and every
restored file is compared with its source; what is left over of a step is counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apsw.sqlite_extra

from bench import large_app, processes, workload
from bench.report import Figure
from bench.stage import KEEP_ALL, Stage, environment, rollrep, settle

ROLLREP = (sys.executable, "-m", "rollrep")
MOST_MB = 200
ROWS_AT_A_TIME = 100_000
BURST = 200_000
"""operations per pull: two such bursts stay below the 500,000 rows that a log keeps by default"""


@dataclasses.dataclass(frozen=True)
class Took:
    """One command: seconds by the clock, peaks of its own process and of the source's in MB."""

    seconds: float
    peak_mb: float
    source_mb: float = 0.0
    longest_read_ms: float = 0.0
    told: dict[str, Any] = dataclasses.field(default_factory=dict)


class Job:
    """A source, and the folder of the job that pulls it through a local `serve` that is watched."""

    def __init__(self, stage: Stage, name: str, *tables: str) -> None:
        self._tables = tables
        self.folder = stage.folder / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.source = self.folder / "source.db"
        self.config = self.folder / "rollrep.toml"
        self.store = self.folder / "rollrep-data" / "bench"
        self._watched = self.folder / "served.json"
        serve = [sys.executable, "-m", "bench.served", str(self._watched), "source", "serve"]
        self.config.write_text(
            f'store = "{self.store.parent}"\n[jobs.bench]\nsource = "local:{self.source}"\n'
            f'remote_command = "{shlex.join(serve)}"\n'
        )

    @property
    def mirror(self) -> Path:
        return self.store / "mirror.db"

    @property
    def env(self) -> dict[str, str]:
        return environment(ROLLREP_CONFIG=str(self.config))

    def run(self, *arguments: str) -> Took:
        """One of rollrep's commands; what it told where it was asked for --json."""
        self._watched.unlink(missing_ok=True)
        used = processes.run([*ROLLREP, *arguments], env=self.env, peaks=True, children=False)
        told = json.loads(used.stdout) if "--json" in arguments else {}
        return self._took(used, told)

    def pull(self, *answers: str) -> Took:
        """Raises RuntimeError where the source answered anything but one of `answers`."""
        took = self.run("pull", "bench", "--json")
        told = took.told["jobs"][0]
        if answers and told["answer"] not in answers:
            raise RuntimeError(f"one of {answers} was to be the answer: {told}")
        return dataclasses.replace(took, told=told)

    def application(self, *arguments: str) -> dict[str, float]:
        used = processes.run(self.application_command(*arguments), env=self.env)
        told: dict[str, float] = json.loads(used.stdout)
        return told

    def application_command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "bench.large_app", str(self.source), *arguments]

    def require_same(self, other: Path) -> None:
        """A figure of work that was not done would be a nice one."""
        for tables in self._tables:
            if dbhash(self.source, tables) != dbhash(other, tables):
                raise RuntimeError(f"{other} is not {self.source}")

    def leftovers(self) -> int:
        """Files that no finished command leaves behind."""
        unfinished = ("*.part*", "mirror.next.db*", "mirror.changes.db*")
        return sum(1 for pattern in unfinished for _ in self.store.rglob(pattern))

    def store_mb(self, part: str) -> float:
        return sum(map(_bytes, (self.store / part).rglob("*"))) / 1e6

    def _took(self, used: processes.Usage, told: dict[str, Any]) -> Took:
        served = []
        if self._watched.exists():
            served = [json.loads(line) for line in self._watched.read_text().splitlines()]
        return Took(
            used.wall_s,
            used.peaks[0] / 1e6 if used.peaks else 0.0,
            max((each["peak_bytes"] / 1e6 for each in served), default=0.0),
            max((max(each["transaction_ms"], each["statement_ms"]) for each in served), default=0.0),
            told,
        )


def measure(stage: Stage) -> list[Figure]:
    wanted = os.environ.get("LARGE", "")
    figures: list[Figure] = []
    for name, case in CASES.items():
        if wanted not in name:
            continue
        for figure in case(stage):
            figures.append(figure)
            print(f"  {figure.what}: {figure.values} {figure.unit}", file=sys.stderr, flush=True)
    return figures


def took_figures(what: str, took: Took) -> Iterator[Figure]:
    yield Figure(f"{what}", [took.seconds], "s")
    yield Figure(f"{what}: peak memory", [took.peak_mb], "MB", at_most=MOST_MB)
    if took.source_mb:
        yield Figure(f"{what}: peak memory, source", [took.source_mb], "MB", at_most=MOST_MB)


def ten_gigabytes(stage: Stage) -> Iterator[Figure]:
    rows = stage.pick(15_000_000, 150_000)
    job = Job(stage, "gigabytes", "account")
    _make_accounts(job.source, rows)
    size = f"{job.source.stat().st_size / 1e9:.1f} GB"
    yield from took_figures(f"{size}: install", job.run("source", "install", str(job.source)))
    first = job.pull("mirror")
    yield from took_figures(f"{size}: first pull, its snapshot included", first)
    yield Figure(f"{size}: first pull, longest read transaction", [first.longest_read_ms], "ms")
    job.require_same(job.mirror)
    with _open(job.source) as db:
        keys = random.Random(4).sample(range(1, rows), rows // 100)
        for at in range(0, len(keys), 1000):
            change = "UPDATE account SET note = hex(randomblob(20)), balance = abs(random() % 1000000000) WHERE id = ?"
            db.executemany(change, ((key,) for key in keys[at : at + 1000]))
            db.commit()
    changed = job.pull("resume")
    yield from took_figures(f"{size}: 1 % changed, a pull", changed)
    yield Figure(f"{size}: 1 % changed, longest read transaction", [changed.longest_read_ms], "ms", at_most=100)
    job.require_same(job.mirror)
    yield from took_figures(f"{size}: verify --against-source", job.run("verify", "bench", "--against-source"))
    restored = job.folder / "restored.db"
    yield from took_figures(f"{size}: restore of the latest", job.run("restore", "bench", "--output", str(restored)))
    job.require_same(restored)
    yield Figure(f"{size}: files left over", [job.leftovers()], "files", at_most=0)
    shutil.rmtree(job.folder)


def many_operations(stage: Stage) -> Iterator[Figure]:
    job = Job(stage, "operations", "entry")
    with _open(job.source) as db:
        for statement in large_app.Entries.SCHEMA:
            db.execute(statement)
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    rollrep("source", "install", str(job.source))
    job.pull("mirror")
    until = time.monotonic() + 60 * float(os.environ.get("LARGE_MINUTES", "40"))
    pulls: list[Took] = []
    written, peak = 0, 0.0
    began = time.monotonic()
    with subprocess.Popen(
        job.application_command("operations"), env=job.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        while written < stage.pick(100_000_000, 1_000_000) and time.monotonic() < until:
            # While it writes, the burst before is pulled.
            print(BURST, file=child.stdin, flush=True)
            if written:
                pulls.append(job.pull("resume", "up_to_date"))
            told = json.loads(child.stdout.readline())
            written, peak = written + told["operations"], told["peak_bytes"] / 1e6
    pulls.append(job.pull("resume", "up_to_date"))
    seconds = time.monotonic() - began
    size = f"{written / 1e6:.0f}M operations"
    pulled = sum(pull.told["operations"] for pull in pulls)
    if pulled != written:
        raise RuntimeError(f"{written} operations were written, {pulled} pulled")
    job.require_same(job.mirror)
    yield Figure(f"{size} in {len(pulls)} pulls, written meanwhile", [seconds], "s")
    yield Figure(f"{size}: pulled, by the clock", [written / sum(pull.seconds for pull in pulls)], "operations/s")
    yield Figure(f"{size}: peak memory, a pull", [max(pull.peak_mb for pull in pulls)], "MB", at_most=MOST_MB)
    yield Figure(f"{size}: peak memory, source", [max(pull.source_mb for pull in pulls)], "MB", at_most=MOST_MB)
    yield Figure(f"{size}: peak memory, application", [peak], "MB", at_most=MOST_MB)
    some = max(1, len(pulls) // 10)
    slower = [_seconds_per_operation(pulls[-some:]) / _seconds_per_operation(pulls[:some])]
    yield Figure(f"{size}: a pull among the last tenth against the first tenth", slower, at_most=1.5)
    yield Figure(f"{size}: archive", [job.store_mb("archive") / (written / 1e6)], "MB per million")
    yield Figure(f"{size}: catalog", [(job.store / "catalog.db").stat().st_size / 1e6], "MB")
    yield from _past_of_operations(job, size, len(pulls))
    yield Figure(f"{size}: files left over", [job.leftovers()], "files", at_most=0)
    shutil.rmtree(job.folder)


def _past_of_operations(job: Job, size: str, pulls: int) -> Iterator[Figure]:
    yield from took_figures(f"{size}: a pull of nothing", job.pull("up_to_date"))
    yield from took_figures(f"{size}: status", job.run("status", "bench"))
    yield from took_figures(f"{size}: timeline", job.run("timeline", "bench"))
    with _open(job.source) as db:
        row = str(db.execute("SELECT max(id) / 2 + min(id) / 2 FROM entry").fetchone()[0])
    yield from took_figures(f"{size}: history of a row", job.run("history", "bench", "entry", row))
    yield from took_figures(f"{size}: history of the row once more", job.run("history", "bench", "entry", row))
    output = job.folder / "middle.db"
    took = job.run("restore", "bench", "--at", f"point:{pulls // 2}", "--output", str(output))
    yield from took_figures(f"{size}: restore of their middle", took)
    output.unlink()


def _seconds_per_operation(pulls: Sequence[Took]) -> float:
    return float(statistics.median(pull.seconds / pull.told["operations"] for pull in pulls))


def one_transaction(stage: Stage) -> Iterator[Figure]:
    rows = stage.pick(4_000_000, 40_000)
    # In the quick form the limits are a hundredth, too.
    small = ("--keep-rows", "5000", "--keep-bytes", "640KiB", "--keep-keys", "20000") if stage.quick else ()
    for limits, which in ((KEEP_ALL, "the log holds it"), (small, "default limits")):
        yield from _transaction(stage, rows, limits, f"a transaction of {rows * 500 / 1e9:.2g} GB, {which}")


def _transaction(stage: Stage, rows: int, limits: Sequence[str], name: str) -> Iterator[Figure]:
    job = Job(stage, "transaction", "account", "marker")
    _make_accounts(job.source, 10_000)
    with _open(job.source) as db:
        # Else most of the time goes into random pages of an index that has outgrown SQLite's cache.
        db.execute("DROP INDEX account_balance")
        db.execute("CREATE TABLE marker(n INTEGER)")
        db.execute("INSERT INTO marker VALUES (0)")
        db.commit()
    rollrep("source", "install", str(job.source), *limits)
    job.pull("mirror")
    before = _glance(job.mirror)
    written = job.application("transaction", "--count", str(rows))
    yield Figure(f"{name}: written", [written["wall_s"]], "s")
    yield Figure(f"{name}: peak memory, application", [written["peak_bytes"] / 1e6], "MB", at_most=MOST_MB)
    kept = job.folder / "kept"
    shutil.copytree(job.store.parent, kept)
    seen: set[tuple[int, ...]] = set()
    with _looking(job.mirror, seen):
        pulled = job.pull()
    yield from took_figures(f"{name}: pull ({pulled.told['answer']})", pulled)
    yield Figure(f"{name}: pull, longest read transaction", [pulled.longest_read_ms], "ms")
    job.require_same(job.mirror)
    shutil.rmtree(job.store.parent)
    kept.rename(job.store.parent)
    with _looking(job.mirror, seen):
        # Once while it fetches, once while it replays what it has: each in the first third of that.
        _pull_killed_when(job, lambda path: not path.name.startswith("mirror.db"), 50 * rows)
        _pull_killed_when(job, lambda path: path.name == "mirror.db-wal", 100 * rows)
        again = job.pull()
    yield from took_figures(f"{name}: pull after two kill -9", again)
    job.require_same(job.mirror)
    between = seen - {before, _glance(job.source)}
    yield Figure(f"{name}: states that a reader saw besides before and after", [len(between)], "states", at_most=0)
    yield Figure(f"{name}: files left over", [job.leftovers()], "files", at_most=0)
    shutil.rmtree(job.folder)


def _pull_killed_when(job: Job, which: Callable[[Path], bool], most: int) -> None:
    """A pull that gets SIGKILL when `which` files of the store have more than `most` bytes.

    Raises RuntimeError where it ended before that: then nothing was tried.
    """
    with subprocess.Popen([*ROLLREP, "pull", "bench"], env=job.env, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            if sum(map(_bytes, filter(which, job.store.rglob("*")))) > most:
                child.kill()
                break
            time.sleep(0.01)
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError(f"a pull was to be killed, and ended with {child.returncode}")


def _bytes(path: Path) -> int:
    """0 where it has gone meanwhile, as files of a pull do."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _glance(path: Path) -> tuple[int, ...]:
    with _open(path) as db:
        found: tuple[int, ...] = db.execute("SELECT n, (SELECT min(id) FROM account), (SELECT max(id) FROM account)"
                                            " FROM marker").fetchone()  # fmt: skip
    return found


@contextlib.contextmanager
def _looking(mirror: Path, seen: set[tuple[int, ...]]) -> Iterator[None]:
    """A process of its own that reads the mirror twenty times a second: what it saw is put into `seen`."""
    look = (
        "import sqlite3, sys, time\n"
        "db, seen = sqlite3.connect(sys.argv[1], timeout=30), set()\n"
        "while True:\n"
        "    row = db.execute(sys.argv[2]).fetchone()\n"
        "    if row not in seen:\n"
        "        print(*row, flush=True)\n"
        "    seen.add(row)\n"
        "    time.sleep(0.05)\n"
    )
    sql = "SELECT n, (SELECT min(id) FROM account), (SELECT max(id) FROM account) FROM marker"
    with subprocess.Popen([sys.executable, "-c", look, str(mirror), sql], stdout=subprocess.PIPE, text=True) as child:
        try:
            yield
            time.sleep(0.2)
        finally:
            child.terminate()
        assert child.stdout is not None
        seen.update(tuple(map(int, line.split())) for line in child.stdout)
    if child.returncode != -signal.SIGTERM:
        raise RuntimeError(f"the reader of the mirror ended with {child.returncode}")


def thousand_tables(stage: Stage) -> Iterator[Figure]:
    few, many = stage.pick(100, 10), stage.pick(1000, 100)
    taken = [dict(_of_tables(stage, count)) for count in (few, many)]
    for what, took in taken[1].items():
        yield Figure(f"{many:,} tables: {what}", [took.seconds], "s")
        # Linear at most: each command begins with some 0.2 s that no table costs.
        ratio = took.seconds / taken[0][what].seconds
        yield Figure(f"{many:,} tables: {what}, against {few}", [ratio], at_most=many / few)
    yield from _highest(f"{many:,} tables", taken[1])


def _highest(size: str, taken: Mapping[str, Took]) -> Iterator[Figure]:
    """The highest peaks of several commands, and whose they are."""
    here = max(taken, key=lambda what: taken[what].peak_mb)
    yield Figure(f"{size}: highest peak memory ({here})", [taken[here].peak_mb], "MB", at_most=MOST_MB)
    there = max(taken, key=lambda what: taken[what].source_mb)
    yield Figure(f"{size}: highest peak memory, source ({there})", [taken[there].source_mb], "MB", at_most=MOST_MB)


def _of_tables(stage: Stage, count: int) -> Iterator[tuple[str, Took]]:
    job = Job(stage, "tables", "t%")
    with _open(job.source) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        for n in range(count):
            db.execute(f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, name TEXT UNIQUE, a INTEGER, b REAL, c BLOB)")
            db.execute(f"CREATE INDEX t{n}_a ON t{n}(a)")
            db.executemany(
                f"INSERT INTO t{n} VALUES (?, ?, ?, ?, ?)", ((k, f"n{k}", k, k / 7, b"x") for k in range(10))
            )
        db.commit()
    yield "a write by a new connection, no log", _write(job, "UPDATE t1 SET a = a + 1")
    yield "install", job.run("source", "install", str(job.source))
    yield "install again", job.run("source", "install", str(job.source))
    yield "a write by a new connection", _write(job, "UPDATE t1 SET a = a + 1")
    yield "first pull", job.pull("mirror")
    yield "a pull of nothing", job.pull("up_to_date")
    yield "a pull of one operation", _after(job, ["UPDATE t1 SET a = a + 1"])
    yield "a pull of one operation in each table", _after(job, [f"UPDATE t{n} SET a = a + 1" for n in range(count)])
    yield "source status", job.run("source", "status", str(job.source))
    yield "status", job.run("status", "bench")
    yield "check", job.run("check", "bench")
    with _open(job.source) as db:
        db.execute("ALTER TABLE t7 ADD COLUMN d TEXT")
        db.execute("UPDATE t7 SET d = 'new'")
        db.commit()
    yield "a pull after a migration of one table", job.pull()
    job.require_same(job.mirror)
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('ALTER TABLE t8 ADD COLUMN d TEXT')"
    migration = [sys.executable, "-c", script, str(job.source)]
    yield "source migrate, one table", job.run("source", "migrate", str(job.source), "--", *migration)
    yield "the pull after it", job.pull()
    yield "verify --against-source", job.run("verify", "bench", "--against-source")
    restored = job.folder / "restored.db"
    yield "restore of the latest", job.run("restore", "bench", "--output", str(restored))
    job.require_same(restored)
    restored.unlink()
    yield "restore of the first point", job.run("restore", "bench", "--at", "point:1", "--output", str(restored))
    yield "diff of the first and the last point", job.run("diff", "bench", "point:1", "latest")
    shutil.rmtree(job.folder)


def _write(job: Job, *statements: str) -> Took:
    """By a connection of its own, which has to read the whole schema first."""
    script = (
        "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\nfor sql in sys.argv[2:]: db.execute(sql)\ndb.commit()"
    )
    used = processes.run([sys.executable, "-c", script, str(job.source), *statements], peaks=True, children=False)
    return Took(used.wall_s, used.peaks[0] / 1e6)


def _after(job: Job, statements: Sequence[str]) -> Took:
    with _open(job.source) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    took = job.pull("resume")
    job.require_same(job.mirror)
    return took


def many_columns(stage: Stage) -> Iterator[Figure]:
    count = stage.pick(20_000, 3000)
    made: dict[int, tuple[Columns, Columns]] = {}
    for width in (10, 200, 1000):
        alone, logged = (_columns(stage, width, count, log=log) for log in (False, True))
        made[width] = alone, logged
        for what, cpu in logged.cpu.items():
            added = (cpu - alone.cpu[what]) / count * 1e6
            yield Figure(f"{width:,} columns, {what}: CPU that the log adds", [added], "us/operation")
            yield Figure(f"{width:,} columns, {what}: CPU, log against none", [cpu / alone.cpu[what]])
        yield Figure(f"{width:,} columns: peak memory, application", [logged.peak_mb], "MB", at_most=MOST_MB)
        for name, took in logged.took.items():
            yield from took_figures(f"{width:,} columns: {name}, {2 * count:,} operations", took)
    for which, place in (("no log", 0), ("log", 1)):
        for what in ("insert", "update"):
            ratio = made[200][place].cpu[what] / made[10][place].cpu[what]
            yield Figure(f"{what}, {which}: CPU, 200 columns against 10 with the same bytes", [ratio])


@dataclasses.dataclass(frozen=True)
class Columns:
    cpu: dict[str, float]
    peak_mb: float
    took: dict[str, Took]


def _columns(stage: Stage, width: int, count: int, *, log: bool) -> Columns:
    job = Job(stage, "columns", "wide")
    with _open(job.source) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        names = ", ".join(f"c{n} TEXT" for n in range(width))
        db.execute(f"CREATE TABLE wide(id INTEGER PRIMARY KEY, {names})")
    took: dict[str, Took] = {}
    if log:
        rollrep("source", "install", str(job.source), *KEEP_ALL)
        job.application("columns", "--table", "wide", "--count", "10")
        job.pull("mirror")
    told = job.application("columns", "--table", "wide", "--count", str(count))
    if log:
        took["pull"] = job.pull("resume")
        job.require_same(job.mirror)
        took["diff"] = job.run("diff", "bench", "point:1", "latest")
        restored = job.folder / "restored.db"
        took["restore"] = job.run("restore", "bench", "--at", "point:2", "--output", str(restored))
    shutil.rmtree(job.folder)
    cpu = {"insert": told["insert_cpu_s"], "update": told["update_cpu_s"]}
    return Columns(cpu, told["peak_bytes"] / 1e6, took)


CASES: dict[str, Callable[[Stage], Iterator[Figure]]] = {
    "1,000 tables": thousand_tables,
    "200 columns": many_columns,
    "2 GB transaction": one_transaction,
    "10 GB source": ten_gigabytes,
    "100M operations": many_operations,
}


def dbhash(path: Path, tables: str) -> str:
    """SQLite's own hash of the rows of the tables that are LIKE `tables`.  Raises RuntimeError where there are none."""
    program = str(apsw.sqlite_extra.path("sqlite3_dbhash"))
    command = [program, "--like", tables, "--without-schema", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    if found == hashlib.sha1(b"").hexdigest():
        raise RuntimeError(f"{path} has no rows in tables like {tables!r}")
    return found


def _make_accounts(path: Path, rows: int) -> None:
    with _open(path) as db:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        for statement in workload.SCHEMA:
            if "INDEX" not in statement:
                db.execute(statement)
        for first in range(1, rows + 1, ROWS_AT_A_TIME):
            db.executemany(workload.INSERT, large_app.fat_accounts(min(ROWS_AT_A_TIME, rows + 1 - first), first))
            db.commit()
        for statement in workload.SCHEMA:
            if "INDEX" in statement:
                db.execute(statement)
    settle(path)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
        yield db
