"""Activations of the MLP: plain functions, or a dataclass when there are parameters to learn.

relu2         max(z, 0)^2                       So et al. 2021 (arXiv:2109.08668); the published baseline
leaky_relu2   leaky_relu(z, 1/2)^2              pull requests 493, 549; the square makes z < 0 positive: z^2/4
Affine(act)   act(z) * scale + bias per unit    pull request 861; neutral at init (1, 0)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.kernels.relu2_mlp import squared_leaky_relu
from pargolf.model.slots import Place


def relu2(z: Tensor) -> Tensor:
    """Squared ReLU."""
    return squared_leaky_relu(z, 0.0)


def leaky_relu2(z: Tensor) -> Tensor:
    """Squared leaky ReLU with slope 1/2."""
    return squared_leaky_relu(z, 0.5)


@dataclass(frozen=True)
class Affine:
    """`act` followed by a learned scale and bias per hidden unit; neutral at init."""

    act: Callable[[Tensor], Tensor] = leaky_relu2
    key = "act"

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return AffineModule(self.act, place.hidden)


class AffineModule(nn.Module):
    """`z (..., F) -> (..., F)`."""

    def __init__(self, act: Callable[[Tensor], Tensor], hidden: int) -> None:
        super().__init__()
        self.act = act
        self.scale = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, z: Tensor) -> Tensor:
        """Activate, scale, shift."""
        return self.act(z) * self.scale.to(z.dtype) + self.bias.to(z.dtype)
