"""The list of commands in `--help`: each by its full name (`data prepare`), with its whole first sentence."""

from typing import Any

from typer.core import TyperGroup

_LONGEST = 400


def listed(group: Any) -> list[dict[str, Any]]:
    """Every command by its full name, with its help, arguments and options, as plain JSON."""
    rows = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        if inner is not None:
            rows += [row | {"command": f"{name} {row['command']}"} for row in listed(command)]
        elif not command.hidden:
            parameters = [
                _parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)
            ]
            rows.append({"command": name, "help": (command.help or "").strip(), "parameters": parameters})
    return rows


def _plain(default: Any) -> Any:
    """A default value, converted to JSON."""
    if isinstance(default, list | tuple):
        return [_plain(item) for item in default]
    return default if isinstance(default, str | int | float | None) else str(default)


def _type_name(parameter: Any) -> str:
    """The name of a parameter's type; newer versions of typer give Python's types instead of click's."""
    described = getattr(parameter, "type_descriptor", None)
    if described is None:
        return str(parameter.type.name)
    return str(getattr(described.annotation, "__name__", described.annotation)).lower()


def _parameter(parameter: Any) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "kind": parameter.param_type_name,
        "options": [*parameter.opts, *parameter.secondary_opts],
        "type": _type_name(parameter),
        "required": parameter.required,
        "many": bool(parameter.multiple) or parameter.nargs != 1,
        "default": _plain(parameter.default),
        "help": getattr(parameter, "help", None) or "",
    }


class FullNames(TyperGroup):
    """A group that lists the commands of its subgroups together with its own."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list."""
        rows = []
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            inner = getattr(command, "commands", None)
            rows += (
                [(name, command)]
                if inner is None
                else [(f"{name} {word}", subcommand) for word, subcommand in inner.items()]
            )
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(_LONGEST)) for name, command in rows])
