"""Is what lies here whole?  Every file to its last byte, the chain of the archive, the mirror; no source is asked.

    catalog.db ──► segments: checksum, image, ids ──► chain: no gap but the holes that are recorded
               ──► snapshots: checksum, unpacked, integrity_check, position
               ──► mirror.db: integrity_check, and its position is one that the archive has
               ──► what stays restorable without the damaged files

Reads only, apart from a temporary file; but the catalog knows from then on what is damaged.  Knows: archive, catalog,
snapshots, the mirror's state.  Does not know: the wire, what is done about it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import apsw

from rollrep.core.errors import RollrepError, VerifyFailed
from rollrep.destination import container
from rollrep.destination.archive import Archive
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint, Hole, Segment, Snapshot
from rollrep.destination.chains import chain_of
from rollrep.destination.changes import KIND, ChangeHolds, attached_change, unpack_snapshot
from rollrep.destination.images import scratch
from rollrep.destination.inert import integrity_problems
from rollrep.destination.mirror_db import open_mirror, read_state, remove_database
from rollrep.destination.notes import UNREADABLE, note_path, read_note
from rollrep.destination.reach import reach_of
from rollrep.destination.shadow_archive import Seen, ShadowArchive
from rollrep.destination.store import TEMPORARY, Store
from rollrep.destination.trash import find_file
from rollrep.strangers import unknown_here

Progress = Callable[[str, int], None]
"""called with (what, bytes) as files are read"""


REPAIR = "rollrep verify JOB --repair"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is not as it should be, and the file in which it is."""

    path: str
    text: str
    remedy: str = REPAIR
    """what to type"""


@dataclasses.dataclass
class AtRest:
    """What was looked at, and what was found."""

    files: int = 0
    bytes: int = 0
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    """what is odd and harms nothing"""
    points: int = 0
    restorable: list[CatalogPoint] = dataclasses.field(default_factory=list)
    """points that are reached without any damaged file"""
    lost: list[CatalogPoint] = dataclasses.field(default_factory=list)
    """the others"""
    damaged: frozenset[str] = frozenset()
    """files that the catalog speaks of, below the job's folder"""
    gaps: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    """(line, first, last) of log rows of which nothing says that they are missing"""
    is_mirror_whole: bool = False


def verify_at_rest(store: Store, progress: Progress) -> AtRest:
    """Checks everything in the job's folder.  Call it under the store's lock.

    What is damaged is no error here: it stands in what is returned.  Raises VerifyFailed where the catalog itself
    can't be read, because then nothing says what should be there.
    """
    with Catalog(store.catalog) as catalog:
        found = _AtRest(store, catalog, progress).run()
        # Where the catalog can't be written, nothing else of the job can be, either.
        with contextlib.suppress(apsw.Error):
            catalog.know_damaged(found.damaged)
        return found


class _AtRest:
    def __init__(self, store: Store, catalog: Catalog, progress: Progress) -> None:
        self._store = store
        self._catalog = catalog
        self._archive = Archive(store, catalog)
        self._shadows = ShadowArchive(store, catalog)
        self._progress = progress
        self._out = AtRest()

    def run(self) -> AtRest:
        for text in integrity_problems(self._catalog.connection):
            self._problem(self._store.catalog, text, f"rollrep catalog {self._store.job} --rebuild")
        every_segment, every_snapshot = self._catalog.segments(), self._catalog.snapshots()
        segments = [each for each in every_segment if self._segment(each)]
        snapshots = self._snapshots(every_snapshot)
        self._out.gaps = list(gaps(every_segment, self._catalog.holes()))
        for line, first, last in self._out.gaps:
            self._problem(
                self._store.archive / str(line),
                f"log rows {first} to {last} of line {line} are missing, and no hole is recorded",
            )
        shadows = [each for each in self._shadows.files() if not self._shadow(each)]
        known = {each.path for each in every_segment} | {each.path for each in every_snapshot}
        good = {each.path for each in segments} | {each.path for each in snapshots}
        self._out.damaged = frozenset(known - good | {str(each.path) for each in shadows})
        self._mirror(segments, snapshots)
        self._strangers()
        # What nothing would lead to if all were whole, no damage took.
        missing = [Segment(line, first, last, "", "", 0) for line, first, last in self._out.gaps]
        would = reach_of(sorted([*every_segment, *missing]), every_snapshot)
        points = [each for each in self._catalog.points() if would.covers(each.line, each.id)]
        reach = reach_of(segments, snapshots, self._out.damaged)
        self._out.points = len(points)
        self._out.restorable = [point for point in points if reach.covers(point.line, point.id)]
        self._out.lost = [point for point in points if not reach.covers(point.line, point.id)]
        return self._out

    def _segment(self, segment: Segment) -> bool:
        path = self._archive.path(segment)
        with self._looking_at(path) as sound:
            holds = self._archive.checked(segment)
            if holds.proof != segment.proof:
                sound.append(f"it proves another log row {segment.last} than the catalog says")
            if path.stat().st_size != segment.bytes:
                sound.append(f"the catalog says that it has {segment.bytes} bytes")
        return not sound

    def _shadow(self, seen: Seen) -> bool:
        raw = self._store.archive / f"verify.db{TEMPORARY}"
        try:
            with self._looking_at(find_file(self._store, str(seen.path))) as sound:
                self._shadows.unpack(seen, raw)
        finally:
            remove_database(raw)
        return not sound

    def _snapshots(self, everyone: Sequence[Snapshot]) -> list[Snapshot]:
        """Those that are whole, and whose chain is."""
        bases = {(each.line, each.base) for each in everyone}
        good: list[Snapshot] = []
        for each in everyone:
            chain = self._chain(each, good)
            # A chain is put together once, at its end: each file of it is read by itself before.
            is_sound = self._change(each) if each.base is not None else True
            if is_sound and chain and (each.base is None or (each.line, each.id) not in bases):
                is_sound = self._snapshot(chain)
            if is_sound and chain:
                good.append(each)
        return good

    def _chain(self, snapshot: Snapshot, good: Sequence[Snapshot]) -> tuple[Snapshot, ...]:
        try:
            return chain_of(snapshot, good)
        except VerifyFailed as error:
            self._problem(find_file(self._store, snapshot.path), f"it can't be used: {error.facts}")
            return ()

    def _change(self, change: Snapshot) -> bool:
        raw = self._store.snapshots / f"verify.db{TEMPORARY}"
        path = find_file(self._store, change.path)
        with self._looking_at(path) as sound:
            encoding = container.read_holds(path, KIND, ChangeHolds).encoding
            with scratch(encoding) as db, attached_change(self._store, change, db, raw):
                pass
        return not sound

    def _snapshot(self, chain: tuple[Snapshot, ...]) -> bool:
        snapshot = chain[-1]
        raw = self._store.snapshots / f"verify.db{TEMPORARY}"
        try:
            with self._looking_at(find_file(self._store, snapshot.path), counted=snapshot.base is None) as sound:
                unpack_snapshot(self._store, chain, raw)
                with contextlib.closing(open_mirror(raw)) as db:
                    state = read_state(db)
                    sound.extend(integrity_problems(db, state.layout if state else None))
                    if state is None or (state.line, state.position.id) != (snapshot.line, snapshot.id):
                        sound.append("it holds another state than its name says")
        finally:
            remove_database(raw)
        return not sound

    def _mirror(self, segments: Sequence[Segment], snapshots: Sequence[Snapshot]) -> None:
        path = self._store.mirror
        if not path.is_file():
            if segments or snapshots:
                self._problem(path, "it is missing; the next pull makes it again", f"rollrep pull {self._store.job}")
            return
        again = f"rollrep mirror {self._store.job}"
        with self._looking_at(path, remedy=again) as sound, contextlib.closing(open_mirror(path)) as db:
            state = read_state(db)
            sound.extend(integrity_problems(db, state.layout if state else None))
            if state is None:
                sound.append("it says nothing of its position")
                return
            line, at = state.line, state.position.id
            mine = [each for each in self._catalog.segments() if each.line == line]
            archived = {each.last: each.proof for each in mine}
            known = {each.id for each in self._catalog.snapshots() if each.line == line}
            if archived.get(at, state.position.proof) != state.position.proof:
                sound.append(f"it stands at log row {at}, and the archive has another row {at}")
            elif at not in known and not any(each.first <= at <= each.last for each in mine):
                self._out.notes.append(
                    f"{path} stands at log row {at}, to which nothing leads yet: the next pull takes a snapshot"
                )
            self._out.is_mirror_whole = not sound

    @contextlib.contextmanager
    def _looking_at(self, path: Path, *, counted: bool = True, remedy: str = REPAIR) -> Iterator[list[str]]:
        """Collects what is wrong with one file; an error of reading it is one such thing."""
        found: list[str] = []
        self._out.files += counted
        try:
            size = path.stat().st_size if counted and path.is_file() else 0
            self._out.bytes += size
            self._progress(path.name, size)
            yield found
        except RollrepError as error:
            found.append(error.facts.removeprefix(f"{path} is damaged: ").removeprefix(f"{path} is "))
        except (apsw.Error, OSError) as error:
            if unknown := unknown_here(error):
                raise unknown from error
            found.append(str(error))
        for text in found:
            self._problem(path, text, remedy)

    def _problem(self, path: Path, text: str, remedy: str = REPAIR) -> None:
        self._out.problems.append(Problem(str(path), text, remedy))

    def _strangers(self) -> None:
        snapshots = self._catalog.snapshots()
        for each in snapshots:
            if read_note(self._store, each) is UNREADABLE:
                self._problem(
                    self._store.folder / note_path(each.path),
                    "it can't be read; its snapshot counts as pinned",
                    f"rollrep snapshot {self._store.job} --at id:{each.id} --unpin",
                )
        known = {each.path for each in self._catalog.segments()} | {each.path for each in snapshots}
        known |= {note_path(each.path) for each in snapshots} | {str(each.path) for each in self._shadows.files()}
        for folder in (self._store.archive, self._store.snapshots):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and str(path.relative_to(self._store.folder)) not in known:
                    self._out.notes.append(f"{path} is not in the catalog, and is not used")


def gaps(segments: Sequence[Segment], holes: Sequence[Hole]) -> Iterator[tuple[int, int, int]]:
    """(line, first, last) of log rows between two segments of a line that no hole accounts for.  Pure."""
    for before, after in itertools.pairwise(segments):
        if before.line != after.line:
            continue
        at = before.last
        for hole in holes:
            if hole.line == before.line and hole.after <= at < hole.until:
                at = hole.until
        if after.first > at + 1:
            yield before.line, at + 1, after.first - 1


def span_of(points: Sequence[CatalogPoint]) -> tuple[dt.datetime, dt.datetime] | None:
    """The times of the first and the last of `points`; None where there is none.  Pure."""
    times = [point.time for point in points]
    return (min(times), max(times)) if times else None
