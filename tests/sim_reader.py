"""Somebody who reads the mirror all the time, and sees only what was true.

Before every step of a pull: has mirror.db changed?  Then it must show, in one read transaction, exactly what the
source was at the log id that it says it is at; the sum of the money is what it always was; and the position has
not gone back, unless the history did.

Knows: the mirror's state table by name.  Does not know: how a pull works.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import apsw
from sim_disk import Disk
from sim_source import SHOWN, SUM, Witness, sum_of


class Reader:
    def __init__(self, mirror: Path, disk: Disk, witness: Witness) -> None:
        self._path = mirror
        self._disk = disk
        self._witness = witness
        self.db: apsw.Connection | None = None
        self._file = -1
        self._version = -1
        self.position: tuple[int, str, int] | None = None
        self.paused = False
        """while the mirror is known to be what it should not be"""
        self.states = 0

    def look(self) -> None:
        """Raises AssertionError where the mirror shows what never was."""
        if not self._disk.mirror_touched or self._disk.who == "judge" or self.paused:
            return
        # At every statement from the first write on: until it is seen changed, it may be changing.
        with self._disk.acting("judge"):
            if not self._changed():
                return
            assert self.db is not None
            self.db.execute("BEGIN")
            try:
                body = self.db.execute("SELECT body FROM _rollrep_state").fetchone()
                shown = self.db.execute(SHOWN).fetchone()
            finally:
                self.db.execute("COMMIT")
            assert body is not None and shown is not None
            self._judge(json.loads(body[0]), shown[0])

    def shown(self) -> str | None:
        """What the mirror shows now; None where there is none."""
        with self._disk.acting("judge"):
            if not self._path.exists():
                return None
            with contextlib.closing(apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)) as db:
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                return str(db.execute(SHOWN).fetchone()[0])  # type: ignore[index]

    def forget(self) -> None:
        """The files are exchanged; what is read next need not follow on."""
        if self.db is not None:
            self.db.close()
        self.db, self._file, self.position = None, -1, None
        self._disk.mirror_touched = True

    def _changed(self) -> bool:
        try:
            file = self._path.stat().st_ino
        except FileNotFoundError:
            return False
        if file != self._file:
            if self.db is not None:
                self.db.close()
            self.db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._file, self._version = file, -1
        assert self.db is not None
        version = int(self.db.pragma("data_version"))
        if version == self._version:
            return False
        self._version = version
        self._disk.mirror_touched = False
        return True

    def _judge(self, state: dict[str, object], shown: str) -> None:
        self.states += 1
        position: dict[str, object] = state["position"]  # type: ignore[assignment]
        line, epoch, log_id = int(state["line"]), str(position["epoch"]), int(position["id"])  # type: ignore[call-overload]
        assert not state["reason"], f"a reader sees a mirror operation under way: {state['reason']}"
        assert sum_of(shown) == SUM, f"a reader sees {sum_of(shown)} in the bank, at {log_id}: {shown}"
        allowed = self._witness.may_show(log_id)
        assert shown in allowed, f"a reader sees {shown} at {log_id}, where there was {allowed}"
        if self.position and self.position[:2] == (line, epoch):
            assert log_id >= self.position[2], f"the position went back from {self.position[2]} to {log_id}"
        self.position = (line, epoch, log_id)
