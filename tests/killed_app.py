"""An application that is killed with -9 while it writes: by SQLite's own steps, so also inside of one statement.

    python killed_app.py DB SEED STEPS

It begins transactions of all kinds, and dies at the STEPSth instruction of SQLite's: between the row and its log row,
between two triggers, in a rollback, in a COMMIT's bookkeeping.  With STEPS 0 nobody counts, and the parent kills it.
A small cache puts pages into the file before their transaction is over, as large transactions do.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import sys

SCHEMA = """
CREATE TABLE account(id INTEGER PRIMARY KEY, owner TEXT UNIQUE, balance REAL, note TEXT);
CREATE TABLE entry(account INTEGER REFERENCES account ON DELETE CASCADE, amount REAL, text BLOB);
CREATE INDEX entry_account ON entry(account);
"""
STATEMENTS = (
    "INSERT OR REPLACE INTO account VALUES ({row}, 'owner {other}', {amount}, hex(zeroblob(900)))",
    "INSERT INTO account VALUES ({row}, 'owner {row}', 0, NULL) ON CONFLICT (id) DO UPDATE SET balance = balance + 1",
    "UPDATE account SET balance = balance + {amount}, note = hex(randomblob(600)) WHERE id % 5 = {row} % 5",
    "UPDATE OR REPLACE account SET id = {other} WHERE id = {row}",
    "INSERT INTO entry SELECT id, {amount}, randomblob(2000) FROM account ORDER BY random() LIMIT 9",
    "DELETE FROM account WHERE id = {row}",
    "DELETE FROM entry WHERE rowid % 7 = {row} % 7",
)


def main() -> None:
    path, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    dice = random.Random(seed)
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA foreign_keys = ON")
    if dice.random() < 0.5:
        db.execute("PRAGMA cache_size = 10")
    left = steps

    def step() -> int:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    print("ready", flush=True)
    if steps:
        db.set_progress_handler(step, 1)
    while True:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(dice.randint(1, 12)):
            row, other = dice.randint(1, 60), dice.randint(1, 60)
            if dice.random() < 0.2:
                db.execute("SAVEPOINT s")
            with contextlib.suppress(sqlite3.IntegrityError):  # it was taken back, whole
                db.execute(dice.choice(STATEMENTS).format(row=row, other=other, amount=dice.randint(1, 99)))
            if db.in_transaction and dice.random() < 0.1:
                db.execute("SAVEPOINT s").execute("DELETE FROM entry").execute("ROLLBACK TO s")
        db.execute("ROLLBACK" if dice.random() < 0.2 else "COMMIT")


if __name__ == "__main__":
    main()
