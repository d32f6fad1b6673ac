"""A group of commands that knows what a mistyped one may have meant."""

from __future__ import annotations

import click


class NoSuchCommand(click.UsageError):
    def __init__(self, name: str, remedy: str, ctx: click.Context) -> None:
        super().__init__(f"there is no command {name!r}", ctx)
        self.remedy = remedy


class Suggesting(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            see = f"see: {ctx.command_path} --help"
            raise NoSuchCommand(args[0], f'did you mean "{near[0]}"? {see}' if near else see, ctx) from error
