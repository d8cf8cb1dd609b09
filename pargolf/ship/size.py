"""The bytes of code that count: those of the one file that a submission of the run would ship.

That file is the squeezed script of `pargolf submit --squeeze`. Writing it takes seconds, so a run starts it in a
separate process (`begin_count`) and asks for the size when it packs. If grids were solved to meet the cap, the script
needs the solver, and its bytes count.
"""

import json
import sys
from functools import cache

from pargolf.core import spec
from pargolf.recipes.recipe import Recipe
from pargolf.ship.cache import begin, known, ready
from pargolf.ship.program import Form, shipped

SOLVED = ("pargolf.quant.clip:StdDev", "pargolf.quant.grid:Int")
"""The parts that a solved grid may name in addition to those of the recipe."""


@cache
def count_code(recipe: Recipe, *, fitted: bool = False) -> int:
    """The code bytes that count for this recipe; `fitted` when its grids are solved for the cap."""
    return len(shipped(recipe, fitted=fitted, also=_beside(recipe, fitted)))


def begin_count(recipe: Recipe) -> None:
    """Start writing the script in another process, unless it is cached; a later count waits for it.

    A user's techniques are only known to this process, and whether a script can contain them should be known before
    hours of training; with them the script is written at once.
    """
    key, parts = _key(recipe), Form.of(recipe, also=_beside(recipe, False)).parts
    if any("@" in part for part in parts):
        count_code(recipe)
    elif not known(key):
        begin(key, "from pargolf.ship.size import count_for_another; count_for_another()", spec.dump(recipe))


def is_counted(recipe: Recipe) -> bool:
    """Whether `count_code` need not wait for another process."""
    return ready(_key(recipe))


def count_for_another() -> None:
    """Count the code of the recipe on standard input, which puts its script into the cache."""
    count_code(spec.load(json.load(sys.stdin), Recipe))


def _key(recipe: Recipe) -> str:
    return repr(Form.of(recipe, also=_beside(recipe, False)))


def _beside(recipe: Recipe, fitted: bool) -> tuple[str, ...]:
    return SOLVED if fitted or recipe.quant.fill else ()
