"""What may happen in a run: each a function of the run, with its number in docs/faults.md and its weight.

    @injection("X21 X26", "the puller is killed at any of its steps", 6)
    def puller_killed(run): ...

A run draws them by weight.  Each either ends by itself, or leaves what it did to the pulls that follow; whatever it
does, `Run.end` must find the mirror equal to the source, and every point what it was.

Knows: the run, rollrep's functions that a command would call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pluggy
from sim_disk import Died, DiskFault
from sim_line import draw_faults

from rollrep.core.errors import RollrepError
from rollrep.destination.at_rest import verify_at_rest
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.expire import expire
from rollrep.destination.keeping import make_snapshot
from rollrep.destination.mending import mend
from rollrep.destination.mirror_db import state_of
from rollrep.destination.rebuild import rebuild_catalog
from rollrep.destination.restore import plan, restore
from rollrep.destination.retention import Grid
from rollrep.destination.verify import Asked
from rollrep.hooks import Hooks, hookimpl, quiesced
from rollrep.jobs import verify as verifying
from rollrep.jobs.run import translated
from rollrep.source import pages
from rollrep.source.install import uninstall
from rollrep.source.tables import Limits

if TYPE_CHECKING:
    from sim import Run

LARGER_THAN_ANY = 1 << 40


@dataclasses.dataclass(frozen=True)
class Injection:
    name: str
    faults: tuple[str, ...]
    """their numbers in docs/faults.md"""
    how: str
    weight: int
    do: Callable[[Run], None]


INJECTIONS: dict[str, Injection] = {}


def injection(faults: str, how: str, weight: int) -> Callable[[Callable[[Run], None]], Callable[[Run], None]]:
    def listed(do: Callable[[Run], None]) -> Callable[[Run], None]:
        INJECTIONS[do.__name__] = Injection(do.__name__, tuple(faults.split()), how, weight, do)
        return do

    return listed


# ---------------------------------------------------------------- no fault at all


@injection("X12", "the application works: transactions, savepoints, rollbacks, statements that fail", 6)
def work(run: Run) -> None:
    for _ in range(run.rng.choice([1, 2, 6])):
        run.source.work(transfers=run.rng.choice([0, 1, 3]), statements=run.rng.choice([0, 2, 5]))


@injection("", "a point is written, and the whole database kept as it is then", 3)
def point(run: Run) -> None:
    run.tell(f"point {run.source.point()}")


@injection("", "a pull without any fault", 2)
def pull(run: Run) -> None:
    run.honest()


@injection("X20", "the schema changes between two pulls: any ALTER, rebuilt tables, dropped ones, VACUUM", 2)
def migration(run: Run) -> None:
    (run.source.vacuum if run.rng.random() < 0.3 else run.source.migrate)()


@injection("X14 X16 X34", "more is written than the log holds, before the next pull", 2)
def log_rolls_over(run: Run) -> None:
    burst(run)


def burst(run: Run) -> None:
    run.source.burst(run.rng.choice([20, run.whole_log // 2, run.whole_log]))


@injection("X15", "one transaction larger than a window, an image and the whole log", 1)
def huge_transaction(run: Run) -> None:
    run.source.work(transfers=run.whole_log // 3, statements=0)
    run.pull("huge transaction")


# ---------------------------------------------------------------- while a pull runs


DEEDS: dict[str, Callable[[Run], None]] = {
    "work": work, "burst": burst, "migrate": lambda run: run.source.migrate(), "point": point,
    "vacuum": lambda run: run.source.vacuum(), "clock": lambda run: INJECTIONS["clock_jump"].do(run),  # noqa: PLW0108
}  # fmt: skip


@injection("X14 X23", "at steps of serve the application writes, outruns the log, vacuums, writes points", 6)
def writing_inside(run: Run) -> None:
    kinds = run.rng.choice([["work"], ["work", "burst"], ["work", "vacuum", "point", "clock"]])
    for _ in range(run.rng.choice([1, 3, 10])):
        run.at("serve", lambda: DEEDS[run.rng.choice(kinds)](run))
    run.pull("writing: " + "+".join(kinds))


@injection("X24", "at steps of serve tables are added, dropped, rebuilt and renamed, while all is mirrored again", 3)
def migration_inside(run: Run) -> None:
    for _ in range(run.rng.choice([1, 3, 6])):
        run.at("serve", lambda: DEEDS[run.rng.choice(["migrate", "migrate", "work"])](run))
    run.pull("migrating", mirror=run.rng.random() < 0.6)


@injection("X23", "the log rolls over again and again while all is mirrored again", 1)
def outrun(run: Run) -> None:
    apart = run.rng.choice([9, 40])
    for number in range(12):
        run.at_steps["serve", 20 + number * apart] = lambda: run.source.burst(run.whole_log)
    run.pull("outrun", mirror=True)


@injection(
    "X18", "whenever serve waits for a slow destination, the application checkpoints: nothing may hold its WAL", 2
)
def slow_destination(run: Run) -> None:
    def checkpoint() -> None:
        with run.disk.acting("app"):
            # Something that no log row speaks of: a WAL of which all is written back already is held by nobody.
            assert run.source.attempt(f"PRAGMA user_version = {len(waits)}"), "serve holds a lock while it waits"
            blocked, frames, done = run.source.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert (blocked, frames) == (0, done), "serve holds a read transaction while it waits"
            waits.append("")

    waits: list[str] = []
    most, run.most_unread, run.at_rest = run.most_unread, 1, checkpoint
    least, pages.LEAST_BYTES = pages.LEAST_BYTES, LARGER_THAN_ANY  # a copy by pages does hold it
    run.source.burst(run.rng.choice([3, 60]))
    run.pull("slow destination", mirror=run.rng.random() < 0.3)
    run.most_unread, run.at_rest, pages.LEAST_BYTES = most, lambda: None, least
    assert waits, "serve never waited"


@injection("X21 X26", "the puller is killed at any of its steps: the folder as it was then", 7)
def puller_killed(run: Run) -> None:
    with dying(run, power=False):
        meanwhile(run)
        run.pull("puller killed", mirror=run.rng.random() < 0.1)


@injection("X26", "the destination loses power at any of its steps: what was not synced is lost, in any part", 5)
def power_lost(run: Run) -> None:
    with dying(run, power=True):
        meanwhile(run)
        run.pull("power lost", mirror=run.rng.random() < 0.1)


def meanwhile(run: Run) -> None:
    if run.rng.random() < 0.3:
        run.at("serve", lambda: DEEDS[run.rng.choice(["work", "burst", "migrate"])](run))


@contextlib.contextmanager
def dying(run: Run, *, power: bool) -> Iterator[None]:
    """The process that works inside is dead from some step on: what it did later never was."""
    image = run.folder / "image"
    died: list[int] = []

    def die() -> None:
        died.append(run.disk.steps["pull"])
        run.disk.image(image, power=power, rng=run.rng)

    run.at("pull", die)
    yield
    if died:
        run.tell(f"  it had died at its step {died[0]}")
        run.exchange_store(image)


@injection("X21", "serve is killed at any of its steps", 3)
def serve_killed(run: Run) -> None:
    def die() -> None:
        assert run.line is not None
        run.line.cut = True
        raise Died

    run.at("serve", die)
    run.pull("serve killed")


@injection(
    "X21 X22 X28 X29",
    "bytes of a session are cut, flipped, lost, doubled, stalled; frames doubled, of another version",
    6,
)
def line_breaks(run: Run) -> None:
    run.line_faults = draw_faults(run.rng, run.rng.choice([1, 1, 3]))
    meanwhile(run)
    run.pull("line: " + "+".join(sorted({fault.kind for fault in run.line_faults})))
    for fault in run.line_faults:
        run.tell(f"  {fault.kind} to {fault.to} at {fault.at}{', happened' if fault.happened else ''}")
    run.line_faults = []


@injection("X32", "writes of the destination fail from any one on, once, four times or for ever: ENOSPC, EIO", 6)
def disk_fails(run: Run) -> None:
    with failing(run) as code:
        meanwhile(run)
        run.pull(code, mirror=run.rng.random() < 0.1)


@contextlib.contextmanager
def failing(run: Run) -> Iterator[str]:
    code = run.rng.choice([errno.ENOSPC, errno.ENOSPC, errno.EIO])
    run.disk.fault = DiskFault(code, run.step_of("pull") // 4 + 1, run.rng.choice([1, 4, 100_000]))
    yield errno.errorcode[code]
    run.disk.fault = None


@injection("X9", "a second puller comes at any step of the first", 1)
def two_pullers(run: Run) -> None:
    def second() -> None:
        line, first_is_in = run.line, "destination/store." not in run.step_name
        result = run.run_pull()
        locked = result.error is not None and result.error.exit_code == 11
        assert locked or not first_is_in, f"the second puller: {result.error}"
        run.line = line
        run.saw(f"second puller {'locked out' if locked else 'was first'}")

    run.at("pull", second)
    run.pull("two pullers")


@injection("X17", "a writer holds the source for the whole pull; in rollback-journal mode nobody can read then", 1)
def source_locked(run: Run) -> None:
    with run.disk.acting("app"):
        if not run.source.attempt(run.rng.choice(["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])):
            return
        run.source.attempt("UPDATE bank SET money = money - 1 WHERE id = 1")
    run.source.busy = True
    run.pull("source locked")
    run.source.busy = False
    with run.disk.acting("app"):
        run.source.attempt("ROLLBACK")


# ---------------------------------------------------------------- the source's file


@injection("X1 X2", "the source is put back from a backup, and goes on: less, as far, or further than before", 2)
def restored_from_backup(run: Run) -> None:
    kept = run.source.backup()
    for _ in range(run.rng.choice([1, 3])):
        work(run)
        if run.rng.random() < 0.7:
            run.pull()
    if run.rng.random() < 0.5:
        run.source.point()
        run.pull()
    run.source.replace_by(kept)
    if run.rng.random() < 0.6:
        run.source.burst(run.rng.choice([3, 40, run.whole_log]))
    run.pull("restored from a backup")


@injection("X3", "a copy of the source at another path answers", 1)
def copy_answers(run: Run) -> None:
    refused(run, run.source.backup(), "a copy answers")


@injection("X6", "another database with a log of its own answers", 1)
def stranger_answers(run: Run) -> None:
    other = run.folder / "other.db"
    with run.disk.acting("app"), contextlib.closing(apsw.Connection(str(other))) as db:
        if not db.execute("SELECT 1 FROM sqlite_schema").fetchall():
            db.execute("CREATE TABLE bank(id INTEGER PRIMARY KEY, money); INSERT INTO bank VALUES (1, 5)")
            run.source.install(run.limits, path=other)
    refused(run, other, "a stranger answers")


def refused(run: Run, other: Path, why: str) -> None:
    """A pull from `other` must not be believed; a first pull knows no better."""
    if not run.store.mirror.exists() or run.store.staging.exists():
        return
    before = run.reader.shown()
    run.answers = other
    result = run.pull(why)
    run.answers = None
    assert result.error is not None, f"{why}, and was believed"
    if result.error.exit_code == 2:
        assert run.reader.shown() == before, f"{why}, was refused, and the mirror changed"


@injection("X4", "the log is emptied, cut, dropped", 1)
def log_harmed(run: Run) -> None:
    sql = run.rng.choice([
        "DELETE FROM _rollrep_log", "DELETE FROM _rollrep_log WHERE id % 7 = 3", "DROP TABLE _rollrep_log",
        "DELETE FROM _rollrep_forgotten",
    ])  # fmt: skip
    with run.disk.acting("judge"):
        mirror = None if run.store.staging.exists() else state_of(run.store.mirror)
    if "%" in sql and (mirror is None or mirror.position.id != run.source.head()):
        # Ids go on from the newest row: that it is gone, when no pull has seen it, nobody can see until verify looks.
        sql += f" AND id < {run.source.head()}"
    run.tell(f"source: {sql}")
    with run.disk.acting("app"):
        newest = run.source.newest_point()
        run.source.attempt(sql)
        if (point := run.source.newest_point()) != newest:
            # Rows after it are gone, and one may have said that the schema had changed: nobody can see that.
            run.source.points.pop(point, None)
        run.source.install(run.limits)
        run.source.new_era()
    run.pull("log harmed")


@injection("X5", "capture is taken out, the application writes on, and it is put in again", 1)
def put_in_again(run: Run) -> None:
    with run.disk.acting("app"):
        uninstall(run.source.db)
    work(run)
    with run.disk.acting("app"):
        run.source.install(run.limits)
        run.source.new_era()
    run.pull("put in again")


@injection("X11", "the source's machine dies inside a transaction of which pages are on the disk already", 1)
def source_dies(run: Run) -> None:
    source = run.source
    with run.disk.acting("app"):
        source.db.execute("PRAGMA cache_size = 2")
        if not source.attempt("BEGIN IMMEDIATE"):
            return
        for _ in range(run.rng.choice([1, 30])):
            source.transfer()
        source.attempt("UPDATE bank SET money = money - 1")
        found = {
            end: source.beside(end).read_bytes() for end in ("", "-wal", "-journal") if source.beside(end).exists()
        }
        source.attempt("ROLLBACK")
        before = source.shown()
        source.replace_by(found)
        assert source.shown() == before, "half a transaction of the application"
    run.pull("source died")


@injection("X13", "something is written that no trigger sees; then verify", 1)
def bypass(run: Run) -> None:
    run.honest()
    with run.disk.acting("app"):
        run.reader.paused = True
        run.source.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        run.source.attempt("UPDATE bank SET money = money + id - 2.5")
        run.source.attempt("DELETE FROM ledger WHERE n % 3 = 1")
        run.source.db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 1)
    # Without another row in the log, what was there before and this have one and the same log id.
    head = run.source.head()
    while run.source.head() == head:
        run.source.work(statements=0)
    resumed = run.honest().outcome.answer != "mirror"
    repaired(run, "bypass", must_differ=resumed)


@injection("X19", "the source's file is damaged, and put back", 1)
def source_damaged(run: Run) -> None:
    whole = run.source.backup()
    run.source.replace_by({"": whole.read_bytes()[:4096] + b"\x5a" * 60_000})
    before = run.reader.shown()
    result = run.pull("source damaged")
    assert result.error is not None, "a damaged source was believed"
    assert run.reader.shown() == before or before is None, "a damaged source changed the mirror"
    run.source.replace_by(whole)


@injection("X33", "the source's disk is full: the application's own error, and pulls go on", 1)
def source_full(run: Run) -> None:
    with run.disk.acting("app"):
        pages = run.source.db.pragma("page_count")
        run.source.db.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        for _ in range(30):
            run.source.work(transfers=5, statements=0)
        run.source.db.execute("PRAGMA max_page_count = 4294967294").fetchall()
        run.source.saw()
    run.pull("source full")


@injection("X39", "a table is left out, and taken in again; the log's limit is lowered", 1)
def choices_change(run: Run) -> None:
    tables = [table.name for table in run.source.tables()]
    if not tables:
        return
    with run.disk.acting("app"):
        run.source.install(run.limits, exclude=(run.rng.choice(tables),))
    work(run)
    run.pull("table left out")
    with run.disk.acting("app"):
        run.limits = Limits(keep_rows=31, keep_keys=run.limits.keep_keys)
        run.source.install(run.limits)
    run.pull("table taken in again")


# ---------------------------------------------------------------- the destination's files


@injection("X7", "the mirror is put back from an older copy", 1)
def older_mirror(run: Run) -> None:
    if not run.store.mirror.exists():
        return
    with run.disk.acting("judge"):
        run.reader.forget()
        kept = {end: path.read_bytes() for end in ("", "-wal") if (path := beside(run.store.mirror, end)).exists()}
    work(run)
    run.pull()
    with run.disk.acting("judge"):
        run.reader.forget()
        for end in ("", "-wal", "-shm"):
            beside(run.store.mirror, end).unlink(missing_ok=True)
        for end, content in kept.items():
            beside(run.store.mirror, end).write_bytes(content)
    run.pull("older mirror")


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@injection("X8 X25 X40", "rows of the mirror are changed and removed by hand; then work on them, and verify", 1)
def mirror_edited(run: Run) -> None:
    # What is recorded from the edit to its repair has the edit in it, also a point where the mirror stands.
    head = run.source.head()
    while run.source.head() == head:
        run.source.work(statements=0)
    run.honest()
    with run.disk.acting("judge"):
        run.reader.forget()
        run.reader.paused = True
        with contextlib.closing(apsw.Connection(str(run.store.mirror))) as db:
            db.execute(run.rng.choice(["DELETE FROM bank WHERE id = 2", "UPDATE bank SET money = 7 WHERE id = 3"]))
    if run.rng.random() < 0.4:
        run.source.work(transfers=8, statements=0)
        run.pull("edited mirror")
    run.honest()  # a row may not be replayed any more, and the error says what to do
    repaired(run, "edited mirror", must_differ=False)


def repaired(run: Run, why: str, *, must_differ: bool) -> None:
    """Verify finds what differs, repairs it, and finds nothing the second time."""
    for expected in (False, True):
        with run.disk.acting("pull"):
            result = verifying.verify_source(run.config, run.job, Asked((), True), lambda *_: None)
        differed = result.verified.rows_differing > 0
        if not expected and must_differ:
            assert differed, f"{why}: verify saw nothing"
        assert not (expected and differed), f"{why}: verify has not repaired all"
    run.saw("repaired by verify")
    run.reader.forget()
    run.reader.paused = False


@injection(
    "X22 X40",
    "one bit of an archived file is flipped: verify names it; then it is put right, put aside, or fetched again",
    1,
)
def bit_rots(run: Run) -> None:
    if not any(run.store.archive.rglob("*.segment")) and not any(run.store.snapshots.glob("*.snapshot")):
        return
    with Catalog(run.store.catalog) as catalog:
        flipped = flip_a_bit(run, catalog)
    if flipped is None:
        return
    file, sound = flipped
    with run.disk.acting("pull"):
        found = verifying.verify_rest(run.config, run.job, lambda *_: None).at_rest
    assert file.name in " ".join(f"{each.path} {each.text}" for each in found.problems), f"{file.name}: not seen"
    run.saw("named by verify")
    way = run.rng.random()
    if mended := way < 0.5:
        run.saw("put aside")
    elif way > 0.8 or not is_healed(run, file):
        file.write_bytes(sound)
    with run.disk.acting("pull"):
        verifying.verify_rest(run.config, run.job, lambda *_: None, repair=mended)
        found = verifying.verify_rest(run.config, run.job, lambda *_: None).at_rest
    assert file.name not in " ".join(f"{each.path} {each.text}" for each in found.problems), "damage without an end"


def is_healed(run: Run, file: Path) -> bool:
    """Whether a pull fetched the rows of a damaged file again, though one before it may have died."""
    if run.rng.random() < 0.5:
        with dying(run, power=run.rng.random() < 0.5):
            run.pull("healing")
    run.pull("healing")
    with Catalog(run.store.catalog) as catalog:
        healed = str(file.relative_to(run.store.folder)) not in catalog.damaged()
    if healed:
        run.saw("fetched again")
    return healed


def flip_a_bit(run: Run, catalog: Catalog) -> tuple[Path, bytes] | None:
    """Of a file that the catalog knows; the file, and what it was.  None where there is none.

    Who was killed in between leaves a file that the catalog does not know, and nothing ever reads.
    """
    known = [run.store.folder / each.path for each in (*catalog.segments(), *catalog.snapshots())]
    files = sorted(file for file in known if file.exists() and file.stat().st_size)
    if not files:
        return None
    file = run.rng.choice(files)
    sound = file.read_bytes()
    altered = bytearray(sound)
    altered[run.rng.randrange(len(sound))] ^= 1 << run.rng.randrange(8)
    file.write_bytes(altered)
    return file, sound


def snapshot_it(run: Run, catalog: Catalog) -> None:
    points = restorable(catalog)
    if points:
        make_snapshot(run.store, catalog, run.rng.choice(points), lambda *_: None)


def prune_it(run: Run, catalog: Catalog) -> None:
    confirmed = catalog.confirmed()
    if confirmed:
        expire(run.store, catalog, Grid(last=run.rng.choice([1, 2]), operations_s=0.0), confirmed)


def restore_it(run: Run, catalog: Catalog) -> None:
    points = restorable(catalog)
    output = run.folder / "store" / "out"
    output.mkdir(exist_ok=True)
    if points:
        chosen = run.rng.choice(points)
        restore(run.store, catalog, plan(catalog, chosen), output / "x.db", force=True, progress=lambda *_: None)


def mend_it(run: Run, catalog: Catalog) -> None:
    if not catalog.damaged():
        flip_a_bit(run, catalog)
    mend(run.store, catalog, verify_at_rest(run.store, lambda *_: None))


TASKS = {"mend": mend_it, "prune": prune_it, "restore": restore_it, "snapshot": snapshot_it}


def task(run: Run, kind: str) -> None:
    """What a command does at the destination; its error, if it has one, is remembered as what was seen."""
    run.disk.steps.clear()
    try:
        with (
            run.disk.acting("pull"), translated(run.config, run.job, "make room"), run.store.locked(),
            Catalog(run.store.catalog) as catalog,
        ):  # fmt: skip
            TASKS[kind](run, catalog)
    except RollrepError as error:
        run.tell(f"{kind}: {error}")
        run.saw(f"{kind} {error.kind}")
    else:
        run.saw(f"{kind} done")
    run.at_steps.clear()


@injection(
    "X26", "a snapshot, a prune, a restore or a repair at rest is killed, or loses power, at any of its steps", 3
)
def task_killed(run: Run) -> None:
    if run.store.catalog.exists():
        kind = run.rng.choice(sorted(TASKS))
        run.typical["pull"] = 60
        with dying(run, power=run.rng.random() < 0.5):
            task(run, kind)
        task(run, kind)


@injection(
    "X32",
    "the disk is full or broken while a snapshot is made, files are pruned or put aside, or a point is restored",
    2,
)
def task_without_room(run: Run) -> None:
    if run.store.catalog.exists():
        kind = run.rng.choice(sorted(TASKS))
        run.typical["pull"] = 120
        with failing(run):
            task(run, kind)
        task(run, kind)


@injection("X27", "retention comes at any step of a restore", 1)
def pruned_while_restoring(run: Run) -> None:
    if not run.store.catalog.exists():
        return

    def prune() -> None:
        # It would wait for what is being written just now; and what it says of that is not for SQLite, which is inside
        # of that write: it takes "busy" for an answer there, and believes the page written.
        with contextlib.suppress(apsw.BusyError), Catalog(run.store.catalog) as catalog:
            prune_it(run, catalog)

    run.typical["pull"] = 60
    run.at("pull", prune)
    task(run, "restore")


@injection("X26", "the catalog is lost, and made again of the files", 1)
def catalog_lost(run: Run) -> None:
    if not run.store.mirror.exists() or run.store.staging.exists():
        return
    for end in ("", "-wal", "-shm"):
        beside(run.store.catalog, end).unlink(missing_ok=True)
    with run.disk.acting("pull"), run.store.locked():
        rebuild_catalog(run.store, dry_run=False)
    run.saw("made again")


# ---------------------------------------------------------------- time and people


@injection("X10", "the clock of one machine jumps, by a second to a month, back or ahead", 1)
def clock_jump(run: Run) -> None:
    machine = run.rng.choice(["source", "destination"])
    by = run.rng.choice([-86_400.0, -3_600.0, -1.0, 1.0, 3_600.0, 30 * 86_400.0])
    run.tell(f"the clock of the {machine} jumps by {by:g} s")
    run.clock.offset_s[machine] += by


class Stubborn:
    """A plugin that neither comes to rest nor fails, until it is let go."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.resumed = 0

    @hookimpl
    def rollrep_quiesce(self) -> None:
        self.over.wait(5)

    @hookimpl
    def rollrep_resume(self) -> None:
        self.resumed += 1
        self.over.set()


@injection("X37", "a plugin hangs while the application is to come to rest for a point", 1)
def plugin_hangs(run: Run) -> None:
    plugin = Stubborn()
    hooks = pluggy.PluginManager("rollrep")
    hooks.add_hookspecs(Hooks)
    hooks.register(plugin)
    with quiesced(hooks, run.source.path, None, 0.01) as still:
        assert not still, "a hanging plugin counts as at rest"
        run.source.point()
    assert plugin.resumed >= 1, "the application was left frozen"
    run.saw("resumed in time")
