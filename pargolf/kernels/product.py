"""A layer's matrix product, `y = x W^T`, in float32, or from bfloat16 factors where the processor is faster with them.

    y = bf(x) bf(W)^T,   dx = bf(g) bf(W),   dW = bf(g)^T bf(x)        sums in float32

Some processors since 2021 multiply bfloat16 in hardware (AVX512-BF16, AMX), at least twice as fast as float32; on
others torch's product of bfloat16 is 55 to 270 times slower. So bfloat16 is used only if the recipe asks for it
(`train.half`) and the processor supports it. Weights, gradients and everything between products stay float32; the
tensors saved for the backward pass take half the memory.

torch's product rounds its results to bfloat16, and each cast is a pass over memory that costs as much as the product.
On a processor with AMX, the C code casts while it loads, and its results are float32 (`c/product_tiles.c`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.compiled import TILED, Compiled, at_hand, tiled_source

_TILES = tiled_source("product_tiles")


def reference(x: Tensor, w_OI: Tensor) -> Tensor:
    """The product in the type of `x`."""
    return F.linear(x, w_OI.to(x.dtype))


def product(x: Tensor, w_OI: Tensor) -> Tensor:
    """`x (..., I) -> (..., O)`."""
    fast = at_hand(x, w_OI)
    if isinstance(fast, Compiled) and fast.half:
        whole = all(size % TILED == 0 for size in (x.numel() // x.shape[-1], *w_OI.shape))
        if whole and fast.starts(_TILES):
            tiled: Tensor = _TiledProduct.apply(x, w_OI, fast)  # type: ignore[no-untyped-call]
            return tiled
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


class _TiledProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, fast: Compiled) -> Tensor:
        x, w_OI = x.contiguous(), w.contiguous()
        sizes = x.numel() // x.shape[-1], w.shape[1], w.shape[0]
        x_NI, y = x.new_empty(x.shape, dtype=torch.bfloat16), x.new_empty(*x.shape[:-1], len(w))
        fast.call(_TILES, "times", x, w_OI, x_NI, y, *sizes)
        ctx.save_for_backward(x_NI, w_OI)
        ctx.sizes, ctx.fast = sizes, fast
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NI, w_OI = ctx.saved_tensors
        dx, dw = w_OI.new_empty(x_NI.shape), torch.empty_like(w_OI)
        ctx.fast.call(_TILES, "times_back", grads[0].contiguous(), x_NI, w_OI, dx, dw, *ctx.sizes)
        return dx, dw, None
