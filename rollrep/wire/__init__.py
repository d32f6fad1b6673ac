"""What source and destination say to each other: frames, messages, and who may say what when.

Pure: bytes in, events out.  Knows: core.  Does not know: SSH, SQLite.
"""
