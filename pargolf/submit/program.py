"""A recipe as one program: `train_gpt.py`, which needs torch, numpy, sentencepiece and codecs, but not this package.

    roots: the script's `main`, and each class and function that the recipe names
    OWN_RECIPE = the recipe as JSON      OWN_PARTS = {address: class or function}, all that an artifact may name

So the program reads artifacts of the package and the package reads the program's. Methods for checkpoints, looks and
adaptation are left out where this recipe's program never calls them.
"""

import ast
import json
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pargolf.core import spec
from pargolf.run.recipe import Recipe
from pargolf.submit.flatten import Flat, flatten

ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = "pargolf.submit.script:"
_INSTEAD = {
    "pargolf.core.spec:_find": f"{_SCRIPT}find_part",
    "pargolf.core.spec:_address": f"{_SCRIPT}part_address",
    "pargolf.run.pack:count_code": f"{_SCRIPT}own_bytes",
}
_WITHOUT = ("Training.state", "Training.restore", "Validation.sample", "Validation.documents")
_HEAD = '''"""{name}: train, pack and score in one file.

    python train_gpt.py --data DIR --seed 42                    train, write model.pargolf, score it
    python train_gpt.py --evaluate model.pargolf --data DIR     score an artifact
"""

from __future__ import annotations

'''


@cache
def program(recipe: Recipe, *, fitted: bool = False, also: tuple[str, ...] = ()) -> str:
    """The readable source; `fitted` where the run's grids were narrowed to meet the cap, and the program's must be.

    `also`: addresses of parts that artifacts name beyond the recipe's own.
    """
    parts = sorted({*addresses(spec.dump(recipe)), *also})
    instead, without = dict(_INSTEAD), list(_WITHOUT)
    if recipe.adapt is None:
        without.append("Validation.adapt")
    else:
        instead[f"{_SCRIPT}graded_by"] = f"{_SCRIPT}adapted_score"
    if recipe.quant.solver is not None:
        instead[f"{_SCRIPT}seen_by"] = f"{_SCRIPT}calibrated"
    if fitted or recipe.quant.fill:
        instead[f"{_SCRIPT}packed"] = f"{_SCRIPT}fitted"
    flat = flatten(ROOT, [f"{_SCRIPT}main", *parts], instead=instead, without=without)
    text = [_HEAD.format(name=recipe.name), "\n".join(flat.imports), "\n\n"]
    module = ""
    for home, node in flat.definitions:
        if _assigns(node, ("OWN_PARTS", "OWN_RECIPE")):
            continue
        if home != module:
            module = home
            text.append(f"\n# {module.replace('.', '/')}.py\n")
        gap = "\n" if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
        text.append(f"{gap}{ast.unparse(ast.fix_missing_locations(node))}\n{gap}")
    return "".join([*text, _tables(recipe, flat, parts), "\n\nif __name__ == '__main__':\n    main()\n"])


def _tables(recipe: Recipe, flat: Flat, parts: list[str]) -> str:
    """The recipe, and the classes and functions that it names."""
    dumped = json.dumps(_lean(recipe), separators=(",", ":"))
    rows = "".join(f"    {address!r}: {flat.name(address)},\n" for address in parts)
    recipe_name, parts_name = flat.name(f"{_SCRIPT}OWN_RECIPE"), flat.name(f"{_SCRIPT}OWN_PARTS")
    return f"\n{recipe_name} = {dumped!r}\n{parts_name} = {{\n{rows}}}\n"


def _lean(value: Any) -> Any:
    """`spec.dump` without fields that have their default."""
    if isinstance(value, tuple | list):
        return [_lean(item) for item in value]
    if not is_dataclass(value):
        return spec.dump(value)
    changed = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
    return {"is": spec.dump(value)["is"], **{name: _lean(held) for name, held in changed.items()}}


def addresses(dumped: Any) -> set[str]:
    """Classes and functions that a dumped spec names."""
    if isinstance(dumped, list):
        return {address for item in dumped for address in addresses(item)}
    if not isinstance(dumped, dict):
        return set()
    own = {str(dumped[key]) for key in ("is", "fn") if key in dumped}
    return own.union(*(addresses(value) for value in dumped.values()))


def _assigns(node: ast.stmt, names: tuple[str, ...]) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return isinstance(node, ast.Assign | ast.AnnAssign) and any(
        isinstance(target, ast.Name) and target.id in names for target in targets
    )
