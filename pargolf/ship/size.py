"""The bytes of code that count: those of the one file that a submission of the run would ship.

It is the squeezed script of `pargolf submit --squeeze`. Writing it takes seconds, so a run begins it in a process of
its own (`begin_count`) and asks for the bytes when it packs. A grid that had to be narrowed to meet the cap needs the
solver in the script, and counts it.
"""

import json
import sys
from functools import cache

from pargolf.core import spec
from pargolf.recipes.recipe import Recipe
from pargolf.ship.cache import begin, known, ready
from pargolf.ship.program import Form, shipped

SOLVED = ("pargolf.quant.clip:StdDev", "pargolf.quant.grid:Int")
"""What a solved grid may name beside the parts of the recipe."""


@cache
def count_code(recipe: Recipe, *, fitted: bool = False) -> int:
    """Code bytes that count for this recipe; `fitted` where its grids are solved for the cap."""
    return len(shipped(recipe, fitted=fitted, also=_beside(recipe, fitted)))


def begin_count(recipe: Recipe) -> None:
    """Have the script written by another process, unless it is known; later counting waits for that.

    Techniques of a file of one's own are only known here, and whether a script can hold them should be said before
    hours of training: there it is counted at once.
    """
    key, parts = _key(recipe), Form.of(recipe, also=_beside(recipe, False)).parts
    if any("@" in part for part in parts):
        count_code(recipe)
    elif not known(key):
        begin(key, "from pargolf.ship.size import count_for_another; count_for_another()", spec.dump(recipe))


def is_counted(recipe: Recipe) -> bool:
    """Whether `count_code` would not wait for another process."""
    return ready(_key(recipe))


def count_for_another() -> None:
    """Count the code of the recipe that standard input holds, which leaves its script in the cache."""
    count_code(spec.load(json.load(sys.stdin), Recipe))


def _key(recipe: Recipe) -> str:
    return repr(Form.of(recipe, also=_beside(recipe, False)))


def _beside(recipe: Recipe, fitted: bool) -> tuple[str, ...]:
    return SOLVED if fitted or recipe.quant.fill else ()
