"""A weighted sum of two streams, `y = keep x + add s`, each weight a vector over channels; `keep` None means 1.

    dx = keep g,   ds = add g,   dkeep = sum g x,   dadd = sum g s        sums over all positions

Residual connections, skips and the re-added embedding all have this form. In torch operations it takes three passes
forward and six backward; the C code takes one each.
"""

from typing import Any

import torch
from torch import Tensor

from pargolf.kernels.compiled import PARTS, Compiled, at_hand, c_source

_C = c_source("blend")


def reference(x: Tensor, s: Tensor, keep_D: Tensor | None, add_D: Tensor) -> Tensor:
    """The formula, differentiated by autograd."""
    added = add_D.to(s.dtype) * s
    return x + added if keep_D is None else keep_D.to(x.dtype) * x + added


def blend(x: Tensor, s: Tensor, keep_D: Tensor | None, add_D: Tensor) -> Tensor:
    """`keep x + add s` for x, s (..., D)."""
    fast = at_hand(x, s, add_D, *([] if keep_D is None else [keep_D]))
    if isinstance(fast, Compiled) and x.shape == s.shape:
        y: Tensor = _Blend.apply(x, s, keep_D, add_D, fast)  # type: ignore[no-untyped-call]
        return y
    return reference(x, s, keep_D, add_D)


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, keep: Tensor | None, add: Tensor, fast: Compiled) -> Tensor:
        x, s, add = x.contiguous(), s.contiguous(), add.contiguous()
        keep = None if keep is None else keep.contiguous()
        y, d = torch.empty_like(x), x.shape[-1]
        fast.call(_C, "blend", x, s, keep, add, y, x.numel() // d, d)
        ctx.save_for_backward(s, add, *(() if keep is None else (x, keep)))
        ctx.fast = fast
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor, None]:
        s, add, *kept = ctx.saved_tensors
        x, keep = kept or (s, None)
        g, d = grads[0].contiguous(), s.shape[-1]
        dx, ds = g if keep is None else torch.empty_like(g), torch.empty_like(g)
        dadd, dkeep = g.new_zeros(PARTS, d), None if keep is None else g.new_zeros(PARTS, d)
        ctx.fast.call(_C, "blend_back", g, x, s, keep, add, dx, ds, dkeep, dadd, g.numel() // d, d)
        return dx, ds, None if dkeep is None else dkeep.sum(0), dadd.sum(0), None
