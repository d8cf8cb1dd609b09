"""What the slots of `odd.py` derive from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pargolf.model.slots import Context, Place


@dataclass(frozen=True)
class Base:
    """A slot that adds one number."""

    size: float = 0.5
    flag: bool = True
    note: str | None = None

    @property
    def key(self) -> str:
        """By the class."""
        return type(self).__name__.lower()

    def value(self) -> float:
        """The number."""
        return self.size

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return Derived(self.value())


class Number(nn.Module):
    """One number for all positions."""

    def __init__(self, value: float, flag: bool = False) -> None:
        super().__init__()
        self.value = 0.0 if flag else value

    def forward(self, ctx: Context) -> Tensor:
        """Everywhere the same."""
        return torch.full((*ctx.ids_BT.shape, 1), self.value * 1e-3)


class Derived(Number):
    """Gives its base an argument by name, which no call of the base spells."""

    def __init__(self, value: float) -> None:
        super().__init__(value=value, flag=value < 0)
