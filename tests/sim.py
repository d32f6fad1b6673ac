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
import faulthandler
import hashlib
import json
import logging
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

import apsw
import oracle
import pluggy
from draws import SeededDraw
from sim_disk import Clock, Disk, Unsynced, installed
from sim_faults import INJECTIONS
from sim_line import Line, LineFault
from sim_reader import Reader
from sim_source import Source
from sources import recompute

from rollrep.core import clock as rollrep_clock
from rollrep.core.errors import NotRestorable, VerifyFailed
from rollrep.core.moments import Latest
from rollrep.destination import indexes
from rollrep.destination import pull as puller
from rollrep.destination.catalog import Catalog
from rollrep.destination.catalog_rows import CatalogPoint
from rollrep.destination.choosing import find_point, restorable
from rollrep.destination.restore import plan, restore
from rollrep.destination.store import Store
from rollrep.hooks import Hooks
from rollrep.jobs import run as running
from rollrep.jobs.config import Config, Job
from rollrep.jobs.run import Result, run_pull
from rollrep.source import digests, pages, reader
from rollrep.source.tables import Limits
from rollrep.wire import forgotten_ranges

LONGEST_S = 240
"""a run that takes longer hangs: it says where, and ends"""
HONEST_PULLS = 6
"""how many pulls without any fault may be needed until all is as it should be"""


ONLY = os.environ.get("SIM_ONLY", "").split()
"""names of injections; all where there is none"""


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
        """injection: what came of it"""
        self.done: Counter[str] = Counter()
        """how often each injection was drawn"""
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
        self.at_rest: Callable[[], None] = lambda: None
        """what is done whenever serve waits for the destination"""
        self.at_steps: dict[tuple[str, int], Callable[[], None]] = {}
        self.at_name: tuple[str, Callable[[], None]] | None = None
        """what is done before the first step whose name has this in it"""
        self.typical = {"pull": 400, "serve": 120}
        self.accept = False
        self.step_name = ""
        self.current = "the beginning"
        """the injection under way"""
        self.answers: Path | None = None
        """another database, which answers in the place of the source"""
        self.disk.at_step = self.on_step

    # ------------------------------------------------------------ steps

    def on_step(self, who: str, number: int, name: str) -> None:
        self.step_name = name
        self.reader.look()
        planned = self.at_steps.pop((who, number), None)
        if self.at_name and self.at_name[0] in name:
            planned, self.at_name = self.at_name[1], None
        if planned is not None:
            planned()

    def open_stream(self, _address: object, _options: object) -> Line:
        known = {str(self.source.path): self.answers} if self.answers else None
        self.line = Line(self.disk, known, self.line_faults, self.most_unread)
        self.line.at_rest = self.at_rest
        return self.line

    def at(self, who: str, do: Callable[[], None]) -> None:
        """Plans something for a step of the pull to come: any, early ones as likely as late ones."""
        self.at_steps[who, self.step_of(who)] = do

    def step_of(self, who: str) -> int:
        return self.rng.randint(1, self.typical[who] + self.typical[who] // 8)

    # ------------------------------------------------------------ pulls

    def run_pull(self, *, mirror: bool = False) -> Result:
        return run_pull(
            self.config, self.job, self.hooks, lambda *_: None, mirror=mirror, accept_source=self.accept, tries=1
        )

    def pull(self, why: str = "pull", *, mirror: bool = False) -> Result:
        """One pull by rollrep's own code.  Raises Finding where it ends in a way that it never should."""
        self.disk.steps.clear()
        self.line = None
        before = apsw.connections()
        with self.disk.acting("pull"):
            result = self.run_pull(mirror=mirror)
            self.reader.look()
        self.typical = {who: max(20, self.disk.steps[who]) for who in ("pull", "serve")}
        self.at_steps.clear()
        ended = result.error.kind if result.error else f"{result.outcome.answer} {result.outcome.reason}".strip()
        self.tell(f"{why}: {ended}{f': {result.error}' if result.error else ''}")
        self.saw(ended)
        if self.line and self.line.wrong is not None:
            raise Finding("serve died of an error of its own") from self.line.wrong
        if left := self.left_open(before):
            raise Finding(f"the pull left databases open: {left}")
        return result

    def left_open(self, before: list[apsw.Connection]) -> list[str]:
        """Files of this run that rollrep still has open: whatever went wrong, nothing waits to be collected."""
        others = {id(db) for db in (*before, self.source.db, self.reader.db)}
        left = [db.filename for db in apsw.connections() if id(db) not in others]
        return sorted(Path(each).name for each in left if each.startswith(str(self.folder)))

    def honest(self) -> Result:
        """Pulls until one succeeds, doing what the errors say; whatever was planned is over."""
        self.line_faults = []
        self.disk.fault = None
        mirror = False
        for _ in range(HONEST_PULLS):
            result = self.pull(mirror=mirror)
            if result.error is None:
                self.accept = False
                return result
            self.accept = "--accept-source" in result.error.remedy
            mirror = self.accept or "rollrep mirror" in result.error.remedy
        raise Finding(f"{HONEST_PULLS} honest pulls, and still: {result.error}") from result.error

    def exchange_store(self, image: Path) -> None:
        """From now on the destination's folder is `image`, as after a death."""
        with self.disk.acting("judge"):
            self.reader.forget()
            shutil.rmtree(self.folder / "store")
            image.rename(self.folder / "store")
            self.disk.unsynced = Unsynced()

    # ------------------------------------------------------------ from begin to end

    def begin(self, limits: Limits | None = None) -> None:
        rng = self.rng
        reader.IMAGE_ROWS = rng.choice([1, 5, 40, 65_536])
        reader.FIRST_CHUNK_ROWS = rng.choice([1, 3, 1_000])
        forgotten_ranges.LEAST_WIDTH = 4
        puller.WINDOW_ROWS = rng.choice([1, 7, 524_288])
        indexes.LEAST_CHANGES = rng.choice([1, 20_000])
        # By dice of its own: what the run draws otherwise stays what it was.
        pages.LEAST_BYTES = random.Random(f"{self.seed} pages").choice([0, pages.LEAST_BYTES])
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
        names = [
            each.name for each in INJECTIONS.values() if each.name in (ONLY or INJECTIONS) for _ in range(each.weight)
        ]
        self.begin()
        for _ in range(self.rng.randint(2, 7)):
            name = self.rng.choice(names)
            self.tell(f"-- {name}")
            self.current = name
            self.done[name] += 1
            INJECTIONS[name].do(self)
        self.tell("-- the end")
        self.current = "the end"
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
            self.newest_point_is_the_source()
            self.points_are_what_they_were()
            leftovers = [path.name for path in self.store.folder.rglob("*.part*")]
            if leftovers:
                raise Finding(f"left behind: {leftovers}")

    def newest_point_is_the_source(self) -> None:
        output = self.folder / "newest.db"
        with Catalog(self.store.catalog) as catalog:
            newest = find_point(catalog, Latest())
            self.restore(catalog, newest, output)
        same(self.source.path, output)

    def points_are_what_they_were(self) -> None:
        output = self.folder / "restored.db"
        with Catalog(self.store.catalog) as catalog:
            found = [point for point in restorable(catalog) if point.label in self.source.points]
            for point in self.rng.sample(found, min(3, len(found))):
                kept = self.source.points[str(point.label)]
                self.restore(catalog, point, output)
                recompute(kept)
                same(kept, output)
                self.saw("point restored")

    def restore(self, catalog: Catalog, point: CatalogPoint, output: Path) -> None:
        try:
            restore(self.store, catalog, plan(catalog, point), output, force=True, progress=lambda _: None)
        except (NotRestorable, VerifyFailed) as error:
            raise Finding(f"{point.label or point.id} is offered, and can't be restored: {error}") from error

    def saw(self, what: str) -> None:
        """Counts what came of the injection under way."""
        self.seen[f"{self.current}: {what}"] += 1

    def tell(self, what: str) -> None:
        self.said.append(what.replace(str(self.folder), ""))


def same(expected: Path, found: Path) -> None:
    a = oracle.dump(expected)
    try:
        b = oracle.dump(found)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Finding(f"{found.name} is damaged") from error
    for each in (a, b):
        each["header"].pop("user_version"), each["header"].pop("application_id")
    differences = oracle.differences(a, b)
    if differences:
        raise Finding(f"{found.name} is not {expected.name}:\n  " + "\n  ".join(differences[:8]))


class LastOfAll:
    """What a thread does beside other work, when all of that is done: in one order, whatever the seed."""

    def __init__(self, target: Callable[..., object], args: tuple[object, ...], name: str) -> None:
        self._work = lambda: target(*args)

    def start(self) -> None:
        return

    def join(self) -> None:
        self._work()


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

    def dice_hex(count: int) -> str:
        return dice.randbytes(count).hex()

    from rollrep.destination import leaves as own_leaves
    from rollrep.destination import mirror_db
    from rollrep.source import database, leaves
    from rollrep.source import install as installing

    fake_time = types.SimpleNamespace(monotonic=clock.monotonic, perf_counter=clock.monotonic, sleep=clock.sleep)
    put = [
        (rollrep_clock, "dt", types.SimpleNamespace(datetime=Datetime, UTC=real_dt.UTC)),
        (rollrep_clock, "time", fake_time),
        (digests, "time", fake_time),
        (database, "time", fake_time),
        (leaves, "time", fake_time),
        (pages, "time", fake_time),
        *((each, "secrets", types.SimpleNamespace(token_hex=dice_hex)) for each in (installing, own_leaves)),
        (mirror_db, "threading", types.SimpleNamespace(Thread=LastOfAll)),
        (running, "open_stream", run.open_stream),
        *((module, name, getattr(module, name)) for module, name in TUNED),
    ]
    was = [(module, name, getattr(module, name)) for module, name, _ in put]
    for module, name, value in put:
        setattr(module, name, value)
    logging.getLogger("rollrep").setLevel(logging.CRITICAL)
    mask = os.umask(0o077)
    try:
        with installed(disk):
            yield
    finally:
        os.umask(mask)
        logging.getLogger("rollrep").setLevel(logging.NOTSET)
        for module, name, value in was:
            setattr(module, name, value)


TUNED = (
    (reader, "IMAGE_ROWS"), (reader, "FIRST_CHUNK_ROWS"), (puller, "WINDOW_ROWS"), (indexes, "LEAST_CHANGES"),
    (forgotten_ranges, "LEAST_WIDTH"), (pages, "LEAST_BYTES"),
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


Told = tuple[int, str, Counter[str], Counter[str], Counter[str], int]


def one(seed: int) -> Told:
    """A seed for the pool: (seed, what was found or "", what was done, what was seen, names of steps, states)."""
    try:
        run = simulate(seed)
    except BaseException:
        return seed, traceback.format_exc(), Counter(), Counter(), Counter(), 0
    return seed, "", run.done, run.seen, run.disk.names, run.reader.states


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no other seed after so long")
    parser.add_argument("--stop", action="store_true", help="at the first that fails")
    parser.add_argument("--told", type=Path, help="a file for what was done and seen, as JSON: fixtures/faults_page.py")
    asked = parser.parse_args()
    if asked.seed is not None:
        run = simulate(asked.seed)
        print("\n".join(run.said))
        print(f"seed {asked.seed}: nothing found; trace {trace_of(run)}")
        return 0
    return many(asked)


def many(asked: argparse.Namespace) -> int:
    began, failed, states, runs = time.monotonic(), [], 0, 0
    done, seen, names = Counter[str](), Counter[str](), Counter[str]()
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("fork")) as pool:
        seeds = range(asked.first, asked.first + asked.seeds)
        for seed, error, its_done, its_seen, its_names, its_states in pool.map(one, seeds, chunksize=4):
            runs += 1
            done.update(its_done)
            seen.update(its_seen)
            names.update(its_names)
            states += its_states
            if error:
                failed.append(seed)
                print(f"seed {seed}:\n{error}", flush=True)
            if (error and asked.stop) or time.monotonic() - began > asked.minutes * 60:
                pool.shutdown(cancel_futures=True)
                break
    spent_s = time.monotonic() - began
    for what, count in sorted(seen.items()):
        print(f"{count:9,} {what}")
    if asked.told:
        told = {"seeds": runs, "seconds": round(spent_s), "states": states, "failed": failed, "done": done,
                "seen": seen, "steps": sum(names.values()), "names": sorted(names)}  # fmt: skip
        asked.told.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
    print(
        f"{runs:,} seeds, {spent_s:.0f} s; {sum(done.values()):,} injections of {len(done)} kinds;"
        f" {sum(names.values()):,} steps by {len(names)} names; {states:,} states of the mirror seen;"
        f" {len(failed)} failed{f': make sim SEED={failed[0]}' if failed else ''}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
