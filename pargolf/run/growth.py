"""How large weights grow in training: a random walk whose steps agree for a while, then turn.

    w' = (1 - lr m decay) w + unit lr m v,    v of deviation `push`, its correlation falling by the factor `keep` per
    step

m is the schedule's multiplier. Muon's update is a nearly orthogonal matrix, so its weights move by unit =
sqrt(max(1, rows / columns)) / sqrt(max(rows, columns)). Adam's weights move by about the rate itself, unit = 1, which
is also assumed for rows without a `growth` method. While steps agree, weights grow in proportion to their number, later
in proportion to its root; decay limits them. Two numbers per optimizer were fitted on four runs of this project (21 to
631 steps, rates .02 to .05). Batches of a cluster's size have less noise and agree for longer: one more number, from
the report of pull request 549. docs/quant.md has comparisons.
"""

import math
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, cast

import torch

from pargolf.core.roles import matches
from pargolf.model.init import Init, generator_for
from pargolf.model.transformer import Model
from pargolf.recipes.recipe import Recipe
from pargolf.training.adam import Growth
from pargolf.training.loop import Train
from pargolf.training.schedule import Moment

_FULL = 1 << 16  # tokens per batch from which a recipe counts as made for a cluster
_PACE = 6400  # tokens per second that one CPU core trains, for models of a megabyte
_PUBLISHED = 6000, 600.0  # steps and seconds that are assumed when a source does not report them


def expected_steps(recipe: Recipe) -> int:
    """The expected number of training steps: the recipe's, or by its source's pace, or by the pace of a CPU."""
    train, reported = recipe.train, recipe.reported
    if train.steps is not None:
        return train.steps
    seconds = train.seconds or recipe.budget.train_seconds
    if train.batch_tokens >= _FULL:
        steps = reported.steps or _PUBLISHED[0]
        return max(1, round(steps * seconds / (reported.seconds or _PUBLISHED[1])))
    return max(1, round(seconds * _PACE / train.batch_tokens))


def deviation(recipe: Recipe, name: str, shape: torch.Size, rate: Any, *, steps: int) -> float:
    """The root mean square of a matrix after `steps` steps under its row of the optimizer table."""
    start, lr = _start(recipe.model, name, shape), float(getattr(rate, "lr", 0.0))
    if not lr:
        return start
    cluster = recipe.train.batch_tokens >= _FULL
    walk = rate.growth(shape, cluster=cluster) if hasattr(rate, "growth") else Growth()
    decay = float(getattr(rate, "weight_decay", 0.0))
    grown, start_share = _walk(recipe.train, steps, lr, decay, walk.push, walk.keep)
    return math.hypot(walk.unit * grown, start_share * start)


@lru_cache(maxsize=64)
def _walk(train: Train, steps: int, lr: float, decay: float, push: float, keep: float) -> tuple[float, float]:
    """How far a weight of unit 1 has moved, and the remaining share of its initial value."""
    square, along, start_share = 0.0, 0.0, 1.0
    for step in range(steps):
        pace = lr * train.schedule(Moment(step, step, steps))
        decayed, moved = 1.0 - pace * decay, pace * push
        square = decayed * decayed * square + 2.0 * decayed * moved * along + moved * moved
        along = keep * (decayed * along + moved)
        start_share *= decayed
    return math.sqrt(square), start_share


def _start(model: Model, name: str, shape: torch.Size) -> float:
    """The root mean square of the initial values."""
    init = next((init for glob, init in model.init if matches(name, glob)), None)
    return 0.0 if init is None else _of_init(cast(Hashable, init), shape, len(model.blocks))


@lru_cache(maxsize=256)
def _of_init(init: Hashable, shape: torch.Size, layers: int) -> float:
    values = cast(Init, init)(shape, generator_for("growth", 0), layers)
    return float(values.square().mean().sqrt())
