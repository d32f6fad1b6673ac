"""An application in a process of its own: runs transactions when told, and keeps what each point was.

    python app_worker.py DB SCHEMA SEED POINTS_EVERY KEEP_FOLDER
    stdin:   run N | quit          stdout: ready | ok

After a transaction that wrote a point, the whole database is copied to KEEP/<log id>.db, before any other
worker may write: the test's oracle.  A lock file stands between workers, and between them and nobody else.
"""

from __future__ import annotations

import fcntl
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))

from workload import Workload


def main() -> None:
    path, schema, seed, points_every, keep = sys.argv[1:]
    folder = Path(keep)
    # An AFTER trigger of ours in a rollback-journal database still has to wait for readers.
    with closing(sqlite3.connect(path, timeout=30)) as con, (folder / "lock").open("w") as lock:
        work = Workload(con, int(seed), points_every=int(points_every), schema=schema)
        print("ready", flush=True)
        for line in sys.stdin:
            verb, _, count = line.strip().partition(" ")
            if verb == "quit":
                break
            for _ in range(int(count)):
                fcntl.flock(lock, fcntl.LOCK_EX)
                record = work.transaction()
                if record.point and record.outcome == "commit":
                    remember(con, folder)
                fcntl.flock(lock, fcntl.LOCK_UN)
            print("ok", flush=True)


def remember(con: sqlite3.Connection, folder: Path) -> None:
    (newest,) = con.execute("SELECT max(id) FROM _rollrep_point").fetchone()
    with closing(sqlite3.connect(folder / f"{newest}.db")) as copy:
        con.backup(copy)


if __name__ == "__main__":
    main()
