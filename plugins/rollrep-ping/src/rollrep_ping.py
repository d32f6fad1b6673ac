"""Pings a dead-man's switch after each pull, so that silence is heard.

    pull starts   GET  URL/start
    went well     GET  URL
    failed        POST URL/fail   the error's text

    one ping, at most ROLLREP_PING_TIMEOUT seconds
    ├── try ──── wait ──┬── try ─── wait ──┬── try ──────┤  then the pull goes on, whatever happened

A ping runs in a thread that is left behind at the deadline: the timeouts of sockets bound neither the look-up
of a name nor an answer that comes a byte at a time.  Never raises.

Knows: environment, urllib, tenacity, the three hooks' names.  Does not know: rollrep's code.
"""

from __future__ import annotations

import http.client
import logging
import math
import os
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

import pluggy
import tenacity

TRIES = 3
DEFAULT_TIMEOUT_S = 5.0
LONGEST_BODY = 10_000
"""Bytes of an error's text; healthchecks.io keeps 100 kB, others less."""

hookimpl = pluggy.HookimplMarker("rollrep")
_log = logging.getLogger(__name__)


@hookimpl
def rollrep_pull_started(job: str) -> None:
    ping(job, "/start")


@hookimpl
def rollrep_pulled(job: str, result: Mapping[str, object]) -> None:
    error = result.get("error")
    if error is None:
        ping(job)
    else:
        ping(job, "/fail", str(error))


def ping(job: str, suffix: str = "", text: str | None = None) -> bool:
    """True when the address in ROLLREP_PING_URL took it.  Returns within ROLLREP_PING_TIMEOUT seconds."""
    template = os.environ.get("ROLLREP_PING_URL", "").strip()
    if not template:
        return False
    timeout_s = _timeout_s(os.environ.get("ROLLREP_PING_TIMEOUT", "").strip())
    until = time.monotonic() + timeout_s
    taken = threading.Event()

    def work() -> None:
        try:
            _send(_address(template, job, suffix), text, until)
            taken.set()
        except Exception as error:  # a dead-man's switch must not be what kills
            _log.warning("the ping of %s could not be delivered to %s: %s", job, _host(template), error)

    thread = threading.Thread(target=work, daemon=True, name="rollrep-ping")
    try:
        thread.start()
    except RuntimeError as error:  # no more threads
        _log.warning("the ping of %s could not be delivered to %s: %s", job, _host(template), error)
        return False
    thread.join(timeout_s)
    if thread.is_alive():
        _log.warning("the ping of %s to %s took longer than %g s", job, _host(template), timeout_s)
    return taken.is_set()


def is_temporary(error: BaseException) -> bool:
    """True when the same request may go well a moment later.

    >>> is_temporary(urllib.error.HTTPError("", 503, "", http.client.HTTPMessage(), None))
    True
    >>> is_temporary(urllib.error.HTTPError("", 404, "", http.client.HTTPMessage(), None))
    False
    >>> is_temporary(urllib.error.URLError(TimeoutError())), is_temporary(ConnectionResetError())
    (True, True)
    """
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return False
    return isinstance(cause, OSError | http.client.HTTPException)


def _send(url: str, text: str | None, until: float) -> None:
    """Sends until it is taken; raises the last error.  A try may use half of the time left, the last all."""
    data = None if text is None else text.encode(errors="replace")[:LONGEST_BODY]
    headers = {"User-Agent": "rollrep-ping"} | ({} if data is None else {"Content-Type": "text/plain; charset=utf-8"})
    request = urllib.request.Request(url, data=data, headers=headers)
    opener = _opener()
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_before_delay(until - time.monotonic()),
        wait=tenacity.wait_exponential(multiplier=0.1, max=1.0) + tenacity.wait_random(0, 0.1),
        retry=tenacity.retry_if_exception(is_temporary),
        reraise=True,
    ):
        with attempt:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no time is left for another try")
            timeout_s = left_s if attempt.retry_state.attempt_number == TRIES else left_s / 2
            with opener.open(request, timeout=timeout_s) as answer:
                answer.read(LONGEST_BODY)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only, also after a redirect; the usual one would follow to ftp and open files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _address(template: str, job: str, suffix: str) -> str:
    """The URL to ask for; what follows a `?` stays last.

    >>> _address("https://hc-ping.com/KEY/{job}?create=1", "till 2", "/fail")
    'https://hc-ping.com/KEY/till%202/fail?create=1'
    """
    if not template.isascii() or any(letter <= " " for letter in template):
        raise ValueError("ROLLREP_PING_URL has letters that no address has")  # http.client would quote it all
    parts = urllib.parse.urlsplit(template.replace("{job}", urllib.parse.quote(job, safe="")))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("ROLLREP_PING_URL is not an http or https address")
    path = parts.path.rstrip("/") + suffix if suffix else parts.path
    return parts._replace(path=path, fragment="").geturl()


def _host(template: str) -> str:
    """What may be logged of an address: its path is its password."""
    try:
        return urllib.parse.urlsplit(template).hostname or "nowhere"
    except ValueError:
        return "nowhere"


def _timeout_s(text: str) -> float:
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT_S
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        _log.warning("ROLLREP_PING_TIMEOUT is not a number of seconds; %g is used", DEFAULT_TIMEOUT_S)
        return DEFAULT_TIMEOUT_S
    return seconds
