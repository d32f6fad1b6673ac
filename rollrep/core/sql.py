"""Quoting, the only way a name or a text enters SQL that we write; and expressions that several rooms write.

Knows: SQLite's lexical rules (https://www.sqlite.org/lang_keywords.html).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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


def collation(identifier: str) -> str:
    """`identifier` as the name of a collation, bare where it is a word.

    >>> collation("NOCASE"), collation("de AT")
    ('NOCASE', '"de AT"')
    """
    return identifier if identifier.isidentifier() else name(identifier)


def collated(terms: Iterable[str], own: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """`terms`, each with the collation that is wanted where its own is another.

    >>> collated(["a", "b"], ["BINARY", "nocase"], ["RTRIM", "NOCASE"])
    ['a COLLATE RTRIM', 'b']
    """
    return [
        term if mine.casefold() == other.casefold() else f"{term} COLLATE {collation(other)}"
        for term, mine, other in zip(terms, own, wanted, strict=True)
    ]


def differs(mine: str, other: str) -> str:
    """SQL that is true unless two values are the same to the storage class; of two real zeros it is true as well.

    `IS NOT` alone finds 1 equal to 1.0, -0.0 to 0.0, and 'a' to 'A' under NOCASE.
    """
    return (
        f"({mine} COLLATE BINARY IS NOT {other} OR typeof({mine}) <> typeof({other})"
        f" OR (typeof({other}) = 'real' AND {other} = 0.0))"
    )


def balanced(terms: Sequence[str], operator: str) -> str:
    """`terms` joined by an associative operator; SQLite's expression trees may be 1,000 deep and tables 2,000 wide.

    >>> balanced(["a", "b"], "+"), balanced(list("abcdefghi"), "+")
    ('a+b', '(a+b+c+d)+(e+f+g+h+i)')
    """
    if len(terms) <= 8:
        return operator.join(terms)
    middle = len(terms) // 2
    return f"({balanced(terms[:middle], operator)}){operator}({balanced(terms[middle:], operator)})"
