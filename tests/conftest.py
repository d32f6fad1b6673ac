"""Fixtures that are real things."""

from __future__ import annotations

import compileall
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
from pair import FollowedPair
from ssh_servers import EmbeddedServer, OpensshServer, openssh_server, paramiko_server

import rollrep
from rollrep.wire import forgotten_ranges


def pytest_configure(config: pytest.Config) -> None:
    """rollrep is compiled once, as pip does when it installs it.

    Where Python is told to keep no compiled code (PYTHONDONTWRITEBYTECODE, as in many containers), each of the
    thousands of commands that are started here would compile all it imports: 0.1 s of CPU, and 0.2 s a pull.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(rollrep.__file__).parent, quiet=1)


def pytest_unconfigure() -> None:
    forked.stop()


@pytest.fixture(autouse=True, scope="session")
def _narrow_ranges() -> Iterator[None]:
    """Of the small tables of tests too only some forgotten ranges are compared."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forgotten_ranges, "LEAST_WIDTH", 16)
        yield


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[OpensshServer]:
    """A real OpenSSH server.  Without one it fails and never skips: `apt-get install openssh-server`."""
    with openssh_server(tmp_path) as server:
        yield server


@pytest.fixture
def embedded_ssh(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """An SSH server in this process, by paramiko."""
    with paramiko_server(tmp_path) as server:
        yield server


@pytest.fixture
def pair(tmp_path: Path) -> FollowedPair:
    """A source with one small table, and its mirror."""
    made = FollowedPair(tmp_path)
    made.start("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
    return made
