"""Phases: changes during a run, and the triggers that start them.

    Phase("qat", AtFraction(.65), weights=QAT(), reset_average=True)

A phase begins before the first step at which its trigger is true, and lasts to the end of the run. It may change:

    weights                 the weights that the forward pass sees (fake quantization, implemented one floor up)
    seq_len, batch_tokens   the batch (progressive context: pull request 2014 goes from 1,024 to 2,048 at .1 and to
                            3,072 at .7 of the run)
    lr                      a factor on the learning rate from then on
    reset_average           forget the weight average so far
    recur                   start depth recurrence: until then each block runs once, then the model's own order
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pargolf.core.ranges import Count, Index, Length, Rate, Share
from pargolf.core.smaller import RunLength
from pargolf.training.schedule import Moment


class Trigger(Protocol):
    """When a phase begins."""

    def __call__(self, moment: Moment, lr: float) -> bool:
        """Whether the phase begins before a step with learning-rate multiplier `lr`."""
        ...


@dataclass(frozen=True)
class FromStart:
    """Before the first step."""

    def __call__(self, moment: Moment, lr: float) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class AtStep:
    """Before step `step`."""

    step: Index

    def __call__(self, moment: Moment, lr: float) -> bool:
        """By step."""
        return moment.step >= self.step

    def at_length(self, run: RunLength) -> "AtFraction":
        """The step as a fraction of the run."""
        return AtFraction(run.fraction(self.step))


@dataclass(frozen=True)
class AtFraction:
    """Once `fraction` of the run is over."""

    fraction: Share

    def __call__(self, moment: Moment, lr: float) -> bool:
        """By elapsed share."""
        return moment.fraction >= self.fraction


@dataclass(frozen=True)
class BelowLR:
    """Once the learning-rate multiplier is under `lr`."""

    lr: Rate

    def __call__(self, moment: Moment, lr: float) -> bool:
        """By learning rate."""
        return lr < self.lr


class WeightChange(Protocol):
    """Changes the weights that the forward pass sees; gradients flow to the given weights."""

    def __call__(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """New values for all or some of the names."""
        ...


class WeightPhase(Protocol):
    """A weight change as data, resolved against a model's parameter names."""

    def resolve(self, weights: dict[str, Tensor]) -> WeightChange:
        """Bind to these names. Raises `UserError` on rows that match nothing."""
        ...


@dataclass(frozen=True)
class Phase:
    """One phase: its name in the log, its trigger `at`, and its changes."""

    name: str
    at: Trigger
    weights: WeightPhase | None = None
    seq_len: Length | None = None
    batch_tokens: Count | None = None
    lr: Rate = 1.0
    reset_average: bool = False
    recur: bool = False
