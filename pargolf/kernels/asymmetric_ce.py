"""Cross-entropy under a soft-cap with one bound above zero and another below, both learned; mean over rows, float32.

    s = c tanh(z / c),   c = above where z >= 0, else below
    ds/dz = 1 - t^2,     ds/dc = t - (z / c) (1 - t^2),   t = tanh(z / c)

`reference` uses autograd. `asymmetric_cross_entropy` computes both passes in closed form, because at small vocabularies
memory traffic is the main cost.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def asymmetric_cap(z: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Bound positive `z` by `above` and negative `z` by `below`; both have one element."""
    cap = torch.where(z < 0, below.to(z.dtype), above.to(z.dtype))
    return cap * torch.tanh(z / cap)


def reference(z_NV: Tensor, above: Tensor, below: Tensor, target_N: Tensor) -> Tensor:
    """The formula, differentiated by autograd."""
    return F.cross_entropy(asymmetric_cap(z_NV.float(), above, below), target_N)


def asymmetric_cross_entropy(z_NV: Tensor, above: Tensor, below: Tensor, target_N: Tensor) -> Tensor:
    """Mean nats per row. Twice differentiable only through `reference`."""
    if not z_NV.requires_grad or torch.compiler.is_compiling():
        return reference(z_NV, above, below, target_N)
    loss: Tensor = _AsymmetricCrossEntropy.apply(z_NV, above, below, target_N)  # type: ignore[no-untyped-call]
    return loss


class _AsymmetricCrossEntropy(torch.autograd.Function):
    """The closed form, in place on its own buffers.

    A choice by sign is a leaky ReLU, in one pass. The sum over negative entries is half the difference of the sum over
    all entries and the sum with absolute values, so the gradients of the caps are dot products.
    """

    @staticmethod
    def forward(ctx: Any, z_NV: Tensor, above: Tensor, below: Tensor, target_N: Tensor) -> Tensor:
        a, b = float(above), float(below)
        t_NV = F.leaky_relu_(z_NV.float() / a, a / b).tanh_()
        capped_NV = F.leaky_relu_(t_NV * a, b / a)
        total_N = capped_NV.logsumexp(-1)
        ctx.save_for_backward(z_NV, above, below, t_NV, capped_NV, total_N, target_N)
        return (total_N - capped_NV.gather(1, target_N[:, None])[:, 0]).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z_NV, above, below, t_NV, capped_NV, total_N, target_N = ctx.saved_tensors
        d_NV = (capped_NV - total_N[:, None]).exp_()
        rows = torch.arange(len(target_N), device=d_NV.device)
        d_NV[rows, target_N] -= 1.0
        d_NV.mul_(grads[0] / len(target_N))
        dz_NV = torch.addcmul(d_NV.new_ones(()), t_NV, t_NV, value=-1.0).mul_(d_NV)
        t_above, t_below = _by_sign(d_NV, t_NV)
        z_above, z_below = _by_sign(dz_NV, z_NV.float())
        dabove, dbelow = t_above - z_above / above, t_below - z_below / below
        return dz_NV.to(z_NV.dtype), dabove.view_as(above), dbelow.view_as(below), None


def _by_sign(d_NV: Tensor, x_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of `d * x` over positive x and over negative x."""
    both, apart = torch.dot(d_NV.flatten(), x_NV.flatten()), torch.dot(d_NV.flatten(), x_NV.abs().flatten())
    return (both + apart) / 2, (both - apart) / 2
