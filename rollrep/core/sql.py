"""Quoting, the only way a name or a text enters SQL that we write.

Knows: SQLite's lexical rules (https://www.sqlite.org/lang_keywords.html).
"""

from __future__ import annotations

from collections.abc import Iterable


def name(identifier: str) -> str:
    """`identifier` as SQL, whatever it holds.

    >>> print(name('order'), name('an "odd" one'))
    "order" "an ""odd"" one"
    """
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """`value` as an SQL string literal.

    >>> text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


def names(identifiers: Iterable[str], prefix: str = "") -> str:
    """A comma list of quoted names, each after `prefix`.

    >>> names(["a", "b"], "t.")
    't."a", t."b"'
    """
    return ", ".join(prefix + name(each) for each in identifiers)
