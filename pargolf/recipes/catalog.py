"""The list of recipes, and how to find one by its name or its file.

A shipped recipe is a module of this folder, or of `published/`, that assigns `RECIPE` at its top level; its docstring
opens with `Title (short).` and has a line `Source: ...`. `names` and `summaries` read that from the syntax trees and
import nothing, so that listing does not load torch. A user's recipe is the path of a `.py` file that does the same; the
file is run (`core/own.py`) only if its syntax tree shows that it defines RECIPE.
"""

import ast
import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pargolf.core import own
from pargolf.core.ablation import Ablation, read_ablation
from pargolf.core.errors import UserError, near
from pargolf.core.sources import binds

if TYPE_CHECKING:
    from pargolf.recipes.recipe import Recipe

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The shipped recipes: the baseline, the published systems by number, each followed by its repaired form."""
    return [path.stem for path in _shipped()]


def summaries() -> list[dict[str, str]]:
    """`name`, `title` and `source` of every shipped recipe, without importing any."""
    return [{"name": path.stem, **_summary(path)} for path in _shipped()]


def find(name: str) -> "Recipe":
    """The recipe with a shipped name, or in a `.py` file that defines RECIPE; the file is run.

    Raises `UserError` on an unknown name, a missing file, and a file that fails or defines no recipe.
    """
    return _recipe(_module(name), name)


def ablations(name: str) -> dict[str, dict[str, Any]]:
    """The `ABLATIONS` of the recipe's module: edits by label; empty when it has none.

    Raises `UserError` as `find` does, and when `ABLATIONS` is not a mapping of labels to edits.
    """
    edits = getattr(_module(name), "ABLATIONS", {})
    if not isinstance(edits, dict) or not all(isinstance(rows, dict) for rows in edits.values()):
        raise UserError(f"ABLATIONS of {name} are not edits by label. Write {{'no gate': {{'model.stream': ()}}}}.")
    return edits


def measured(name: str) -> Ablation | None:
    """The ablation stored beside a recipe's file as NAME.ablation.json; None when there is none.

    Raises `UserError` when that file is not an ablation.
    """
    path = (next((p for p in _shipped() if p.stem == name), None) or Path(name)).with_suffix(".ablation.json")
    return read_ablation(path) if path.is_file() else None


@cache
def _shipped() -> list[Path]:
    """The modules that define RECIPE: names without a number first, then by number; repaired forms after their own."""
    paths = [path for path in (*_HERE.glob("*.py"), *_HERE.glob("published/*.py")) if binds(path, "RECIPE")]
    return sorted(paths, key=lambda path: (_number(path.stem), path.stem))


def _number(name: str) -> int:
    return int("".join(c for c in name if c.isdigit()) or 0)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def _summary(path: Path) -> dict[str, str]:
    """Title and source from the docstring."""
    lines = (ast.get_docstring(_tree(path)) or path.stem).splitlines()
    source = next((line.removeprefix("Source: ") for line in lines if line.startswith("Source: ")), "")
    return {"title": lines[0].rstrip("."), "source": source.rstrip(".")}


def _module(name: str) -> ModuleType:
    """The module of a shipped name, or of a file, which is run."""
    if name in names():
        path = next(path for path in _shipped() if path.stem == name)
        folder = "" if path.parent == _HERE else "published."
        return importlib.import_module(f"pargolf.recipes.{folder}{name}")
    if not name.endswith(".py"):
        raise UserError(f"No recipe is called '{name}'.{near(name, names())} A path must end in .py.")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"There is no file {name}. Shipped recipes: {', '.join(names())}.")
    if not binds(path, "RECIPE"):
        raise UserError(
            f"{name} defines no RECIPE, and was not run. End it with RECIPE = edit(SOME_RECIPE, {{...}}); to judge "
            f"somebody's script, use pargolf audit {name}."
        )
    return own.read(path)


def _recipe(module: ModuleType, name: str) -> "Recipe":
    from pargolf.recipes.recipe import Recipe

    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"RECIPE of {name} is not a recipe. Make it with RECIPE = edit(SOME_RECIPE, {{...}}).")
    return recipe
