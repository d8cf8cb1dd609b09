"""Adam and AdamW rows of the optimizer table; the update itself is torch's fused one.

`AdamW` shrinks weights by `lr * weight_decay` before each update (Loshchilov & Hutter 2019, arXiv:1711.05101).
`Frozen` says that a parameter is meant to stay as it began: pull request 543 did so with its value embedding unawares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Fraction, Positive, Rate
from pargolf.core.world import World


class Growth(NamedTuple):
    """How weights grow under a row (`run/growth.py`): a step's `unit`, what of it pushes, what is kept of that."""

    unit: float = 1.0
    push: float = 0.5
    keep: float = 0.5


@dataclass(frozen=True)
class Adam:
    """`weight_decay` is decoupled; 0 makes it plain Adam."""

    lr: Rate
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: Rate = 0.0

    def begin(self, params: Mapping[str, nn.Parameter], *, world: World, half: bool) -> "list[AdamGroup]":
        """One group."""
        return [AdamGroup(self, list(params.values()))]


@dataclass(frozen=True)
class Frozen:
    """Never updated, on purpose."""

    def begin(self, params: Mapping[str, nn.Parameter], *, world: World, half: bool) -> "list[AdamGroup]":
        """No group."""
        return []


class AdamGroup:
    """Parameters under one row, updated by torch's fused AdamW."""

    def __init__(self, row: Adam, params: list[nn.Parameter]) -> None:
        self.row, self.params = row, params
        self.torch = torch.optim.AdamW(
            params, lr=row.lr, betas=(row.beta1, row.beta2), eps=row.eps, weight_decay=row.weight_decay, fused=True
        )

    def update(self, lr: float, *, step: int, fraction: float) -> None:
        """One step at the row's rate times `lr`."""
        self.torch.param_groups[0]["lr"] = self.row.lr * lr
        self.torch.step()

    def state(self) -> list[dict[str, Tensor]]:
        """Both moments and the step of each parameter that had a gradient."""
        return [dict(self.torch.state.get(p, {})) for p in self.params]

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Take moments and steps back."""
        for p, saved in zip(self.params, state, strict=True):
            if saved:
                self.torch.state[p] = {key: saved[key].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
