"""From what the person wrote to an Address.

    ssh://[user@]host[:port]/name          a name that the key may pull
    ssh://[user@]host[:port]//abs/path     a path on that host: the second slash belongs to it
    local:/abs/path                        a file on this machine

Knows: the grammar.  Does not know: ssh_config (a host may be an alias there), whether anything exists.
"""

from __future__ import annotations

import re
from pathlib import Path

from rollrep.core.errors import UsageError
from rollrep.transport.base import Address

# Neither user nor host may begin with "-": they become arguments of the ssh program, which would take
# such a one for an option.
_AUTHORITY = re.compile(
    r"(?:(?P<user>[^-\s/:][^\s/:]*)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|(?P<host>[A-Za-z0-9._][A-Za-z0-9._-]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_EXAMPLES = 'write "ssh://user@host/name", "ssh://host//srv/app.db" or "local:/srv/app.db"'


def parse_address(text: str) -> Address:
    """The address that `text` names; UsageError if it names none.

    >>> parse_address("ssh://backup@shop-prod:2222/shop")
    Address(database='shop', host='shop-prod', user='backup', port=2222)
    >>> parse_address("ssh://shop-prod//srv/shop/app.db")
    Address(database='/srv/shop/app.db', host='shop-prod', user=None, port=None)
    >>> parse_address("ssh://[fd00::7]/shop").host
    'fd00::7'
    >>> parse_address("local:/srv/shop/app.db")
    Address(database='/srv/shop/app.db', host=None, user=None, port=None)
    >>> parse_address("ssh://shop-prod/srv/shop/app.db")
    Traceback (most recent call last):
    rollrep.core.errors.UsageError: "srv/shop/app.db" in "ssh://shop-prod/srv/shop/app.db" is not a name; \
a path takes two slashes: "ssh://shop-prod//srv/shop/app.db"
    """
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise UsageError(f"the address {text!r} has control characters in it", remedy=_EXAMPLES)
    if text.startswith("local:"):
        return _local(text.removeprefix("local:"), text)
    if text.startswith("ssh://"):
        return _ssh(text.removeprefix("ssh://"), text)
    raise UsageError(f'"{text}" is not an address', remedy=_guess(text))


def _local(path: str, text: str) -> Address:
    if not path or path.endswith("/"):
        raise UsageError(f'"{text}" names no file', remedy=_EXAMPLES)
    file = Path(path).expanduser()
    # An absolute path stays as it was written: a symbolic link in it may be moved on purpose.
    return Address(str(file if file.is_absolute() else file.resolve()))


def _ssh(rest: str, text: str) -> Address:
    authority, slash, database = rest.partition("/")
    if ":" in authority.rpartition("@")[0]:
        raise UsageError(
            f'"{text.replace(authority, "…", 1)}" seems to hold a password',
            remedy="leave it out: rollrep logs in with keys only",
        )
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise UsageError(f'"{authority}" in "{text}" is not [user@]host[:port]', remedy=_EXAMPLES)
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f'"{text}" has port {port}', remedy="a port is a number from 1 to 65535")
    if not slash or not database or database.endswith("/"):
        raise UsageError(f'"{text}" names no database', remedy=_EXAMPLES)
    if not database.startswith("/") and not _NAME.fullmatch(database):
        raise UsageError(
            f'"{database}" in "{text}" is not a name',
            remedy=f'a path takes two slashes: "ssh://{authority}//{database}"'
            if "/" in database
            else "a name has letters, digits, dots, dashes and underscores only",
        )
    return Address(database, match["v6"] or match["host"], match["user"], port)


def _guess(text: str) -> str:
    if text.startswith(("/", "./", "../", "~")):
        return f'did you mean "local:{text}"?'
    scp_like = re.fullmatch(r"(?P<host>[^/:\s]+):(?P<path>/[^/].*)", text)
    if scp_like:
        return f'did you mean "ssh://{scp_like["host"]}/{scp_like["path"]}"?'
    return _EXAMPLES
