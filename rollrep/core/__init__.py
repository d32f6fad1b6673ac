"""Nouns, errors and pure rules.  Touches no file, no database, no network."""
