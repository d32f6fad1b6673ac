"""What a column's declared type says of the values in it, and what it does not.

    affinity is a wish (https://www.sqlite.org/datatype3.html, 3): INTEGER, REAL and NUMERIC keep a text that is no
    number, and every blob.  So no type but a STRICT table's promises that values are short.

Pure.  Knows: SQLite's rules of affinity.
"""

from __future__ import annotations


def is_often_long(declared: str) -> bool:
    """Whether to count the bytes of every value; of the others only where one is a text or a blob.

    To turn a number into text to measure it costs more than the log row (a REAL about a microsecond).

    >>> [is_often_long(text) for text in ("VARCHAR(9)", "", "DATE", "INT", "BOOLEAN", "POINT")]
    [True, True, True, False, False, False]
    """
    upper = declared.upper()
    if "INT" in upper:
        return False
    return any(word in upper for word in ("CHAR", "CLOB", "TEXT", "BLOB")) or not any(
        word in upper for word in ("REAL", "FLOA", "DOUB", "BOOL")
    )


def is_loose(declared: str) -> bool:
    """Whether values that are equal may still differ in storage class: 1 and 1.0.

    Affinity makes one storage class of all numbers only where it is TEXT or REAL (the same page, 3.1 and 3.4).

    >>> [is_loose(text) for text in ("INT", "NUMERIC", "TEXT", "REAL")]
    [True, True, False, False]
    """
    upper = declared.upper()
    text = any(word in upper for word in ("CHAR", "CLOB", "TEXT"))
    real = any(word in upper for word in ("REAL", "FLOA", "DOUB")) and "BLOB" not in upper
    return "INT" in upper or not (text or real)
