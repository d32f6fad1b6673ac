"""The limit on what is received, counted against a clock that the test moves: no test here waits."""

from __future__ import annotations

import random
from pathlib import Path

import oracle
import pytest
from pair import Pair
from sources import InProcess
from test_cli import Place

from rollrep.destination.pull import Wishes, pull
from rollrep.source.tables import Limits
from rollrep.transport import Address, Options, Stream, open_stream, ssh
from rollrep.transport.paced import PIECE_S, WINDOW_S, PacedStream
from rollrep.wire.session import Session


class Clock:
    """Only sleeping, and what the test adds, lets time pass."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def pace(self, stream: object, rate: int) -> PacedStream:
        return PacedStream(stream, rate, self.monotonic_s, self.sleep)  # type: ignore[arg-type]


class Endless:
    """As much as is asked for at most, in pieces of any size."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def read(self, limit: int) -> bytes:
        return bytes(self._rng.randint(1, limit))


@pytest.mark.parametrize("rate", [1, 700, 2_000_000, 10**9])
def test_no_stretch_of_time_receives_more_than_the_rate_when_reads_and_silences_are_of_any_length(rate: int) -> None:
    rng, clock = random.Random(rate), Clock()
    stream = clock.pace(Endless(rng), rate)
    seen: list[tuple[float, int]] = []
    busy_s = 0.0
    for _ in range(400):
        if rng.random() < 0.2:
            clock.now_s += rng.uniform(0, 3)
        before_s = clock.now_s
        size = len(stream.read(rng.choice([1, 100, 256 << 10])))
        busy_s += clock.now_s - before_s
        seen.append((clock.now_s, size))
    piece = max(1, rate * PIECE_S)
    for first in range(len(seen)):
        size = 0
        for at_s, more in seen[first:]:
            size += more
            assert size <= rate * (at_s - seen[first][0]) + piece * 1.0001
    assert busy_s <= sum(size for _, size in seen) / rate, "it waits no longer than the rate asks for"


def test_mirror_is_the_source_and_takes_the_time_it_must_when_the_link_is_slow(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.create("CREATE TABLE note(id INTEGER PRIMARY KEY, body)", Limits())
    pair.do(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 900) INSERT INTO note SELECT i, hex(randomblob(90)) FROM c"
    )
    clock, inner = Clock(), InProcess()
    pair.store.create()
    try:
        talk = Session(clock.pace(inner, 2_000), "the source")
        with pair.store.locked():
            pull(pair.store, talk, Wishes(str(pair.path)), lambda _table, _rows: None)
    finally:
        inner.close()
    oracle.assert_same(pair.path, pair.store.mirror)
    assert talk.bytes_received > 50_000
    assert clock.now_s - 1_000 == pytest.approx(talk.bytes_received / 2_000, abs=2 * PIECE_S)


def test_little_lies_on_the_way_over_ssh_when_the_rate_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not read waits in SSH's window: a whole one of 8 MiB would be received at once."""
    asked: list[Options] = []

    def open_ssh(_address: Address, options: Options) -> Stream:
        asked.append(options)
        return InProcess()

    monkeypatch.setattr(ssh, "open_ssh", open_ssh)
    for rate in (100_000, 1 << 30, None):
        open_stream(Address("x", "host"), Options(bandwidth=rate)).close()
    assert [each.window_bytes for each in asked] == [100_000 * WINDOW_S, 8 << 20, 8 << 20]


def test_check_and_status_tell_the_limit_when_the_job_has_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.configure(f'[jobs.shop]\nsource = "local:{place.db}"\nbandwidth = "40MB/s"\n')
    place.pulled()
    said = "receives at most 40 MB/s"
    assert said in place.good("check").stdout and said in place.good("status").stdout
    assert place.told("status")["jobs"][0]["bandwidth"] == 40_000_000
