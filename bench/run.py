"""Runs the benchmarks, all or by name, prints one table and writes RESULTS.md.

    python -m bench                   everything, some three hours
    python -m bench --quick           everything, about a minute each
    python -m bench capture wire      some of them

Knows: which benchmarks there are.  Does not know: how any of them measures.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __package__ in (None, ""):
    # `python bench/run.py` puts bench/ itself first, where our modules would be found under bare names.
    sys.path[0] = str(ROOT)

from bench import report  # noqa: E402
from bench.stage import Stage  # noqa: E402

QUESTIONS = {
    "capture": "what the log costs the application",
    "prepare": "what the log adds to a statement that is prepared anew",
    "shipping": "what the log and its pulls cost together, beside Litestream",
    "wire": "bytes on the wire per operation",
    "replay": "pull and replay of a backlog, operations per CPU second",
    "memory": "peak memory of both processes",
    "mirror_again": "mirroring again, beside sqlite3_rsync",
    "restarts": "restarts while the application writes, beside Litestream: how many leave a wrong copy",
    "time_travel": "a day of hourly snapshots beside Litestream, restic and borg; asking the past",
    "large": "a large source, transaction, history, many tables, wide tables: memory and seconds",
}
EXTRA = {"profile_pull": "where the CPU time of a pull goes, statement by statement"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Measures rollrep beside its peers.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=", ".join([*QUESTIONS, *EXTRA]) + "  [default: all but the last]"
    )
    parser.add_argument("--quick", action="store_true", help="about a minute each: the figures are rough")
    parser.add_argument("--folder", type=Path, help="where databases are made  [default: a temporary folder]")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "RESULTS.md", help="the file to write")
    parser.add_argument("--no-results", action="store_true", help="print only")
    asked = parser.parse_args()
    known = QUESTIONS | EXTRA
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(known)}")
    names = asked.names or list(QUESTIONS)
    answers: list[report.Answer] = []
    with tempfile.TemporaryDirectory(prefix="rollrep-bench-", dir=asked.folder) as folder:
        stage = Stage(Path(folder), quick=asked.quick)
        for name in names:
            began = time.monotonic()
            print(f"{name}: {known[name]}", file=sys.stderr, flush=True)
            figures = importlib.import_module(f"bench.{name}").measure(stage)
            answers.append(report.Answer(name, known[name], figures, time.monotonic() - began))
    facts = report.machine(quick=asked.quick)
    print(report.table(answers, facts))
    if not asked.no_results and not set(names) <= set(EXTRA):
        asked.results.write_text(report.markdown(answers, facts))
        print(f"written to {asked.results}", file=sys.stderr)


if __name__ == "__main__":
    main()
