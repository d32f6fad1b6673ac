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
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
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


class Liar:
    """What stands in the place of serve's `say`: the n-th thing it says is another."""

    def __init__(self, seed: int, at: int) -> None:
        self.rng = random.Random(seed)
        self.at = at
        self.told = ""
        self.said = 0

    def say(self, server: Any, message: messages.Message, packed: bytes | None = None) -> None:
        self.said += 1
        payload = json.loads(messages.encode(message))
        if self.said == self.at:
            image = payload.get("image")
            if packed is not None and image and self.rng.random() < 0.5:
                packed = self._other_image(packed, image)
            else:
                self._other_field(payload)
            self.told = f"{type(message).__name__}: {self.told}"
        with contextlib.suppress(BrokenPipeError):
            server._stdout.write(frames.encode(frames.MESSAGE, json.dumps(payload).encode()))
            for piece in reader.slices(packed, frames.LIMITS[frames.DATA]) if packed else ():
                server._stdout.write(frames.encode(frames.DATA, piece))
            server._stdout.flush()

    def _other_field(self, payload: Any) -> None:
        spots = list(spots_of(payload))
        holder, key = self.rng.choice(spots)
        was = holder[key]
        holder[key] = self._another(was)
        self.told = f"{key} {str(was)[:60]!r} -> {str(holder[key])[:60]!r}"

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

    def _other_image(self, packed: bytes, image: dict[str, Any]) -> bytes:
        rng = self.rng
        raw = bytearray(zstandard.ZstdDecompressor().decompress(packed, image["raw_bytes"]))
        kind = rng.choice(["bytes", "bytes", "rows", "rows", "rows", "schema", "size", "random", "bomb"])
        self.told = f"image: {kind}"
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
        packed = zstandard.ZstdCompressor().compress(bytes(raw))
        image.update(raw_bytes=len(raw), packed_bytes=len(packed), sha256=hashlib.sha256(packed).hexdigest())
        return packed

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
                    self.told = f"image: {column} = {value!r:.40}"
                return bytearray(db.serialize("main"))
            except (apsw.Error, ValueError):
                return raw


def spots_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of each value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from spots_of(inner)


@functools.cache
def prepared(kind: str, root: Path) -> tuple[Path, int]:
    """What to copy to `root / "here"`, where it was made, and how much is said in a pull of it."""
    scene(kind, fresh(root))
    kept = shutil.copytree(root / "here", root / kind)
    with lying(Liar(0, at=0)) as nobody, contextlib.suppress(RollrepError):
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


def pulled(kind: str, root: Path) -> None:
    pull_once(Store(root / "here" / "store", "job"), root / "here" / "app.db", mirror=kind == "compared")


def lie(seed: int, root: Path) -> str:
    """One pull from a liar, and then honest ones.  What came of it, in a word; raises where that may not be."""
    kind = KINDS[seed % len(KINDS)]
    kept, said = prepared(kind, root)
    liar = Liar(seed, at=random.Random(seed).randint(1, said))
    folder = fresh(root)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    before = {each.name for each in folder.iterdir()}
    began, ended = time.monotonic(), "believed"
    try:
        with lying(liar):
            pulled(kind, root)
    except (RollrepError, apsw.Error, OSError) as error:
        ended = type(error).__name__
    except BaseException as error:
        error.add_note(f"{kind}, message {liar.at}: {liar.told}")
        raise
    try:
        assert time.monotonic() - began < LONGEST_S, f"it took {time.monotonic() - began:.0f} s"
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
