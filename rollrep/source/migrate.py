"""A migration of the application's, run while nothing of ours stands in its way.

    begin    our triggers and pins go, every capture ends, a mark says so       one transaction
    run      the application's own command changes what it likes; nothing is logged
    finish   every table is captured anew                                       one transaction

Our triggers live with nearly every change of a schema (rollrep.source.dropping).  Renaming a column and dropping it
before the next pull is one that they are in the way of (https://www.sqlite.org/lang_altertable.html).  What is written
between begin and finish may be anything, so every table gets a new shape id, and a destination compares each of them
with its mirror.

No connection of ours is open while the command runs.

Knows: install, the log.  Does not know: the wire.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import apsw

from rollrep.core.errors import UsageError
from rollrep.source.alone import alone
from rollrep.source.database import open_source, translated
from rollrep.source.install import Report, install, release_all
from rollrep.source.log import current_shapes, read_meta

FORWARDED = (signal.SIGTERM, signal.SIGHUP)


def tables_concerned(path: Path) -> list[str]:
    """The tables whose capture a migration would end now.  Raises NotSetUp without a rolling log."""
    with _opened(path) as db:
        read_meta(db)
        return [shape.table for shape in current_shapes(db)]


def migrate(path: Path, command: Sequence[str]) -> tuple[int, Report]:
    """(exit code of `command`, what is captured afterwards); 128 + n where signal n ended it.

    Captures again whatever the command did.  Raises Locked while another migration runs, NotSetUp without a
    rolling log, UsageError where the command can't be started; and what `install` raises, should it not be able
    to capture again: then the next pull tries.
    """
    with alone(path):
        with _opened(path) as db:
            read_meta(db)
            release_all(db)
        try:
            code = _run(command)
        finally:
            with _opened(path) as db:
                # Limits and choices are read again: the command may have set them by an `install` of its own.
                meta = read_meta(db)
                report = install(db, meta.limits, meta.include, meta.exclude, migrating=True)
    return code, report


def _run(command: Sequence[str]) -> int:
    """The exit code; a signal that would end us is the command's to answer, for capture must come back."""
    try:
        with _signals_of_child() as running:
            running.append(subprocess.Popen(command))
            code = running[0].wait()
    except OSError as error:
        raise UsageError(
            f"{command[0]} can't be started: {error}", remedy="give a program and its arguments"
        ) from error
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def _signals_of_child() -> Iterator[list[subprocess.Popen[bytes]]]:
    """The list takes the child.  SIGINT reaches it by the terminal; the others are passed on."""
    running: list[subprocess.Popen[bytes]] = []

    def passed_on(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            for child in running:
                child.send_signal(number)

    # Handlers, not SIG_IGN: that the child would inherit.
    before = {number: signal.signal(number, passed_on) for number in (signal.SIGINT, *FORWARDED)}
    try:
        yield running
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    with contextlib.closing(open_source(path)) as db, translated(path):
        yield db
