"""Trellis quantization: two interleaved grids, and a path that decides which grid the next weight may use.

    n = 2 k + side(state),   value = n * scale / 2,   next state = (2 state mod S) | (parity(k) ^ parity(state & mask))

`base` gives the scale: each of the two grids has its step, and together they are twice as fine. The code k costs what
it costs on one grid, but a path chosen by Viterbi's algorithm (1967) sees the union: on Gaussian weights .164 bit per
weight fewer at equal squared error with 4 states, .180 with 8, .189 with 16. This is trellis-coded quantization
(Marcellin and Fischer 1990), the union form with an entropy coder of JPEG 2000 part 2 and of VVC, which no system of
the field has used. The state follows from the codes, so nothing more is stored; each row starts in state 0.
Inside GPTQ every surviving path carries its own error feedback (per-survivor processing, Raheli et al. 1995), so the
path minimizes the Hessian-weighted error itself and no decision is delayed past its feedback. The order of the walk is
worth as much as the states: light columns alternate with heavy ones, by classes of four bits that are stored.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.kernels.survivors import Ways, best_path
from pargolf.quant.grid import Codes, Int, check_finite, straight_through

# Feedback masks of the machines by number of states, each the best of all masks on a uniform source at a fine step.
MACHINES = {4: 2, 8: 7, 16: 13, 32: 22}


@dataclass(frozen=True)
class Trellis:
    """The grid `base` and its copy half a step up, chosen between by a machine of 4, 8, 16 or 32 `states`."""

    base: Int
    states: int = 8

    def __post_init__(self) -> None:
        if self.states not in MACHINES:
            raise UserError(f"Trellis(states=...) takes {', '.join(map(str, MACHINES))}, not {self.states}.")
        if self.base.round_with != "stored" or self.base.multiple != 1 or self.base.extra_code:
            raise UserError(
                "Trellis(base=...) takes an Int that rounds with the stored scale and has no special codes."
            )

    def encode(self, w: Tensor) -> Codes:
        """Quantize to int8 codes by least squared error. Raises `UserError` on NaN, infinite or no weights."""
        check_finite(w)
        return self._encode(w.detach())

    def decode(self, codes: Codes) -> Tensor:
        """Float32 values of `codes`, in their shape; needs nothing else."""
        codes_NC = rows_of(codes.codes)
        n_NC = 2 * codes_NC.to(torch.int16) + sides(codes_NC, states=self.states, classes_C=codes.order)
        scale = spread_scales(codes.scales, codes_NC)
        return (n_NC.float() * (scale * 0.5)).reshape(codes.codes.shape)

    def fake(self, w: Tensor) -> Tensor:
        """`decode(encode(w))` in the dtype of `w`, with the gradient of the identity; unchecked, for training."""
        with torch.no_grad():
            values = self.decode(self._encode(w.detach())).to(w.dtype)
        return straight_through(w, values)

    def scales(self, w: Tensor, hessian: Tensor | None = None) -> Tensor:
        """The stored scales that `encode` would give `w`; see `Int.scales`."""
        return self.base.scales(w, hessian)

    def follow(self, w_NC: Tensor, *, scale_NC: Tensor, upper_CC: Tensor | None) -> Tensor:
        """Codes along the path of least error through the columns of `w_NC`, (N, C) int8.

        `upper_CC` is the Cholesky factor of GPTQ's inverse Hessian: errors are divided by its diagonal and fed back
        into the columns to the right, along each survivor for itself. None: plain squared error.
        """
        return best_path(w_NC, scale_NC, upper_CC, _ways(self.states, self.base.high))

    def follow_feedback(self, w: Tensor, hessian: Tensor, solver: "Feedback") -> Codes:
        """Codes along the path of the least Hessian-weighted error.

        The decoder walks the columns in the order that their stored classes give, and so must the path.
        """
        w_NC, scales, classes_C = rows_of(w).float(), self.scales(w, hessian), weight_classes(hessian)
        scale_NC = spread_scales(scales, w_NC)
        order_C = torch.arange(len(hessian)) if classes_C is None else woven(classes_C)
        upper_CC = solver.factor(hessian[order_C][:, order_C])
        codes_NC = torch.empty_like(w_NC, dtype=torch.int8)
        codes_NC[:, order_C] = self.follow(w_NC[:, order_C], scale_NC=scale_NC[:, order_C], upper_CC=upper_CC)
        return Codes(codes_NC.reshape(w.shape), scales, classes_C, self.states)

    def at_step(self, step: float, widest: float) -> "Trellis":
        """The trellis over the base of that step."""
        return replace(self, base=self.base.at_step(step, widest))

    @property
    def stand_in(self) -> Int:
        """A trellis lowers the error and leaves the bytes of its base."""
        return self.base

    def _encode(self, w: Tensor) -> Codes:
        scales, w_NC = self.scales(w), rows_of(w).float()
        codes_NC = self.follow(w_NC, scale_NC=spread_scales(scales, w_NC), upper_CC=None)
        return Codes(codes_NC.reshape(w.shape), scales, states=self.states)


class Feedback(Protocol):
    """What a grid may ask of the solver that feeds errors on (`quant/gptq.py`)."""

    def factor(self, hessian: Tensor) -> Tensor:
        """The upper Cholesky factor of the damped inverse, (C, C)."""
        ...


def weight_classes(hessian: Tensor) -> Tensor | None:
    """A class of each column, int8 0 to 15, by the logarithm of what its errors cost; None where all cost alike."""
    log_C = hessian.diagonal().clamp(min=1e-30).log2()
    low, high = float(log_C.min()), float(log_C.max())
    return ((log_C - low) * (15.99 / (high - low))).to(torch.int8) if high - low > 0.1 else None


def woven(classes_C: Tensor) -> Tensor:
    """The order of a walk, (C,): columns of the upper half, heaviest first, each after one of the lower half.

    Where little is lost the parity is free to steer, so a light column lets the heavy one after it choose its grid.
    """
    order_C = torch.argsort(classes_C, descending=True, stable=True)
    heavy, light = order_C[: len(order_C) // 2], order_C[len(order_C) // 2 :]
    pairs = torch.stack([light[: len(heavy)], heavy], 1).reshape(-1)
    return torch.cat([pairs, light[len(heavy) :]])


def sides(codes_NC: Tensor, *, states: int, classes_C: Tensor | None = None) -> Tensor:
    """Which of the two grids each code stands on, 0 or 1, from the parities of those walked before it in its row."""
    if classes_C is not None:
        order_C = woven(classes_C)
        side_NC = torch.empty_like(codes_NC, dtype=torch.int8)
        side_NC[:, order_C] = sides(codes_NC[:, order_C], states=states)
        return side_NC
    if states not in MACHINES:
        raise ValueError(f"there is no trellis of {states} states")
    mask = MACHINES[states]
    # Bit s of this table is the parity of s & mask.
    fed_S = torch.tensor([(s & mask).bit_count() & 1 for s in range(states)], device=codes_NC.device)
    parity_CN = (codes_NC.T & 1).long()
    side_CN = torch.empty_like(parity_CN, dtype=torch.int8)
    state_N = torch.zeros(codes_NC.shape[0], dtype=torch.long, device=codes_NC.device)
    for j, parity_N in enumerate(parity_CN):
        side_CN[j] = state_N & 1
        state_N = (2 * state_N) % states | (parity_N ^ fed_S[state_N])
    return side_CN.T


def rows_of(w: Tensor) -> Tensor:
    """Rows of the first dimension; a vector is one row."""
    return w.reshape(1, -1) if w.dim() < 2 else w.reshape(w.shape[0], -1)


def spread_scales(scales: Tensor, w_NC: Tensor) -> Tensor:
    """The scale of every weight, float32 (N, C), from scales per row, per group of columns or per tensor."""
    N, C = w_NC.shape
    scale_N1 = scales.float().reshape(-1, 1)
    if len(scale_N1) == 1:
        return scale_N1.expand(N, C)
    return scale_N1.expand(len(scale_N1), N * C // len(scale_N1)).reshape(N, C)


@cache
def _ways(states: int, high: int) -> Ways:
    """The ways through a machine, with codes up to `high`."""
    offset = torch.zeros(2, states // 2, 2, 1, dtype=torch.long)
    for s in range(states):
        for parity in (0, 1):
            to = parity ^ ((s & MACHINES[states]).bit_count() & 1)
            offset[s // (states // 2), s % (states // 2), to] = 2 * parity + (s & 1)
    # k = 2 j + k0, and k0 is 0 or 1. The upper copy reaches one code further down, so that both ends are alike.
    k0 = offset // 2
    least, greatest = -((high + offset % 2 + k0) // 2), (high - k0) // 2
    return offset.float(), least.float(), greatest.float()
