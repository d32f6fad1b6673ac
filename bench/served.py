"""`rollrep source serve` with a watch on its read transactions, and on the memory it took.

    python -m bench.served OUT.json source serve

Runs the command line that follows OUT and appends a line to OUT at its end: the longest transaction between BEGIN and
COMMIT in ms, the longest single statement outside of one, and the peak of resident memory in bytes.  A BEGIN takes no
lock yet, so the figures are a little too long rather than too short.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from bench.processes import peak_bytes

_longest = {"transaction_ms": 0.0, "statement_ms": 0.0}


class _Connection(apsw.Connection):
    _began: float | None = None

    def execute(self, statements: str, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        if statements.startswith("BEGIN"):
            self._began = began
        result = super().execute(statements, *args, **kwargs)
        ended = time.perf_counter()
        if self._began is None:
            _longest["statement_ms"] = max(_longest["statement_ms"], (ended - began) * 1e3)
        elif not self.in_transaction:
            _longest["transaction_ms"] = max(_longest["transaction_ms"], (ended - self._began) * 1e3)
            self._began = None
        return result


def main() -> None:
    out = Path(sys.argv[1])
    apsw.Connection = _Connection  # type: ignore[misc]
    from rollrep.cli.main import main as rollrep

    atexit.register(_write, out)
    sys.argv = ["rollrep", *sys.argv[2:]]
    rollrep()


def _write(out: Path) -> None:
    with out.open("a") as file:
        file.write(json.dumps({**_longest, "peak_bytes": peak_bytes()}) + "\n")


if __name__ == "__main__":
    main()
