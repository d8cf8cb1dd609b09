"""Make a command from a function of the api: names, types, defaults and help of its options come from there only.

    @command(api.pack)
    def pack(arguments: Arguments) -> None:
        packed = arguments.call(api.pack)          with the typed arguments
        if not arguments.prints_json(packed):      --json
            console.print(...)

Parameters of the api before the `*` become arguments, and so do changes of a recipe's rows; the others become options.
The help of an option is its text under `Args:` in the docstring, and the help of the command is everything before
`Args:`. Further parameters of the command's function are options of the terminal only, in typer's own form.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from rich.console import Console

from pargolf import api
from pargolf.api.parameters import ByteSize, Changes, Duration, Edits, Own, PathLike, RecipeLike, Target, option_of
from pargolf.cli.terminal import ThreadsOpt, console, is_first, set_threads, whole_numbers
from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.core.spec import overrides
from pargolf.core.work import Work
from pargolf.watch.live import draw

T = TypeVar("T")
_EVENTS = Annotated[str | None, typer.Option("--events", help="json: print each event as one line of JSON.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ASKED = -1
"""Take the number of threads from the command's `--threads`."""
_ENDLESS = 1e9
"""Limits from here on are never reached, and the help does not print them."""
_SECTIONS = re.compile(r"\n\s*(?:Args|Returns|Raises):\n")


class Arguments:
    """The typed arguments of the api's functions by name, and whether to print JSON, or a line per event."""

    def __init__(self, values: Mapping[str, Any], *, as_json: bool, events: bool = False) -> None:
        self.values = dict(values)
        self.as_json = as_json
        self.events = events

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def call(self, function: Callable[..., T]) -> T:
        """Call a function of the api with the arguments that it accepts."""
        names = inspect.signature(function).parameters
        return function(**{name: value for name, value in self.values.items() if name in names})

    def result(self, function: Callable[..., Work[T]]) -> T:
        """Call a function that takes long, and draw its progress unless --json is set.

        Under torchrun, processes other than the first end here.
        """
        work = self.call(function)
        if self.events:
            return self._printed(work)
        if not self.as_json:
            for _ in draw(work, Console(stderr=True)):
                pass
        value = work.result()
        if not is_first():
            raise typer.Exit
        return value

    def _printed(self, work: Work[T]) -> T:
        """Print each event as a line of JSON, and the value as the last line; nothing else is printed after that."""
        for event in work:
            if is_first():
                print(event_line(event), flush=True)
        value = work.result()
        if not is_first():
            raise typer.Exit
        print(json.dumps({"event": "Done", "value": value}, default=_plain, ensure_ascii=False), flush=True)
        console.quiet = True
        return value

    def prints_json(self, value: Any) -> bool:
        """Print a value as JSON if requested; returns whether nothing else should be printed."""
        if self.events:
            return True
        if self.as_json:
            print(json.dumps(value, default=_plain, ensure_ascii=False))
        return self.as_json


def command(
    *functions: Callable[..., Any],
    as_json: bool = True,
    threads: int | None = None,
    hidden: Sequence[str] = (),
    text: str = "",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command that calls `functions`: a function for typer, with all their parameters.

    Args:
        functions: the functions of the api that the command calls.
        as_json: whether it has `--json`.
        threads: the number of threads, or `ASKED` for `--threads`; None: it computes nothing.
        hidden: parameters that do not become options.
        text: its help; by default the docstring of the first function.
    """
    parameters = {
        name: (parameter, _helps(function).get(name, ""))
        for function in reversed(functions)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in hidden
    }

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        _, *extras = inspect.signature(body).parameters.values()
        shown = [_shown(parameter, words) for parameter, words in parameters.values()]
        shown += [extra.replace(kind=Parameter.KEYWORD_ONLY) for extra in extras]
        long = any(inspect.isgeneratorfunction(inspect.unwrap(function)) for function in functions)
        switches: list[tuple[str, Any, Any]] = [("events", _EVENTS, None)] * long
        switches += [("as_json", _JSON, False)] * as_json + [("threads", ThreadsOpt, 0)] * (threads == ASKED)
        shown += [Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=no) for name, kind, no in switches]

        @wraps(body)
        def run(**typed: Any) -> None:
            if threads is not None:
                set_threads(typed["threads"] if threads == ASKED else threads)
            values = {name: _read(parameter, typed[name]) for name, (parameter, _) in parameters.items()}
            events = typed.get("events")
            if events not in (None, "json"):
                raise UserError(f"--events is json; not {events}.")
            arguments = Arguments(values, as_json=typed.get("as_json", False), events=events is not None)
            console.quiet = False
            body(arguments, **{extra.name: typed[extra.name] for extra in extras})

        run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        run.__doc__ = text or _SECTIONS.split(inspect.getdoc(functions[0]) or "")[0]
        return run

    return decorate


def _helps(function: Callable[..., Any]) -> dict[str, str]:
    """The text on each parameter in a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?)*)", inspect.getdoc(function) or "", re.MULTILINE)
    rows = re.findall(r"^    (\w+): (.*(?:\n      .*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in rows}


def _shown(parameter: Parameter, text: str) -> Parameter:
    """Convert a parameter to typer's form."""
    kind, ranges = _plain_kind(parameter.annotation)
    positional = parameter.kind is not Parameter.KEYWORD_ONLY or kind == Changes
    shown, default = _typed(kind, parameter.default)
    if default is None:
        shown = shown | None
    if positional:
        info: Any = typer.Argument(help=text, autocompletion=_recipe_names if kind == RecipeLike else None, **ranges)
    else:
        switch = f"/--no-{parameter.name.replace('_', '-')}" if default is True else ""
        info = typer.Option(f"{option_of(parameter.name)}{switch}", help=text, **ranges)
    return Parameter(parameter.name, Parameter.KEYWORD_ONLY, annotation=Annotated[shown, info], default=default)


def _plain_kind(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """A type without None and without its range, and the range in click's form."""
    if get_origin(annotation) in (Union, UnionType) and NoneType in get_args(annotation):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        annotation = Union[tuple(kinds)]  # noqa: UP007
    if annotation == Target or get_origin(annotation) is not Annotated:
        return annotation, {}
    kind, *marks = get_args(annotation)  # each a `core.ranges.Within`
    ranges = [("min", mark.low) for mark in marks] + [("max", mark.high) for mark in marks]
    return kind, {end: value for end, value in ranges if abs(value) < _ENDLESS}


def _is_list(kind: Any) -> bool:
    return kind in (Changes, Edits, Own) or get_origin(kind) is Sequence


def _typed(kind: Any, default: Any) -> tuple[Any, Any]:
    """The type that typer reads for a type of the api, and the default converted to it."""
    has_default = default is not None and default is not Parameter.empty
    if kind in (RecipeLike, Target):
        return str, default
    if kind in (ByteSize, Duration):
        return str, str(default) if has_default else default
    if kind == PathLike:
        return Path, Path(default) if has_default else default
    if not _is_list(kind):
        return kind, default
    if get_args(kind)[0] is int:
        return str, ",".join(map(str, default)) if has_default else default
    item = Path if kind == Own or get_args(kind)[0] == PathLike else str
    values = [default] if isinstance(default, str | Path) else list(default) if has_default else []
    return list[item], default if default is Parameter.empty else [*map(item, values)] or None  # type: ignore[valid-type]


def _read(parameter: Parameter, value: Any) -> Any:
    """Convert a typed value for the api."""
    kind, _ = _plain_kind(parameter.annotation)
    if kind == Changes:
        return overrides(value or [])
    if kind == Edits:
        return value
    if _is_list(kind) and get_args(kind)[0] is int:
        return None if value is None else whole_numbers(value, option_of(parameter.name))
    if _is_list(kind):
        return value or ()
    return value


def _recipe_names(prefix: str) -> list[str]:
    """Names of included recipes that begin with `prefix`, for shell completion."""
    return [row["name"] for row in api.list_recipes() if row["name"].startswith(prefix)]


def event_line(event: Event) -> str:
    """An event as one line of JSON, with its kind under `event`."""
    return json.dumps(_plain(event), default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Convert a value for JSON."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"event": type(value).__name__} if isinstance(value, Event) else {}
        return kind | {field.name: getattr(value, field.name) for field in fields(value)}
    return str(value)
