"""The squared leaky ReLU of the MLP: `y = a^2, a = leaky_relu(z, slope)`; slope 0 is the squared ReLU.

`reference` uses autograd, which saves z and a. `squared_leaky_relu` saves only a, because a has the sign of z, and the
gradient follows from it:

    dz = 2 a g (1 where a > 0, slope elsewhere)

The C code saves z, which exists anyway as the result of the product before, and makes one pass in each direction.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pargolf.kernels.compiled import Compiled, at_hand, c_source

_C = c_source("relu2_mlp")


def reference(z: Tensor, slope: float) -> Tensor:
    """The formula, differentiated by autograd."""
    return F.leaky_relu(z, slope).square()


def squared_leaky_relu(z: Tensor, slope: float) -> Tensor:
    """`leaky_relu(z, slope)^2` of any shape. Twice differentiable only through `reference`."""
    if not (z.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return reference(z, slope)
    fast = at_hand(z)
    if isinstance(fast, Compiled):
        quick: Tensor = _CompiledReLU2.apply(z, slope, fast)  # type: ignore[no-untyped-call]
        return quick
    y: Tensor = _SquaredLeakyReLU.apply(z, slope)  # type: ignore[no-untyped-call]
    return y


class _SquaredLeakyReLU(torch.autograd.Function):
    """The closed form."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: float) -> Tensor:
        a = F.leaky_relu(z, slope)
        ctx.save_for_backward(a)
        ctx.slope = slope
        return a * a

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (a,) = ctx.saved_tensors
        d = (a * grads[0]).mul_(2.0)
        dz: Tensor = torch.ops.aten.leaky_relu_backward(d, a, ctx.slope, False)
        return dz, None


class _CompiledReLU2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, slope: float, fast: Compiled) -> Tensor:
        z = z.contiguous()
        y = torch.empty_like(z)
        fast.call(_C, "relu2", z, y, z.numel(), slope)
        ctx.save_for_backward(z)
        ctx.slope, ctx.fast = slope, fast
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        dz = torch.empty_like(z)
        ctx.fast.call(_C, "relu2_back", grads[0].contiguous(), z, dz, z.numel(), ctx.slope)
        return dz, None, None
