"""Each way a schema changes: the mirror follows, only the tables concerned are mirrored again, the past keeps its schema.

The rebuilds are the statements that the tools themselves send to SQLite.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import oracle
import pytest
from pair import FollowedPair
from sources import copy_source

from rollrep.destination.archive import Archive
from rollrep.source import reader

SHOP = (
    "CREATE TABLE author(id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name varchar(40));"
    "CREATE TABLE book(id INTEGER PRIMARY KEY, author REFERENCES author(id), title TEXT, price REAL, pages INT);"
    "CREATE INDEX book_title ON book(title); CREATE VIEW titles AS SELECT title FROM book;"
    "CREATE TABLE tag(name TEXT PRIMARY KEY, n) WITHOUT ROWID; CREATE TABLE note(text, at);"
    "CREATE TABLE heard(what); CREATE TRIGGER hear AFTER INSERT ON tag BEGIN INSERT INTO heard VALUES (new.name); END;"
    "INSERT INTO author(name) VALUES ('Abe'), ('Berg'), (NULL); INSERT INTO tag VALUES ('a', 1), ('b', x'00');"
    "INSERT INTO book VALUES (1, 1, 'one', 1.5, 10), (2, 2, 'two', 2.5, 20), (3, 2, NULL, NULL, 30); INSERT INTO note VALUES ('n', 1), (NULL, 2);"
)
WORK = "UPDATE author SET name = 'B' WHERE id = 2; INSERT INTO heard VALUES ('x'); DELETE FROM note WHERE at = 2"

DJANGO = """
PRAGMA foreign_keys = OFF; BEGIN;
CREATE TABLE "new__book" ("id" integer NOT NULL PRIMARY KEY, "title" varchar(9) NOT NULL, "stars" integer DEFAULT 3 NOT NULL,
  "pages" integer NULL, "author" bigint NULL REFERENCES "author" ("id") DEFERRABLE INITIALLY DEFERRED);
INSERT INTO "new__book" ("id", "title", "pages", "author", "stars")
  SELECT "id", coalesce("title", ''), "pages", "author", 3 FROM "book";
DROP VIEW titles; DROP TABLE "book"; ALTER TABLE "new__book" RENAME TO "book"; CREATE INDEX "book_author" ON "book" ("author");
PRAGMA foreign_key_check; COMMIT; PRAGMA foreign_keys = ON;
INSERT INTO book(id, title, author) VALUES (9, 'nine', 3)
"""
RAILS = """
PRAGMA defer_foreign_keys = ON; PRAGMA foreign_keys = OFF; BEGIN;
CREATE TEMPORARY TABLE "aauthor" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "name" varchar(40));
INSERT INTO "aauthor" ("id", "name") SELECT "id", "name" FROM "author"; DROP TABLE "author";
CREATE TABLE "author" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "name" varchar(80) DEFAULT 'nobody');
INSERT INTO "author" ("id", "name") SELECT "id", "name" FROM "aauthor"; DROP TABLE "aauthor";
COMMIT; PRAGMA foreign_keys = ON; INSERT INTO author(name) VALUES ('new')
"""
ALEMBIC = """
CREATE TABLE _alembic_tmp_note (text VARCHAR, at INTEGER, id INTEGER NOT NULL, CONSTRAINT pk PRIMARY KEY (id));
INSERT INTO _alembic_tmp_note (text, at) SELECT note.text, note.at FROM note; DROP TABLE note;
ALTER TABLE _alembic_tmp_note RENAME TO note; UPDATE note SET text = 'alembic'
"""
KNEX = """
PRAGMA foreign_keys = OFF; BEGIN;
CREATE TABLE `_knex_temp_alter123` (id INTEGER PRIMARY KEY, `author` REFERENCES author(id), title TEXT, `pages` int);
INSERT INTO `_knex_temp_alter123` (`id`, `author`, `title`, `pages`) SELECT `id`, `author`, `title`, `pages` FROM `book`;
DROP VIEW titles; DROP TABLE `book`; ALTER TABLE `_knex_temp_alter123` RENAME TO `book`;
CREATE INDEX book_title ON book(title); COMMIT; DELETE FROM book WHERE id = 1
"""
CHANGES: dict[str, tuple[str, set[str]]] = {
    "column_added": ("ALTER TABLE note ADD COLUMN more DEFAULT 7; UPDATE note SET more = x'00'", {"note"}),
    "column_added_to_the_first": ("ALTER TABLE author ADD COLUMN born REAL; UPDATE author SET born = 1", {"author"}),
    "column_renamed": ("ALTER TABLE book RENAME COLUMN price TO cost; UPDATE book SET cost = 3", {"book"}),
    "column_renamed_of_a_view": ("ALTER TABLE book RENAME title TO name; UPDATE book SET name = 'q'", {"book"}),
    "columns_swapped_by_name": (
        "ALTER TABLE book RENAME COLUMN price TO x; ALTER TABLE book RENAME COLUMN pages TO price;"
        "ALTER TABLE book RENAME COLUMN x TO pages; UPDATE book SET price = 4 WHERE id = 1",
        {"book"},
    ),
    "table_renamed": ("ALTER TABLE note RENAME TO memo; INSERT INTO memo VALUES ('m', 3)", {"memo"}),
    "tables_swapped_by_name": (
        "ALTER TABLE note RENAME TO x; ALTER TABLE heard RENAME TO note; ALTER TABLE x RENAME TO heard;"
        "INSERT INTO note VALUES ('swapped')",
        {"note", "heard"},
    ),
    "table_new": ("CREATE TABLE fresh(a, b PRIMARY KEY); INSERT INTO fresh VALUES (1, 2)", {"fresh"}),
    "table_new_by_select": ("CREATE TABLE copy AS SELECT * FROM book; DELETE FROM copy WHERE id = 1", {"copy"}),
    "table_dropped": ("DROP TABLE note", set()),
    "table_made_again_as_it_was": (
        "DROP TABLE note; CREATE TABLE note(text, at); INSERT INTO note VALUES (1, 1)",
        {"note"},
    ),
    "table_of_another_kind": (
        "DROP TABLE note; CREATE TABLE note(text PRIMARY KEY, at) WITHOUT ROWID; INSERT INTO note VALUES (1, 1)",
        {"note"},
    ),
    "index_new": ("CREATE INDEX note_at ON note(at DESC) WHERE at > 0; INSERT INTO note VALUES (5, 5)", set()),
    "unique_index_new": (
        "CREATE UNIQUE INDEX one ON book(title); REPLACE INTO book VALUES (7, 1, 'two', 1, 1)",
        {"book"},
    ),
    "index_dropped": ("DROP INDEX book_title; UPDATE book SET title = 'z' WHERE id = 1", set()),
    "view_new_and_dropped": ("DROP VIEW titles; CREATE VIEW cheap AS SELECT * FROM book WHERE price < 2", set()),
    "trigger_new": (
        "CREATE TRIGGER loud AFTER INSERT ON note BEGIN UPDATE note SET text = upper(text) WHERE rowid = new.rowid; END;"
        "INSERT INTO note VALUES ('shout', 8)",
        {"note"},
    ),
    "trigger_dropped": ("DROP TRIGGER hear; INSERT INTO tag VALUES ('quiet', 1)", {"tag"}),
    "vacuum": ("DELETE FROM book WHERE id = 1; VACUUM; INSERT INTO note VALUES ('v', 3)", set()),
    "auto_vacuum": ("PRAGMA auto_vacuum = INCREMENTAL; VACUUM; INSERT INTO note VALUES ('v', 3)", set()),
    "analyze": ("ANALYZE; INSERT INTO note VALUES ('v', 3)", set()),
    "reindex": ("REINDEX; INSERT INTO note VALUES ('v', 3)", set()),
    "rebuilt_as_django_does": (DJANGO, {"book"}),
    "rebuilt_as_rails_does": (RAILS, {"author"}),
    "rebuilt_as_alembic_does": (ALEMBIC, {"note"}),
    "rebuilt_as_knex_does": (KNEX, {"book"}),
}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[FollowedPair]:
    made = FollowedPair(tmp_path)
    yield made
    made.db.close()


@pytest.mark.parametrize("unpulled", [False, True], ids=["pulled_before", "unpulled_before"])
@pytest.mark.parametrize("change", CHANGES)
def test_mirror_and_both_sides_of_it_are_right_when_the_schema_changes(
    pair: FollowedPair, change: str, unpulled: bool
) -> None:
    statements, concerned = CHANGES[change]
    pair.start(SHOP)
    pair.do(WORK)
    before = pair.point()
    if not unpulled:
        pair.same()
    pair.do(statements)
    pair.pull()
    assert set(pair.tables_mirrored) == concerned
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.do("UPDATE author SET name = 'after'; DELETE FROM heard")
    after = pair.point()
    pair.same()
    pair.same_at(*before)
    pair.same_at(*after)


@pytest.mark.parametrize("number", ["user_version", "application_id"])
def test_number_in_the_header_changes_at_its_place_when_nothing_else_does(pair: FollowedPair, number: str) -> None:
    pair.start(SHOP)
    before = pair.point_pulled()
    pair.do(f"PRAGMA {number} = 252006674")
    pair.same()
    after = pair.point_pulled()
    pair.same_at(*before)
    pair.same_at(*after)


def test_rows_and_points_are_right_when_vacuum_has_set_another_page_size(pair: FollowedPair) -> None:
    """The mirror keeps the page size that it was made with: that is no reason to copy anything."""
    pair.start(SHOP)
    pair.do("PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL")
    pair.do(WORK)
    at, kept = pair.point()
    assert pair.pull() == ("resume", "")
    for copy in (pair.store.mirror, pair.restored(pair.points_at(at)[0])):
        assert oracle.differences(oracle.dump(kept), oracle.dump(copy)) == ["header page_size: 8192 / 4096"]


@pytest.mark.parametrize("change", ["column_renamed", "table_renamed", "rebuilt_as_django_does", "table_new"])
def test_nothing_remains_of_a_change_when_it_was_rolled_back(pair: FollowedPair, change: str) -> None:
    pair.start(SHOP)
    statements = CHANGES[change][0].replace("BEGIN;", "").replace("COMMIT;", "")
    pair.do(f"BEGIN; {statements}; ROLLBACK; {WORK}")
    assert pair.pull() == ("resume", "")
    oracle.assert_same(pair.path, pair.store.mirror)


def test_points_stay_what_they_were_when_the_source_is_put_back_while_a_change_of_the_schema_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put back to behind the segment that is replayed, and before where the archive ends."""
    monkeypatch.setattr(reader, "IMAGE_ROWS", 5)
    pair = FollowedPair(tmp_path)
    pair.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    for n in range(12):
        pair.do(f"INSERT INTO t(v) VALUES ({n})")
        if n == 7:
            copy_source(pair.path, tmp_path / "backup.db")
    at = pair.point()
    pair.do("ALTER TABLE t ADD COLUMN w")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    attach = Archive.attach
    with monkeypatch.context() as patched:
        patched.setattr(
            Archive,
            "attach",
            lambda self, db, segment: attach(self, db, segment) if segment.first < 5 else die(),
        )
        with pytest.raises(KeyboardInterrupt):
            pair.pull()
    with apsw.Connection(str(tmp_path / "backup.db")) as backup, pair.db.backup("main", backup, "main") as going:
        going.step(-1)
    pair.do("INSERT INTO t(v) VALUES ('after')")
    pair.pull()
    oracle.assert_same(pair.path, pair.store.mirror)
    pair.same_at(*at)
    after = pair.point_pulled()
    pair.same_at(*at)
    pair.same_at(*after)
