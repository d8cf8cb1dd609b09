"""Rotary position embedding (RoPE), optionally on part of the channels, with the NTK rescale of its base.

The first `dims` of a head's `d` channels are rotated in half-split pairs `(i, i + dims/2)` by the angle
`t * base^(-2i/dims)`; the others are unchanged. Note `dims`, not `d`, in the exponent. Beyond `ntk_from` positions,
base grows to `base * (T / ntk_from)^(dims / (dims - 2))`, so that longer windows keep the angles seen in training.

Source: Su et al. 2021 (arXiv:2104.09864); partial form from pull request 315. Pull request 549 fixes `ntk_from=1024`
whatever its training length, so at 2,048 it trains and scores with base 22,081.79.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from pargolf.core.constants import constant
from pargolf.core.ranges import Count, Within
from pargolf.core.smaller import Smaller
from pargolf.model.slots import Context


@dataclass(frozen=True)
class Rope:
    """`dims` rotated channels per head (None: all), `base`, and the length from which the base is rescaled."""

    dims: Annotated[int, Within(2, 1 << 20)] | None = None
    base: Annotated[float, Within(1)] = 10_000.0
    ntk_from: Count | None = None

    def angles(self, length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (T, 1, dims/2), float32."""
        dims = self.dims or head_dim
        base = self.base
        if self.ntk_from is not None and length > self.ntk_from:
            base *= (length / self.ntk_from) ** (dims / (dims - 2))
        cos_T1R, sin_T1R = _angles(length, dims, base, device)
        return cos_T1R, sin_T1R

    def turns(self, x_BTHd: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Cosines and sines for heads of this shape, computed once per forward pass (for `kernels/rms_norm.py`)."""
        key = (self, x_BTHd.shape[-1])
        if key not in ctx.shared:
            ctx.shared[key] = [ctx.here(x) for x in self.angles(ctx.window, x_BTHd.shape[-1], x_BTHd.device)]
        cos, sin = ctx.shared[key]
        return cos, sin

    def at_scale(self, to: Smaller) -> "Rope":
        """Rotate the same share of a head's channels, and rescale from the same share of the context."""
        dims, start = self.dims, self.ntk_from
        if dims is not None:
            dims = max(2, int(dims / to.head_dim_before * to.head_dim) // 2 * 2)
        return replace(self, dims=dims, ntk_from=start if start is None else start * to.context // to.seq_len)


# A compiled graph treats them as constants; otherwise every kernel that uses an angle would compute it again.
@constant
def _angles(length: int, dims: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    inverse = 1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims)
    turn = torch.outer(torch.arange(length, dtype=torch.float32, device=device), inverse)
    return turn.cos()[:, None], turn.sin()[:, None]
