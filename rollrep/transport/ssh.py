"""A source on another machine: one command over SSH, by paramiko.

    open_ssh          way ─▶ per hop: reach, verify the host key, log in ─▶ run the command ─▶ SshStream
    fetch_host_key    the same, but at the last hop it stops after the key exchange
    accept_host_key   the same, and the key is remembered if it is the one the person said

A host key is verified before anything of ours is sent, always strictly: a host that is not known, or not
known by this key, is refused, whatever StrictHostKeyChecking says.

Knows: hops, known hosts, channels.  Does not know: what flows through.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any, NoReturn

import paramiko  # type: ignore[import-untyped]

from rollrep.core.errors import HostKeyRefused, Temporary, UsageError
from rollrep.transport.base import Address, Options, Stream
from rollrep.transport.host_config import Hop, way_to
from rollrep.transport.known_hosts import (
    HostKey,
    KnownKey,
    Standing,
    append_known_host,
    judge,
    known_kinds,
    read_known_hosts,
)
from rollrep.transport.link import Link
from rollrep.transport.tail import Tail

_EXIT_WAIT_S = 2.0
_RECEIVE_BYTES = 1 << 30
_PACKET_BYTES = 1 << 15
"""What SSH servers take in one packet; more would be copied only to be copied again."""
_DRAIN_WAIT_S = 0.5


def open_ssh(address: Address, options: Options) -> Stream:
    """A stream to `options.remote_command` on the host of `address`.

    Raises HostKeyRefused before anything was authenticated, LoginRefused, UsageError, Temporary.
    """
    hops = way_to(address, options)
    link = Link(options)
    try:
        for hop in hops:
            _verify(hop, *_look(link, hop))
            link.log_in(hop)
        return SshStream(link, link.run(hops[-1], options.remote_command), hops[-1], options.stall_timeout_s)
    except BaseException:
        link.close()
        raise


def fetch_host_key(address: Address, options: Options) -> tuple[str, str]:
    """(type, fingerprint) of the key that the host shows now, such as ("ssh-ed25519", "SHA256:…").

    The host is not logged in to, and its key is not checked; those of jump hosts are.
    """
    link = Link(options)
    try:
        *jumps, last = way_to(address, options)
        for hop in jumps:
            _verify(hop, *_look(link, hop))
            link.log_in(hop)
        key, _, _ = _look(link, last)
        return key.kind, key.fingerprint
    finally:
        link.close()


def accept_host_key(address: Address, options: Options, fingerprint: str) -> Path:
    """The known_hosts file that now holds the host's key, whose fingerprint is the given one.

    The first host on the way that is not known is the one: with a jump host, this is done once for each.
    Nothing is written if the key is known already.  Raises HostKeyRefused if the host shows another key.
    """
    link = Link(options)
    try:
        hops = way_to(address, options)
        for hop in hops:
            key, standing, line = _look(link, hop)
            if standing == "known" and (hop is hops[-1] or key.fingerprint == fingerprint):
                if key.fingerprint != fingerprint:
                    _refuse_other(hop, key, fingerprint)
                assert line is not None
                return line.file
            if standing in ("unknown", "changed"):
                if key.fingerprint != fingerprint:
                    _refuse_other(hop, key, fingerprint)
                return _remember(hop, key)
            _verify(hop, key, standing, line)
            link.log_in(hop)
        raise AssertionError("the last hop always returns or raises")
    finally:
        link.close()


def _look(link: Link, hop: Hop) -> tuple[HostKey, Standing, KnownKey | None]:
    """The key that `hop` shows, what known_hosts says of it, and the line that does."""
    known = read_known_hosts(hop.known_hosts)
    key = link.reach(hop, known_kinds(known, hop.key_names))
    return key, *judge(known, hop.key_names, key)


def _verify(hop: Hop, key: HostKey, standing: Standing, line: KnownKey | None) -> None:
    if standing == "known":
        return
    shown = f"its {key.kind} key is {key.fingerprint}"
    if standing == "unknown":
        raise HostKeyRefused(f"{hop} is not a known host; {shown}", remedy=_accept_remedy(key))
    assert line is not None
    if standing == "revoked":
        raise HostKeyRefused(
            f"{hop} shows a key that is revoked in {line.place}; {shown}",
            remedy="do not trust this host; its owner must give it a new key",
        )
    raise HostKeyRefused(
        f"{hop} shows another key than the one known since {line.place} "
        f"({line.key.kind} {line.key.fingerprint}): it is a reinstalled machine, or an attack; {shown}",
        remedy=f"if it was reinstalled: `ssh-keygen -R '{hop.key_names[0]}' -f {line.file}`; " + _accept_remedy(key),
    )


def _accept_remedy(key: HostKey) -> str:
    kind = {"ssh-rsa": "rsa", "ssh-ed25519": "ed25519"}.get(key.kind, "ecdsa")
    return (
        f"compare it with the one printed on the source by `ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub`"
        f", then: rollrep check JOB --accept-host-key {key.fingerprint}"
    )


def _refuse_other(hop: Hop, key: HostKey, fingerprint: str) -> NoReturn:
    raise HostKeyRefused(
        f"{hop} shows the {key.kind} key {key.fingerprint}, not {fingerprint}; nothing was written",
        remedy=_accept_remedy(key),
    )


def _remember(hop: Hop, key: HostKey) -> Path:
    file = hop.known_hosts[0]
    try:
        append_known_host(file, hop.key_names[0], key)
    except OSError as error:
        raise UsageError(
            f"{file} can't be written: {error.strerror}",
            remedy="make it writable, or name another known_hosts in the job",
        ) from error
    return file


class SshStream:
    """One command's channel, as a Stream."""

    def __init__(self, link: Link, channel: Any, hop: Hop, stall_timeout_s: float) -> None:
        self._link = link
        self._channel = channel
        self._hop = hop
        self._stall_timeout_s = stall_timeout_s
        self._closed = False
        self._held = memoryview(b"")
        self._tail = Tail()
        channel.settimeout(stall_timeout_s)
        # stdout and stderr share the window: with nobody reading stderr, several MB of it stop both for ever.
        self._drain = threading.Thread(target=_drain, args=(channel, self._tail), name="rollrep-stderr", daemon=True)
        self._drain.start()

    def read(self, limit: int) -> bytes:
        # A fact: each recv moves all that it leaves in paramiko's buffer, up to a whole window.  So all is
        # taken at once, and small reads are served from here.
        if not self._held and not self._closed:
            self._held = memoryview(self._receive())
        data, self._held = bytes(self._held[:limit]), self._held[limit:]
        return b"" if self._closed else data

    def _receive(self) -> bytes:
        try:
            data = bytes(self._channel.recv(_RECEIVE_BYTES))
        except TimeoutError:
            raise Temporary(f"nothing arrived from {self._hop} for {self._stall_timeout_s:g} s") from None
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost() from error
        # A fact: a channel reads as ended when its connection breaks too.  Only the other side's word counts:
        # its EOF, or its CLOSE, which paramiko answers with an EOF of ours.
        if not data and not self._closed and not self._channel.eof_received and not self._channel.eof_sent:
            raise self._lost()
        return data

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                # Not sendall: it goes round for ever at 0 once the other side has closed the channel.
                sent = 0 if self._closed else self._channel.send(bytes(rest[:_PACKET_BYTES]))
            except TimeoutError:
                raise Temporary(f"{self._hop} took nothing for {self._stall_timeout_s:g} s") from None
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._lost() from error
            if sent == 0:
                raise Temporary(f"{self._hop} takes nothing more: the channel is closed")
            rest = rest[sent:]

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # The connection, not the channel: a channel's goodbye may block on a dead network.
        self._link.close()

    def diagnosis(self) -> str:
        # An ended command may have left its last words in the buffer.
        if self._channel.closed or self._channel.eof_received:
            self._drain.join(_DRAIN_WAIT_S)
        return self._tail.text()

    def exit_status(self) -> int | None:
        self._channel.status_event.wait(_EXIT_WAIT_S)
        status = int(self._channel.exit_status)
        return None if status < 0 else status

    def _lost(self) -> Temporary:
        return Temporary(f"the connection to {self._hop} was lost")


def _drain(channel: Any, tail: Tail) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while True:
            try:
                data = bytes(channel.recv_stderr(65536))
            except TimeoutError:
                continue  # silence is the usual state of stderr
            if not data:
                return
            tail.feed(data)
