"""Triton kernels for CUDA: soft-capped cross-entropy, and the MLP's first product with its squared leaky ReLU.

    cross_entropy_rows   total_n = log sum_v exp s,  loss_n = total_n - s_target;   s = cap tanh(z / cap)
    square_of_product    a = leaky_relu(x W^T, slope),   y = a^2

A row of logits is read once forward and once backward, and nothing of its size is kept but the logits themselves. The
product squares its tile while it is still in registers, and keeps a, from which the backward pass knows all:

    dz = (softmax(s) - onehot) (1 - (s / cap)^2) g_n;       d(x W^T) = 2 a g (1 where a > 0, slope elsewhere)

Each is a torch operator of its own, so that a compiled graph takes it whole. The twins are `reference` in
`softcap_ce.py` and in `relu2_mlp.py`. Without a GPU, Triton's interpreter runs the same code (TRITON_INTERPRET=1).
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_TILE = 128


def reference(x_ND: Tensor, w_FD: Tensor, slope: float) -> Tensor:
    """The product and the square of its leaky ReLU, by torch."""
    return F.leaky_relu(F.linear(x_ND, w_FD.to(x_ND.dtype)), slope).square()


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]  # the compiler would look its annotations up
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _rows_kernel(z, target, loss, total, V, cap, WIDE: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    n = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDE)
    s = cap * _tanh(tl.load(z + n * V + at, mask=at < V, other=0.0).to(tl.float32) / cap)
    s = tl.where(at < V, s, -float("inf"))
    top = tl.max(s, 0)
    sum_ = top + tl.log(tl.sum(tl.exp(s - top), 0))
    hit = tl.load(target + n)
    tl.store(total + n, sum_)
    tl.store(loss + n, sum_ - tl.sum(tl.where(at == hit, s, 0.0), 0))


@triton.jit
def _rows_back_kernel(z, target, total, g, dz, V, cap, WIDE: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    n = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDE)
    t = _tanh(tl.load(z + n * V + at, mask=at < V, other=0.0).to(tl.float32) / cap)
    share = tl.exp(cap * t - tl.load(total + n)) - tl.where(at == tl.load(target + n), 1.0, 0.0)
    d = share * (1.0 - t * t) * tl.load(g + n)
    tl.store(dz + n * V + at, d.to(dz.dtype.element_ty), mask=at < V)


@triton.jit
def _square_kernel(  # type: ignore[no-untyped-def]
    x, w, y, a, N, F, D, slope, TILE: tl.constexpr, DEEP: tl.constexpr
) -> None:
    # Tiles of one row of x follow one another, so that it is read from memory once.
    rows = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    cols = tl.program_id(0) * TILE + tl.arange(0, TILE)
    sums = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, D, DEEP):
        deep = first + tl.arange(0, DEEP)
        left = tl.load(x + rows[:, None] * D + deep[None, :], mask=(rows[:, None] < N) & (deep[None, :] < D), other=0.0)
        right = tl.load(
            w + cols[None, :] * D + deep[:, None], mask=(cols[None, :] < F) & (deep[:, None] < D), other=0.0
        )
        sums += tl.dot(left, right, input_precision="ieee")
    kept = tl.where(sums > 0, sums, slope * sums).to(a.dtype.element_ty)
    inside = (rows[:, None] < N) & (cols[None, :] < F)
    place = rows[:, None] * F + cols[None, :]
    tl.store(a + place, kept, mask=inside)
    tl.store(y + place, kept * kept, mask=inside)


@torch.library.custom_op("pargolf::cross_entropy_rows", mutates_args=())
def cross_entropy_rows(z_NV: Tensor, target_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Nats of each row and the logarithm of its sum, (N,) each, float32."""
    z_NV, (N, V) = z_NV.contiguous(), z_NV.shape
    loss_N, total_N = (torch.empty(N, device=z_NV.device, dtype=torch.float32) for _ in range(2))
    _rows_kernel[(N,)](z_NV, target_N, loss_N, total_N, V, cap, WIDE=triton.next_power_of_2(V))
    return loss_N, total_N


@torch.library.custom_op("pargolf::cross_entropy_rows_back", mutates_args=())
def _cross_entropy_rows_back(z_NV: Tensor, target_N: Tensor, total_N: Tensor, g_N: Tensor, cap: float) -> Tensor:
    z_NV, (N, V) = z_NV.contiguous(), z_NV.shape
    dz_NV = torch.empty_like(z_NV)
    wide = triton.next_power_of_2(V)
    _rows_back_kernel[(N,)](z_NV, target_N, total_N, g_N.contiguous(), dz_NV, V, cap, WIDE=wide)
    return dz_NV


@torch.library.custom_op("pargolf::square_of_product", mutates_args=())
def square_of_product(x_ND: Tensor, w_FD: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """`a^2` and `a = leaky_relu(x W^T, slope)`, (N, F) each, in the type of `x`."""
    x_ND, w_FD = x_ND.contiguous(), w_FD.to(x_ND.dtype).contiguous()
    (N, D), units = x_ND.shape, len(w_FD)
    y_NF, a_NF = x_ND.new_empty(N, units), x_ND.new_empty(N, units)
    tiles = (triton.cdiv(units, _TILE), triton.cdiv(N, _TILE))
    _square_kernel[tiles](x_ND, w_FD, y_NF, a_NF, N, units, D, slope, TILE=_TILE, DEEP=64, num_warps=8, num_stages=3)
    return y_NF, a_NF


@cross_entropy_rows.register_fake
def _(z_NV: Tensor, target_N: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    rows = z_NV.new_empty(len(z_NV), dtype=torch.float32)
    return rows, torch.empty_like(rows)


@_cross_entropy_rows_back.register_fake
def _(z_NV: Tensor, target_N: Tensor, total_N: Tensor, g_N: Tensor, cap: float) -> Tensor:
    return torch.empty_like(z_NV)


@square_of_product.register_fake
def _(x_ND: Tensor, w_FD: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return x_ND.new_empty(len(x_ND), len(w_FD)), x_ND.new_empty(len(x_ND), len(w_FD))


class CrossEntropyOfRows(torch.autograd.Function):
    """Nats of each row, (N,), float32: `apply(z_NV, target_N, cap)`."""

    @staticmethod
    def forward(ctx: Any, z_NV: Tensor, target_N: Tensor, cap: float) -> Tensor:
        """Keep the logits and the row sums."""
        loss_N: Tensor
        loss_N, total_N = cross_entropy_rows(z_NV, target_N, cap)
        ctx.save_for_backward(z_NV, target_N, total_N)
        ctx.cap = cap
        return loss_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """One pass."""
        z_NV, target_N, total_N = ctx.saved_tensors
        return _cross_entropy_rows_back(z_NV, target_N, total_N, grads[0], ctx.cap), None, None


class SquareOfProduct(torch.autograd.Function):
    """`leaky_relu(x W^T, slope)^2`, (N, F): `apply(x_ND, w_FD, slope)`; the weight in its own type."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, w_FD: Tensor, slope: float) -> Tensor:
        """Keep what the square was of."""
        y_NF: Tensor
        y_NF, a_NF = square_of_product(x_ND, w_FD, slope)
        ctx.save_for_backward(x_ND, w_FD, a_NF)
        ctx.slope = slope
        return y_NF

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        """Back through the square, then two products by torch."""
        x_ND, w_FD, a_NF = ctx.saved_tensors
        dz_NF = torch.ops.aten.leaky_relu_backward(2.0 * a_NF * grads[0], a_NF, ctx.slope, False)
        return dz_NF @ w_FD.to(dz_NF.dtype), (dz_NF.t() @ x_ND).to(w_FD.dtype), None
