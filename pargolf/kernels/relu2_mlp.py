"""The squared leaky ReLU of the MLP: `y = a^2, a = leaky_relu(z, slope)`; slope 0 is the squared ReLU.

`reference` is what autograd makes of the formula: it keeps z and a, and differentiates the square as a power.
`squared_leaky_relu` keeps a alone, which has the sign of z, so that everything is known from it:

    dz = 2 a g (1 where a > 0, slope elsewhere)
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(z: Tensor, slope: float) -> Tensor:
    """The formula, left to autograd."""
    return F.leaky_relu(z, slope).square()


def squared_leaky_relu(z: Tensor, slope: float) -> Tensor:
    """`leaky_relu(z, slope)^2` of any shape. Twice differentiable only through `reference`."""
    if not (z.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return reference(z, slope)
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
