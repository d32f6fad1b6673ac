"""Typing what a page shows: its blocks, the commands in them with what they print, and a person who types them.

block of commands      one command a line; "# ..." behind it is a comment
"$ command" and lines  the lines are what it prints
`rollrep ...`          a command inside a sentence
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOO_YOUNG = ("--at '2h ago'", "--at yesterday", "--at 'yesterday 14:30'")
"""a store of a few seconds has nothing of then, and must say so: exit code 17"""


def blocks_of(page: str) -> list[tuple[str, str]]:
    """(kind, text) of each fenced block of a page."""
    text = (ROOT / page).read_text()
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands_of(block: str) -> list[tuple[str, str | None]]:
    """Each command of a block without its comment, and the lines that it shows; None where it shows none."""
    found: list[tuple[str, str | None]] = []
    shows = any(line.startswith("$ ") for line in block.splitlines())
    for line in block.splitlines():
        command = re.sub(r"\s+# .*", "", line.removeprefix("$ "))
        if shows and not line.startswith("$ "):
            before, said = found.pop()
            found.append((before, f"{said}{line}\n"))
        else:
            found.append((command, "" if shows else None))
    return [(command, said if said is None else said.rstrip("\n")) for command, said in found]


class Person:
    """Types commands in a folder of their own; `sqlite3` is the shell inside apsw's wheel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "srv" / "app.db"
        self.db.parent.mkdir()
        with sqlite3.connect(self.db) as db:
            db.executescript(
                "PRAGMA journal_mode = WAL; CREATE TABLE account(id INTEGER PRIMARY KEY, owner UNIQUE, balance);"
                "CREATE TABLE invoices(id INTEGER PRIMARY KEY); CREATE TABLE stock(n);"
                "INSERT INTO account VALUES (1, 'ann', 100), (2, 'bob', 1), (3, 'cy', NULL)"
            )
        (folder / "app.db").symlink_to(self.db)
        tools = folder / "bin"
        tools.mkdir()
        (tools / "sqlite3").write_text(f'#!/bin/sh\nexec {sys.executable} -m apsw "$@"\n')
        (tools / "sqlite3").chmod(0o700)
        (folder / ".ssh").mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROLLREP", "XDG", "SSH"))}
        path = f"{tools}:{Path(sys.executable).parent}:{kept['PATH']}"
        self.environment = {**kept, "PATH": path, "HOME": str(folder), "TZ": "UTC"}

    def here(self, command: str) -> str:
        """The command with this place's names of machine and file in it."""
        command = re.sub(r"ssh://\S+ --remote-command '[^']*'", f"local:{self.db}", command)
        command = command.replace("/srv/shop/app.db", str(self.db)).replace(" rollrep.pub", " ~/.ssh/rollrep.pub")
        return command.replace("--output app.db", "--output newest.db") if "restore" in command else command

    def type(self, command: str) -> str:
        """What it printed to stdout.  It must end with 0."""
        done = subprocess.run(
            ["bash", "-c", self.here(command)], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
        if "restore" in command:
            (self.folder / "then.db").unlink(missing_ok=True)
        if any(moment in command for moment in TOO_YOUNG):
            assert (done.returncode, "before the first point" in done.stderr) == (17, True), (command, done.stderr)
        else:
            assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def write(self, *statements: str) -> None:
        with sqlite3.connect(self.db) as db:
            for statement in statements:
                db.execute(statement)
