"""Host keys: which are known, for whom, and what a new one means.

    known      a line for this host holds this very key
    unknown    no line for this host
    changed    lines for this host, none with this key
    revoked    an @revoked line holds this key

Read line by line, tolerantly, and never by paramiko's HostKeys: there, one `@cert-authority` or `@revoked`
line ends the whole reading with an exception and no key is known at all.  `@cert-authority` lines are passed
over, because paramiko can't check a host certificate.

Knows: the format of known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").  Does not know: connections.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from rollrep.core.errors import UsageError

Standing = Literal["known", "unknown", "changed", "revoked"]


@dataclasses.dataclass(frozen=True)
class HostKey:
    """A host's public key: its type, such as "ssh-ed25519", and its bytes as SSH sends them."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it.

        >>> HostKey("ssh-ed25519", b"").fingerprint
        'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'
        """
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")


@dataclasses.dataclass(frozen=True)
class KnownKey:
    """One line of a known_hosts file."""

    patterns: str
    key: HostKey
    revoked: bool
    file: Path
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


def read_known_hosts(files: Iterable[Path]) -> list[KnownKey]:
    """All lines that can be understood, of all files that exist; UsageError for one that can't be read."""
    found: list[KnownKey] = []
    for file in files:
        try:
            text = file.read_bytes().decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"{file} can't be read: {error.strerror}", remedy="make it readable") from error
        for number, line in enumerate(text.split("\n"), 1):
            known = _parse_line(line, file, number)
            if known is not None:
                found.append(known)
    return found


def judge(known: Sequence[KnownKey], names: Sequence[str], key: HostKey) -> tuple[Standing, KnownKey | None]:
    """What the files say of `key` for a host with these `names`, and the line that says so.

    The first of the names counts.  The others can only confirm: OpenSSH takes a line for `host` as good for
    `[host]:2222` when the key is the same, and a different key there means nothing.
    """
    for entry in known:
        if entry.revoked and entry.key.blob == key.blob and _any_matches(entry.patterns, names):
            return "revoked", entry
    first = _lines_for(known, names[:1])
    for entry in [*first, *_lines_for(known, names[1:] if not first else [])]:
        if entry.key.blob == key.blob:
            return "known", entry
    if first:
        return "changed", next((entry for entry in first if entry.key.kind == key.kind), first[0])
    return "unknown", None


def known_kinds(known: Sequence[KnownKey], names: Sequence[str]) -> list[str]:
    """The types of the keys known for a host: asked for first, so that it shows one that can be compared."""
    lines = _lines_for(known, names[:1]) or _lines_for(known, names[1:])
    return list(dict.fromkeys(entry.key.kind for entry in lines))


def append_known_host(file: Path, name: str, key: HostKey) -> None:
    """Adds one line to `file`; a new file is for its owner only (0600, its directory 0700)."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{name} {key.kind} {base64.b64encode(key.blob).decode()}\n"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = "\n" + line
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _parse_line(line: str, file: Path, number: int) -> KnownKey | None:
    fields = line.split()
    if not fields or fields[0].startswith("#"):
        return None
    marker = fields.pop(0) if fields[0].startswith("@") else ""
    if marker not in ("", "@revoked") or len(fields) < 3:
        return None
    try:
        blob = base64.b64decode(fields[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return KnownKey(fields[0], HostKey(fields[1], blob), marker == "@revoked", file, number)


def _lines_for(known: Sequence[KnownKey], names: Sequence[str]) -> list[KnownKey]:
    return [entry for entry in known if not entry.revoked and _any_matches(entry.patterns, names)]


def _any_matches(patterns: str, names: Iterable[str]) -> bool:
    return any(host_matches(patterns, name) for name in names)


def host_matches(patterns: str, name: str) -> bool:
    """True if the first field of a line speaks of the host `name`.

    >>> host_matches("*.example.org,!db.example.org", "www.example.org")
    True
    >>> host_matches("*.example.org,!db.example.org", "db.example.org")
    False
    >>> host_matches("[shop]:2222", "[shop]:2222")
    True
    """
    if patterns.startswith("|1|"):
        return _hash_matches(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        # Not fnmatch: there, "[shop]" would be a set of letters.
        regex = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(regex, name.lower()):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hash_matches(hashed: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in hashed[3:].split("|"))
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, name.lower().encode(), "sha1"), digest)
