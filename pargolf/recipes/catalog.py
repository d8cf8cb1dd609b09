"""What recipes there are, and how to find, show and compare them.

A shipped recipe is a module of this folder that assigns `RECIPE` at its top level; its docstring opens with
`Title (short).` and a line `Source: ...`. `names` and `summaries` read that from the syntax trees and import nothing,
so that listing costs no torch. A recipe of one's own is the path of a `.py` file that does the same.
"""

import ast
import importlib.util
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pargolf.core.errors import UserError, near

if TYPE_CHECKING:
    from pargolf.model.transformer import Block
    from pargolf.run.recipe import Recipe

_HERE = Path(__file__).parent
_NOTES = 70
"""The column in which `describe` says what a row is worth."""
_FOLLOWS = "  parameters "
"""A row that nobody sets."""

Edits = Mapping[str, Mapping[str, Any]]


def names() -> list[str]:
    """The shipped recipes: the baseline, the published systems by number, each followed by its repaired form."""
    return [path.stem for path in _shipped()]


def summaries() -> list[dict[str, str]]:
    """`name`, `title` and `source` of every shipped recipe, without importing any."""
    return [{"name": path.stem, **_summary(path)} for path in _shipped()]


def find(found: str) -> "Recipe":
    """The recipe of a shipped name, or of the path of a `.py` file that defines RECIPE, which is run to read it.

    Raises `UserError` on an unknown name, a missing file, and a file that fails or defines no recipe.
    """
    return _recipe(_module(found), found)


def ablations(found: str) -> dict[str, dict[str, Any]]:
    """What the recipe's module names as `ABLATIONS` beside `RECIPE`: edits by label; empty where it names none.

    Raises `UserError` as `find` does, and where it is no mapping of labels to edits.
    """
    edits = getattr(_module(found), "ABLATIONS", {})
    if not isinstance(edits, dict) or not all(isinstance(rows, dict) for rows in edits.values()):
        raise UserError(f"ABLATIONS of {found} are no edits by label. Write {{'no gate': {{'model.stream': ()}}}}.")
    return edits


def measured(found: str) -> dict[str, Any]:
    """The `ablation.json` that is kept beside a recipe's file, as NAME.ablation.json; empty where there is none.

    Where it was measured on the recipe as it once was, its key `of` says so.

    Raises `UserError` where that is no ablation's.
    """
    path = (_HERE / f"{found}.py" if found in names() else Path(found)).with_suffix(".ablation.json")
    if not path.is_file():
        return {}
    try:
        known = json.loads(path.read_bytes())
        whole, rows = known["rows"][0], known["rows"][1:]
        numbers = [row[key] for row in rows for key in ("worth", "low", "high")]
        sound = whole["part"] == "" and all(isinstance(x, float | int | None) for x in numbers)
        sound &= all(isinstance(row["part"], str) for row in rows) and isinstance(whole["scores"], dict)
        sound &= isinstance(known.get("of", ""), str)
        sound &= {"steps", "seconds", "counts"} <= set(known) and isinstance(
            known["steps"] or known["seconds"], float | int
        )
    except (ValueError, KeyError, IndexError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is no ablation. Copy the ablation.json of `pargolf ablate {found}` there.")
    return dict(known)


def describe(recipe: "Recipe", *, edits: Edits | None = None, found: Mapping[str, Any] | None = None) -> str:
    """The whole system as text: a heading per part, a row per setting, runs of equal blocks once, defaults left out.

    `edits` and what an ablation `found` of them add to each row that an edit takes away what it is worth.
    """
    from pargolf.run.ablate import edited_parts

    lines = _system(recipe)
    worths = {row["part"]: row for row in (found or {}).get("rows", ()) if row["part"] and row["worth"] is not None}
    notes: dict[str, list[str]] = {}
    for label, changes in (edits or {}).items():
        if label in worths and not label.startswith("+ "):
            left = {*_system(edited_parts(recipe, {label: changes})[label]), recipe.name}
            gone = (line for line in lines if line not in left and not line.startswith(_FOLLOWS))
            row = next(gone, lines[0])  # an edit that sets what is at its default takes no row away
            notes.setdefault(row, []).append(f"{label} {_worth(worths[label])}")
    out = [line for row in lines for line in _noted(row, notes.get(row, []))]
    return "\n".join(out + (_left_out(found, worths) if found else []) + ["", f"digest {recipe.digest}"])


def _system(recipe: "Recipe") -> list[str]:
    """The rows of `describe`."""
    from pargolf.core.spec import show
    from pargolf.run.forecast import parameters

    model, train, quant, budget = recipe.model, recipe.train, recipe.quant, recipe.budget
    slots = ("embed", "entry", "stream", "shared", "graph")
    lines = [recipe.name, f"  {recipe.source}", "", "model", _row("parameters", f"{parameters(model):,}")]
    lines += _settings(model, but=("blocks", "init", *slots))
    for slot in slots:
        lines += [_row(slot, show(part)) for part in getattr(model, slot)]
    lines += [_row(span, _block(block)) for span, block in _spans(model.blocks)]
    lines += ["", "initial values", *_table(model.init)]
    lines += ["", "training", _row("batch", f"{train.batch_tokens:,} tokens in sequences of {train.seq_len:,}")]
    lines += _settings(train, but=("optimizer", "phases", "batch_tokens", "seq_len", "validate_every", "micro_tokens"))
    lines += ["", "optimizer", *_table(train.optimizer)]
    for phase in train.phases:
        lines += ["", f"phase: {phase.name}", *_settings(phase, but=("name", "weights"))]
        lines += _table(getattr(phase.weights, "table", ()))
    lines += ["", "artifact", *_table(quant.table)]
    lines += [_row("pruned", show(quant.pruned))] if quant.pruned else []
    lines += _settings(quant, but=("table", "pruned"))
    lines += [_row("codec", "range coder" if recipe.codec is None else show(recipe.codec))]
    lines += ["", "scoring", _row("plain", str(recipe.plain)), _row("windows", str(recipe.windows))]
    shown = ("name", "source", "model", "train", "quant", "codec", "plain", "windows", "budget", "reported")
    lines += _settings(recipe, but=shown)
    seconds = f"{budget.train_seconds:g} s to train, {budget.eval_seconds:g} s to score"
    lines += ["", "budget", _row("caps", f"{budget.bytes:,} bytes, {seconds}"), _row("counts", budget.counts)]
    return [*lines, *_settings(recipe.reported, but=())]


def _worth(row: Mapping[str, Any]) -> str:
    """Bits per byte gained, and half the 95 % interval."""
    spread = "" if row["low"] is None else f" ±{(row['high'] - row['low']) / 2:.4f}"
    return re.sub(r"(?<=[-+±])0(?=\.)", "", f"{row['worth']:+.4f}{spread}")


def _noted(row: str, notes: list[str]) -> list[str]:
    """A row with its notes, the first beside its last line where there is room, the others below."""
    *above, last = row.split("\n")
    beside = notes and len(last) < _NOTES
    first = f"{last:<{_NOTES}}| {notes[0]}" if beside else last
    return [*above, first, *(f"{'':<{_NOTES}}| {note}" for note in notes[bool(beside) :])]


def _left_out(found: Mapping[str, Any], worths: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the notes were measured, and what was tried and is not there, best first."""
    seeds = ", ".join(found["rows"][0]["scores"])
    bound = f"{found['steps']:,} steps" if found["steps"] else f"{found['seconds']:g} s"
    bound += ", or those that equal seconds buy" if found.get("paced") else ""
    counted = " of a processor" if found["counts"] == "cpu" and not found["steps"] else ""
    how = f"bits per byte gained, ± half of the 95 % interval: runs of {bound}{counted}, seeds {seeds}"
    tried = [row for label, row in worths.items() if label.startswith("+ ")]
    tried.sort(key=lambda row: -float(row["worth"]))
    words = [f"{row['part'].removeprefix('+ ')} {_worth(row)}".replace(" ", "\N{NO-BREAK SPACE}") for row in tried]
    shown = textwrap.wrap("; ".join(words), 90, break_on_hyphens=False)
    rows = [_row("" if number else "tried and left out", line) for number, line in enumerate(shown)]
    of = [_row("of", found["of"])] if "of" in found else []
    return ["", "measured", _row("beside a row", how), *of, *rows]


def diff(a: "Recipe", b: "Recipe") -> dict[str, tuple[str | None, str | None]]:
    """Rows that differ, `path -> (in a, in b)`, None where a recipe has no such row.

    Names and sources are left out, and so is what a part has inside where it stands on one side only.
    """
    from pargolf.core import spec

    rows = {path: pair for path, pair in spec.diff(a, b).items() if path not in ("name", "source")}
    replaced = tuple(f"{path}{mark}" for path, pair in rows.items() if None not in pair for mark in ".[")
    return {path: pair for path, pair in rows.items() if None not in pair or not path.startswith(replaced)}


def _shipped() -> list[Path]:
    """Modules of this folder that define RECIPE: names without a number first, then by it, repaired after theirs."""
    found = [path for path in _HERE.glob("*.py") if _defines_recipe(path)]
    return sorted(found, key=lambda path: (_number(path.stem), path.stem))


def _number(name: str) -> int:
    return int("".join(c for c in name if c.isdigit()) or 0)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _defines_recipe(path: Path) -> bool:
    targets = [t for node in _tree(path).body if isinstance(node, ast.Assign) for t in node.targets]
    return any(isinstance(target, ast.Name) and target.id == "RECIPE" for target in targets)


def _summary(path: Path) -> dict[str, str]:
    """Title and source as the docstring has them."""
    lines = (ast.get_docstring(_tree(path)) or path.stem).splitlines()
    source = next((line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")), "")
    return {"title": lines[0].rstrip("."), "source": source.rstrip(".")}


def _module(found: str) -> ModuleType:
    """The module of a shipped name, or the file of a path, which is run."""
    if found in names():
        return importlib.import_module(f"pargolf.recipes.{found}")
    if not found.endswith(".py"):
        raise UserError(f"No recipe is called '{found}'.{near(found, names())} A path must end in .py.")
    path = Path(found)
    if not path.is_file():
        raise UserError(f"There is no file {found}. Shipped recipes: {', '.join(names())}.")
    return _run(path)


def _run(path: Path) -> ModuleType:
    """Run a file as a module. Whatever it raises is its author's to mend, in one line."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    return module


def _recipe(module: ModuleType, found: str) -> "Recipe":
    from pargolf.run.recipe import Recipe

    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{found} defines no RECIPE. End it with RECIPE = edit(SOME_RECIPE, {{...}}).")
    return recipe


def _settings(part: Any, *, but: tuple[str, ...]) -> list[str]:
    """Rows of a dataclass's own fields, without those at their default."""
    from dataclasses import fields

    from pargolf.core.spec import show

    own = [f for f in fields(part) if f.name not in but and getattr(part, f.name) != f.default]
    return [_row(f.name, show(getattr(part, f.name))) for f in own]


def _table(table: Iterable[tuple[str, Any]]) -> list[str]:
    """Rows of a table; neighbours of one value share a line."""
    from pargolf.core.spec import show
    from pargolf.training.muon import POLAR_EXPRESS

    lines = []
    for value, rows in groupby(table, key=lambda row: row[1]):
        shown = "as they are" if value is None else show(value).replace(show(POLAR_EXPRESS), "POLAR_EXPRESS")
        lines.append(_row("  ".join(glob for glob, _ in rows), shown))
    return lines


def _spans(blocks: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Runs of equal blocks with their numbers."""
    spans, start = [], 0
    for block, run in groupby(blocks):
        stop = start + len(list(run))
        spans.append((f"blocks[{start}]" if stop == start + 1 else f"blocks[{start}:{stop}]", block))
        start = stop
    return spans


def _block(block: "Block") -> str:
    """What a block is made of, in the order that the stream meets it."""
    from pargolf.core.spec import show

    attn = block.attn
    parts = [f"{attn.heads} heads over {attn.kv_heads}", show(attn.rope), f"q_gain {attn.q_gain:g}"]
    parts += [*map(show, attn.values), *map(show, attn.outputs), show(block.mlp)]
    parts += [] if block.norm_scale == 1.0 else [f"norm scale {show(block.norm_scale)}"]
    parts += [] if block.residual == type(block).residual else [show(block.residual)]
    return ", ".join(parts if block.gate is None else [*parts, show(block.gate)])


def _row(name: str, value: str) -> str:
    """One setting; the value of a long name goes under it."""
    return f"  {name:<28} {value}" if len(name) <= 28 else f"  {name}\n  {'':<28} {value}"
