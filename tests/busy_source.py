"""`rollrep source serve` beside an application that writes more than its log keeps before every answer.

    python busy_source.py DB      the protocol on stdin and stdout, as serve speaks it

The server is the real one, and so is the overrun; only the moment of each write is chosen, so that a mirror
operation can never catch up.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from rollrep.source import serve

ROWS = 2_000


def main() -> None:
    database = sys.argv[1]
    answer = serve._Server.answer

    def outrun(self: Any, message: Any) -> None:
        with sqlite3.connect(database, timeout=30) as writer:
            for _ in range(ROWS):
                writer.execute("UPDATE busy SET v = v + 1")
        writer.close()
        answer(self, message)

    serve._Server.answer = outrun  # type: ignore[method-assign]
    serve.serve(sys.stdin.buffer, sys.stdout.buffer, None)


if __name__ == "__main__":
    main()
