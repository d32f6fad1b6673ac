"""rollrep with a clock in it: CPU time per kind of SQL statement, and of packing, hashing and syncing.

    python -m bench.profiled OUT.json pull shop --json

Runs the command line that follows OUT and writes {label: [CPU seconds, calls]} to OUT at its end.  Rows
that a SELECT gives out one by one are counted to "the rest".
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import zstandard

_found: dict[str, list[float]] = {}


def _timed(label: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    began = time.process_time()
    try:
        return call(*args, **kwargs)
    finally:
        entry = _found.setdefault(label, [0.0, 0])
        entry[0] += time.process_time() - began
        entry[1] += 1


def kind_of(sql: str) -> str:
    """What a statement does, without its numbers: short enough for a table.

    >>> kind_of('INSERT INTO main."account"("id", "email") SELECT l.v0, l.v1 FROM temp._rollrep_net n')
    'INSERT INTO main."account" .. FROM temp._rollrep_net n'
    """
    plain = re.sub(r"\s+", " ", re.sub(r"\d+", "N", sql)).strip()
    verb = re.match(r"(INSERT (?:OR REPLACE )?INTO [^ (]+|UPDATE [^ ]+|DELETE FROM [^ ]+|[A-Z]+ [^ ]+)", plain)
    source = re.search(r" FROM (?!\()[^ )]+(?: [a-z])?", plain)
    head = verb.group(0) if verb else plain[:40]
    return f"{head} ..{source.group(0)}" if source and source.group(0).strip() not in head else head


class _Connection(apsw.Connection):
    def execute(self, statements: str, *args: Any, **kwargs: Any) -> Any:
        return _timed(f"SQL: {kind_of(statements)}", super().execute, statements, *args, **kwargs)

    def serialize(self, *args: Any) -> Any:
        return _timed("serialize", super().serialize, *args)

    def deserialize(self, *args: Any) -> Any:
        return _timed("deserialize", super().deserialize, *args)

    def close(self, *args: Any) -> Any:
        return _timed("close (its checkpoint)", super().close, *args)


class _Compressor:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._real = _compressor(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def compress(self, data: bytes) -> Any:
        return _timed("zstd compress", self._real.compress, data)


_compressor = zstandard.ZstdCompressor
_sha256, _fsync = hashlib.sha256, os.fsync


def main() -> None:
    out = Path(sys.argv[1])
    _found["start of Python"] = [time.process_time(), 1]
    apsw.Connection = _Connection  # type: ignore[misc]
    zstandard.ZstdCompressor = _Compressor  # type: ignore[misc,assignment]
    hashlib.sha256 = lambda *args, **kw: _timed("sha256", _sha256, *args, **kw)  # type: ignore[assignment]
    os.fsync = lambda handle: _timed("fsync", _fsync, handle)  # type: ignore[assignment]
    from rollrep.cli.main import main as rollrep

    _found["start of Python"][0] = time.process_time()
    atexit.register(_write, out)
    sys.argv = ["rollrep", *sys.argv[2:]]
    rollrep()


def _write(out: Path) -> None:
    total = time.process_time()
    _found["the rest"] = [total - sum(cpu for cpu, _ in _found.values()), 1]
    out.write_text(json.dumps(_found))


if __name__ == "__main__":
    main()
