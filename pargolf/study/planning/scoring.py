"""How long scoring takes here: score a few windows at three shapes, and estimate any other shape from them.

    seconds of a position = a + b weights + c traffic       weights: in millions; traffic: 1e3 numbers moved

A run scores its artifact three times: in plain windows, in sliding ones, which show every position twice, and so once
more while it adapts. The tokens are drawn by Zipf's law, so that the counts of n-grams find what they find in a text's
first thousand tokens; further on they take a little more.
"""

from dataclasses import dataclass

import numpy as np

from pargolf.core.budget import Clock
from pargolf.core.ranges import Rate
from pargolf.core.world import World
from pargolf.evaluate.adapted import score_adapted
from pargolf.evaluate.score import Score, final, score
from pargolf.evaluate.text import Text
from pargolf.recipes.family import Shape, member

_BOS = 1
_STRIDES = 6
"""Strides of the sliding windows that are scored."""
_PLAIN = 0.5
"""Of the seconds of sliding windows, those of plain ones, which show each position once."""
_REPLAYS, _BEGINNING = 4, 400
"""Times that a text's beginning is adapted to once more, to see whether anything looks ahead, and how much that is."""
_BESIDE = 1.1
"""For unpacking, windows that are shown twice, and counts that grow (`benchmarks/plan.py --scoring`)."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a position by what a shape makes it do."""

    fixed: Rate
    weights: Rate
    traffic: Rate

    def of(self, shape: Shape) -> float:
        """Seconds of a position."""
        return float(np.dot(scoring_features(shape), (self.fixed, self.weights, self.traffic)))


@dataclass(frozen=True)
class ScoringCost:
    """Seconds of a position in sliding windows, and while the model adapts as the family does."""

    sliding: Cost
    adapting: Cost

    def run(self, shape: Shape, positions: float) -> float:
        """Seconds of all scorings of an artifact."""
        seconds = (1 + _PLAIN) * self.sliding.of(shape) * positions
        if shape.adapt:
            seconds += self.adapting.of(shape) * (positions + _REPLAYS * max(2 * shape.seq_len, positions / _BEGINNING))
        return _BESIDE * seconds


def scoring_features(shape: Shape) -> tuple[float, float, float]:
    """What a position costs: 1, 1e6 weights to multiply by and to update, 1e3 numbers moved between products."""
    moved = shape.vocab + shape.blocks * (20 * shape.dim + 4 * shape.hidden)
    return 1.0, shape.weights / 1e6, moved / 1e3


def time_scoring(shape: Shape, world: World, clock: Clock) -> tuple[float, float]:
    """Seconds of a position in sliding windows, and adapting; of each the second time, when all is warm."""
    recipe = member(shape)
    model, windows = recipe.model.build(0).to(world.device).eval(), recipe.windows
    text = _text(shape, _STRIDES * recipe.train.seq_len // 2)

    def slide() -> Score:
        return final(score(model, text, windows, device=world.device, probe=False))

    slide()
    began = clock.seconds
    without = slide()
    sliding = (clock.seconds - began) / text.positions
    assert recipe.adapt is not None
    adapting = score_adapted(model, text, windows, recipe.adapt, device=world.device, without=without, probe=False)
    marks = [clock.seconds for _ in adapting]
    # A mark before each grading and before each learning from it; the first window is a longer one.
    turns = np.diff(marks[2::2])
    return sliding, float(np.median(turns)) / (recipe.train.seq_len // 2)


def _text(shape: Shape, positions: int) -> Text:
    """Tokens of a vocabulary by Zipf's law."""
    chance = 1.0 / np.arange(1, shape.vocab - 1)
    tokens = np.random.default_rng(0).choice(shape.vocab - 2, positions + 1, p=chance / chance.sum()) + 2
    return Text(tokens.astype(np.uint16), np.ones(positions, dtype=np.uint8), shape.vocab, _BOS)
