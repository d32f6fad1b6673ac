"""A source that says one thing wrong: a message or an image of a true session, changed under a seed.

    serve ──► message n: any field, to a value that means trouble ──► the real wire ──► a real pull
              image n:   its table, its rows, its bytes, what is said of its size

    python tests/hostile_source.py [SEEDS] [FIRST]      so many seeds; says which end in anything but an error of ours

What a pull may end with is what a person is told in a sentence: an error of ours, or one of SQLite or the file system,
of which `translated` makes one.  Nothing may lie outside of the job's folder, and an honest source heals what was
believed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import oracle
import zstandard
from sim import memory
from sources import pull_once

from rollrep.core.errors import RollrepError
from rollrep.destination.store import Store
from rollrep.source import reader, serve
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits
from rollrep.wire import frames, messages

LONGEST_S = 20.0
NUMBERS = (
    0, 1, -1, 2, 7, 255, 65_536, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63), -(2**63) - 1, 4e18
)  # fmt: skip
WORDS = (
    "", "\0", "a\0b", "'", '"', "x'; DROP TABLE t; --", '"."', "main", "sqlite_schema", "_rollrep_state", "t", "u", "temp",
    "rowid", "../../outside", "/tmp/outside", "%s%n", "\u202e", "\U0001f4a9", "NaN", "1e999", "i:1", "i:" + "9" * 30, "t:61",
    "t:6", "t:zz", "n:", "b:00", "r:0x1p-1", "r:nan", "r:0x1p9999", "9" * 400, "x" * 70_000, "SELECT 1", "CREATE TABLE t(a)",
    "mirror", "resume", "up_to_date", "pruned", "table", "index", "trigger", "view", "UTF-16le", "INTEGER PRIMARY KEY",
)  # fmt: skip
VALUES = (None, 0, -1, 2**63 - 1, -(2**63), 1e999, 0.5, "", "a\0b", b"", b"\0\xff", "x" * 9_000, "i:1", "9" * 30)
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b);
CREATE TABLE u(k TEXT, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;
CREATE INDEX t_b ON t(b);
CREATE VIRTUAL TABLE f USING fts5(body);
INSERT INTO t WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 30) SELECT i, 'a' || i, x'00' FROM c;
INSERT INTO u SELECT a, id, id / 2.0 FROM t;
INSERT INTO f SELECT a FROM t;
"""
WORK = """
INSERT INTO t(a, b) VALUES ('new' || random(), 1);
UPDATE t SET b = 'other' WHERE id % 5 = 1;
DELETE FROM u WHERE n = (SELECT min(n) FROM u);
INSERT INTO f VALUES ('more words');
"""
KINDS = ("first", "resume", "compared", "forgotten", "shadows", "schema")


def scene(kind: str, folder: Path) -> None:
    """`app.db`, and a store that a pull of `kind` would go on with."""
    path, store = folder / "app.db", Store(folder / "store", "job")
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.execute(SCHEMA).fetchall()
    with contextlib.closing(open_source(path)) as db:
        install(db, Limits(keep_rows=20 if kind in ("forgotten", "compared") else 10_000,
                           keep_keys=5 if kind == "compared" else 10_000))  # fmt: skip
        if kind != "first":
            pull_once(store, path)
        for _ in range(30 if kind in ("forgotten", "compared") else 2):
            db.execute(WORK).fetchall()
        if kind == "schema":
            db.execute("ALTER TABLE t ADD COLUMN c DEFAULT 7; CREATE VIEW w AS SELECT a FROM t").fetchall()
        db.execute("INSERT INTO _rollrep_point(label) VALUES ('here')").fetchall()


Said = tuple[Any, bytes | None]


class Liar:
    """What stands in the place of serve's `say`: the n-th thing it says is another."""

    def __init__(self, seed: int, at: int, *, again: bool) -> None:
        self.rng = random.Random(seed)
        self.at = at
        self.again = again
        """from then on in every message of that kind"""
        self.told = ""
        self.said = 0
        self._about: type[messages.Message] | None = None
        self._lie: Callable[[Any, bytes | None], Said] = self._other_field
        self._what: Any = None
        self._path: tuple[Any, ...] = ()
        self._value: Any = None

    def say(self, server: Any, message: messages.Message, packed: bytes | None = None) -> None:
        self.said += 1
        payload = json.loads(messages.encode(message))
        if self.said == self.at:
            self._about = type(message)
            kinds = [self._other_field, self._other_field, self._other_message]
            if packed is not None and payload.get("image"):
                kinds = [self._other_field, *[self._other_image] * 2]
            self._lie = self.rng.choice(kinds)
        if self.said == self.at or (self.again and self.said > self.at and type(message) is self._about):
            payload, packed = self._lie(payload, packed)
            self.told = f"{'again and again ' if self.again else ''}{type(message).__name__}: {self._what}"
        self._write(server, json.dumps(payload).encode(), packed)

    def _write(self, server: Any, payload: bytes, packed: bytes | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            server._stdout.write(frames.encode(frames.MESSAGE, payload))
            for piece in reader.slices(packed, frames.LIMITS[frames.DATA]) if packed else ():
                server._stdout.write(frames.encode(frames.DATA, piece))
            server._stdout.flush()

    def _other_message(self, payload: Any, packed: bytes | None) -> Said:
        self._what = self._what or self.rng.choice([
            {"say": "Done"}, {"say": "Changed"}, {"say": "Overrun", "oldest": 5}, {"say": "Overrun", "oldest": 1 << 40},
            {"say": "Refusal", "error": "SystemExit", "facts": "\x1b[2J no\nrollrep: done"},
            {"say": "Refusal", "error": "Temporary", "facts": "x" * 100_000},
        ])  # fmt: skip
        return self._what, None

    def _other_field(self, payload: Any, packed: bytes | None) -> Said:
        if not self._path:
            self._path = self.rng.choice(list(paths_of(payload)))
            holder, key = at_path(payload, self._path)
            self._value = self._another(holder[key])
            self._what = f"{self._path} {str(holder[key])[:60]!r} -> {str(self._value)[:60]!r}"
        with contextlib.suppress(LookupError, TypeError):
            holder, key = at_path(payload, self._path)
            holder[key] = self._value
        return payload, packed

    def _another(self, was: Any) -> Any:
        rng = self.rng
        if isinstance(was, bool):
            return not was
        if isinstance(was, int):
            return rng.choice([*NUMBERS, was + 1, was - 1, was * 2, -was])
        if isinstance(was, str):
            return rng.choice([*WORDS, was + "x", was[1:], was.swapcase(), was * 2])
        if isinstance(was, list):
            longer = [*was, *was], [was] * 3, was * 500
            return rng.choice([[], was[1:], was[:-1], was[::-1], *longer])
        if isinstance(was, dict):
            return rng.choice([None, {}, [], dict(list(was.items())[1:])])
        return rng.choice([*NUMBERS[:6], "", "i:1", [], {}, ["i:1"], ["t:61", "i:3"], ["i:1"] * 300])

    def _other_image(self, payload: Any, packed: bytes | None) -> Said:
        assert packed is not None
        rng, image = self.rng, payload["image"]
        raw = bytearray(zstandard.ZstdDecompressor().decompress(packed, image["raw_bytes"]))
        kind = rng.choice(["bytes", "bytes", "rows", "rows", "rows", "schema", "size", "random", "bomb"])
        self._what = f"image: {kind}"
        if kind == "bytes":
            for _ in range(rng.choice([1, 3, 30])):
                raw[rng.randrange(len(raw))] = rng.choice([0, 1, 255, rng.randrange(256)])
        elif kind == "random":
            raw = bytearray(rng.randbytes(len(raw)))
        elif kind == "size":
            raw = raw[: rng.randrange(len(raw))]
        elif kind == "bomb":
            raw = raw + bytes(64 << 20)
        else:
            raw = self._in_sql(raw, schema=kind == "schema")
        packed, said = packed_as(bytes(raw))
        image.update(said)
        return payload, packed

    def _in_sql(self, raw: bytearray, *, schema: bool) -> bytearray:
        rng = self.rng
        with contextlib.closing(apsw.Connection(":memory:")) as db:
            try:
                db.deserialize("main", bytes(raw))
                [(table, text)] = db.execute("SELECT name, sql FROM sqlite_schema").fetchall()
                columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()]
                column, value = rng.choice(columns), rng.choice(VALUES)
                if schema:
                    sql = rng.choice([
                        f"CREATE TABLE more AS SELECT * FROM {table}",
                        f"DROP TABLE {table}; CREATE VIEW {table} AS SELECT {', '.join(f'1 AS {each}' for each in columns)}",
                        f"CREATE TRIGGER r AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END",
                        f"ALTER TABLE {table} ADD COLUMN more", f"CREATE INDEX i ON {table}({column})",
                        f"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = '{text} STRICT'",
                        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 1",
                        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('table', 'z', 'z', 3, 'CREATE TABLE z(a)')",
                    ])  # fmt: skip
                    db.execute(sql).fetchall()
                else:
                    some = f"rowid IN (SELECT rowid FROM {table} ORDER BY random() LIMIT {rng.choice([1, 3, 99])})"
                    if rng.random() < 0.2:
                        db.execute(f"DELETE FROM {table} WHERE {some}").fetchall()
                    elif column != "id":
                        db.execute(f"UPDATE {table} SET {column} = ? WHERE {some}", (value,)).fetchall()
                    else:
                        db.execute(
                            f"UPDATE {table} SET id = id + ? WHERE {some}", (rng.choice(NUMBERS[:8]),)
                        ).fetchall()
                    self._what = f"image: {column} = {value!r:.40}"
                return bytearray(db.serialize("main"))
            except (apsw.Error, ValueError):
                return raw


def packed_as(raw: bytes) -> tuple[bytes, dict[str, Any]]:
    """An image and what is said of it."""
    packed = zstandard.ZstdCompressor().compress(raw)
    digest = hashlib.sha256(packed).hexdigest()
    return packed, {"raw_bytes": len(raw), "packed_bytes": len(packed), "sha256": digest}


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from paths_of(inner, (*path, key))


def at_path(value: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    """(holder, key) of what is there."""
    for key in path[:-1]:
        value = value[key]
    return value, path[-1]


@functools.cache
def prepared(kind: str, root: Path) -> tuple[Path, int]:
    """What to copy to `root / "here"`, where it was made, and how much is said in a pull of it."""
    scene(kind, fresh(root))
    kept = shutil.copytree(root / "here", root / kind)
    with lying(Liar(0, at=0, again=False)) as nobody, contextlib.suppress(RollrepError):
        pulled(kind, root)
    return kept, nobody.said


def fresh(root: Path) -> Path:
    folder = root / "here"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@contextlib.contextmanager
def lying(liar: Liar) -> Iterator[Liar]:
    honest = serve._Server.say
    serve._Server.say = lambda *how: liar.say(*how)  # type: ignore[method-assign]  # noqa: PLW0108
    try:
        yield liar
    finally:
        serve._Server.say = honest  # type: ignore[method-assign]


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError(f"it is not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pulled(kind: str, root: Path) -> None:
    pull_once(Store(root / "here" / "store", "job"), root / "here" / "app.db", mirror=kind == "compared")


def lie(seed: int, root: Path) -> str:
    """One pull from a liar, and then honest ones.  What came of it, in a word; raises where that may not be."""
    kind = KINDS[seed % len(KINDS)]
    kept, said = prepared(kind, root)
    dice = random.Random(seed)
    liar = Liar(seed, at=dice.randint(1, said), again=dice.random() < 0.3)
    folder = fresh(root)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    before = {each.name for each in folder.iterdir()}
    ended = "believed"
    try:
        with lying(liar), no_longer_than(LONGEST_S):
            pulled(kind, root)
    except (RollrepError, apsw.Error, OSError) as error:
        ended = type(error).__name__
    except BaseException as error:
        error.add_note(f"{kind}, message {liar.at}: {liar.told}")
        raise
    try:
        now = {each.name for each in folder.iterdir()}
        assert now - before <= {"store", "app.db-wal", "app.db-shm"}, f"something outside: {now - before}"
        heal(Store(folder / "store", "job"), folder / "app.db")
    except BaseException as error:
        error.add_note(f"{kind}, message {liar.at}: {liar.told}; {ended}")
        raise
    return f"{kind} {ended}" if liar.told else "nothing said"


def heal(store: Store, path: Path) -> None:
    """Honest pulls, as their errors advise, make the mirror the source again."""
    with contextlib.suppress(RollrepError, apsw.Error):
        pull_once(store, path)
    pull_once(store, path, mirror=True, accept_source=True)
    oracle.assert_same(path, store.mirror)


def main() -> None:
    seeds, first = (int(each) for each in [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]])
    came: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=memory()) as root:
        for seed in range(first, first + seeds):
            try:
                came[lie(seed, Path(root))] += 1
            except BaseException as error:
                came[f"WRONG {type(error).__name__}"] += 1
                print(f"seed {seed}: {''.join(traceback.format_exception(error)[-4:])}", flush=True)
    for what, count in sorted(came.items()):
        print(f"{count:7,} {what}")


if __name__ == "__main__":
    main()
