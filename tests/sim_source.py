"""The application of a run: a bank whose sum never changes, any other tables, and what was true at each commit.

    bank(id, money)  ledger(account, n, amount)     transfers write both, in one transaction
    anything else                                   statements of tests/anything.py

The witness remembers what bank and ledger were at the newest log id of each commit: a mirror that says it is at
that id must show exactly this.  A point's whole database is kept as a file, under the point's label.

Knows: SQL, the log's tables by name.  Does not know: the mirror.
"""

from __future__ import annotations

import bisect
import contextlib
from pathlib import Path
from typing import Any

import anything
import apsw
from draws import SeededDraw
from sim_disk import Disk
from sources import copy_source

from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits

ACCOUNTS = 4
SUM = 400
BANK = (
    "CREATE TABLE bank(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, money INT NOT NULL)",
    "CREATE TABLE ledger(account INT, n INT, amount INT, PRIMARY KEY(account, n)) WITHOUT ROWID",
    *(f"INSERT INTO bank VALUES ({n}, 'owner {n}', {SUM // ACCOUNTS})" for n in range(1, ACCOUNTS + 1)),
)
SHOWN = (
    "SELECT (SELECT group_concat(id || '=' || money) FROM (SELECT id, money FROM bank ORDER BY id))"
    " || ' ' || (SELECT count(*) || '/' || ifnull(sum(amount), 0) || '/' || ifnull(sum(n * amount), 0) FROM ledger)"
)
OURS = ("bank", "ledger")


class Witness:
    """What bank and ledger were at each commit, era by era: restoring a backup begins an era."""

    def __init__(self) -> None:
        self.eras: list[tuple[list[int], list[str]]] = [([], [])]

    def saw(self, log_id: int, shown: str) -> None:
        ids, all_shown = self.eras[-1]
        if ids and ids[-1] == log_id:
            all_shown[-1] = shown
        else:
            ids.append(log_id)
            all_shown.append(shown)

    def new_era(self) -> None:
        """What was true stays known; ids from here on may be used again for something else."""
        self.eras.append(([], []))

    def may_show(self, log_id: int) -> set[str]:
        """What a mirror that stands at `log_id` may show, whichever history it is of."""
        allowed = set()
        for ids, shown in self.eras:
            at = bisect.bisect_right(ids, log_id) - 1
            if at >= 0:
                allowed.add(shown[at])
        return allowed


class Source:
    """`path` and its application."""

    def __init__(self, path: Path, disk: Disk, draw: SeededDraw, said: list[str]) -> None:
        self.path = path
        self.disk = disk
        self.draw = draw
        self.said = said
        self.witness = Witness()
        self.points: dict[str, Path] = {}
        """label → the database as it was at that point"""
        self.number = 0
        self.entries = 0
        self.busy = False
        self.db: apsw.Connection = None  # type: ignore[assignment]

    def create(self, *, wal: bool, limits: Limits, tables: int) -> None:
        with self.disk.acting("app"):
            self.connect()
            self.db.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}").fetchall()
            for sql in BANK:
                self.db.execute(sql)
            names = self.draw.some(anything.TABLE_NAMES, tables, tables)
            for number, name in enumerate(names):
                self.attempt(anything.create_table(self.draw, name, names[:number]))
            if self.draw.chance(3) and self.tables():
                self.attempt(anything.create_index(self.draw, self.draw.pick(self.tables()), "index 0"))
            self.install(limits)
            self.saw()

    def connect(self) -> None:
        self.db = apsw.Connection(str(self.path))
        with contextlib.suppress(apsw.Error):  # it may be damaged
            self.db.execute("PRAGMA synchronous = OFF")

    def install(self, limits: Limits, exclude: tuple[str, ...] = (), path: Path | None = None) -> None:
        with contextlib.closing(open_source(path or self.path)) as db:
            install(db, limits, exclude=exclude)

    def close(self) -> None:
        with self.disk.acting("app"):
            self.db.close()

    def tables(self) -> list[anything.Table]:
        return [table for table in anything.read_tables(self.db) if table.name not in OURS]

    def head(self) -> int:
        return int(self.db.execute("SELECT ifnull(max(id), 0) FROM _rollrep_log").fetchone()[0])  # type: ignore[index]

    def newest_point(self) -> str:
        """The label of the point that the newest log row is; "" where it is none."""
        with contextlib.suppress(apsw.Error):
            row = self.db.execute("SELECT iif(op = 3, v0, '') FROM _rollrep_log ORDER BY id DESC LIMIT 1").fetchone()
            return str(row[0]) if row else ""
        return ""

    def shown(self) -> str:
        """What bank and ledger are now."""
        return str(self.db.execute(SHOWN).fetchone()[0])  # type: ignore[index]

    def new_era(self) -> None:
        """From here on log ids may mean something else."""
        self.witness.new_era()
        self.saw()

    def saw(self) -> None:
        """Remembers what is committed now, for the witness."""
        with contextlib.suppress(apsw.Error):
            log_id, shown = self.db.execute(f"SELECT (SELECT max(id) FROM _rollrep_log), ({SHOWN})").fetchone()  # type: ignore[misc]
            if log_id is not None:
                self.witness.saw(log_id, shown)

    def attempt(self, sql: str) -> bool:
        """Whether it worked; statements of applications often do not."""
        try:
            for row in self.db.execute(sql):
                del row
        except UnicodeDecodeError:
            return True
        except apsw.Error:
            return False
        return True

    # what it does

    def work(self, *, transfers: int = 1, statements: int = 2) -> None:
        """One transaction: transfers, some other statements; committed, or rolled back."""
        if self.busy:
            return
        self.busy = True
        try:
            with self.disk.acting("app"):
                self._work(transfers, statements)
        finally:
            self.busy = False

    def _work(self, transfers: int, statements: int) -> None:
        draw = self.draw
        if not self.attempt("BEGIN IMMEDIATE"):
            return
        if not all(self.transfer() for _ in range(transfers)):
            self.attempt("ROLLBACK")
            return
        if draw.chance(4):
            self.attempt("SAVEPOINT s")
            self.transfer()
            self.attempt("UPDATE bank SET money = 0")
            self.attempt("ROLLBACK TO s")
        tables = self.tables() if statements else []
        for _ in range(statements if tables else 0):
            self.attempt(anything.statement(draw, tables))
            if not self.db.in_transaction:
                break
        if self.db.in_transaction and not self.attempt("ROLLBACK" if draw.chance(6) else "COMMIT"):
            self.attempt("ROLLBACK")
        self.saw()

    def transfer(self) -> bool:
        """Whether all its statements worked; else it is only begun, and the transaction, if it is still there, to undo."""
        one, other = self.draw.some(range(1, ACCOUNTS + 1), 2, 2)
        amount = self.draw.count(1, 30)
        self.entries += 2
        replacing = f"REPLACE INTO bank SELECT id, owner, money + {amount} FROM bank WHERE id = {other}"
        forgetting = f"DELETE FROM ledger WHERE n < {self.entries - 20}"
        statements = [
            f"UPDATE bank SET money = money - {amount} WHERE id = {one}",
            f"INSERT INTO ledger VALUES ({one}, {self.entries - 1}, -{amount}), ({other}, {self.entries}, {amount})",
            *[forgetting] * self.draw.chance(5),
            replacing if self.draw.chance(5) else f"UPDATE bank SET money = money + {amount} WHERE id = {other}",
        ]
        return all(self.db.in_transaction and self.attempt(sql) for sql in statements)

    def burst(self, rows: int) -> None:
        """So many log rows in small transactions."""
        if self.busy:
            return
        with self.disk.acting("app"):
            until = self.head() + rows
            for _ in range(rows):
                if self.head() >= until:
                    break
                self.work(transfers=6, statements=0)

    def point(self) -> str:
        """A consistency point, and the database as it was then."""
        self.number += 1
        label = f"p{self.number}"
        with self.disk.acting("app"):
            if self.busy or not self.attempt(f"INSERT INTO _rollrep_point(label) VALUES ('{label}')"):
                return ""
            kept = self.path.with_name(f"{label}.kept")
            copy_source(self.path, kept)
            self.points[label] = kept
            self.saw()
        return label

    def migrate(self) -> None:
        if self.busy:
            return
        with self.disk.acting("app"):
            tables = self.tables()
            self.number += 1
            if self.draw.chance(5) or not tables:
                statements = REBUILD
            else:
                statements = [
                    sql for sql in anything.migration(self.draw, tables, self.number) if not sql.startswith("PRAGMA")
                ]
            self.said.append(f"  migrate: {'; '.join(statements)[:300]}")
            for sql in statements:
                # A view that is broken already makes the RENAME fail; the bank itself must not go by that.
                if not self.attempt(sql) and statements is REBUILD:
                    break
            if self.db.in_transaction:
                self.attempt("ROLLBACK")
            self.saw()

    def vacuum(self) -> None:
        if not self.busy:
            with self.disk.acting("app"):
                self.attempt("VACUUM")

    # what happens to its file

    def backup(self) -> Path:
        """A copy as a backup program makes it."""
        self.number += 1
        kept = self.path.with_name(f"backup{self.number}")
        with self.disk.acting("app"):
            copy_source(self.path, kept)
        return kept

    def beside(self, ending: str) -> Path:
        return self.path.with_name(self.path.name + ending)

    def replace_by(self, kept: Path | dict[str, bytes]) -> None:
        """The file, and those beside it by their endings, are others from now on; a new era for the witness."""
        files = kept if isinstance(kept, dict) else {"": kept.read_bytes()}
        with self.disk.acting("app"):
            self.db.close()
            for ending in ("", "-wal", "-shm", "-journal"):
                self.beside(ending).unlink(missing_ok=True)
            for ending, content in files.items():
                self.beside(ending).write_bytes(content)
            self.connect()
            self.new_era()


REBUILD = [
    "BEGIN",
    "CREATE TABLE bank_new(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, money INT NOT NULL)",
    "INSERT INTO bank_new SELECT id, owner, money FROM bank",
    "DROP TABLE bank",
    "ALTER TABLE bank_new RENAME TO bank",
    "COMMIT",
]
"""how tools change a table, unseen by any trigger"""


def sum_of(shown: str) -> Any:
    """The money in what SHOWN says.

    >>> sum_of("1=90,2=110 3/0/0")
    200.0
    """
    return sum(float(each.partition("=")[2]) for each in shown.partition(" ")[0].split(","))
