"""Logging in with a key: which ones, in which order, and what a refusal means.

    the key that the options name, and no other
    or: those of ssh_config, then those that only the agent has

The agent signs for a key that it holds, so a key with a passphrase works if it is there.  A certificate
beside a key is offered first and the bare key after it: paramiko offers only one of the two, and an expired
certificate would so lock out a good key that OpenSSH still logs in with.

Knows: paramiko's keys and agent.  Does not know: known hosts, ssh_config, the way to the host.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import copy
import dataclasses
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]
from paramiko.agent import AgentSSH  # type: ignore[import-untyped]

from rollrep.core.errors import LoginRefused, RollrepError, Temporary, UsageError
from rollrep.transport.host_config import Hop

_AGENT_TIMEOUT_S = 60.0
"""Long, because the agent may ask the person to touch or to confirm."""
_REFUSALS_FOR_GOOD = 3


@dataclasses.dataclass(frozen=True)
class _Offer:
    label: str
    key: Any


class _Agent(AgentSSH):  # type: ignore[misc]
    """The agent behind one socket; paramiko's own Agent takes $SSH_AUTH_SOCK only, not IdentityAgent."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(_AGENT_TIMEOUT_S)
        try:
            connection.connect(str(path))
            self._connect(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._close()


def log_in(transport: Any, hop: Hop, timeout_s: float) -> None:
    """Returns once the server has let us in.  The host key must have been verified before.

    Raises LoginRefused, naming what was tried; UsageError for a bad key in the options; Temporary.
    """
    with contextlib.ExitStack() as stack:
        agent = _open_agent(hop.agent)
        if agent is not None:
            stack.callback(agent.close)
        agent_keys = {bytes(key.asbytes()): key for key in agent.get_keys()} if agent is not None else {}
        offers, notes = _offers(hop, agent_keys)
        if not offers:
            raise LoginRefused(
                f"there is no key to log in to {hop} with{''.join(f'; {note}' for note in notes)}",
                remedy="make one with `ssh-keygen -t ed25519`, "
                "then on the source let `rollrep source authorize` print its line for authorized_keys",
            )
        tried: list[str] = []
        for offer in offers:
            tried.append(offer.label)
            try:
                refusal = _try(transport, hop, offer, timeout_s)
            except Temporary:
                # Some servers say goodbye and close so fast that our next key meets a reset, and the goodbye
                # is lost.  One key may meet a bad network; after several refusals it is no accident.
                if len(tried) <= _REFUSALS_FOR_GOOD:
                    raise
                refusal = f"it ended the connection after {len(tried) - 1} keys"
            if refusal is None:
                return
            if refusal:
                notes = [refusal, *notes]
                break
    raise _refused(hop, f"tried {', '.join(tried)}", notes)


def _try(transport: Any, hop: Hop, offer: _Offer, timeout_s: float) -> str | None:
    """None when we are in, "" when the next key may be tried, else why there is no use in it."""
    done = threading.Event()
    try:
        transport.auth_publickey(hop.user, offer.key, done)
    except (EOFError, OSError, paramiko.SSHException) as lost:
        raise Temporary(f"the connection to {hop} was lost during the login") from lost
    if not done.wait(max(timeout_s, _AGENT_TIMEOUT_S if offer.label.startswith("agent") else 0)):
        raise Temporary(f"{hop} gave no answer to our login in {timeout_s:g} s")
    if transport.is_authenticated():
        return None
    error = transport.get_exception()
    if isinstance(error, paramiko.ssh_exception.PartialAuthentication):
        return f"it takes {offer.label} but wants {' or '.join(error.allowed_types)} too"
    if transport.is_active():
        if isinstance(error, paramiko.BadAuthenticationType):
            return f"it takes no keys from {hop.user}, only {', '.join(error.allowed_types)}"
        return ""
    if transport.farewell:
        return f"it ended the connection: {transport.farewell}"
    if isinstance(error, paramiko.SSHException):
        return f"{offer.label}: {error}"
    raise Temporary(f"the connection to {hop} was lost during the login")


def _refused(hop: Hop, what: str, notes: list[str]) -> RollrepError:
    return LoginRefused(
        f"{hop} refused the login: {'; '.join([what, *notes])}",
        remedy="on the source, put the line printed by `rollrep source authorize` "
        f"into ~/.ssh/authorized_keys of {hop.user}",
    )


def _offers(hop: Hop, agent_keys: Mapping[bytes, Any]) -> tuple[list[_Offer], list[str]]:
    offers: list[_Offer] = []
    notes: list[str] = []
    files = (hop.given_identity,) if hop.given_identity is not None else hop.identities
    held: set[bytes] = set()
    for file in files:
        public = _public_blob(file)
        if public is not None and public in agent_keys:
            held.add(public)
            offers.append(_Offer(f"agent's {file}", agent_keys[public]))
            continue
        try:
            key = _load(file)
        except FileNotFoundError as error:
            if hop.given_identity is not None:
                raise UsageError(
                    f"the key {file} does not exist", remedy="correct identity in the job, or leave it out"
                ) from error
        except paramiko.PasswordRequiredException:
            notes.append(f"{file} needs its passphrase (`ssh-add {file}` gives it to an agent)")
        except Exception as error:  # paramiko and cryptography raise a dozen kinds for a bad file
            if hop.given_identity is not None:
                raise UsageError(
                    f"{file} can't be used as a key: {error}",
                    remedy="it must be a private key of type Ed25519, ECDSA or RSA",
                ) from error
            notes.append(f"{file} can't be used: {error}")
        else:
            offers += _with_certificates(file, key, hop.certificates)
    if hop.given_identity is None and not hop.identities_only:
        # Those last: a server ends the connection after some six keys, and an agent may hold more.
        rest = [key for blob, key in agent_keys.items() if blob not in held]
        offers += [_Offer(f"agent's {getattr(key, 'comment', '') or key.get_name()}", key) for key in rest]
    return offers, notes


def _with_certificates(file: Path, key: Any, certificates: tuple[Path, ...]) -> Iterator[_Offer]:
    for certificate in (Path(f"{file}-cert.pub"), *certificates):
        certified = copy.copy(key)
        try:
            if not certificate.is_file():
                continue
            certified.load_certificate(str(certificate))
        except Exception:  # any kind at all for a damaged file; the bare key follows, as with OpenSSH
            continue
        yield _Offer(str(certificate), certified)
    yield _Offer(str(file), key)


def _load(file: Path) -> Any:
    """The private key alone: PKey.from_path would take the certificate beside it too, or fail on it."""
    file.stat()
    first: Exception | None = None
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(file))
        except paramiko.PasswordRequiredException:
            raise
        except Exception as error:  # "not mine" is told by SSHException, ValueError, UnsupportedAlgorithm …
            first = first or error
    assert first is not None
    raise first


def _public_blob(file: Path) -> bytes | None:
    """The public key of `file`: from the file beside it, or from itself if it is the public one."""
    for path in (Path(f"{file}.pub"), file):
        try:
            fields = path.read_text(errors="replace").split(None, 2)
            if len(fields) >= 2 and fields[0].startswith(("ssh-", "ecdsa-", "sk-")):
                return base64.b64decode(fields[1], validate=True)
        except (OSError, binascii.Error, ValueError):
            continue
    return None


def _open_agent(path: Path | None) -> _Agent | None:
    if path is None:
        return None
    try:
        return _Agent(path)
    except (OSError, paramiko.SSHException):
        return None  # an agent that is gone is the same as none
