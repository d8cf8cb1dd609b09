"""Variants of a recipe for an ablation: without one of its parts, or with one more.

An edit is a label and the rows that it changes. Rows of tables for parameters that no longer exist are removed as well.
The label of an addition begins with "+ ". Without edits, the parts are the fields of model and training in which a
recipe differs from a base, and quantization, codec, windows and so on as a whole.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pargolf.core.ablation import ADDED
from pargolf.core.errors import UserError, near
from pargolf.core.roles import Table, matches
from pargolf.core.spec import edit, overrides
from pargolf.model.transformer import shapes
from pargolf.recipes.recipe import Recipe

T = TypeVar("T")
Edits = Mapping[str, Mapping[str, Any]]
_NO_PARTS = ("name", "source", "reported", "budget")
_EQUAL = ("train.steps", "train.seconds", "train.validate_every")


def base_parts(recipe: Recipe, base: Recipe) -> dict[str, Recipe]:
    """The recipe without each of its parts, by the part's path. Raises `UserError` when it equals the base."""
    out = {}
    for path in _parts(recipe, base):
        outer, _, inner = path.partition(".")
        old = getattr(base, outer)
        value = replace(getattr(recipe, outer), **{inner: getattr(old, inner)}) if inner else old
        changed: dict[str, Any] = {outer: value}
        out[path] = _fitting(replace(recipe, name=f"{recipe.name} without {path}", **changed))
    if not out:
        raise UserError(f"{recipe.name} has no part that {base.name} does not have. Name another --base.")
    return out


def edited_parts(recipe: Recipe, edits: Edits) -> dict[str, Recipe]:
    """The recipe under each edit, by label. Raises `UserError` that names the edit that does not fit."""
    out = {}
    for label, changes in edits.items():
        try:
            variant = _fitting(edit(recipe, changes))
        except ValueError as error:
            raise UserError(f"The edit '{label}' does not fit {recipe.name}: {error}") from error
        how = f"with {label.removeprefix(ADDED)}" if label.startswith(ADDED) else f"without {label}"
        out[label] = replace(variant, name=f"{recipe.name} {how}")
    return out


def parse_edits(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parse `LABEL: PATH=VALUE PATH=VALUE`; without a label, the rows are the label."""
    out: dict[str, dict[str, Any]] = {}
    for word in words:
        label, colon, rows = word.partition(": ")
        changes = overrides(shlex.split(rows if colon else word))
        if not changes or (label if colon else word) in out:
            raise UserError(f"'{word}' is empty or repeats a label. Write 'LABEL: PATH=VALUE', each label once.")
        out[label if colon else word] = changes
    return out


def chosen(variants: Mapping[str, Recipe], only: Sequence[str]) -> dict[str, Recipe]:
    """The variants whose labels match a glob of `only`; all when `only` is empty. Raises `UserError` on no match."""
    for glob in only:
        if not any(fnmatchcase(label, glob) for label in variants):
            raise UserError(f"No part is called '{glob}'.{near(glob, list(variants))}")
    return {label: v for label, v in variants.items() if not only or any(fnmatchcase(label, glob) for glob in only)}


def in_plain_windows(recipe: Recipe) -> Recipe:
    """The recipe scored over its plain windows only, without adaptation, in a fraction of the time."""
    return replace(recipe, windows=recipe.plain, adapt=None)


def _parts(recipe: Recipe, base: Recipe) -> list[str]:
    """The paths in which the recipes differ: `model.embed`, `train.average`, `quant`."""
    paths = []
    for outer in (f.name for f in fields(recipe) if f.name not in _NO_PARTS):
        new, old = getattr(recipe, outer), getattr(base, outer)
        if outer in ("model", "train"):
            differ = [f.name for f in fields(new) if getattr(new, f.name) != getattr(old, f.name)]
            paths += [f"{outer}.{inner}" for inner in differ if f"{outer}.{inner}" not in _EQUAL]
        elif new != old:
            paths.append(outer)
    return paths


def _fitting(recipe: Recipe) -> Recipe:
    """The recipe without table rows that match no parameter any more."""
    names = list(shapes(recipe.model))
    quant, train = recipe.quant, recipe.train
    if quant.pruned is not None:
        roles = tuple(glob for glob in quant.pruned.roles if any(matches(name, glob) for name in names))
        quant = replace(quant, pruned=replace(quant.pruned, roles=roles))
    phases = tuple(replace(phase, weights=_without_rows(phase.weights, names)) for phase in train.phases)
    return replace(
        recipe,
        model=replace(recipe.model, init=_rows(recipe.model.init, names)),
        quant=replace(quant, table=_rows(quant.table, names)),
        train=replace(train, optimizer=_rows(train.optimizer, names), phases=phases),
    )


def _without_rows(weights: Any, names: Sequence[str]) -> Any:
    """The weight change of a phase; if it has a table, without rows that match no parameter any more."""
    return replace(weights, table=_rows(weights.table, names)) if hasattr(weights, "table") else weights


def _rows(table: Table[T], names: Sequence[str]) -> tuple[tuple[str, T], ...]:
    return tuple((glob, value) for glob, value in table if any(matches(name, glob) for name in names))
