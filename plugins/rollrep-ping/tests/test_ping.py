"""The ping, against a real HTTP server that can refuse, hang and fail."""

from __future__ import annotations

import contextlib
import http.server
import importlib.metadata
import logging
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pluggy
import pytest

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "src"))

import rollrep_ping  # noqa: E402

HANG = 0
DRIP = 1


class Switch(http.server.ThreadingHTTPServer):
    """Answers with the statuses it was given, then 200; HANG and DRIP are answers too."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.seen: list[tuple[str, str, str]] = []
        self.location = ""
        self.stop = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/uuid"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Switch

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.seen.append((self.command, self.path, body))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == HANG:
            self.server.stop.wait(20)
            return
        if answer == DRIP:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            while not self.server.stop.wait(0.05):
                with contextlib.suppress(OSError):
                    self.wfile.write(b"X: y\r\n")
            return
        self.send_response(answer)
        if 300 <= answer < 400:
            self.send_header("Location", self.server.location)
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Switch]:
    for name in ("http_proxy", "HTTP_PROXY", "ROLLREP_PING_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    with Switch() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("ROLLREP_PING_URL", server.url)
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()


def test_entry_point_is_the_plugin_when_it_is_loaded_by_its_declared_name() -> None:
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert list(declared) == ["rollrep"]
    ((name, value),) = declared["rollrep"].items()
    entry = importlib.metadata.EntryPoint(name=name, value=value, group="rollrep")
    assert entry.load() is rollrep_ping


def test_hooks_fit_rollreps_own_when_the_plugin_is_registered(switch: Switch) -> None:
    hooks = pytest.importorskip("rollrep.hooks")
    manager = pluggy.PluginManager(hooks.GROUP)
    manager.add_hookspecs(hooks.Hooks)
    manager.register(rollrep_ping)
    manager.check_pending()
    hooks.call_safely(manager.hook.rollrep_pull_started, job="shop")
    hooks.call_safely(manager.hook.rollrep_pulled, job="shop", result={"error": None, "rows": 3})
    hooks.call_safely(manager.hook.rollrep_pulled, job="shop", result={"error": "the disk is full; größer!"})
    assert switch.seen == [
        ("GET", "/uuid/start", ""),
        ("GET", "/uuid", ""),
        ("POST", "/uuid/fail", "the disk is full; größer!"),
    ]


def test_job_is_in_the_address_when_the_placeholder_is(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLREP_PING_URL", f"{switch.url}/{{job}}/?create=1")
    assert rollrep_ping.ping("till 2/b", "/start")
    assert switch.seen == [("GET", "/uuid/till%202%2Fb/start?create=1", "")]


def test_ping_is_tried_again_when_the_server_fails_for_a_moment(switch: Switch) -> None:
    switch.answers = [500, 503]
    assert rollrep_ping.ping("shop")
    assert len(switch.seen) == 3


def test_ping_is_given_up_and_logged_when_the_server_fails_three_times(
    switch: Switch, caplog: pytest.LogCaptureFixture
) -> None:
    switch.answers = [500, 500, 500, 500]
    assert not rollrep_ping.ping("shop")
    assert len(switch.seen) == 3
    assert "the ping of shop could not be delivered to 127.0.0.1: HTTP Error 500" in caplog.text
    assert "uuid" not in caplog.text


def test_ping_is_not_tried_again_when_the_address_is_wrong(switch: Switch) -> None:
    switch.answers = [404]
    assert not rollrep_ping.ping("shop")
    assert len(switch.seen) == 1


def test_ping_is_delivered_when_only_the_first_try_hangs(switch: Switch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLREP_PING_TIMEOUT", "2")
    switch.answers = [HANG]
    assert rollrep_ping.ping("shop")
    assert len(switch.seen) == 2


@pytest.mark.parametrize("answer", [HANG, DRIP])
def test_pull_is_not_held_longer_than_said_when_the_server_hangs(
    switch: Switch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: int
) -> None:
    monkeypatch.setenv("ROLLREP_PING_TIMEOUT", "0.5")
    switch.answers = [answer] * 5
    begin = time.monotonic()
    rollrep_ping.rollrep_pulled(job="shop", result={"error": None})
    assert time.monotonic() - begin < 1.0
    switch.stop.set()
    wait_for_pings()
    assert "the ping of shop" in caplog.text
    assert len(switch.seen) <= 3


def wait_for_pings() -> None:
    for thread in threading.enumerate():
        if thread.name == "rollrep-ping":
            thread.join(5)


def test_nothing_is_raised_when_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ROLLREP_PING_URL", f"http://127.0.0.1:{unused.getsockname()[1]}/secret")
        rollrep_ping.rollrep_pull_started(job="shop")
    assert "could not be delivered to 127.0.0.1" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "hc-ping.com/uuid",
        "http://",
        "http://[x",
        "http://127.0.0.1/a secret",
    ],
)
def test_ping_is_refused_with_a_warning_when_the_address_is_not_http(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    monkeypatch.setenv("ROLLREP_PING_URL", url)
    assert not rollrep_ping.ping("shop")
    assert "could not be delivered" in caplog.text
    assert "secret" not in caplog.text


def test_redirect_is_followed_only_when_it_leads_to_http(
    switch: Switch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    switch.answers, switch.location = [302], "/elsewhere"
    assert rollrep_ping.ping("shop")
    assert [path for _, path, _ in switch.seen] == ["/uuid", "/elsewhere"]
    for location in (tmp_path.as_uri(), "ftp://127.0.0.1/x"):
        switch.answers, switch.location = [302], location
        assert not rollrep_ping.ping("shop")


def test_nothing_happens_when_no_address_is_configured(
    switch: Switch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("ROLLREP_PING_URL")
    rollrep_ping.rollrep_pulled(job="shop", result={"error": "x"})
    assert switch.seen == []
    assert caplog.text == ""


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_default_timeout_is_used_with_a_warning_when_the_configured_one_is_none(
    switch: Switch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    monkeypatch.setenv("ROLLREP_PING_TIMEOUT", text)
    with caplog.at_level(logging.WARNING):
        assert rollrep_ping.ping("shop")
    assert "ROLLREP_PING_TIMEOUT is not a number of seconds; 5 is used" in caplog.text


def test_body_is_cut_when_the_error_is_very_long(switch: Switch) -> None:
    assert rollrep_ping.ping("shop", "/fail", "x" * 50_000)
    assert len(switch.seen[0][2]) == rollrep_ping.LONGEST_BODY
