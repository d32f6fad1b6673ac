"""A timeline as lines of text: one row of cells per line of history, oldest on the left.

    line 1  ●     ●━━━━━━━◆━━━━●━━━━╳╳━━━━━
    line 2                                ●━━━━━━━━━━●━━

A cell shows the most remarkable thing that falls into it: a hole is never narrower than one, and is never hidden.

Pure: width and signs are arguments.  Does not know: the catalog, where the text goes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt

from rollrep.core.units import show_bytes, show_count, show_duration
from rollrep.destination.timeline import HoleSeen, LineSeen, Timeline

REASONS = {
    "first": "the first pull",
    "epoch": "the log is another one",
    "diverged": "the source was restored from a backup, or replaced",
    "ahead": "the source was set back",
    "pruned": "the log had forgotten what was needed",
    "schema": "the schema changed",
    "requested": "rollrep mirror",
    "repair": "rollrep verify --against-source --repair",
    "damaged": "a file was damaged, and put aside",
    "put_back": "the mirror was put back from an older copy",
    "import": "rollrep import",
    "rebuilt": "only a catalog that is gone knew why",
}
HOLES = {**REASONS, "first": "the mirror was lost"}
"""of a hole: where nothing was pulled yet there is none"""
MOST_LISTED = 8


@dataclasses.dataclass(frozen=True)
class Signs:
    """What the cells are drawn with."""

    nothing: str
    fine: str
    snapshot: str
    label: str
    hole: str


UNICODE = Signs(" ", "━", "●", "◆", "╳")
ASCII = Signs(" ", "=", "o", "*", "x")


def cells(line: LineSeen, begin: dt.datetime, end: dt.datetime, width: int, signs: Signs) -> str:
    """One line of history between two moments, in exactly `width` signs."""
    total = max((end - begin).total_seconds(), 1e-6)
    row = [signs.nothing] * width

    def cell(moment: dt.datetime) -> int:
        return min(width - 1, max(0, int((moment - begin).total_seconds() / total * width)))

    for stretch in line.stretches:
        if stretch.end > stretch.begin:
            for at in range(cell(stretch.begin), cell(stretch.end) + 1):
                row[at] = signs.fine
    for seen in line.snapshots:
        row[cell(seen.snapshot.time)] = signs.snapshot
    for point in line.points:
        if point.point.label:
            row[cell(point.time)] = signs.label
    for hole in line.holes:
        for at in range(cell(hole.begin), cell(hole.end) + 1):
            # Its ends are moments that can be restored: they keep their sign where it is wider than them.
            if cell(hole.begin) < at < cell(hole.end) or cell(hole.end) - cell(hole.begin) < 2:
                row[at] = signs.hole
    return "".join(row)


def bar_lines(timeline: Timeline, width: int, signs: Signs) -> list[str]:
    """All that is said of a timeline, for a terminal `width` columns wide."""
    span = timeline.span
    if span is None:
        return [f"{timeline.job}: nothing can be restored yet"]
    begin, end = span
    names = [f"line {line.story.line}" for line in timeline.lines]
    margin = max(map(len, names)) + 2
    room = max(10, width - margin)
    rows = [
        f"{name.ljust(margin)}{cells(line, begin, end, room, signs)}".rstrip()
        for name, line in zip(names, timeline.lines, strict=True)
    ]
    left, right = _local(begin), _local(end)
    axis = f"{left}{right.rjust(room - len(left))}" if room >= len(left) + len(right) + 1 else f"{left} to {right}"
    legend = f"{signs.fine} every point   {signs.snapshot} snapshot   {signs.label} label   {signs.hole} hole"
    points = timeline.points
    said = [
        f"{timeline.job}: {show_count(len(points), 'point')} over {show_duration((end - begin).total_seconds())},"
        f" in {show_bytes(sum(timeline.bytes.values()))}",
        *rows,
        " " * margin + axis,
        " " * margin + legend,
        "",
    ]
    if points:
        oldest = min(points, key=lambda each: each.time)
        for what, each in (("oldest", oldest), ("newest", points[-1])):
            said.append(f"{what}  {_local(each.time)}  point {each.point.point}")
    for line in timeline.lines:
        if line is timeline.lines[0] and line.story.line > 0:
            continue
        reason = REASONS.get(line.story.reason, line.story.reason)
        said.append(f"line {line.story.line} began {_local(line.story.began)}: {reason}")
    said += _listed([
        f"hole    {_local(seen.begin)} to {_local(seen.end)}"
        f" ({show_duration((seen.end - seen.begin).total_seconds())}, line {line.story.line}):"
        f" {why_lost(seen)}"
        for line in timeline.lines for seen in line.holes
    ], "holes")  # fmt: skip
    # Where there are several lines, that of a label tells whether it is of the present.
    ending = " (line {})" if len(timeline.lines) > 1 else ""
    said += _listed([
        f"label   {_local(each.time)}  {each.point.label}{ending.format(each.point.line)}"
        for each in points if each.point.label
    ], "labels")  # fmt: skip
    said += _listed([
        f"pin     {_local(seen.snapshot.time)}  {show_bytes(seen.snapshot.bytes)}{ending.format(line.story.line)}"
        for line in timeline.lines for seen in line.snapshots if seen.note.pinned
    ], "pins")  # fmt: skip
    return said


def why_lost(seen: HoleSeen) -> str:
    """Why there is a hole, in words."""
    return "; ".join(HOLES.get(reason, reason) for reason in seen.reasons)


def _listed(lines: list[str], what: str) -> list[str]:
    """The newest of them, and how many there are more."""
    more = len(lines) - MOST_LISTED
    return [*([f"... {more} older {what} (--json lists them)"] if more > 0 else []), *lines[-MOST_LISTED:]]


def _local(moment: dt.datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"
