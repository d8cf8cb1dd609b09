"""Muon: momentum, then the nearest semi-orthogonal matrix, for every 2-D weight of the blocks.

    buf = mu buf + g;   u = g + mu buf (Nesterov);   O = NS(u);   p -= lr sqrt(max(1, rows/cols)) O

NS is a Newton-Schulz iteration on X = u / |u|, with A = X X^T:  X <- a X + (b A + c A A) X.  Five steps of one
quintic (3.4445, -4.7750, 2.0315) push all singular values near 1; Polar Express uses another polynomial each step.

Matrices of one shape are stacked and orthogonalized in one batched product: of bfloat16 on CUDA, and where a recipe
asks for it (`train.half`) on processors that multiply bfloat16; else of float32. Weight decay is decoupled, before the
update as in pull requests 549, 1009 and 295, or after it as in 543 and 861, where it shrinks the fresh update too.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Polar Express: Amsel et al. 2025 (arXiv:2505.16932),
five coefficient rows from pull request 1787; row normalization (MuonEq-R) from pull requests 1217, 1285.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.ranges import Fraction, Rate, Share, Within
from pargolf.core.smaller import RunLength
from pargolf.core.world import Pending, World, abilities
from pargolf.training.adam import Growth

Quintic = tuple[float, float, float]

QUINTIC: tuple[Quintic, ...] = ((3.4445, -4.7750, 2.0315),) * 5
POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@dataclass(frozen=True)
class Muon:
    """A row of the optimizer table. Momentum rises from `momentum_start` over the first `momentum_warmup` of the run.

    `momentum_warmup` counts steps when it is 1 or more, and a fraction of the run below 1. `half_state` is how
    pull requests 549, 910 and 1009 do it: gradients and momentum in bfloat16, and A A rounded before it is scaled.
    From the share `taper_from` of the run on, weight decay falls linearly to `taper_to` of itself at the end (pull
    request 1729 has .7 and .5; "small but consistent" there, a wash in a later report).
    """

    lr: Rate = 0.02
    momentum: Fraction = 0.95
    momentum_start: Fraction = 0.85
    momentum_warmup: Rate = 500
    weight_decay: Rate = 0.0
    decay_after: bool = False
    row_norm: bool = False
    polynomials: Annotated[tuple[Quintic, ...], Within(1, 64)] = QUINTIC
    half_state: bool = False
    taper_from: Share = 1.0
    taper_to: Rate = 1.0

    def begin(self, params: Mapping[str, nn.Parameter], *, world: World, half: bool) -> "list[MuonGroup]":
        """A group for each shape. Raises `UserError` on what is no matrix."""
        how: dict[str, Any] = {"world": world}
        if half and world.device.type == "cpu":
            how |= {"dtype": torch.bfloat16, "fused": True}
        stacks: dict[torch.Size, list[nn.Parameter]] = {}
        for name, p in params.items():
            if p.ndim != 2:
                raise UserError(f"Muon takes matrices and '{name}' is {p.ndim}-dimensional. Give it an Adam row.")
            stacks.setdefault(p.shape, []).append(p)
        return [MuonGroup(self, stack, **how) for stack in stacks.values()]

    def at_length(self, run: RunLength) -> "Muon":
        """The momentum's rise as a share of the run."""
        if self.momentum_warmup < 1:
            return self
        return replace(self, momentum_warmup=min(self.momentum_warmup / run.source, 0.999))

    def growth(self, shape: torch.Size, *, cluster: bool) -> Growth:
        """How weights grow; a `cluster`'s batches have less noise, and agree for longer."""
        rows, columns = shape[-2], shape[-1]
        unit = math.sqrt(max(1.0, rows / columns) / max(rows, columns))
        return Growth(unit, 0.7, 0.992 if cluster else 0.93)

    def momentum_at(self, step: int, fraction: float) -> float:
        """Momentum before `step`, `fraction` of the run being over."""
        done = fraction / self.momentum_warmup if 0 < self.momentum_warmup < 1 else step / max(self.momentum_warmup, 1)
        return self.momentum_start + (self.momentum - self.momentum_start) * min(done, 1.0)

    def decay_at(self, fraction: float) -> float:
        """Weight decay when `fraction` of the run is over."""
        over = (fraction - self.taper_from) / (1.0 - self.taper_from) if fraction > self.taper_from else 0.0
        return self.weight_decay * (1.0 - (1.0 - self.taper_to) * over)


def orthogonalize(
    u_NRC: Tensor,
    polynomials: Sequence[Quintic] = QUINTIC,
    *,
    dtype: torch.dtype | None = None,
    square_first: bool = False,
    fused: bool | None = None,
) -> Tensor:
    """Push the singular values of each matrix in the stack towards 1. Returns the stack in its own type.

    The products are in `dtype`, by default bfloat16 on devices that multiply it, else float32. `fused` adds within a
    product, so that half precision rounds once where the published order rounds twice; by default in float32 alone.
    """
    x = u_NRC.to(dtype or (torch.bfloat16 if abilities(u_NRC.device).half else torch.float32))
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in polynomials:
        gram = x @ x.mT
        if x.dtype == torch.float32 if fused is None else fused:
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        else:
            square = c * (gram @ gram) if square_first else (c * gram) @ gram
            x = a * x + (b * gram + square) @ x
    return (x.mT if tall else x).to(u_NRC.dtype)


class MuonGroup:
    """All matrices of one shape under one row, as one (N, R, C) stack of which each process owns an equal share.

    A step has three phases, so that many groups can communicate at once: `reduce` sends gradients to the owners of
    their matrices, `update` orthogonalizes and applies what is owned here and sends the new matrices out, `finish`
    takes the others' in. Momentum exists only at a matrix's owner. `dtype` and `fused` are those of `orthogonalize`.
    """

    def __init__(
        self,
        row: Muon,
        params: list[nn.Parameter],
        *,
        dtype: torch.dtype | None = None,
        fused: bool | None = None,
        world: World | None = None,
    ) -> None:
        self.row, self.params, self.world = row, params, world or World()
        self._how: dict[str, Any] = {"dtype": dtype, "square_first": row.half_state, "fused": fused}
        share = -(-len(params) // self.world.size)
        self.mine = params[self.world.rank * share : (self.world.rank + 1) * share]
        self._padding = share * self.world.size - len(params)
        kind = torch.bfloat16 if row.half_state else torch.float32
        self.buffer_NRC = torch.zeros((share, *params[0].shape), device=params[0].device, dtype=kind)
        self.grads_NRC = self.buffer_NRC
        self._sent: Pending | None = None

    @torch.no_grad()
    def reduce(self) -> None:
        """Begin to average gradients to their owners; they are taken from the parameters."""
        self._sent = self.world.reduce_scatter(self._stack([_grad(p) for p in self.params]))
        for p in self.params:
            p.grad = None

    def wait(self) -> Tensor:
        """The averaged gradients owned here, (share, R, C)."""
        assert self._sent is not None, "reduce comes first"
        self.grads_NRC = self._sent.wait()
        return self.grads_NRC

    @torch.no_grad()
    def update(self, lr: float, *, step: int, fraction: float, clip: float = 1.0) -> None:
        """Move the matrices owned here, at the row's rate times `lr`; gradients count `clip` times."""
        rate, momentum, decay = self.row.lr * lr, self.row.momentum_at(step, fraction), self.row.decay_at(fraction)
        grads_NRC = (self.grads_NRC.mul_(clip) if clip != 1.0 else self.grads_NRC).to(self.buffer_NRC.dtype)
        self.buffer_NRC.mul_(momentum).add_(grads_NRC)
        update_NRC = grads_NRC.add_(self.buffer_NRC, alpha=momentum)
        if self.row.row_norm:
            update_NRC = update_NRC / (update_NRC.norm(dim=-1, keepdim=True) + 1e-7)
        update_NRC = orthogonalize(update_NRC, self.row.polynomials, **self._how)
        scale = max(1.0, update_NRC.shape[-2] / update_NRC.shape[-1]) ** 0.5
        keep = 1.0 - rate * decay
        for p, o_RC in zip(self.mine, update_NRC):
            if not self.row.decay_after and keep != 1.0:
                p.mul_(keep)
            p.add_(o_RC.to(p.dtype), alpha=-rate * scale)
            if self.row.decay_after and keep != 1.0:
                p.mul_(keep)
        self.grads_NRC = self.buffer_NRC
        if self.world.size > 1:
            self._sent = self.world.all_gather(self._share([p.detach() for p in self.mine]))

    @torch.no_grad()
    def finish(self) -> None:
        """Take in the matrices that others own."""
        if self.world.size > 1 and self._sent is not None:
            for p, new_RC in zip(self.params, self._sent.wait()):
                p.copy_(new_RC)
        self._sent = None

    def state(self) -> list[dict[str, Tensor]]:
        """The momentum of every matrix of the group, gathered from its owners; a call of all processes."""
        return [{"momentum": m_RC} for m_RC in self.world.all_gather(self.buffer_NRC).wait()[: len(self.params)]]

    def restore(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Keep what is owned here of every matrix's momentum."""
        first = self.world.rank * len(self.buffer_NRC)
        momenta = [saved["momentum"] for saved in state]
        for buffer_RC, value_RC in zip(self.buffer_NRC, momenta[first : first + len(self.mine)]):
            buffer_RC.copy_(value_RC)

    def _stack(self, matrices: list[Tensor]) -> Tensor:
        """One stack, with zeros for the matrices that are lacking to equal shares."""
        return torch.stack(matrices + [torch.zeros_like(matrices[0])] * self._padding)

    def _share(self, matrices: list[Tensor]) -> Tensor:
        """The stack of what is owned here, filled up to a whole share."""
        lacking = len(self.buffer_NRC) - len(matrices)
        return torch.stack(matrices + [torch.zeros_like(self.params[0])] * lacking)


def _grad(p: nn.Parameter) -> Tensor:
    """The gradient, zero where there is none."""
    return p.grad if p.grad is not None else torch.zeros_like(p)
