"""Quoting, the only way a name or a text enters SQL that we write; and expressions that several rooms write.

Knows: SQLite's lexical rules (https://www.sqlite.org/lang_keywords.html).
"""

from __future__ import annotations

import re
import string
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


_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def fold(identifier: str) -> str:
    """Equal for names that SQLite takes for one: the case of ASCII's letters alone counts for nothing.

    >>> fold("Straße"), fold("STRASSE"), fold("É")
    ('straße', 'strasse', 'É')
    """
    return identifier.translate(_SMALL)


_LEXEMES = re.compile(
    r"""(?P<kept>'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])"""
    r""" | (?P<line>--[^\n]*(?P<over>\n)?) | (?P<block>/\*(?s:.*?)(?P<closed>\*/|\Z))""",
    re.VERBOSE,
)


def without_comments(statement: str) -> str:
    """Somebody's SQL, to be a part of ours: a comment in it would hide what follows.

    >>> without_comments("a > 0 -- alive"), without_comments("b = '/*' /* open")
    ('a > 0  ', "b = '/*'  ")
    """
    return _LEXEMES.sub(lambda found: found["kept"] or " ", statement)


def count_statements(script: str) -> int:
    """How many statements somebody's SQL is; a trigger's body counts as several.

    >>> [count_statements(each) for each in ("SELECT ';' -- ; one", "SELECT 1; SELECT 2;", "/* none */;")]
    [1, 2, 0]
    """
    bare = _LEXEMES.sub(lambda found: "x" if found["kept"] else " ", script)
    return sum(not part.isspace() and part != "" for part in bare.split(";"))


def ended(statement: str) -> str:
    """Somebody's statement with its semicolon, which no comment hides: SQLite takes one that is open at the end.

    >>> ended("CREATE VIEW v AS SELECT 1 /* open"), ended("CREATE VIEW v AS SELECT '--'")
    ('CREATE VIEW v AS SELECT 1 /* open*/;', "CREATE VIEW v AS SELECT '--';")
    >>> ended("CREATE VIEW v AS SELECT 1 -- one")
    'CREATE VIEW v AS SELECT 1 -- one\\n;'
    """
    found = [*_LEXEMES.finditer(statement)]
    last = found[-1] if found else None
    if last is None or last.end() < len(statement) or last["kept"]:
        return f"{statement};"
    if last["block"]:
        return f"{statement};" if last["closed"] else f"{statement}*/;"
    return f"{statement};" if last["over"] else f"{statement}\n;"


TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | [\w$\x80-\U0010ffff]+ | [^\s\w]""",
    re.VERBOSE | re.DOTALL,
)


def tokens_of(statement: str) -> list[str]:
    """The words and signs of somebody's SQL; a quoted name is one with its quotes."""
    return TOKEN.findall(without_comments(statement))


def words_of(statement: str) -> list[str]:
    """The same, folded, as the names they may be.

    >>> words_of('INTO "A b"(c)')
    ['into', 'a b', '(', 'c', ')']
    """
    return [fold(unquoted(token)) for token in tokens_of(statement)]


def unquoted(token: str) -> str:
    """The name that a token is, quoted or not."""
    if len(token) > 1 and token[0] in "'\"`[":
        return token[1:-1].replace(token[-1] * 2, token[-1])
    return token


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
        term if fold(mine) == fold(other) else f"{term} COLLATE {collation(other)}"
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
