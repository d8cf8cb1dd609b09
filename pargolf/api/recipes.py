"""Recipes found, scaled and changed; what one will weigh."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pargolf.core.spec import checked, edit
from pargolf.data.folder import open_data
from pargolf.model.transformer import parameters
from pargolf.recipes import catalog
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.recipes.scale import scaled
from pargolf.run.forecast import forecast as forecast_bytes
from pargolf.run.forecast import lands, unused_pieces
from pargolf.run.growth import expected_steps
from pargolf.ship.size import count_code

Found = str | Path | Recipe
"""A recipe: a shipped name, the path of a `.py` file that defines RECIPE, or the thing itself."""
Own = str | Path | Sequence[str | Path]
"""Files of techniques of one's own, or folders of such files, that may be run."""


def recipe(found: Found, *, scale: str | None = None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Find a recipe, scale it, change its rows. Raises `UserError` on a value that its field does not take."""
    base = found if isinstance(found, Recipe) else catalog.find(str(found))
    return checked(edit(scaled(base, scale), changes or {}))


def forecast(
    found: Found,
    *,
    scale: str | None = None,
    changes: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """What a recipe's artifact will weigh on its own grids, before any training: bytes of the model by role, and code.

    `lands` is what will be submitted: where the recipe fills its cap (`fills`) or is over it, the grids are solved for,
    and the total ends in the last .2 % under the cap. `data` say which pieces of the vocabulary no text has; `steps` of
    training are guessed where neither caller nor recipe says.
    """
    system, unused = recipe(found, scale=scale, changes=changes), 0
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
