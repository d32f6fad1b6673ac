"""Files at rest: a zstd frame, and behind it a manifest that says what it is.

    part          bytes   what
    payload       n       one zstd frame: a SQLite database, whole
    magic         4       0x184D2A5A little-endian: a zstd "skippable frame"
    size          4       bytes that follow, little-endian
    manifest      m       JSON: kind, format, sha256 and lengths of the payload, what it holds
    digest        32      SHA-256 of the manifest
    length        4       m, little-endian

Any zstd program unpacks such a file to a plain SQLite database and skips the manifest
(RFC 8878, 3.1.2), so what is archived can be read without rollrep.  The manifest comes last: a file
that was not written to its end has none.

Written under a temporary name, synced, then renamed.  Knows: nothing of SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import msgspec
import zstandard

from rollrep.core.errors import DiskFull, VerifyFailed
from rollrep.destination.store import TEMPORARY

FORMAT = 2
SKIPPABLE = 0x184D2A5A
MAX_MANIFEST_BYTES = 64 << 20
LEAST_BYTES = 44
"""all but payload and manifest"""
PIECE_BYTES = 1 << 20
MEND = "it is not used; see what is whole, and what to do: rollrep verify JOB"

D = TypeVar("D", bound=msgspec.Struct)


class Manifest(msgspec.Struct, frozen=True):
    """What every file says of itself; `holds` is told by `kind`."""

    format: int
    kind: str
    sha256: str
    packed_bytes: int
    raw_bytes: int
    holds: msgspec.Raw


def write_packed(path: Path, kind: str, packed: bytes, raw_bytes: int, holds: msgspec.Struct) -> int:
    """Writes a payload that is compressed already; returns the file's size in bytes."""

    def put(file: BinaryIO) -> tuple[str, int, int]:
        file.write(packed)
        return hashlib.sha256(packed).hexdigest(), len(packed), raw_bytes

    return _write(path, kind, holds, put)


def write_file(path: Path, kind: str, source: Path, holds: msgspec.Struct, *, level: int = 3) -> int:
    """Compresses the file `source` into a new container; returns its size in bytes."""

    def put(file: BinaryIO) -> tuple[str, int, int]:
        digest = hashlib.sha256()
        packed_bytes = 0
        compressor = zstandard.ZstdCompressor(level=level)
        with source.open("rb") as raw:
            raw_bytes = os.fstat(raw.fileno()).st_size
            for piece in compressor.read_to_iter(raw, size=raw_bytes, read_size=PIECE_BYTES):
                digest.update(piece)
                packed_bytes += len(piece)
                file.write(piece)
        return digest.hexdigest(), packed_bytes, raw_bytes

    return _write(path, kind, holds, put)


def read_manifest(path: Path, kind: str) -> Manifest:
    """The manifest at the end of `path`.  Raises VerifyFailed where it is not whole, or of another kind."""
    try:
        with _readable(path), path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < LEAST_BYTES:
                raise ValueError("it is empty" if size == 0 else f"it has {size} bytes, and no such file so few")
            file.seek(size - 4)
            (length,) = struct.unpack("<I", file.read(4))
            if length > min(MAX_MANIFEST_BYTES, size - LEAST_BYTES):
                raise ValueError("its end is not that of such a file")
            file.seek(size - LEAST_BYTES - length)
            magic, skipped = struct.unpack("<II", file.read(8))
            text, digest = file.read(length), file.read(32)
        if (magic, skipped) != (SKIPPABLE, length + 36) or hashlib.sha256(text).digest() != digest:
            raise ValueError("its manifest is damaged")
        manifest = msgspec.json.decode(text, type=Manifest)
        if manifest.format != FORMAT or manifest.kind != kind:
            raise ValueError(f"it is a {manifest.kind} of format {manifest.format}, not a {kind} of format {FORMAT}")
        if manifest.packed_bytes != size - LEAST_BYTES - length:
            raise ValueError("its length is not what its manifest says")
    except FileNotFoundError as error:
        raise _of_file(VerifyFailed(f"{path} is missing", remedy=MEND), path) from error
    except (ValueError, RecursionError, struct.error, msgspec.DecodeError) as error:
        raise damaged(path, str(error)) from error
    return manifest


def read_holds(path: Path, kind: str, holds: type[D]) -> D:
    """What the manifest says the file holds.  Raises VerifyFailed as `read_manifest` does."""
    manifest = read_manifest(path, kind)
    try:
        return msgspec.json.decode(manifest.holds, type=holds)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise damaged(path, str(error)) from error


def read_raw(path: Path, kind: str) -> bytes:
    """The unpacked payload, checked against the manifest before it is given.  Raises VerifyFailed."""
    manifest = read_manifest(path, kind)
    with _readable(path), path.open("rb") as file:
        packed = file.read(manifest.packed_bytes)
    if hashlib.sha256(packed).hexdigest() != manifest.sha256:
        raise damaged(path, "its bytes are not what its manifest says")
    try:
        return unpack(packed, manifest.raw_bytes)
    except VerifyFailed as error:
        raise damaged(path, error.facts) from error


def unpack(packed: bytes, raw_bytes: int) -> bytes:
    """The payload of a zstd frame that must be exactly `raw_bytes` long; never more is unpacked."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            raw = reader.read(raw_bytes + 1)
    except zstandard.ZstdError as error:
        raise VerifyFailed(f"an image can't be unpacked: {error}") from error
    if len(raw) != raw_bytes:
        raise VerifyFailed(f"an image is not {raw_bytes} bytes long, as it said")
    return raw


def unpack_to(path: Path, kind: str, target: Path, progress: Callable[[int], None] | None = None) -> None:
    """Writes the unpacked payload to `target`, in bounded memory; checked to its last byte.

    Raises VerifyFailed where anything differs; `target` is then not to be used.
    """
    manifest = read_manifest(path, kind)
    written = 0
    with path.open("rb") as file, target.open("wb") as out, disk_room(target):
        packed = _Packed(path, file, manifest.packed_bytes)
        try:
            with zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, packed), read_size=PIECE_BYTES) as reader:
                while written <= manifest.raw_bytes and (raw := reader.read(PIECE_BYTES)):
                    written += out.write(raw)
                    if progress:
                        progress(len(raw))
        except zstandard.ZstdError as error:
            raise damaged(path, str(error)) from error
    if packed.digest.hexdigest() != manifest.sha256 or written != manifest.raw_bytes:
        raise damaged(path, "its bytes are not what its manifest says")


class _Packed:
    """The payload of a file as a stream that digests what is read of it."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, limit: int = -1) -> bytes:
        with _readable(self._path):
            piece = self._file.read(self._left if limit < 0 else min(limit, self._left))
        self._left -= len(piece)
        self.digest.update(piece)
        return piece


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the system says of a sector that the disk can't read into what we say of damage."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise damaged(path, f"the disk can't read it ({error.strerror})") from error


def sync_file(path: Path) -> None:
    """Makes what was written to `path` last through a loss of power, and its name too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames inside `folder` last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_room(path: Path) -> Iterator[None]:
    """Turns "no space left" into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise DiskFull(
                f"no room on the disk of {path.parent}",
                remedy="nothing was lost; make room, and type it again (rollrep deletes nothing good to make room)",
            ) from error
        raise


def damaged(path: Path, why: str) -> VerifyFailed:
    return _of_file(VerifyFailed(f"{path} is damaged: {why}", remedy=MEND), path)


def _of_file(error: VerifyFailed, path: Path) -> VerifyFailed:
    error.file = path
    return error


def _write(path: Path, kind: str, holds: msgspec.Struct, put: Callable[[BinaryIO], tuple[str, int, int]]) -> int:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with disk_room(path), temporary.open("wb") as file:
            sha256, packed_bytes, raw_bytes = put(file)
            manifest = Manifest(FORMAT, kind, sha256, packed_bytes, raw_bytes, msgspec.Raw(msgspec.json.encode(holds)))
            text = msgspec.json.encode(manifest)
            file.write(struct.pack("<II", SKIPPABLE, len(text) + 36))
            file.write(text + hashlib.sha256(text).digest() + struct.pack("<I", len(text)))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return size
