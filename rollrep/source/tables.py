"""The rolling log's own tables, the trigger that makes it roll, and the one that watches who else is there.

    _rollrep_log        id | at | shape | op | size | v0 v1 v2 ...     whole rows, newest last
    _rollrep_forgotten  id | shape | at | k0 ...                       keys of rows that fell off
    _rollrep_range      key | id | at                                  where the keys lay that fell off in turn
                        0   | id | at                                  the newest row that an unknown object may have
                                                                       had a hand in: `watch_trigger`
    _rollrep_shape      which value is which column of which table, one row per capture of a table
    _rollrep_pending    touched keys of an UPDATE that has not ended; almost always empty
    _rollrep_sequence   always empty; where there is a sqlite_sequence, it keeps VACUUM from removing that
    _rollrep_meta       one row: format, identity, epoch, limits, and how far pruning came
    _rollrep_point      a view: INSERT INTO _rollrep_point(label) VALUES ('...') writes a point

Ids grow by one per row: an INTEGER PRIMARY KEY autoincrements as long as the newest row stays
(https://www.sqlite.org/autoinc.html), and pruning never takes the newest.  The AUTOINCREMENT keyword
would cost one more page per transaction and buy nothing.

Only core SQL stands in triggers: the application's SQLite may be years old, and `trusted_schema` off.
No OR clause either: the application's own conflict clause would override it
(https://www.sqlite.org/lang_createtrigger.html).

Knows: SQL of these tables.  Does not know: the application's tables.
"""

from __future__ import annotations

import dataclasses

from rollrep.core.nouns import PREFIX, Op
from rollrep.wire.forgotten_ranges import SLOTS, number_sql

FORMAT = 3

LOG = f"{PREFIX}log"
FORGOTTEN = f"{PREFIX}forgotten"
RANGE = f"{PREFIX}range"
SHAPE = f"{PREFIX}shape"
PENDING = f"{PREFIX}pending"
SEQUENCE = f"{PREFIX}sequence"
META = f"{PREFIX}meta"
POINT = f"{PREFIX}point"
PRUNE = f"{PREFIX}prune"
WATCH = f"{PREFIX}watch"
WRITE_POINT = f"{PREFIX}write_point"

WATCHED = 0
"""the key in RANGE of the newest row that an object unknown to capture may have had a hand in"""
NEWEST_OBJECTS = 16
"""so many of the schema's newest objects are looked at, with each row: a schema may have thousands"""

NEWEST_OBJECT = "SELECT name FROM sqlite_master ORDER BY rowid DESC LIMIT 1"

NEWER_INDEXES = (
    "SELECT name, tbl_name FROM sqlite_master WHERE type = 'index' AND rowid >"
    f" (SELECT rowid FROM sqlite_master WHERE name = '{WRITE_POINT}')"
)
"""SQL for the indexes that were made since the schema was captured: WRITE_POINT is then the newest object of all.

VACUUM, which writes the schema anew, puts indexes before triggers."""

CAPTURE = 2
"""raised with every change of what our triggers say: the first pull by a newer rollrep makes those anew that differ"""

SCHEMA_TEXT = (
    "(SELECT group_concat(type || ' ' || name || ' ' || ifnull(sql, ''), char(10)) FROM"
    " (SELECT type, name, sql FROM sqlite_master ORDER BY type, name)) || char(10) || ifnull((SELECT"
    " group_concat(name) FROM (SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid)), '')"
    f" || char(10) || ifnull((SELECT group_concat(name) FROM ({NEWER_INDEXES} ORDER BY name)), '')"
    f" || char(10) || 'capture {CAPTURE}'"
)
"""SQL for the text of every object, ours included, the order of triggers, in which they fire, the newer indexes, and
which rollrep captured them.

It says whether capture still stands as it was made.  `PRAGMA schema_version` would be cheaper, but edits by
`writable_schema` leave it as it was, VACUUM raises it, and a trigger may not ask for it
(`trusted_schema=OFF` refuses table-valued pragmas there).
"""

POINT_SIZE = 40
KEY_SIZE = 24
"""bytes we count for a row that holds only a key"""

ANCHOR_IDS, MOST_ANCHORS = 16_384, 16_384
"""of so many forgotten ids one is remembered with its time, and so many of these"""

LONGEST_STEP = 4093
"""A step prunes this many rows at most half again.  Inside one large transaction a step makes SQLite's
statement journal outgrow its 64 KiB of memory, and from there on every statement of that transaction
writes to a temporary file (measured: 5.8 to 23 microseconds a row); many small steps would do that in
every transaction of a few hundred rows, one long step in every fourth of a thousand rows.  A prime, so
that no rhythm of the application hides its large rows from the byte count."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the log may hold; whichever limit is reached first prunes."""

    keep_rows: int = 500_000
    keep_bytes: int = 64 << 20
    keep_age_s: float = 7 * 86_400.0
    keep_keys: int = 2_000_000

    @property
    def step(self) -> int:
        """Rows between two pruning steps."""
        return max(31, min(LONGEST_STEP, self.keep_rows // 8)) | 1


def create_tables() -> list[str]:
    """The statements that create everything but the values' columns and the pruning trigger."""
    return [
        f"CREATE TABLE {META}(only_row INTEGER PRIMARY KEY CHECK (only_row = 1), format, database, epoch,"
        " keep_rows, keep_bytes, keep_age_days, keep_keys, include, exclude, refused, since, bytes,"
        " counted_through, pruned_through, forgotten_through, cut, span, user_version, application_id,"
        # Last: with a thousand tables it is megabytes, which SQLite has to pass to reach what stands behind.
        " schema_text)",
        f"CREATE TABLE {SHAPE}(id INTEGER PRIMARY KEY, tbl, is_current, key_width, since, body, range_width)",
        f"CREATE TABLE {LOG}(id INTEGER PRIMARY KEY, at, shape, op, size, v0, v1, v2, v3)",
        f"CREATE TABLE {FORGOTTEN}(id INTEGER PRIMARY KEY, shape, at, k0)",
        f"CREATE TABLE {RANGE}(key INTEGER PRIMARY KEY, id, at)",
        f"CREATE TABLE {PENDING}(shape, n0, k0)",
        f"CREATE VIEW {POINT}(id, at, label, kind) AS SELECT id, at, v0, v1 FROM {LOG} WHERE op = {Op.POINT:d}",
    ]


def drop_tables() -> list[str]:
    """The reverse.  The caller drops the triggers on the application's tables first: with the log gone,
    any of them would make every write of the application fail."""
    return [f"DROP VIEW IF EXISTS {POINT}"] + [
        f"DROP TABLE IF EXISTS {table}" for table in (LOG, FORGOTTEN, RANGE, SHAPE, PENDING, SEQUENCE, META)
    ]


def keep_sequence() -> str:
    """The statement after which the database keeps its sqlite_sequence.

    VACUUM makes it anew with the first table that is AUTOINCREMENT, and where the application has dropped its last one,
    not at all: then WRITE_POINT names what isn't there, and every point and every RENAME fails.
    """
    return f"CREATE TABLE {SEQUENCE}(id INTEGER PRIMARY KEY AUTOINCREMENT)"


def point_trigger(*, with_sequence: bool) -> str:
    """The trigger behind the view; `with_sequence` once the database has a sqlite_sequence."""
    sequence = (
        "(SELECT group_concat(hex(name) || ':' || seq, ' ') FROM sqlite_sequence"
        " WHERE typeof(seq) = 'integer' AND typeof(name) = 'text')"
        if with_sequence
        else "NULL"
    )
    return (
        f"CREATE TRIGGER {WRITE_POINT} INSTEAD OF INSERT ON {POINT} BEGIN"
        f" INSERT INTO {LOG}(at, shape, op, size, v0, v1, v2, v3)"
        f" VALUES (julianday('now'), 0, {Op.POINT:d}, {POINT_SIZE}, new.label, ifnull(new.kind, 'application'),"
        f" {sequence}, CASE WHEN {SCHEMA_TEXT} IS NOT (SELECT schema_text FROM {META}) THEN 1 END); END"
    )


_NO_TABLE = "+l.shape = 0"
"""SQL that is true of points and marks.  Without the + SQLite makes an index of the whole log for the moment, each time
(https://www.sqlite.org/optoverview.html#automatic_query_time_indexes): 500,000 rows, to find one among some thousand"""


def watch_trigger() -> str:
    """The trigger that notes which row was logged while a table had a UNIQUE index or a trigger unknown to capture.

    Such an index may remove rows by a REPLACE that nobody announced, such a trigger may change a row before ours reads
    it; and one that is gone again by the next pull has left no trace but this (rollrep.source.doubt).  WRITE_POINT is
    the newest object wherever nothing was made since capture, so one look at the end of sqlite_master is all that a row
    costs then: 0.2 microseconds.
    """
    newest = f"FROM sqlite_master ORDER BY rowid DESC LIMIT {NEWEST_OBJECTS}"
    return f"""CREATE TRIGGER {WATCH} AFTER INSERT ON {LOG}
WHEN ({NEWEST_OBJECT}) IS NOT '{WRITE_POINT}' AND new.shape > 0
  AND EXISTS (SELECT 1 FROM (SELECT type, name, tbl_name, sql {newest})
    WHERE (type = 'trigger' AND name NOT GLOB '{PREFIX}*' OR sql GLOB 'CREATE UNIQUE INDEX *')
      AND tbl_name IN (SELECT tbl FROM {SHAPE} WHERE is_current))
BEGIN
  DELETE FROM {RANGE} WHERE key = {WATCHED};
  INSERT INTO {RANGE}(key, id, at) VALUES ({WATCHED}, new.id, new.at);
END"""


def prune_trigger(limits: Limits, key_width: int) -> str:
    """The trigger that makes the log roll: oldest rows first, by rows, bytes and age, never the newest.

    `key_width` is the widest key of any shape: so many values of a pruned row are kept as its key.
    Points and marks leave a row without a key, so that ids of forgotten rows are dense, and every row leaves its
    time: so a destination can still prove that the row it stands at was this row.
    A step must never fail, because it would fail the application's own statement: so a key that is there
    already (somebody emptied the log, and its ids began again) is left as it is.
    A key that falls off in turn leaves the number of its range, with the newest such row's id and time: an UPSERT in
    two statements, because the application's SQLite may not know it as one.  Of every so many ids one stays with its
    time, under a key below zero: by it a destination proves that its history is ours.
    A step also comes early after large rows, so that the log outgrows its bytes by a few MiB at most.
    """
    step, most = limits.step, limits.step * 3 // 2
    keys = ", ".join(["l.v0"] + [f"CASE WHEN s.key_width > {n} THEN l.v{n} END" for n in range(1, key_width)])
    names = ", ".join(f"k{n}" for n in range(key_width))
    source = f"{META} m CROSS JOIN {LOG} l" + (f" CROSS JOIN {SHAPE} s" if key_width > 1 else "")
    joined = " AND s.id = l.shape" if key_width > 1 else ""
    there = f"min({most}, new.id - pruned_through)"
    oldest = f"SELECT at FROM {LOG} WHERE id > pruned_through ORDER BY id LIMIT 1"
    too_old = "julianday('now') - keep_age_days"
    in_range = f"f.shape * {SLOTS} + {number_sql('f.k0', 's.range_width')}"
    fallen = (
        f"{META} m CROSS JOIN {FORGOTTEN} f CROSS JOIN {SHAPE} s WHERE f.id <= m.forgotten_through AND s.id = f.shape"
    )
    return f"""CREATE TRIGGER {PRUNE} AFTER INSERT ON {LOG}
WHEN new.id % {step} = 0 OR (new.size > 1024 AND new.id % 61 = 0) OR (new.size > 16384 AND new.id % 3 = 0)
  OR new.size > 65536
BEGIN
  UPDATE {META} SET
    bytes = bytes + (SELECT ifnull(sum(size), 0) FROM {LOG} WHERE id > counted_through),
    counted_through = new.id,
    span = (SELECT 1 + ifnull(sum(size), 0) FROM {LOG} WHERE id <= pruned_through + {most});
  UPDATE {META} SET cut = max(pruned_through, min(
    new.id - 1,
    pruned_through + max(64, min({most}, {there} * 16777216 / span)),
    max(new.id - keep_rows,
        CASE WHEN bytes > keep_bytes THEN pruned_through + 1 + {there} * (bytes - keep_bytes * 7 / 8) / span ELSE 0 END,
        CASE WHEN ({oldest}) < {too_old} THEN (SELECT max(id) FROM {LOG}
          WHERE id <= pruned_through + {most} AND at < {too_old}) ELSE 0 END)));
  INSERT INTO {FORGOTTEN}(id, shape, at, {names})
    SELECT l.id, l.shape, l.at, {keys}
    FROM {source} WHERE l.id <= m.cut AND l.shape > 0{joined}
      AND NOT EXISTS (SELECT 1 FROM {FORGOTTEN} f WHERE f.id = l.id);
  INSERT INTO {FORGOTTEN}(id, shape, at)
    SELECT l.id, l.shape, l.at FROM {META} m CROSS JOIN {LOG} l WHERE l.id <= m.cut AND {_NO_TABLE}
      AND NOT EXISTS (SELECT 1 FROM {FORGOTTEN} f WHERE f.id = l.id);
  UPDATE {META} SET bytes = bytes - (SELECT ifnull(sum(size), 0) FROM {LOG} WHERE id <= cut), pruned_through = cut;
  DELETE FROM {LOG} WHERE id <= (SELECT pruned_through FROM {META});
  UPDATE {META} SET forgotten_through =
    max(forgotten_through, min(pruned_through - keep_keys, forgotten_through + {2 * most}));
  DELETE FROM {RANGE} WHERE key IN (SELECT {in_range} FROM {fallen});
  INSERT INTO {RANGE}(key, id, at) SELECT {in_range}, max(f.id), f.at FROM {fallen} GROUP BY 1;
  INSERT INTO {RANGE}(key, id, at) SELECT -1 - f.id / {ANCHOR_IDS}, min(f.id), f.at
    FROM {META} m CROSS JOIN {FORGOTTEN} f WHERE f.id <= m.forgotten_through
      AND NOT EXISTS (SELECT 1 FROM {RANGE} r WHERE r.key = -1 - f.id / {ANCHOR_IDS}) GROUP BY 1;
  DELETE FROM {RANGE} WHERE key < 0
    AND key >= (SELECT {MOST_ANCHORS} - forgotten_through / {ANCHOR_IDS} FROM {META});
  DELETE FROM {FORGOTTEN} WHERE id <= (SELECT forgotten_through FROM {META});
END"""
