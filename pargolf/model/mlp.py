"""The feed-forward half of a block.

MLP      down(act(up(u)))                       up (F, D), down (D, F)
SwiGLU   down(silu(gate(u)) * up(u))            Shazeer 2020 (arXiv:2002.05202)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pargolf.core.ranges import Size
from pargolf.model.activations import relu2
from pargolf.model.linear import Linear
from pargolf.model.slots import Builds, Place


@dataclass(frozen=True)
class MLP:
    """`hidden` units with activation `act`."""

    hidden: Size
    act: Callable[[Tensor], Tensor] | Builds = relu2

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return MLPModule(self, place)


class MLPModule(nn.Module):
    """`u (B, T, D) -> (B, T, D)`."""

    def __init__(self, spec: MLP, place: Place) -> None:
        super().__init__()
        self.up = Linear(place.dim, spec.hidden)
        act: Any = spec.act
        self.act = act.build(place) if hasattr(act, "build") else act
        self.down = Linear(spec.hidden, place.dim)

    def forward(self, u_BTD: Tensor) -> Tensor:
        """Up, activate, down."""
        out_BTD: Tensor = self.down(self.act(self.up(u_BTD)))
        return out_BTD


@dataclass(frozen=True)
class SwiGLU:
    """`hidden` gated units; three matrices."""

    hidden: Size

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return SwiGLUModule(self, place)


class SwiGLUModule(nn.Module):
    """`u (B, T, D) -> (B, T, D)`."""

    def __init__(self, spec: SwiGLU, place: Place) -> None:
        super().__init__()
        self.gate = Linear(place.dim, spec.hidden)
        self.up = Linear(place.dim, spec.hidden)
        self.down = Linear(spec.hidden, place.dim)

    def forward(self, u_BTD: Tensor) -> Tensor:
        """Gate, multiply, down."""
        out_BTD: Tensor = self.down(F.silu(self.gate(u_BTD)) * self.up(u_BTD))
        return out_BTD
