"""Number types with a range, for annotations such as `lr: Rate`; one checker refuses everything outside.

    Count = Annotated[int, Within(1, 2**31)]        heads: Count = 8        decay: Annotated[float, Within(0, 1)]

To a type checker `Count` is `int`. `core/strict.py` checks the range when a value comes from a file or an edit, and
before a recipe runs. Without a marker a number must be finite, and a whole number must fit 64 bits.
"""

import math
from dataclasses import dataclass
from typing import Annotated

from pargolf.core.errors import UserError


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, or a list with that many items.

    over, under: exclude `low`, exclude `high`
    endless: also accept infinity, for optional limits. NaN is never within a range.
    """

    low: float
    high: float = math.inf
    over: bool = False
    under: bool = False
    endless: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.over else value >= self.low
        below = value < self.high if self.under else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"over {_written(self.low)}" if self.over else f"from {_written(self.low)} up"
        high = f"{'below ' if self.under else ''}{_written(self.high)}"
        return f"over {_written(self.low)} and up to {high}" if self.over else f"from {_written(self.low)} to {high}"


def check_seed(seed: int) -> None:
    """Raise `UserError` on what no random stream begins with."""
    if not isinstance(seed, int) or seed not in _SEEDS:
        raise UserError(f"A seed is a whole number {_SEEDS}, not {str(seed)[:40]}.")


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


Count = Annotated[int, Within(1, 1 << 31)]
"""A number of things, at least one."""
Amount = Annotated[int, Within(0, 10**15)]
"""Tokens, bytes or steps of something that ran; zero or more."""
Some = Annotated[int, Within(1, 10**15)]
"""As `Amount`, but at least one."""
Seconds = Annotated[float, Within(0, 1e9)]
"""A duration."""
Loss = Annotated[float, Within(0, 1e6)]
"""Nats per token, or bits per byte."""
Index = Annotated[int, Within(0, 1 << 31)]
"""An index, or a number of things that may be zero."""
Rate = Annotated[float, Within(0)]
"""A learning rate, a decay, a weight of a loss: zero or more."""
Positive = Annotated[float, Within(0, over=True)]
"""More than zero."""
Share = Annotated[float, Within(0, 1)]
"""A part of a whole, from 0 to 1."""
Fraction = Annotated[float, Within(0, 1, under=True)]
"""A part of a whole and less than all of it: momentum, the decay of an average, what is pruned."""
_SEEDS = Within(0, 1 << 31)
Seed = Annotated[int, _SEEDS]
"""Where a random stream begins."""
Size = Annotated[int, Within(1, 1 << 20)]
"""A width: channels, heads, hidden units, columns."""
Length = Annotated[int, Within(1, 1 << 24)]
"""Positions of a window, or tokens of a sequence or a chunk."""
