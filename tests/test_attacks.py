"""Attacks by what a source calls things, by files that somebody sends, and by neighbours on either machine.

Every name, label and text here is one that SQLite takes.  What runs is the command as a person has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import forked
import msgspec
import oracle
import pytest
import zstandard
from pair import FollowedPair
from test_cli import ROLLREP, Place, refusal, sentence
from test_faults import HANGS, hanging_pull

from rollrep.core.errors import RollrepError, UsageError
from rollrep.destination import container, travelling
from rollrep.destination.store import Store
from rollrep.jobs import config

ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202eOK      shop: all is well"
"""it clears the screen, names the window, begins a line of its own, and turns the rest around"""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# ---------------------------------------------------------------- what is shown


def hostile_place(place: Place) -> Place:
    table, column = quoted(f"t{ESCAPES}"), quoted(f"c{ESCAPES}")
    with contextlib.closing(sqlite3.connect(place.db)) as db:
        db.create_collation("STRANGE\x1b[2J", lambda one, other: (one > other) - (one < other))
        db.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, {column})")
        db.execute(f'CREATE TABLE {quoted("left out" + ESCAPES)}(k TEXT COLLATE "STRANGE\x1b[2J" PRIMARY KEY)')
        db.execute('CREATE TABLE "[/x][link=http://a]"(id INTEGER PRIMARY KEY)')
    place.installed().run("pull")
    place.run("source", "point", place.db, "--label", "one")
    with contextlib.closing(sqlite3.connect(place.db)) as db:
        db.execute(f"INSERT INTO {table} VALUES (1, ?)", (ESCAPES,))
        db.execute("INSERT INTO _rollrep_point(label) VALUES (?)", (f"two {ESCAPES}",))
        db.execute(f"UPDATE {table} SET {column} = NULL")
        db.execute(f"CREATE VIEW {quoted('v' + ESCAPES)} AS SELECT 1")
        db.commit()
    place.run("pull")
    return place


def on_a_terminal(place: Place, *arguments: object) -> str:
    """What a terminal is sent, which is rollrep's stdout and stderr."""
    ours, theirs = pty.openpty()
    kept = {**os.environ, "HOME": str(place.home), "TERM": "xterm-256color", "COLUMNS": "200"}
    child = subprocess.Popen(
        [ROLLREP, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=place.folder,
        env=kept,
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # Linux says EIO where the other side is closed
        while select.select([ours], [], [], 60)[0] and (data := os.read(ours, 65536)):
            said += data
    os.close(ours)
    child.wait(10)
    return said.decode()


def test_terminal_is_not_steered_when_names_and_labels_are_full_of_escapes(place: Place) -> None:
    hostile_place(place)
    table = f"t{ESCAPES}"
    output = place.folder / "then.db"
    commands: tuple[tuple[object, ...], ...] = (
        ("status",), ("check",), ("points", "shop"), ("timeline", "shop"), ("diff", "shop", "label:one", "latest"),
        ("diff", "shop", "label:one", "latest", "--rows"), ("history", "shop", table, 1),
        ("history", "shop", "no" + ESCAPES, 1), ("restore", "shop", "--at", f"label:two {ESCAPES}", "-o", output),
        ("restore", "shop", "-t", f"x{ESCAPES}", "-o", output), ("verify", "shop", "--against-source"), ("pull",),
        ("snapshot", "shop", "--pin", "--label", ESCAPES), ("prune", "shop", "-n"), ("source", "status", place.db),
        ("source", "install", place.db), ("undo", "shop", "label:one", "latest", "-n"), ("rehearse", "shop"),
    )  # fmt: skip
    said = {}
    for command in commands:
        done = place.run(*command)
        said[command] = done.stdout + done.stderr
        assert STEERING.findall(said[command]) == [], command
        for line in said[command].splitlines():
            assert not line.startswith("OK      shop: all is well"), command
    assert r"\x1b[2J" in said["points", "shop"] and r"\x1b[2J" in said["timeline", "shop"]
    assert "left out" in said["check",]
    told = json.loads(place.run("points", "shop", "--json").stdout)
    assert f"two {ESCAPES}" in [point["label"] for point in told["points"]], "data is exact"


def test_terminal_is_not_steered_when_it_is_one(place: Place) -> None:
    hostile_place(place)
    read = f"SELECT * FROM {quoted('t' + ESCAPES)}"
    for command in (
        ("query", "shop", "--at", f"label:two {ESCAPES}", read), ("diff", "shop", "label:one", "latest", "--sql"),
        ("undo", "shop", "label:one", "latest"), ("mirror", "shop"),
    ):  # fmt: skip
        said = on_a_terminal(place, *command)
        assert "Traceback" not in said and "MarkupError" not in said, said
        assert not [each for each in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e") if each in said], said
    piped = place.run("query", "shop", "--at", f"label:two {ESCAPES}", "--csv", read).stdout
    assert "\x1b[2J\x1b]0;owned\x07" in piped, "data is exact"


# ---------------------------------------------------------------- what is run


SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, a)"


def test_script_runs_nothing_but_itself_when_texts_of_the_schema_end_in_a_comment(place: Place) -> None:
    """A comment that is left open hides what follows, up to where an attacker closes it."""
    place.pulled()
    made = place.folder / "made"
    place.good("source", "point", place.db, "--label", "before")
    place.good("pull")
    place.write(
        "CREATE TABLE zz(a)",
        "CREATE INDEX ix ON zz(a) /* open",
        f"CREATE VIEW v AS SELECT '*/;\n.shell touch {made}\n' -- two",
        "CREATE VIEW w AS SELECT '--', 1 /* open",
        f"INSERT INTO zz VALUES ('\n*/;\n.shell touch {made}\n')",
    )
    place.good("pull")
    then = place.folder / "then.db"
    assert place.run("restore", "shop", "--at", "label:before", "-o", then).returncode == 0
    script = place.run("diff", "shop", "label:before", "latest", "--sql").stdout
    subprocess.run(["sqlite3", "-bail", then], input=script.encode(), check=True)
    assert not made.exists()
    with contextlib.closing(sqlite3.connect(then)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        assert names >= {"zz", "ix", "v", "w"}
        assert db.execute("SELECT count(*) FROM zz").fetchone() == (1,)


@pytest.mark.parametrize(
    "index",
    ["u ON t(a) WHERE a > 0 -- alive", "u ON t(a) WHERE a > 0 /* open", "u ON t(a + 0 -- one\n, id) /* open",
     "u ON t(/* first */ abs(a) /* two */ DESC) -- three"],
)  # fmt: skip
def test_row_is_gone_when_it_was_replaced_by_an_index_whose_text_has_comments(tmp_path: Path, index: str) -> None:
    """Its terms are parts of our triggers: a comment in them would be one in those."""
    pair = FollowedPair(tmp_path)
    pair.do(f"{SCHEMA}; CREATE UNIQUE INDEX {index}")
    pair.do("INSERT INTO t VALUES (1, 5)")
    pair.install()
    pair.pull()
    pair.do("INSERT OR REPLACE INTO t VALUES (2, 5)")
    pair.do("UPDATE t SET a = 6")
    pair.same()


def test_nothing_is_mixed_up_when_names_differ_in_no_letter_of_ascii(place: Place) -> None:
    """SQLite takes 'É' and 'é' for two tables, and so 'ß' and 'ss'; a name that only looks like one of its own is none."""
    names = ("É", "é", "ß", "ss", "ſqlite_x", "e\u0301", "\u212a")
    place.write(*(f'CREATE TABLE "{name}"(id INTEGER PRIMARY KEY, "É", "é")' for name in names))
    place.pulled()
    place.write(*(f"""INSERT INTO "{name}" VALUES (1, 'of {name}', 'small')""" for name in names))
    place.good("pull")
    place.assert_mirrored()
    for name in names:
        then = place.folder / "then.db"
        then.unlink(missing_ok=True)
        assert place.run("restore", "shop", "-t", name, "-o", then).returncode == 0
        with contextlib.closing(sqlite3.connect(then)) as db:
            assert db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [(name,)]
            assert db.execute(f'SELECT "É" FROM "{name}"').fetchall() == [(f"of {name}",)]
        assert f"É='of {name}'" in place.run("history", "shop", name, "é=small").stdout
        assert place.run("diff", "shop", "point:1", "latest", "-t", name).stdout == f"{name}: 1 added\n"


# ---------------------------------------------------------------- what somebody sends


class Sent:
    """An exported point of `place`, and files like it that are not what they say."""

    def __init__(self, place: Place) -> None:
        self.place = place
        place.pulled()
        place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\n[jobs.other]\nsource = "local:{place.db}"\n')
        good = place.folder / "good.rollrep"
        place.run("export", "shop", good)
        self.holds = msgspec.to_builtins(container.read_holds(good, travelling.KIND, travelling.PointHolds))
        raw = bytearray(container.read_raw(good, travelling.KIND))
        raw[18:20] = b"\1\1"  # no WAL: what is deserialized can have none
        self.raw = bytes(raw)
        self.file = place.folder / "sent.rollrep"

    def write(self, raw: bytes | None = None, *, raw_bytes: int = 0, **holds: object) -> None:
        raw = self.raw if raw is None else raw
        packed = zstandard.ZstdCompressor().compress(raw)
        said: Any = msgspec.Raw(json.dumps({**self.holds, **holds}).encode())
        container.write_packed(self.file, travelling.KIND, packed, raw_bytes or len(raw), said)

    def altered(self, *statements: str, state: Callable[[dict[str, Any]], object] = lambda _state: None) -> bytes:
        with contextlib.closing(apsw.Connection(":memory:")) as db:
            db.deserialize("main", self.raw)
            for statement in statements:
                db.execute(statement).fetchall()
            [(body,)] = db.execute("SELECT body FROM _rollrep_state").fetchall()
            told = json.loads(body)
            state(told)
            db.execute("UPDATE _rollrep_state SET body = ?", (json.dumps(told),)).fetchall()
            return db.serialize("main")

    def refused(self, code: int, *holding: str) -> None:
        """Import says why in a sentence; nothing lies outside of the store, and nothing of it inside."""

        def files() -> set[str]:
            ours = ("data/other", "data/other/archive", "data/other/snapshots")
            return {each for each in self.place.names() if each not in ours}

        before = {each for each in files() if "/other/" not in each}
        sentence(self.place.run("import", self.file, "--job", "other"), code, *holding)
        assert {each for each in files() if "/other/" not in each} == before
        left = {path.name for path in (self.place.store / "other").rglob("*") if path.is_file()}
        assert left <= {"catalog.db", "lock", "reading.lock", "catalog.db-wal", "catalog.db-shm"}


@pytest.fixture
def sent(place: Place) -> Sent:
    return Sent(place)


def test_imported_file_stays_in_the_store_when_its_time_is_a_path(sent: Sent) -> None:
    """A snapshot's file is called by its time."""
    for time in (
        "../../../../evil",
        "2026-02-30T00:00:00.000Z",
        "0000-01-01T00:00:00.000Z",
        "9999-12-31T23:59:59.999Z",
    ):
        raw = sent.altered(state=lambda told, time=time: told.update(time=time))  # type: ignore[misc]
        [point] = sent.holds["points"]
        for points in ([point], [{**point, "time": time}]):
            sent.write(raw, time=time, points=points)
            sent.refused(16, "is damaged")
        sent.write(raw)
        sent.refused(16, "does not hold what it says")


def test_imported_file_is_refused_when_it_speaks_of_something_else(sent: Sent) -> None:
    [point] = sent.holds["points"]
    for label, change in {
        "another place in the log": {"points": [{**point, "id": 2**62}]},
        "no time": {"points": [{**point, "time": "../x"}]},
        "another position": {"position": {**sent.holds["position"], "id": 2**62}, "points": []},
    }.items():
        sent.write(**change)
        sent.refused(16, "nothing of it was used")
        assert label
    sent.write(job="../../evil")
    refusal(sent.place, 2, ("import", sent.file), 'no job "../../evil"')
    bad = sent.altered(state=lambda told: told["layout"].update(encoding="UTF-8'; ATTACH 'evil.db' AS e; --"))
    sent.write(bad)
    sent.refused(16, "does not hold what it says")


def test_imported_file_is_refused_when_it_is_a_bomb_or_no_database(sent: Sent) -> None:
    sent.write(raw_bytes=1 << 50)
    sent.refused(18, "unpacks to 1 PiB", "make room")
    sent.write(bytes(64 << 20), raw_bytes=len(sent.raw))
    sent.refused(16, "its bytes are not what its manifest says")
    sent.write(bytes(64 << 20))
    sent.refused(16, "does not hold what it says")
    pages = bytearray(sent.raw)
    pages[28:32] = struct.pack(">I", 0x7FFFFFFF)
    sent.write(bytes(pages))
    sent.refused(16, "does not hold what it says")


def test_imported_schema_does_nothing_when_it_is_asked_and_restored(sent: Sent) -> None:
    """Triggers, views and texts that would load, write and attach; they are carried as the texts that they are."""
    made = sent.place.folder / "made"
    texts = {
        "trigger": "CREATE TRIGGER x AFTER UPDATE ON users BEGIN SELECT load_extension('made'); END",
        "view": f"CREATE VIEW x AS SELECT writefile('{made}', 'x'), load_extension('made'), edit('made')",
    }
    entries = [
        "INSERT INTO sqlite_schema VALUES ('{0}', 'x{0}', '{1}', 0, '{2}')".format(
            kind, "users" if kind == "trigger" else "xview", text.replace(" x ", f" x{kind} ").replace("'", "''")
        )
        for kind, text in texts.items()
    ]

    def attach(told: dict[str, Any]) -> None:
        text = f"CREATE TABLE z(a); ATTACH '{made}' AS e; CREATE TABLE e.q(a)"
        told["layout"]["objects"].append({"type": "table", "name": "z", "table": "z", "sql": text})

    sent.write(sent.altered("PRAGMA writable_schema = ON", *entries, state=attach))
    run = sent.place.run
    assert run("import", sent.file, "--job", "other").returncode == 0
    assert run("restore", "other", "-o", sent.place.folder / "then.db").returncode == 0
    assert run("rehearse", "other").returncode == 0
    asked = run("query", "other", "SELECT * FROM xview")
    assert asked.returncode == 2 and "SQLite: " in asked.stderr
    assert "admin=" in run("history", "other", "users", "1").stdout
    assert run("diff", "other", "latest", f"file:{sent.place.db}", "--sql").returncode in (0, 3)
    assert not made.exists()


# ---------------------------------------------------------------- neighbours


def test_configuration_is_not_taken_when_somebody_else_may_have_written_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names commands: whoever may write a folder would choose what is run by who works there."""
    made = place.folder / "made"
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nremote_command = "touch {made}"\n')
    place.config.chmod(0o666)
    remedy = refusal(place, 2, ("pull",), "can be written by everybody", str(place.config))
    assert f"rollrep -c {place.config} ..." in remedy
    assert not made.exists()
    place.run("-c", place.config, "pull")
    assert made.exists(), "it was named"
    place.config.chmod(0o644)
    monkeypatch.chdir(place.folder)
    assert config.find_config(None, {}) == Path("rollrep.toml")
    monkeypatch.setattr(os, "geteuid", lambda: place.config.stat().st_uid + 1)
    if place.config.stat().st_uid:
        with pytest.raises(UsageError, match="belongs to another user"):
            config.find_config(None, {})


@pytest.mark.parametrize("planted", ["folder", "link"])
def test_store_is_not_taken_when_somebody_else_made_it_where_everybody_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    shared.mkdir()
    shared.chmod(0o1777)
    mine.mkdir()
    if planted == "link":
        (shared / "shop").symlink_to(mine)
    else:
        (shared / "shop").mkdir()
    lstat = Path.lstat

    def planted_by_another(path: Path) -> os.stat_result:
        found = list(lstat(path))
        found[4] = 12_345 if path == shared / "shop" else found[4]
        return os.stat_result(found)

    Store(tmp_path, "mine").create()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "lstat", planted_by_another)
        with pytest.raises(UsageError, match="belongs to another user"):
            Store(shared, "shop").create()
        shared.chmod(0o755)
        Store(shared, "shop").create()
    Store(shared, "shop").create()


def test_other_jobs_go_on_when_a_source_holds_its_own_for_ever(place: Place) -> None:
    """It takes everything and says nothing: the next pull finds the job locked, and the others free."""
    hangs, good = (f'[jobs.{name}]\nsource = "local:{place.db}"\n' for name in ("hangs", "shop"))
    place.configure(hangs + good)
    place.pulled()
    place.configure(hangs + HANGS + good)
    with hanging_pull(place):
        place.write("UPDATE users SET admin = 1 - admin")
        done = place.run("pull")
        assert done.returncode == 3 and "hangs is being worked on by process " in done.stderr
        place.assert_mirrored()


def test_nothing_secret_is_said_when_somebody_wants_to_know_all(place: Place) -> None:
    key = place.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", key], check=True)
    address = "http://127.0.0.1:9/secret-path"
    place.configure(f'[jobs.shop]\nsource = "ssh://nobody@127.0.0.1:9/shop"\nidentity = "{key}"\n')
    for command in ("pull", "check", "status"):
        done = place.run("-v", command, ROLLREP_PING_URL=address, ROLLREP_PING_TIMEOUT="1")
        said = done.stdout + done.stderr
        assert "secret-path" not in said and "sesame" not in said and "PRIVATE KEY" not in said
        assert not any(line and line in said for line in key.read_text().splitlines()[1:-1])


# ---------------------------------------------------------------- what a clock says


@pytest.mark.parametrize("at", ["0000-01-01", "9999-12-31 23:59:59.999", "1e300", "NULL", "'never'", "-1"])
def test_pull_ends_in_a_sentence_when_a_point_is_of_no_time(pair: FollowedPair, tmp_path: Path, at: str) -> None:
    """Who can write in the database can write the log."""
    pair.do("INSERT INTO _rollrep_point(label) VALUES ('then')")
    value = at if at[0] in "N'-1" and "-12" not in at else f"julianday('{at}')"
    pair.do(f"UPDATE _rollrep_log SET at = {value} WHERE op = 3")
    with contextlib.suppress(RollrepError):
        pair.pull()
        oracle.assert_same(pair.path, pair.store.mirror)
    place_config = tmp_path / "rollrep.toml"
    place_config.write_text(f'store = "{pair.store.folder.parent}"\n[jobs.job]\nsource = "local:{pair.path}"\n')
    for command in (("pull",), ("points", "job"), ("timeline", "job"), ("status",), ("restore", "job", "-o", "o.db")):
        done = forked.run(*command, cwd=tmp_path, env={**os.environ, "TZ": "Pacific/Kiritimati"})
        assert "Traceback" not in done.stderr, done.stderr
