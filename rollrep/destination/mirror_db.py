"""The mirror's database: opening it so that replay changes exactly what the log says, and its state.

Foreign keys are off and triggers are off: their effects are in the log already.  CHECK constraints
are not judged again.  Views and triggers stay in the schema; a restored database has them.

    _rollrep_state   one row: position, schema, identity, and what a mirror operation has done

Knows: SQL of its own table, core.  Does not know: replay, the wire.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec

from rollrep.core.errors import RollrepError, UsageError, VerifyFailed
from rollrep.core.nouns import PREFIX, Facts, Layout, Position, Time, require_moment
from rollrep.destination.container import disk_room
from rollrep.destination.inert import CACHE_KIB, integrity_problems
from rollrep.destination.store import not_permitted
from rollrep.query import closed_on_error, find_row, has_table, one_row

STATE = f"{PREFIX}state"
WIDE_CACHE_KIB = 81_920
"""while rows of all places of a table are put in at once: what does not fit is written twice"""


class State(msgspec.Struct, frozen=True):
    """Everything a mirror knows of itself; it moves in the same transaction as the data."""

    line: int
    position: Position
    time: Time
    """the source's clock when it was at `position`"""
    layout: Layout
    schema_digest: str
    database_id: str
    instance: str
    copied: tuple[int, ...] = ()
    """shape ids whose tables a mirror operation has finished; empty in a finished mirror"""
    copying: int = 0
    """the shape id of the table under way"""
    after_key: tuple[str, ...] | None = None
    """the last key copied of that table"""
    unsure: bool = False
    """whether a row that was not copied yet may have replaced one that was, of that table"""
    reason: str = ""
    """why a mirror operation is under way; empty in a finished mirror"""
    began_after: int = 0
    """where the hole of a mirror operation begins"""
    to_compare: tuple[int, ...] = ()
    """shape ids of which that operation has rows already, and compares them with the source's"""
    schema_version: int | None = None
    """the source's when the mirror reached `position`, or when the connection began that it was reached on"""
    virtual_as_of: int | None = None
    """the log id that the virtual tables are of, where it is not `position`: a verify is under way, or was cut"""

    def __post_init__(self) -> None:
        require_moment(self.time)


def seen_at(state: State) -> int:
    """The log id that the mirror's virtual tables are of."""
    return state.position.id if state.virtual_as_of is None else state.virtual_as_of


def stood_still(state: State, facts: Facts) -> State:
    """The state when nothing was logged, as of `facts`."""
    return msgspec.structs.replace(state, schema_version=facts.schema_version, virtual_as_of=None)


def moved_to(state: State, facts: Facts) -> State:
    """The state when all up to `facts.head` is in the mirror."""
    return msgspec.structs.replace(stood_still(state, facts), position=facts.head, time=facts.time)


def whole(state: State, facts: Facts) -> State:
    """The state when a mirror operation is over, as of `facts`."""
    return msgspec.structs.replace(
        moved_to(state, facts), copied=(), copying=0, after_key=None, unsure=False, reason="", to_compare=()
    )


def open_mirror(path: Path, *, layout: Layout | None = None, scratch: bool = False) -> apsw.Connection:
    """A connection for replay.  With `layout`, a new empty database of its encoding and page size.

    Attaches an empty `batch` and `chunk`, because an image can only be put in their place outside of
    transactions.  `scratch`: the file is thrown away when anything fails, so each page is written once, at its
    place, without a journal or a sync.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if layout else 0)
    with disk_room(path):
        db = apsw.Connection(str(path), flags=flags)
    with closed_on_error(db):
        db.set_busy_timeout(10_000)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        if layout:
            db.execute(f"PRAGMA encoding = '{layout.encoding}'").fetchall()
            db.execute(f"PRAGMA page_size = {layout.page_size:d}").fetchall()
            db.execute(f"PRAGMA auto_vacuum = {layout.auto_vacuum:d}").fetchall()
            db.execute(f"CREATE TABLE {STATE}(only_row INTEGER PRIMARY KEY CHECK (only_row = 1), body)")
        for pragma in (
            # Before the other, which syncs all of a file that had a WAL.
            f"synchronous = {'OFF' if scratch else 'NORMAL'}",
            f"journal_mode = {'OFF' if scratch else 'WAL'}",
            "foreign_keys = OFF",
            "ignore_check_constraints = ON",
            f"cache_size = -{CACHE_KIB}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        for image in ("batch", "chunk"):
            db.execute(f"ATTACH ':memory:' AS {image}")
    return db


def read_state(db: apsw.Connection) -> State | None:
    """None in a mirror whose first state was never committed."""
    row = find_row(db, f"SELECT body FROM main.{STATE}") if has_table(db, STATE) else None
    return msgspec.json.decode(row[0], type=State) if row else None


def state_of(path: Path) -> State | None:
    """The state of the mirror at `path`; None where there is none.  Raises VerifyFailed where it is damaged."""
    if not path.is_file():
        return None
    try:
        with contextlib.closing(open_mirror(path)) as mirror:
            return read_state(mirror)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise VerifyFailed(
            f"{path} is damaged: {error}",
            remedy=f"archive and snapshots are untouched; make it again: rollrep mirror {path.parent.name}",
        ) from error
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        raise not_permitted(path.parent, str(error)) from error


def mirror_problems(path: Path) -> list[str]:
    """What SQLite says against the mirror at `path`, a few lines at most; nothing where there is none."""
    if not path.is_file():
        return []
    try:
        with contextlib.closing(open_mirror(path)) as mirror:
            state = read_state(mirror)
            return integrity_problems(mirror, state.layout if state else None)
    except (apsw.NotADBError, apsw.CorruptError) as error:
        return [str(error)]
    except apsw.SQLError:
        # What only the application has is missing here: whoever works on the mirror will say so.
        return []


def bytes_not_written_back(path: Path) -> int:
    """Of the mirror's WAL, what a reader of an old state keeps there; 0 where there is no mirror that can be read.

    What nobody needs is written back.
    """
    if not path.is_file():
        return 0
    with contextlib.suppress(RollrepError, apsw.Error), contextlib.closing(open_mirror(path)) as mirror:
        _, frames, done = one_row(mirror, "PRAGMA main.wal_checkpoint(PASSIVE)")
        return max(0, int(frames) - int(done)) * int(mirror.pragma("page_size"))
    return 0


def write_state(db: apsw.Connection, state: State) -> None:
    db.execute(
        f"INSERT OR REPLACE INTO main.{STATE}(only_row, body) VALUES (1, ?)",
        (msgspec.json.encode(state).decode(),),
    )


def refuse_another_source(state: State, database_id: str, instance: str, job: str) -> None:
    """Raises UsageError where what answers is not the database mirrored so far, or is a copy of it elsewhere."""
    if state.database_id != database_id:
        found = "another database than the one mirrored so far"
    elif state.instance != instance:
        found = "a copy of the database on another machine or path"
    else:
        return
    raise UsageError(
        f"the source of {job} is {found}; the mirror is untouched",
        remedy=f"if it is the right one now: rollrep mirror {job} --accept-source",
    )


def widen_cache(db: apsw.Connection) -> None:
    """For a mirror operation's commit, the last thing that `db` does."""
    db.execute(f"PRAGMA main.cache_size = -{WIDE_CACHE_KIB}").fetchall()


def leave_in_wal(db: apsw.Connection) -> None:
    """What `db` commits from now on is for a `WriteBack`."""
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()


class WriteBack:
    """From `begin` on, a thread writes the WAL of the mirror at `path` back to it: nobody waits for the disk.

    It begins before the connection that committed is closed: then the WAL never has to be recovered, which would keep
    readers out.  Where it fails, as on a full disk, the mirror is the same, and whoever closes it last tries again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside: threading.Thread | None = None

    def __enter__(self) -> WriteBack:
        return self

    def __exit__(self, *_: object) -> None:
        if self._beside:
            self._beside.join()

    def begin(self) -> None:
        with contextlib.suppress(apsw.Error):
            db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            with closed_on_error(db):
                db.set_busy_timeout(10_000)
                has_table(db, STATE)  # which opens the WAL
            self._beside = threading.Thread(target=_write_back, args=(db,), name="rollrep-write-back")
            self._beside.start()


def _write_back(db: apsw.Connection) -> None:
    with contextlib.suppress(apsw.Error), contextlib.closing(db):
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


@contextlib.contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """All or nothing on the mirror.  Images are put in place before it begins."""
    db.execute("BEGIN")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def remove_database(path: Path) -> None:
    """Removes a database with its side files."""
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
