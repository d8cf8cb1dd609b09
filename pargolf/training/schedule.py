"""Learning-rate schedules: the multiplier as a function of the progress of the run.

    Warmdown(fraction)       1, then linear to `floor` over the last `fraction` of the run
    WarmdownIters(iters)     the published rule: with the mean step time t so far and r seconds left,
                             r / (iters t) once that is below 1 (SYSTEMS 3.1); it knows seconds only through step time

The progress of a run is its `Moment`: the elapsed share of the limit, seconds or steps, that is nearer.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from pargolf.core.ranges import Index, Share
from pargolf.core.smaller import RunLength


@dataclass(frozen=True)
class Moment:
    """The moment before step `step`, `seconds` into a run limited by `seconds_limit` and possibly `steps_limit`."""

    step: int
    seconds: float
    seconds_limit: float
    steps_limit: int | None = None

    @property
    def fraction(self) -> float:
        """The elapsed share of the run, 0 to 1, by the nearer limit; by steps alone when seconds are unlimited."""
        by_steps = self.step / max(self.steps_limit, 1) if self.steps_limit is not None else 0.0
        return min(max(self.seconds / self.seconds_limit, by_steps, 0.0), 1.0)


class Schedule(Protocol):
    """A schedule: gives the multiplier of every learning rate."""

    def __call__(self, moment: Moment) -> float:
        """The multiplier at a point of the run, 0 to 1."""
        ...


@dataclass(frozen=True)
class Warmdown:
    """Linear decay to `floor` over the last `fraction`; `warmup` steps of linear rise at the start."""

    fraction: Share = 0.5
    floor: Share = 0.0
    warmup: Index = 0

    def __call__(self, moment: Moment) -> float:
        """The multiplier."""
        rise = min((moment.step + 1) / (self.warmup + 1), 1.0)
        remaining = (1.0 - moment.fraction) / self.fraction if self.fraction > 0 else 1.0
        return rise * max(min(remaining, 1.0), self.floor)


@dataclass(frozen=True)
class WarmdownIters:
    """The published rule over `iters` steps. Like its source it uses the step limit only when seconds are unlimited.

    So pull request 861, which stopped by steps with most of its seconds unused, never reached its warmdown.
    """

    iters: Index

    def __call__(self, moment: Moment) -> float:
        """The multiplier."""
        if self.iters <= 0:
            return 1.0
        if moment.steps_limit is not None and math.isinf(moment.seconds_limit):
            return min((moment.steps_limit - moment.step) / self.iters, 1.0)
        warmdown = self.iters * moment.seconds / max(moment.step, 1)
        remaining = max(moment.seconds_limit - moment.seconds, 0.0)
        return remaining / warmdown if remaining <= warmdown and warmdown > 0 else 1.0

    def at_length(self, run: RunLength) -> Warmdown:
        """The warmdown as a fraction of the run.

        If the source's steps ran out before its seconds (861), the part of the warmdown after its end is cut off, and
        the multiplier ends at the same value as in the source.
        """
        share = self.iters / run.source
        return Warmdown(min(max(share - run.behind, 0.0), 1.0), floor=min(run.behind / share, 1.0))
