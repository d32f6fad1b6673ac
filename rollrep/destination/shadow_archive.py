"""The shadow tables' past: one file for each pull that found them changed, and what is known between.

    log ids    ....|id────through|......................|id────────through|....
                    state seen,   somewhere here the     next state seen: what leads there from the
                    unchanged     tables in `changed`    one before is in the file
                    until here    changed, unseen

Triggers see every operation on ordinary tables, but no state of a virtual table between two pulls.  So a point
inside a stretch `id` to `through` is exact; one in between is exact but for the tables that changed there.

A row without a file begins anew: a mirror operation led there, and the snapshot taken then holds the state.

Knows: SQL of its own table in the catalog, containers.  Does not know: shadow tables' rows, the wire.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from rollrep.core.errors import VerifyFailed
from rollrep.core.nouns import Shape, Virtual
from rollrep.destination import container
from rollrep.destination.catalog import Catalog
from rollrep.destination.shadows import Change
from rollrep.destination.store import Store
from rollrep.destination.trash import find_file
from rollrep.query import all_rows

KIND = "shadows"
TABLE = """CREATE TABLE IF NOT EXISTS shadow(line, id, after, through, path, bytes, changed, carried,
 PRIMARY KEY(line, id)) WITHOUT ROWID"""


class ChangeHolds(msgspec.Struct, frozen=True):
    """The part of a change's manifest that is a change's own: it leads from `after` to `id`."""

    line: int
    previous: int
    """the log id of the state that lasted until `after`"""
    after: int
    id: int
    tables: tuple[Shape, ...]
    changed: tuple[str, ...]
    """the virtual tables that these are of"""
    carried: tuple[str, ...]
    """all virtual tables that there were"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """A state of the virtual tables that was seen, as the catalog knows it."""

    line: int
    id: int
    after: int
    through: int
    path: str | None
    changed: tuple[str, ...]
    carried: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Earlier:
    """A virtual table that a point can only have as it was earlier, at the log id `as_of`."""

    table: str
    as_of: int


class ShadowArchive:
    """The states of one job."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._db = catalog.connection
        self._catalog = catalog

    def add(self, line: int, after: int, log_id: int, change: Change, virtuals: Sequence[Virtual]) -> list[str]:
        """Archives a change, before it is made on the mirror; the virtual tables that it changes."""
        tables = {shape.table for shape in change.tables}
        changed = [each.name for each in virtuals if tables & {shadow.table for shadow in each.shadows}]
        carried = [each.name for each in virtuals]
        path = self._store.folder / _path(line, log_id)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        before = self._newest(line, after)
        previous = before.id if before else after
        holds = ChangeHolds(line, previous, after, log_id, change.tables, tuple(changed), tuple(carried))
        size = container.write_file(path, KIND, change.path, holds)
        self._put(line, log_id, after, _path(line, log_id), size, changed, carried)
        return changed

    def begin(self, line: int, log_id: int, virtuals: Sequence[Virtual]) -> None:
        """A mirror operation led to `log_id`."""
        if virtuals or self._catalog.knows_virtual_tables():
            self._put(line, log_id, log_id, None, 0, [], [each.name for each in virtuals])

    def require(self, line: int, log_id: int, virtuals: Sequence[Virtual]) -> None:
        """A mirror operation that died before it could say so led to `log_id`, if nothing says what is there."""
        newest = self._newest(line, log_id)
        if newest is None or set(newest.carried) != {each.name for each in virtuals}:
            self.begin(line, log_id, virtuals)

    def unchanged(self, line: int, log_id: int, virtuals: Sequence[Virtual]) -> None:
        """The state seen last is still that of the source as of `log_id`."""
        newest = self._newest(line, log_id)
        if newest is None:
            self.begin(line, log_id, virtuals)
        elif newest.through != log_id:
            self._db.execute("UPDATE shadow SET through = ? WHERE line = ? AND id = ?", (log_id, line, newest.id))

    def drop_beyond(self, line: int, log_id: int) -> None:
        """Forgets what was archived and never came into the mirror, which is at `log_id`."""
        for seen in self._rows(line):
            if seen.id > log_id:
                self._drop(seen)

    def expire(self, line: int, base: int, let_go: Callable[[str], None]) -> list[str]:
        """Lets go of the files that only lead to before the log id `base`; what is gone."""
        rows = [seen for seen in self._rows(line) if seen.id <= base]
        for seen in rows:
            if seen.path:
                let_go(seen.path)
        for seen in rows[:-1]:
            self._db.execute("DELETE FROM shadow WHERE line = ? AND id = ?", (line, seen.id))
        if rows and rows[-1].path:
            self._db.execute("UPDATE shadow SET path = NULL WHERE line = ? AND id = ?", (line, rows[-1].id))
        return [f"{seen.path}: older than the operations that are kept" for seen in rows if seen.path]

    def cut(self, seen: Seen) -> None:
        """Forgets a change that is damaged: what follows is known from the next snapshot on."""
        rows = [each for each in self._rows(seen.line) if each.id > seen.id]
        self._db.execute("DELETE FROM shadow WHERE line = ? AND id = ?", (seen.line, seen.id))
        stands = [each.id for each in self._catalog.snapshots() if each.line == seen.line and each.id >= seen.id]
        if stands and not any(each.id <= stands[0] for each in rows):
            self._put(seen.line, stands[0], stands[0], None, 0, [], seen.carried)
            if stands[0] <= seen.through:
                self.unchanged(seen.line, seen.through, ())

    def changes(self, line: int, after: int, through: int) -> list[Seen]:
        """The changes that lead from the state at `after` to the newest seen at or before `through`."""
        return [seen for seen in self._rows(line) if after < seen.id <= through and seen.path]

    def unpack(self, seen: Seen, target: Path) -> Change:
        """Writes a change's database to `target`, checked to its last byte.  Raises VerifyFailed."""
        path = find_file(self._store, str(seen.path))
        holds = container.read_holds(path, KIND, ChangeHolds)
        if (holds.line, holds.id) != (seen.line, seen.id):
            raise VerifyFailed(f"{path} holds another change than its name says")
        container.unpack_to(path, KIND, target)
        return Change(target, holds.tables)

    def files(self) -> list[Seen]:
        """Every change that lies in the archive."""
        if not self._catalog.knows_virtual_tables():
            return []
        lines = all_rows(self._db, "SELECT DISTINCT line FROM shadow ORDER BY line")
        return [seen for (line,) in lines for seen in self._rows(line) if seen.path]

    def recall(self, path: Path) -> None:
        """Takes up a change that the catalog does not know, oldest first.

        How long the states before and after it lasted is not in it: no longer than they were seen.  Raises
        VerifyFailed where it is damaged, or leads on from one that is not there; a restore that needs it will, too.
        """
        relative = str(path.relative_to(self._store.folder))
        line, log_id = int(path.parent.name), int(path.stem)
        self._put(line, log_id, log_id, relative, path.stat().st_size, [], [])
        holds = container.read_holds(path, KIND, ChangeHolds)
        if (holds.line, holds.id) != (line, log_id):
            raise VerifyFailed(f"{path} leads to log id {holds.id} of line {holds.line}, not where its name says")
        before = [seen.id for seen in self._rows(line) if seen.id < log_id]
        begins = holds.previous
        if not before or before[-1] != begins:
            # What led to the state before is not here: it is known from where a snapshot holds it.
            stands = [each.id for each in self._catalog.snapshots() if each.line == line]
            begins = min((each for each in stands if holds.previous <= each <= holds.after), default=-1)
            if begins < 0:
                missing = _path(line, holds.previous)
                self._put(line, log_id, log_id, missing, 0, [], [])
                raise VerifyFailed(f"{path} leads on from {missing}, which is missing")
            self._put(line, begins, begins, None, 0, [], holds.carried)
        self._db.execute("UPDATE shadow SET through = ? WHERE line = ? AND id = ?", (holds.after, line, begins))
        self._put(line, log_id, holds.after, relative, path.stat().st_size, holds.changed, holds.carried)

    def earlier(self, line: int, log_id: int) -> list[Earlier]:
        """The virtual tables that the point at `log_id` can't have exactly, and as of when it has them."""
        return self.earlier_each([(line, log_id)])[0]

    def earlier_each(self, points: Sequence[tuple[int, int]]) -> list[list[Earlier]]:
        """The same for many points, each a line and a log id."""
        rows = {line: self._rows(line) for line in {line for line, _ in points}}
        snapshots = {(each.line, each.id) for each in self._catalog.snapshots()}
        return [[] if point in snapshots else earlier_at(rows[point[0]], point[1]) for point in points]

    def _newest(self, line: int, log_id: int) -> Seen | None:
        rows = [seen for seen in self._rows(line) if seen.id <= log_id]
        return rows[-1] if rows else None

    def _put(
        self, line: int, log_id: int, after: int, path: str | None, size: int, changed: Sequence[str],
        carried: Sequence[str],
    ) -> None:  # fmt: skip
        self._db.execute(TABLE)
        self._db.execute(
            "INSERT OR REPLACE INTO shadow(line, id, after, through, path, bytes, changed, carried)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (line, log_id, after, log_id, path, size, json.dumps(list(changed)), json.dumps(list(carried))),
        )

    def _drop(self, seen: Seen) -> None:
        if seen.path:
            (self._store.folder / seen.path).unlink(missing_ok=True)
        self._db.execute("DELETE FROM shadow WHERE line = ? AND id = ?", (seen.line, seen.id))

    def _rows(self, line: int) -> list[Seen]:
        if not self._catalog.knows_virtual_tables():
            return []
        rows = all_rows(
            self._db, "SELECT line, id, after, through, path, changed, carried FROM shadow WHERE line = ? ORDER BY id",
            (line,),
        )  # fmt: skip
        return [Seen(*row[:5], *(tuple(json.loads(names)) for names in row[5:])) for row in rows]


def _path(line: int, log_id: int) -> str:
    return f"archive/{line}/{log_id:012d}.shadows"


def earlier_at(rows: Sequence[Seen], log_id: int) -> list[Earlier]:
    """What can't be had exactly at `log_id`, given the states seen of its line, oldest first.  Pure."""
    place = bisect.bisect_right(rows, log_id, key=lambda seen: seen.id)
    if place == 0 or log_id <= rows[place - 1].through:
        return []
    last, following = rows[place - 1], rows[place] if place < len(rows) else None
    leads_on = following is not None and following.path is not None
    changed = following.changed if following and leads_on else last.carried
    return [Earlier(table, last.through) for table in last.carried if table in changed]
