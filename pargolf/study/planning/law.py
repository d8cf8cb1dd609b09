"""The scaling law: bits per byte as a function of weights, new text, repeated text, and bits per weight.

    L = E + A N^-a + B D^-b         N: weights of blocks and a share of the table's, in millions
                                    D: tokens seen, in millions, times bytes per token to a power
    D = U (1 + R (1 - exp(-(e - 1) / R)))       for e > 1 passes through U unique tokens

The form is from Hoffmann et al. (2022, arXiv:2203.15556), the decay of repeated text from Muennighoff et al. (2023,
arXiv:2305.16264). Packing adds a cost that depends on the bits per weight. Adaptation takes a gain off. Every constant
is fitted on runs of our own. `law.json` holds constants and runs; `python benchmarks/plan.py --fit` computes the
constants from the runs. Intervals come from the fit itself (delta method on its covariance, and the spread of its
residuals), so they widen away from the runs. docs/plan.md has the runs and the errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from pargolf.core.files import read_json
from pargolf.core.ranges import Count, Index, Loss, Positive, Rate, Some
from pargolf.core.spec import build
from pargolf.recipes.family import Shape

_MILLION = 1e6
_WIDE = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Packing:
    """One packing under a cap: bytes of the model, net bits per weight of tables and matrices, bits per byte."""

    bytes: Some
    bits: Rate
    bpb: Loss
    seconds: Rate = 0.0


@dataclass(frozen=True)
class Run:
    """One training run of the grid: its shape, steps and text, and its scores before and after packing.

    `seconds` are those of one thread's processor. `final` is the score after adaptation, where it was measured.
    `source` says where the numbers are from, if not from the grid.
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
        """The shape that was trained."""
        return Shape(self.vocab, self.dim, self.blocks, self.hidden, self.batch_tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text per token."""
        return self.unique_bytes / self.unique_tokens

    @property
    def tokens(self) -> int:
        """Tokens seen in training."""
        return self.steps * self.batch_tokens


@dataclass(frozen=True)
class Constants:
    """The law's fitted numbers in the order of `values`, their covariance, and the residuals' spread (of log L)."""

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
        """Relative standard deviation of that forecast: uncertainty of the fit, and scatter of single runs."""
        arguments = {"tokens": tokens, "unique": unique, "per_token": bytes_per_token, "critical": self.critical_batch}
        middle = math.log(law(self.values, shape, **arguments))
        slopes = []
        for i, value in enumerate(self.values):
            step = 1e-4 * max(abs(value), 1e-2)
            moved = [v + step * (j == i) for j, v in enumerate(self.values)]
            slopes.append((math.log(law(moved, shape, **arguments)) - middle) / step)
        slope = np.array(slopes)
        return math.sqrt(self.spread**2 + max(float(slope @ np.array(self.covariance) @ slope), 0.0))


@dataclass(frozen=True)
class Curve:
    """A function given by points: straight lines between them, and the last line extended beyond each end."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, x: float) -> float:
        """The value at `x`."""
        i = min(max(int(np.searchsorted(self.x, x)), 1), len(self.x) - 1)
        share = (x - self.x[i - 1]) / (self.x[i] - self.x[i - 1])
        return self.y[i - 1] + share * (self.y[i] - self.y[i - 1])


@dataclass(frozen=True)
class Law:
    """All that a plan forecasts with, and the runs that it was fitted on.

    `bits` is log2 of the cost of packing in bits per byte, by net bits per weight, after one token per weight; longer
    training makes it (tokens per weight)^`trained` as large. `gain` is what adaptation gains, by
    packed bits per byte. `pieces` is bytes per token by log2 of the vocabulary, `hardness` bits per byte under xz by
    log2 of a sample's bytes, both for the text of the runs. `elsewhere` is the relative deviation on another text.
    `packing` is seconds of one packing by millions of weights, on a machine where a step of `house` takes
    `step_seconds`.
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
    trained: Rate = 0.0

    def cost(self, bits: float, tokens: float, shape: Shape) -> float:
        """Bits per byte that packing adds at this many net bits per weight, after training on so many tokens.

        Longer training than in any packed run counts as theirs.
        """
        return float(2.0 ** self.bits(bits) * min(tokens / shape.weights, self._longest) ** self.trained)

    @cached_property
    def _longest(self) -> float:
        """The most tokens per weight of the packed runs."""
        return max((run.tokens / run.shape.weights for run in self.runs if run.packed), default=1.0)

    def adapted(self, packed: float) -> float:
        """Bits per byte after legal adaptation. Outside the measured scores the gain is that of the nearest end."""
        low, high = self.gain.x[0], self.gain.x[-1]
        return packed - max(self.gain(min(max(packed, low), high)), 0.0)


def law(
    values: Sequence[float], shape: Shape, *, tokens: float, unique: float, per_token: float, critical: float
) -> float:
    """The law itself.

    The `values` are E, log A, a, log B, b, log R, the share of the table, the power of bytes per token.
    """
    floor, width, width_power, text, text_power, repeats, share, spelled = values
    weights = (shape.blocks * shape.matrices + share * shape.table) / _MILLION
    seen = effective(tokens, unique, math.exp(repeats)) * (1 + 2048 / critical) / (1 + shape.batch_tokens / critical)
    text_seen = seen / _MILLION * per_token**spelled
    return float(floor + math.exp(width) * weights**-width_power + math.exp(text) * text_seen**-text_power)


def effective(tokens: float, unique: float, repeats: float) -> float:
    """How many new tokens `tokens` are worth, when only `unique` of them are new.

    Repeats lose half their worth every .7 `repeats` passes.
    """
    passes = tokens / unique
    if passes <= 1:
        return tokens
    return float(unique * (1 + repeats * (1 - math.exp(-(passes - 1) / repeats))))


def interval(value: float, deviation: float) -> tuple[float, float]:
    """The 95 % interval around a forecast whose logarithm has this standard deviation."""
    return value * math.exp(-_WIDE * deviation), value * math.exp(_WIDE * deviation)


@cache
def read_law(path: Path | None = None) -> Law:
    """Read the law from `law.json`, or from another file like it. Raises `UserError` with file and field."""
    path = path or Path(__file__).with_name("law.json")
    return build(Law, read_json(path), where=str(path))
