"""AWQ-lite: the most important columns keep eight bits, inside the same GPTQ solution.

    saliency_c = rms(x_c) * mean_rows |W_rc|      group = the `width` adjacent columns with the largest sum
    scale of the group = scale of the row * (2^(b-1) - 1) / (2^(bits-1) - 1),    b the bits of the tensor's own grid

Pull request 1908, after the activation-aware scaling of Lin et al., arXiv:2306.00978; from there in 1945, 1953, 2014.
On the board's model it chose 64 columns of the embedding: .27 mBPB for 87 kB, in runs with equal steps. The published
form stores the finer scales a second time; here they follow from the row's scale. rms(x_c) is the square root of the
Hessian's diagonal, which also contains the cost of errors in nats, so tensors can be compared. Columns outside the
group keep their step; error feedback may push their codes past their usual largest code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.ranges import Count, Index, Size, Within
from pargolf.core.smaller import Smaller
from pargolf.quant.grid import Codes, Grid, Uniform, check_finite
from pargolf.quant.trellis import rows_of, spread_scales


@dataclass(frozen=True)
class FineGroup:
    """The grid `base`, but with steps as fine as `bits` bits in the `width` columns from each of `starts` on."""

    base: Uniform
    starts: tuple[Index, ...]
    width: Size = 64
    bits: int = 8

    def __post_init__(self) -> None:
        if not self.base.bits < self.bits <= 8:
            raise UserError(f"FineGroup(bits=...) takes more bits than {self.base.bits} and up to 8.")
        if not self.base.uniform:
            raise UserError("FineGroup(base=...) takes a grid that rounds with the stored scale, to every code.")

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def encode(self, w: Tensor) -> Codes:
        """Quantize to int8 codes. Raises `UserError` on NaN, infinite or no weights."""
        check_finite(w)
        scales, w_NC = self.scales(w), rows_of(w.detach()).float()
        codes_NC = self.round(w_NC, scales=self.spread(scales, w_NC))
        return Codes(codes_NC.to(torch.int8).reshape(w.shape), scales)

    def decode(self, codes: Codes) -> Tensor:
        """Float32 values of `codes`, in their shape."""
        codes_NC = rows_of(codes.codes).float()
        return (codes_NC * self.spread(codes.scales, codes_NC)).reshape(codes.codes.shape)

    def fake(self, w: Tensor) -> Tensor:
        """`base.fake(w)`, because the fine columns are only chosen after training."""
        return self.base.fake(w)

    def scales(self, w: Tensor, hessian: Tensor | None = None) -> Tensor:
        """The stored scales of `base`."""
        return self.base.scales(w, hessian)

    def round(self, w: Tensor, *, scales: Tensor) -> Tensor:
        """The nearest codes, as floats, given a scale for every weight."""
        return torch.round(w / scales).clamp(-self.high, self.high)

    def values(self, codes: Tensor, *, scales: Tensor) -> Tensor:
        """Codes times scales."""
        return codes * scales

    def spread(self, scales: Tensor, w_NC: Tensor) -> Tensor:
        """The scale of every weight, (N, C), float32."""
        finer_C = torch.ones(w_NC.shape[1], device=w_NC.device)
        for start in self.starts:
            finer_C[start : start + self.width] = self.base.high / self.high
        return spread_scales(scales, w_NC) * finer_C


@dataclass(frozen=True)
class AWQ:
    """Give the `groups` best runs of `width` columns `bits` bits, in matrices with more than `larger_than` weights.

    Used as `Quantize(..., protect=AWQ())`; without Hessians nothing is chosen.
    """

    groups: Count = 1
    width: Size = 64
    bits: Annotated[int, Within(3, 8)] = 8
    larger_than: Index = 65_536

    def choose(
        self, weights: Mapping[str, Tensor], grids: Mapping[str, Grid], hessians: Mapping[str, Tensor] | None
    ) -> dict[str, Grid]:
        """New grids for the tensors in which a group was chosen."""
        losses = []
        every: Mapping[str, Any] = grids
        for name, grid in every.items():
            w, hessian = weights[name], (hessians or {}).get(name)
            takes = hasattr(grid, "uniform") and grid.bits < self.bits and w.dim() == 2 and w.numel() > self.larger_than
            if not takes or hessian is None:
                continue
            saliency_C = hessian.diagonal().clamp(min=0).sqrt() * w.float().abs().mean(0)
            for start in range(0, w.shape[1] - self.width + 1, self.width):
                losses.append((-float(saliency_C[start : start + self.width].sum()), name, start))
        starts: dict[str, list[int]] = {}
        for _, name, start in sorted(losses)[: self.groups]:
            starts.setdefault(name, []).append(start)
        return {n: FineGroup(every[n], tuple(sorted(chosen)), self.width, self.bits) for n, chosen in starts.items()}

    def at_scale(self, to: Smaller) -> "AWQ":
        """Narrower groups, in smaller matrices."""
        return replace(self, width=max(self.width // to.factor, 1), larger_than=self.larger_than // to.factor**2)
