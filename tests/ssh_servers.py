"""Real things that can fail: two SSH servers and a proxy, all on 127.0.0.1 with ports of their own.

    openssh_server    a real sshd, as the present user
    paramiko_server   a small complete server in this process: for machines without sshd, and for demos
    Proxy             a TCP relay that can be cut, stalled, or cut after so many bytes

Each server comes with a client key that may log in, a known_hosts file that knows it, and an authorized_keys
file that both servers read at every login, `command="…"` included.  No pytest in here.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

_START_S = 10.0


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new private key at `path` (0600), its public one at `path`.pub; kind is "ed25519" or "ecdsa"."""
    if kind == "ecdsa":
        key: Any = ec.generate_private_key(ec.SECP256R1())
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    secrecy: Any = serialization.NoEncryption()
    if passphrase:
        secrecy = serialization.BestAvailableEncryption(passphrase.encode())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, secrecy)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.touch(mode=0o600)
    path.write_bytes(private)
    public_file(path).write_bytes(public + b" test\n")
    return path


def public_file(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


def public_line(path: Path) -> str:
    """'type base64' of the key at `path`."""
    return " ".join(public_file(path).read_text().split()[:2])


def fingerprint(path: Path) -> str:
    blob = base64.b64decode(public_line(path).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


class Server:
    """What both servers have in common: their files, and where they listen."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = 0
        self.user = getpass.getuser()
        self.host_key = make_key(folder / "host_key")
        self.client_key = make_key(folder / "client_key")
        self.authorized_keys = folder / "authorized_keys"
        self.known_hosts = folder / "known_hosts"
        self.fingerprint = fingerprint(self.host_key)
        self.authorize()

    @property
    def name(self) -> str:
        """The name under which known_hosts knows it."""
        return f"[{self.host}]:{self.port}"

    @property
    def known_line(self) -> str:
        return f"{self.name} {public_line(self.host_key)}\n"

    def authorize(self, options: str = "", key: Path | None = None) -> None:
        """Lets one key in, and no other; `options` as in authorized_keys: 'restrict,command="…"'."""
        self.authorized_keys.write_text(f"{options} {public_line(key or self.client_key)}\n".lstrip())
        self.authorized_keys.chmod(0o600)

    def logins(self) -> int:
        """How many logins were let in so far."""
        raise NotImplementedError

    def login_attempts(self) -> int:
        """How many connections went past the key exchange and asked for a login."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError


# ---------------------------------------------------------------- OpenSSH

_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding yes
AcceptEnv LANG LC_*
MaxStartups 100
LogLevel DEBUG1
"""


class OpensshServer(Server):
    """A real sshd; its log is `log`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if self.program is None:
            raise RuntimeError("no sshd on this machine; install it: apt-get install openssh-server")
        if os.geteuid() == 0:
            # A fact: as root, sshd does not start without its directory for privilege separation.
            Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
        self.log = folder / "sshd.log"
        self._run("")

    def configure(self, lines: str) -> None:
        """Starts it again, on another port, with these lines in its configuration."""
        self.stop()
        self.log.unlink()
        self._run(lines)

    def _run(self, lines: str) -> None:
        # sshd can't be told to choose a port itself, so somebody may take the free one before it does.
        for _ in range(5):
            if self._start(lines):
                break
        else:
            raise RuntimeError(f"sshd does not start; its log:\n{self._log_text()}")
        self.known_hosts.write_text(self.known_line)

    def _start(self, lines: str) -> bool:
        self.port = free_port()
        config = self.folder / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(port=self.port, folder=self.folder) + lines)
        self.process = subprocess.Popen(
            [str(self.program), "-D", "-f", str(config), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            # The log and not a connection: another process may be the one that answers on this port.
            if f"Server listening on {self.host} port {self.port}" in self._log_text():
                return True
            time.sleep(0.01)
        self.stop()
        return False

    def _log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, text: str) -> int:
        """How often the log has it."""
        return self._log_text().count(text)

    def logins(self) -> int:
        return self.says("Accepted publickey for")

    def login_attempts(self) -> int:
        return self.says("userauth-request for user")

    def stop(self) -> None:
        # The connections that are open have sessions of their own, and end when the client closes them.
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def openssh_server(folder: Path) -> Iterator[OpensshServer]:
    """A running sshd with its files in `folder`; RuntimeError where there is none, naming the package."""
    server = OpensshServer(folder / "openssh")
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- the embedded one


class _ServerTransport(paramiko.Transport):
    """paramiko's, with a way to act *after* the reply to a request was sent.

    A command that ends at once would else close its channel before the client heard that it was started.
    """

    def __init__(self, line: socket.socket, server: EmbeddedServer) -> None:
        super().__init__(line, default_window_size=server.window_bytes)
        self.pending: list[Callable[[], None]] = []
        self.embedded = server
        request = paramiko.common.MSG_CHANNEL_REQUEST
        self._channel_handler_table = {**self._channel_handler_table, request: self._request}

    def _request(self, channel: paramiko.Channel, message: paramiko.Message) -> None:
        channel._handle_request(message)
        while self.pending:
            self.pending.pop()()


class _Policy(paramiko.ServerInterface):
    """One connection's rules: the keys in authorized_keys may run commands, nothing else is allowed."""

    def __init__(self, transport: _ServerTransport) -> None:
        self.transport = transport
        self.forced = ""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        server = self.transport.embedded
        server.attempts += 1
        for line in server.authorized_keys.read_text().splitlines():
            match = re.search(r"(?:^|\s)((?:ssh|ecdsa)-\S+) (\S+)", line)
            if match and username == server.user and base64.b64decode(match[2]) == key.asbytes():
                command = re.search(r'command="((?:[^"\\]|\\.)*)"', line[: match.start()])
                self.forced = command[1].replace('\\"', '"') if command else ""
                server.accepted += 1
                return int(paramiko.AUTH_SUCCESSFUL)
        return int(paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        allowed = kind == "session"
        return int(paramiko.OPEN_SUCCEEDED if allowed else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        environment = dict(os.environ)
        asked = command.decode()
        if self.forced:
            environment["SSH_ORIGINAL_COMMAND"] = asked
        child = subprocess.Popen(
            ["/bin/sh", "-c", self.forced or asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        self.transport.embedded.children.append(child)
        self.transport.pending.append(lambda: _in_thread(_serve_child, channel, child))
        return True


class EmbeddedServer(Server):
    """A small SSH server in this process: keys, exec requests, forced commands, exit status."""

    def __init__(self, folder: Path, forced_command: str = "") -> None:
        super().__init__(folder)
        _quiet_paramiko()
        if forced_command:
            quoted = forced_command.replace('"', '\\"')
            self.authorize(f'restrict,command="{quoted}"')
        self.window_bytes = 2 << 20
        self.attempts = 0
        self.accepted = 0
        self.children: list[subprocess.Popen[bytes]] = []
        self._transports: list[_ServerTransport] = []
        self._key = paramiko.Ed25519Key.from_private_key_file(str(self.host_key))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.known_hosts.write_text(self.known_line)
        self._acceptor = _in_thread(self._accept)

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            _in_thread(self._serve, line)

    def _serve(self, line: socket.socket) -> None:
        with contextlib.suppress(Exception):  # a client that goes away is no news
            transport = _ServerTransport(line, self)
            transport.add_server_key(self._key)
            self._transports.append(transport)
            transport.start_server(server=_Policy(transport))

    def logins(self) -> int:
        return self.accepted

    def login_attempts(self) -> int:
        return self.attempts

    def stop(self) -> None:
        # A fact: close() alone does not wake a thread that waits in accept() on Linux.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self._transports:
            transport.close()
            transport.sock.close()
        for child in self.children:
            _kill_group(child)
        self._acceptor.join(5)


@contextlib.contextmanager
def paramiko_server(folder: Path, forced_command: str = "") -> Iterator[EmbeddedServer]:
    """A running embedded server with its files in `folder`."""
    server = EmbeddedServer(folder / "embedded", forced_command)
    try:
        yield server
    finally:
        server.stop()


def _serve_child(channel: paramiko.Channel, child: subprocess.Popen[bytes]) -> None:
    """Both ways until the child ends, then its exit status and the end of the channel."""
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    _in_thread(_feed_child, channel, child)
    out = _in_thread(_pump, child.stdout, channel.sendall)
    err = _in_thread(_pump, child.stderr, channel.sendall_stderr)
    out.join()
    err.join()
    status = child.wait()
    with contextlib.suppress(Exception):  # the client may be gone
        channel.shutdown_write()
        channel.send_exit_status(status if status >= 0 else 128 - status)
        channel.close()


def _feed_child(channel: paramiko.Channel, child: subprocess.Popen[bytes]) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError), child.stdin:
        while data := channel.recv(65536):
            view = memoryview(data)
            while view:
                view = view[child.stdin.write(view) :]
    # The end of its input may be all the client meant; a client that is gone ends its command too.
    if channel.closed and child.poll() is None:
        _kill_group(child)


def _pump(source: Any, send: Callable[[bytes], object]) -> None:
    with source, contextlib.suppress(Exception):  # the client may be gone; the pipe is emptied no more
        while data := os.read(source.fileno(), 65536):
            send(data)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()


# ---------------------------------------------------------------- the proxy


class Proxy:
    """A TCP relay on a port of its own to 127.0.0.1:`target_port`.

    `cut` breaks all connections and refuses new ones; `stall` lets nothing pass, yet keeps all open; `resume`
    ends that; `cut_after` cuts once so many more bytes, both ways together, have passed; `spoil` flips a bit of the
    next ones.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._left: int | None = None
        self._spoils = False
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = _in_thread(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            _reset(line)
        self._flowing.set()

    def stall(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut_after(self, size: int) -> None:
        with self._lock:
            self._left = size

    def spoil(self) -> None:
        self._spoils = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                target = socket.create_connection(("127.0.0.1", self._target_port), 10)
            except OSError:
                _reset(client)
                continue
            target.settimeout(None)
            with self._lock:
                self._lines += [client, target]
            _in_thread(self._relay, client, target)
            _in_thread(self._relay, target, client)

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                self._flowing.wait()
                with self._lock:
                    allowed = len(data) if self._left is None else min(len(data), self._left)
                    self._left = None if self._left is None else self._left - allowed
                    self.passed += allowed
                    if self._spoils:
                        self._spoils = False
                        data = data[:-1] + bytes([data[-1] ^ 1])
                sink.sendall(data[:allowed])
                if allowed < len(data):
                    self.cut()
                    return
            sink.shutdown(socket.SHUT_WR)


def _reset(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # With a linger of 0, close sends RST: the peer sees a reset and not an orderly end.
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A fact: close() leaves a connection open while another thread waits in recv() on it.
        line.shutdown(socket.SHUT_RD)
    line.close()


def _in_thread(run: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=run, args=arguments, daemon=True)
    thread.start()
    return thread


def _quiet_paramiko() -> None:
    import logging

    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
