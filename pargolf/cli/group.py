"""The list of commands in `--help`: each by its full name (`data prepare`), with its whole first sentence."""

from typing import Any

from typer.core import TyperGroup

_LONGEST = 400


class FullNames(TyperGroup):
    """A group that lists the commands of the groups in it beside its own."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        rows = []
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            inner = getattr(command, "commands", None)
            rows += [(name, command)] if inner is None else [(f"{name} {word}", one) for word, one in inner.items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_LONGEST)) for name, command in rows])
