"""The code that counts: the bytes of the one file that a submission of the run would ship.

It is the squeezed script of `pargolf submit --squeeze`, made before the run trains, so that what fills the cap is what
is shipped. A grid that had to be narrowed to meet the cap needs the solver in the script, and counts it.
"""

from functools import cache

from pargolf.recipes.recipe import Recipe
from pargolf.ship.program import shipped


@cache
def count_code(recipe: Recipe, *, fitted: bool = False) -> int:
    """Code bytes that count for this recipe; `fitted` where its grids are solved for the cap."""
    return len(shipped(recipe, fitted=fitted, also=SOLVED if fitted or recipe.quant.fill else ()))


SOLVED = ("pargolf.quant.clip:StdDev", "pargolf.quant.grid:Int")
"""What a solved grid may name beside the parts of the recipe."""
