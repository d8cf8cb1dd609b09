"""Rows of the optimizer table: how the parameters that match a glob are updated.

A row begins groups of its parameters, and a group updates them once per step. A rule that looks at one parameter at a
time needs no group of its own:

    @dataclass(frozen=True)
    class SignSGD:
        lr: float = 0.01

        def begin(self, params, *, world, half):
            return [Each(self, params)]

        def update(self, p, state, lr, *, step, fraction):
            p.add_(p.grad.sign(), alpha=-lr)

`state` is a dictionary of tensors, empty at first, that goes into checkpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from pargolf.core.world import World


class Group(Protocol):
    """Parameters that are updated together, on gradients that all processes hold whole."""

    @property
    def params(self) -> list[nn.Parameter]:
        """At least one."""
        ...

    def update(self, lr: float, *, step: int, fraction: float) -> None:
        """Move the parameters by their gradients; `lr` multiplies the row's rate, `fraction` of the run is over."""
        ...

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """What is kept of each parameter, by names without dots; a call of all processes."""
        ...

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Take `state` back. Raises `KeyError` where it is another row's."""
        ...


class SharedGroup(Protocol):
    """Parameters whose update is shared out among processes: the group averages its own gradients."""

    @property
    def params(self) -> list[nn.Parameter]:
        """At least one."""
        ...

    def reduce(self) -> None:
        """Begin to average the gradients."""
        ...

    def wait(self) -> Tensor:
        """The averaged gradients that this process has."""
        ...

    def update(self, lr: float, *, step: int, fraction: float, clip: float = 1.0) -> None:
        """Update what is this process's and begin to send it; gradients count `clip` times."""
        ...

    def finish(self) -> None:
        """Take in what others updated."""
        ...

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """As of a `Group`."""
        ...

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """As of a `Group`."""
        ...


class OptimizerRow(Protocol):
    """The slot: a row of the optimizer table, a frozen dataclass."""

    def begin(
        self, params: Mapping[str, nn.Parameter], *, world: World, half: bool
    ) -> Sequence[Group] | Sequence[SharedGroup]:
        """The groups of this row's parameters, given by name; a parameter in none of them stays as it is.

        `half` allows products of bfloat16 on a processor. Raises `UserError` on a parameter that the row cannot take.
        """
        ...


class Rule(Protocol):
    """How one parameter is updated."""

    @property
    def lr(self) -> float:
        """The learning rate."""
        ...

    def update(self, p: nn.Parameter, state: dict[str, Tensor], lr: float, *, step: int, fraction: float) -> None:
        """Move `p` by `p.grad` at the learning rate `lr`, without a graph; `state` is kept from step to step."""
        ...


class Each:
    """A group that updates its parameters one by one, by a rule."""

    def __init__(self, rule: Rule, params: Mapping[str, nn.Parameter]) -> None:
        self.rule, self.params = rule, list(params.values())
        self._kept: list[dict[str, Tensor]] = [{} for _ in self.params]

    @torch.no_grad()
    def update(self, lr: float, *, step: int, fraction: float) -> None:
        """Those that have a gradient."""
        for p, kept in zip(self.params, self._kept):
            if p.grad is not None:
                self.rule.update(p, kept, self.rule.lr * lr, step=step, fraction=fraction)

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """What the rule has kept."""
        return self._kept

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Copies."""
        self._kept = [{key: value.clone() for key, value in kept.items()} for kept in state]
