"""A day of hourly snapshots, what it takes to keep and to give back; and how long a question to the past takes.

    hour 0      the database as it is, 100 MB
    hour 1..24  1 % of its rows are changed at random, 50 rows per transaction; then
                  rollrep pull            its default: a snapshot each hour
                  restic, borg            a backup of a copy (SQLite's backup)
                  Litestream              has shipped it by itself

The hours are hours of the source's time: where application and source run, SQLite's clock is shifted
(shifted/sitecustomize.py), and nothing in rollrep knows of it.  The peers' programs run by the present clock.  The
same changes are made to two databases, one with a log and one with Litestream.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from bench import litestream, processes, workload
from bench.loopback import loopback
from bench.peers import Borg, Restic, folder_bytes, require_programs
from bench.report import Figure
from bench.stage import (
    KEEP_ALL,
    ROOT,
    Stage,
    add_job,
    application,
    application_command,
    environment,
    pull,
    rollrep,
    settle,
)

HOURS, QUICK_HOURS = 24, 8
SETTLING_S = 1.5
"""Litestream ships once a second"""
QUESTION = "SELECT count(*), sum(balance) FROM account WHERE id % 1000 = 7"
ROLLREP = (sys.executable, "-m", "rollrep")
Sums = tuple[Any, ...]


@dataclasses.dataclass
class Day:
    """What was done, and what every hour must give back."""

    config: Path
    source: Path
    plain: Path
    sums: list[Sums]

    @property
    def hours(self) -> int:
        return len(self.sums) - 1

    @property
    def store(self) -> Path:
        return self.config.parent / "rollrep-data" / "bench"


def measure(stage: Stage) -> list[Figure]:
    wanted = os.environ.get("TIME_TRAVEL", "")
    figures = [] if wanted == "history" else _day(stage, with_peers=wanted != "day")
    return figures if wanted == "day" else figures + _long_history(stage)


def _day(stage: Stage, *, with_peers: bool) -> list[Figure]:
    rows = stage.pick(515_000, 50_000)
    folder = stage.folder / "day"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if with_peers:
        require_programs()
    day = _begin(stage, folder, rows)
    peers: tuple[Restic | Borg, ...] = (Restic(folder), Borg(folder)) if with_peers else ()
    replica = folder / "litestream"
    with litestream.replicating(day.plain, litestream.on_file(replica), replica):
        for hour in range(1, stage.pick(HOURS, QUICK_HOURS) + 1):
            _hour(day, peers, folder / "copy.db", hour, rows)
        figures = _stored(day, peers, replica)
        figures += _restores(stage, day, peers, replica, folder)
    figures += _questions(stage, day)
    shutil.rmtree(folder)
    return figures


def _begin(stage: Stage, folder: Path, rows: int) -> Day:
    plain, source = folder / "plain.db", folder / "logged.db"
    with contextlib.closing(sqlite3.connect(plain)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for statement in workload.SCHEMA:
            db.execute(statement)
        db.executemany(workload.INSERT, workload.accounts(rows, seed=0))
        db.commit()
    settle(plain)
    shutil.copy(plain, source)
    day = Day(folder / "job" / "rollrep.toml", source, plain, [_sums(plain)])
    add_job(day.config, source)
    _at_hour(0, [*ROLLREP, "source", "install", str(source), *KEEP_ALL])
    _at_hour(0, [*ROLLREP, "pull", "bench"], day.config)
    return day


def _hour(day: Day, peers: Sequence[Restic | Borg], copy: Path, hour: int, rows: int) -> None:
    changes = ("update", rows // 100, 50, "--rows", str(rows), "--seed", str(hour))
    _at_hour(hour, application_command(day.source, *changes, "--driver", "apsw"))
    _at_hour(hour, [*ROLLREP, "pull", "bench"], day.config)
    application(day.plain, *changes)
    copy.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(day.plain)) as db, contextlib.closing(sqlite3.connect(copy)) as to:
        db.backup(to)
    for peer in peers:
        peer.backup(copy, hour)
    time.sleep(SETTLING_S)
    day.sums.append(_sums(day.plain))


def _at_hour(hour: int, command: Sequence[str], config: Path | None = None) -> None:
    # A minute more, so that an hour has surely passed since the pull before.
    shifted = {"BENCH_SHIFT_S": str((hour - HOURS) * 3660), "PYTHONPATH": f"{ROOT / 'bench' / 'shifted'}:{ROOT}"}
    processes.run(command, env=environment(**shifted, **({"ROLLREP_CONFIG": str(config)} if config else {})))


def _sums(path: Path) -> Sums:
    query = "SELECT count(*), sum(balance * (id % 1009)), sum(length(note) * (id % 1013)), sum(score) FROM account"
    with contextlib.closing(sqlite3.connect(path)) as db:
        found: Sums = db.execute(query).fetchone()
    return found


def _require(path: Path, sums: Sums) -> None:
    """A restore of something else would be a fast one."""
    if _sums(path) != sums:
        raise RuntimeError(f"{path} is not what the source was at that hour")


def _stored(day: Day, peers: Sequence[Restic | Borg], replica: Path) -> list[Figure]:
    packed = len(zstandard.ZstdCompressor(level=3).compress(day.plain.read_bytes()))
    living = sum(path.stat().st_size for path in day.store.glob("mirror.db*"))
    past = folder_bytes(day.store) - living
    figures = [
        Figure("the database", [day.plain.stat().st_size / 1e6], "MB"),
        Figure("one copy of it, zstd level 3", [packed / 1e6], "MB"),
        Figure("stored of the day, over that copy: rollrep", [past / packed], at_most=1.35),
        Figure("  and with the mirror, which is a database to be opened", [(past + living) / packed]),
    ]
    figures += [
        Figure(f"stored of the day, over that copy: {peer.name}", [folder_bytes(peer.repository) / packed])
        for peer in peers
    ]
    return [*figures, Figure("stored of the day, over that copy: Litestream", [folder_bytes(replica) / packed])]


def _points(day: Day) -> list[int]:
    """The number of the point of each hour."""
    found = json.loads(rollrep("points", "bench", "--json", config=day.config).stdout)["points"]
    pulled = [each["point"] for each in found if each["kind"] == "pull"]
    if len(pulled) != len(day.sums):
        raise RuntimeError(f"{len(day.sums)} pulls left {len(pulled)} points")
    return pulled


def _restores(stage: Stage, day: Day, peers: Sequence[Restic | Borg], replica: Path, folder: Path) -> list[Figure]:
    points, output = _points(day), folder / "restored.db"
    hours = range(0, day.hours, stage.pick(1, 3))
    newest, peaks, by_file, any_hour, hour_peaks = [], [], [], [], []
    peer_times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(stage.pick(5, 2)):
        by_file.append(_litestream(day, output, folder))
        used = rollrep("restore", "bench", "--force", "--output", str(output), config=day.config, peaks=True)
        _require(output, day.sums[-1])
        newest.append(used.wall_s)
        peaks.append(max(used.peaks) / 1e6)
    for peer in peers:
        used = peer.restore(folder / "copy.db", folder / "from-peer")
        _require(folder / "from-peer" / str(folder / "copy.db").lstrip("/"), day.sums[-1])
        peer_times[peer.name].append(used.wall_s)
        shutil.rmtree(folder / "from-peer")
    for hour in hours:
        at = f"point:{points[hour]}"
        used = rollrep(
            "restore", "bench", "--at", at, "--force", "--output", str(output), config=day.config, peaks=True
        )
        _require(output, day.sums[hour])
        any_hour.append(used.wall_s)
        hour_peaks.append(max(used.peaks) / 1e6)
    verified = rollrep("restore", "bench", "--verify", "--force", "--output", str(output), config=day.config).wall_s
    with loopback(folder / "sshd") as line:
        place = litestream.over_sftp("127.0.0.1", line.port, line.user, line.key, replica)
        over_sftp = [_litestream(day, output, folder, place) for _ in range(stage.pick(3, 1))]
    ours, theirs = statistics.median(newest), statistics.median(by_file)
    return [
        Figure("restore of the newest point: Litestream, from a file replica", by_file, "s"),
        Figure("restore of the newest point: Litestream, over SFTP", over_sftp, "s"),
        *(Figure(f"restore of the newest point: {name}", times, "s") for name, times in peer_times.items()),
        Figure("restore of the newest point: rollrep", newest, "s"),
        Figure("  over Litestream's from a file", [a / b for a, b in zip(newest, by_file, strict=True)], at_most=1 / 3),
        Figure("  over Litestream's over SFTP", [ours / each for each in over_sftp], at_most=0.1),
        Figure("  with --verify", [verified], "s"),
        Figure("restore of every hour: rollrep", any_hour, "s"),
        Figure("  the slowest hour, over Litestream's newest from a file", [max(any_hour) / theirs], at_most=1),
        Figure("peak memory of a restore, the largest", [max(peaks + hour_peaks)], "MB", at_most=150),
    ]


def _litestream(day: Day, output: Path, folder: Path, place: str | None = None) -> float:
    """Seconds of a restore; `place` is another way to the same replica."""
    config = day.plain.with_name("litestream.yml")
    if place is not None:
        config = folder / "sftp.yml"
        config.write_text(f"dbs:\n  - path: {day.plain}\n    replica:\n{place}")
    for path in output.parent.glob(f"{output.name}*"):
        path.unlink()
    found = litestream.program()
    assert found is not None, "it replicates already"
    used = processes.run([found, "restore", "-config", str(config), "-o", str(output), str(day.plain)])
    _require(output, day.sums[-1])
    return used.wall_s


def _questions(stage: Stage, day: Day) -> list[Figure]:
    points = _points(day)
    first, last = f"point:{points[4]}", f"point:{points[5]}"
    plain = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    output = day.config.parent / "hour.db"
    rollrep("restore", "bench", "--at", first, "--output", str(output), config=day.config)
    diff = ("diff", "bench", first, last, "--json")
    cold = rollrep(*diff, config=day.config).wall_s
    over, again, history = [], [], []
    for _ in range(stage.pick(7, 3)):
        theirs = processes.run([sys.executable, "-c", plain, str(output), QUESTION]).wall_s
        ours = rollrep("query", "bench", "--at", first, QUESTION, config=day.config).wall_s
        over.append((ours - theirs) * 1000)
        again.append(rollrep(*diff, config=day.config).wall_s)
        history.append(rollrep("history", "bench", "account", "4711", config=day.config).wall_s)
    return [
        Figure("query --at of an hour asked before, beyond Python with sqlite3", over, "ms", at_most=50),
        Figure("diff of two adjacent hours, asked for the first time", [cold], "s"),
        Figure("diff of two adjacent hours", again, "s", at_most=1),
        Figure("history of a row over the day", history, "s", at_most=1),
    ]


def _long_history(stage: Stage) -> list[Figure]:
    """A row's history where the archive holds millions of operations."""
    rounds, each = 10, stage.pick(1_000_000, 30_000)
    db = stage.copy(stage.with_log("roomy", *KEEP_ALL))
    config = stage.folder / "long" / "rollrep.toml"
    add_job(config, db)
    pull(config)
    for seed in range(rounds):
        application(db, "update", each, 1000, "--temp-store-memory", "--seed", str(100 + seed))
        pull(config)
    times = [
        rollrep("history", "bench", "account", str(4711 + n), config=config).wall_s for n in range(stage.pick(6, 3))
    ]
    what = f"history of a row over {rounds * each:,} archived operations"
    return [Figure(f"{what}, the first question", times[:1], "s"), Figure(what, times[1:], "s", at_most=1)]
