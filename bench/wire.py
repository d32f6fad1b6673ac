"""Bytes on the wire per operation: of a backlog, of a paced application, and what Litestream ships.

    bytes_received   what `pull --json` says: rollrep's own frames, before SSH
    over TCP         every byte through a relay before sshd, both ways: logins, SSH's and SFTP's own
                     messages, uploads, downloads

The paced application writes 1000 transactions per second, one row each, the mix of 60 % insert, 30 %
update, 10 % delete; the first copy of the database is not counted.
"""

from __future__ import annotations

import random
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path

from bench import litestream
from bench.loopback import Loopback, loopback
from bench.report import Figure
from bench.stage import KEEP_ALL, ROOT, Stage, add_job, application, mirror_of, pull, require_same
from bench.workload import PREFILLED, account, information_bytes, item, mean_row_bytes

RATE = 1000


def measure(stage: Stage) -> list[Figure]:
    sizes = [[make(random.Random(n), PREFILLED + n) for n in range(1000)] for make in (account, item)]
    figures = []
    for kind, name, sample, information in zip(
        ("mix", "items"), ("account", "item"), sizes, information_bytes(), strict=True
    ):
        figures += [
            Figure(f"{name}: a row, as SQLite stores it", [mean_row_bytes(sample)], "bytes"),
            Figure(f"{name}: the information in a row", [information], "bytes"),
            Figure(f"{name}: bytes_received per operation, a backlog", [_backlog(stage, kind)], "bytes", at_most=60),
        ]
    count = RATE * stage.pick(60, 12)
    with loopback(stage.folder / "sshd") as line:
        peer = _litestream(stage, line, count)
        figures.append(Figure("account: over TCP per operation, Litestream to SFTP", [peer], "bytes"))
        for every_s in (1.0, 10.0):
            received, carried = _rollrep(stage, line, count, every_s)
            told = f"a pull every {every_s:g} s"
            figures += [
                Figure(f"account: bytes_received per operation, {told}", [received], "bytes", at_most=60),
                Figure(f"account: over TCP per operation, {told}", [carried], "bytes"),
                Figure(f"account: Litestream's bytes over ours, {told}", [peer / carried], at_least=15),
            ]
    return figures


def _backlog(stage: Stage, kind: str) -> float:
    db = stage.copy(stage.with_log("roomy", *KEEP_ALL))
    config = stage.folder / f"wire-{kind}" / "rollrep.toml"
    add_job(config, db)
    pull(config)
    application(db, kind, stage.pick(200_000, 100_000), 1000, "--temp-store-memory", "--rate", "100000")
    told = pull(config)[1]
    require_same(db, mirror_of(config))
    return float(told["bytes_received"] / told["operations"])


def _rollrep(stage: Stage, line: Loopback, count: int, every_s: float) -> tuple[float, float]:
    db = stage.copy(stage.with_log("log"))
    config = stage.folder / "ssh" / "rollrep.toml"
    shutil.rmtree(config.parent, ignore_errors=True)
    config.parent.mkdir()
    serve = shlex.join(["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "rollrep", "source", "serve"])
    config.write_text(
        'store = "./rollrep-data"\n[jobs.bench]\n'
        f'source = "ssh://{line.user}@127.0.0.1:{line.port}/{db}"\n'
        f'identity = "{line.key}"\nknown_hosts = "{line.known_hosts}"\nremote_command = "{serve}"\n'
    )
    pull(config)
    before = line.bytes
    told: list[dict[str, int]] = []
    writing = threading.Thread(target=_write, args=(db, count))
    writing.start()
    due = time.monotonic()
    while writing.is_alive():
        due += every_s
        writing.join(max(0.0, due - time.monotonic()))
        told.append(pull(config)[1])
    told.append(pull(config)[1])
    require_same(db, mirror_of(config))
    operations = sum(each["operations"] for each in told)
    if operations != count:
        raise RuntimeError(f"{count} operations were written, {operations} pulled")
    return sum(each["bytes_received"] for each in told) / count, (line.bytes - before) / count


def _litestream(stage: Stage, line: Loopback, count: int) -> float:
    db = stage.copy(stage.plain())
    replica = stage.folder / "sftp-replica"
    place = litestream.over_sftp("127.0.0.1", line.port, line.user, line.key, replica)
    with litestream.replicating(db, place, replica):
        before = line.bytes
        _write(db, count)
        time.sleep(2.0)  # its interval is a second: what is left is shipped now
        shipped = line.bytes - before
    return shipped / count


def _write(db: Path, count: int) -> None:
    application(db, "mix", count, 1, "--rate", str(RATE))
