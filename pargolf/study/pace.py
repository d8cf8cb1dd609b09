"""How many steps another recipe makes in the same seconds: train both side by side, one step each in turn.

    pace = mean over steps of (the other's seconds / the recipe's),   without the lowest and the highest fifth

On a machine with other users, the speed varies by more than most techniques are worth. But two steps in a row run under
the same conditions. Phases begin as usual, at their share of the steps.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pargolf.core import own, spec
from pargolf.core.budget import Clock
from pargolf.core.devices import find_world
from pargolf.core.events import Step
from pargolf.core.spec import edit
from pargolf.data.folder import DataFolder, open_data
from pargolf.kernels.compiled import compiled_kernels
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.study.together import on_all_processes
from pargolf.training.loop import Training

STEPS = 25


def pace(recipe: Recipe, other: Recipe, data: DataFolder, others: DataFolder, *, device: str | None = None) -> float:
    """Seconds per step of `other`, trained on the text `others`, divided by those of `recipe`."""
    ratios = [b / a for a, b in zip(_seconds(recipe, data, device), _seconds(other, others, device), strict=True)]
    middle = sorted(ratios)[STEPS // 5 : -STEPS // 5]
    return sum(middle) / len(middle)


def pace_together(
    recipe: Recipe, other: Recipe, data: DataFolder, others: DataFolder, *, device: str | None = None
) -> float:
    """`pace`, on all processes together."""
    if find_world(device).size == 1:
        return pace(recipe, other, data, others, device=device)
    sides = [(spec.dump(each), text.path, text.tokenizer_path) for each, text in ((recipe, data), (other, others))]
    files = [file for dumped, _, _ in sides for file in own.files_of(dumped)]
    (value,) = on_all_processes(_pace_from, sides, files, device, device=device)
    return value


def _pace_from(sides: list[tuple[Any, Path, Path | None]], files: own.Files, device: str | None) -> Iterator[float]:
    """`pace` from the plain data that the first process sent."""
    own.use_files(files)
    recipe, other = (spec.load(dumped) for dumped, _, _ in sides)
    data, others = (open_data(path, tokenizer=tokenizer) for _, path, tokenizer in sides)
    yield pace(recipe, other, data, others, device=device)


def _seconds(recipe: Recipe, data: DataFolder, device: str | None) -> Iterator[float]:
    """The seconds of each of a few steps, without the first; the generator makes each step when it is advanced."""
    recipe = edit(fit_to_data(recipe, data), {"train.steps": STEPS + 1, "train.seconds": None})
    world = find_world(device)
    clock = Clock(time.process_time if world.device.type == "cpu" else time.perf_counter)
    model = recipe.model.build(1).to(world.device)
    training = Training(
        recipe.train,
        model,
        data.train,
        seed=1,
        clock=clock,
        seconds=float("inf"),
        world=world,
        kernels=compiled_kernels,
    )
    training.warm_up()
    events = (event for event in training.run() if isinstance(event, Step))
    for number in range(STEPS + 1):
        began = clock.seconds  # read here, because the other recipe's step comes between two of ours
        next(events)
        if number:
            yield clock.seconds - began
