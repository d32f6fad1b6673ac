"""`rollrep`: the commands of the destination, and `rollrep source` for beside the application."""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from pathlib import Path

import click

from rollrep import __version__
from rollrep.cli.groups import Suggesting
from rollrep.cli.output import fail_usage, say, set_up_logging
from rollrep.cli.streams import FULL, mend_streams, speaking
from rollrep.core.errors import DiskFull
from rollrep.strangers import meet_connections

DESTINATION = {
    "init": "destination", "check": "destination", "pull": "destination", "mirror": "destination",
    "status": "status", "points": "past", "restore": "past", "query": "query", "shell": "query",
    "history": "history", "diff": "diff", "undo": "undo", "snapshot": "keeping", "prune": "keeping",
    "timeline": "timeline", "rehearse": "rehearse", "catalog": "catalog", "export": "travelling",
    "import": "travelling", "verify": "verify",
}  # fmt: skip
"""which module has a command, in the order of `--help`"""


class Lazy(Suggesting):
    """Loads the one command that is asked for: `source serve` starts once per connection, `query` for each question."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*DESTINATION, "source"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "source":
            from rollrep.cli import source

            return source.source
        room = DESTINATION.get(cmd_name)
        if room is None:
            return None
        found: click.Command = importlib.import_module(f"rollrep.cli.{room}").COMMANDS[cmd_name]
        return found


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rollrep")
@click.option(
    "-c", "--config", type=click.Path(path_type=Path, readable=False), help="The configuration file (rollrep.toml)."
)
@click.option("-v", "--verbose", is_flag=True, help="Say what is being done.")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, verbose: bool) -> None:
    """Replicates SQLite databases between machines over SSH, and takes them back in time.

    \b
    Beside the application:  rollrep source install DB
    On the other machine:    rollrep init JOB SOURCE, then rollrep pull JOB, rollrep restore JOB --at ...

    \b
    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 partly, 10 not set up, 11 locked,
    12 login refused, 13 host key, 14 mirror needed, 15 schema, 16 verify failed, 17 not restorable,
    18 disk full, 75 temporary (retries used up), 130/143 stopped by a signal.
    """
    ctx.obj = config
    set_up_logging(verbose)
    meet_connections()


def main() -> None:
    mend_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(cli.main(prog_name="rollrep", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        with speaking():
            error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        fail_usage(error)
    except OSError as error:
        # Of --help and --version; what commands meet is told by `reporting`.
        if error.errno not in FULL:
            raise
        with speaking():
            say(f"rollrep: no room for what was to be said ({error.strerror})")
            say("  next: make room, and type it again: df -h")
        sys.exit(DiskFull.exit_code)
    finally:
        # Python looks through everything for garbage once more before it ends, and all of it goes anyway.
        gc.freeze()
