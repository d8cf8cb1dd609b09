"""One optimizer made from a strict table of role globs: each parameter belongs to exactly one row.

    (("embed.*", Adam(.05)), ("attn.[qkv]", Muon(.04)), ..., ("*", Adam(.04)))

A row says how its parameters are updated (`OptimizerRow`). The same class serves one process and many. A step has four
phases; with one process no data is sent:

    1  reduce   rows that share their work among processes (Muon: stacks of same-shape matrices) send gradients to
                their owners. All other gradients, which are small, are averaged on all processes in one flat vector.
    2  norm     of the whole mean gradient, from the shares: for clipping, and to detect non-finite values before they
                reach a weight.
    3  shared   each process updates its share and starts sending the new values to all.
    4  others   all other rows run on every process, on the same numbers, while the shares are sent; then the shares
                are received.

A row that matches nothing, or a parameter that no row matches, raises an error when the optimizer is made.
Source of the phases: karpathy/nanochat, `optim.py`.
"""

from typing import cast

import torch
from torch import Tensor, nn

from pargolf.core.roles import Table, resolve
from pargolf.core.world import World
from pargolf.training.rows import Group, OptimizerRow, SharedGroup


class Optimizer:
    """The groups of all rows of a table, over a model's parameters.

    `half` allows rows to multiply in bfloat16 on a CPU that supports it; on CUDA they always may.
    """

    def __init__(
        self,
        table: Table[OptimizerRow],
        params: dict[str, nn.Parameter],
        *,
        world: World | None = None,
        half: bool = False,
    ) -> None:
        self.world = world or World()
        rows = resolve(table, params, what="optimizer table")
        by_row: dict[OptimizerRow, dict[str, nn.Parameter]] = {}
        for name, p in params.items():
            by_row.setdefault(rows[name], {})[name] = p
        groups = [group for row, own in by_row.items() for group in row.begin(own, world=self.world, half=half)]
        number = {p: i for i, p in enumerate(params.values())}
        groups.sort(key=lambda group: number[group.params[0]])
        self.shared = [cast(SharedGroup, group) for group in groups if hasattr(group, "reduce")]
        self.others = [group for group in groups if not hasattr(group, "reduce")]
        self.groups: list[Group] = [*self.shared, *self.others]
        self.trained = [p for group in self.groups for p in group.params]
        for p in params.values():
            p.requires_grad_(False)
        for p in self.trained:
            p.requires_grad_(True)
        self._small = [p for group in self.others for p in group.params]
        self._names: dict[Tensor, str] = {p: name for name, p in params.items()}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.trained:
            p.grad = None

    def reduce(self) -> float:
        """Phases 1 and 2: average the gradients over all processes; returns the norm of the whole gradient."""
        for group in self.shared:
            group.reduce()
        self._reduce_small()
        shares = [group.wait() for group in self.shared]
        whole = [p.grad for p in self._small if p.grad is not None]
        squares = self.world.sum(_squares(shares, self.world)) + _squares(whole, self.world)
        return float(squares.sqrt())

    def step(self, lr: float, *, step: int, fraction: float, clip: float = 1.0) -> None:
        """Phases 3 and 4, after `reduce`. `lr` multiplies each row's rate, `clip` the gradients."""
        if clip != 1.0 and self._small:
            torch._foreach_mul_([p.grad for p in self._small if p.grad is not None], clip)
        for shared in self.shared:
            shared.update(lr, step=step, fraction=fraction, clip=clip)
        for group in self.others:
            group.update(lr, step=step, fraction=fraction)
        for shared in self.shared:
            shared.finish()

    def state(self) -> dict[str, Tensor]:
        """The state of every parameter by name, independent of stacking and world size. Call it on all processes."""
        return {
            f"{self._names[p]}.{key}": value
            for group in self.groups
            for p, saved in zip(group.params, group.state(), strict=True)
            for key, value in saved.items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load a `state`. Raises `KeyError` when it is another model's."""
        by_name: dict[str, dict[str, Tensor]] = {}
        for path, value in state.items():
            name, _, key = path.rpartition(".")
            by_name.setdefault(name, {})[key] = value
        for group in self.groups:
            group.restore([by_name.get(self._names[p], {}) for p in group.params])

    def _reduce_small(self) -> None:
        """Average the gradients that are not shared over all processes, as one vector."""
        grads = [p.grad for p in self._small if p.grad is not None]
        if self.world.size == 1 or not grads:
            return
        flat = self.world.mean(torch.cat([grad.flatten() for grad in grads]))
        for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads])):
            grad.copy_(mean.view_as(grad))


def _squares(tensors: list[Tensor], world: World) -> Tensor:
    """The sum of all squares."""
    if not tensors:
        return torch.zeros((), device=world.device)
    return torch.stack(torch._foreach_norm(tensors)).square().sum()
