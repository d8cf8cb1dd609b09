"""Weights grow as the walk says: straight at first, then as the root of the steps, bounded by decay."""

from dataclasses import replace

import pytest
import small
import torch

from pargolf.core.budget import Budget
from pargolf.core.spec import edit
from pargolf.recipes.house import RECIPE as HOUSE
from pargolf.recipes.published.baseline import RECIPE as BASELINE
from pargolf.recipes.recipe import Recipe
from pargolf.recipes.scale import mini
from pargolf.run.forecast import forecast
from pargolf.run.growth import deviation, expected_steps
from pargolf.training.adam import Adam, Frozen
from pargolf.training.muon import Muon
from pargolf.training.schedule import Warmdown

FLAT = replace(small.RECIPE, train=small.train(schedule=Warmdown(0.0)))
SQUARE = torch.Size([128, 128])


def grown(rate, steps, shape=SQUARE, recipe: Recipe = FLAT, name="blocks.0.attn.out.weight"):
    return deviation(recipe, name, shape, rate, steps=steps)


def test_a_walk_is_straight_then_diffusive_then_bounded():
    muon = Muon(0.02)
    assert grown(muon, 2) / grown(muon, 1) == pytest.approx(2, rel=0.03)
    assert grown(muon, 40_000) / grown(muon, 10_000) == pytest.approx(2, rel=0.02)
    assert grown(muon, 1) == pytest.approx(0.7 * 0.02 / 128**0.5)
    decayed = Muon(0.02, weight_decay=0.5)
    assert grown(decayed, 4000) == pytest.approx(grown(decayed, 2000), rel=1e-3)
    # Matrices start at zero here, and frozen ones stay as they start.
    assert grown(Frozen(), 100) == 0.0
    start = grown(Frozen(), 9, name="blocks.0.mlp.up.weight")
    assert start == pytest.approx(1 / (3 * 128) ** 0.5, rel=0.02)
    assert grown(decayed, 4000, name="blocks.0.mlp.up.weight") == pytest.approx(grown(decayed, 4000), rel=1e-3)
    assert grown(Adam(0.02), 1) == pytest.approx(0.01)


def test_steps_are_the_recipe_s_the_source_s_or_a_processor_s():
    assert expected_steps(edit(HOUSE, {"train.steps": 77})) == 77
    assert expected_steps(HOUSE) == round(180 * 6400 / 2048)
    reported = BASELINE.reported
    assert expected_steps(BASELINE) == pytest.approx(reported.steps, rel=0.01)
    half = replace(BASELINE, budget=Budget(train_seconds=300.0))
    assert expected_steps(half) == pytest.approx(reported.steps / 2, rel=0.01)


def test_under_a_floor_more_steps_are_more_bytes_and_without_one_they_are_not():
    floored = mini(BASELINE)
    assert forecast(floored, steps=400).model > 1.02 * forecast(floored, steps=100).model
    free = [forecast(HOUSE, steps=steps).model for steps in (100, 400)]
    assert free[0] == pytest.approx(free[1], rel=0.003)
    # As published, at full size, which was not fitted on.
    assert forecast(BASELINE).model == pytest.approx(BASELINE.reported.bytes, rel=0.01)
