"""Verifying one job: what lies here, or the mirror against its source; the result is remembered for `check`.

Knows: configuration, transports, the destination's two verifications, the catalog's events.  Does not know:
the command line.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import apsw

from rollrep.core.clock import iso, monotonic_s
from rollrep.core.units import show_bytes, show_count, show_duration
from rollrep.destination.at_rest import REPAIR, AtRest, span_of, verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.mending import Mended, mend, would_mend
from rollrep.destination.pull import Wishes
from rollrep.destination.verify import Asked, TableReport, Verified, verify_against_source
from rollrep.jobs.config import Config, Job
from rollrep.jobs.run import retrying, session_with, store_of, translated
from rollrep.jobs.telling import point_json

SOURCE_EVENT, REST_EVENT = "verify_source", "verify_rest"
"""the kinds of the catalog's events that `check` looks for"""

PULL = "rollrep pull JOB"
MAKE_ROOM = "make room, and verify again"
MOST_NAMED = 10
"""points of which a person is told each"""

Progress = Callable[[str, int], None]
"""called with (table or file, rows or bytes)"""


@dataclasses.dataclass
class SourceResult:
    job: str
    verified: Verified
    asked: Asked
    bytes_received: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        position = self.verified.position
        return {
            "job": self.job,
            "against_source": True,
            "equal": self.verified.equal,
            "rows_differing": self.verified.rows_differing,
            "position": {"epoch": position.epoch, "id": position.id} if position else None,
            "time": self.verified.time or None,
            "tables": [_table_json(table) for table in self.verified.tables],
            "schema_differences": self.verified.schema,
            "virtual": self.verified.virtual,
            "not_compared": self.verified.not_compared,
            "seconds": round(self.seconds, 3),
            "bytes_received": self.bytes_received,
        }

    def would(self) -> list[str]:
        """What a repair would do."""
        wrong = [table for table in self.verified.tables if table.compared.differing]
        rows = show_count(self.verified.rows_differing, "row")
        said = (
            f"make {rows} of {', '.join(each.table for each in wrong)} what the source has" if wrong else "mend nothing"
        )
        return [f"{self.job}: --repair would {said}"]

    def lines(self) -> list[str]:
        """What a person is told, the sentence that sums it up last."""
        verified, position = self.verified, self.verified.position
        lines = [f"{self.job}: {each}" for each in verified.schema]
        lines += [f"{self.job}: NOT COMPARED {each}" for each in verified.not_compared]
        if verified.virtual:
            lines.append(
                f"{self.job}: {', '.join(verified.virtual)}: virtual, compared row by row with every pull, and so now"
            )
        for table in verified.tables:
            if table.compared.differing:
                count = f"{table.compared.differing:,} of its {table.compared.rows:,} rows"
                more = ", ..." if table.compared.differing > len(table.compared.keys) else ""
                repaired = "; repaired, and compared again" if table.rows_repaired and table.equal else ""
                lines.append(
                    f"{self.job}: {table.table}: {count} differed ({'; '.join(table.compared.keys)}{more}){repaired}"
                )
        rows = sum(table.compared.rows for table in verified.tables)
        at = f" at {verified.time}, log id {position.id}" if position else ""
        said = "the mirror is the source" if verified.equal else "the mirror is NOT the source"
        lines.append(
            f"{self.job}: {said}{at}: {show_count(len(verified.tables), 'table')}, {show_count(rows, 'row')} compared,"
            f" {show_bytes(self.bytes_received)} received in {show_duration(self.seconds)}"
        )
        if any(table.rows_repaired for table in verified.tables):
            lines.append(
                f"{self.job}: what was recorded before stays restorable as it was recorded; a new line with a"
                " snapshot of its own begins at the repair"
            )
        return lines


def _table_json(table: TableReport) -> dict[str, object]:
    return {
        "table": table.table,
        "rows": table.compared.rows,
        "ranges_compared": table.compared.ranges,
        "rows_differing": table.compared.differing,
        "rows_repaired": table.rows_repaired,
        "keys": table.compared.keys,
        "equal": table.equal,
    }


@dataclasses.dataclass
class RestResult:
    job: str
    at_rest: AtRest
    mended: Mended | None = None
    would: Mended | None = None
    """what a repair would do, where that was asked"""
    seconds: float = 0.0

    @property
    def remedies(self) -> list[str]:
        """What is to be typed; nothing where all is whole, or was mended."""
        # The next pull fetches the rows of a damaged segment again, while the source has them.
        found = [PULL] if any(each.endswith(".segment") for each in self.at_rest.damaged) else []
        found += [each.remedy for each in self.at_rest.problems]
        done = (PULL, REPAIR) if self.mended else ()
        return [each.replace(" JOB", f" {self.job}") for each in dict.fromkeys(found) if each not in done]

    def as_json(self) -> dict[str, object]:
        span = span_of(self.at_rest.restorable)
        return {
            "job": self.job,
            "against_source": False,
            "equal": not self.remedies,
            "files": self.at_rest.files,
            "bytes": self.at_rest.bytes,
            "problems": [{"path": each.path, "problem": each.text} for each in self.at_rest.problems],
            "notes": self.at_rest.notes,
            "points": self.at_rest.points,
            "points_restorable": len(self.at_rest.restorable),
            "restorable_from": iso(span[0]) if span else None,
            "restorable_to": iso(span[1]) if span else None,
            "points_lost": [point_json(each) for each in self.lost],
            "put_aside": list(self.mended.files) if self.mended else [],
            "missing": list(self.mended.missing) if self.mended else [],
            "would": {
                "put_aside": list(self.would.files),
                "missing": list(self.would.missing),
                "points_lost": [point_json(each) for each in self.would.lost],
            }
            if self.would
            else None,
            "seconds": round(self.seconds, 3),
        }

    @property
    def lost(self) -> Sequence[CatalogPoint]:
        """The points to which nothing whole leads."""
        return self.mended.lost if self.mended else self.at_rest.lost

    def _would(self, would: Mended) -> list[str]:
        lines = [f"{self.job}: --repair would put {each} into the trash, for a day" for each in would.files]
        lines += [f"{self.job}: {each} is gone: --repair would have the catalog forget it" for each in would.missing]
        gone = f"lose {_counted(would.lost)}: {_list_of(would.lost)}" if would.lost else "lose no point"
        return [*lines, f"{self.job}: --repair would {gone}"]

    def lines(self) -> list[str]:
        """What a person is told, the sentence that sums it up last."""
        found = self.at_rest
        lines = [f"{self.job}: {each.path}: {each.text}" for each in found.problems]
        lines += [f"{self.job}: note: {each}" for each in found.notes]
        if self.mended:
            lines += [
                f"{self.job}: {each} was put into the trash, where it lies for a day" for each in self.mended.files
            ]
            lines += [f"{self.job}: {each} is gone, and the catalog no longer names it" for each in self.mended.missing]
        if self.lost:
            when = "any more" if self.mended else "because of that"
            lines.append(f"{self.job}: {_counted(self.lost)} can't be restored {when}: {_list_of(self.lost)}")
        if self.would:
            lines += self._would(self.would)
        span = span_of(found.restorable)
        reach = f", {iso(span[0])} to {iso(span[1])}" if span else ""
        said = "all is whole" if not found.problems else show_count(len(found.problems), "problem")
        lines.append(
            f"{self.job}: {said}: {show_count(found.files, 'file')}, {show_bytes(found.bytes)} read"
            f" in {show_duration(self.seconds)};"
            f" {found.points - len(self.lost)} of {found.points} points can be restored{reach}"
        )
        return lines


def _counted(points: Sequence[CatalogPoint]) -> str:
    return show_count(len(points), "point")


def _list_of(points: Sequence[CatalogPoint]) -> str:
    more = f" and {len(points) - MOST_NAMED:,} more" if len(points) > MOST_NAMED else ""
    return ", ".join(map(_named, points[:MOST_NAMED])) + more


def _named(point: CatalogPoint) -> str:
    return f"{point.point} {point.label}" if point.label else str(point.point)


def verify_source(config: Config, job: Job, asked: Asked, progress: Progress) -> SourceResult:
    """Compares the job's mirror with its source, and remembers the result.  Raises core's errors."""
    store = store_of(config, job)
    store.require()
    result = SourceResult(job.name, Verified(), asked)
    began = monotonic_s()

    def once() -> None:
        with session_with(job) as (session, address):
            wishes = Wishes(address.database, job.snapshot_s, job.keep)
            try:
                result.verified = verify_against_source(store, session, wishes, asked, progress)
            finally:
                result.bytes_received += session.bytes_received

    with translated(config, job, MAKE_ROOM), store.locked():
        retrying(job.name)(once)
        result.seconds = monotonic_s() - began
        with Catalog(store.catalog) as catalog:
            catalog.note(SOURCE_EVENT, **result.as_json())
    return result


def verify_rest(
    config: Config, job: Job, progress: Progress, *, repair: bool = False, dry_run: bool = False
) -> RestResult:
    """Checks everything that lies in the job's folder, and remembers the result; with `repair` puts aside what is
    damaged, or with `dry_run` too says what that would do.  Raises core's errors."""
    store = store_of(config, job)
    store.require()
    began = monotonic_s()
    with translated(config, job, MAKE_ROOM), store.locked():
        store.sweep()
        result = RestResult(job.name, verify_at_rest(store, progress))
        with Catalog(store.catalog) as catalog:
            if repair and (result.at_rest.damaged or result.at_rest.gaps):
                if dry_run:
                    result.would = would_mend(store, catalog, result.at_rest)
                else:
                    result.mended = mend(store, catalog, result.at_rest)
            result.seconds = monotonic_s() - began
            with contextlib.suppress(apsw.Error):
                catalog.note(REST_EVENT, **result.as_json())
    return result
