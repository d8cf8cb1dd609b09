"""The scaling law: bits per byte as a function of weights, new text, repeated text, and bits per weight.

    L = E + A N^-a + B D^-b         N: weights of blocks and a share of the table's, in millions
                                    D: tokens seen, in millions, times bytes per token to a power
    D = U (1 + R (1 - exp(-(e - 1) / R)))       for e > 1 times through U unique tokens

The form is Hoffmann et al. (2022, arXiv:2203.15556) with the decay of repeated text of Muennighoff et al. (2023,
arXiv:2305.16264). Packing adds what the bits per weight cost, and adaptation takes off what it gains. Every constant is
fitted on runs of our own, and `law.json` holds both: `python benchmarks/plan.py --fit` writes the first from the
second. Intervals come from the fit itself (delta method on its covariance, and the spread of its residuals), so they
widen away from the runs. docs/plan.md has the runs and the errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pargolf.core.files import read_json
from pargolf.core.ranges import Count, Index, Loss, Positive, Rate, Some
from pargolf.core.spec import build
from pargolf.recipes.family import Shape

_MILLION = 1e6
_WIDE = 1.96  # deviations of a 95 % interval


@dataclass(frozen=True)
class Packing:
    """A run packed under a cap: bytes of its model, net bits per weight of tables and matrices, bits per byte."""

    bytes: Some
    bits: Rate
    bpb: Loss
    seconds: Rate = 0.0


@dataclass(frozen=True)
class Run:
    """One training of the grid: its shape, steps and text, what it reached before packing, and packed.

    `seconds` are those of one thread's processor. `final` is the score after adaptation, where
    the whole was run; `source` says where the numbers stand, if not by the grid.
    """

    vocab: Count
    dim: Count
    blocks: Count
    hidden: Count
    batch_tokens: Count
    steps: Count
    text: str
    unique_tokens: Some
    unique_bytes: Some
    seconds: Rate
    bpb: Loss
    packed: tuple[Packing, ...] = ()
    final: Loss | None = None
    source: str = ""

    @property
    def shape(self) -> Shape:
        """What was trained."""
        return Shape(self.vocab, self.dim, self.blocks, self.hidden, self.batch_tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text in a token."""
        return self.unique_bytes / self.unique_tokens

    @property
    def tokens(self) -> int:
        """Tokens that it saw."""
        return self.steps * self.batch_tokens


@dataclass(frozen=True)
class Constants:
    """Fitted numbers of the law in the order of `values`, their covariance, and the residuals' spread (of log L)."""

    values: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    spread: Positive
    critical_batch: Positive

    def loss(self, shape: Shape, *, tokens: float, unique: float, bytes_per_token: float) -> float:
        """Bits per byte before packing, on the text that the constants were fitted on."""
        return law(
            self.values, shape, tokens=tokens, unique=unique, per_token=bytes_per_token, critical=self.critical_batch
        )

    def deviation(self, shape: Shape, *, tokens: float, unique: float, bytes_per_token: float) -> float:
        """Relative deviation of that forecast: what the fit leaves open here, and what single runs scatter."""
        how = {"tokens": tokens, "unique": unique, "per_token": bytes_per_token, "critical": self.critical_batch}
        middle = math.log(law(self.values, shape, **how))
        slopes = []
        for i, value in enumerate(self.values):
            step = 1e-4 * max(abs(value), 1e-2)
            moved = [v + step * (j == i) for j, v in enumerate(self.values)]
            slopes.append((math.log(law(moved, shape, **how)) - middle) / step)
        slope = np.array(slopes)
        return math.sqrt(self.spread**2 + max(float(slope @ np.array(self.covariance) @ slope), 0.0))


@dataclass(frozen=True)
class Curve:
    """A function known at some points: straight lines between, the last one going on behind the ends."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, x: float) -> float:
        """Its value."""
        i = min(max(int(np.searchsorted(self.x, x)), 1), len(self.x) - 1)
        share = (x - self.x[i - 1]) / (self.x[i] - self.x[i - 1])
        return self.y[i - 1] + share * (self.y[i] - self.y[i - 1])


@dataclass(frozen=True)
class Law:
    """Everything that a plan forecasts by, and the runs that it was fitted on.

    `bits` is log2 of the cost in bits per byte by net bits per weight. `gain` is what adaptation takes off, by bits
    per byte packed. `pieces` is bytes per token by log2 of the vocabulary, `hardness` bits per byte under xz by log2
    of a sample's bytes, both of the text of the runs. `elsewhere` is the relative deviation on another text. `packing`
    is seconds of one packing by millions of weights, where a step of `house` takes `step_seconds`.
    """

    constants: Constants
    bits: Curve
    gain: Curve
    pieces: Curve
    hardness: Curve
    packing: Curve
    elsewhere: Positive
    measured: str
    runs: tuple[Run, ...]
    step_seconds: Positive = 0.25
    fitted: Index = 0

    def cost(self, bits: float) -> float:
        """What packing at so many net bits per weight adds to the bits per byte."""
        return float(2.0 ** self.bits(bits))

    def adapted(self, packed: float) -> float:
        """Bits per byte after legal adaptation; beyond the runs that had it, it gains what it gained at their end."""
        low, high = self.gain.x[0], self.gain.x[-1]
        return packed - max(self.gain(min(max(packed, low), high)), 0.0)


def law(
    values: Sequence[float], shape: Shape, *, tokens: float, unique: float, per_token: float, critical: float
) -> float:
    """The law itself; `values` are E, log A, a, log B, b, log R, the table's share, the power of bytes per token."""
    floor, width, width_power, text, text_power, repeats, share, spelled = values
    weights = (shape.blocks * shape.matrices + share * shape.table) / _MILLION
    seen = effective(tokens, unique, math.exp(repeats)) * (1 + 2048 / critical) / (1 + shape.batch_tokens / critical)
    known = seen / _MILLION * per_token**spelled
    return float(floor + math.exp(width) * weights**-width_power + math.exp(text) * known**-text_power)


def effective(tokens: float, unique: float, repeats: float) -> float:
    """What `tokens` seen of `unique` ones are worth in new ones; repeats halve in worth every .7 `repeats` passes."""
    passes = tokens / unique
    if passes <= 1:
        return tokens
    return float(unique * (1 + repeats * (1 - math.exp(-(passes - 1) / repeats))))


def interval(value: float, deviation: float) -> tuple[float, float]:
    """95 % around a forecast whose logarithm has this deviation."""
    return value * math.exp(-_WIDE * deviation), value * math.exp(_WIDE * deviation)


@cache
def read_law(path: Path | None = None) -> Law:
    """The law of `law.json`, or of another file like it. Raises `UserError` with file and field."""
    path = path or Path(__file__).with_name("law.json")
    return build(Law, read_json(path), where=str(path))
