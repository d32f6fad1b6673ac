"""Log rows of several images in one file, so that one transaction of the mirror can replay them all.

    image, image, image ──► incoming.db.part ──► `batch` of the mirror

A database can't be exchanged inside a transaction that has read it, and a pull commits once, at a commit of
the source.  One image alone stays in memory.

Knows: the image's layout.  Does not know: what the rows mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import apsw

from rollrep.core.nouns import Shape
from rollrep.wire.images import log_table, log_width

CACHE_KIB = 16_384


class Gathered:
    """Log rows of several images, in one file, so that one transaction can replay them all."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._side: apsw.Connection | None = None
        self._width = 0

    def add(self, mirror: apsw.Connection, shapes: Sequence[Shape], *, last: bool) -> None:
        """Takes the rows of `batch`, which is empty then, into the file; unless it is the first image and the last."""
        if last and self._side is None:
            return
        if self._side is None:
            self._side = apsw.Connection(self._path)
            for pragma in (
                "journal_mode = OFF",
                "synchronous = OFF",
                f"encoding = '{mirror.pragma('encoding')}'",
            ):
                self._side.execute(f"PRAGMA {pragma}").fetchall()
            self._side.execute("ATTACH ':memory:' AS image")
            self._width = log_width(shapes)
            self._side.execute(log_table("log", self._width))
        width = log_width(shapes)
        for n in range(self._width, width):
            self._side.execute(f"ALTER TABLE log ADD COLUMN v{n}")
        self._width = max(self._width, width)
        raw = mirror.serialize("batch")
        # A row may be large: it is held no more often than it must be.
        _empty(mirror, "batch")
        self._side.deserialize("image", raw)
        del raw
        # Without a list of columns SQLite copies the records as they are.
        values = ", ".join(["id, at, shape, op", *(f"v{n}" for n in range(width))])
        into, values = ("log", "*") if width == self._width else (f"log({values})", values)
        self._side.execute(f"INSERT INTO main.{into} SELECT {values} FROM image.log")
        _empty(self._side, "image")

    def attach(self, mirror: apsw.Connection) -> None:
        """Makes the file `batch` of `mirror`, if there is one."""
        if self._side is None:
            return
        self.close()
        mirror.execute("DETACH batch")
        mirror.execute("ATTACH ? AS batch", (self._path,))
        # Replay writes there too, and what it wrote is worth nothing when the transaction is taken back.
        for pragma in ("journal_mode", "synchronous"):
            mirror.execute(f"PRAGMA batch.{pragma} = OFF").fetchall()
        mirror.execute(f"PRAGMA batch.cache_size = -{CACHE_KIB}").fetchall()

    def close(self) -> None:
        if self._side is not None:
            self._side.close()
            self._side = None


def _empty(db: apsw.Connection, name: str) -> None:
    db.execute(f"DETACH {name}")
    db.execute(f"ATTACH ':memory:' AS {name}")
