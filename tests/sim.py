"""One run = one seed: source, line and destination in one process, with disk, clock, network and death under it.

    make sim SEED=17               one seed, told move by move
    make sim SEEDS=1000            many, on all cores; ARGS='--first N' begins elsewhere

    seed ──► a source, an application ──► moves: work, pulls, faults ──► honest pulls ──► equal to the source?
                                              │                                           every point, restored?
                                              └─ before each step of a pull a reader looks at the mirror

The code that runs is rollrep's own: jobs.run.run_pull on one side, source.serve on the other.  What differs from
the world is in sim_disk.py (files, clock, death), sim_line.py (the stream) and nothing else.

Prints how to repeat what fails: `make sim SEED=17`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import hashlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import oracle
import pluggy
from draws import SeededDraw
from sim_disk import Clock, Disk, DiskFault, installed
from sim_line import Line, LineFault, draw_faults
from sim_reader import Reader
from sim_source import Source
from sources import recompute

from rollrep.core import clock as rollrep_clock
from rollrep.core.errors import NotRestorable, RollrepError, VerifyFailed
from rollrep.destination import indexes
from rollrep.destination import pull as puller
from rollrep.destination.catalog import Catalog
from rollrep.destination.restore import plan, restorable, restore
from rollrep.destination.store import Store
from rollrep.hooks import Hooks
from rollrep.jobs import run as running
from rollrep.jobs.config import Config, Job
from rollrep.jobs.run import Result, run_pull
from rollrep.source import digests, reader
from rollrep.source.tables import Limits

LONGEST_S = 60
"""a run that takes longer hangs: it says where, and ends"""
HONEST_PULLS = 6
"""how many pulls without any fault may be needed until all is as it should be"""


class Finding(AssertionError):
    """Something that must never happen."""


class Run:
    """The world of one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.rng = random.Random(seed)
        self.said: list[str] = []
        self.seen: Counter[str] = Counter()
        """fault: what came of it"""
        self.clock = Clock()
        self.disk = Disk(folder, self.clock, seed)
        self.source = Source(folder / "app.db", self.disk, SeededDraw(seed * 2 + 1), self.said)
        self.store = Store(folder / "store", "job")
        self.job = Job("job", f"local:{self.source.path}", snapshot_s=self.rng.choice([0.0, 0.02, 3600.0]))
        self.config = Config(folder / "rollrep.toml", folder / "store", {"job": self.job})
        self.hooks = pluggy.PluginManager("rollrep")
        self.hooks.add_hookspecs(Hooks)
        self.reader = Reader(self.store.mirror, self.disk, self.source.witness)
        self.line_faults: list[LineFault] = []
        self.line: Line | None = None
        self.most_unread = self.rng.choice([1, 3_000, 1 << 20])
        self.at_steps: dict[tuple[str, int], Callable[[], None]] = {}
        self.at_name: tuple[str, Callable[[], None]] | None = None
        """what is done before the first step whose name has this in it"""
        self.typical = {"pull": 400, "serve": 120}
        self.accept = False
        self.unverified = False
        """something was written that no trigger saw, or to the mirror itself"""
        self.disk.at_step = self.on_step

    # ------------------------------------------------------------ steps

    def on_step(self, who: str, number: int, name: str) -> None:
        self.reader.look()
        planned = self.at_steps.pop((who, number), None)
        if self.at_name and self.at_name[0] in name:
            planned, self.at_name = self.at_name[1], None
        if planned is not None:
            planned()

    def open_stream(self, _address: object, _options: object) -> Line:
        self.line = Line(self.disk, None, self.line_faults, self.most_unread)
        return self.line

    # ------------------------------------------------------------ pulls

    def pull(self, why: str = "honest") -> Result:
        """One pull by rollrep's own code.  Raises Finding where it ends in a way that it never should."""
        self.disk.steps.clear()
        self.line = None
        with self.disk.acting("pull"):
            result = run_pull(self.config, self.job, self.hooks, lambda *_: None, accept_source=self.accept, tries=1)
            self.reader.look()
        self.typical = {who: max(20, self.disk.steps[who]) for who in ("pull", "serve")}
        self.at_steps.clear()
        ended = result.error.kind if result.error else f"{result.outcome.answer} {result.outcome.reason}".strip()
        self.tell(f"pull ({why}): {ended}{f': {result.error}' if result.error else ''}")
        self.seen[f"{why}: {ended}"] += 1
        if self.line and self.line.wrong is not None:
            raise Finding("serve died of an error of its own") from self.line.wrong
        return result

    def honest(self) -> Result:
        """Pulls until one succeeds; whatever was planned is over."""
        self.line_faults = []
        self.disk.fault = None
        for _ in range(HONEST_PULLS):
            result = self.pull()
            if result.error is None:
                return result
            self.cure(result.error)
        raise Finding(f"{HONEST_PULLS} honest pulls, and still: {result.error}") from result.error

    def cure(self, error: RollrepError) -> None:
        """What a person does whom the error tells so."""
        if "--accept-source" in error.remedy:
            self.accept = True

    def step_of(self, who: str) -> int:
        """A step of a pull to come: any, early ones as likely as late ones."""
        return self.rng.randint(1, self.typical[who] + self.typical[who] // 8)

    # ------------------------------------------------------------ moves

    def work(self) -> None:
        for _ in range(self.rng.choice([1, 2, 6])):
            self.source.work(transfers=self.rng.choice([0, 1, 3]), statements=self.rng.choice([0, 2, 5]))

    def pull_while_writing(self) -> None:
        """The application writes at steps of the pull; it also outruns the log, changes its schema, vacuums."""
        kinds = self.rng.choice([["work"], ["work", "burst"], ["work", "migrate"], ["work", "vacuum", "point"]])
        for _ in range(self.rng.choice([1, 3, 10])):
            self.at_steps["serve", self.step_of("serve")] = self.deed(self.rng.choice(kinds))
        self.pull("writing: " + "+".join(kinds))

    def deed(self, kind: str) -> Callable[[], None]:
        deeds = {
            "work": self.work, "burst": self.burst,
            "migrate": self.source.migrate, "vacuum": self.source.vacuum, "point": lambda: self.source.point() and None,
        }  # fmt: skip
        return deeds[kind]

    def pull_dies(self) -> None:
        self._pull_dies(power=False)

    def power_fails(self) -> None:
        self._pull_dies(power=True)

    def _pull_dies(self, *, power: bool) -> None:
        """The puller is dead from some step on: what it did later never was."""
        image = self.folder / "image"
        at = self.step_of("pull")
        died: list[str] = []

        def die() -> None:
            died.append("")
            self.disk.image(image, power=power, rng=self.rng)

        self.at_steps["pull", at] = die
        if self.rng.random() < 0.3:
            self.at_steps["serve", self.step_of("serve")] = self.deed(self.rng.choice(["work", "burst", "migrate"]))
        self.pull("power fails" if power else "puller killed")
        if died:
            self.tell(f"  the puller had died at its step {at}")
            self.exchange_store(image)

    def exchange_store(self, image: Path) -> None:
        with self.disk.acting("judge"):
            self.reader.forget()
            shutil.rmtree(self.folder / "store")
            image.rename(self.folder / "store")
            self.disk.unsynced.__init__()  # type: ignore[misc]

    def serve_dies(self) -> None:
        from sim_disk import Died

        def die() -> None:
            assert self.line is not None
            self.line.cut = True
            raise Died

        self.at_steps["serve", self.step_of("serve")] = die
        self.pull("serve killed")

    def line_breaks(self) -> None:
        self.line_faults = draw_faults(self.rng, self.rng.choice([1, 1, 3]))
        kinds = "+".join(sorted({fault.kind for fault in self.line_faults}))
        self.pull(f"line: {kinds}")
        self.tell(
            "  "
            + ", ".join(
                f"{fault.kind} to {fault.to} at {fault.at}{' happened' if fault.happened else ''}"
                for fault in self.line_faults
            )
        )
        self.line_faults = []

    def disk_fails(self) -> None:
        code = self.rng.choice([errno.ENOSPC, errno.ENOSPC, errno.EIO])
        self.disk.fault = DiskFault(code, self.step_of("pull") // 4 + 1, self.rng.choice([1, 4, 100_000]))
        self.pull(errno.errorcode[code])
        self.disk.fault = None

    def restored_from_backup(self) -> None:
        kept = self.source.backup()
        for _ in range(self.rng.choice([1, 3])):
            self.work()
            if self.rng.random() < 0.7:
                self.pull()
        if self.rng.random() < 0.5:
            self.source.point()
            self.pull()
        self.tell("source: restored from a backup")
        self.source.replace_by(kept)
        if self.rng.random() < 0.6:
            self.source.burst(self.rng.choice([3, 40, self.whole_log]))
        self.pull("restored")

    def log_harmed(self) -> None:
        sql = self.rng.choice([
            "DELETE FROM _rollrep_log", "DELETE FROM _rollrep_log WHERE id % 7 = 3", "DROP TABLE _rollrep_log",
            "DELETE FROM _rollrep_forgotten",
        ])  # fmt: skip
        self.tell(f"source: {sql}")
        with self.disk.acting("app"):
            self.source.attempt(sql)
            self.source.install(self.limits)
            self.source.witness.new_era()
            self.source.saw()
        self.pull("log harmed")

    def clock_jumps(self) -> None:
        machine = self.rng.choice(["source", "destination"])
        by = self.rng.choice([-86_400.0, -3_600.0, -1.0, 1.0, 3_600.0, 30 * 86_400.0])
        self.tell(f"clock of the {machine} jumps by {by:g} s")
        self.clock.offset_s[machine] += by

    def point(self) -> None:
        label = self.source.point()
        self.tell(f"point {label}")

    def migrate(self) -> None:
        self.source.migrate()

    def burst(self) -> None:
        self.source.burst(self.rng.choice([20, self.whole_log // 2, self.whole_log]))

    MOVES: tuple[tuple[str, int], ...] = (
        ("work", 6), ("point", 3), ("honest", 2), ("pull_while_writing", 6), ("pull_dies", 6), ("power_fails", 4),
        ("serve_dies", 3), ("line_breaks", 5), ("disk_fails", 5), ("restored_from_backup", 1), ("log_harmed", 1),
        ("clock_jumps", 1), ("migrate", 2), ("burst", 2),
    )  # fmt: skip

    # ------------------------------------------------------------ from begin to end

    def begin(self, limits: Limits | None = None) -> None:
        rng = self.rng
        reader.IMAGE_ROWS = rng.choice([1, 5, 40, 65_536])
        reader.FIRST_CHUNK_ROWS = rng.choice([1, 3, 1_000])
        puller.WINDOW_ROWS = rng.choice([1, 7, 524_288])
        indexes.LEAST_CHANGES = rng.choice([1, 20_000])
        self.source_keeps = rng.choice([31, 100, 10_000])
        self.whole_log = min(200, self.source_keeps + 60)
        """as many rows as a small log holds, and more"""
        self.limits = limits or Limits(keep_rows=self.source_keeps, keep_keys=rng.choice([50, 2_000_000]))
        self.source.create(wal=rng.random() < 0.8, limits=self.limits, tables=rng.choice([0, 1, 2]))
        self.source.point()
        self.tell(f"keep_rows {self.source_keeps}, images of {reader.IMAGE_ROWS}, windows of {puller.WINDOW_ROWS}")
        if rng.random() < 0.6:
            self.honest()

    def live(self) -> None:
        names = [name for name, weight in self.MOVES for _ in range(weight)]
        self.begin()
        for _ in range(self.rng.randint(3, 9)):
            move = self.rng.choice(names)
            self.tell(f"-- {move}")
            getattr(self, move)()
        self.tell("-- the end")
        self.end()

    def end(self) -> None:
        """Whatever happened: honest pulls make the mirror the source, and every point is what it was."""
        self.source.work(statements=0)
        self.honest()
        self.honest()
        with self.disk.acting("judge"):
            self.reader.forget()
            assert not self.source.db.in_transaction
            same(self.source.path, self.store.mirror)
            self.points_are_what_they_were()
            leftovers = [path.name for path in self.store.folder.rglob("*.part*")]
            if leftovers:
                raise Finding(f"left behind: {leftovers}")

    def points_are_what_they_were(self) -> None:
        output = self.folder / "restored.db"
        with Catalog(self.store.catalog) as catalog:
            found = [point for point in restorable(catalog) if point.label in self.source.points]
            for point in self.rng.sample(found, min(3, len(found))):
                kept = self.source.points[str(point.label)]
                try:
                    restore(self.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
                except (NotRestorable, VerifyFailed) as error:
                    raise Finding(f"{point.label} is offered, and can't be restored: {error}") from error
                recompute(kept)
                same(kept, output)
                self.seen["restored"] += 1

    def tell(self, what: str) -> None:
        self.said.append(what.replace(str(self.folder), ""))


def same(expected: Path, found: Path) -> None:
    a, b = oracle.dump(expected), oracle.dump(found)
    for each in (a, b):
        each["header"].pop("user_version"), each["header"].pop("application_id")
    differences = oracle.differences(a, b)
    if differences:
        raise Finding(f"{found.name} is not {expected.name}:\n  " + "\n  ".join(differences[:8]))


@contextlib.contextmanager
def patched(run: Run) -> Iterator[None]:
    """rollrep in the world of `run`: its clock, its disk, its line, its dice."""
    clock, disk = run.clock, run.disk

    class Datetime(rollrep_clock.dt.datetime):  # type: ignore[name-defined,misc]
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real_dt.datetime.fromtimestamp(clock.look(disk.machine()), tz)

    real_dt = rollrep_clock.dt
    dice = random.Random(run.seed)
    from rollrep.source import install as installing

    fake_time = types.SimpleNamespace(monotonic=clock.monotonic, perf_counter=clock.monotonic, sleep=clock.sleep)
    put = [
        (rollrep_clock, "dt", types.SimpleNamespace(datetime=Datetime, UTC=real_dt.UTC)),
        (rollrep_clock, "time", fake_time),
        (digests, "time", fake_time),
        (installing, "secrets", types.SimpleNamespace(token_hex=lambda n: dice.randbytes(n).hex())),
        (running, "open_stream", run.open_stream),
        *((module, name, getattr(module, name)) for module, name in TUNED),
    ]
    was = [(module, name, getattr(module, name)) for module, name, _ in put]
    for module, name, value in put:
        setattr(module, name, value)
    mask = os.umask(0o077)
    try:
        with installed(disk):
            yield
    finally:
        os.umask(mask)
        for module, name, value in was:
            setattr(module, name, value)


TUNED = (
    (reader, "IMAGE_ROWS"), (reader, "FIRST_CHUNK_ROWS"), (puller, "WINDOW_ROWS"), (indexes, "LEAST_CHANGES"),
)  # fmt: skip


def simulate(seed: int, root: Path | None = None) -> Run:
    """The whole run of one seed.  Raises what it finds, with all that was said as a note."""
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    folder = Path(tempfile.mkdtemp(prefix=f"sim{seed}-", dir=root or memory()))
    run = Run(seed, folder)
    try:
        with patched(run):
            try:
                run.live()
            finally:
                run.reader.forget()
                if run.source.db is not None:
                    run.source.close()
    except BaseException as error:
        error.add_note("\n".join([f"repeat it: make sim SEED={seed}", *run.said]))
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        shutil.rmtree(folder, ignore_errors=True)
    return run


def memory() -> str | None:
    """A file system in memory, where there is one: a run writes a thousand small files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def trace_of(run: Run) -> str:
    """What tells two runs apart: all that was said, and every step by its name."""
    told = "\n".join([*run.said, *(f"{name} {count}" for name, count in sorted(run.disk.names.items()))])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


Told = tuple[int, str, Counter[str], Counter[str], int, int]


def one(seed: int) -> Told:
    """A seed for the pool: (seed, what was found or "", what was seen, names of steps, states, trace)."""
    try:
        run = simulate(seed)
    except BaseException:
        return seed, traceback.format_exc(), Counter(), Counter(), 0, 0
    return seed, "", run.seen, run.disk.names, run.reader.states, run.reader.looks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--stop", action="store_true", help="at the first that fails")
    asked = parser.parse_args()
    if asked.seed is not None:
        run = simulate(asked.seed)
        print("\n".join(run.said))
        print(f"seed {asked.seed}: nothing found; trace {trace_of(run)}")
        return 0
    began, failed, seen, names, states = time.monotonic(), [], Counter[str](), Counter[str](), 0
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("fork")) as pool:
        for seed, error, its_seen, its_names, its_states, _ in pool.map(
            one, range(asked.first, asked.first + asked.seeds), chunksize=4
        ):
            seen.update(its_seen)
            names.update(its_names)
            states += its_states
            if error:
                failed.append(seed)
                print(f"seed {seed}:\n{error}", flush=True)
                if asked.stop:
                    break
    for what, count in sorted(seen.items()):
        print(f"{count:7} {what}")
    spent = time.monotonic() - began
    print(
        f"{asked.seeds:,} seeds, {spent:.0f} s; {sum(names.values()):,} steps by {len(names)} names;"
        f" {states:,} states of the mirror seen; {len(failed)} failed{f': make sim SEED={failed[0]}' if failed else ''}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
