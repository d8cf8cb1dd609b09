"""The parameter types of the api, and how to write a Python call as a command of the terminal.

    pargolf.train("baseline", changes={"train.steps": 4}, seed=7)
    pargolf train baseline train.steps=4 --seed 7

Names, types, defaults and help are defined once, at the function. `cli/options.py` makes the command's options from
them, and `command_line` makes the command that a run's report prints for repeating the run.
"""

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pargolf.core.spec import override

if TYPE_CHECKING:
    from pargolf.recipes.recipe import Recipe

PathLike = str | Path
"""A file or a folder."""
Target = Annotated[str | Path, "as it is written"]
"""A file, a folder, or another name such as `git:REPO@REF`."""
ByteSize = int | str
"""A number of bytes, also with a unit: `250kB`, `1MB`, `1MiB` (`core/units.py`)."""
Duration = float | str
"""A number of seconds, also with a unit: `90s`, `10m`, `1h`."""
RecipeLike = Union[str, Path, "Recipe"]
"""A recipe: a shipped name, the path of a `.py` file that defines RECIPE, or a `Recipe`."""
Changes = Mapping[str, Any]
"""Values by the path of their row: `{"train.steps": 4}`."""
Edits = Mapping[str, Mapping[str, Any]] | Sequence[str]
"""Changes by label; or each as a string, `LABEL: PATH=VALUE`."""
Own = PathLike | Sequence[PathLike]
"""The user's own files with techniques, or folders of such files; their code may be run."""

OPTIONS = {"own": "--with", "trackers": "--track", "edits": "--without", "start": "--from"}
"""Options whose name differs from their parameter's."""
_ONCE = ("force", "resume", "trackers", "checkpoint_every", "on")
"""Parameters that are left out of a command that repeats a call."""


def option_of(name: str) -> str:
    """The option of a parameter: `--val-fraction` of `val_fraction`."""
    return OPTIONS.get(name, f"--{name.replace('_', '-')}")


def command_line(function: Callable[..., Any], values: Mapping[str, Any], *, seed: bool = True) -> str:
    """The command that makes the same call again, quoted for a shell.

    `values` holds the arguments by name, and may hold more. Arguments with their default value are left out, except
    paths and, with `seed`, the seed.
    """
    words = ["pargolf", function.__name__]
    for parameter in inspect.signature(function).parameters.values():
        value = values[parameter.name]
        always = ("data", "out", "seeds", *["seed"] * seed)
        if parameter.name in _ONCE or (value == parameter.default and parameter.name not in always):
            continue
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.annotation == Changes | None:
            words += _positional(value)
        else:
            words += _option(option_of(parameter.name), value)
    return shlex.join(words)


def _positional(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return list(_rows(value))
    if isinstance(value, str | Path):
        return [str(value)]
    return [str(item) for item in value] if isinstance(value, Sequence) else [str(value.name)]


def _option(name: str, value: Any) -> list[str]:
    """The words of an option whose value is not the default."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [name if value else name.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [word for label, rows in value.items() for word in (name, f"{label}: {shlex.join(_rows(rows))}")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, int) for item in value):
            return [name, ",".join(map(str, value))]
        return [word for item in value for word in (name, str(item))]
    if isinstance(value, str | Path | int | float):
        return [name, f"{value:g}" if isinstance(value, float) else str(value)]
    return [name, str(value.name)]


def _rows(changes: Mapping[str, Any]) -> Iterator[str]:
    """Changes in the form of the command line."""
    yield from (override(path, value) for path, value in changes.items())
