"""One optimizer made from a strict table of role globs: each parameter belongs to exactly one row.

    (("embed.*", Adam(.05)), ("attn.[qkv]", Muon(.04)), ..., ("*", Adam(.04)))

One class for one process and for many. A step goes through these phases; with one process 1 and 4 do nothing:

    1  reduce   each stack of same-shape matrices is reduce-scattered: a process gets the mean gradient of its share.
                Adam's gradients, which are small, are averaged everywhere in one flat vector.
    2  norm     of the whole mean gradient, from the shares: for clipping, and to see what is not finite before it
                reaches a weight.
    3  muon     each process orthogonalizes its share and begins to send the new matrices to all.
    4  adam     runs everywhere on the same numbers while the matrices travel; then they are taken in.

A row that matches nothing and a parameter that no row matches raise when the optimizer is made.
Source of the phases: karpathy/nanochat, `optim.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.roles import Table, resolve
from pargolf.core.world import World
from pargolf.training.adam import Adam, Frozen, torch_adam
from pargolf.training.muon import Muon, MuonGroup

Row = Muon | Adam | Frozen


class Optimizer:
    """Muon groups by shape and one fused Adam over a model's parameters.

    On a processor that multiplies bfloat16, `half` has Muon do so; on CUDA it always does.
    """

    def __init__(
        self,
        table: Table[Row],
        params: dict[str, nn.Parameter],
        *,
        world: World | None = None,
        half: bool = False,
    ) -> None:
        self.world = world or World()
        how: dict[str, Any] = {"world": self.world}
        if half and self.world.device.type == "cpu":
            how |= {"dtype": torch.bfloat16, "fused": True}
        rows = resolve(table, params, what="optimizer table")
        stacks: dict[tuple[Muon, torch.Size], list[nn.Parameter]] = {}
        adam: dict[Adam, list[nn.Parameter]] = {}
        for name, p in params.items():
            row = rows[name]
            p.requires_grad_(not isinstance(row, Frozen))
            if isinstance(row, Muon):
                if p.ndim != 2:
                    raise UserError(f"Muon takes matrices and '{name}' is {p.ndim}-dimensional. Give it an Adam row.")
                stacks.setdefault((row, p.shape), []).append(p)
            elif isinstance(row, Adam):
                adam.setdefault(row, []).append(p)
        self.trained = [p for p in params.values() if p.requires_grad]
        self.muon = [MuonGroup(row, group, **how) for (row, _), group in stacks.items()]
        self.adam = torch_adam(list(adam.items())) if adam else None
        self._small = [p for group in adam.values() for p in group]
        self._names: dict[Tensor, str] = {p: name for name, p in params.items()}

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for p in self.trained:
            p.grad = None

    def reduce(self) -> float:
        """Phases 1 and 2: average the gradients over all processes; returns the norm of their whole."""
        for stack in self.muon:
            stack.reduce()
        self._reduce_small()
        shares = [stack.wait() for stack in self.muon]
        whole = [p.grad for p in self._small if p.grad is not None]
        squares = self.world.sum(_squares(shares, self.world)) + _squares(whole, self.world)
        return float(squares.sqrt())

    def step(self, lr: float, *, step: int, fraction: float, clip: float = 1.0) -> None:
        """Phases 3 and 4, after `reduce`. `lr` multiplies each row's rate, `clip` the gradients."""
        for stack in self.muon:
            row = stack.row
            stack.update(row.lr * lr, row.momentum_at(step, fraction), row.decay_at(fraction), clip=clip)
        if self.adam is not None:
            if clip != 1.0:
                torch._foreach_mul_([p.grad for p in self._small if p.grad is not None], clip)
            for group in self.adam.param_groups:
                group["lr"] = group["base_lr"] * lr
            self.adam.step()
        for stack in self.muon:
            stack.finish()

    def state(self) -> dict[str, Tensor]:
        """Momentum of every parameter by name, whatever the stacking and the world; a call of all processes."""
        out = {}
        for stack in self.muon:
            for p, buffer in zip(stack.params, stack.momentum(), strict=True):
                out[f"{self._names[p]}.momentum"] = buffer
        if self.adam is not None:
            for small, held in self.adam.state.items():
                out |= {f"{self._names[small]}.{key}": value for key, value in held.items()}
        return out

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take `state` back. Raises `KeyError` where it is another model's."""
        for stack in self.muon:
            stack.take_momentum([state[f"{self._names[p]}.momentum"] for p in stack.params])
        for p in self._small:
            name = self._names[p]
            if self.adam is not None and f"{name}.exp_avg" in state:
                self.adam.state[p] = {key: state[f"{name}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}

    def _reduce_small(self) -> None:
        """Average Adam's gradients over all processes, as one vector."""
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
