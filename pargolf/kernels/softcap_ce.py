"""Soft-capped cross-entropy: `CE(cap * tanh(z / cap), target)`, mean over rows, in float32; also of z = x W^T + b.

`reference` uses autograd. `softcap_cross_entropy` saves only the capped logits and the row sums for the backward pass,
which has a closed form:

    dz = (softmax(s) - onehot) (1 - (s / cap)^2) / rows,   s = cap tanh(z / cap)

The C code saves only z and the row sums, and makes one pass in each direction, because exponentials are cheaper than
memory traffic. After a product of bfloat16 (`kernels/product.py`) it reads the logits as bfloat16, adds the bias in the
same pass, and writes their gradients as bfloat16 for the next product: the same rounding, with a quarter of the memory
traffic.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.compiled import PARTS, Compiled, at_hand, c_source
from pargolf.kernels.product import product

_C = c_source("softcap_ce")
_LARGEST = 40.0
"""The largest cap for which exp(logit - cap) does not underflow in float32, for any logit."""


def softcap(z: Tensor, cap: float | None) -> Tensor:
    """`cap * tanh(z / cap)`, or `z` when there is no cap."""
    return z if cap is None else cap * torch.tanh(z / cap)


def reference(z_NV: Tensor, target_N: Tensor, cap: float | None) -> Tensor:
    """The formula, differentiated by autograd."""
    return F.cross_entropy(softcap(z_NV, cap).float(), target_N)


def softcap_cross_entropy(z_NV: Tensor, target_N: Tensor, cap: float | None) -> Tensor:
    """Mean nats per row. Twice differentiable only through `reference`."""
    if cap is None or not z_NV.requires_grad or torch.compiler.is_compiling():
        return reference(z_NV, target_N, cap)
    fast = at_hand(z_NV)
    if isinstance(fast, Compiled) and cap <= _LARGEST:
        quick: Tensor = _CompiledCrossEntropy.apply(z_NV, target_N, cap, fast)  # type: ignore[no-untyped-call]
        return quick
    loss: Tensor = _SoftcapCrossEntropy.apply(z_NV, target_N, cap)  # type: ignore[no-untyped-call]
    return loss


def head_cross_entropy(
    x_ND: Tensor, w_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, cap: float | None
) -> Tensor:
    """Mean nats per row of the logits `x W^T + b` under the cap."""
    fast = at_hand(x_ND, w_VD)
    if isinstance(fast, Compiled) and fast.half and cap is not None and cap <= _LARGEST:
        quick: Tensor = _HalfHead.apply(x_ND, w_VD, bias_V, target_N, cap, fast)  # type: ignore[no-untyped-call]
        return quick
    z_NV = product(x_ND, w_VD)
    return softcap_cross_entropy(z_NV if bias_V is None else z_NV + bias_V.to(z_NV.dtype), target_N, cap)


class _SoftcapCrossEntropy(torch.autograd.Function):
    """The closed form, in place on its own buffers: at a vocabulary of 1,024, memory traffic is the main cost."""

    @staticmethod
    def forward(ctx: Any, z_NV: Tensor, target_N: Tensor, cap: float) -> Tensor:
        capped_NV = (z_NV.float() / cap).tanh_().mul_(cap)
        total_N = capped_NV.logsumexp(-1)
        ctx.save_for_backward(capped_NV, total_N, target_N)
        ctx.cap, ctx.dtype = cap, z_NV.dtype
        return (total_N - capped_NV.gather(1, target_N[:, None])[:, 0]).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        capped_NV, total_N, target_N = ctx.saved_tensors
        d_NV = (capped_NV - total_N[:, None]).exp_()
        rows = torch.arange(len(target_N), device=d_NV.device)
        d_NV[rows, target_N] -= 1.0
        d_NV.mul_(torch.addcmul(d_NV.new_ones(()), capped_NV, capped_NV, value=-1.0 / ctx.cap**2))
        return d_NV.mul_(grads[0] / len(target_N)).to(ctx.dtype), None, None


class _CompiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z_NV: Tensor, target_N: Tensor, cap: float, fast: Compiled) -> Tensor:
        z_NV, target_N = z_NV.contiguous(), target_N.contiguous()
        total_N, loss_N = z_NV.new_empty(len(z_NV)), z_NV.new_empty(len(z_NV))
        fast.call(_C, "ce", z_NV, target_N, total_N, loss_N, *z_NV.shape, cap)
        ctx.save_for_backward(z_NV, target_N, total_N)
        ctx.cap, ctx.fast = cap, fast
        return loss_N.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        z_NV, target_N, total_N = ctx.saved_tensors
        d_NV = torch.empty_like(z_NV)
        g = grads[0].contiguous()
        ctx.fast.call(_C, "ce_back", z_NV, target_N, total_N, d_NV, *z_NV.shape, ctx.cap, g)
        return d_NV, None, None, None


class _HalfHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, target: Tensor, cap: float, fast: Compiled
    ) -> Tensor:
        x_ND, w_VD, target_N = x.bfloat16().contiguous(), w.bfloat16(), target.contiguous()
        z_NV = F.linear(x_ND, w_VD)
        bias_V = w.new_zeros(len(w)) if bias is None else bias.contiguous()
        total_N, loss_N = x.new_empty(len(x)), x.new_empty(len(x))
        fast.call(_C, "head", z_NV, bias_V, target_N, total_N, loss_N, *z_NV.shape, cap)
        ctx.save_for_backward(x_ND, w_VD, bias_V, z_NV, target_N, total_N)
        ctx.cap, ctx.fast, ctx.biased = cap, fast, bias is not None
        return loss_N.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, w_VD, bias_V, z_NV, target_N, total_N = ctx.saved_tensors
        d_NV, sums_PV = torch.empty_like(z_NV), bias_V.new_zeros(PARTS, len(bias_V))
        g = grads[0].contiguous()
        ctx.fast.call(_C, "head_back", z_NV, bias_V, target_N, total_N, d_NV, sums_PV, *z_NV.shape, ctx.cap, g)
        bias = sums_PV.sum(0) if ctx.biased else None
        return (d_NV @ w_VD).float(), (d_NV.t() @ x_ND).float(), bias, None, None, None
