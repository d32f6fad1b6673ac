"""The tables, their rows and what an application does with them: random, and the same for the same seed.

    account, which every benchmark uses; 100,000 rows stand in it from the start
    id       the key, ascending                          integer
    email    "tarivokune48213@mail.example", UNIQUE      5 of 80 syllables, 5 digits, one of 8 domains
    token    40 hex digits                               160 random bits
    note     4 of 400 words                              about 27 characters
    balance  below 10**9, indexed                        integer
    seen     a second of some three years, indexed       integer
    score    [0, 1)                                      53 random bits

    item, for `wire` alone; empty at the start, no index
    id       the key, ascending                          integer
    token    40 hex digits                               160 random bits
    body     8 of 400 words                              about 55 characters
    amount   below 10**9                                 integer
    price    [0, 1)                                      53 random bits

A row of either is about 120 bytes as SQLite stores it.  An account holds about 44 bytes of information
that no compressor can take away, an item about 39.

Pure: seeds in, statements out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

SCHEMA = (
    "CREATE TABLE account(id INTEGER PRIMARY KEY, email TEXT UNIQUE, token TEXT, note TEXT, balance INTEGER,"
    " seen INTEGER, score REAL)",
    "CREATE INDEX account_balance ON account(balance)",
    "CREATE INDEX account_seen ON account(seen)",
    "CREATE TABLE item(id INTEGER PRIMARY KEY, token TEXT, body TEXT, amount INTEGER, price REAL)",
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
Values = tuple[object, ...]

_SYLLABLES = [c + v for c in "bdfghjklmnprstvz" for v in "aeiou"]
_DOMAINS = ("mail.example", "post.example", "example.org", "example.net", "example.com", "a.example", "uni.example",
            "shop.example")  # fmt: skip
_fixed = random.Random(1)
_WORDS = ["".join(_fixed.choices(_SYLLABLES, k=_fixed.choice((2, 3, 4)))) for _ in range(400)]


def account(rng: random.Random, key: int) -> Values:
    email = f"{''.join(rng.choices(_SYLLABLES, k=5))}{rng.randrange(100_000):05d}@{rng.choice(_DOMAINS)}"
    seen = 1_700_000_000 + rng.randrange(100_000_000)
    return key, email, f"{rng.getrandbits(160):040x}", _words(rng, 4), rng.randrange(10**9), seen, rng.random()


def item(rng: random.Random, key: int) -> Values:
    return key, f"{rng.getrandbits(160):040x}", _words(rng, 8), rng.randrange(10**9), rng.random()


def accounts(count: int, *, seed: int, first: int = 1) -> list[Values]:
    rng = random.Random(seed)
    return [account(rng, first + n) for n in range(count)]


def inserts(count: int, *, seed: int) -> list[Statement]:
    return [(INSERT, values) for values in accounts(count, seed=seed, first=PREFILLED + 1)]


def updates(count: int, *, seed: int, rows: int = PREFILLED) -> list[Statement]:
    """Two columns, one of them indexed, of a random row of the `rows` that were there from the start."""
    rng = random.Random(seed)
    return [(UPDATE, (_words(rng, 4), rng.randrange(10**9), 1 + rng.randrange(rows))) for _ in range(count)]


def mix(count: int, *, seed: int) -> list[Statement]:
    """60 % inserts, 30 % updates and 10 % deletes of a random live account."""
    rng = random.Random(seed)

    def change(key: int) -> Values:
        return _words(rng, 4), rng.randrange(10**9), key

    return _mixed(rng, count, PREFILLED + 1, (INSERT, UPDATE, DELETE), account, change)


def items(count: int, *, seed: int) -> list[Statement]:
    """The same of items."""
    rng = random.Random(seed)

    def change(key: int) -> Values:
        return _words(rng, 8), rng.randrange(10**9), key

    verbs = (
        "INSERT INTO item(id, token, body, amount, price) VALUES (?, ?, ?, ?, ?)",
        "UPDATE item SET body = ?, amount = ? WHERE id = ?",
        "DELETE FROM item WHERE id = ?",
    )
    return _mixed(rng, count, 1, verbs, item, change)


KINDS = {"insert": inserts, "update": updates, "mix": mix, "items": items}


def _mixed(
    rng: random.Random,
    count: int,
    first: int,
    verbs: tuple[str, str, str],
    new: Callable[[random.Random, int], Values],
    change: Callable[[int], Values],
) -> list[Statement]:
    insert, update, delete = verbs
    live = list(range(1, first))
    made: list[Statement] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.6 or not live:
            made.append((insert, new(rng, first)))
            live.append(first)
            first += 1
            continue
        at = rng.randrange(len(live))
        if kind < 0.9:
            made.append((update, change(live[at])))
        else:
            made.append((delete, (live[at],)))
            live[at] = live[-1]
            live.pop()
    return made


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


def information_bytes() -> tuple[float, float]:
    """The information of a new account and of a new item: what is left when all that is predictable is taken away."""
    word, token, below = math.log2(len(_WORDS)), 160, math.log2(10**9)
    email = 5 * math.log2(len(_SYLLABLES)) + math.log2(100_000) + math.log2(len(_DOMAINS))
    of_account = email + token + 4 * word + below + math.log2(10**8) + 53
    return of_account / 8, (token + 8 * word + below + 53) / 8


def mean_row_bytes(sample: Sequence[Values]) -> float:
    return sum(stored_bytes(values) + len(values) + 1 for values in sample) / len(sample)


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(_WORDS, k=count))
