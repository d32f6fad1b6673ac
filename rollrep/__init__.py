"""rollrep replicates SQLite databases between machines over plain SSH, and takes them back in time.

Importing this package loads nothing but the standard library, so an application may import it for
`rollrep.point` without a second SQLite library entering its process
(https://www.sqlite.org/howtocorrupt.html, 2.2.1).
"""

from rollrep.app import point

__all__ = ["__version__", "point"]
__version__ = "0.1.0"
