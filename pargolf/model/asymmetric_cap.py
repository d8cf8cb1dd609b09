"""A soft-cap of the logits with two learned bounds, one above zero and one below.

    logits = a tanh(z / a) where z >= 0,   b tanh(z / b) where z < 0,   a = b = 30 at the start

The few tokens that a context favours and the thousands it rules out need not saturate at the same distance. Source:
pull request 1923. There, and in 2135, the bounds stay at 30 in training (the fused loss has a constant) and change only
in adaptation; to do the same, put `("head.cap.*", Frozen())` into the optimizer table. Evidence: part of the step from
1.06108 to 1.05971 (pull request 1945, with another change); never isolated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Positive
from pargolf.kernels.asymmetric_ce import asymmetric_cap, asymmetric_cross_entropy
from pargolf.model.slots import Place


@dataclass(frozen=True)
class AsymmetricCap:
    """A learned `softcap` for the head; both bounds start at `start`, so at init it equals the fixed cap `start`."""

    start: Positive = 30.0

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return AsymmetricCapModule(self.start)


class AsymmetricCapModule(nn.Module):
    """`z (..., V) -> logits (..., V)`."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.above = nn.Parameter(torch.full((1,), start))
        self.below = nn.Parameter(torch.full((1,), start))

    def forward(self, z_NV: Tensor) -> Tensor:
        """Bound the scores."""
        return asymmetric_cap(z_NV, self.above, self.below)

    def loss(self, z_NV: Tensor, target_N: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the bounded scores, (N, V) against (N,)."""
        return asymmetric_cross_entropy(z_NV, self.above, self.below, target_N)
