"""The command line: words in, one report out, an exit code.  The only room that prints or exits."""
