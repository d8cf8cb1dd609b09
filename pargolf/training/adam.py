"""Adam and AdamW rows of the optimizer table; the update itself is torch's fused one.

`AdamW` shrinks weights by `lr * weight_decay` before each update (Loshchilov & Hutter 2019, arXiv:1711.05101).
`Frozen` says that a parameter is meant to stay as it began: pull request 543 did so with its value embedding unawares.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from pargolf.core.ranges import Fraction, Positive, Rate


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


@dataclass(frozen=True)
class Frozen:
    """Never updated, on purpose."""


def torch_adam(groups: list[tuple[Adam, list[nn.Parameter]]]) -> torch.optim.Optimizer:
    """One fused torch optimizer; each group remembers its row's rate under `base_lr`."""
    return torch.optim.AdamW(
        [
            {
                "params": params,
                "lr": row.lr,
                "base_lr": row.lr,
                "betas": (row.beta1, row.beta2),
                "eps": row.eps,
                "weight_decay": row.weight_decay,
            }
            for row, params in groups
        ],
        fused=True,
    )
