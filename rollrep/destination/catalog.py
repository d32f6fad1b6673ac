"""The catalog: what exists of one job, and what is missing.

    line      one unbroken history of a source; a restored or replaced source begins another
    segment   archived log rows first..last of a line, in a file
    point     a consistency point that can be restored, numbered for people
    snapshot  the whole database at one log id of a line, in a file
    hole      a stretch of a line without operations: what a mirror operation jumped over
    event     what happened, for people

Everything in it is also said by the files themselves; it is the index, never the only copy.

Knows: SQL of its own tables.  Does not know: the mirror, the wire.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from rollrep.core.clock import from_iso, iso, now
from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.destination.catalog_rows import CatalogPoint, Freshness, Hole, Line, LineStory, Segment, Snapshot
from rollrep.destination.chains import usable
from rollrep.destination.checksums import give_checksums, has_checksums, is_damage, is_whole, open_checked
from rollrep.destination.reach import Reach, reach_of
from rollrep.destination.seal import broken_seal, put_seal
from rollrep.destination.store import not_permitted, nothing_pulled
from rollrep.query import all_rows, closed_on_error, find_row, has_table, one_row, one_value

if TYPE_CHECKING:
    from rollrep.core.nouns import Point

FORMAT = 3
WITHOUT_CHECKSUMS, WITHOUT_SEAL = 1, 2
"""the formats before; the next pull gives them what they lack"""
CHANGED = "a page is not what was written"
UNREADABLE = (apsw.CorruptError, TypeError, ValueError)
"""what reading rows ends with where they are another table's"""
SCHEMA = f"""
CREATE TABLE line(line INTEGER PRIMARY KEY, epoch TEXT NOT NULL, reason TEXT NOT NULL, began TEXT NOT NULL);
CREATE TABLE segment(line, first, last, proof, path TEXT NOT NULL, bytes, PRIMARY KEY(line, first)) WITHOUT ROWID;
CREATE TABLE point(point INTEGER PRIMARY KEY, line, epoch, id, kind, label, time, UNIQUE(line, id, kind, label));
CREATE INDEX point_by_time ON point(line, time);
CREATE TABLE snapshot(line, id, time, path TEXT NOT NULL, bytes, raw_bytes, PRIMARY KEY(line, id)) WITHOUT ROWID;
CREATE TABLE hole(line, after, until, reason, at, PRIMARY KEY(line, after)) WITHOUT ROWID;
CREATE TABLE event(id INTEGER PRIMARY KEY, at, kind, detail);
CREATE TABLE state(only_row INTEGER PRIMARY KEY CHECK (only_row = 1), points_through, points_line, confirmed);
INSERT INTO state VALUES (1, 0, 0, NULL);
PRAGMA user_version = {FORMAT};
"""
FRESHNESS = "CREATE TABLE IF NOT EXISTS freshness(hour TEXT PRIMARY KEY, pulls, longest_s) WITHOUT ROWID"
"""how old the mirror had become at most before a pull of that hour; nothing else needs it to be there"""
DAMAGED = "CREATE TABLE IF NOT EXISTS damaged(path TEXT PRIMARY KEY) WITHOUT ROWID"
"""files of the job's folder that `verify` found damaged; it says so again, so that nothing else needs it to be there"""


class Catalog:
    """Open it under the job's lock to write; readers need none."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        try:
            self._db = open_checked(path, create=create)
            with closed_on_error(self._db):
                self._db.set_busy_timeout(10_000)
                self._open(create)
        except (apsw.NotADBError, apsw.CorruptError) as error:
            raise self._damaged(str(error)) from error
        except apsw.IOError as error:
            raise (self._damaged(CHANGED) if is_damage(error) else error) from error
        except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
            raise (not_permitted(path.parent, str(error)) if path.exists() else error) from error

    def _open(self, create: bool) -> None:
        found = int(self._db.pragma("user_version"))
        if found == 0 and create:
            self._db.execute("PRAGMA journal_mode = WAL").fetchall()
            with self._db:
                all_rows(self._db, SCHEMA)
        elif found == 0 and not one_value(self._db, "SELECT count(*) FROM sqlite_schema"):
            # The disk was full, or the puller killed, before it began.
            raise nothing_pulled(self._path.parent.name)
        elif found == WITHOUT_CHECKSUMS:
            if create:
                give_checksums(self._db)
        elif found not in (WITHOUT_SEAL, FORMAT):
            raise RollrepError(
                f"{self._path} has format {found}, this rollrep reads {FORMAT}", remedy="use the rollrep that wrote it"
            )
        elif not has_checksums(self._db):
            raise self._damaged("its first page is not what was written")
        self._db.execute("PRAGMA synchronous = FULL")
        # Else a row that a REPLACE removes would still be in the seal.
        self._db.execute("PRAGMA recursive_triggers = ON")
        if problem := broken_seal(self._db):
            raise self._damaged(problem)
        if create:
            self._db.execute(FRESHNESS)
            put_seal(self._db, FORMAT)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        # What went wrong may have been another database's; and a page of zeros has the right checksum, and no content.
        how = CHANGED if isinstance(error, UNREADABLE) and not is_whole(self._db) else ""
        try:
            self._db.close()
        except apsw.IOError as closing:
            error = error or closing
        if how or is_damage(error):
            raise self._damaged(how or CHANGED) from error

    def _damaged(self, how: str) -> VerifyFailed:
        return VerifyFailed(
            f"{self._path} is damaged: {how}",
            remedy=f"make it again from the files: rollrep catalog {self._path.parent.name} --rebuild",
        )

    @property
    def connection(self) -> apsw.Connection:
        """For transactions: `with catalog.connection:` makes what is inside all or nothing."""
        return self._db

    def newest_line(self) -> Line | None:
        """The line that was begun last; never one that was imported, whose numbers are below zero."""
        row = find_row(self._db, "SELECT line, epoch FROM line WHERE line > 0 ORDER BY line DESC LIMIT 1")
        return Line(*row) if row else None

    def newest_line_with_points(self) -> int:
        return int(one_value(self._db, "SELECT max(0, ifnull(max(line), 0)) FROM point"))

    def line_stories(self) -> list[LineStory]:
        """All lines, oldest first."""
        rows = all_rows(self._db, "SELECT line, epoch, reason, began FROM line ORDER BY line")
        return [LineStory(line, epoch, reason, from_iso(began)) for line, epoch, reason, began in rows]

    def add_line(self, story: LineStory) -> None:
        """Puts in a line that has its number already."""
        self._db.execute(
            "INSERT INTO line(line, epoch, reason, began) VALUES (?, ?, ?, ?)",
            (story.line, story.epoch, story.reason, iso(story.began)),
        )

    def begin_line(self, epoch: str, reason: str) -> Line:
        number = int(one_value(self._db, "SELECT max(0, ifnull(max(line), 0)) + 1 FROM line"))
        self.add_line(LineStory(number, epoch, reason, now()))
        return Line(number, epoch)

    def add_segment(self, segment: Segment) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO segment(line, first, last, proof, path, bytes) VALUES (?, ?, ?, ?, ?, ?)",
            segment,
        )
        self._is_written_anew(segment.path)

    def segments_after(self, line: int, log_id: int) -> list[Segment]:
        """Segments of `line` that follow `log_id` and one another without a hole, oldest first."""
        found: list[Segment] = []
        start = one_value(
            self._db,
            "SELECT ifnull(max(first), 0) FROM segment WHERE line = ? AND first <= ?",
            (line, log_id + 1),
        )
        for row in all_rows(
            self._db, "SELECT * FROM segment WHERE line = ? AND first >= ? ORDER BY first", (line, start)
        ):
            segment = Segment(*row)
            if segment.first > log_id + 1:
                break
            if segment.last > log_id:
                found.append(segment)
                log_id = segment.last
        return found

    def drop_segment(self, segment: Segment) -> None:
        self._db.execute("DELETE FROM segment WHERE line = ? AND first = ?", (segment.line, segment.first))

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        self._db.execute("DELETE FROM snapshot WHERE line = ? AND id = ?", (snapshot.line, snapshot.id))

    def drop_points_nothing_leads_to(self) -> None:
        """Forgets the points to which no file leads; a damaged one may still be put right."""
        reach = reach_of(self.segments(), self.snapshots())
        with self._db:
            for point in self.points():
                if not reach.covers(point.line, point.id):
                    self._db.execute("DELETE FROM point WHERE point = ?", (point.point,))

    def segments(self) -> list[Segment]:
        """All of them, line by line, oldest first."""
        return [Segment(*row) for row in all_rows(self._db, "SELECT * FROM segment ORDER BY line, first")]

    def usable_snapshots(self, damaged: Collection[str] = frozenset()) -> list[Snapshot]:
        """Those whose chain is whole, without what is known to be damaged, and the paths `damaged`; ordered as all."""
        return usable(self.snapshots(), self.damaged() | frozenset(damaged))

    def reach(self, damaged: Collection[str] = frozenset()) -> Reach:
        """What snapshots and archive lead to, without what is known to be damaged, and the paths `damaged`."""
        return reach_of(self.segments(), self.snapshots(), self.damaged() | frozenset(damaged))

    def paths(self) -> frozenset[str]:
        """Every file that this names: segments, snapshots, changes of virtual tables; below the job's folder."""
        tables = ["segment", "snapshot", *(["shadow"] if self.knows_virtual_tables() else [])]
        return frozenset(
            path for table in tables for (path,) in all_rows(self._db, f"SELECT path FROM {table}") if path
        )

    def damaged(self) -> frozenset[str]:
        """The paths below the job's folder that `verify` found damaged."""
        if not has_table(self._db, "damaged"):
            return frozenset()
        return frozenset(path for (path,) in all_rows(self._db, "SELECT path FROM damaged"))

    def know_damaged(self, paths: Collection[str]) -> None:
        """Remembers that just these are damaged."""
        if frozenset(paths) == self.damaged():
            return
        with self._db:
            self._db.execute(DAMAGED)
            self._db.execute("DELETE FROM damaged")
            self._db.executemany("INSERT INTO damaged VALUES (?)", ((path,) for path in paths))

    def _is_written_anew(self, path: str) -> None:
        if has_table(self._db, "damaged"):
            self._db.execute("DELETE FROM damaged WHERE path = ?", (path,))

    def archived_through(self, line: int) -> int:
        """The newest log id of `line` that is archived; 0 where none is."""
        return int(one_value(self._db, "SELECT ifnull(max(last), 0) FROM segment WHERE line = ?", (line,)))

    def points_recorded_through(self, line: int) -> int:
        of_line, through = one_row(self._db, "SELECT points_line, points_through FROM state")
        return int(through) if of_line == line else 0

    def add_points(self, line: Line, points: Iterable[Point], through: int) -> list[CatalogPoint]:
        """Records the points that are new; returns those."""
        added = [new for point in points if (new := self.add_point(line, point))]
        self._db.execute("UPDATE state SET points_line = ?, points_through = ?", (line.line, through))
        return added

    def add_point(self, line: Line, point: Point) -> CatalogPoint | None:
        """Records one point; None where it is known already."""
        self._db.execute(
            "INSERT INTO point(line, epoch, id, kind, label, time) SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS"
            " (SELECT 1 FROM point WHERE line=?1 AND id=?3 AND kind=?4 AND label IS ?5)",
            (line.line, line.epoch, point.id, point.kind, point.label, point.time),
        )
        if not self._db.changes():
            return None
        number, time = self._db.last_insert_rowid(), from_iso(point.time)
        return CatalogPoint(number, line.line, line.epoch, point.id, point.kind, point.label, time)

    def points(self) -> list[CatalogPoint]:
        """All of them, oldest line first, in the log's order: order is by id, never by clock."""
        rows = all_rows(
            self._db, "SELECT point, line, epoch, id, kind, label, time FROM point ORDER BY line, id, point"
        )
        return [_point(row) for row in rows]

    def points_named(
        self, *, point: int | None = None, log_id: int | None = None, label: str | None = None
    ) -> list[CatalogPoint]:
        """Those with this number, log id or label, in the order of `points`."""
        rows = all_rows(
            self._db,
            "SELECT point, line, epoch, id, kind, label, time FROM point WHERE (?1 IS NULL OR point = ?1)"
            " AND (?2 IS NULL OR id = ?2) AND (?3 IS NULL OR label = ?3) ORDER BY line, id, point",
            (point, log_id, label),
        )
        return [_point(row) for row in rows]

    def newest_point(self, reach: Reach) -> CatalogPoint | None:
        """The last of `points` that `reach` covers."""
        rows: Iterable[tuple[Any, ...]] = self._db.execute(
            "SELECT point, line, epoch, id, kind, label, time FROM point ORDER BY line DESC, id DESC, point DESC"
        )
        return next((_point(row) for row in rows if reach.covers(row[1], row[3])), None)

    def has_point(self, line: int, log_id: int) -> bool:
        return find_row(self._db, "SELECT 1 FROM point WHERE line = ? AND id = ?", (line, log_id)) is not None

    def add_snapshot(self, snapshot: Snapshot) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO snapshot(line, id, time, path, bytes, raw_bytes) VALUES (?, ?, ?, ?, ?, ?)",
            (
                snapshot.line,
                snapshot.id,
                iso(snapshot.time),
                snapshot.path,
                snapshot.bytes,
                snapshot.raw_bytes,
            ),
        )
        self._is_written_anew(snapshot.path)

    def snapshots(self) -> list[Snapshot]:
        """Oldest line first, in the log's order."""
        rows = all_rows(self._db, "SELECT line, id, time, path, bytes, raw_bytes FROM snapshot ORDER BY line, id")
        return [Snapshot(row[0], row[1], from_iso(row[2]), *row[3:]) for row in rows]

    def add_hole(self, hole: Hole) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO hole(line, after, until, reason, at) VALUES (?, ?, ?, ?, ?)",
            (hole.line, hole.after, hole.until, hole.reason, iso(now())),
        )

    def holes(self) -> list[Hole]:
        rows = all_rows(self._db, "SELECT line, after, until, reason FROM hole ORDER BY line, after")
        return [Hole(*row) for row in rows]

    def knows_virtual_tables(self) -> bool:
        """Whether a state of virtual tables was ever recorded: only then is there more to ask of their archive."""
        return has_table(self._db, "shadow")

    def confirm(self, time: str) -> None:
        """Remembers that the mirror was the source at the source's time `time`, and how old it had become before."""
        before = self.confirmed() or from_iso(time)
        age_s = max(0.0, (from_iso(time) - before).total_seconds())
        with self._db:
            self._db.execute("UPDATE state SET confirmed = ?", (time,))
            self._db.execute(
                "INSERT INTO freshness VALUES (?, 1, ?) ON CONFLICT(hour) DO UPDATE SET pulls = pulls + 1,"
                " longest_s = max(longest_s, excluded.longest_s)",
                (time[:13], age_s),
            )

    def freshness(self) -> list[Freshness]:
        """Hour by hour, oldest first; hours without a pull are missing."""
        if not has_table(self._db, "freshness"):
            return []
        rows = all_rows(self._db, "SELECT hour, pulls, longest_s FROM freshness ORDER BY hour")
        return [Freshness(from_iso(f"{hour}:00:00.000Z"), pulls, longest_s) for hour, pulls, longest_s in rows]

    def confirmed(self) -> dt.datetime | None:
        text = one_value(self._db, "SELECT confirmed FROM state")
        return from_iso(text) if text else None

    def last_event(self, kind: str) -> tuple[dt.datetime, dict[str, Any]] | None:
        """(when, details) of the newest event of that kind."""
        return next(self.events(kind), None)

    def events(self, kind: str) -> Iterator[tuple[dt.datetime, dict[str, Any]]]:
        """(when, details) of the events of that kind, newest first."""
        for at, detail in self._db.execute("SELECT at, detail FROM event WHERE kind = ? ORDER BY id DESC", (kind,)):
            yield from_iso(at), json.loads(detail)

    def note(self, kind: str, **detail: object) -> None:
        """Writes an event."""
        self._db.execute("INSERT INTO event(at, kind, detail) VALUES (?, ?, ?)", (iso(now()), kind, json.dumps(detail)))


def _point(row: tuple[Any, ...]) -> CatalogPoint:
    number, line, epoch, log_id, kind, label, time = row
    return CatalogPoint(number, line, epoch, log_id, kind, label, from_iso(time))
