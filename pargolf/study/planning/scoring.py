"""How long scoring takes on this machine: score a few windows at three shapes, and estimate any other shape from them.

    seconds of a position = a + b weights + c traffic       weights: in millions; traffic: 1e3 numbers moved

A run scores its artifact three times: in plain windows, in sliding windows, and in sliding windows with adaptation.
Sliding windows compute every position twice. The tokens are drawn by Zipf's law, so n-gram counts find about as much as
in the first thousand tokens of a text. Later in a text they take a little longer.
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
"""How many strides of sliding windows are timed."""
_PLAIN = 0.5
"""Seconds of plain windows, as a share of sliding ones: they compute each position once."""
_REPLAYS, _BEGINNING = 4, 400
"""The check for look-ahead adapts to the beginning of a text again: how often, and to what share of the text."""
_BESIDE = 1.1
"""A factor for unpacking, windows computed twice and growing counts (from `benchmarks/plan.py --scoring`)."""


@dataclass(frozen=True)
class Cost:
    """Seconds per position, as a linear function of a shape."""

    fixed: Rate
    weights: Rate
    traffic: Rate

    def of(self, shape: Shape) -> float:
        """Seconds per position of a shape."""
        return float(np.dot(scoring_features(shape), (self.fixed, self.weights, self.traffic)))


@dataclass(frozen=True)
class ScoringCost:
    """Seconds per position in sliding windows, without adaptation and with it."""

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
    """Seconds per position in sliding windows, without adaptation and with it. Each is timed on its second run."""
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
    # There is a mark before each scoring and before each update that learns from it. The first window is longer.
    turns = np.diff(marks[2::2])
    return sliding, float(np.median(turns)) / (recipe.train.seq_len // 2)


def _text(shape: Shape, positions: int) -> Text:
    """Made-up text: tokens of a vocabulary, drawn by Zipf's law."""
    chance = 1.0 / np.arange(1, shape.vocab - 1)
    tokens = np.random.default_rng(0).choice(shape.vocab - 2, positions + 1, p=chance / chance.sum()) + 2
    return Text(tokens.astype(np.uint16), np.ones(positions, dtype=np.uint8), shape.vocab, _BOS)
