"""Applications that others wrote, unmodified, each on a captured database that is pulled while it works.

    the application ──► app.db + log ──rollrep pull, again and again──► mirror ──► restore == app.db, by dbhash

Python's own sqlite3 always; Django, Optuna, better-sqlite3 and the sqlite3 shell where ROLLREP_APPLICATIONS=all is set:

    ROLLREP_APPLICATIONS=all make test ARGS='-k test_applications'

What one of those needs is put into build/applications by pip and npm; where that can't be done the test fails and
says so.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import oracle
import pytest
from pair import FollowedPair

ROOT = Path(__file__).resolve().parents[1]
APPLICATIONS = ROOT / "fixtures" / "applications"
TOOLS = ROOT / "build" / "applications"
ROLLREP = Path(sys.executable).with_name("rollrep")
LIGHT = ("stdlib.py",)
HEAVY = ("django_project.py", "optuna_study.py", "better_sqlite3.js", "shell.sql")
ALL = os.environ.get("ROLLREP_APPLICATIONS") == "all"
WHICH = LIGHT + HEAVY if ALL else LIGHT
ENGINES = {"": sqlite3.sqlite_version} | ({"0.3.2": "3.11.0", "1.0.0": "3.28.0"} if ALL else {})
"""SQLite in a version of sql.js, and the standard library's: they write to a database, one after the other"""
LEAST_RESUMED = {
    "stdlib.py": 300,
    "django_project.py": 500,
    "optuna_study.py": 300,
    "better_sqlite3.js": 500,
    "shell.sql": 100,
}
"""log rows that must come by resuming, not by mirroring tables: otherwise the run shows little"""
NEEDS = {"django_project.py": "django>=5,<6", "optuna_study.py": "optuna>=4,<6"}


def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False, timeout=500)
    if check:
        assert done.returncode == 0, f"{' '.join(map(str, arguments))}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return done


def command(name: str, db: Path) -> tuple[list[str], dict[str, str], Path | None]:
    """How the application is started on `db`: its arguments, its environment, what it reads from stdin."""
    script = APPLICATIONS / name
    if name in NEEDS:
        python = TOOLS / "python" / "bin" / "python"
        if not python.exists():
            run(sys.executable, "-m", "venv", TOOLS / "python")
        if run(python, "-c", f"import {NEEDS[name].partition('>')[0]}", check=False).returncode:
            run(python, "-m", "pip", "install", "--quiet", NEEDS[name])
        return [str(python), str(script), str(db)], {}, None
    if name.endswith(".js"):
        assert shutil.which("npm"), "node and npm are needed for better-sqlite3: apt-get install nodejs npm"
        if not (TOOLS / "node" / "node_modules" / "better-sqlite3").exists():
            run("npm", "install", "--prefix", TOOLS / "node", "better-sqlite3@12")
        return ["node", str(script), str(db)], {"NODE_PATH": str(TOOLS / "node" / "node_modules")}, None
    if name.endswith(".sql"):
        assert shutil.which("sqlite3"), "the sqlite3 shell is needed: apt-get install sqlite3"
        return ["sqlite3", "-bail", str(db)], {}, script
    return [sys.executable, str(script), str(db)], {}, None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WHICH)
def test_restore_is_the_source_when_an_application_works_while_it_is_pulled(name: str, tmp_path: Path) -> None:
    db, config, restored = tmp_path / "app.db", tmp_path / "rollrep.toml", tmp_path / "restored.db"
    arguments, environment, stdin = command(name, db)
    db.touch()
    run(ROLLREP, "source", "install", db)
    run(ROLLREP, "init", "app", f"local:{db}", "-c", config)
    resumed = 0
    pulls = tmp_path / "pulls"
    pulls.touch()
    environment |= {"PULLS": str(pulls), "PAUSE": str(APPLICATIONS / "pause.sh")}
    with (
        (stdin or Path(os.devnull)).open() as reads,
        (tmp_path / "said").open("w+") as said,
        pulls.open("a", buffering=1) as ended,
    ):
        application = subprocess.Popen(
            arguments, stdin=reads, stdout=said, stderr=subprocess.STDOUT, env=os.environ | environment
        )
        while application.poll() is None:
            done = run(ROLLREP, "pull", "app", "-c", config, "--json", check=False)
            assert done.returncode in (0, 75), done.stderr
            if done.returncode == 0:
                ended.write("\n")
            for job in json.loads(done.stdout)["jobs"] if done.returncode == 0 else ():
                resumed += job["operations"] if job["answer"] == "resume" else 0
        said.seek(0)
        assert application.returncode == 0, said.read()[-3_000:]
    [last] = json.loads(run(ROLLREP, "pull", "app", "-c", config, "--json").stdout)["jobs"]
    resumed += last["operations"] if last["answer"] == "resume" else 0
    assert resumed > LEAST_RESUMED[name], "most of its work was to arrive by resuming"
    run(ROLLREP, "verify", "app", "--against-source", "-c", config)
    run(ROLLREP, "restore", "app", "--at", "latest", "--output", restored, "-c", config)
    run(ROLLREP, "source", "uninstall", db)
    oracle.assert_same(db, restored)
    assert oracle.dbhash(db) == oracle.dbhash(restored)
    assert oracle.dump(db)["tables"], "it made tables"


EARLIER = """
CREATE TABLE person(id INTEGER PRIMARY KEY, email TEXT UNIQUE, name COLLATE NOCASE, note BLOB, seen REAL DEFAULT 0.5);
CREATE UNIQUE INDEX by_name ON person(name) WHERE seen > 1;
CREATE TABLE visit(id INTEGER PRIMARY KEY AUTOINCREMENT, person REFERENCES person ON DELETE CASCADE ON UPDATE CASCADE, at);
CREATE TABLE setting(area, name, value, PRIMARY KEY(area, name)) WITHOUT ROWID;
CREATE TABLE line(text);
CREATE TRIGGER visited AFTER INSERT ON visit BEGIN UPDATE person SET seen = seen + 1 WHERE id = new.person; END;
"""
WORK = (
    "PRAGMA foreign_keys = ON; INSERT INTO person(email, name, note) VALUES ('a@x', 'A', x'00ff'), ('b@x', 'B', NULL),"
    " ('c@x', 'C', zeroblob(9)); INSERT INTO visit(person, at) VALUES (1, 1.0), (2, '2'), (1, NULL), (3, 9e999);"
    " INSERT INTO setting VALUES ('ui', 'font', 9), ('ui', 'FONT', 'x'); INSERT INTO line VALUES ('one'), ('two')",
    "REPLACE INTO person(email, name, seen) VALUES ('a@x', 'Z', 3); UPDATE OR REPLACE person SET name = 'z', seen = 4 WHERE id = 2",
    "INSERT OR IGNORE INTO person(email) VALUES ('c@x'); UPDATE person SET name = name || 'é', seen = -seen;"
    " UPDATE setting SET name = name || '1', value = CAST(x'ff' AS TEXT); DELETE FROM line WHERE rowid = 1",
    "PRAGMA foreign_keys = ON; UPDATE person SET id = id + 10; DELETE FROM person WHERE id = 12; BEGIN; DELETE FROM line;"
    " ROLLBACK; INSERT INTO _rollrep_point(label) VALUES ('here')",
    "ALTER TABLE line ADD COLUMN more DEFAULT 7; INSERT INTO line(text) VALUES ('three'); UPDATE line SET more = text",
    "ALTER TABLE setting RENAME TO preference; INSERT INTO preference VALUES ('x', 'y', 1); VACUUM; DELETE FROM visit",
    "DROP TABLE visit; CREATE TABLE late(a, b UNIQUE); INSERT INTO late SELECT id, email FROM person",
    "REPLACE INTO late VALUES (1, 'c@x'); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)"
    " INSERT INTO line(text) SELECT i FROM n",
)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_is_recorded_when_an_old_sqlite_writes(engine: str, tmp_path: Path) -> None:
    pair = FollowedPair(tmp_path)
    pair.do(EARLIER)
    pair.install(keep_rows=60)
    assert pair.pull() == ("mirror", "first")
    pair.db.close()
    writer = [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None)"
              ".executescript(sys.stdin.read()); print(sqlite3.sqlite_version)"]  # fmt: skip
    environment = dict(os.environ)
    if engine:
        folder = TOOLS / f"sql.js-{engine}"
        assert shutil.which("npm"), "node and npm are needed for sql.js: apt-get install nodejs npm"
        if not (folder / "node_modules" / "sql.js").exists():
            run("npm", "install", "--prefix", folder, f"sql.js@{engine}")
        writer = ["node", str(APPLICATIONS / "old_sqlite.js")]
        environment["NODE_PATH"] = str(folder / "node_modules")
    answers = []
    for step in WORK:
        done = subprocess.run(
            [*writer, str(pair.path)], input=step, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout.strip()) == (0, ENGINES[engine]), f"{step}: {done.stderr}"
        answers.append(pair.pull()[0])
        oracle.assert_same(pair.path, pair.store.mirror)
    assert answers == ["resume"] * 4 + ["mirror"] * 3 + ["resume"]
