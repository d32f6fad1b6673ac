"""Figures, the targets they are held against, and the table of both.

Knows: nothing of how a figure was measured.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from pathlib import Path

import apsw

from bench import litestream


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured value: the median of its repetitions, and how far they lay apart."""

    what: str
    values: Sequence[float]
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Met or MISSED, by the median; empty where there is no target."""
        if self.at_most is not None:
            return "met" if self.value <= self.at_most else "MISSED"
        if self.at_least is not None:
            return "met" if self.value >= self.at_least else "MISSED"
        return ""

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"<= {show(self.at_most, self.unit)}"
        return f">= {show(self.at_least, self.unit)}" if self.at_least is not None else ""

    @property
    def spread(self) -> str:
        if len(self.values) < 2:
            return ""
        return f"{show(min(self.values), self.unit)} .. {show(max(self.values), self.unit)}"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one benchmark found."""

    name: str
    question: str
    figures: Sequence[Figure]
    seconds: float


def show(value: float, unit: str) -> str:
    """A value in few digits, with its unit.

    >>> show(1.4567, "x"), show(123456.7, "ops/CPU s"), show(52.34, "bytes")
    ('1.46x', '123,457 ops/CPU s', '52.3 bytes')
    """
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}" if unit == "x" else f"{value:.1f}"
    return f"{digits}x" if unit == "x" else f"{digits} {unit}"


def machine(*, quick: bool) -> dict[str, str]:
    """Where and when, and with what: a figure without these says nothing."""
    cpu = platform.processor() or platform.machine()
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = next((line.split()[1] for line in _lines(Path("/proc/meminfo")) if line.startswith("MemTotal")), "0")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu}, {os.cpu_count()} cores, {int(memory) >> 20} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "versions": f"rollrep {importlib.metadata.version('rollrep')}, Python {platform.python_version()},"
        f" its sqlite3 {sqlite3.sqlite_version}, apsw {apsw.apsw_version()} (SQLite {apsw.sqlite_lib_version()}),"
        f" Litestream {litestream.version() or 'not installed'}",
        "run": "quick: rough figures" if quick else "full",
    }


def table(answers: Sequence[Answer], facts: dict[str, str]) -> str:
    rows = [("figure", "median", "repetitions", "target", "")]
    for answer in answers:
        rows.append((f"[{answer.name}] {answer.question}", "", "", "", ""))
        rows += [(f"  {f.what}", show(f.value, f.unit), f.spread, f.target, f.verdict) for f in answer.figures]
    widths = [max(len(row[n]) for row in rows if row[1] or n) for n in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in facts.items())])


def markdown(answers: Sequence[Answer], facts: dict[str, str]) -> str:
    lines = [
        "# Results",
        "",
        "Written by `python -m bench`; what each figure means stands in [README.md](README.md).",
        "Medians; ratios are against what was measured in the same run, repetition by repetition.",
        "",
        *(f"- **{name}**: {value}" for name, value in facts.items()),
    ]
    for answer in answers:
        lines += ["", f"## {answer.name}: {answer.question}", "", f"({answer.seconds:.0f} s)", ""]
        lines += ["| figure | median | repetitions | target | |", "|---|---|---|---|---|"]
        lines += [
            f"| {f.what} | {show(f.value, f.unit)} | {f.spread} | {f.target} | {f.verdict} |" for f in answer.figures
        ]
    return "\n".join(lines) + "\n"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
