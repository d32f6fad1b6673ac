"""A chain of SSH connections: reach a host, look at its key, log in, go on from there.

    we ══ TCP or ProxyCommand ══▶ bastion ══ direct-tcpip ══▶ source
          reach  verify  log in             reach  verify  log in  run

`reach` ends with the key exchange: the host's key is known then and nothing of ours was sent.  The caller
verifies it before `log_in`.

Knows: paramiko's transports.  Does not know: which host keys are good, ssh_config, what flows through.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import paramiko  # type: ignore[import-untyped]

from rollrep.core.errors import RollrepError, Temporary
from rollrep.transport.base import Options
from rollrep.transport.host_config import Hop
from rollrep.transport.known_hosts import HostKey
from rollrep.transport.login import log_in

_KEEPALIVE_S = 15
_PROHIBITED = 1
"""SSH_OPEN_ADMINISTRATIVELY_PROHIBITED, RFC 4254 section 5.1; the other reasons may go away."""

# Its tracebacks on stderr would say again, and worse, what our errors say.  A level set by somebody stays.
if logging.getLogger("paramiko").level == logging.NOTSET:
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


class _ImpatientSocket:
    """A socket whose writes fail when nothing moved for `stall_timeout_s`.

    A fact: paramiko's Packetizer.write_all tries again for ever when a dead peer's socket buffer is full, and
    holds the lock that every other sender needs; a channel's timeout covers only the wait for the window.
    """

    def __init__(self, inner: Any, stall_timeout_s: float) -> None:
        self._inner = inner
        self._stall_timeout_s = stall_timeout_s
        self._stuck_since: float | None = None

    def send(self, data: bytes) -> int:
        try:
            sent = int(self._inner.send(data))
        except TimeoutError:
            now = time.monotonic()
            self._stuck_since = self._stuck_since or now
            if now - self._stuck_since > self._stall_timeout_s:
                # Not ETIMEDOUT: Python makes a TimeoutError of that, and paramiko tries again after those.
                raise ConnectionAbortedError(errno.ECONNABORTED, "nothing could be sent") from None
            raise
        self._stuck_since = None
        return sent

    def recv(self, limit: int) -> bytes:
        return bytes(self._inner.recv(limit))

    def settimeout(self, timeout: float | None) -> None:
        self._inner.settimeout(timeout)

    def getpeername(self) -> Any:
        return self._inner.getpeername()

    def close(self) -> None:
        self._inner.close()

    @property
    def _closed(self) -> bool:
        return bool(self._inner._closed)


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """paramiko's, which also remembers why the server said goodbye."""

    farewell = ""

    def _parse_disconnect(self, message: Any) -> None:
        message.get_int()
        self.farewell = str(message.get_text())


class Link:
    """The connections to the hops reached so far.  `close` ends all of them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._transports: list[_Transport] = []
        self._proxy: subprocess.Popen[bytes] | None = None

    def reach(self, hop: Hop, preferred: Sequence[str] = ()) -> HostKey:
        """The host key that `hop` shows, proven to be its own; key types in `preferred` are asked for first.

        Raises Temporary: a host that can't be reached now, or is not known to DNS, may be so later.
        """
        with _translated(hop, "can't be reached"):
            line = self._dial(hop)
            try:
                transport = _Transport(
                    _ImpatientSocket(line, self._options.stall_timeout_s),
                    default_window_size=self._options.window_bytes,
                )
            except BaseException:
                line.close()
                raise
            self._transports.append(transport)
            timeout_s = self._options.connect_timeout_s
            transport.banner_timeout = transport.handshake_timeout = timeout_s
            transport.auth_timeout = transport.channel_timeout = timeout_s
            offered = transport.get_security_options()
            offered.key_types = sorted(offered.key_types, key=lambda kind: _rank(kind, preferred))
            # paramiko offers them last.  They take half the CPU time of a cipher with a MAC beside it, on both sides.
            offered.ciphers = sorted(offered.ciphers, key=lambda cipher: "-gcm@" not in cipher)
            # A fact: start_client returns as if all were well when its time is up; asking for the key raises.
            transport.start_client(timeout=timeout_s)
            key = transport.get_remote_server_key()
            return HostKey(str(key.get_name()), bytes(key.asbytes()))

    def log_in(self, hop: Hop) -> None:
        """Logs in to the hop reached last."""
        with _translated(hop, "was lost during the login"):
            log_in(self._transports[-1], hop, self._options.connect_timeout_s)
            self._transports[-1].set_keepalive(_KEEPALIVE_S)

    def run(self, hop: Hop, command: str) -> Any:
        """A paramiko Channel with `command` started at the hop reached last."""
        transport, timeout_s = self._transports[-1], self._options.connect_timeout_s
        # A fact: exec_command waits for the server's answer without any timeout; closing wakes it.
        watchdog = threading.Timer(timeout_s, transport.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            with _translated(hop, "was lost before the command started"):
                channel = transport.open_session(window_size=self._options.window_bytes, timeout=timeout_s)
                try:
                    channel.exec_command(command)
                except paramiko.SSHException as error:
                    if not transport.is_active():
                        raise
                    raise RollrepError(
                        f"{hop} would not run {command!r}", remedy="look at what its sshd allows this key"
                    ) from error
                return channel
        finally:
            watchdog.cancel()

    def close(self) -> None:
        """Ends all connections at once, without a word that could block."""
        # The outermost first: an inner one says goodbye through it, which would block on a dead network.
        for transport in self._transports:
            with contextlib.suppress(Exception):  # whatever it raises, it is of no use to anybody now
                transport.close()
            with contextlib.suppress(Exception):  # close() leaves the socket open if it never was active
                transport.sock.close()
        if self._proxy is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._proxy.pid, signal.SIGKILL)
            self._proxy.wait()
            self._proxy = None

    def _dial(self, hop: Hop) -> Any:
        if self._transports:
            return self._transports[-1].open_channel(
                "direct-tcpip",
                dest_addr=(hop.host, hop.port),
                src_addr=("127.0.0.1", 0),
                window_size=self._options.window_bytes,
                timeout=self._options.connect_timeout_s,
            )
        if hop.proxy_command is not None:
            return self._dial_proxy(hop.proxy_command)
        line = socket.create_connection((hop.host, hop.port), self._options.connect_timeout_s)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def _dial_proxy(self, command: str) -> socket.socket:
        # Not paramiko's ProxyCommand: it spins on the end of the stream and never reads the command's stderr.
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._proxy = subprocess.Popen(
                    ["/bin/sh", "-c", f"exec {command}"],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return ours


_TRY_AGAIN = "nothing was lost; see that the host is up and its sshd runs, then try again"


@contextlib.contextmanager
def _translated(hop: Hop, what: str) -> Iterator[None]:
    """Our errors pass, every other becomes one of ours."""
    try:
        yield
    except RollrepError:
        raise
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise RollrepError(
            f"{hop} and we have no algorithm in common: {error}",
            remedy="update its sshd, or look at what its sshd_config allows",
        ) from error
    except paramiko.ChannelException as error:
        if error.code != _PROHIBITED:
            raise Temporary(f"{hop} {what}: {error.text}", remedy=_TRY_AGAIN) from error
        raise RollrepError(
            f"{hop} {what}: the SSH server on the way does not allow it ({error.text})",
            remedy="look at AllowTcpForwarding and MaxSessions in its sshd_config",
        ) from error
    except TimeoutError as error:
        raise Temporary(f"{hop} {what}: no answer in time", remedy=_TRY_AGAIN) from error
    except Exception as error:  # any kind: whatever a server makes paramiko's thread fail with
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Temporary(f"{hop} {what}: {said}", remedy=_TRY_AGAIN) from error


def _rank(kind: str, preferred: Sequence[str]) -> int:
    """Lower for preferred ones; an "ssh-rsa" key signs as rsa-sha2-*.

    >>> _rank("rsa-sha2-512", ["ssh-rsa"]), _rank("ssh-ed25519", ["ssh-rsa"])
    (0, 1)
    """
    key_type = "ssh-rsa" if kind.startswith("rsa-sha2-") else kind
    return preferred.index(key_type) if key_type in preferred else len(preferred)
