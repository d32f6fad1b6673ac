"""The command line: words in, one report out, an exit code.  The only room that prints or exits."""

import gc

# To load what a command needs makes 26,000 objects and hardly any garbage; Python would look for it 40 times.
gc.set_threshold(10_000)
