"""`rollrep source serve`: one process per connection, the protocol on its stdin and stdout.

    which database   a name given with --db (then nothing else can be asked for), or a path
    Hello            repair capture if the schema has changed, then answer from one read transaction
    SendBatches      one short read transaction per batch
    SendChunk, SendStretch, SendGroups, SendRows
                     the log's tail and rows, or digests of them, in one short read transaction; SendCells: more
    SendPages        the whole database in one read transaction, where the line is fast enough for that
    SendShadows      the log's tail and what differs of the shadow tables, in one read transaction

Read-only towards the application's tables, never a checkpoint, no state that outlives the connection.

Knows: the log, the reader, the wire.  Does not know: SSH, the destination.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import apsw
import msgspec

from rollrep import __version__
from rollrep.core.errors import RollrepError, Temporary, UsageError
from rollrep.core.nouns import Layout, Position, Shape
from rollrep.query import load_digests
from rollrep.source.database import instance_of, open_source, reading, translated
from rollrep.source.digests import Digests
from rollrep.source.doubt import tables_in_doubt
from rollrep.source.expected import rows_about
from rollrep.source.forgotten import Forgotten
from rollrep.source.forgotten_ranges import read_ranges
from rollrep.source.inspect import layout_of, virtual_tables
from rollrep.source.install import note_header, renew_epoch, repair
from rollrep.source.labels import labels_for
from rollrep.source.log import (
    Ends,
    Meta,
    changed_after,
    current_shapes,
    forgotten_at_ms,
    is_current,
    is_of_this_log,
    proof_of,
    read_ends,
    read_facts,
    read_meta,
    schema_version,
)
from rollrep.source.pages import go_by_pages, send_pages
from rollrep.source.reader import Gone, Reader, slices
from rollrep.source.shadows import Shadows
from rollrep.source.window import read_windows
from rollrep.wire import frames, messages
from rollrep.wire.messages import Answer, AnswerKind, Hello, KeyRange, Message, MirrorReason

REPAIR_TRIES = 5


def serve(stdin: BinaryIO, stdout: BinaryIO, databases: Mapping[str, Path] | None) -> None:
    """Answers until the stream ends.  `databases` are the names that may be asked for; None: any path.

    Errors become a Refusal and end the conversation.  Where nobody listens any more, nothing more is read.
    """
    with contextlib.closing(_Server(stdout, databases)) as server, contextlib.suppress(BrokenPipeError):
        _converse(server, stdin)


def _converse(server: _Server, stdin: BinaryIO) -> None:
    try:
        for payload in frames.messages_in(stdin):
            server.answer(messages.decode_from_destination(payload))
    except RollrepError as error:
        server.say(messages.Refusal(type(error).__name__, error.facts, error.remedy))
    except msgspec.DecodeError as error:
        server.say(messages.Refusal("RollrepError", f"this request is not understood here: {error}",
                                    "install the same rollrep version on both machines"))  # fmt: skip
    except frames.FrameError as error:
        server.say(messages.Refusal("RollrepError", str(error), "is it rollrep that speaks?"))


def choose(
    position: Position | None, meta: Meta, ends: Ends, proof: str | None, forgotten_at_ms: int | None = None
) -> tuple[AnswerKind, MirrorReason]:
    """How a destination at `position` can go on; `proof` is that of the row it stands at, if it is there.

    `forgotten_at_ms`: when the row was written, where only its key is there.  Pure.
    Resume only on proof: a source restored from a backup passes every check by number alone.
    """
    if position is None:
        return "mirror", "first"
    if position.epoch != meta.epoch:
        return "mirror", "epoch"
    if position.id > ends.newest:
        return "mirror", "ahead"
    if position.id < ends.oldest:
        if None not in (position.at_ms, forgotten_at_ms) and position.at_ms != forgotten_at_ms:
            return "mirror", "diverged"
        return "mirror", "pruned"
    if proof != position.proof:
        return "mirror", "diverged"
    return ("up_to_date" if position.id == ends.newest else "resume"), ""


def _known_id(position: Position | None, reason: MirrorReason) -> int | None:
    """Where in this log a destination stands; None where its history is another one."""
    return None if position is None or reason in ("epoch", "ahead", "diverged") else position.id


def digest_of(layout: Layout) -> str:
    """Tells layouts apart that a mirror would have to differ in.

    Neither the order in which objects were created (VACUUM changes it) nor what concerns only the file
    counts: those are no reason to mirror anything again.
    """
    told = (sorted(layout.objects, key=lambda each: (each.type, each.name)), layout.shapes, layout.refused)
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:32]


class _Server:
    def __init__(self, stdout: BinaryIO, databases: Mapping[str, Path] | None) -> None:
        self._stdout = stdout
        self._databases = databases
        self._path = Path()
        self._db: apsw.Connection | None = None
        self._reader: Reader | None = None
        self._digests: Digests | None = None
        self._forgotten: Forgotten | None = None
        self._meta: Meta | None = None
        self._digest = ""
        self._schema_version = -1
        self._shapes: dict[int, Shape] = {}
        self._shadows: dict[str, Shape] = {}
        self._by_pages = False

    def answer(self, message: messages.FromDestination) -> None:
        if isinstance(message, Hello):
            self._open(message.database)
        if self._db is None:
            raise UsageError("the first thing to say is hello")
        with translated(self._path):
            if isinstance(message, Hello):
                self.say(self._hello(self._db, message))
            elif isinstance(message, messages.SendBatches):
                self._send_batches(message)
            elif isinstance(message, messages.SendForgotten):
                self._send_forgotten(self._db, message)
            elif isinstance(message, messages.SendRanges):
                self._send_ranges(self._db, message)
            elif isinstance(message, messages.SendPages):
                self._send_pages(self._db, message)
            elif isinstance(message, messages.SendCells):
                assert self._digests is not None, "hello was said"
                self.say(*self._digests.cells(message))
            elif isinstance(message, messages.SendShadows):
                self._send_shadows(self._db, message)
            else:
                self._send_with_tail(self._db, message)

    def say(self, message: Message, packed: bytes | None = None) -> None:
        self._stdout.write(frames.encode(frames.MESSAGE, messages.encode(message)))
        if packed is not None:
            for piece in slices(packed, frames.LIMITS[frames.DATA]):
                self._stdout.write(frames.encode(frames.DATA, piece))
        self._stdout.flush()

    def close(self) -> None:
        for each in (self._digests, self._db):
            if each is not None:
                each.close()
        self._digests = self._db = None

    def _open(self, database: str) -> None:
        path = self._permitted(database)
        if self._db is not None:
            if path == self._path:
                return
            raise UsageError("one connection speaks of one database")
        self._path = path
        self._db = open_source(path)
        load_digests(self._db, "sha1", "shathree")
        self._reader = Reader(self._db)
        self._digests = Digests(self._db, self._reader, path)
        self._forgotten = Forgotten(self._db, self._reader)

    def _permitted(self, database: str) -> Path:
        if self._databases is None:
            if not database.startswith("/"):
                raise UsageError(
                    f"this source knows no database by the name {database!r}",
                    remedy="give its path (ssh://host//srv/app.db), or name it on the source: serve --db NAME=PATH",
                )
            return Path(database)
        if database not in self._databases:
            # What other names or files exist is nothing a stolen key should learn.
            raise UsageError(
                f"this key may not pull {database!r}",
                remedy="the names it may pull stand in the --db options of its line in authorized_keys",
            )
        return self._databases[database]

    def _hello(self, db: apsw.Connection, hello: Hello) -> Answer:
        for _ in range(REPAIR_TRIES):
            # Asked first: a schema that changes from here on is seen in the transaction of the answer.
            self._schema_version = schema_version(db)
            in_doubt: list[str] = []
            if hello.position and hello.schema_version is not None and is_of_this_log(db, hello.position):
                with reading(db):  # so that the schema is the same in all its questions
                    in_doubt = tables_in_doubt(db, hello.schema_version, hello.position.id)
            if repair(db, read_meta(db), in_doubt):
                continue
            if hello.position:
                note_header(db, hello.position.id)
            with reading(db):
                meta = read_meta(db)
                if is_current(db) and self._is_as_answered(db, meta):
                    return self._answer(db, meta, hello)
        raise Temporary(f"the schema of {self._path} is being changed", remedy="pull again when the migration is over")

    def _is_as_answered(self, db: apsw.Connection, meta: Meta) -> bool:
        """Whether the schema and its capture are still those of the answer.

        By SQLite's count of changes: comparing the texts took most of the time of a source with a thousand tables.
        """
        return schema_version(db) == self._schema_version and read_meta(db).since == meta.since

    def _answer(self, db: apsw.Connection, meta: Meta, hello: Hello) -> Answer:
        ends = read_ends(db)
        if ends is None:
            raise Temporary(f"the rolling log of {self._path} was emptied just now", remedy="pull again")
        proof = proof_of(db, hello.position.id) if hello.position else None
        at_ms = forgotten_at_ms(db, hello.position.id) if hello.position else None
        kind, reason = choose(hello.position, meta, ends, proof, at_ms)
        shapes = current_shapes(db)
        virtuals = virtual_tables(db, meta.include, meta.exclude)[0]
        layout = layout_of(db, shapes, meta.refused, meta.since, virtuals)
        self._digest = digest_of(layout)
        self._by_pages = go_by_pages(db, layout)
        if hello.position and hello.schema_digest != self._digest:
            # Capture may have been made anew more than once since: what this destination has not seen begins
            # with the first.  Rows after that one belong to a schema it does not know.
            layout = msgspec.structs.replace(layout, since=changed_after(db, hello.position.id) or meta.since)
        if hello.mirror_requested:
            kind, reason = "mirror", reason or "requested"
        elif not reason and hello.schema_digest != self._digest:
            kind, reason = "mirror", "schema"
        known = _known_id(hello.position, reason)
        self._meta, self._shapes = meta, {shape.id: shape for shape in shapes}
        self._shadows = {shape.table: shape for each in virtuals for shape in each.shadows}
        return Answer(
            kind=kind,
            reason=reason,
            facts=read_facts(db, meta),
            oldest=ends.oldest,
            forgotten_through=meta.forgotten_through,
            database_id=meta.database,
            instance=instance_of(self._path),
            schema_digest=self._digest,
            layout=layout if hello.schema_digest != self._digest else None,
            version=__version__,
            sqlite_version=apsw.sqlite_lib_version(),
            journal_mode=str(db.pragma("journal_mode")),
            lasting=read_windows(db, meta, ends).lasting(known) if hello.tell_lasting else None,
            rows={shape.id: rows_about(db, shape) for shape in shapes} if hello.tell_rows and kind == "mirror" else {},
            labels=labels_for(db, meta, hello, known) if kind == "mirror" else None,
        )

    def _send_batches(self, wanted: messages.SendBatches) -> None:
        reader, meta = self._greeted()
        after = wanted.after
        try:
            while after < wanted.through:
                batch, packed = reader.batch(meta, after, wanted.through)
                self.say(batch, packed)
                del packed  # before the next one is made
                after = batch.last
        except Gone as gone:
            self._overrun(gone, after)
            return
        self.say(messages.Done())

    def _send_with_tail(self, db: apsw.Connection, wanted: messages.Ask) -> None:
        """Answers what is read from a table, the log's tail first."""
        _, meta = self._greeted()
        shape = self._shapes.get(wanted.shape)
        if wanted.schema_digest != self._digest or shape is None:
            self.say(messages.Changed())
            return
        try:
            tail, found = self._read(meta, shape, wanted)
        except Gone as gone:
            self._overrun(gone, wanted.position)
            return
        except apsw.SQLError:
            if is_current(db):
                raise
            self.say(messages.Changed())
            return
        # Asked after the transaction: a schema that changed in between is seen now, not too late.
        if not self._is_as_answered(db, meta):
            self.say(messages.Changed())
            return
        if tail:
            self.say(*tail)
        if found:
            self.say(*found)
        else:
            self.say(messages.Done())

    def _read(
        self, meta: Meta, shape: Shape, wanted: messages.Ask
    ) -> tuple[tuple[messages.Batch, bytes] | None, tuple[Message, bytes | None] | None]:
        assert self._reader is not None and self._digests is not None, "hello was said"
        if isinstance(wanted, messages.SendChunk):
            return self._reader.chunk(meta, shape, wanted.after_key, wanted.position)
        if isinstance(wanted, messages.SendStretch):
            span = KeyRange(wanted.after_key, wanted.through_key)
            if wanted.leaves and (told := self._digests.leaves(meta, shape, wanted)):
                return told
            if wanted.group_rows:
                return self._digests.stretch_in_groups(meta, shape, span, wanted.group_rows, wanted.position)
            tail, stretch = self._digests.stretch(meta, shape, span, wanted.position)
            return tail, (stretch, None) if stretch else None
        if isinstance(wanted, messages.SendGroups):
            return self._digests.groups(meta, shape, wanted.ranges, wanted.group_rows, wanted.position)
        return self._digests.rows(meta, shape, wanted.ranges, wanted.position)

    def _send_forgotten(self, db: apsw.Connection, wanted: messages.SendForgotten) -> None:
        _, meta = self._greeted()
        assert self._forgotten is not None, "hello was said"
        found = None
        if wanted.schema_digest == self._digest:
            found = self._forgotten.bridge(wanted.after, wanted.at_ms, self._shapes)
        if wanted.schema_digest != self._digest or not self._is_as_answered(db, meta):
            self.say(messages.Changed())
        elif found:
            self.say(*found)
        else:
            self.say(messages.Done())

    def _send_ranges(self, db: apsw.Connection, wanted: messages.SendRanges) -> None:
        _, meta = self._greeted()
        found = None
        if wanted.schema_digest == self._digest:
            found = read_ranges(db, wanted.position, self._shapes)
        if wanted.schema_digest != self._digest or not self._is_as_answered(db, meta):
            self.say(messages.Changed())
        else:
            self.say(found or messages.Done())

    def _send_pages(self, db: apsw.Connection, wanted: messages.SendPages) -> None:
        _, meta = self._greeted()
        if wanted.schema_digest != self._digest or not self._is_as_answered(db, meta):
            self.say(messages.Changed())
            return
        if self._by_pages:
            send_pages(db, meta, lambda facts, pages: self.say(messages.Pages(facts, pages)), self.say)
        self.say(messages.Done())

    def _send_shadows(self, db: apsw.Connection, wanted: messages.SendShadows) -> None:
        reader, meta = self._greeted()
        if wanted.schema_digest != self._digest or wanted.known.keys() != self._shadows.keys():
            self.say(messages.Changed())
            return
        try:
            with Shadows(db, reader, self._shadows, wanted) as found:
                tail, facts = found.read(meta)
                # Asked after the transaction, as for a chunk.
                if not self._is_as_answered(db, meta):
                    self.say(messages.Changed())
                    return
                if tail:
                    self.say(*tail)
                if facts is None:
                    self.say(messages.Done())
                    return
                for message, packed in found.rows():
                    self.say(message, packed)
                self.say(messages.Shadows(facts, found.complete))
        except Gone as gone:
            self._overrun(gone, wanted.position)
        except apsw.SQLError:
            if is_current(db):
                raise
            self.say(messages.Changed())

    def _overrun(self, gone: Gone, after: int) -> None:
        if self._db is not None and gone.oldest <= after + 1:
            # Nothing was pruned there: somebody took rows out of the middle.
            renew_epoch(self._db)
        self.say(messages.Overrun(gone.oldest))

    def _greeted(self) -> tuple[Reader, Meta]:
        if self._reader is None or self._meta is None:
            raise UsageError("the first thing to say is hello")
        return self._reader, self._meta
