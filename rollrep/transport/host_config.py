"""The way to a host, as the person's own ssh_config says: a list of hops, the last one is the source.

    ssh://shop/app  ──▶  ssh -G shop  ──▶  [Hop(bastion), Hop(shop)]

`ssh -G` answers where there is an ssh program, because paramiko's SSHConfig ignores `Include`, and would so
silently go to the wrong host; SSHConfig is what remains where there is none.

What the address and the options say wins over the configuration.

Knows: ssh_config(5).  Does not know: connections, keys, which host keys are known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rollrep.core.errors import Temporary, UsageError
from rollrep.transport.base import Address, Options

Settings = Mapping[str, list[str]]

_MAX_HOPS = 8
_SYSTEM_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_JUMP = re.compile(
    r"(?:ssh://)?(?:(?P<user>.+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\[\]:@/]+|[0-9A-Fa-f:.]+))(?::(?P<port>\d+))?/?"
)


@dataclasses.dataclass(frozen=True)
class Hop:
    """One SSH server to pass or to end at."""

    alias: str
    host: str
    port: int
    user: str
    identities: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    given_identity: Path | None = None
    """The one key to use, if the options name one; it must exist."""
    identities_only: bool = False
    agent: Path | None = None
    known_hosts: tuple[Path, ...] = ()
    """Files to read; the first is the one that a new key is added to."""
    key_alias: str | None = None
    proxy_command: str | None = None

    def __str__(self) -> str:
        return f"{self.user}@{bracketed(self.host, self.port)}"

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names to look for in known_hosts, the one that counts first.

        >>> Hop("shop", "10.0.0.7", 2222, "me").key_names
        ('[10.0.0.7]:2222', '10.0.0.7')
        """
        if self.key_alias:
            return (self.key_alias.lower(),)
        host = self.host.lower()
        return (host,) if self.port == 22 else (f"[{host}]:{self.port}", host)


def bracketed(host: str, port: int) -> str:
    """host:port, readable for IPv6 too.

    >>> bracketed("fd00::7", 22)
    '[fd00::7]:22'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def way_to(address: Address, options: Options) -> list[Hop]:
    """The hops to `address`, the last is the source itself.

    Raises UsageError for a configuration that ssh itself does not take.
    """
    assert address.host is not None
    return _chain(address.host, address.user, address.port, options, depth=0)


def _chain(host: str, user: str | None, port: int | None, options: Options, depth: int) -> list[Hop]:
    if depth >= _MAX_HOPS:
        raise UsageError(
            f"ProxyJump leads over more than {_MAX_HOPS} hosts, {host} is one of them",
            remedy="look for a loop in ssh_config",
        )
    settings = _settings(host, user, port, options)
    hop = _hop(host, user, port, options, settings, jump=depth > 0)
    jumps = [text for text in _first(settings, "proxyjump").split(",") if text not in ("", "none", host)]
    if not jumps:
        return [hop]
    # As OpenSSH: the first of several jumps may have a way of its own, the others follow from it.
    before: list[Hop] = []
    for text in jumps:
        before += _jump(text, options, depth + 1, alone=bool(before))
    return [*before, dataclasses.replace(hop, proxy_command=None)]


def _jump(text: str, options: Options, depth: int, *, alone: bool) -> list[Hop]:
    match = _JUMP.fullmatch(text)
    if match is None:
        raise UsageError(f'ProxyJump "{text}" in ssh_config is not [user@]host[:port]', remedy="correct it there")
    host, user = match["v6"] or match["host"], match["user"]
    port = int(match["port"]) if match["port"] else None
    if not alone:
        return _chain(host, user, port, options, depth)
    hop = _hop(host, user, port, options, _settings(host, user, port, options), jump=True)
    return [dataclasses.replace(hop, proxy_command=None)]


def _hop(alias: str, user: str | None, port: int | None, options: Options, settings: Settings, *, jump: bool) -> Hop:
    host = _first(settings, "hostname") or alias
    user = user or _first(settings, "user") or _local_user()
    port = port or int(_first(settings, "port") or 22)
    key_alias = _first(settings, "hostkeyalias")
    tokens = {
        "%": "%", "h": host, "n": alias, "p": str(port), "r": user, "u": _local_user(),
        "d": str(Path.home()), "i": str(os.getuid()), "k": key_alias or host,
    }  # fmt: skip
    identities = [_path(text, tokens) for text in settings.get("identityfile", []) if text != "none"]
    # The key of the options opens the source; whether it opens the jump hosts too is not known, so there
    # it only comes after those of ssh_config.
    if options.identity is not None and jump:
        identities.append(options.identity.expanduser())
    command = _first(settings, "proxycommand")
    agent = _first(settings, "identityagent") or "SSH_AUTH_SOCK"
    if agent == "SSH_AUTH_SOCK" or agent.startswith("$"):
        agent = os.environ.get(agent.strip("${}"), "none")
    return Hop(
        alias=alias,
        host=host,
        port=port,
        user=user,
        identities=tuple(dict.fromkeys(identities)),
        certificates=tuple(_path(text, tokens) for text in settings.get("certificatefile", [])),
        given_identity=options.identity.expanduser() if options.identity is not None and not jump else None,
        identities_only=_first(settings, "identitiesonly") == "yes",
        agent=None if agent in ("none", "") else _path(agent, tokens),
        known_hosts=_known_hosts(options, settings, tokens),
        key_alias=key_alias or None,
        proxy_command=None if command in ("", "none") else expand(command, tokens),
    )


def _known_hosts(options: Options, settings: Settings, tokens: Mapping[str, str]) -> tuple[Path, ...]:
    if options.known_hosts is not None:
        return (options.known_hosts.expanduser(),)
    own = _first(settings, "userknownhostsfile") or "~/.ssh/known_hosts ~/.ssh/known_hosts2"
    everybody = _first(settings, "globalknownhostsfile") or " ".join(_SYSTEM_KNOWN_HOSTS)
    # "none" and /dev/null are ways to say: do not remember.  A key must be remembered to be checked.
    files = [text for text in own.split() if text not in ("none", "/dev/null")] or ["~/.ssh/known_hosts"]
    files += [text for text in everybody.split() if text not in ("none", "/dev/null")]
    return tuple(_path(text, tokens) for text in files)


def _settings(host: str, user: str | None, port: int | None, options: Options) -> Settings:
    """What ssh_config says for `host`: lower-case keyword to its values."""
    given = _given_config(options)
    if given is not None and not given.is_file() and str(given) != "/dev/null":
        raise UsageError(f"{given} does not exist", remedy="correct ssh_config in the job")
    program = shutil.which("ssh")
    if program is None:
        return _settings_by_paramiko(host, given or Path("~/.ssh/config").expanduser())
    return _settings_by_ssh(program, host, user, port, options)


def _settings_by_ssh(program: str, host: str, user: str | None, port: int | None, options: Options) -> Settings:
    given, timeout_s = _given_config(options), options.connect_timeout_s
    command = [program, "-G"]
    login_home, home = _login_home(), Path.home()
    if given is None and login_home != home:
        # ssh takes the home directory of the password database and ignores $HOME, unlike all else here.
        given = home / ".ssh" / "config"
        given = given if given.is_file() else Path("/dev/null")
    command += ["-F", str(given)] if given is not None else []
    command += ["-l", user] if user else []
    command += ["-p", str(port)] if port else []
    try:
        answer = subprocess.run(
            [*command, "--", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Temporary(f"`ssh -G {host}` gave no answer in {timeout_s:g} s") from error
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "replace").strip() or f"exit status {answer.returncode}"
        raise UsageError(
            f"ssh does not take its configuration for {host}: {said}",
            remedy=f"correct it; `ssh -G {host}` tries it",
        )
    settings: dict[str, list[str]] = {}
    for line in answer.stdout.decode("utf-8", "replace").splitlines():
        keyword, _, value = line.partition(" ")
        settings.setdefault(keyword.lower(), []).append(value.strip())
    if login_home != home:
        usual = [str(login_home / ".ssh" / name) for name in ("known_hosts", "known_hosts2")]
        if settings.get("userknownhostsfile") == [" ".join(usual)]:
            del settings["userknownhostsfile"]
    return settings


def _settings_by_paramiko(host: str, file: Path) -> Settings:
    import paramiko  # type: ignore[import-untyped]

    if not file.is_file():
        return {"identityfile": list(_DEFAULT_IDENTITIES)}
    try:
        found = paramiko.SSHConfig.from_path(str(file)).lookup(host)
    except Exception as error:  # whatever it raises, it is the file's fault: a syntax error, a `Match exec`
        raise UsageError(
            f"{file} can't be understood without an ssh program: {error}",
            remedy="install OpenSSH's client, or simplify the file",
        ) from error
    settings = {key: value if isinstance(value, list) else [str(value)] for key, value in found.items()}
    settings.setdefault("identityfile", list(_DEFAULT_IDENTITIES))
    return settings


def _login_home() -> Path:
    with contextlib.suppress(KeyError):
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    return Path.home()


def _local_user() -> str:
    # In a container the user may have a number only.
    with contextlib.suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())


def _given_config(options: Options) -> Path | None:
    return None if options.ssh_config is None else options.ssh_config.expanduser()


def _first(settings: Settings, keyword: str) -> str:
    values = settings.get(keyword)
    return values[0] if values else ""


def _path(text: str, tokens: Mapping[str, str]) -> Path:
    return Path(expand(text.strip('"'), tokens)).expanduser()


def expand(text: str, tokens: Mapping[str, str]) -> str:
    """`text` with its %-tokens replaced; an unknown one stays as it is.

    >>> expand("nc %h %p # 100%%", {"h": "shop", "p": "22", "%": "%"})
    'nc shop 22 # 100%'
    """
    return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), text)
