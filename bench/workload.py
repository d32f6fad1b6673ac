"""The table, its rows and what an application does with them: random, and the same for the same seed.

    id       the key, ascending                          integer
    email    "tarivokune48213@mail.example", UNIQUE      5 of 80 syllables, 5 digits, one of 8 domains
    token    40 hex digits                               160 random bits
    note     4 of 400 words                              about 27 characters
    balance  below 10**9, indexed                        integer
    seen     a second of some three years, indexed       integer
    score    [0, 1)                                      53 random bits

A row is about 120 bytes as SQLite stores it, and holds about 45 bytes of information that no
compressor can take away.

Pure: seeds in, statements out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

SCHEMA = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY, email TEXT UNIQUE, token TEXT, note TEXT, balance INTEGER,"
    " seen INTEGER, score REAL)",
    "CREATE INDEX account_balance ON account(balance)",
    "CREATE INDEX account_seen ON account(seen)",
)
JSON_LOG = (
    "CREATE TABLE json_log(id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, op TEXT, body TEXT)",
    *(
        f"CREATE TRIGGER json_{event} AFTER {event} ON account BEGIN INSERT INTO json_log(at, op, body)"
        f" VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), '{event}', json_object('id', new.id, 'email', new.email,"
        " 'token', new.token, 'note', new.note, 'balance', new.balance, 'seen', new.seen, 'score', new.score)); END"
        for event in ("INSERT", "UPDATE")
    ),
    "CREATE TRIGGER json_DELETE AFTER DELETE ON account BEGIN INSERT INTO json_log(at, op, body)"
    " VALUES (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'DELETE', json_object('id', old.id)); END",
)
"""the log that one would write oneself: no pruning, nothing about REPLACE, nothing about types"""

PREFILLED = 100_000
INSERT = "INSERT INTO account(id, email, token, note, balance, seen, score) VALUES (?, ?, ?, ?, ?, ?, ?)"
UPDATE = "UPDATE account SET note = ?, balance = ? WHERE id = ?"
DELETE = "DELETE FROM account WHERE id = ?"

Statement = tuple[str, tuple[object, ...]]

_SYLLABLES = [c + v for c in "bdfghjklmnprstvz" for v in "aeiou"]
_DOMAINS = ("mail.example", "post.example", "example.org", "example.net", "example.com", "a.example", "uni.example",
            "shop.example")  # fmt: skip
_fixed = random.Random(1)
_WORDS = ["".join(_fixed.choices(_SYLLABLES, k=_fixed.choice((2, 3, 4)))) for _ in range(400)]


def row(rng: random.Random, key: int) -> tuple[object, ...]:
    email = f"{''.join(rng.choices(_SYLLABLES, k=5))}{rng.randrange(100_000):05d}@{rng.choice(_DOMAINS)}"
    seen = 1_700_000_000 + rng.randrange(100_000_000)
    return key, email, f"{rng.getrandbits(160):040x}", _note(rng), rng.randrange(10**9), seen, rng.random()


def rows(count: int, *, seed: int, first: int = 1) -> list[tuple[object, ...]]:
    rng = random.Random(seed)
    return [row(rng, first + n) for n in range(count)]


def inserts(count: int, *, seed: int, first: int = PREFILLED + 1) -> list[Statement]:
    return [(INSERT, values) for values in rows(count, seed=seed, first=first)]


def updates(count: int, *, seed: int) -> list[Statement]:
    """Two columns, one of them indexed, of a random row that was there from the start."""
    rng = random.Random(seed)
    return [(UPDATE, (_note(rng), rng.randrange(10**9), 1 + rng.randrange(PREFILLED))) for _ in range(count)]


def mix(count: int, *, seed: int, first: int = PREFILLED + 1) -> list[Statement]:
    """60 % inserts, 30 % updates and 10 % deletes of a random live row."""
    rng = random.Random(seed)
    live = list(range(1, first))
    made: list[Statement] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.6:
            made.append((INSERT, row(rng, first)))
            live.append(first)
            first += 1
            continue
        at = rng.randrange(len(live))
        if kind < 0.9:
            made.append((UPDATE, (_note(rng), rng.randrange(10**9), live[at])))
        else:
            made.append((DELETE, (live[at],)))
            live[at] = live[-1]
            live.pop()
    return made


KINDS = {"insert": inserts, "update": updates, "mix": mix}


def stored_bytes(values: Iterable[object]) -> int:
    """What a row's values take in SQLite's record format, without its header.

    >>> stored_bytes((1, "ab", 0.5, 70_000))
    14
    """
    total = 0
    for value in values:
        if isinstance(value, str):
            total += len(value.encode())
        elif isinstance(value, float):
            total += 8
        elif isinstance(value, int):
            total += next(size for size in (1, 2, 3, 4, 6, 8) if value < 1 << (8 * size - 1))
    return total


def information_bytes() -> float:
    """The information of a new row, in bytes: what is left when everything predictable is taken away."""
    bits = 5 * math.log2(len(_SYLLABLES)) + math.log2(100_000) + math.log2(len(_DOMAINS))
    bits += 160 + 4 * math.log2(len(_WORDS)) + math.log2(10**9) + math.log2(10**8) + 53
    return bits / 8


def mean_row_bytes(sample: Sequence[tuple[object, ...]]) -> float:
    return sum(stored_bytes(values) + len(values) + 1 for values in sample) / len(sample)


def _note(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=4))
