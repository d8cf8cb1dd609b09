"""Adam and AdamW rows of the optimizer table, updated by torch's fused implementation; and `Frozen`.

With `weight_decay`, weights shrink by `lr * weight_decay` before each update (AdamW; Loshchilov & Hutter 2019,
arXiv:1711.05101). `Frozen` says that a parameter is not trained on purpose; pull request 543 did that to its value
embedding by accident.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pargolf.core.ranges import Fraction, Positive, Rate
from pargolf.core.world import World


class Growth(NamedTuple):
    """How weights grow under an optimizer row, for forecasts: size of a step (`unit`), and its `push` and `keep`.

    See `run/growth.py`.
    """

    unit: float = 1.0
    push: float = 0.5
    keep: float = 0.5


@dataclass(frozen=True)
class Adam:
    """Adam with decoupled `weight_decay` (AdamW); 0 makes it plain Adam."""

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
        """Both moments and the step count of each parameter that had a gradient."""
        return [dict(self.torch.state.get(p, {})) for p in self.params]

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Restore what `state` returned."""
        for p, saved in zip(self.params, state, strict=True):
            if saved:
                self.torch.state[p] = {key: saved[key].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
