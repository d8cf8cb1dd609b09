"""A layer's matrix product, `y = x W^T`, in float32, or from bfloat16 factors where the processor is faster with them.

    y = bf(x) bf(W)^T,   dx = bf(g) bf(W),   dW = bf(g)^T bf(x)        sums in float32, results rounded to bfloat16

Some processors since 2021 multiply bfloat16 in hardware (AVX512-BF16, AMX), twice as fast as float32 or more; on others
torch's product of bfloat16 is 55 to 270 times slower. So it takes both: a recipe that asks (`train.half`) and a
processor that says it can. Weights, gradients and all between the products stay float32, and half of what is kept
for the backward pass is gone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.compiled import Compiled, at_hand


def reference(x: Tensor, w_OI: Tensor) -> Tensor:
    """The product in the type of `x`."""
    return F.linear(x, w_OI.to(x.dtype))


def product(x: Tensor, w_OI: Tensor) -> Tensor:
    """`x (..., I) -> (..., O)`."""
    fast = at_hand(x, w_OI)
    if isinstance(fast, Compiled) and fast.half:
        y: Tensor = _HalfProduct.apply(x, w_OI)  # type: ignore[no-untyped-call]
        return y
    return reference(x, w_OI)


def multiplies_half() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


class _HalfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x_NI, w = x.reshape(-1, x.shape[-1]).bfloat16(), w.bfloat16()
        ctx.save_for_backward(x_NI, w)
        return F.linear(x_NI, w).float().view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x_NI, w_OI = ctx.saved_tensors
        g_NO = grads[0].reshape(len(x_NI), -1).bfloat16()
        return (g_NO @ w_OI).float().view(*grads[0].shape[:-1], -1), (g_NO.t() @ x_NI).float()
