"""Files beside an output while it is made, each under a name that has this process's number in it.

    out.db      .out.db.4711.part, .out.db.4711.whole.part        written, then renamed to out.db

Two commands may write one output at a time, and whoever is done last has it; under one name, one would take the
other's file away, or give it out for its own.

Knows: names of files, processes.  Does not know: what is written.
"""

from __future__ import annotations

import contextlib
import glob
import os
from pathlib import Path

from rollrep.destination.store import TEMPORARY

LONGEST_NAME = 100
"""of the output's name, so that a long one leaves room for the rest; a file system takes 255 bytes"""


def unfinished(output: Path, what: str = "") -> Path:
    """A name for `what` beside `output`.  What processes that died left beside it under such names is removed."""
    beginning = f".{output.name.encode()[:LONGEST_NAME].decode(errors='ignore')}."
    for left in output.parent.glob(f"{glob.escape(beginning)}*{TEMPORARY}*"):
        number = left.name[len(beginning) :].partition(".")[0]
        if number.isdecimal() and not _is_alive(int(number)):
            left.unlink(missing_ok=True)
    return output.with_name(f"{beginning}{os.getpid()}{what and '.'}{what}{TEMPORARY}")


def _is_alive(number: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(number, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True
