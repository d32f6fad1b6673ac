"""Sources for tests: applications as processes, and `serve` within reach of a test's hands."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import apsw

from rollrep.core.errors import Temporary
from rollrep.destination.pull import Outcome, Wishes, pull
from rollrep.destination.store import Store
from rollrep.source.serve import serve
from rollrep.wire.session import Session


class Application:
    """`app_worker.py` as a process."""

    def __init__(self, db: Path, schema: str, seed: int, keep: Path, points_every: int = 7) -> None:
        script = Path(__file__).with_name("app_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, script, db, schema, str(seed), str(points_every), keep],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._heard("ready")

    def start(self, transactions: int) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"run {transactions}\n")
        self._process.stdin.flush()

    def wait(self) -> None:
        self._heard("ok")

    def run(self, transactions: int) -> None:
        self.start(transactions)
        self.wait()

    def close(self) -> None:
        self._process.communicate("quit\n", timeout=30)

    def _heard(self, word: str) -> None:
        assert self._process.stdout
        heard = self._process.stdout.readline().strip()
        assert heard == word, f"the application said {heard!r}"


class InProcess:
    """A stream to `serve` in a thread of this process; `cut_after` ends it after so many bytes."""

    def __init__(self, databases: dict[str, Path] | None = None, cut_after: int | None = None) -> None:
        from_client, to_server = os.pipe()
        from_server, to_client = os.pipe()
        self._out: IO[bytes] = os.fdopen(to_server, "wb", buffering=0)
        self._in: IO[bytes] = os.fdopen(from_server, "rb", buffering=0)
        self._left = cut_after
        self._thread = threading.Thread(
            target=self._serve, args=(os.fdopen(from_client, "rb"), os.fdopen(to_client, "wb"), databases)
        )
        self._thread.start()

    @staticmethod
    def _serve(stdin: IO[bytes], stdout: IO[bytes], databases: dict[str, Path] | None) -> None:
        with contextlib.suppress(BrokenPipeError), stdin, stdout:
            serve(stdin, stdout, databases)  # type: ignore[arg-type]

    def read(self, limit: int) -> bytes:
        if self._left is not None:
            limit = min(limit, self._left)
            if limit == 0:
                return b""
        data = self._in.read(limit)
        if self._left is not None:
            self._left -= len(data)
        return data

    def write(self, data: bytes) -> None:
        try:
            self._out.write(data)
        except BrokenPipeError as error:
            raise Temporary("the other side is gone") from error

    def close(self) -> None:
        self._out.close()
        self._in.close()
        self._thread.join(30)
        assert not self._thread.is_alive(), "serve did not end with its stream"

    def diagnosis(self) -> str:
        return ""

    def exit_status(self) -> int | None:
        return None


@contextlib.contextmanager
def session(cut_after: int | None = None) -> Iterator[Session]:
    stream = InProcess(cut_after=cut_after)
    try:
        yield Session(stream, "the source")
    finally:
        stream.close()


def pull_once(
    store: Store,
    db: Path,
    *,
    cut_after: int | None = None,
    snapshot_s: float = 3600.0,
    mirror: bool = False,
    accept_source: bool = False,
) -> Outcome:
    """One pull, as a job would do it."""
    store.create()
    with session(cut_after) as talk, store.locked():
        wishes = Wishes(str(db), snapshot_s=snapshot_s, mirror=mirror, accept_source=accept_source)
        return pull(store, talk, wishes, lambda _table, _rows: None)


def recompute(copy: Path) -> None:
    """STORED generated columns of an oracle as our SQLite computes them.

    Their values are computed where a row is written, so the mirror's are our SQLite's; the application's may
    be older and, say, write a REAL with fewer digits.
    """
    with contextlib.closing(apsw.Connection(str(copy))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        generated = "SELECT DISTINCT t.name FROM pragma_table_list t, pragma_table_xinfo(t.name) c WHERE c.hidden = 3"
        for (table,) in db.execute(generated).fetchall():
            quoted = table.replace('"', '""')
            # All columns but the generated ones may be the key.
            plain = "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY pk > 0"
            (column, *_) = (name for (name,) in db.execute(plain, (table,)).fetchall())
            column = column.replace('"', '""')
            db.execute(f'UPDATE "{quoted}" SET "{column}" = "{column}"')


def copy_source(db: Path, target: Path) -> None:
    """An oracle: the source as it is now, by SQLite's backup in a read transaction."""
    with (
        contextlib.closing(apsw.Connection(str(db), flags=apsw.SQLITE_OPEN_READWRITE)) as con,
        contextlib.closing(apsw.Connection(str(target))) as copy,
    ):
        con.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        con.execute("BEGIN")
        con.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with copy.backup("main", con, "main") as backup:
            backup.step(-1)
        con.execute("COMMIT")
