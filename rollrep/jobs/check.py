"""Is a job's set-up right and fresh?  One item per question, each with the next command.

Knows: configuration, transports, the wire's hello, the store.  Does not know: the command line.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from rollrep import __version__
from rollrep.core import clock
from rollrep.core.clock import iso
from rollrep.core.errors import MirrorNeeded, RollrepError, Temporary, UsageError, VerifyFailed
from rollrep.core.units import show_bytes, show_count, show_duration, show_rate
from rollrep.destination.catalog import Catalog
from rollrep.destination.choosing import restorable
from rollrep.destination.history_lost import OLD_LINE_ENDS, WHAT
from rollrep.destination.mirror_db import bytes_not_written_back, refuse_another_source, state_of
from rollrep.destination.remembered import FAILURE, PULL, remembered
from rollrep.destination.store import Store
from rollrep.jobs.config import Config, Job
from rollrep.jobs.rehearse import REHEARSAL_EVENT, due_in_s
from rollrep.jobs.run import options_of, session_with, store_of
from rollrep.jobs.sleeping import judge
from rollrep.jobs.verify import REST_EVENT, SOURCE_EVENT
from rollrep.transport.address import parse_address
from rollrep.wire.messages import Answer, Hello

OK, WARN, FAIL, PENDING = "OK", "WARN", "FAIL", "PENDING"

EVENTS = (REST_EVENT, SOURCE_EVENT)
STALE_PULLS = 10
"""a job is late when so many of its pulls are missing"""
MOST_WAITING_BYTES = 64 << 20
"""sixteen times what SQLite writes back by itself"""
SAFE_SQLITE = (3, 51, 3)
"""SQLite before this can corrupt a WAL database when several processes checkpoint it"""
KEPT = "the next pull mirrors again, and keeps the mirror of today as a line of its own"
WHY_MIRROR = {
    "pruned": "the log has forgotten where the mirror stands: the next pull mirrors again"
    " (a larger --keep-rows, or pulling more often, makes it rarer)",
    **{reason: f"{what}: {KEPT}" for reason, what in WHAT.items()},
}


Told = dict[str, Any]
"""an event or what is remembered, with `at` and `ago_s`"""


@dataclasses.dataclass(frozen=True)
class Item:
    item: str
    state: str
    text: str
    next: str = ""
    exit_code: int = 1
    more: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """what `--json` tells besides, in keys of the item's own"""

    def as_json(self) -> dict[str, object]:
        return {"item": self.item, "state": self.state, "text": self.text, "next": self.next or None, **self.more}


def accept(job: Job, fingerprint: str) -> Path:
    """Trusts the source's host key if it has this fingerprint; the known_hosts file it stands in now.

    Raises UsageError for a source without a host.
    """
    from rollrep.transport.ssh import accept_host_key

    address = parse_address(job.source)
    if address.host is None:
        raise UsageError(
            f"{job.source} is on this machine, where there is no host key", remedy=f"rollrep check {job.name}"
        )
    return accept_host_key(address, options_of(job), fingerprint)


def check_job(config: Config, job: Job) -> list[Item]:
    """Every item, in the order in which one would mend them; a failed one ends what depends on it."""
    source = _source(config, job)
    freshness = _freshness(config, job, is_reached=source[0].state == OK)
    return [_store(config, job), *source, *freshness, *_readers(store_of(config, job))]


def _store(config: Config, job: Job) -> Item:
    folder = store_of(config, job).folder
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Item("store", FAIL, f"{existing} can't be written by this user", f"ls -ld {quote(str(existing))}", 2)
    return Item("store", OK, str(folder))


def _source(config: Config, job: Job) -> list[Item]:
    try:
        state = state_of(store_of(config, job).mirror)
        position = state.position if state else None
        with session_with(job) as (session, address):
            answer = session.hello(Hello(__version__, address.database, position, tell_lasting=True))
        if state:
            refuse_another_source(state, answer.database_id, answer.instance, job.name)
    except RollrepError as error:
        remedy = error.remedy.replace("JOB", job.name)
        return [Item("source", FAIL, error.facts, remedy, error.exit_code)]
    return [
        Item(
            "source",
            OK,
            f"{job.source} answers (rollrep {answer.version}, log ids up to {answer.facts.head.id})",
        ),
        *([Item("link", OK, f"receives at most {show_rate(job.bandwidth)}")] if job.bandwidth else []),
        *([_next_pull(job, answer.reason)] if answer.reason in WHY_MIRROR else []),
        *_lasting(config, job, answer, address.database),
        *_about(answer),
    ]


def _next_pull(job: Job, reason: str) -> Item:
    if job.stop_on_history_lost and reason in OLD_LINE_ENDS:
        stops = f'{WHAT[reason]}, and on_history_lost is "stop": pulls end here'
        return Item("log", FAIL, stops, f"rollrep mirror {job.name}", MirrorNeeded.exit_code)
    return Item("log", WARN, WHY_MIRROR[reason])


def _lasting(config: Config, job: Job, answer: Answer, database: str) -> list[Item]:
    """How long this job may sleep, and what a mirror operation took the last time."""
    if answer.lasting is None:
        return []
    found = judge(answer.lasting, job.every_s, _mirror_took_s(config, job), f"rollrep pull {job.name}", database)
    return [Item("window", WARN if found.next else OK, found.text, found.next, more=found.more)]


def _mirror_took_s(config: Config, job: Job) -> float | None:
    store = store_of(config, job)
    if not store.exists():
        return None
    try:
        with Catalog(store.catalog) as catalog:
            last = catalog.last_event("mirror")
    except RollrepError:
        return None  # what is wrong with the catalog is an item of its own
    return last[1].get("seconds") if last else None


def _about(answer: Answer) -> list[Item]:
    items = []
    if answer.version != __version__:
        items.append(
            Item(
                "version",
                WARN,
                f"rollrep {answer.version} there, {__version__} here",
                "install the same on both",
            )
        )
    if tuple(int(part) for part in answer.sqlite_version.split(".")) < SAFE_SQLITE:
        items.append(
            Item(
                "sqlite",
                WARN,
                f"the source's rollrep uses SQLite {answer.sqlite_version}",
                "upgrade apsw there",
            )
        )
    if answer.journal_mode != "wal":
        items.append(
            Item(
                "journal",
                WARN,
                f"journal_mode is {answer.journal_mode}: pulls make writers wait for moments",
                "in the database: PRAGMA journal_mode = WAL",
            )
        )
    if answer.layout and answer.layout.virtuals:
        names = ", ".join(each.name for each in answer.layout.virtuals)
        items.append(Item("virtual", OK, f"{names}: carried as of the end of each pull"))
    for refused in answer.layout.refused if answer.layout else ():
        kind = "index" if refused.index else "table"
        items.append(Item("capture", WARN, f"{kind} {refused.name} is not carried: {refused.reason}"))
    return items


def _freshness(config: Config, job: Job, *, is_reached: bool) -> list[Item]:
    store = store_of(config, job)
    try:
        store.require_catalog_of_files()
        if not store.exists():
            return [Item("pull", PENDING, "nothing has been pulled yet", f"rollrep pull {job.name}")]
        with Catalog(store.catalog) as catalog:
            confirmed = catalog.confirmed()
            points = len(restorable(catalog))
            failure = last_failure(catalog, clock.now())
            if failure and is_reached and not failure.get("reached", True):
                failure = None  # what was in the way was mended, or is gone
            results = verified(job, catalog) + rehearsed(job, catalog)
    except RollrepError as error:
        return [Item("catalog", FAIL, error.facts, error.remedy, error.exit_code)]
    age_s = None if confirmed is None else max(0.0, (clock.now() - confirmed).total_seconds())
    results = pull_troubles(job, failure, age_s) + results
    if age_s is None:
        return [*results, Item("pull", PENDING, "no pull has ended yet", f"rollrep pull {job.name}")]
    said = f"the mirror was the source {show_duration(age_s)} ago; {show_count(points, 'point')}"
    if is_stale(job, age_s):
        return [
            *results,
            Item(
                "fresh",
                WARN,
                f"{said}; a pull every {show_duration(job.every_s)} was wanted",
                f"rollrep pull {job.name}",
            ),
        ]
    return [*results, Item("fresh", OK, said)]


def is_stale(job: Job, age_s: float | None) -> bool:
    return age_s is None or age_s > STALE_PULLS * job.every_s


def told_of(known: tuple[dt.datetime, Told] | None, now: dt.datetime) -> Told | None:
    if known is None:
        return None
    when, detail = known
    return {"at": iso(when), "ago_s": max(0.0, (now - when).total_seconds()), **detail}


def last_failure(catalog: Catalog, now: dt.datetime) -> Told | None:
    """The last pull that failed, where none went well since."""
    failure, pulled = (told_of(remembered(catalog, kind), now) for kind in (FAILURE, PULL))
    return None if failure and pulled and failure["at"] <= pulled["at"] else failure


def pull_troubles(job: Job, failure: Told | None, age_s: float | None) -> list[Item]:
    """The last pull's failure, as far as it is trouble for a mirror that is so old."""
    # What may go away by itself is trouble once the mirror is old because of it.
    if not failure or (failure["exit_code"] == Temporary.exit_code and not is_stale(job, age_s)):
        return []
    remedy = str(failure["remedy"]).replace(" JOB", f" {job.name}")
    text = f"the last pull failed {show_duration(failure['ago_s'])} ago: {failure['facts']}"
    return [Item("pull", FAIL, text, remedy, failure["exit_code"])]


def _readers(store: Store) -> list[Item]:
    """Whether somebody reads an old state of the mirror for so long that its WAL can't be written back."""
    waiting = bytes_not_written_back(store.mirror)
    if waiting < MOST_WAITING_BYTES:
        return []
    said = (
        f"{show_bytes(waiting)} of {store.mirror.name}-wal can't be written back: somebody reads the mirror in a"
        " transaction that does not end, and every pull adds to it"
    )
    return [Item("readers", WARN, said, f"fuser -v {quote(str(store.mirror))}", more={"waiting_bytes": waiting})]


def verified(job: Job, catalog: Catalog) -> list[Item]:
    """What the newest `rollrep verify` of each kind found."""
    found = [last for kind in EVENTS if (last := catalog.last_event(kind))]
    return [_verified(job, when, told, catalog.damaged()) for when, told in found]


def _verified(job: Job, when: dt.datetime, told: dict[str, Any], damaged: Collection[str]) -> Item:
    ago = show_duration(max(0.0, (clock.now() - when).total_seconds()))
    against = "against the source" if told.get("against_source") else "at rest"
    if told.get("equal"):
        return Item("verified", OK, f"{against} {ago} ago: all was right")
    wrong = f"{told.get('rows_differing', 0):,} rows differed" if told.get("against_source") else "files were damaged"
    again = f"rollrep verify {job.name}" + (" --against-source --repair" if told.get("against_source") else "")
    named = [str(each["path"]) for each in told.get("problems", ())]
    if named and not damaged and all(each.endswith(".segment") for each in named):
        return Item("verified", WARN, f"{against} {ago} ago: {wrong}; none of those is in use any more", again)
    return Item("verified", FAIL, f"{against} {ago} ago: {wrong}", again, VerifyFailed.exit_code)


def rehearsed(job: Job, catalog: Catalog) -> list[Item]:
    """What the newest rehearsal found, and whether the next one is due."""
    command = f"rollrep rehearse {job.name}"
    last = catalog.last_event(REHEARSAL_EVENT)
    if last is None:
        if job.rehearse_s is None:
            return []
        return [Item("rehearsed", WARN, "never: no restore of this job was", command)]
    when, told = last
    ago = show_duration(max(0.0, (clock.now() - when).total_seconds()))
    if not told.get("right"):
        return [Item("rehearsed", FAIL, f"{ago} ago: {told.get('wrong')}", command, VerifyFailed.exit_code)]
    asked = len(told.get("queries", ()))
    said = f"{ago} ago: point {told.get('point')} in {told.get('seconds')} s" + (
        f", {asked} {'query' if asked == 1 else 'queries'} as expected" if asked else ""
    )
    if job.rehearse_s is not None and due_in_s(job, catalog) <= 0:
        return [Item("rehearsed", WARN, f"{said}; every {show_duration(job.rehearse_s)} was wanted", command)]
    return [Item("rehearsed", OK, said)]
