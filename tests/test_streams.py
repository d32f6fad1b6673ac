"""What a command does when its streams are closed or can't show a text, and when its arguments aren't text.

The start itself is what is tested: every command here is started, not forked.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import forked
import make
import pytest
from forked import ROLLREP

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was pulled, with a label that latin-1 can't show."""
    folder = tmp_path_factory.mktemp("streams")
    db = make.build("rails", folder / "app.db", rows=20)
    (folder / "rollrep.toml").write_text(f'store = "data"\n[jobs.shop]\nsource = "local:{db}"\n')
    for arguments in (("source", "install", db), ("source", "point", db, "--label", "für 5 €"), ("pull",)):
        forked.run(*arguments, cwd=folder, check=True)
    return folder


def shell(folder: Path, line: str, *arguments: bytes, env: Mapping[str, str] | None = None) -> Done:
    """`line` by a shell, in which rollrep is $0 and the arguments are $1, $2, ..."""
    # A buffer that could not be written is written again when Python ends: tests must not be without.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", line, ROLLREP, *arguments], cwd=folder, capture_output=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL, env=kept | dict(env or {}),
    )  # fmt: skip
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr, done.stderr.decode()
    return done


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "command",
    [
        "pull", "mirror shop", "points shop", "timeline shop", "verify shop", "verify shop --against-source",
        "query shop 'SELECT 1'", "undo shop --since point:1 --table users", "source serve",
        "restore shop -o out.db --force",
    ],
)  # fmt: skip
def test_command_works_when_a_stream_is_closed(folder: Path, command: str, closed: str) -> None:
    done = shell(folder, f"exec $0 {command} {closed}")
    as_always = shell(folder, f"exec $0 {command}")
    assert done.returncode == as_always.returncode, done.stderr
    if closed in ("2>&-", "<&-"):
        assert bool(done.stdout) == bool(as_always.stdout)


def test_database_gets_no_streams_number_when_all_are_closed(folder: Path) -> None:
    program = (
        "import os, sys; from rollrep.cli.streams import mend_streams; mend_streams()\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY); open(sys.argv[2], 'w').write(str(fd))"
    )
    python = ROLLREP.with_name("python")
    done = shell(folder, f'exec {python} -c "$1" app.db number <&- >&- 2>&-', program.encode())
    assert done.returncode == 0
    assert int((folder / "number").read_text()) > 2


@pytest.mark.parametrize("env", [ASCII, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii:strict"}])
@pytest.mark.parametrize("command", ["points shop", "query shop \"SELECT '€'\"", "timeline shop"])
def test_text_is_shown_somehow_when_the_encoding_lacks_it(folder: Path, env: dict[str, str], command: str) -> None:
    asked = command.replace("'€'", "char(8364)")
    done = shell(folder, f"exec $0 {asked}", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "restore shop -o out2.db --at label:$1", "query shop \"SELECT '$1'\"", "query shop 'SELECT 1' --at label:$1",
        "source point app.db --label $1", "history shop users $1", "restore shop -o new/$1", "query $1 x",
    ],
)  # fmt: skip
def test_argument_is_refused_when_it_is_not_utf_8(folder: Path, command: str) -> None:
    done = shell(folder, f"exec $0 {command}", b"x\xff")
    assert done.returncode == 2, done.stderr
    assert b"is not UTF-8" in done.stderr and b"\n  next: " in done.stderr
    assert done.stdout == b""


def test_locale_is_named_when_it_can_not_read_an_argument(folder: Path) -> None:
    done = shell(folder, "exec $0 query shop \"SELECT '$1'\"", "€".encode(), env=ASCII)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"LC_ALL=C.UTF-8" in done.stderr


@pytest.mark.parametrize("option", ["", " --json"])
@pytest.mark.parametrize(
    "command", ["query shop 'SELECT 1'", "points shop", "check", "source install app.db --print-sql", "--help"]
)
def test_command_ends_with_18_when_stdout_is_full(folder: Path, command: str, option: str) -> None:
    if "print-sql" in command:
        command = command.replace("app.db", str(make.build("rails", folder / f"other{option.strip()}.db", rows=2)))
    done = shell(folder, f"exec $0 {command}{option if command != '--help' else ''} >/dev/full")
    assert done.returncode == 18, done.stderr
    assert b"no room" in done.stderr and b"\n  next: " in done.stderr


@pytest.mark.parametrize("command", ["query nowhere x", "query nowhere x --json", "nonsense"])
def test_exit_code_stays_that_of_the_error_when_nothing_can_be_said(folder: Path, command: str) -> None:
    assert shell(folder, f"exec $0 {command} >/dev/full 2>/dev/full").returncode == 2
    assert shell(folder, f"exec $0 {command} 2>/dev/full").returncode == 2


def test_error_is_one_object_when_stdout_has_room(folder: Path) -> None:
    done = shell(folder, "exec $0 query nowhere x --json")
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
