"""A group of commands that knows what a mistyped one may have meant."""

from __future__ import annotations

import click


class Suggesting(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f' Did you mean "{near[0]}"?' if near else f" See: {ctx.command_path} --help"
            raise click.UsageError(f"there is no command {args[0]!r}.{hint}") from error
