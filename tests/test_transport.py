"""One suite for every transport, then what only SSH can do wrong.

The command at the other end is always an ordinary one (`cat`, `head`), so nothing of rollrep runs there.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hmac
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ssh_servers import (
    EmbeddedServer,
    OpensshServer,
    Proxy,
    Server,
    fingerprint,
    free_port,
    make_key,
    public_file,
    public_line,
)

from rollrep.core.errors import HostKeyRefused, LoginRefused, Temporary, UsageError
from rollrep.transport import Address, Options, Stream, open_stream
from rollrep.transport.address import parse_address
from rollrep.transport.host_config import way_to
from rollrep.transport.ssh import accept_host_key, fetch_host_key

Open = Callable[..., Stream]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _nobodys_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the agent nor the home directory of whoever runs the tests has a say."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def options_for(server: Server, **changes: object) -> Options:
    options = Options(
        identity=server.client_key, known_hosts=server.known_hosts, ssh_config=Path("/dev/null"),
        remote_command="cat", connect_timeout_s=10.0, stall_timeout_s=10.0,
    )  # fmt: skip
    return dataclasses.replace(options, **changes)  # type: ignore[arg-type]


def address_of(server: Server, port: int | None = None) -> Address:
    return Address("shop", server.host, server.user, port or server.port)


@pytest.fixture(params=["local", "sshd", "embedded_ssh"])
def opened(request: pytest.FixtureRequest) -> Iterator[Open]:
    """opened(command, stall_timeout_s) by each transport; closed at the end."""
    server = None if request.param == "local" else request.getfixturevalue(request.param)
    streams: list[Stream] = []

    def open_one(command: str, stall_timeout_s: float = 10.0) -> Stream:
        if server is None:
            options = Options(remote_command=command, stall_timeout_s=stall_timeout_s)
            stream = open_stream(Address("/nowhere.db"), options)
        else:
            options = options_for(server, remote_command=command, stall_timeout_s=stall_timeout_s)
            stream = open_stream(address_of(server), options)
        streams.append(stream)
        return stream

    yield open_one
    for stream in streams:
        stream.close()


@pytest.fixture(params=["sshd", "embedded_ssh"])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(request.param)


def read_exactly(stream: Stream, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = stream.read(min(size, 1 << 18))
        assert part, f"ended {size} bytes early: {stream.diagnosis()}"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_all(stream: Stream) -> bytes:
    return b"".join(iter(lambda: stream.read(65536), b""))


# ---------------------------------------------------------------- every transport


def test_stream_gives_back_the_bytes_when_the_command_echoes(opened: Open) -> None:
    stream = opened("cat")
    for data in (b"x", bytes(range(256)), b"\r\n\x00\x04~."):
        stream.write(data)
        assert read_exactly(stream, len(data)) == data


def test_stream_passes_8_mib_each_way_when_both_flow_at_once(opened: Open) -> None:
    stream = opened("cat")
    data = os.urandom(8 * MIB)
    writer = threading.Thread(target=stream.write, args=(data,))
    writer.start()
    echoed = read_exactly(stream, len(data))
    writer.join(10)
    assert echoed == data


def test_stream_reads_on_when_stderr_is_megabytes(opened: Open) -> None:
    stream = opened("sh -c 'head -c 12000000 /dev/zero >&2; echo last words >&2; echo done'")
    assert read_all(stream) == b"done\n"
    assert stream.exit_status() == 0
    assert stream.diagnosis().endswith("last words")
    assert len(stream.diagnosis()) <= 4096


def test_stream_reads_on_when_stderr_flows_and_stdout_is_megabytes(opened: Open) -> None:
    stream = opened("sh -c 'head -c 9000000 /dev/zero >&2 & head -c 9000000 /dev/zero; wait'")
    time.sleep(0.3)
    assert len(read_all(stream)) == 9_000_000


def test_read_gives_nothing_when_the_command_has_ended(opened: Open) -> None:
    stream = opened("printf hello")
    assert read_all(stream) == b"hello"
    assert stream.read(10) == b""


@pytest.mark.parametrize("status", [0, 3, 75])
def test_exit_status_is_the_commands_when_it_has_ended(opened: Open, status: int) -> None:
    stream = opened(f"sh -c 'exit {status}'")
    assert read_all(stream) == b""
    assert stream.exit_status() == status


def test_exit_status_is_none_when_the_command_still_runs(opened: Open) -> None:
    stream = opened("cat")
    began = time.monotonic()
    assert stream.exit_status() is None
    assert time.monotonic() - began < 4


def test_read_raises_temporary_when_nothing_arrives(opened: Open) -> None:
    stream = opened("sleep 5", stall_timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(Temporary, match=r"nothing arrived .* 0\.3 s"):
        stream.read(1)
    assert 0.2 < time.monotonic() - began < 3


def test_write_raises_temporary_when_nothing_is_taken(opened: Open) -> None:
    stream = opened("sleep 5", stall_timeout_s=0.3)
    with pytest.raises(Temporary):
        stream.write(bytes(32 * MIB))


def test_write_raises_temporary_when_the_command_has_ended(opened: Open) -> None:
    stream = opened("true")
    assert read_all(stream) == b""
    with pytest.raises(Temporary):
        for _ in range(50):
            stream.write(bytes(65536))
            time.sleep(0.01)


def test_close_is_quick_and_quiet_when_called_twice(opened: Open) -> None:
    stream = opened("sleep 5")
    began = time.monotonic()
    stream.close()
    stream.close()
    assert time.monotonic() - began < 2
    assert stream.read(1) == b""
    with pytest.raises(Temporary):
        stream.write(b"x")


def test_close_ends_a_read_when_another_thread_waits_in_it(opened: Open) -> None:
    stream = opened("sleep 5")
    ended = threading.Event()

    def wait() -> None:
        with contextlib.suppress(Temporary):
            stream.read(1)
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    time.sleep(0.2)
    stream.close()
    assert ended.wait(3)


def test_diagnosis_has_no_control_characters_when_stderr_has(opened: Open) -> None:
    stream = opened(r"""sh -c 'printf "\033[2Jgone\007 wrong" >&2'""")
    assert read_all(stream) == b""
    assert stream.diagnosis() == "[2Jgone wrong"


# ---------------------------------------------------------------- local only


def test_local_child_is_in_a_session_of_its_own_when_started() -> None:
    stream = open_stream(
        Address("/x.db"), Options(remote_command=f"{sys.executable} -c 'import os; print(os.getsid(0))'")
    )
    assert int(read_all(stream)) != os.getsid(0)
    stream.close()


def test_local_child_is_killed_when_it_ignores_the_end() -> None:
    command = "sh -c 'trap \"\" TERM HUP; echo $$; while true; do sleep 0.1; done'"
    stream = open_stream(Address("/x.db"), Options(remote_command=command))
    pid = int(stream.read(100))
    stream.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_local_raises_usage_error_when_the_command_does_not_exist() -> None:
    with pytest.raises(UsageError, match="no-such-program"):
        open_stream(Address("/x.db"), Options(remote_command="no-such-program at all"))


def test_open_stream_does_not_load_paramiko_when_the_source_is_local() -> None:
    code = (
        "import sys; from rollrep.transport import *;"
        "open_stream(Address('/x'), Options(remote_command='true')).close();"
        "sys.exit('paramiko' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# ---------------------------------------------------------------- host keys


def test_unknown_host_is_refused_before_any_login_when_known_hosts_is_empty(server: Server) -> None:
    server.known_hosts.write_text("")
    with pytest.raises(HostKeyRefused) as caught:
        open_stream(address_of(server), options_for(server))
    assert caught.value.exit_code == 13
    assert server.fingerprint in caught.value.facts
    assert f"127.0.0.1:{server.port}" in caught.value.facts
    assert "ssh-ed25519" in caught.value.facts
    assert f"--accept-host-key {server.fingerprint}" in caught.value.remedy
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in caught.value.remedy
    time.sleep(0.1)
    assert server.login_attempts() == 0


def test_changed_host_key_is_refused_naming_the_line_when_another_was_known(server: Server, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    server.known_hosts.write_text(f"# old\n{server.name} {public_line(other)}\n")
    with pytest.raises(HostKeyRefused) as caught:
        open_stream(address_of(server), options_for(server))
    assert f"{server.known_hosts}, line 2" in caught.value.facts
    assert "attack" in caught.value.facts
    assert server.fingerprint in caught.value.facts
    assert "ssh-keygen -R" in caught.value.remedy
    assert server.login_attempts() == 0


def test_revoked_host_key_is_refused_when_it_is_known_too(server: Server) -> None:
    server.known_hosts.write_text(f"{server.known_line}@revoked * {public_line(server.host_key)}\n")
    with pytest.raises(HostKeyRefused, match="revoked"):
        open_stream(address_of(server), options_for(server))
    with pytest.raises(HostKeyRefused, match="revoked"):
        accept_host_key(address_of(server), options_for(server), server.fingerprint)


def echo_works(address: Address, options: Options) -> bool:
    stream = open_stream(address, options)
    try:
        stream.write(b"ping")
        return read_exactly(stream, 4) == b"ping"
    finally:
        stream.close()


def test_good_lines_count_when_authorities_revocations_and_rubbish_stand_beside_them(
    server: Server, tmp_path: Path
) -> None:
    other = public_line(make_key(tmp_path / "other"))
    server.known_hosts.write_bytes(
        f"@cert-authority *.example.org {other}\n@revoked * {other}\nrubbish\nhost ssh-ed25519 &&&\n".encode()
        + b"\xff\xfe not utf-8 at all\n@unheard-of * x y\n\n"
        + server.known_line.encode()
    )
    assert echo_works(address_of(server), options_for(server))


def test_hashed_name_is_recognised_when_known_hosts_is_hashed(server: Server) -> None:
    salt = os.urandom(20)
    digest = hmac.digest(salt, server.name.encode(), "sha1")
    hashed = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    server.known_hosts.write_text(f"{hashed} {public_line(server.host_key)}\n")
    assert echo_works(address_of(server), options_for(server))
    server.known_hosts.write_text(server.known_line)
    subprocess.run(["ssh-keygen", "-H", "-f", str(server.known_hosts)], check=True, capture_output=True, timeout=30)
    assert server.known_hosts.read_text().startswith("|1|")
    assert echo_works(address_of(server), options_for(server))


def test_line_without_a_port_is_good_when_its_key_is_the_same(server: Server, tmp_path: Path) -> None:
    server.known_hosts.write_text(f"{server.host} {public_line(server.host_key)}\n")
    assert echo_works(address_of(server), options_for(server))
    server.known_hosts.write_text(f"{server.host} {public_line(make_key(tmp_path / 'other'))}\n")
    with pytest.raises(HostKeyRefused, match="not a known host"):
        open_stream(address_of(server), options_for(server))


def test_known_key_type_is_asked_for_when_the_host_has_several(sshd: OpensshServer) -> None:
    ecdsa = make_key(sshd.folder / "ecdsa_key", "ecdsa")
    sshd.configure(f"HostKey {ecdsa}\n")
    sshd.known_hosts.write_text(f"{sshd.name} {public_line(ecdsa)}\n")
    assert echo_works(address_of(sshd), options_for(sshd))
    assert fetch_host_key(address_of(sshd), options_for(sshd))[0] == "ecdsa-sha2-nistp256"


def test_fetch_host_key_says_type_and_fingerprint_when_the_host_is_unknown(server: Server) -> None:
    server.known_hosts.unlink()
    assert fetch_host_key(address_of(server), options_for(server)) == ("ssh-ed25519", server.fingerprint)
    assert server.login_attempts() == 0


def test_accept_host_key_adds_the_line_when_the_fingerprint_is_right(server: Server, tmp_path: Path) -> None:
    fresh = tmp_path / "new" / "folder" / "known_hosts"
    options = options_for(server, known_hosts=fresh)
    assert accept_host_key(address_of(server), options, server.fingerprint) == fresh
    assert fresh.read_text() == server.known_line
    assert fresh.stat().st_mode & 0o777 == 0o600
    assert fresh.parent.stat().st_mode & 0o777 == 0o700
    assert accept_host_key(address_of(server), options, server.fingerprint) == fresh
    assert fresh.read_text() == server.known_line
    assert server.login_attempts() == 0
    assert echo_works(address_of(server), options)


def test_accept_host_key_keeps_what_was_there_when_the_last_line_has_no_end(server: Server) -> None:
    server.known_hosts.write_text("other ssh-ed25519 AAAA")
    accept_host_key(address_of(server), options_for(server), server.fingerprint)
    assert server.known_hosts.read_text() == f"other ssh-ed25519 AAAA\n{server.known_line}"


def test_accept_host_key_lets_the_new_key_in_when_another_was_known(server: Server, tmp_path: Path) -> None:
    server.known_hosts.write_text(f"{server.name} {public_line(make_key(tmp_path / 'other'))}\n")
    accept_host_key(address_of(server), options_for(server), server.fingerprint)
    assert echo_works(address_of(server), options_for(server))


@pytest.mark.parametrize("already_known", [True, False])
def test_accept_host_key_writes_nothing_when_the_fingerprint_is_wrong(
    server: Server, tmp_path: Path, *, already_known: bool
) -> None:
    before = server.known_line if already_known else ""
    server.known_hosts.write_text(before)
    wrong = fingerprint(make_key(tmp_path / "other"))
    with pytest.raises(HostKeyRefused, match="nothing was written"):
        accept_host_key(address_of(server), options_for(server), wrong)
    assert server.known_hosts.read_text() == before


# ---------------------------------------------------------------- logging in


def test_login_is_refused_naming_the_key_when_it_is_not_authorized(server: Server, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    with pytest.raises(LoginRefused) as caught:
        open_stream(address_of(server), options_for(server, identity=stranger))
    assert caught.value.exit_code == 12
    assert f"{server.user}@127.0.0.1:{server.port}" in caught.value.facts
    assert str(stranger) in caught.value.facts
    assert server.login_attempts() == 1
    assert "rollrep source authorize" in caught.value.remedy
    assert f"authorized_keys of {server.user}" in caught.value.remedy


def test_login_is_refused_and_not_temporary_when_the_server_hangs_up_after_many_keys(
    server: Server, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    keys = [make_key(tmp_path / f"key{number}") for number in range(12)]
    config.write_text("".join(f"IdentityFile {key}\n" for key in keys))
    with pytest.raises(LoginRefused, match="ended the connection"):
        open_stream(address_of(server), options_for(server, identity=None, ssh_config=config))


def test_identity_that_does_not_exist_is_a_usage_error_when_it_is_given(server: Server) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_stream(address_of(server), options_for(server, identity=Path("/nowhere/key")))


def test_identity_that_is_no_key_is_a_usage_error_when_it_is_given(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a key")
    with pytest.raises(UsageError, match="can't be used as a key"):
        open_stream(address_of(server), options_for(server, identity=tmp_path / "text"))


def test_encrypted_key_is_refused_with_a_remedy_when_there_is_no_agent(server: Server, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret")
    server.authorize(key=locked)
    with pytest.raises(LoginRefused, match="ssh-add"):
        open_stream(address_of(server), options_for(server, identity=locked))


@pytest.mark.parametrize("given", [True, False])
def test_encrypted_key_logs_in_when_the_agent_holds_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    key = make_key(tmp_path / "key")
    agent_socket = tmp_path / "agent"
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent_socket)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until_exists(agent_socket)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent_socket))
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True, timeout=30)
        subprocess.run(
            ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", str(key)],
            check=True,
            capture_output=True,
            timeout=30,
        )
        server.authorize(key=key)
        assert echo_works(address_of(server), options_for(server, identity=key if given else None))
    finally:
        agent.kill()
        agent.wait()


def until_exists(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("damage", ["expired", "rubbish", "of another key"])
def test_bare_key_logs_in_when_the_certificate_beside_it_is_bad(server: Server, tmp_path: Path, damage: str) -> None:
    certificate = server.client_key.with_name("client_key-cert.pub")
    if damage == "rubbish":
        certificate.write_text("ssh-ed25519-cert-v01@openssh.com &&&\n")
    else:
        signed = server.client_key if damage == "expired" else make_key(tmp_path / "signed")
        authority = make_key(tmp_path / "authority")
        validity = "20200101:20200201" if damage == "expired" else "always:forever"
        subprocess.run(
            ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", server.user, "-V", validity,
             str(public_file(signed))],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        signed.with_name(f"{signed.name}-cert.pub").replace(certificate)
    assert certificate.exists()
    assert echo_works(address_of(server), options_for(server))


def test_certificate_logs_in_when_only_its_authority_is_authorized(sshd: OpensshServer, tmp_path: Path) -> None:
    authority = make_key(tmp_path / "authority")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "x", "-n", sshd.user,
         str(public_file(sshd.client_key))],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    sshd.authorize("cert-authority", key=authority)
    assert echo_works(address_of(sshd), options_for(sshd))


def test_forced_command_runs_when_another_is_asked_for(server: Server) -> None:
    server.authorize('restrict,command="echo forced instead of $SSH_ORIGINAL_COMMAND"')
    stream = open_stream(address_of(server), options_for(server, remote_command="rm -rf it"))
    assert read_all(stream) == b"forced instead of rm -rf it\n"
    stream.close()


# ---------------------------------------------------------------- ssh_config


def test_alias_port_user_and_key_come_from_ssh_config_when_it_includes_another_file(
    server: Server, tmp_path: Path
) -> None:
    included = tmp_path / "more.conf"
    included.write_text(
        f"Host shop-prod\n HostName {server.host}\n Port {server.port}\n User {server.user}\n"
        f" IdentityFile {server.client_key}\n UserKnownHostsFile {server.known_hosts}\n"
    )
    config = tmp_path / "config"
    config.write_text(f"Include {included}\nHost *\n User nobody-at-all\n")
    options = options_for(server, identity=None, known_hosts=None, ssh_config=config)
    assert echo_works(Address("shop", "shop-prod"), options)


def test_address_wins_when_ssh_config_says_otherwise(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host shop-prod\n HostName {server.host}\n Port 1\n User nobody\n IdentityFile /nowhere\n")
    assert echo_works(dataclasses.replace(address_of(server), host="shop-prod"), options_for(server, ssh_config=config))


def test_ssh_config_in_the_home_directory_counts_when_none_is_given(server: Server) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        f"Host shop\n HostName {server.host}\n Port {server.port}\n User {server.user}\n IdentityFile ~/key\n"
    )
    shutil.copy(server.client_key, Path.home() / "key")
    (folder / "known_hosts").write_text(server.known_line)
    options = options_for(server, identity=None, known_hosts=None, ssh_config=None)
    assert echo_works(Address("shop", "shop"), options)


def test_host_key_alias_is_the_name_that_counts_when_ssh_config_has_one(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"Host shop\n HostName {server.host}\n HostKeyAlias the-shop\n")
    server.known_hosts.write_text(f"the-shop {public_line(server.host_key)}\n")
    address = dataclasses.replace(address_of(server), host="shop")
    assert echo_works(address, options_for(server, ssh_config=config))


def test_ssh_config_works_when_there_is_no_ssh_program(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host shop\n HostName {server.host}\n Port {server.port}\n User {server.user}\n"
        f" IdentityFile {server.client_key}\n UserKnownHostsFile {server.known_hosts}\n"
    )
    monkeypatch.setenv("PATH", "")
    options = options_for(server, identity=None, known_hosts=None, ssh_config=config, remote_command="/bin/cat")
    assert echo_works(Address("shop", "shop"), options)


def test_bad_ssh_config_is_a_usage_error_when_ssh_refuses_it(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n NoSuchThing yes\n")
    with pytest.raises(UsageError, match=r"(?i)nosuchthing"):
        open_stream(address_of(server), options_for(server, ssh_config=config))
    with pytest.raises(UsageError, match="does not exist"):
        open_stream(address_of(server), options_for(server, ssh_config=tmp_path / "nowhere"))


def jump_config(sshd: OpensshServer, folder: Path) -> Path:
    config = folder / "config"
    config.write_text(
        f"Host bastion bastion2\n HostName {sshd.host}\n Port {sshd.port}\n User {sshd.user}\n"
        f" IdentityFile {sshd.client_key}\n"
        f"Host inner\n HostName {sshd.host}\n Port {sshd.port}\n ProxyJump bastion\n"
        f"Host deep\n HostName {sshd.host}\n Port {sshd.port}\n ProxyJump bastion,bastion2\n"
        "Host loop\n ProxyJump pool\nHost pool\n ProxyJump loop\n"
    )
    return config


@pytest.mark.parametrize(("alias", "logins"), [("inner", 2), ("deep", 3)])
def test_stream_goes_over_the_jump_hosts_when_ssh_config_names_them(
    sshd: OpensshServer, tmp_path: Path, alias: str, logins: int
) -> None:
    options = options_for(sshd, ssh_config=jump_config(sshd, tmp_path))
    stream = open_stream(Address("shop", alias), options)
    data = os.urandom(3 * MIB)
    writer = threading.Thread(target=stream.write, args=(data,))
    writer.start()
    assert read_exactly(stream, len(data)) == data
    writer.join(10)
    stream.close()
    assert sshd.logins() == logins


def test_jump_host_is_the_one_accepted_when_it_is_the_first_unknown(
    sshd: OpensshServer, embedded_ssh: Server, tmp_path: Path
) -> None:
    config = jump_config(sshd, tmp_path)
    options = options_for(embedded_ssh, ssh_config=config, known_hosts=tmp_path / "known")
    with config.open("a") as more:
        more.write(f"Host shop\n HostName {embedded_ssh.host}\n ProxyJump bastion\n")
    address = dataclasses.replace(address_of(embedded_ssh), host="shop")
    for server in (sshd, embedded_ssh):
        with pytest.raises(HostKeyRefused, match=re.escape(server.fingerprint)):
            open_stream(address, options)
        accept_host_key(address, options, server.fingerprint)
    assert echo_works(address, options)


def test_close_is_quick_when_the_network_to_the_jump_host_is_silent(sshd: OpensshServer, tmp_path: Path) -> None:
    with Proxy(sshd.port) as proxy:
        config = tmp_path / "config"
        config.write_text(
            f"Host bastion\n HostName {sshd.host}\n Port {proxy.port}\n IdentityFile {sshd.client_key}\n"
            f"Host inner\n HostName {sshd.host}\n Port {sshd.port}\n ProxyJump bastion\n"
        )
        sshd.known_hosts.write_text(f"{sshd.host} {public_line(sshd.host_key)}\n")
        stream = open_stream(Address("shop", "inner"), options_for(sshd, ssh_config=config))
        proxy.stall()
        writer = threading.Thread(target=write_until_it_fails, args=(stream,), daemon=True)
        writer.start()
        time.sleep(1)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 2
        writer.join(5)
        assert not writer.is_alive()


def write_until_it_fails(stream: Stream) -> None:
    with contextlib.suppress(Temporary):
        while True:
            stream.write(bytes(MIB))


def test_jump_host_is_refused_by_name_when_it_is_unknown(sshd: OpensshServer, tmp_path: Path) -> None:
    sshd.known_hosts.write_text("")
    options = options_for(sshd, ssh_config=jump_config(sshd, tmp_path))
    with pytest.raises(HostKeyRefused, match="not a known host"):
        open_stream(Address("shop", "inner"), options)
    assert sshd.login_attempts() == 0


def test_jumps_are_a_usage_error_when_they_go_round(sshd: OpensshServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loop"):
        open_stream(Address("shop", "loop"), options_for(sshd, ssh_config=jump_config(sshd, tmp_path)))


def test_jump_is_temporary_when_the_host_behind_it_is_down(sshd: OpensshServer, tmp_path: Path) -> None:
    options = options_for(sshd, ssh_config=jump_config(sshd, tmp_path))
    with pytest.raises(Temporary, match="can't be reached"):
        open_stream(Address("shop", "inner", port=free_port()), options)


RELAY = """
import socket, sys, threading, os
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536): line.sendall(data)
    line.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
sys.stderr.write("x" * 300000)
while data := line.recv(65536): os.write(1, data)
"""


def test_stream_goes_through_the_proxy_command_when_ssh_config_has_one(server: Server, tmp_path: Path) -> None:
    relay, config = tmp_path / "relay.py", tmp_path / "config"
    relay.write_text(RELAY)
    config.write_text(f"Host *\n ProxyCommand {sys.executable} {relay} %h %p\n")
    assert echo_works(address_of(server), options_for(server, ssh_config=config))


def test_proxy_command_is_temporary_when_it_ends_at_once(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n ProxyCommand false\n")
    with pytest.raises(Temporary):
        open_stream(address_of(server), options_for(server, ssh_config=config))


def test_jump_hosts_are_listed_in_order_when_the_way_is_planned(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host shop\n ProxyJump me@a:2201,[::1]:2202\nHost a\n HostName a.example.org\n")
    way = way_to(Address("x", "shop", "you"), Options(ssh_config=config, identity=Path("~/key")))
    assert str(way[0]) == "me@a.example.org:2201"
    assert way[1].host == "::1"
    assert way[2].given_identity == Path.home() / "key"
    assert way[0].given_identity is None


# ---------------------------------------------------------------- the network


def test_connection_is_temporary_when_it_is_refused(server: Server) -> None:
    with pytest.raises(Temporary, match="refused"):
        open_stream(address_of(server, free_port()), options_for(server))


def test_connection_is_temporary_when_the_name_is_unknown(server: Server) -> None:
    with pytest.raises(Temporary, match="can't be reached"):
        open_stream(Address("x", "no-such-host.invalid"), options_for(server))


def test_connection_is_temporary_when_nothing_answers(server: Server) -> None:
    with Proxy(server.port) as proxy:
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(Temporary):
            open_through(server, proxy, connect_timeout_s=0.5)
        assert time.monotonic() - began < 5


def test_connection_is_temporary_when_it_is_cut_anywhere_on_the_way_in(server: Server) -> None:
    with Proxy(server.port) as proxy:
        open_through(server, proxy).close()
        whole = proxy.passed
    for size in range(0, whole * 7 // 8, whole // 20):
        with Proxy(server.port) as proxy:
            proxy.cut_after(size)
            with pytest.raises(Temporary):
                open_through(server, proxy).close()


def open_through(server: Server, proxy: Proxy, **changes: object) -> Stream:
    server.known_hosts.write_text(f"{server.host} {public_line(server.host_key)}\n")
    return open_stream(address_of(server, proxy.port), options_for(server, **changes))


def test_read_is_temporary_when_the_connection_is_cut(server: Server) -> None:
    with Proxy(server.port) as proxy:
        stream = open_through(server, proxy)
        stream.write(b"ping")
        assert read_exactly(stream, 4) == b"ping"
        threading.Timer(0.2, proxy.cut).start()
        with pytest.raises(Temporary, match="lost"):
            stream.read(1)
        with pytest.raises(Temporary):
            stream.write(b"x")
        stream.close()


def test_read_is_temporary_when_the_stream_is_cut_in_the_middle(server: Server) -> None:
    with Proxy(server.port) as proxy:
        stream = open_through(server, proxy, remote_command="cat /dev/zero")
        proxy.cut_after(3 * MIB)
        got = 0
        with pytest.raises(Temporary, match="lost"):
            while data := stream.read(65536):
                got += len(data)
        assert got > 0  # a reset takes with it what the kernel still held
        stream.close()


def test_cipher_is_the_cheap_one_when_both_have_it(sshd: OpensshServer) -> None:
    assert echo_works(address_of(sshd), options_for(sshd))
    assert sshd.says("kex: server->client cipher: aes128-gcm@openssh.com MAC: <implicit>") == 1


def test_cipher_is_another_when_the_host_has_no_such(sshd: OpensshServer) -> None:
    sshd.configure("Ciphers aes256-ctr\n")
    assert echo_works(address_of(sshd), options_for(sshd))


def test_stream_is_whole_when_new_keys_are_agreed_on_amid_it(sshd: OpensshServer) -> None:
    """paramiko asks for new keys after 512 MB, a first copy of a large database is more; sshd asks as it is told."""
    sshd.configure("RekeyLimit 1M\n")
    numbers = "".join(f"{n}\n" for n in range(1, 1_000_001)).encode()
    stream = open_stream(address_of(sshd), options_for(sshd, remote_command="seq 1000000"))
    assert read_exactly(stream, len(numbers)) == numbers
    stream.close()
    assert sshd.says("SSH2_MSG_NEWKEYS sent") >= 4


def test_read_is_temporary_when_a_bit_was_flipped_on_the_way(server: Server) -> None:
    with Proxy(server.port) as proxy:
        stream = open_through(server, proxy, remote_command="cat /dev/zero")
        assert stream.read(1) == bytes(1)
        proxy.spoil()
        with pytest.raises(Temporary, match="lost"):
            while data := stream.read(65536):
                assert not data.strip(bytes(1))
        stream.close()


def test_read_and_write_are_temporary_when_the_network_goes_silent(server: Server) -> None:
    with Proxy(server.port) as proxy:
        stream = open_through(server, proxy, stall_timeout_s=0.5)
        stream.write(b"ping")
        assert read_exactly(stream, 4) == b"ping"
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(Temporary, match=r"nothing arrived from .* for 0\.5 s"):
            stream.read(1)
        with pytest.raises(Temporary):
            stream.write(bytes(64 * MIB))
        stream.close()
        assert time.monotonic() - began < 8


def test_write_is_temporary_when_the_window_is_open_and_the_network_goes_silent(
    embedded_ssh: EmbeddedServer,
) -> None:
    # More than all socket buffers hold: what stops us is the socket and not the window.
    embedded_ssh.window_bytes = 1 << 30
    with Proxy(embedded_ssh.port) as proxy:
        stream = open_through(embedded_ssh, proxy, stall_timeout_s=0.5)
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(Temporary):
            stream.write(bytes(128 * MIB))
        stream.close()
        assert time.monotonic() - began < 10


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://h/a.b-c_d", Address("a.b-c_d", "h")),
        ("ssh://u@h:22/x", Address("x", "h", "u", 22)),
        ("ssh://a@corp.org@h/x", Address("x", "h", "a@corp.org")),
        ("ssh://u@[::1]:2222//a b/c.db", Address("/a b/c.db", "::1", "u", 2222)),
        ("local:/srv/../x.db", Address("/srv/../x.db")),
    ],
)
def test_address_is_read_when_it_is_good(text: str, address: Address) -> None:
    assert parse_address(text) == address


def test_address_is_absolute_when_a_local_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_address("local:app.db").database == str(tmp_path.resolve() / "app.db")
    assert parse_address("local:~/app.db").database == str(Path.home() / "app.db")


@pytest.mark.parametrize(
    "text",
    [
        "", "shop", "/srv/app.db", "host:/srv/app.db", "http://h/x", "ssh://", "ssh://h", "ssh://h/", "ssh:///x",
        "ssh://h//", "ssh://h/a/b", "ssh://h/a b", "ssh://-oProxyCommand=x/a", "ssh://-u@h/a", "ssh://u:pw@h/x",
        "ssh://h:0/x", "ssh://h:65536/x", "ssh://h:x/x", "ssh://::1/x", "ssh://[::1/x", "ssh://h//a\nb",
        "local:",        "local:/srv/",
    ],
)  # fmt: skip
def test_address_is_a_usage_error_with_a_remedy_when_it_is_bad(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.remedy
    assert "pw" not in str(caught.value)
