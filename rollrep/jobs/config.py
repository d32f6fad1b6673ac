"""rollrep.toml: what is pulled from where, how often, and how long it stays.

    store = "./rollrep-data"                 one folder per job inside
    [jobs.shop]
    source = "ssh://backup@shop-prod/shop"   the only key a job must have
    every = "10s"                            how often to pull
    snapshot = "1h"                          how often the mirror becomes a snapshot
    keep = { operations = "7d", hourly = 48, daily = 30, monthly = 12 }
    rehearse = "7d"                          how often a restore is to be rehearsed
    rehearse_queries = { any = "SELECT 1 FROM orders LIMIT 1", sum = { sql = "SELECT …", equals = 0 } }
    bandwidth = "2MB/s"                      what a pull receives at most
    on_history_lost = "mirror"               or "stop": what a pull does when the source's history is another one
    identity, known_hosts, ssh_config, remote_command

Unknown keys are errors, never ignored: a misspelled `keep` must not delete anything.  Each error names file
and line.  tomllib tells no lines of keys, so they are asked of it: a key stands in the statement that ends
with the first line after which the text so far, parsed, has that key.

Relative paths mean relative to the file's folder.  Knows: core, the retention grid.  Does not know: SSH, what
an address means, the folders of a job.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import json
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rollrep.core.errors import NotSetUp, UsageError
from rollrep.core.sql import count_statements
from rollrep.core.units import parse_duration_s, parse_rate
from rollrep.destination.retention import Grid

FILE_NAME = "rollrep.toml"
SYSTEM_CONFIG = Path("/etc/rollrep") / FILE_NAME
REMOTE_COMMAND = "rollrep source serve"

Keep = Grid
"""What `keep` says is what retention plans by."""

DEFAULT_KEEP = Keep(hourly=48, daily=30, monthly=12)

_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TOP_KEYS = ("store", "jobs")
_COUNTS = ("last", "hourly", "daily", "weekly", "monthly")
_PATHS = ("identity", "known_hosts", "ssh_config")
_HISTORY_LOST = ("mirror", "stop")
_JOB_KEYS = (
    "source", "every", "snapshot", "keep", "rehearse", "rehearse_queries", "on_history_lost", "bandwidth", *_PATHS,
    "remote_command",
)  # fmt: skip

_QUERY_REMEDY = 'write rehearse_queries = { any = "SELECT 1 FROM t LIMIT 1", sum = { sql = "SELECT …", equals = 0 } }'

Keys = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RehearsalQuery:
    """A question that a restored database is asked: it must give a row, or `equals` as its first value."""

    name: str
    sql: str
    equals: int | float | str | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """One database to pull.  `source` is as written; the transport reads it."""

    name: str
    source: str
    identity: Path | None = None
    known_hosts: Path | None = None
    ssh_config: Path | None = None
    remote_command: str = REMOTE_COMMAND
    every_s: float = 10.0
    snapshot_s: float = 3600.0
    keep: Keep = DEFAULT_KEEP
    rehearse_s: float | None = None
    """how often a restore is to be rehearsed; None: nobody asked for it"""
    rehearse_queries: tuple[RehearsalQuery, ...] = ()
    bandwidth: int | None = None
    """bytes a second that a pull receives at most; None: as many as come"""
    stop_on_history_lost: bool = False
    """a source whose history is another one is not mirrored until somebody says so"""


@dataclasses.dataclass(frozen=True)
class Config:
    """One file."""

    path: Path
    store: Path
    jobs: dict[str, Job]


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """The configuration file: `explicit`, $ROLLREP_CONFIG, here, the person's own, the system's.

    UsageError when one that was named is missing, NotSetUp when there is none anywhere.
    """
    from_environ = environ.get("ROLLREP_CONFIG")
    named = explicit or (Path(from_environ) if from_environ else None)
    if named is not None:
        if not _readable(named):
            says = "is a folder" if named.is_dir() else "does not exist or can't be read"
            where = "" if explicit else " (from $ROLLREP_CONFIG)"
            raise UsageError(f"{named}{where} {says}", remedy="give the path of your rollrep.toml")
        return named
    import platformdirs  # a named file needs none

    places = [Path(FILE_NAME), platformdirs.user_config_path("rollrep") / FILE_NAME, SYSTEM_CONFIG]
    for place in places:
        if _readable(place):
            _refuse_strangers(place)
            return place
    raise NotSetUp(f"no configuration at {', '.join(map(str, places))}", remedy="rollrep init JOB SOURCE writes one")


def _refuse_strangers(path: Path) -> None:
    """Raises UsageError where others decide what the file at `path` says: it names commands that are run.

    Whoever works in a folder that is not theirs may find one there that they never asked for.
    """
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        whose = "belongs to another user"
    elif found.st_mode & stat.S_IWOTH:
        whose = "can be written by everybody"
    else:
        return
    raise UsageError(
        f"{path.absolute()} {whose}, and names commands that would be run",
        remedy=f"read it; if it is right, name it: rollrep -c {shlex.quote(str(path.absolute()))} ...",
    )


def load_config(path: Path) -> Config:
    """The configuration in `path`; UsageError with file, line and remedy when anything in it is wrong."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror}", remedy=f"see: ls -l {shlex.quote(str(path))}"
        ) from error
    return parse_config(data, path)


def parse_config(data: bytes, path: Path) -> Config:
    """What `data` says, as if it stood in `path`."""
    return _Reader(data, path).config()


def unknown_job(config: Config, name: str) -> UsageError:
    """The error for a job that `config` does not have.

    >>> config = Config(Path("rollrep.toml"), Path("data"), {"shop": Job("shop", "local:/a.db")})
    >>> print(unknown_job(config, "shpo"))
    no job "shpo" in rollrep.toml; did you mean "shop"? The jobs are: shop
    """
    if not config.jobs:
        remedy = "it has no jobs yet: rollrep init JOB SOURCE adds one"
    else:
        near = _did_you_mean(name, config.jobs)
        remedy = f"{near} The jobs are: " if near else "the jobs are: "
        remedy += ", ".join(sorted(config.jobs))
    return UsageError(f'no job "{name}" in {config.path}', remedy=remedy)


class _Reader:
    """One file's text, on its way to a Config.  `keys` are a path inside it: ("jobs", "shop", "every")."""

    def __init__(self, data: bytes, path: Path) -> None:
        self.path = path
        try:
            self.text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise UsageError(f"{path}:{line}: not UTF-8", remedy="save the file as UTF-8") from None

    def config(self) -> Config:
        try:
            tree = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            self._syntax_error(str(error))
        except RecursionError:
            raise UsageError(f"{self.path}: its values are nested too deep", remedy="none needs to be") from None
        self._known_keys(tree, (), _TOP_KEYS)
        if "store" not in tree:
            raise UsageError(
                f"{self.path}:1: store is missing",
                remedy='say where the copies live: store = "./rollrep-data", above the first job',
            )
        jobs = self._table(tree.get("jobs", {}), ("jobs",))
        return Config(
            path=self.path,
            store=self._path(tree["store"], ("store",)),
            jobs={name: self._job(name, value) for name, value in jobs.items()},
        )

    def _job(self, name: str, value: object) -> Job:
        keys = ("jobs", name)
        if not _JOB_NAME.fullmatch(name):
            remedy = "a name is letters, digits, and . _ - after the first, 200 at most"
            self._wrong(keys, f"{quoted(name)} can't be the name of a job", remedy)
        table = self._table(value, keys)
        self._known_keys(table, keys, _JOB_KEYS)
        if "source" not in table:
            remedy = 'add a line like source = "ssh://backup@host/shop"'
            self._wrong(keys, f"[jobs.{name}] has no source", remedy)
        found: dict[str, Any] = {"source": self._text(table["source"], (*keys, "source"))}
        for key in _PATHS:
            if key in table:
                found[key] = self._path(table[key], (*keys, key))
        if "remote_command" in table:
            found["remote_command"] = self._text(table["remote_command"], (*keys, "remote_command"))
        for key in ("every", "snapshot", "rehearse"):
            if key in table:
                found[key + "_s"] = self._duration_s(table[key], (*keys, key))
        if "bandwidth" in table:
            found["bandwidth"] = self._rate(table["bandwidth"], (*keys, "bandwidth"))
        if "keep" in table:
            found["keep"] = self._keep(table["keep"], (*keys, "keep"))
        if "rehearse_queries" in table:
            found["rehearse_queries"] = self._queries(table["rehearse_queries"], (*keys, "rehearse_queries"))
        if "on_history_lost" in table:
            found["stop_on_history_lost"] = self._stops(table["on_history_lost"], (*keys, "on_history_lost"))
        return Job(name=name, **found)

    def _stops(self, value: object, keys: Keys) -> bool:
        if value not in _HISTORY_LOST:
            self._wrong(keys, f"{_says(keys, value)} is not known", 'write "mirror" or "stop"')
        return value == "stop"

    def _queries(self, value: object, keys: Keys) -> tuple[RehearsalQuery, ...]:
        return tuple(self._query(name, each, (*keys, name)) for name, each in self._table(value, keys).items())

    def _query(self, name: str, value: object, keys: Keys) -> RehearsalQuery:
        if isinstance(value, str):
            return RehearsalQuery(name, self._one_statement(value, keys))
        table = self._table(value, keys)
        self._known_keys(table, keys, ("sql", "equals"))
        if "sql" not in table:
            self._wrong(keys, f"{quoted(name)} has no sql", _QUERY_REMEDY)
        equals = table.get("equals")
        if "equals" in table and (isinstance(equals, bool) or not isinstance(equals, int | float | str)):
            self._wrong(
                (*keys, "equals"), f"{_says((*keys, 'equals'), equals)} is no value", "write a number or a text"
            )
        return RehearsalQuery(name, self._one_statement(table["sql"], (*keys, "sql")), equals)

    def _one_statement(self, value: object, keys: Keys) -> str:
        text = self._text(value, keys)
        if (count := count_statements(text)) != 1:
            self._wrong(keys, f"{_says(keys, value)} is {count} statements, and one is asked", _QUERY_REMEDY)
        return text

    def _keep(self, value: object, keys: Keys) -> Keep:
        table = self._table(value, keys)
        self._known_keys(table, keys, ("operations", *_COUNTS))
        found: dict[str, Any] = {key: self._count(table[key], (*keys, key)) for key in _COUNTS if key in table}
        if "operations" in table:
            found["operations_s"] = self._duration_s(table["operations"], (*keys, "operations"))
        return Keep(**found)

    def _known_keys(self, table: Mapping[str, object], keys: Keys, known: Keys) -> None:
        for key in table:
            if key not in known:
                remedy = _did_you_mean(key, known) or f"the keys there are: {', '.join(known)}"
                self._wrong((*keys, key), f"unknown key {quoted(key)}{_inside(keys)}", remedy)

    def _table(self, value: object, keys: Keys) -> dict[str, Any]:
        if not isinstance(value, dict):
            like = {"keep": 'keep = { operations = "7d", hourly = 48 }', "jobs": "[jobs.NAME]"}
            remedy = f"write {like.get(keys[-1], f'[jobs.{keys[-1]}]')}"
            self._wrong(
                keys, f"{_says(keys, value)} is not a table", _QUERY_REMEDY if "rehearse_queries" in keys else remedy
            )
        return value

    def _text(self, value: object, keys: Keys) -> str:
        if not isinstance(value, str) or not value.strip():
            self._wrong(keys, f"{_says(keys, value)} is not a text", 'write it in quotes, as in "…"')
        if "\0" in value:
            self._wrong(keys, f"{_says(keys, value)} has a NUL in it", "leave it out")
        return value

    def _path(self, value: object, keys: Keys) -> Path:
        path = Path(self._text(value, keys))
        try:
            path = path.expanduser()
        except RuntimeError:
            self._wrong(keys, f"{_says(keys, value)} names an unknown home", "write the whole path")
        return self.path.absolute().parent / path

    def _duration_s(self, value: object, keys: Keys) -> float:
        try:
            return parse_duration_s(value if isinstance(value, str) else str(value))
        except UsageError as error:
            self._wrong(keys, f"{_says(keys, value)} is not a duration", error.remedy)

    def _rate(self, value: object, keys: Keys) -> int:
        try:
            return parse_rate(value if isinstance(value, str) else str(value))
        except UsageError as error:
            self._wrong(keys, f"{_says(keys, value)} is not a rate", error.remedy)

    def _count(self, value: object, keys: Keys) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self._wrong(keys, f"{_says(keys, value)} is not a count", "write a whole number, 0 or more")
        return value

    def _wrong(self, keys: Keys, facts: str, remedy: str) -> NoReturn:
        raise UsageError(f"{self.path}:{line_of(self.text, keys)}: {facts}", remedy=remedy)

    def _syntax_error(self, message: str) -> NoReturn:
        """tomllib says "Invalid value (at line 3, column 9)" or "… (at end of document)"."""
        found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
        line = found[1] if found else str(len(self.text.rstrip("\n").split("\n")))
        column = f" (column {found[2]})" if found else " at the end of the file"
        facts = re.sub(r" \(at [^)]*\)$", "", message)
        raise UsageError(
            f"{self.path}:{line}: not TOML: {facts}{column}",
            remedy="texts stand in quotes; see https://toml.io",
        ) from None


def line_of(text: str, keys: Keys) -> int:
    """The line where the statement begins that gives `keys` of the TOML `text` its value; 1 when none does.

    >>> line_of('store = "."\\n[jobs.shop]\\nkeep = { daily = 3 }', ("jobs", "shop", "keep", "daily"))
    3
    >>> line_of("# list\\na = [\\n  1,\\n  2,\\n]\\nb = 3", ("a",))
    2
    """
    lines = text.split("\n")

    def complete(count: int) -> tuple[int, Any]:
        """The longest beginning of at most `count` lines that is TOML, and what it says."""
        for shorter in range(count, 0, -1):
            with contextlib.suppress(tomllib.TOMLDecodeError):
                return shorter, tomllib.loads("\n".join(lines[:shorter]) + "\n")
        return 0, {}

    def has(count: int) -> bool:
        found = complete(count)[1]
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return False
            found = found[key]
        return True

    end = bisect.bisect_left(range(len(lines)), True, key=has)
    return complete(end - 1)[0] + 1 if has(end) else 1


def _readable(path: Path) -> bool:
    """Also true of a pipe, as in `-c <(…)`."""
    return os.access(path, os.R_OK) and not path.is_dir()


def _says(keys: Keys, value: object) -> str:
    return f"{keys[-1]} = {_shown(value)}{_inside(keys[:-1])}"


def _inside(keys: Keys) -> str:
    return f" in [{'.'.join(keys)}]" if keys else ""


def _shown(value: object) -> str:
    """`value` as TOML would write it, where that is short."""
    if isinstance(value, dict):
        return "{…}"
    if isinstance(value, list):
        return "[…]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)


def quoted(text: str) -> str:
    """`text` as a TOML basic string: JSON's, but DEL must be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else ""
