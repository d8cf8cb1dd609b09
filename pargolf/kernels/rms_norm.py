"""RMSNorm, and rotation and gain for heads in the same pass: `y = x r`, r = 1 / sqrt(mean(x^2) + eps).

    dx = r (g - x r^2 mean(g x))

`norm_and_turn` is for queries and keys (B, T, H, d): after the norm, the first `2 R` channels of a head are rotated in
pairs (i, i + R) by the angles of their position (`model/rope.py`), and each head is multiplied by its gain. torch takes
about ten passes over memory, and twice as many backward; the C code takes one each. `reference` and `turned` are the
same in torch.

Source: Zhang & Sennrich 2019 (arXiv:1910.07467), without a learned weight and with the smallest step of float32 for eps
(1.19e-7); the published systems use it for the embedding, before attention and MLP, at the end, and per head on queries
and keys.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.compiled import PARTS, Compiled, at_hand, c_source

_EPS = torch.finfo(torch.float32).eps
_C = c_source("rms_norm")


def reference(x: Tensor) -> Tensor:
    """The norm over the last dimension in torch, in the type of `x` (torch 2.13's autocast would use float32)."""
    return F.rms_norm(x, (x.shape[-1],)).to(x.dtype)


def rms_norm(x: Tensor) -> Tensor:
    """Normalize the last dimension."""
    fast = at_hand(x)
    if isinstance(fast, Compiled):
        y: Tensor = _Norm.apply(x, fast)  # type: ignore[no-untyped-call]
        return y
    return reference(x)


def turned(x_BTHd: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """Rotate the first `2 R` channels of each head by the angles of its position; the others stay unchanged."""
    R = cos_T1R.shape[-1]
    cos, sin = cos_T1R.to(x_BTHd.dtype), sin_T1R.to(x_BTHd.dtype)
    a, b, rest = torch.split(x_BTHd, [R, R, x_BTHd.shape[-1] - 2 * R], dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin, rest), dim=-1)


def norm_and_turn(x_BTHd: Tensor, cos_T1R: Tensor, sin_T1R: Tensor, gain_H: Tensor | None = None) -> Tensor:
    """Normalize each head, rotate it, and multiply by its gain if there is one."""
    fast = at_hand(x_BTHd)
    if isinstance(fast, Compiled):
        y: Tensor = _NormAndTurn.apply(x_BTHd, cos_T1R, sin_T1R, gain_H, fast)  # type: ignore[no-untyped-call]
        return y
    y_BTHd = turned(rms_norm(x_BTHd), cos_T1R, sin_T1R)
    return y_BTHd if gain_H is None else y_BTHd * gain_H.to(y_BTHd.dtype)[:, None]


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, fast: Compiled) -> Tensor:
        x, d = x.contiguous(), x.shape[-1]
        y, r = torch.empty_like(x), x.new_empty(x.numel() // d)
        fast.call(_C, "norm", x, y, r, len(r), d, _EPS)
        ctx.save_for_backward(x, r)
        ctx.fast = fast
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, r = ctx.saved_tensors
        dx = torch.empty_like(x)
        ctx.fast.call(_C, "norm_back", grads[0].contiguous(), x, r, dx, len(r), x.shape[-1])
        return dx, None


class _NormAndTurn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, gain: Tensor | None, fast: Compiled) -> Tensor:
        x, (B, T, H, d), R = x.contiguous(), x.shape, cos.shape[-1]
        y, r = torch.empty_like(x), x.new_empty(B * T * H)
        fast.call(_C, "turn", x, cos, sin, gain, y, r, B * T, T, H, d, R, _EPS)
        ctx.save_for_backward(x, cos, sin, gain, r)
        ctx.fast = fast
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor | None, None]:
        x, cos, sin, gain, r = ctx.saved_tensors
        (B, T, H, d), R = x.shape, cos.shape[-1]
        dx, dgain = torch.empty_like(x), None if gain is None else x.new_zeros(PARTS, H)
        g = grads[0].contiguous()
        ctx.fast.call(_C, "turn_back", g, x, cos, sin, gain, r, dx, dgain, B * T, T, H, d, R)
        return dx, None, None, None if dgain is None else dgain.sum(0), None
