"""Features of SQLite's SQL, one small application each: for the table in docs/support.md.

CARRIED   name → (schema, statements)   the mirror and a point in the middle are the source
REFUSED   name → (schema, table, what `install` says of that table)
"""

from __future__ import annotations

TOO_WIDE = ", ".join(f"c{n}" for n in range(1_950))
T = "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b); INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);"
FAMILY = (
    "CREATE TABLE p(id INTEGER PRIMARY KEY, a UNIQUE); CREATE TABLE c(p INT REFERENCES p ON DELETE {0} ON UPDATE {0}"
    " DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES (0, 'none'), (1, 'x'), (2, 'y'); INSERT INTO c VALUES (1), (2);"
)
MOVES = (
    "PRAGMA foreign_keys = ON", "UPDATE p SET id = 9 WHERE id = 1", "DELETE FROM p WHERE id = 2",
    "REPLACE INTO p VALUES (10, 'x')",
)  # fmt: skip

CARRIED: dict[str, tuple[str, tuple[str, ...]]] = {
    "storage classes under every affinity": (
        "CREATE TABLE t(i INT, r REAL, n NUMERIC, x TEXT, b BLOB, z)",
        (
            "INSERT INTO t VALUES (1, 1, 1, 1, 1, 1), ('1', '1', '1', '1', '1', '1'), (1.5, 1.5, 1.5, 1.5, 1.5, 1.5),"
            " ('a', 'a', 'a', 'a', 'a', 'a'), (x'00', x'00', x'00', x'00', x'00', x'00'), (NULL, NULL, NULL, NULL, NULL, NULL)",
            "UPDATE t SET (i, r, n, x, b, z) = (z, b, x, n, r, i)",
        ),
    ),
    "infinities, subnormals, zeros": (
        "CREATE TABLE t(v, r REAL)",
        (
            "INSERT INTO t VALUES (1e999, 1e999), (-1e999, -1e999), (5e-324, 5e-324), (0.0, -0.0), (1e999 - 1e999, 1)",
            "UPDATE t SET v = -v, r = v",
        ),
    ),
    "limits of 64 bits": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, r REAL)",
        (
            "INSERT INTO t VALUES (9223372036854775807, -9223372036854775808, 9007199254740993)",
            "INSERT INTO t VALUES (-9223372036854775808, 9223372036854775807, 9223372036854775807)",
            "UPDATE t SET v = id",
        ),
    ),
    "empty string and NULL": (
        "CREATE TABLE t(v TEXT)",
        ("INSERT INTO t VALUES (''), (NULL), (x'')", "UPDATE t SET v = CASE WHEN v IS NULL THEN '' END"),
    ),
    "rowid without a key": (
        "CREATE TABLE t(v)",
        (
            "INSERT INTO t(rowid, v) VALUES (5, 1), (-5, 2)",
            "INSERT INTO t VALUES (3)",
            "UPDATE t SET rowid = rowid + 100",
            "DELETE FROM t WHERE v = 2",
        ),
    ),
    "WITHOUT ROWID, composite keys, collations": (
        "CREATE TABLE t(a TEXT COLLATE NOCASE, b REAL, c COLLATE RTRIM, v, PRIMARY KEY(c DESC, a, b)) WITHOUT ROWID",
        (
            "INSERT INTO t VALUES ('x', 1, 'k  ', 1), ('y', 1.5, 'k', 2), ('X', 2, 'l', 3)",
            "UPDATE t SET a = upper(a)",
            "REPLACE INTO t VALUES ('X', 1, 'k', 9)",
            "DELETE FROM t WHERE c = 'l  '",
        ),
    ),
    "NULLs in a key": (
        "CREATE TABLE t(k TEXT PRIMARY KEY, n INT); CREATE TABLE d(a, b, PRIMARY KEY(a, b))",
        (
            "INSERT INTO t VALUES (NULL, 1), (NULL, 2), ('a', 3)",
            "INSERT INTO d VALUES (NULL, 1), (NULL, 1), (1, NULL)",
            "UPDATE t SET n = n + 1 WHERE k IS NULL",
            "DELETE FROM d WHERE b IS NULL",
        ),
    ),
    "INTEGER PRIMARY KEY DESC and INT PRIMARY KEY": (
        "CREATE TABLE t(a INTEGER PRIMARY KEY DESC, v); CREATE TABLE u(a INT PRIMARY KEY, v)",
        (
            "INSERT INTO t VALUES (1, 1), (NULL, 2)",
            "INSERT INTO u VALUES (1, 1), (NULL, 2)",
            "UPDATE t SET a = 7 WHERE v = 2",
            "UPDATE u SET a = 7 WHERE v = 2",
        ),
    ),
    "AUTOINCREMENT": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
        ("INSERT INTO t(v) VALUES (1), (2), (3)", "DELETE FROM t", "INSERT INTO t(v) VALUES (4)", "DELETE FROM t"),
    ),
    "STRICT": (
        "CREATE TABLE t(i INTEGER, r REAL, x TEXT, b BLOB, a ANY) STRICT",
        (
            "INSERT INTO t VALUES (1, 1, '1', x'01', '001')",
            "INSERT INTO t VALUES (1, 1.5, '1', x'01', 1)",
            "UPDATE t SET a = 1.0",
        ),
    ),
    "generated columns": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, s AS (a * 2) STORED, v TEXT AS (a || 'x'), u AS (a % 7));"
        "CREATE UNIQUE INDEX by_v ON t(v)",
        ("INSERT INTO t(a) VALUES (1), (2)", "UPDATE t SET a = a + 10", "REPLACE INTO t(a) VALUES (11)"),
    ),
    "columns named rowid and oid": (
        "CREATE TABLE t(rowid, oid, v); CREATE TABLE u(_rowid_ INTEGER PRIMARY KEY, rowid TEXT, oid)",
        (
            "INSERT INTO t VALUES (1, 2, 3), (1, 2, 3)",
            "INSERT INTO u VALUES (7, 'x', 1)",
            "UPDATE t SET rowid = 'a' WHERE _rowid_ = 1",
            "UPDATE u SET _rowid_ = 8, rowid = 9",
            "DELETE FROM t WHERE _rowid_ = 2",
        ),
    ),
    "names of any kind": (
        'CREATE TABLE "a ""table"" of it\'s [own]"("select" INTEGER PRIMARY KEY, "ключ ü 日本 😀", "x""y", `from`, "");'
        'CREATE TABLE "order"("group" UNIQUE, "_rollrep" INT)',
        (
            'INSERT INTO "a ""table"" of it\'s [own]" VALUES (1, 2, 3, 4, 5)',
            'INSERT INTO "order" VALUES (1, 2)',
            'UPDATE "a ""table"" of it\'s [own]" SET "x""y" = \'z\', "" = 6',
            'REPLACE INTO "order" VALUES (1, 3)',
        ),
    ),
    "empty tables": (
        "CREATE TABLE t(a); CREATE TABLE u(k PRIMARY KEY) WITHOUT ROWID",
        ("INSERT INTO t SELECT 1 WHERE 0",),
    ),
    "several UNIQUE, partial and expression indexes": (
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a UNIQUE, b, c TEXT, gone INT DEFAULT 0, UNIQUE(b, c));"
        "CREATE UNIQUE INDEX part ON t(b) WHERE gone = 0; CREATE UNIQUE INDEX expr ON t(lower(c), a || b)",
        (
            "INSERT INTO t(a, b, c) VALUES (1, 1, 'X'), (2, 2, 'y'), (3, 3, 'z')",
            "REPLACE INTO t(a, b, c) VALUES (1, 2, 'q')",
            "UPDATE OR REPLACE t SET b = 3, gone = 0",
            "INSERT OR IGNORE INTO t(a, b, c) VALUES (9, 3, 'z')",
        ),
    ),
    "CHECK and DEFAULT": (
        "CREATE TABLE t(a INT CHECK (a > 0) DEFAULT (1 + 1), b DEFAULT CURRENT_TIMESTAMP, c DEFAULT x'00', d TEXT DEFAULT"
        " 'it''s', e NOT NULL DEFAULT -1.5, CHECK (a < 100 OR d IS NULL))",
        ("INSERT INTO t DEFAULT VALUES", "INSERT INTO t(a) VALUES (5)", "UPDATE t SET d = NULL, a = 1000 WHERE a = 5"),
    ),
    "views and INSTEAD OF triggers": (
        T + "CREATE VIEW v AS SELECT id, b FROM t; CREATE TRIGGER i INSTEAD OF UPDATE ON v BEGIN"
        " UPDATE t SET b = new.b WHERE id = old.id; END",
        ("UPDATE v SET b = b * 10", "DROP VIEW v"),
    ),
    "triggers of the application": (
        T
        + "CREATE TABLE audit(what, at INTEGER PRIMARY KEY); CREATE TRIGGER x AFTER UPDATE ON t BEGIN INSERT INTO audit(what)"
        " VALUES (old.b || '>' || new.b); UPDATE t SET b = b + 100 WHERE id = new.id AND b < 100; END;"
        "CREATE TRIGGER y BEFORE DELETE ON t BEGIN DELETE FROM audit WHERE what LIKE old.b || '%'; END",
        (
            "UPDATE t SET b = b + 1",
            "DELETE FROM t WHERE id = 2",
            "PRAGMA recursive_triggers = ON",
            "UPDATE t SET b = 1",
        ),
    ),
    "foreign keys, CASCADE": (FAMILY.format("CASCADE"), MOVES),
    "foreign keys, SET NULL": (FAMILY.format("SET NULL"), MOVES),
    "foreign keys, SET DEFAULT": (FAMILY.format("SET DEFAULT").replace("p INT", "p INT DEFAULT 0"), MOVES),
    "foreign keys, NO ACTION deferred": (
        FAMILY.format("NO ACTION"),
        (
            "PRAGMA foreign_keys = ON",
            "BEGIN",
            "DELETE FROM p WHERE id = 1",
            "INSERT INTO p VALUES (1, 'again')",
            "COMMIT",
        ),
    ),
    "REPLACE and its hidden deletes": (
        T,
        (
            "REPLACE INTO t VALUES (4, 'a', 9)",
            "UPDATE OR REPLACE t SET a = 'b' WHERE id = 3",
            "UPDATE t SET a = 'd' WHERE id = 4",
            "INSERT OR REPLACE INTO t SELECT id + 1, a, b FROM t",
        ),
    ),
    "OR IGNORE, FAIL, ABORT, ROLLBACK": (
        T,
        (
            "INSERT OR IGNORE INTO t VALUES (1, 'z', 0), (7, 'a', 0), (8, 'h', 0)",
            "UPDATE OR IGNORE t SET a = 'a'",
            "!INSERT OR FAIL INTO t VALUES (20, 'n', 0), (21, 'a', 0), (22, 'o', 0)",
            "!UPDATE OR ABORT t SET a = 'q'",
            "BEGIN",
            "DELETE FROM t WHERE id = 2",
            "!INSERT OR ROLLBACK INTO t VALUES (1, 'q', 0)",
        ),
    ),
    "UPSERT and RETURNING": (
        T,
        (
            "INSERT INTO t VALUES (1, 'n', 0), (9, 'b', 5) ON CONFLICT(id) DO UPDATE SET b = excluded.b + 50 ON CONFLICT(a)"
            " DO UPDATE SET a = 'moved' RETURNING *",
            "INSERT INTO t VALUES (1, 'n', 0) ON CONFLICT DO NOTHING RETURNING id",
            "DELETE FROM t WHERE id = 3 RETURNING a",
        ),
    ),
    "DELETE without WHERE": (T, ("DELETE FROM t", "INSERT INTO t VALUES (1, 'a', 2)")),
    "key changes and swaps": (
        T,
        (
            "UPDATE t SET id = -id",
            "UPDATE t SET id = CASE id WHEN -1 THEN 2 ELSE 1 END WHERE id > -3",
            "BEGIN",
            "UPDATE t SET a = NULL WHERE id = 1",
            "UPDATE t SET a = 'a' WHERE id = 2",
            "COMMIT",
        ),
    ),
    "savepoints and rollbacks": (
        T,
        (
            "BEGIN",
            "DELETE FROM t WHERE id = 1",
            "SAVEPOINT s",
            "UPDATE t SET b = 0",
            "ROLLBACK TO s",
            "INSERT INTO t VALUES (4, 'd', 4)",
            "RELEASE s",
            "COMMIT",
            "BEGIN",
            "DELETE FROM t",
            "ROLLBACK",
        ),
    ),
    "ATTACH": (
        T,
        (
            "ATTACH ':memory:' AS other",
            "CREATE TABLE other.t(id, a, b)",
            "INSERT INTO other.t SELECT * FROM main.t",
            "DELETE FROM main.t WHERE id IN (SELECT id FROM other.t WHERE b > 1)",
            "INSERT INTO main.t SELECT id + 10, 'o' || a, b FROM other.t",
            "DELETE FROM other.t",
        ),
    ),
    "recursive_triggers and trusted_schema": (
        T + "CREATE TRIGGER x AFTER DELETE ON t BEGIN UPDATE t SET b = b + 1 WHERE id > old.id; END",
        (
            "PRAGMA recursive_triggers = ON",
            "PRAGMA trusted_schema = OFF",
            "REPLACE INTO t VALUES (4, 'a', 9)",
            "DELETE FROM t WHERE id = 2",
        ),
    ),
    "functions in views, triggers and defaults": (
        T
        + "CREATE TABLE l(x, y DEFAULT (mine(1))); CREATE VIEW v AS SELECT mine(a) FROM t; CREATE TRIGGER g AFTER INSERT ON t"
        " BEGIN INSERT INTO l(x) VALUES (mine(new.a)); END",
        ("INSERT INTO t VALUES (9, 'z', mine('q'))", "UPDATE t SET b = mine(a)"),
    ),
    "a foreign key to no key": (
        "CREATE TABLE p(a, b); CREATE TABLE c(x REFERENCES p(a))",
        ("INSERT INTO p VALUES (1, 2)", "INSERT INTO c VALUES (1), (7)", "UPDATE p SET a = 3", "DELETE FROM p"),
    ),
    "FTS5": (
        "CREATE VIRTUAL TABLE words USING fts5(word)",
        (
            "INSERT INTO words VALUES ('oak'), ('elm'), (''), (NULL)",
            "UPDATE words SET word = 'ash' WHERE words MATCH 'oak'",
            "DELETE FROM words WHERE rowid = 2",
            "INSERT INTO words(words) VALUES ('optimize')",
        ),
    ),
    "FTS4": (
        "CREATE VIRTUAL TABLE words USING fts4(word)",
        (
            "INSERT INTO words VALUES ('oak'), ('elm')",
            "UPDATE words SET word = 'ash' WHERE docid = 1",
            "DELETE FROM words",
        ),
    ),
    "R*Tree": (
        "CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, +name)",
        (
            "INSERT INTO box VALUES (1, 0, 1, 'a'), (2, 5, 6, x'00')",
            "UPDATE box SET x1 = 9",
            "DELETE FROM box WHERE id = 1",
        ),
    ),
    "a column with a collation of the application": (
        "CREATE TABLE note(id INTEGER PRIMARY KEY, title COLLATE locale)",
        ("INSERT INTO note(title) VALUES ('b'), ('a'), (1)", "UPDATE note SET title = 'c' WHERE title < 'b'"),
    ),
    "CHECK with a function of the application": (
        "CREATE TABLE note(id INTEGER PRIMARY KEY, title CHECK (mine(title) <> '<x>'))",
        (
            "INSERT INTO note(title) VALUES ('b'), ('a')",
            "!INSERT INTO note(title) VALUES ('x')",
            "UPDATE note SET title = 'c'",
        ),
    ),
}

REFUSED: dict[str, tuple[str, str, str]] = {
    "more than 1,900 columns": (
        f"CREATE TABLE wide({TOO_WIDE})",
        "wide",
        "it has 1950 columns; up to 1900 can be logged",
    ),
    "columns rowid, oid and _rowid_ at once": (
        "CREATE TABLE hidden(rowid, oid, _rowid_)",
        "hidden",
        "its columns hide all three names of the rowid, and it has no INTEGER PRIMARY KEY",
    ),
    "a key WITHOUT ROWID with one column by two collations": (
        "CREATE TABLE twice(name, PRIMARY KEY(name COLLATE NOCASE, name COLLATE BINARY)) WITHOUT ROWID",
        "twice",
        "its key compares the column name by more than one collation",
    ),
    "an index by a collation of the application": (
        "CREATE TABLE note(title); CREATE INDEX by_title ON note(title COLLATE locale)",
        "by_title",
        "it uses the application's own collation locale; without it, note is carried",
    ),
    "a UNIQUE index by a collation of the application": (
        "CREATE TABLE note(title COLLATE locale); CREATE UNIQUE INDEX by_title ON note(title)",
        "by_title",
        "it uses the application's own collation locale; without it, note is carried",
    ),
    "… of a table with triggers, or foreign keys that act": (
        "CREATE TABLE note(title COLLATE locale, p REFERENCES plain ON DELETE CASCADE);"
        "CREATE UNIQUE INDEX by_title ON note(title)",
        "note",
        "rows must be unique in its index by_title, which only the application can make, and the table has triggers or"
        " foreign keys that act",
    ),
    "a UNIQUE constraint by a collation of the application": (
        "CREATE TABLE note(title COLLATE locale UNIQUE)",
        "note",
        "its keys use the application's own collation locale",
    ),
    "a key by a collation of the application": (
        "CREATE TABLE note(title TEXT COLLATE locale PRIMARY KEY)",
        "note",
        "its keys use the application's own collation locale",
    ),
    "… WITHOUT ROWID": (
        "CREATE TABLE note(a, title COLLATE locale, PRIMARY KEY(a, title)) WITHOUT ROWID",
        "note",
        "its keys use the application's own collation locale",
    ),
    "a column of a table WITHOUT ROWID by a collation of the application": (
        "CREATE TABLE note(a PRIMARY KEY, title COLLATE locale) WITHOUT ROWID",
        "note",
        "it is WITHOUT ROWID and uses the application's own collation locale",
    ),
    "an index over a function of the application": (
        "CREATE TABLE note(title); CREATE INDEX by_title ON note(mine(title))",
        "by_title",
        "it uses the application's own function mine; without it, note is carried",
    ),
    "a partial index over a function of the application": (
        "CREATE TABLE note(title); CREATE INDEX by_title ON note(title) WHERE mine(title)",
        "by_title",
        "it uses the application's own function mine; without it, note is carried",
    ),
    "a generated column with a function of the application": (
        "CREATE TABLE note(title, short AS (mine(title)))",
        "note",
        "it uses the application's own function mine",
    ),
}
