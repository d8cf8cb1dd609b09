"""A recipe as text: every row with its measured worth, and two recipes compared."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import groupby
from typing import Any

from pargolf.core.ablation import ADDED, Ablation, AblationRow
from pargolf.core.spec import diff as spec_diff
from pargolf.core.spec import show
from pargolf.model.transformer import Block, parameters
from pargolf.recipes.recipe import Recipe
from pargolf.recipes.trial import limits
from pargolf.recipes.variants import Edits, edited_parts
from pargolf.training.muon import POLAR_EXPRESS

_NOTES = 70
"""The column in which `describe` prints the worth of a row."""
_FOLLOWS = "  parameters "
"""The beginning of a row that is computed, not set."""


def describe(recipe: Recipe, *, edits: Edits | None = None, ablation: Ablation | None = None) -> str:
    """The whole system as text: a heading per part, a row per setting; equal blocks are shown once, defaults left out.

    With `edits` and their `ablation`, each row that an edit removes is followed by its measured worth.
    """
    lines = _system(recipe)
    worths = {row.part: row for row in (ablation.rows if ablation else ()) if row.part and row.worth is not None}
    notes: dict[str, list[str]] = {}
    for label, changes in (edits or {}).items():
        if label in worths and not label.startswith(ADDED):
            without = {*_system(edited_parts(recipe, {label: changes})[label]), recipe.name}
            removed = (line for line in lines if line not in without and not line.startswith(_FOLLOWS))
            row = next(removed, lines[0])  # an edit of a setting at its default removes no row
            notes.setdefault(row, []).append(f"{label} {_worth(worths[label])}")
    out = [line for row in lines for line in _noted(row, notes.get(row, []))]
    own = limits(recipe)
    out += ["", "techniques of your own", *(f"  {line}" for line in own)] if own else []
    return "\n".join(out + (_left_out(ablation, worths) if ablation else []) + ["", f"digest {recipe.digest}"])


def _system(recipe: Recipe) -> list[str]:
    """The rows of `describe`."""
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


def _worth(row: AblationRow) -> str:
    """Bits per byte gained, and half the 95 % interval."""
    spread = "" if row.interval is None else f" ±{(row.interval[1] - row.interval[0]) / 2:.4f}"
    return re.sub(r"(?<=[-+±])0(?=\.)", "", f"{row.gain:+.4f}{spread}")


def _noted(row: str, notes: list[str]) -> list[str]:
    """A row with its notes: the first beside its last line if there is room, the others below."""
    *above, last = row.split("\n")
    fits = notes and len(last) < _NOTES
    first = f"{last:<{_NOTES}}| {notes[0]}" if fits else last
    return [*above, first, *(f"{'':<{_NOTES}}| {note}" for note in notes[bool(fits) :])]


def _left_out(ablation: Ablation, worths: Mapping[str, AblationRow]) -> list[str]:
    """How the notes were measured, and which additions were tried and left out, best first."""
    seeds = ", ".join(ablation.rows[0].scores)
    bound = f"{ablation.steps:,} steps" if ablation.steps else f"{ablation.seconds:g} s"
    bound += ", or those that equal seconds buy" if ablation.paced else ""
    counted = " of a processor" if ablation.counts == "cpu" and not ablation.steps else ""
    how = f"bits per byte gained, ± half of the 95 % interval: runs of {bound}{counted}, seeds {seeds}"
    tried = [row for row in worths.values() if row.is_addition]
    tried.sort(key=lambda row: -row.gain)
    words = [f"{row.part.removeprefix(ADDED)} {_worth(row)}".replace(" ", "\N{NO-BREAK SPACE}") for row in tried]
    shown = textwrap.wrap("; ".join(words), 90, break_on_hyphens=False)
    rows = [_row("" if number else "tried and left out", line) for number, line in enumerate(shown)]
    of = [_row("of", ablation.of)] if ablation.of else []
    return ["", "measured", _row("beside a row", how), *of, *rows]


def diff(a: Recipe, b: Recipe) -> dict[str, tuple[str | None, str | None]]:
    """Rows that differ: `path -> (in a, in b)`, None when a recipe has no such row.

    Names and sources are left out, and so are the inner rows of a part that only one recipe has.
    """
    rows = {path: pair for path, pair in spec_diff(a, b).items() if path not in ("name", "source")}
    replaced = tuple(f"{path}{mark}" for path, pair in rows.items() if None not in pair for mark in ".[")
    return {path: pair for path, pair in rows.items() if None not in pair or not path.startswith(replaced)}


def _settings(part: Any, *, but: tuple[str, ...]) -> list[str]:
    """Rows of a dataclass's own fields, without those at their default."""
    own = [f for f in fields(part) if f.name not in but and getattr(part, f.name) != f.default]
    return [_row(f.name, show(getattr(part, f.name))) for f in own]


def _table(table: Iterable[tuple[str, Any]]) -> list[str]:
    """Rows of a table; neighbours of one value share a line."""
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


def _block(block: Block) -> str:
    """The parts of a block, in the order of the computation."""
    attn = block.attn
    parts = [f"{attn.heads} heads over {attn.kv_heads}", show(attn.rope), f"q_gain {attn.q_gain:g}"]
    parts += [*map(show, attn.values), *map(show, attn.outputs), show(block.mlp)]
    parts += [] if block.norm_scale == 1.0 else [f"norm scale {show(block.norm_scale)}"]
    parts += [] if block.residual == type(block).residual else [show(block.residual)]
    return ", ".join(parts if block.gate is None else [*parts, show(block.gate)])


def _row(name: str, value: str) -> str:
    """One setting; for a long name the value is on the next line."""
    return f"  {name:<28} {value}" if len(name) <= 28 else f"  {name}\n  {'':<28} {value}"
