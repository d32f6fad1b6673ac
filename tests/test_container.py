"""Files at rest: altered, cut, lying, or left over by somebody who was killed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import oracle
import pytest
import zstandard
from sources import copy_source, pull_once

from rollrep.core.errors import VerifyFailed
from rollrep.destination import container
from rollrep.destination.archive import KIND as SEGMENT
from rollrep.destination.catalog import Catalog
from rollrep.destination.restore import plan, restore
from rollrep.destination.snapshots import KIND as SNAPSHOT
from rollrep.destination.store import Store
from rollrep.source.database import open_source
from rollrep.source.install import install
from rollrep.source.tables import Limits


class Holds(msgspec.Struct, frozen=True):
    name: str
    number: int


HOLDS = Holds("naïve \x00 日本", -7)


def packed_file(path: Path, raw: bytes, *, raw_bytes: int | None = None) -> Path:
    packed = zstandard.ZstdCompressor(level=3).compress(raw)
    container.write_packed(path, "kind", packed, len(raw) if raw_bytes is None else raw_bytes, HOLDS)
    return path


def read_all(path: Path, kind: str, target: Path) -> bytes:
    """The payload by every way of reading; all must agree."""
    container.read_manifest(path, kind)
    raw = container.read_raw(path, kind)
    container.unpack_to(path, kind, target)
    assert target.read_bytes() == raw
    return raw


def refused_by_all(path: Path, kind: str, target: Path) -> bool:
    """Whether no way of reading gives the payload; each refuses with VerifyFailed, or this raises."""
    refusals = 0
    for read in (lambda: container.read_raw(path, kind), lambda: container.unpack_to(path, kind, target)):
        try:
            read()
        except VerifyFailed as error:
            refusals += 1
            assert str(path) in error.facts
            assert "\n" not in str(error)
    return refusals == 2


# ---------------------------------------------------------------- round trip


@pytest.mark.parametrize("size", [0, 1, 511, 100_000, 3_000_000])
def test_payload_comes_back_when_it_was_written(tmp_path: Path, size: int) -> None:
    raw = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    path = packed_file(tmp_path / "one.x", raw)
    assert read_all(path, "kind", tmp_path / "out") == raw
    assert container.read_holds(path, "kind", Holds) == HOLDS

    source = tmp_path / "raw"
    source.write_bytes(raw)
    other = tmp_path / "two.x"
    assert container.write_file(other, "kind", source, HOLDS) == other.stat().st_size
    assert read_all(other, "kind", tmp_path / "out") == raw
    assert not list(tmp_path.glob(f"*{container.TEMPORARY}"))


def test_file_is_refused_when_it_is_of_another_kind_or_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed_file(tmp_path / "one.x", b"abc")
    with pytest.raises(VerifyFailed, match="not a snapshot"):
        container.read_raw(path, SNAPSHOT)
    monkeypatch.setattr(container, "FORMAT", 3)
    with pytest.raises(VerifyFailed, match="format 2"):
        container.read_raw(path, "kind")


def test_file_is_refused_when_it_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(VerifyFailed, match="missing"):
        container.read_raw(tmp_path / "none", "kind")


def test_file_never_appears_when_writing_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(container.DiskFull):
        packed_file(tmp_path / "one.x", b"abc")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- real files, made worse


class Life:
    """A store of one snapshot and three segments, and the source at the end of each pull."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "app.db"
        self.store = Store(folder / "store", "job")
        with contextlib.closing(apsw.Connection(str(self.db))) as db:
            db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
        with contextlib.closing(open_source(self.db)) as db:
            install(db, Limits())
        self.ids: list[int] = []
        for turn in range(4):
            with contextlib.closing(open_source(self.db)) as db:
                for n in range(12):
                    db.execute("INSERT INTO t(a) VALUES (?)", (f"turn {turn}, row {n}",))
                db.execute("UPDATE t SET a = a || '!' WHERE id % 3 = ?", (turn % 3,))
            outcome = pull_once(self.store, self.db)
            assert outcome.position is not None
            self.ids.append(outcome.position.id)
            copy_source(self.db, folder / f"{outcome.position.id}.db")

    @property
    def segments(self) -> list[Path]:
        return sorted(self.store.archive.rglob("*.segment"))

    @property
    def snapshot(self) -> Path:
        [path] = self.store.snapshots.glob("*.snapshot")
        return path

    def restore(self, log_id: int) -> Path:
        """Restores to a new file and compares with the source as it was."""
        output = self.folder / f"out-{log_id}.db"
        output.unlink(missing_ok=True)
        with Catalog(self.store.catalog) as catalog:
            [point] = (point for point in catalog.points() if point.id == log_id)
            restore(self.store, catalog, plan(catalog, point), output, force=False, progress=lambda _: None)
        oracle.assert_same(self.folder / f"{log_id}.db", output)
        return output


@pytest.fixture
def life(tmp_path: Path) -> Life:
    made = Life(tmp_path)
    assert len(made.segments) == 3
    return made


@pytest.fixture(params=[SEGMENT, SNAPSHOT])
def real(request: pytest.FixtureRequest, life: Life) -> tuple[str, Path]:
    return request.param, life.segments[1] if request.param == SEGMENT else life.snapshot


@contextlib.contextmanager
def holding(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(before)


def test_any_altered_byte_is_detected_when_a_file_is_read(real: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = real
    good, rng = path.read_bytes(), random.Random(f"{real[0]} 7")
    read_all(path, kind, tmp_path / "out")
    # Every seventh byte, and each of the last 200: the manifest's frame is where mistakes are made.
    places = sorted({*range(0, len(good), 7), *range(len(good) - 200, len(good))})
    for at in places:
        bad = bytearray(good)
        bad[at] ^= rng.randrange(1, 256)
        with holding(path, bytes(bad)):
            assert refused_by_all(path, kind, tmp_path / "out"), f"byte {at} of {len(good)}"


def test_any_cut_is_detected_when_a_file_is_read(real: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = real
    good = path.read_bytes()
    for size in sorted({*range(0, len(good), 50), *range(60), *range(len(good) - 60, len(good))}):
        with holding(path, good[:size]):
            assert refused_by_all(path, kind, tmp_path / "out"), f"cut to {size} of {len(good)}"


def test_anything_added_is_detected_when_a_file_is_read(real: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = real
    good = path.read_bytes()
    for bad in (good + b"\0", good + good, b"\0" + good, good[:100] + b"\0" + good[100:], good[4:], good + good[-4:]):
        with holding(path, bad):
            assert refused_by_all(path, kind, tmp_path / "out")


def test_file_is_a_sqlite_database_when_unpacked_without_rollrep(
    real: tuple[str, Path], tmp_path: Path, life: Life
) -> None:
    kind, path = real
    plain = tmp_path / "plain.db"
    with path.open("rb") as file, plain.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(file, out)
    assert plain.read_bytes() == container.read_raw(path, kind)
    assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes()), read_across_frames=True).read(
        -1
    ) == (plain.read_bytes())
    with contextlib.closing(sqlite3.connect(plain)) as con:
        assert con.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        count = "SELECT count(*) FROM log" if kind == SEGMENT else "SELECT count(*) FROM t"
        assert con.execute(count).fetchone()[0] >= 12


def test_file_is_a_sqlite_database_when_unpacked_by_the_zstd_program(real: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = real
    done = subprocess.run(["zstd", "-d", "-c", "-q"], stdin=path.open("rb"), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == container.read_raw(path, kind)


# ---------------------------------------------------------------- lies


def bomb(path: Path, says: int, holds: int) -> Path:
    """A container whose manifest says `says` bytes and whose frame unpacks to `holds` zeros."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    piece = bytes(1 << 20)
    packed = b"".join(compressor.compress(piece) for _ in range(holds >> 20)) + compressor.flush()
    assert len(packed) < 200_000
    container.write_packed(path, "kind", packed, says, HOLDS)
    return path


@pytest.mark.parametrize("way", ["container.read_raw(path, 'kind')", "container.unpack_to(path, 'kind', target)"])
def test_bomb_is_refused_in_bounded_memory_when_it_says_it_is_small(tmp_path: Path, way: str) -> None:
    path = bomb(tmp_path / "bomb.x", 1 << 20, 1 << 30)
    script = f"""
        import resource, sys
        from pathlib import Path
        from rollrep.core.errors import VerifyFailed
        from rollrep.destination import container
        path, target = Path(sys.argv[1]), Path(sys.argv[2])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            {way}
        except VerifyFailed:
            print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
    """
    target = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), path, target], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout, "it was believed"
    assert int(done.stdout) < 64, f"{done.stdout.strip()} MiB were taken"
    assert not target.exists() or target.stat().st_size <= 2 << 20


@pytest.mark.parametrize("says", [0, 99, 101, 1 << 20])
def test_file_is_refused_when_its_payload_is_not_as_long_as_it_says(tmp_path: Path, says: int) -> None:
    path = packed_file(tmp_path / "one.x", bytes(100), raw_bytes=says)
    assert refused_by_all(path, "kind", tmp_path / "out")


def test_file_is_refused_when_its_payload_is_no_zstd(tmp_path: Path) -> None:
    path = tmp_path / "one.x"
    for payload in (b"", b"this is no zstd frame", struct.pack("<II", container.SKIPPABLE, 4) + b"skip"):
        container.write_packed(path, "kind", payload, 100, HOLDS)
        assert refused_by_all(path, "kind", tmp_path / "out")


def test_file_is_refused_when_its_manifest_is_valid_but_senseless(tmp_path: Path) -> None:
    path = packed_file(tmp_path / "one.x", bytes(100))
    good = path.read_bytes()
    (length,) = struct.unpack("<I", good[-4:])
    payload = good[: -(length + 44)]
    for text in (b"", b"null", b"[]", b"{}", b'{"format":1}', b'{"format":"1","kind":"kind"}', b"\xff", b'{"for\xff":1}', b"[" * 5000,
                 b'{"more":' + b"[" * 90_000 + b"]" * 90_000 + b"}"):  # fmt: skip
        digest = hashlib.sha256(text).digest()
        end = struct.pack("<II", container.SKIPPABLE, len(text) + 36) + text + digest + struct.pack("<I", len(text))
        with holding(path, payload + end):
            assert refused_by_all(path, "kind", tmp_path / "out"), text


# ---------------------------------------------------------------- left over


def test_leftovers_are_swept_when_the_next_pull_begins(life: Life) -> None:
    store = life.store
    line = life.segments[0].parent
    leftovers = [
        store.snapshots / "20261122T190801.123Z-1-99.snapshot.part",
        store.snapshots / "snapshot.db.part",
        store.snapshots / "snapshot.db.part-journal",
        line / "000000000099-000000000120.segment.part",
        store.folder / "incoming.db.part",
    ]
    before = sorted(store.folder.rglob("*"))
    for each in leftovers:
        each.write_bytes(b"half")
    pull_once(store, life.db)
    assert [each for each in leftovers if each.exists()] == []
    assert sorted(store.folder.rglob("*")) == before


# ---------------------------------------------------------------- restoring from them


def test_every_pull_is_restorable_when_all_is_whole(life: Life) -> None:
    for log_id in life.ids:
        life.restore(log_id)


def test_restore_names_the_file_and_writes_nothing_when_a_byte_of_its_segment_is_altered(life: Life) -> None:
    bad = life.segments[1]
    good, rng = bad.read_bytes(), random.Random(16)
    for at in rng.sample(range(len(good)), 25):
        data = bytearray(good)
        data[at] ^= 1 << rng.randrange(8)
        with holding(bad, bytes(data)):
            files = sorted(life.folder.rglob("*"))
            for log_id in life.ids[2:]:
                with pytest.raises(VerifyFailed) as refused:
                    life.restore(log_id)
                assert bad.name in refused.value.facts
                assert refused.value.exit_code == 16
                assert sorted(life.folder.rglob("*")) == files
            for log_id in life.ids[:2]:
                life.restore(log_id).unlink()
    life.restore(life.ids[-1])


def test_restore_names_the_file_and_writes_nothing_when_a_byte_of_its_snapshot_is_altered(life: Life) -> None:
    bad = life.snapshot
    good, rng = bad.read_bytes(), random.Random(17)
    for at in rng.sample(range(len(good)), 25):
        data = bytearray(good)
        data[at] ^= 1 << rng.randrange(8)
        with holding(bad, bytes(data)):
            files = sorted(life.folder.rglob("*"))
            with pytest.raises(VerifyFailed) as refused:
                life.restore(life.ids[0])
            assert bad.name in refused.value.facts
            assert sorted(life.folder.rglob("*")) == files


def test_restore_refuses_when_a_segment_stands_under_the_name_of_another(life: Life) -> None:
    first, second, third = life.segments
    shutil.copyfile(third, second)
    files = sorted(life.folder.rglob("*"))
    with pytest.raises(VerifyFailed):
        life.restore(life.ids[-1])
    assert sorted(life.folder.rglob("*")) == files
    life.restore(life.ids[1])
    assert first.exists()


def test_restore_refuses_when_a_segment_is_gone(life: Life) -> None:
    life.segments[1].unlink()
    files = sorted(life.folder.rglob("*"))
    with pytest.raises(VerifyFailed, match="missing"):
        life.restore(life.ids[-1])
    assert sorted(life.folder.rglob("*")) == files


def test_command_ends_with_16_and_one_sentence_when_a_segment_is_damaged(life: Life) -> None:
    config = life.folder / "rollrep.toml"
    config.write_text(f'store = "{life.store.folder.parent}"\n[jobs.job]\nsource = "local:{life.db}"\n')
    bad = life.segments[2]
    data = bytearray(bad.read_bytes())
    data[len(data) // 3] ^= 4
    bad.write_bytes(data)
    rollrep = Path(sys.executable).with_name("rollrep")
    at = f"id:{life.ids[-1]}"
    command = [rollrep, "restore", "job", "--at", at, "-c", config, "-o", life.folder / "out.db"]
    files = sorted(life.folder.rglob("*"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 16
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert bad.name in done.stderr
    assert done.stderr.count("  next: ") == 1
    assert sorted(life.folder.rglob("*")) == files
