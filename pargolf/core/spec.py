"""Specs: a system as nested frozen dataclasses, with functions to change, print, compare and store it.

    PR315 = edit(PR287, {
        "name": "11L partial RoPE + LN scale",
        "model.blocks[:].attn.rope.dims": 16,
    })

A path is dotted field names, with `[3]`, `[-4:]` or `[:]` for items of a tuple, and `[mlp.*]` for the row of a table
with exactly that glob: `train.optimizer[mlp.*].lr`. An unknown path is an error that suggests the nearest known one; a
value that the field's annotation does not allow (`strict.py`) is an error with the path and the range.

`rows` flattens a spec to `path -> value`, with equal neighbours folded into ranges; `diff` compares two specs row by
row; `digest` is a short hash of one. `dump` and `load` convert a spec to plain JSON and back, and run nothing but the
dataclasses' constructors. `checked` checks a spec against its annotations; `build` makes any dataclass from plain JSON.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from pargolf.core import own
from pargolf.core.errors import NotRead, UserError, near
from pargolf.core.strict import Strict, hints_of, item_kind

S = TypeVar("S")
Path = tuple[str | int, ...]
Step = str | int | slice
_PACKAGE = __name__.partition(".")[0]
_STORED_AS = {
    f"pargolf.{now}": f"pargolf.{stored}"
    for now, stored in (
        ("recipes.recipe:Recipe", "run.recipe:Recipe"),
        ("recipes.recipe:Reported", "run.recipe:Reported"),
        ("evaluate.adapters.sgd:SGD", "evaluate.adapt_chunks:SGD"),
        ("evaluate.adapters.adamw:AdamW", "evaluate.adapt_chunks:AdamW"),
        ("evaluate.adapters.low_rank:LowRank", "evaluate.adapt_documents:LowRank"),
        ("evaluate.adapters.phases:Phases", "evaluate.adapt_documents:Phases"),
        ("evaluate.adapters.hint_tilt:HintTilt", "evaluate.tilt:HintTilt"),
        ("evaluate.adapters.count_tilt:CountTilt", "evaluate.tilt:CountTilt"),
    )
}
"""Classes that have moved, and the addresses that files store for them, so that digests stay and old files load."""
_NOW_AT = {stored: now for now, stored in _STORED_AS.items()}
_TOKEN = re.compile(r"\.?([A-Za-z_]\w*)|\[((?:[^\[\]]|\[[^\[\]]*\])*)\]")


class RowGlob(str):
    """A step of a path into a table: the glob of the row."""


def edit(spec: S, changes: Mapping[str, Any]) -> S:
    """Return a copy of `spec` with each `path: value` applied in order.

    Raises `UserError` on a path that does not exist (with the nearest one) and on a value of the wrong type.
    """
    for path, value in changes.items():
        spec = _set(spec, _parse(path), value, path, type(spec))
    return spec


def parse_value(text: str) -> Any:
    """Read a command-line value: JSON numbers, `true`, `false`, `none`, lists; anything else is a string."""
    if text.lower() in ("none", "null"):
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)
    return tuple(value) if isinstance(value, list) else value


def overrides(words: Iterable[str]) -> dict[str, Any]:
    """Turn `path=value` words of the command line into the mapping that `edit` takes."""
    changes = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not equals or not path:
            raise UserError(f"'{word}' is no override. Write path=value, for example train.seconds=60.")
        changes[path] = parse_value(value)
    return changes


def override(path: str, value: Any) -> str:
    """Write one `path=value` word that `overrides` reads; a value that no word can express is printed by `show`."""
    if isinstance(value, str) and parse_value(value) == value:
        return f"{path}={value}"
    try:
        return f"{path}={json.dumps(value)}"
    except TypeError:
        return f"{path}={show(value)}"


def rows(spec: Any) -> dict[str, str]:
    """Flatten to `path -> printed value`; indices with equal values are folded: `blocks[0:4].attn.heads`."""
    return _fold(_leaves(spec))


def diff(a: Any, b: Any) -> dict[str, tuple[str | None, str | None]]:
    """Rows that differ: `path -> (in a, in b)`, None when a spec has no such row. The order of a table is ignored."""
    left, right = _leaves(a), _leaves(b)
    paths = [p for p in dict.fromkeys([*left, *right]) if left.get(p) != right.get(p)]
    both = _fold({p: f"{_or_absent(left, p)}\0{_or_absent(right, p)}" for p in paths})
    absent = "\1"
    pairs = {path: value.split("\0") for path, value in both.items()}
    return {p: (None if x == absent else x, None if y == absent else y) for p, (x, y) in pairs.items()}


def digest(spec: Any) -> str:
    """Sixteen hex digits that identify the spec: the start of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(dump(spec), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def dump(value: Any) -> Any:
    """A spec as plain JSON. Dataclasses store their import path under `"is"`, functions under `"fn"`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: dump(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": _address(type(value)), **fields}
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    if inspect.isfunction(value):
        return {"fn": _address(value)}
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UserError(
            f"A recipe cannot hold {str(value)[:80]!r}, a {type(value).__name__}. It holds numbers, strings, tuples, "
            "frozen dataclasses, and functions that are defined at the top level of a file."
        )
    return value


def load(value: Any, kind: Any = Any, *, within: tuple[str, ...] = ("pargolf.",), at: str = "") -> Any:
    """Rebuild a value of type `kind` from what `dump` wrote.

    Classes and functions are looked up in modules under `within` and in the user's files that were read
    (`core/own.py`). Types and ranges are checked against the annotations. Raises `UserError` with the path (prefixed by
    `at`) of a value that does not fit, and on an address that is unknown or not allowed.
    """
    return Strict(find=lambda address: _find(address, within)).fit(value, kind, at)


def build(kind: type[S], value: Any, *, where: str = "", within: tuple[str, ...] = ()) -> S:
    """Make the dataclass `kind` (a result, an event, a header) from plain JSON, by its annotations.

    Specs inside, as `dump` wrote them, are rebuilt when `within` names the modules they may come from. Raises
    `UserError` that begins with `where` (a file) and names the field: unknown, missing, of another type, out of range.
    """
    try:
        find = (lambda address: _find(address, within)) if within else None
        return cast(S, Strict(find=find).fit(value, kind))
    except NotRead:
        raise
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from error


def checked(spec: S, *, at: str = "") -> S:
    """Check every field of `spec` against its annotation; lists become tuples. Raises `UserError` with the path."""
    return cast(S, Strict().fit(spec, type(spec), at))


def show(value: Any) -> str:
    """Print one value as a recipe would write it: `Rope(dims=16)`, `leaky_relu2`, `0.025`; defaults are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [
            f"{f.name}={show(getattr(value, f.name))}"
            for f in dataclasses.fields(value)
            if getattr(value, f.name) != f.default
        ]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(show, value)) + ("," if len(value) == 1 else "") + ")"
    if inspect.isfunction(value):
        return value.__name__
    if isinstance(value, float) and 1e-5 < value < 1 and len(repr(value)) > 8 and 1 / round(1 / value) == value:
        return f"1/{round(1 / value)}"
    return repr(value)


def _address(thing: Any) -> str:
    """The address `module:name` of a class or function; one of a user's file is followed by a digest."""
    if thing.__module__.partition(".")[0] != _PACKAGE or "." in thing.__qualname__:
        return own.address(thing)
    address = f"{thing.__module__}:{thing.__qualname__}"
    return _STORED_AS.get(address, address)


def home(address: str) -> str:
    """The current `module:name` of a stored address."""
    return _NOW_AT.get(address, address)


def _find(address: Any, within: tuple[str, ...]) -> Any:
    """Look up an address under the allowed prefixes or in files that were read; it must be defined there."""
    if "@" in str(address):
        return own.find(str(address))
    module_name, _, name = home(str(address)).partition(":")
    if not module_name.startswith(within) or not re.fullmatch(r"[\w.]+:\w+", str(address)):
        raise UserError(f"{str(address)[:80]!r} is outside what a stored spec may name.")
    try:
        thing = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{address!r} is unknown here. Was it made by another version?") from error
    if getattr(thing, "__module__", None) != module_name:
        raise UserError(f"{address!r} is not defined there.")
    return thing


def _parse(path: str) -> tuple[Step, ...]:
    """Split `model.blocks[-4:].attn` into its steps."""
    steps: list[Step] = []
    end = 0
    for match in _TOKEN.finditer(path):
        if match.start() != end:
            break
        end = match.end()
        name, index = match.groups()
        steps.append(name if name else _index(index, path))
    if end != len(path) or not steps:
        raise UserError(f"'{path}' is not a path. Write names and indices, for example model.blocks[-4:].attn.heads.")
    return tuple(steps)


def _index(text: str, path: str) -> int | slice | RowGlob:
    """Parse the text between brackets: `3`, `-1`, `2:5`, `:`, or the glob of a table's row."""
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        return RowGlob(text)
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    if 2 <= len(parts) <= 3:
        return slice(*parts)
    raise UserError(f"'[{text}]' in '{path}' is no index. Write [3], [-4:] or [:].")


def _set(node: Any, steps: tuple[Step, ...], value: Any, path: str, kind: Any = Any) -> Any:
    """A copy of `node`, annotated as `kind`, with `value` at `steps`."""
    if not steps:
        return Strict(convert=True, whole=False).fit(value, kind, path)
    step, rest = steps[0], steps[1:]
    if isinstance(step, RowGlob):
        globs = [glob for glob, _ in node] if _is_table(node) else []
        if step not in globs:
            raise UserError(f"No row '[{step}]' in '{path}'.{near(step, globs)}")
        inner = item_kind(item_kind(kind, 0), 1)
        return tuple((g, _set(v, rest, value, path, inner)) if g == step else (g, v) for g, v in node)
    if isinstance(step, str):
        names = [f.name for f in dataclasses.fields(node)] if dataclasses.is_dataclass(node) else []
        if step not in names:
            raise UserError(f"No '{step}' in '{path}' ({type(node).__name__}).{_near(node, names, steps, path)}")
        inner = hints_of(type(node)).get(step, Any)
        return dataclasses.replace(node, **{step: _set(getattr(node, step), rest, value, path, inner)})
    if not isinstance(node, tuple):
        raise UserError(f"'{path}' puts an index on {type(node).__name__}, which is no list.")
    picked = list(range(len(node)))[step] if isinstance(step, slice) else [step]
    if not isinstance(picked, list) or any(not -len(node) <= i < len(node) for i in picked):
        raise UserError(f"'{path}' is past the end: there are {len(node)} items, 0 to {len(node) - 1}.")
    items = list(node)
    for i in picked:
        items[i] = _set(items[i], rest, value, path, item_kind(kind, i))
    return tuple(items)


def _near(node: Any, names: list[str], steps: tuple[Step, ...], path: str) -> str:
    """Suggest what an unknown name may mean; for a list, the path with `[:]` or a row's glob."""
    if not isinstance(node, tuple):
        return near(str(steps[0]), names)
    before = path[: len(path) - len(_spelled(steps))].rstrip(".")
    if _is_table(node):
        return near("", [f"{before}[{glob}].{_spelled(steps)}" for glob, _ in node])
    meant = _meant(node, steps)
    return f" Did you mean {before}{meant}?" if meant else ""


def _meant(node: Any, steps: tuple[Step, ...]) -> str:
    """The nearest path under `node`, with `[:]` inserted for lists; "" when nothing is near."""
    if not steps:
        return ""
    step, rest = steps[0], steps[1:]
    if isinstance(node, tuple) and isinstance(step, str):
        inner = _meant(node[0], steps) if node else ""
        return f"[:]{inner}" if inner else ""
    if isinstance(step, str) and dataclasses.is_dataclass(node):
        known = [f.name for f in dataclasses.fields(node)]
        close = [step] if step in known else get_close_matches(step, known, n=1, cutoff=0.5)
        inner = _meant(getattr(node, close[0]), rest) if close else ""
        return f".{close[0]}{inner}" if close and (inner or not rest) else ""
    return "" if isinstance(step, str) else _spelled(steps)


def _spelled(steps: tuple[Step, ...]) -> str:
    """Steps as a path writes them."""
    out = ""
    for step in steps:
        if isinstance(step, slice):
            parts = [step.start, step.stop] + ([step.step] if step.step is not None else [])
            out += "[" + ":".join("" if part is None else str(part) for part in parts) + "]"
        else:
            out += f"[{step}]" if isinstance(step, int | RowGlob) else f".{step}" if out else step
    return out


def _leaves(node: Any, at: Path = ()) -> dict[Path, str]:
    """Every leaf with its path. Each dataclass below the top adds a row with its class name."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        out: dict[Path, str] = {} if not at else {at: type(node).__name__}
        for f in dataclasses.fields(node):
            out |= _leaves(getattr(node, f.name), (*at, f.name))
        return out
    if _is_table(node):
        return {(*at, RowGlob(glob)): show(value) for glob, value in node}
    if isinstance(node, tuple) and any(dataclasses.is_dataclass(item) for item in node):
        out = {}
        for i, item in enumerate(node):
            out |= _leaves(item, (*at, i))
        return out
    return {at: show(node)}


def _is_table(node: Any) -> bool:
    """Whether `node` is a tuple of (glob, value) rows."""
    rows_of_two = isinstance(node, tuple) and all(isinstance(row, tuple) and len(row) == 2 for row in node)
    return rows_of_two and len(node) > 0 and all(isinstance(row[0], str) for row in node)


def _or_absent(leaves: dict[Path, str], path: Path) -> str:
    return leaves.get(path, "\1")


def _fold(leaves: dict[Path, str]) -> dict[str, str]:
    """Fold the first index of each path: neighbours with equal values become one `[a:b]` row."""
    groups: dict[tuple[Path, Path], dict[int, str]] = {}
    for path, value in leaves.items():
        cut = next((i for i, step in enumerate(path) if isinstance(step, int)), None)
        if cut is None:
            groups[path, ()] = {-1: value}
        else:
            index = path[cut]
            assert isinstance(index, int)
            groups.setdefault((path[:cut], path[cut + 1 :]), {})[index] = value
    out: dict[str, str] = {}
    for (before, after), values in groups.items():
        if -1 in values:
            out[_text(before)] = values[-1]
            continue
        for start, stop, value in _runs(values):
            span = f"[{start}]" if stop == start + 1 else f"[{start}:{stop}]"
            out[f"{_text(before)}{span}{_text(after, joined=True)}"] = value
    return out


def _runs(values: dict[int, str]) -> list[tuple[int, int, str]]:
    """Runs of consecutive indices with one value."""
    runs: list[tuple[int, int, str]] = []
    for index in sorted(values):
        if runs and runs[-1][1] == index and runs[-1][2] == values[index]:
            runs[-1] = (runs[-1][0], index + 1, values[index])
        else:
            runs.append((index, index + 1, values[index]))
    return runs


def _text(path: Path, *, joined: bool = False) -> str:
    """Dotted form of a path; `joined` when text comes before it."""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int | RowGlob) else f".{step}" if out or joined else step
    return out
