"""Calls on recipes: list, find, scale, change, print and compare them; forecast their bytes."""

from typing import TYPE_CHECKING, Any

from pargolf.api.parameters import Changes, PathLike, RecipeLike
from pargolf.core.ranges import Some
from pargolf.recipes import catalog

if TYPE_CHECKING:
    from pargolf.recipes.recipe import Recipe


def list_recipes() -> list[dict[str, str]]:
    """List the shipped recipes.

    Returns:
        A row for each: its name, and its title.
    """
    return catalog.summaries()


def recipe(recipe: RecipeLike, *, scale: str | None = None, changes: Changes | None = None) -> "Recipe":
    """Find a recipe, scale it and change its rows.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        scale: mini: the same system at a size a CPU trains in minutes.
        changes: Rows to change, path=value.

    Raises:
        UserError: there is no such recipe or row, or a row does not take the value.
    """
    from pargolf.core.spec import checked, edit
    from pargolf.recipes.recipe import Recipe
    from pargolf.recipes.scale import scaled
    from pargolf.recipes.trial import limits

    base = recipe if isinstance(recipe, Recipe) else catalog.find(str(recipe))
    ready = checked(edit(scaled(base, scale), changes or {}))
    limits(ready)
    return ready


def describe(recipe: RecipeLike, *, scale: str | None = None) -> str:
    """Print a recipe row by row, with what each row was measured to be worth.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        scale: mini: the same system at a size a CPU trains in minutes; measured worths are not shown.
    """
    from pargolf.recipes.describe import describe as describe_recipe
    from pargolf.recipes.recipe import Recipe

    if scale or isinstance(recipe, Recipe):
        return describe_recipe(_recipe(recipe, scale=scale))
    edits, worths = catalog.ablations(str(recipe)), catalog.measured(str(recipe))
    return describe_recipe(_recipe(recipe), edits=edits, ablation=worths)


def diff(a: RecipeLike, b: RecipeLike) -> dict[str, tuple[str | None, str | None]]:
    """Print the rows in which two recipes differ.

    Args:
        a: A recipe.
        b: The other one.

    Returns:
        Both values by row; None if a recipe does not have the row.
    """
    from pargolf.recipes.describe import diff as diff_rows

    return diff_rows(_recipe(a), _recipe(b))


def forecast(
    recipe: RecipeLike,
    *,
    changes: Changes | None = None,
    scale: str | None = None,
    data: PathLike | None = None,
    steps: Some | None = None,
) -> dict[str, Any]:
    """Forecast the bytes of a recipe's artifact before training.

    Args:
        recipe: A shipped recipe's name, or a .py file that defines RECIPE.
        changes: Rows to change, path=value.
        scale: mini: the same system at a size a CPU trains in minutes.
        data: The training data; shows which tokens occur in no text.
        steps: Steps of training; guessed when left out.

    Returns:
        Bytes of the model on the recipe's own grids (`by_role`, `model`), of the code, and of both (`total`). `lands`
        is the total after packing: if the recipe fills its cap (`fills`) or exceeds it, packing solves for other grids,
        and the total is at most 0.2 % below the cap.
    """
    from pargolf.data.folder import open_data
    from pargolf.model.transformer import parameters
    from pargolf.recipes.recipe import fit_to_data
    from pargolf.run.forecast import forecast as forecast_bytes
    from pargolf.run.forecast import lands, unused_pieces
    from pargolf.run.growth import expected_steps
    from pargolf.ship.size import count_code

    system, unused = _recipe(recipe, scale=scale, changes=changes), 0
    if data is not None:
        folder = open_data(data)
        system, unused = fit_to_data(system, folder), unused_pieces(folder)
    steps = steps or expected_steps(system)
    guess, code = forecast_bytes(system, unused=unused, steps=steps), count_code(system)
    return {
        "recipe": system.name,
        "steps": steps,
        "parameters": parameters(system.model),
        "model": guess.model,
        "code": code,
        "total": guess.model + code,
        "cap": system.budget.bytes,
        "fills": system.quant.fill,
        "lands": lands(system, guess.model, code=code),
        "by_role": guess.by_role,
    }


_recipe = recipe
"""The function `recipe`, for functions with a parameter of the same name."""
