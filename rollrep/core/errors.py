"""Errors, cut by what the person does next.

    RollrepError               1   failed
    ├── UsageError             2   the command or the configuration is wrong
    ├── PartlyDone             3   some jobs failed, the others are done
    ├── NotSetUp              10   no rolling log, no mirror, no such job yet
    ├── Locked                11   another process works on this job
    ├── LoginRefused          12   SSH would not let us in
    ├── HostKeyRefused        13   the host is unknown, or not the one it was
    ├── MirrorNeeded          14   the mirror operation is needed and was not allowed
    │   └── CannotKeepUp      14   … or it was, and the source writes faster than it can be copied
    ├── SchemaProblem         15   the schema can't be captured or replayed
    ├── VerifyFailed          16   data is not what it should be
    ├── NotRestorable         17   that moment can't be restored; what can is said
    ├── DiskFull              18   no room
    └── Temporary             75   may go away by itself; retries are used up

Each carries a sentence of facts and a remedy: the next thing to type or to know.  Only the command
line turns one into an exit code.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class RollrepError(Exception):
    """`facts` says what is wrong, `remedy` what to do next; both are shown to the person."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"
    usual_remedy: ClassVar[str] = ""
    """what to do where nothing better is known"""

    def __init__(self, facts: str, *, remedy: str = "") -> None:
        super().__init__(facts)
        self.facts = facts
        self.remedy = remedy or self.usual_remedy

    def __str__(self) -> str:
        return f"{self.facts}; {self.remedy}" if self.remedy else self.facts


class UsageError(RollrepError):
    exit_code = 2
    kind = "usage"


class PartlyDone(RollrepError):
    exit_code = 3
    kind = "partly"


class NotSetUp(RollrepError):
    exit_code = 10
    kind = "not_set_up"


class Locked(RollrepError):
    exit_code = 11
    kind = "locked"


class LoginRefused(RollrepError):
    exit_code = 12
    kind = "login_refused"


class HostKeyRefused(RollrepError):
    exit_code = 13
    kind = "host_key"


class MirrorNeeded(RollrepError):
    exit_code = 14
    kind = "mirror_needed"


class CannotKeepUp(MirrorNeeded):
    kind = "cannot_keep_up"


class SchemaProblem(RollrepError):
    exit_code = 15
    kind = "schema"


class VerifyFailed(RollrepError):
    exit_code = 16
    kind = "verify"
    usual_remedy = "nothing of it was believed; see what is whole: rollrep verify JOB"
    file: Path | None = None
    """the file at rest that is damaged or missing, where one is: there may be a way around it"""


class NotRestorable(RollrepError):
    exit_code = 17
    kind = "not_restorable"


class DiskFull(RollrepError):
    exit_code = 18
    kind = "disk_full"


class Temporary(RollrepError):
    """The only kind that is worth trying again."""

    exit_code = 75
    kind = "temporary"
    usual_remedy = "nothing was lost; type it again, or let cron do so"


ALL_ERRORS: tuple[type[RollrepError], ...] = (
    RollrepError, UsageError, PartlyDone, NotSetUp, Locked, LoginRefused, HostKeyRefused, MirrorNeeded,
    CannotKeepUp, SchemaProblem, VerifyFailed, NotRestorable, DiskFull, Temporary,
)  # fmt: skip
