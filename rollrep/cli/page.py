"""A timeline as one static page: HTML and CSS in one file, no script, nothing fetched from anywhere.

    head      what, from when to when, in how many bytes
    lanes     one per line of history, the present one on top; places are percentages, so that any width does
    lag       how old the mirror had become, hour by hour
    space     what it takes
    lists     labels, snapshots, holes, each with the command that restores it

All that comes from a source (labels) or a person is escaped; the page forbids itself scripts and requests.

Pure: the present is an argument.  Does not know: the catalog, where the page goes.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Iterable, Iterator
from html import escape

from rollrep.cli.bar import REASONS, why_lost
from rollrep.cli.page_style import STYLE
from rollrep.core.units import show_bytes, show_duration
from rollrep.destination.catalog_rows import Freshness
from rollrep.destination.timeline import LineSeen, PointSeen, Timeline

BUCKETS = 240
"""of the row of points; each shows how many there are by how dark it is"""
MOST_LAG_BARS = 168
MOST_ROWS = 500
SPACE = (
    ("mirror", "the living copy"),
    ("archive", "every operation"),
    ("snapshots", "the long past"),
    ("catalog", "the index"),
    ("cache", "points that were looked at; may be removed"),
    ("trash", "goes in a day"),
)


def page(timeline: Timeline, now: dt.datetime) -> str:
    """The whole page."""
    job = escape(timeline.job)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{job}: its past</title>
<style>{STYLE}</style></head><body><main>
{"".join(_parts(timeline, now))}
<footer>Written by rollrep on {_when(now)}. Times are in {escape(f"{now.astimezone():%Z}")}.</footer>
</main></body></html>
"""


def _parts(timeline: Timeline, now: dt.datetime) -> Iterator[str]:
    span = timeline.span
    if span is None:
        yield f"<header><h1>{escape(timeline.job)}</h1><p class=lead>Nothing can be restored yet.</p></header>"
        return
    yield _head(timeline, span, now)
    yield _lanes(timeline, span)
    yield _lag(timeline)
    yield _space(timeline)
    yield _labels(timeline)
    yield _snapshots(timeline)
    yield _holes(timeline)


def _head(timeline: Timeline, span: tuple[dt.datetime, dt.datetime], now: dt.datetime) -> str:
    age = show_duration((now - timeline.confirmed).total_seconds()) if timeline.confirmed else "never"
    holes = sum(len(line.holes) for line in timeline.lines)
    figures = (
        (show_duration((span[1] - span[0]).total_seconds()), "of the past"),
        (f"{len(timeline.points):,}", "points"),
        (f"{sum(len(line.snapshots) for line in timeline.lines):,}", "snapshots"),
        (f"{holes:,}", "hole" if holes == 1 else "holes"),
        (show_bytes(sum(timeline.bytes.values())), "in all"),
        (age, "since the mirror was the source"),
    )
    cells = "".join(f"<div><b>{escape(figure)}</b><span>{escape(what)}</span></div>" for figure, what in figures)
    return (
        f"<header><h1>{escape(timeline.job)}</h1><p class=lead>can be restored as it was from"
        f" <time>{_when(span[0])}</time> to <time>{_when(span[1])}</time></p><div class=figures>{cells}</div></header>"
    )


def _lanes(timeline: Timeline, span: tuple[dt.datetime, dt.datetime]) -> str:
    lanes = "".join(
        _lane(line, span, is_present=line is timeline.lines[-1], is_first=line is timeline.lines[0])
        for line in reversed(timeline.lines)
    )
    legend = (
        "<p class=legend><span><i class=k-fine></i>every point</span><span><i class=k-snap></i>snapshot</span>"
        "<span><i class=k-pin></i>pinned</span><span><i class=k-label></i>label</span>"
        "<span><i class=k-hole></i>hole: operations nobody saw</span></p>"
    )
    return f"<section><h2>Timeline</h2><div class=lanes>{lanes}{_axis(span)}</div>{legend}</section>"


def _lane(line: LineSeen, span: tuple[dt.datetime, dt.datetime], *, is_present: bool, is_first: bool) -> str:
    why = REASONS.get(line.story.reason, line.story.reason)
    said = "the first pull" if is_first and line.story.line > 0 else f"began {_when(line.story.began)}: {why}"
    name = f"line {line.story.line}" + (", the present one" if is_present else "")
    parts: list[str] = []
    for stretch in line.stretches:
        if stretch.begin == stretch.end:
            continue
        title = f"{_when(stretch.begin)} to {_when(stretch.end)}: every point"
        parts.append(f'<i class=fine style="{_place(stretch.begin, stretch.end, span)}" title="{escape(title)}"></i>')
    for seen in line.holes:
        title = f"hole, {_when(seen.begin)} to {_when(seen.end)}: {why_lost(seen)}"
        parts.append(f'<i class=hole style="{_place(seen.begin, seen.end, span)}" title="{escape(title)}"></i>')
    for snap in line.snapshots:
        kind = "snap pin" if snap.note.pinned else "snap"
        title = f"snapshot of {_when(snap.snapshot.time)}, {show_bytes(snap.snapshot.bytes)}"
        title += ", pinned" if snap.note.pinned else ""
        left = _percent(snap.snapshot.time, span)
        parts.append(f'<i class="{kind}" style="left:{left}" title="{escape(title)}"></i>')
    for point in line.points:
        if point.point.label:
            title = f"{point.point.label}: point {point.point.point} of {_when(point.time)}"
            left = _percent(point.time, span)
            parts.append(f'<i class=label style="left:{left}" title="{escape(title)}"></i>')
    return (
        f"<div class=lane><p><b>{escape(name)}</b> <span>{escape(said)}</span></p>"
        f"<div class=track>{''.join(parts)}</div><div class=points>{_density(line.points, span)}</div></div>"
    )


def _density(points: Iterable[PointSeen], span: tuple[dt.datetime, dt.datetime]) -> str:
    counts: dict[int, int] = {}
    total = max((span[1] - span[0]).total_seconds(), 1e-6)
    for point in points:
        at = min(BUCKETS - 1, int((point.time - span[0]).total_seconds() / total * BUCKETS))
        counts[at] = counts.get(at, 0) + 1
    most = max(counts.values(), default=1)
    return "".join(
        f'<i style="left:{at / BUCKETS * 100:.2f}%;width:{100 / BUCKETS:.3f}%;opacity:{0.25 + 0.75 * n / most:.2f}"'
        f' title="{n} point{"s" if n > 1 else ""}"></i>'
        for at, n in sorted(counts.items())
    )


def _axis(span: tuple[dt.datetime, dt.datetime]) -> str:
    length = span[1] - span[0]
    form = (
        "%H:%M:%S" if length < dt.timedelta(hours=2) else "%d %b %H:%M" if length < dt.timedelta(days=9) else "%d %b %Y"
    )
    ticks = [(quarter * 25, span[0] + length * quarter / 4) for quarter in range(5)]
    return "<div class=axis>" + "".join(
        f'<span style="left:{at}%">{escape(f"{moment.astimezone():{form}}")}</span>' for at, moment in ticks
    ) + "</div>"  # fmt: skip


def _lag(timeline: Timeline) -> str:
    shown = timeline.freshness[-MOST_LAG_BARS:]
    if not shown:
        return ""
    most = max(*(each.longest_s for each in shown), 1e-3)
    bars = "".join(
        f'<i style="height:{max(2.0, each.longest_s / most * 100):.1f}%" title="{escape(_lag_said(each))}"></i>'
        for each in shown
    )
    return (
        "<section><h2>Lag</h2><p class=note>How old the mirror had become at most before it was brought up to date, in"
        f" each hour with a pull; the longest here is {escape(show_duration(most))}.</p><div class=lag>{bars}</div>"
        f"<div class=ends><span>{_when(shown[0].hour)}</span><span>{_when(shown[-1].hour)}</span></div></section>"
    )


def _lag_said(each: Freshness) -> str:
    pulls = f"{each.pulls} pull{'s' if each.pulls > 1 else ''}"
    return f"{_when(each.hour)}: {show_duration(each.longest_s)}, {pulls}"


def _space(timeline: Timeline) -> str:
    total = max(1, sum(timeline.bytes.values()))
    present = [(name, what, timeline.bytes.get(name, 0)) for name, what in SPACE if timeline.bytes.get(name, 0)]
    bar = "".join(
        f'<i class="s-{name}" style="width:{size / total * 100:.2f}%" title="{name}, {escape(show_bytes(size))}"></i>'
        for name, _, size in present
    )
    rows = "".join(
        f'<tr><td><i class="s-{name}"></i>{name}</td><td class=n>{escape(show_bytes(size))}</td><td>{what}</td></tr>'
        for name, what, size in present
    )
    return f"<section><h2>Space</h2><div class=stack>{bar}</div><table class=space>{rows}</table></section>"


def _labels(timeline: Timeline) -> str:
    rows = [
        f"<tr><td>{_when(each.time)}</td><td>{escape(each.point.label or '')}</td><td class=n>{each.point.point}</td>"
        f"<td class=n>{each.point.line}</td>"
        f"<td><code>{escape(_restore(timeline.job, each.point.point))}</code></td></tr>"
        for each in reversed(timeline.points) if each.point.label
    ]  # fmt: skip
    return _table("Labels", ("time", "label", "point", "line", "to restore it"), rows, is_open=True)


def _snapshots(timeline: Timeline) -> str:
    rows = []
    for line in reversed(timeline.lines):
        points = {each.point.id: each.point.point for each in line.points}
        for seen in reversed(line.snapshots):
            what = ", ".join([*seen.note.labels, *(["pinned"] if seen.note.pinned else [])])
            point = points.get(seen.snapshot.id)
            command = _restore(timeline.job, point) if point else ""
            rows.append(
                f"<tr><td>{_when(seen.snapshot.time)}</td><td class=n>{escape(show_bytes(seen.snapshot.bytes))}</td>"
                f"<td class=n>{line.story.line}</td><td>{escape(what)}</td><td><code>{escape(command)}</code></td></tr>"
            )
    return _table("Snapshots", ("time", "size", "line", "", "to restore it"), rows, is_open=len(rows) <= 12)


def _holes(timeline: Timeline) -> str:
    rows = [
        f"<tr><td>{_when(seen.begin)}</td><td>{_when(seen.end)}</td>"
        f"<td class=n>{escape(show_duration((seen.end - seen.begin).total_seconds()))}</td>"
        f"<td>{escape(why_lost(seen))}</td></tr>"
        for line in reversed(timeline.lines) for seen in reversed(line.holes)
    ]  # fmt: skip
    return _table("Holes", ("from", "to", "how long", "why"), rows, is_open=True)


def _table(title: str, names: tuple[str, ...], rows: list[str], *, is_open: bool) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in names)
    more = f"<p class=note>The newest {MOST_ROWS:,} of {len(rows):,}.</p>" if len(rows) > MOST_ROWS else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows[:MOST_ROWS])}</tbody></table>"
    return (
        f"<section><details{' open' if is_open else ''}><summary><h2>{title}</h2> <span>{len(rows):,}</span></summary>"
        f"{more}<div class=scroll>{body}</div></details></section>"
    )


def _restore(job: str, point: int) -> str:
    return f"rollrep restore {shlex.quote(job)} --at point:{point} --output then.db"


def _place(begin: dt.datetime, end: dt.datetime, span: tuple[dt.datetime, dt.datetime]) -> str:
    total = max((span[1] - span[0]).total_seconds(), 1e-6)
    return f"left:{_percent(begin, span)};width:{(end - begin).total_seconds() / total * 100:.3f}%"


def _percent(moment: dt.datetime, span: tuple[dt.datetime, dt.datetime]) -> str:
    total = max((span[1] - span[0]).total_seconds(), 1e-6)
    return f"{min(100.0, max(0.0, (moment - span[0]).total_seconds() / total * 100)):.3f}%"


def _when(moment: dt.datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
