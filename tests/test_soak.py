"""Everything at once, for as long as one likes, over a real sshd; at the end all is right, and nothing has grown.

    ROLLREP_SOAK=60 pytest tests/test_soak.py -s      minutes; by default a moment; says how it goes every minute

    application ──writes, migrates──►  source ──sshd, a line that breaks──► pulls in this process, one after another
                                          ▲ serve is killed                   │ others are killed beside them
                                                                              ▼ mirrors, verifies, prunes, restores

Pulls run in one process, as a service would, so that what leaks there is seen.  It is paced: much of the time it waits.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import make
import psutil
import pytest
from oracle import assert_same
from sources import Application, recompute
from ssh_servers import OpensshServer, Proxy, public_line
from test_ssh_pull import Place

from rollrep.hooks import plugin_manager
from rollrep.jobs.config import load_config
from rollrep.jobs.run import run_pull
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits

MINUTES = float(os.environ.get("ROLLREP_SOAK", "0.01"))
PAUSE_S = 0.5 if MINUTES > 1 else 0.0
KEPT = 40
"""points of which the whole database is kept, to compare what is restored"""
FINE = ("temporary", "locked", "not_set_up", "mirror_needed")
"""what an error may be called where something is broken on purpose"""


class Soak:
    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.rng = random.Random(seed)
        self.came: Counter[str] = Counter()
        self.used: list[dict[str, int]] = []
        self.number = 0
        self.kept = place.folder / "kept"
        self.kept.mkdir()
        make.build("rails", place.db.with_name("shop.db"), rows=150)
        place.db = place.db.with_name("shop.db")
        with contextlib.closing(open_source(place.db)) as db:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            install(db, Limits(keep_rows=3_000, keep_keys=20_000))
        self.job(place.sshd.port)
        self.hooks = plugin_manager()

    def job(self, port: int) -> None:
        self.place.configure(port=port)
        with self.place.config.open("a") as file:
            file.write('snapshot = "20s"\nkeep = { operations = "3m", last = 5 }\n')

    def pull(self, *, broken: bool = False, mirror: bool = False) -> None:
        config = load_config(self.place.config)
        result = run_pull(
            config, config.jobs["shop"], self.hooks, lambda *_: None, mirror=mirror, tries=1 if broken else 4
        )
        if result.error and not (broken and result.error.kind in FINE):
            raise result.error
        self.came[
            result.error.kind if result.error else f"{result.outcome.answer} {result.outcome.reason}".strip()
        ] += 1

    # what happens

    def quiet_pull(self) -> None:
        self.pull()

    def line_breaks(self) -> None:
        with Proxy(self.place.sshd.port) as proxy:
            with self.place.known_hosts.open("a") as known:
                known.write(f"[127.0.0.1]:{proxy.port} {public_line(self.place.sshd.host_key)}\n")
            self.job(proxy.port)
            proxy.cut_after(int(10 ** self.rng.uniform(2, 5.5)))
            self.pull(broken=True)
        self.job(self.place.sshd.port)
        self.place.known_hosts.write_text(self.place.sshd.known_line)

    def serve_is_killed(self) -> None:
        with self.beside("pull") as puller:
            self.in_a_while(self.kill_serves, puller)

    def puller_is_killed(self) -> None:
        with self.beside("pull") as puller:
            self.in_a_while(lambda: puller.send_signal(self.rng.choice([signal.SIGKILL, signal.SIGTERM])), puller)

    def migration(self) -> None:
        self.number += 1
        self.place.write(*self.rng.choice([
            (f"CREATE TABLE extra{self.number}(id INTEGER PRIMARY KEY, a)", f"INSERT INTO extra{self.number}(a) VALUES (1)"),
            (f"DROP TABLE IF EXISTS extra{self.number - 1}",),
            (f"ALTER TABLE users ADD COLUMN more{self.number} DEFAULT {self.number}",
             f"ALTER TABLE users DROP COLUMN more{self.number}"),
            ("VACUUM",),
        ]))  # fmt: skip

    def mirrored_again(self) -> None:
        self.pull(mirror=True)

    def log_rolls_over(self) -> None:
        self.place.write(
            *["UPDATE users SET updated_at = updated_at || 'x'"] * 30, "UPDATE users SET updated_at = 'now'"
        )

    def verified(self) -> None:
        self.good("verify", "shop", "--against-source")

    def checked_at_rest(self) -> None:
        self.good("verify", "shop")

    def pruned(self) -> None:
        self.good("prune", "shop")

    def read_for_long(self) -> None:
        """Somebody holds the mirror and the source as they were, over a pull."""
        with contextlib.closing(open_source(self.place.db)) as db:
            db.execute("BEGIN; SELECT count(*) FROM users").fetchall()
            self.pull()

    def restored(self) -> None:
        self.pull()
        found = json.loads(self.good("points", "shop", "--json"))["points"]
        known = [
            point for point in found if point.get("restorable", True) and (self.kept / f"{point['id']}.db").exists()
        ]
        if known:
            point = self.rng.choice(known)
            output, kept = self.place.folder / "restored.db", self.kept / f"{point['id']}.db"
            self.good("restore", "shop", "--at", f"point:{point['point']}", "-o", str(output), "--force")
            recompute(kept)
            assert_same(kept, output)
            self.came["a point was what it had been"] += 1

    # how

    def good(self, *arguments: str) -> str:
        done = self.place.run(*arguments)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    @contextlib.contextmanager
    def beside(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(Path(os.sys.executable).with_name("rollrep")), *arguments]  # type: ignore[attr-defined]
        with subprocess.Popen(
            command, cwd=self.place.folder, env=self.place.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as child:  # fmt: skip
            yield child

    def in_a_while(self, do: Callable[[], None], child: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(self.rng.uniform(0.1, 1.5))
        do()

    def kill_serves(self) -> None:
        for each in psutil.Process(self.place.sshd.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "serve" in each.cmdline():
                    each.kill()

    def forget_old(self) -> None:
        kept = sorted(self.kept.glob("*.db"), key=lambda path: int(path.stem))
        for path in kept[:-KEPT]:
            path.unlink()

    def measure(self) -> None:
        gc.collect()
        me = psutil.Process()
        size = lambda path: path.stat().st_size if path.exists() else 0  # noqa: E731
        self.used.append({
            "handles": me.num_fds(), "threads": me.num_threads(), "memory": me.memory_info().rss,
            "source's WAL": size(self.place.db.with_name("shop.db-wal")),
            "mirror's WAL": size(self.place.mirror.with_name("mirror.db-wal")),
            "store": sum(path.stat().st_size for path in self.place.store.rglob("*") if path.is_file()),
        })  # fmt: skip

    def is_flat(self) -> None:
        """The last third is what the second third was; the first one fills what is bounded."""
        third = len(self.used) // 3
        before, after = self.used[third : 2 * third], self.used[-third:]
        for what, most in (("handles", 3), ("threads", 3), ("memory", 16 << 20), ("source's WAL", 8 << 20),
                           ("mirror's WAL", 8 << 20), ("store", 16 << 20)):  # fmt: skip
            grown = statistics.median(each[what] for each in after) - statistics.median(each[what] for each in before)
            assert grown <= most, (
                f"{what} grew by {grown:,.0f}: {[each[what] for each in self.used[:: max(1, third // 8)]]}"
            )


EVENTS: dict[Callable[[Soak], None], int] = {
    Soak.quiet_pull: 12, Soak.line_breaks: 5, Soak.serve_is_killed: 2, Soak.puller_is_killed: 3, Soak.migration: 3,
    Soak.mirrored_again: 1, Soak.log_rolls_over: 1, Soak.verified: 1, Soak.checked_at_rest: 1, Soak.pruned: 1,
    Soak.read_for_long: 1, Soak.restored: 3,
}  # fmt: skip


@pytest.mark.sshd
@pytest.mark.timeout(60 * MINUTES + 600)
def test_all_is_right_and_nothing_has_grown_when_everything_went_on_for_long(
    tmp_path: Path, sshd: OpensshServer
) -> None:
    soak = Soak(Place(tmp_path, sshd), seed=1)
    application = Application(soak.place.db, "rails", 1, soak.kept, points_every=15)
    began = said = time.monotonic()
    try:
        while time.monotonic() - began < 60 * MINUTES:
            event = soak.rng.choices([*EVENTS], [*EVENTS.values()])[0]
            application.start(soak.rng.choice([1, 10, 40]))
            try:
                event(soak)
            finally:
                application.wait()
            soak.came[event.__name__] += 1
            soak.forget_old()
            soak.measure()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{(said - began) / 60:.0f} min {dict(sorted(soak.came.items()))} {soak.used[-1]}", flush=True)
            time.sleep(PAUSE_S)
    finally:
        application.close()
    soak.pull()
    soak.place.assert_mirrored()
    soak.verified()
    soak.checked_at_rest()
    for _ in range(5 if MINUTES > 1 else 1):
        soak.restored()
    print(f"{dict(sorted(soak.came.items()))}\n{soak.used[len(soak.used) // 3]}\n{soak.used[-1]}")
    if MINUTES >= 5:
        soak.is_flat()
