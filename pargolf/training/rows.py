"""Rows of the optimizer table: how the parameters that a glob names are updated.

A row makes groups of its parameters, and a group updates them once per step. A rule that handles one parameter at a
time needs no group class of its own:

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
    """Parameters that are updated together, from gradients that every process has in full."""

    @property
    def params(self) -> list[nn.Parameter]:
        """At least one."""
        ...

    def update(self, lr: float, *, step: int, fraction: float) -> None:
        """Update the parameters; `lr` multiplies the row's rate, `fraction` is the elapsed part of the run."""
        ...

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """The state of each parameter, by names without dots. Call it on all processes."""
        ...

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Load a `state`. Raises `KeyError` when it is another row's."""
        ...


class SharedGroup(Protocol):
    """Parameters whose update is divided among processes: the group averages its own gradients."""

    @property
    def params(self) -> list[nn.Parameter]:
        """At least one."""
        ...

    def reduce(self) -> None:
        """Start averaging the gradients."""
        ...

    def wait(self) -> Tensor:
        """Wait for, and return, the averaged gradients of this process's share."""
        ...

    def update(self, lr: float, *, step: int, fraction: float, clip: float = 1.0) -> None:
        """Update this process's share, with gradients times `clip`, and start sending it."""
        ...

    def finish(self) -> None:
        """Receive what other processes updated."""
        ...

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """As of a `Group`."""
        ...

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """As of a `Group`."""
        ...


class OptimizerRow(Protocol):
    """The slot for a row of the optimizer table: a frozen dataclass."""

    def begin(
        self, params: Mapping[str, nn.Parameter], *, world: World, half: bool
    ) -> Sequence[Group] | Sequence[SharedGroup]:
        """Make the groups of this row's parameters, given by name; a parameter in no group is not trained.

        `half` allows bfloat16 products on a CPU. Raises `UserError` on a parameter that the row cannot handle.
        """
        ...


class Rule(Protocol):
    """How one parameter is updated."""

    @property
    def lr(self) -> float:
        """The learning rate."""
        ...

    def update(self, p: nn.Parameter, state: dict[str, Tensor], lr: float, *, step: int, fraction: float) -> None:
        """Update `p` from `p.grad` at learning rate `lr`, without autograd; `state` is kept from step to step."""
        ...


class Each:
    """A group that updates its parameters one by one, by a rule."""

    def __init__(self, rule: Rule, params: Mapping[str, nn.Parameter]) -> None:
        self.rule, self.params = rule, list(params.values())
        self._states: list[dict[str, Tensor]] = [{} for _ in self.params]

    @torch.no_grad()
    def update(self, lr: float, *, step: int, fraction: float) -> None:
        """Update the parameters that have a gradient."""
        for p, state in zip(self.params, self._states):
            if p.grad is not None:
                self.rule.update(p, state, self.rule.lr * lr, step=step, fraction=fraction)

    def state(self) -> Sequence[Mapping[str, Tensor]]:
        """The state of the rule for each parameter."""
        return self._states

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Load copies of a `state`."""
        self._states = [{key: value.clone() for key, value in saved.items()} for saved in state]
