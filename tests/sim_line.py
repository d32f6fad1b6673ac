"""A line under a seed: `pull` and `serve` in one process, of which only one runs at a time.

    pull ── write ──► [bytes] ──► serve        whoever waits for bytes hands over to the other side;
         ◄── read ─── [bytes] ◄──              serve also hands over when `most` bytes lie unread

serve has a thread of its own because its code waits in the middle; the baton between the two makes every run
of a seed the same.  Faults are told by the byte they happen at, counted in one direction of one session.

Knows: threads, serve.  Does not know: disks, what flows through.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
from sim_disk import Died, Disk

from rollrep.core.errors import Temporary
from rollrep.source.serve import serve

KINDS = ("cut", "flip", "twice", "lost", "again", "stall", "version")


@dataclasses.dataclass
class LineFault:
    """What happens to the bytes of one direction (`to` "pull" or "serve") at byte `at`."""

    kind: str
    to: str
    at: int
    size: int = 1
    happened: bool = False


class Line:
    """A Stream to `serve` of one source.  `databases` as serve takes them."""

    def __init__(self, disk: Disk, databases: dict[str, Path] | None, faults: list[LineFault], most: int) -> None:
        self._disk = disk
        self._databases = databases
        self._faults = faults
        self._most = most
        self._sent = {"pull": 0, "serve": 0}
        self._to = {"pull": bytearray(), "serve": bytearray()}
        self.at_rest: Callable[[], None] = lambda: None
        """called whenever serve waits for the other side, to be asked or to be read"""
        self.cut = False
        self._closed = False
        self._ended = False
        self._baton = {"pull": threading.Semaphore(0), "serve": threading.Semaphore(0)}
        self.wrong: BaseException | None = None
        """what serve died of, if nobody had planned it"""
        self.died = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._started = False

    # the destination's end

    def read(self, limit: int) -> bytes:
        while not self._to["pull"]:
            if self._ended or self.cut:
                return b""
            self._run_serve()
            if not self._to["pull"] and not self._ended and not self.cut:
                # Both wait, because something was lost on the way: the stall timeout of a real transport.
                self.cut = True
                self._disk.clock.sleep(60)
                raise Temporary("nothing arrived for 60 s")
        taken = bytes(self._to["pull"][:limit])
        del self._to["pull"][:limit]
        return taken

    def write(self, data: bytes) -> None:
        if self._ended or self.cut:
            raise Temporary("the other side is gone")
        self._carry("serve", data)

    def close(self) -> None:
        self._closed = True
        while self._started and not self._ended:
            self._run_serve()
        if self._started:
            self._thread.join(30)

    def diagnosis(self) -> str:
        return ""

    def exit_status(self) -> int | None:
        return None

    # the source's end

    def read1(self, _limit: int) -> bytes:
        while not self._to["serve"]:
            if self._closed or self.cut:
                return b""
            self._hand_over()
        taken = bytes(self._to["serve"])
        self._to["serve"].clear()
        return taken

    def flush(self) -> None:
        pass

    class _Out:
        def __init__(self, line: Line) -> None:
            self._line = line

        def write(self, data: bytes) -> int:
            line = self._line
            if line._closed or line.cut:
                raise BrokenPipeError
            line._carry("pull", data)
            while len(line._to["pull"]) > line._most and not line._closed:
                line._hand_over()
            return len(data)

        def flush(self) -> None:
            pass

    def _serve(self) -> None:
        self._baton["serve"].acquire()
        try:
            serve(self, self._Out(self), self._databases)  # type: ignore[arg-type]
        except Died:
            self.died = True
        except (BrokenPipeError, apsw.InterruptError):
            pass
        except BaseException as error:
            if not died_before(error):
                self.wrong = error
        self._ended = True
        self._baton["pull"].release()

    def _run_serve(self) -> None:
        if not self._started:
            self._started = True
            self._thread.start()
        with self._disk.acting("serve"):
            self._baton["serve"].release()
            self._baton["pull"].acquire()
        if not self._ended:
            self.at_rest()

    def _hand_over(self) -> None:
        self._baton["pull"].release()
        self._baton["serve"].acquire()

    # what happens on the way

    def _carry(self, to: str, data: bytes) -> None:
        began = self._sent[to]
        self._sent[to] += len(data)
        for fault in self._faults:
            at = fault.at - began
            if fault.to == to and not fault.happened and 0 <= at < len(data):
                fault.happened = True
                data = self._harmed(fault, at, data)
        self._to[to] += data

    def _harmed(self, fault: LineFault, at: int, data: bytes) -> bytes:
        if fault.kind == "cut":
            self.cut = True
            return data[:at]
        if fault.kind == "flip":
            return data[:at] + bytes([data[at] ^ (1 << fault.size % 8)]) + data[at + 1 :]
        if fault.kind == "version":
            return data[:2] + bytes([data[2] + 1]) + data[3:] if data[:2] == b"RR" and len(data) > 2 else data
        if fault.kind == "twice":
            return data[: at + fault.size] + data[at : at + fault.size] + data[at + fault.size :]
        if fault.kind == "again":  # what is written at once is a whole frame
            return data + data
        if fault.kind == "lost":
            return data[:at] + data[at + fault.size :]
        self.cut = True
        self._disk.clock.sleep(60)
        return data[:at]


def died_before(error: BaseException | None) -> bool:
    """Whether it is of what was unwound after a death, which unwinds nothing."""
    while error is not None and not isinstance(error, Died):
        error = error.__context__
    return error is not None


def draw_faults(rng: random.Random, count: int) -> list[LineFault]:
    """Faults at places that sessions of small databases have."""
    return [
        LineFault(
            rng.choice(KINDS), rng.choice(["pull", "pull", "pull", "serve"]),
            int(10 ** rng.uniform(0, 4.3)), rng.choice([1, 3, 12, 200]),
        )
        for _ in range(count)
    ]  # fmt: skip
