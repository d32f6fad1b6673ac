"""A real sshd on 127.0.0.1 with SFTP, and a relay before it that counts every byte, both ways.

Knows: OpenSSH's programs.  Does not know: who speaks through it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
Subsystem sftp internal-sftp
"""


class Loopback:
    """Where to log in, and how much went through."""

    def __init__(self, folder: Path, port: int) -> None:
        self.user = getpass.getuser()
        self.key = folder / "client_key"
        self.known_hosts = folder / "known_hosts"
        self._target = port
        self._lock = threading.Lock()
        self._bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        public = (folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def bytes(self) -> int:
        """Of TCP's payload, in both directions, since the start."""
        with self._lock:
            return self._bytes

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake accept
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for end in (near, far):
                # Without this, each small message of SFTP would wait for the acknowledgement of the one before.
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self._bytes += len(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Loopback]:
    """Raises RuntimeError where there is no sshd."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("no sshd on this machine: apt-get install openssh-server")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "client_key"):
        (folder / name).unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:
        # As root, sshd does not start without its folder for privilege separation.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=port, folder=folder))
    sshd = subprocess.Popen([program, "-D", "-f", str(config), "-E", str(folder / "sshd.log")])
    try:
        _wait_for(port, sshd)
        relay = Loopback(folder, port)
        try:
            yield relay
        finally:
            relay.close()
    finally:
        sshd.terminate()
        sshd.wait()


def _wait_for(port: int, sshd: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and sshd.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError("sshd does not start")
