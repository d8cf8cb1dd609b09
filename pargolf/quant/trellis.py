"""Trellis-coded quantization: two interleaved grids, and a state machine that decides which one each weight uses.

    n = 2 k + side(state),   value = n * scale / 2,   next state = (2 state mod S) | (parity(k) ^ parity(state & mask))

`base` gives the scale: both grids have its step, and together they are twice as fine. A code k costs as many bits as on
one grid, but the path, chosen by Viterbi's algorithm (1967), can use both: on Gaussian weights this saves .164 bit per
weight at equal squared error with 4 states, .180 with 8, .189 with 16. This is trellis-coded quantization (Marcellin
and Fischer 1990) in the form of JPEG 2000 part 2 and VVC (union of the grids, with an entropy coder); no system of the
field has used it. The state follows from the codes, so nothing more is stored; each row starts in state 0.

Inside GPTQ every surviving path has its own error feedback (per-survivor processing, Raheli et al. 1995), so the path
minimizes the Hessian-weighted error itself. The order of the columns matters as much as the number of states:
unimportant (light) columns alternate with important (heavy) ones, by stored classes of four bits.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.kernels.survivors import Ways, best_path
from pargolf.quant.grid import Codes, Int, check_finite, straight_through

# Feedback mask of the machine by number of states: the best of all masks on a uniform source with a fine step.
MACHINES = {4: 2, 8: 7, 16: 13, 32: 22}


@dataclass(frozen=True)
class Trellis:
    """The grid `base` and its copy shifted by half a step; a machine of 4 to 32 `states` switches between them."""

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
        """Float32 values of `codes`, in their shape."""
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

        `upper_CC` is the Cholesky factor of GPTQ's inverse Hessian: each survivor divides its errors by the diagonal
        and feeds them into the columns to the right. None: plain squared error.
        """
        return best_path(w_NC, scale_NC, upper_CC, _ways(self.states, self.base.high))

    def follow_feedback(self, w: Tensor, hessian: Tensor, solver: "Feedback") -> Codes:
        """Codes along the path of the least Hessian-weighted error.

        The path visits columns in the order of their stored classes, as the decoder does.
        """
        w_NC, scales, classes_C = rows_of(w).float(), self.scales(w, hessian), weight_classes(hessian)
        scale_NC = spread_scales(scales, w_NC)
        order_C = torch.arange(len(hessian)) if classes_C is None else woven(classes_C)
        upper_CC = solver.factor(hessian[order_C][:, order_C])
        codes_NC = torch.empty_like(w_NC, dtype=torch.int8)
        codes_NC[:, order_C] = self.follow(w_NC[:, order_C], scale_NC=scale_NC[:, order_C], upper_CC=upper_CC)
        return Codes(codes_NC.reshape(w.shape), scales, classes_C, self.states)

    def at_step(self, step: float, widest: float) -> "Trellis":
        """The trellis over the base with that step."""
        return replace(self, base=self.base.at_step(step, widest))

    @property
    def stand_in(self) -> Int:
        """Its base, whose codes take as many bytes: a trellis only lowers the error."""
        return self.base

    def _encode(self, w: Tensor) -> Codes:
        scales, w_NC = self.scales(w), rows_of(w).float()
        codes_NC = self.follow(w_NC, scale_NC=spread_scales(scales, w_NC), upper_CC=None)
        return Codes(codes_NC.reshape(w.shape), scales, states=self.states)


class Feedback(Protocol):
    """What a grid may ask of the solver with error feedback (`quant/gptq.py`)."""

    def factor(self, hessian: Tensor) -> Tensor:
        """The upper Cholesky factor of the damped inverse, (C, C)."""
        ...


def weight_classes(hessian: Tensor) -> Tensor | None:
    """The class of each column, int8 0 to 15, by the logarithm of its error cost; None when all costs are alike."""
    log_C = hessian.diagonal().clamp(min=1e-30).log2()
    low, high = float(log_C.min()), float(log_C.max())
    return ((log_C - low) * (15.99 / (high - low))).to(torch.int8) if high - low > 0.1 else None


def woven(classes_C: Tensor) -> Tensor:
    """The order of a walk, (C,): columns of the heavier half, heaviest first, each after a column of the lighter half.

    In a light column an error costs little, so its parity can be chosen to give the heavy column after it the better
    grid.
    """
    order_C = torch.argsort(classes_C, descending=True, stable=True)
    heavy, light = order_C[: len(order_C) // 2], order_C[len(order_C) // 2 :]
    pairs = torch.stack([light[: len(heavy)], heavy], 1).reshape(-1)
    return torch.cat([pairs, light[len(heavy) :]])


def sides(codes_NC: Tensor, *, states: int, classes_C: Tensor | None = None) -> Tensor:
    """Which of the two grids each code is on, 0 or 1, from the parities of the codes visited before it in its row."""
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
    """Reshape to (rows of the first dimension, columns); a vector is one row."""
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
    """The transitions of a machine, with codes up to `high`, for `best_path`."""
    offset = torch.zeros(2, states // 2, 2, 1, dtype=torch.long)
    for s in range(states):
        for parity in (0, 1):
            to = parity ^ ((s & MACHINES[states]).bit_count() & 1)
            offset[s // (states // 2), s % (states // 2), to] = 2 * parity + (s & 1)
    # k = 2 j + k0, with k0 0 or 1. The shifted grid has one code more at the lower end, so that both ends are alike.
    k0 = offset // 2
    least, greatest = -((high + offset % 2 + k0) // 2), (high - k0) // 2
    return offset.float(), least.float(), greatest.float()
