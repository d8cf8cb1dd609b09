"""How a block adds its attention A and its MLP M to the residual stream x.

    Serial      x <- x + A(x),   then  x <- x + M(x)                                    the published baseline
    Parallel    x <- x + A(x) + M(x)                                                    pull requests 1412, 1477
    TwoLanes    y = A(r),  z = M(b);   a <- k0 a + p0 y + q0 z,   b <- k1 b + p1 y + q1 z     1204, 1529

A and M stand for the scaled outputs on the normed input. In parallel they shorten the block by the depth of one part,
and an error in A's quantized weights no longer passes through M (1412).

With two lanes the stream splits at the first block that has them: attention reads lane a, the MLP reads lane b, and
both write to both lanes with learned weights. r is lane a plus the edges that are for reading only (`X0Mix`); skips
enter lane a. A block with one lane, and the head, read the mean of both. Evidence: -2.2 mBPB in one run of 1204; its
learned weights show that the MLP writes little to lane a.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from pargolf.model.slots import Place

Lanes = tuple[Tensor, ...]
"""The stream inside a block: one tensor (B, T, D), or two."""
Part = Callable[[Tensor], Tensor]


def as_lanes(lanes: Lanes, count: int) -> Lanes:
    """Convert to `count` lanes: one lane is duplicated, two lanes are averaged."""
    if len(lanes) == count:
        return lanes
    return lanes * 2 if count == 2 else (0.5 * (lanes[0] + lanes[1]),)


class Residual(Protocol):
    """The slot for how attention and MLP join the stream; `lanes` is the number of lanes in the block."""

    @property
    def lanes(self) -> int:
        """The number of lanes in the block."""
        ...

    def build(self, place: Place) -> nn.Module:
        """Make the module `lanes, read_BTD, attend, feed -> lanes`."""
        ...


@dataclass(frozen=True)
class Serial:
    """Attention, then the MLP on the result."""

    lanes: ClassVar[int] = 1

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return SerialModule()


class SerialModule(nn.Module):
    """One lane to one lane."""

    def forward(self, lanes: Lanes, read_BTD: Tensor, attend: Part, feed: Part) -> Lanes:
        """Add one, then the other."""
        x_BTD = read_BTD + attend(read_BTD)
        return (x_BTD + feed(x_BTD),)


@dataclass(frozen=True)
class Parallel:
    """Attention and the MLP read the same stream."""

    lanes: ClassVar[int] = 1

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return ParallelModule()


class ParallelModule(nn.Module):
    """One lane to one lane."""

    def forward(self, lanes: Lanes, read_BTD: Tensor, attend: Part, feed: Part) -> Lanes:
        """Add both."""
        return (read_BTD + attend(read_BTD) + feed(read_BTD),)


@dataclass(frozen=True)
class TwoLanes:
    """Two lanes; `keep` is the initial weight of each lane itself, `add` that of attention and of MLP."""

    keep: float = 1.1
    add: float = 1.0
    lanes: ClassVar[int] = 2

    def build(self, place: Place) -> nn.Module:
        """Make the module."""
        return TwoLanesModule(self)


class TwoLanesModule(nn.Module):
    """Two lanes to two lanes; each parameter holds a number for lane a and one for lane b."""

    def __init__(self, spec: TwoLanes) -> None:
        super().__init__()
        self.keep = nn.Parameter(torch.full((2,), spec.keep))
        self.attn = nn.Parameter(torch.full((2,), spec.add))
        self.mlp = nn.Parameter(torch.full((2,), spec.add))

    def forward(self, lanes: Lanes, read_BTD: Tensor, attend: Part, feed: Part) -> Lanes:
        """Attention from what was read, the MLP from lane b, both into both."""
        y_BTD, z_BTD = attend(read_BTD), feed(lanes[1])
        keep, attn, mlp = (w.to(y_BTD.dtype) for w in (self.keep, self.attn, self.mlp))
        return tuple(keep[i] * lanes[i] + attn[i] * y_BTD + mlp[i] * z_BTD for i in range(2))
