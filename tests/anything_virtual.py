"""Virtual tables for `anything`: full-text indexes of every kind and R*Trees, drawn as the rest is.

Knows: SQL of FTS5, FTS4 and R*Tree.  Does not know: rollrep.
"""

from __future__ import annotations

import apsw
from anything import Draw, quoted

NOTE = "v note"
SYNC = """INSERT INTO "v outer"(rowid, title, body) VALUES (new.id, new.title, new.body)"""
UNSYNC = """INSERT INTO "v outer"("v outer", rowid, title, body) VALUES ('delete', old.id, old.title, old.body)"""
KINDS: dict[str, tuple[str, ...]] = {
    "v own": ("CREATE VIRTUAL TABLE \"v own\" USING fts5(title, body, extra UNINDEXED, prefix = '1 2')",),
    "v outer": (
        f'CREATE TABLE IF NOT EXISTS "{NOTE}"(id INTEGER PRIMARY KEY, title, body)',
        f"CREATE VIRTUAL TABLE \"v outer\" USING fts5(title, body, content = '{NOTE}', content_rowid = 'id')",
        f'CREATE TRIGGER IF NOT EXISTS "v ai" AFTER INSERT ON "{NOTE}" BEGIN {SYNC}; END',
        f'CREATE TRIGGER IF NOT EXISTS "v ad" AFTER DELETE ON "{NOTE}" BEGIN {UNSYNC}; END',
        f'CREATE TRIGGER IF NOT EXISTS "v au" AFTER UPDATE ON "{NOTE}" BEGIN {UNSYNC}; {SYNC}; END',
    ),
    "v bare": ("CREATE VIRTUAL TABLE \"v bare\" USING fts5(title, body, content = '')",),
    "v old": ('CREATE VIRTUAL TABLE "v old" USING fts4(title, body)',),
    "v tree": ('CREATE VIRTUAL TABLE "v tree" USING rtree(id, x0, x1, y0, y1, +title, +body)',),
}
WORDS = (
    "'oak'",
    "'oak elm'",
    "'elm ash oak'",
    "'ÄÖ oaks'",
    "''",
    "NULL",
    "1",
    "2.5",
    "x'6f616b'",
    "'oak' || char(0) || 'elm'",
)
QUESTIONS = ("oak", "el*", '"elm ash"', "oak NOT ash")


def virtual_names(db: apsw.Connection) -> list[str]:
    """Those of `KINDS` that are there."""
    found = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0 ORDER BY name").fetchall()
    return [name for (name,) in found if name in KINDS]


def change_virtual(draw: Draw, there: list[str]) -> list[str]:
    """The statements that make one virtual table, or drop one."""
    name = draw.pick(list(KINDS))
    return [f"DROP TABLE {quoted(name)}"] if name in there else list(KINDS[name])


def write_virtual(draw: Draw, there: list[str]) -> str:
    """One statement on one of the virtual tables; it may well fail."""
    name = draw.pick(there)
    v, key, a, b = quoted(name), draw.count(1, 6), draw.pick(WORDS), draw.pick(WORDS)
    if name == "v tree":
        x, y = draw.count(-9, 9), draw.count(-9, 9)
        return str(draw.pick([
            f"INSERT INTO {v} VALUES ({key}, {x}, {x + key}, {y}, {y + 2}, {a}, {b})",
            f"INSERT OR REPLACE INTO {v} VALUES (NULL, {x}, {x + key}, {y}, {y + 1}, {a}, {b})",
            f"UPDATE {v} SET x1 = x1 + {key}, title = {a} WHERE id > {key}",
            f"UPDATE OR REPLACE {v} SET id = {key} WHERE id = {key + 1}",
            f"DELETE FROM {v} WHERE id = {key}",
        ]))  # fmt: skip
    table = quoted(NOTE) if name == "v outer" else v
    rowid = {"v outer": "id", "v old": "docid"}.get(name, "rowid")
    commands = ("optimize", "rebuild", "merge=2,8") if name == "v old" else ("optimize", "rebuild", "delete-all")
    return str(draw.pick([
        f"INSERT INTO {table}({rowid}, title, body) VALUES ({key}, {a}, {b})",
        f"REPLACE INTO {table}({rowid}, title, body) VALUES ({key}, {b}, {a})",
        f"INSERT INTO {table}(title, body) VALUES ({a}, {b}), ({b}, {a})",
        f"UPDATE {table} SET title = {a} WHERE {rowid} > {key}",
        f"UPDATE {table} SET {rowid} = {rowid} + 1 WHERE {rowid} = {key}",
        f"DELETE FROM {table} WHERE {rowid} = {key}",
        f"INSERT INTO {v}({v}) VALUES ('{draw.pick(commands)}')",
    ]))  # fmt: skip


def searched(db: apsw.Connection, names: list[str]) -> list[object]:
    """What searching each of them finds, or the error that it gives."""
    found: list[object] = []
    for name in names:
        v = quoted(name)
        questions = [f"SELECT rowid FROM {v} WHERE {v} MATCH '{question}' ORDER BY 1" for question in QUESTIONS]
        if name == "v tree":
            questions = [f"SELECT id, x0, y1 FROM {v} WHERE x0 > -3 AND x1 < 9 ORDER BY 1"]
        for question in questions:
            try:
                found.append(db.execute(question).fetchall())
            except apsw.Error as error:
                found.append(str(error))
    return found
