"""Trellis quantization: two interleaved grids, and a path that says which of them the next weight may use.

    n = 2 k + side(state),   value = n * scale / 2,   next state = (2 state mod S) | (parity(k) ^ parity(state & mask))

`base` gives the scale: each of the two grids has its step, and together they are twice as fine. The code k costs what
it costs on one grid, but a path chosen by Viterbi's algorithm (1967) sees the union: on Gaussian weights .164 bit per
weight fewer at equal squared error with 4 states, .180 with 8, .189 with 16. This is trellis-coded quantization
(Marcellin and Fischer 1990), the union form with an entropy coder of JPEG 2000 part 2 and of VVC, which no system of
the field has used. The state follows from the codes, so nothing more is stored; each row starts in state 0.
Inside GPTQ every surviving path carries its own error feedback (per-survivor processing, Raheli et al. 1995), so the
path minimizes the Hessian-weighted error itself and no decision is delayed past its feedback.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.quant.grid import Codes, Int, check_finite, straight_through

# Feedback masks of the machines by number of states, each the best of all masks on a uniform source at a fine step.
MACHINES = {4: 2, 8: 7, 16: 13, 32: 22}
_UNREACHED = 1e30
_ROWS = 1 << 11  # rows that are walked at once, which bounds memory


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
        n_NC = 2 * codes_NC.to(torch.int16) + sides(codes_NC, states=self.states)
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

    def follow(self, w_NC: Tensor, *, scale_NC: Tensor, state_N: Tensor, upper_CC: Tensor | None) -> "Path":
        """The path of least error through the columns of `w_NC`, from the states of its rows on.

        `upper_CC` is the Cholesky factor of GPTQ's inverse Hessian: errors are divided by its diagonal and fed back
        into the columns to the right, along each survivor for itself. None: plain squared error.
        """
        parts = zip(*(torch.split(x, _ROWS) for x in (w_NC, scale_NC, state_N)))
        paths = [self._follow(w, scale, state, upper_CC) for w, scale, state in parts]
        return Path(*(torch.cat([getattr(path, key) for path in paths]) for key in ("codes", "errors", "state")))

    def _encode(self, w: Tensor) -> Codes:
        scales, w_NC = self.scales(w), rows_of(w).float()
        start_N = torch.zeros(len(w_NC), dtype=torch.long, device=w.device)
        path = self.follow(w_NC, scale_NC=spread_scales(scales, w_NC), state_N=start_N, upper_CC=None)
        return Codes(path.codes.reshape(w.shape), scales)

    def _follow(self, w_NC: Tensor, scale_NC: Tensor, state_N: Tensor, upper_CC: Tensor | None) -> "Path":
        """`follow` for rows that fit in memory together: forward with survivors, then back along the best."""
        N, C = w_NC.shape
        S = self.states
        came_S2, offset_S2 = (table.to(w_NC.device) for table in _arrivals(S))
        cost_NS = w_NC.new_full((N, S), _UNREACHED)
        cost_NS.scatter_(1, state_N[:, None], 0.0)
        left_NSC = w_NC[:, None, :].expand(N, S, C) if upper_CC is not None else None
        history = []
        for j in range(C):
            half_N11 = (scale_NC[:, j] * 0.5)[:, None, None]
            x_NS = w_NC[:, j : j + 1].expand(N, S) if left_NSC is None else left_NSC[:, :, 0]
            x_NS2 = x_NS[:, came_S2]
            n_NS2 = self._nearest(x_NS2 / half_N11, offset_S2)
            error_NS2 = x_NS2 - n_NS2 * half_N11
            if upper_CC is not None:
                error_NS2 = error_NS2 / upper_CC[j, j]
            cost_NS, best_NS = (cost_NS[:, came_S2] + error_NS2.square()).min(-1)
            n_NS, error_NS = _pick(n_NS2, best_NS), _pick(error_NS2, best_NS)
            parent_NS = torch.where(best_NS == 0, came_S2[:, 0], came_S2[:, 1])
            history.append((n_NS, error_NS, parent_NS))
            if left_NSC is not None and upper_CC is not None and j + 1 < C:
                index = parent_NS[:, :, None].expand(N, S, C - j - 1)
                left_NSC = left_NSC[:, :, 1:].gather(1, index)
                left_NSC.addcmul_(error_NS[:, :, None], upper_CC[j, j + 1 :], value=-1)
        return _trace(cost_NS, history)

    def _nearest(self, t_NS2: Tensor, offset_S2: Tensor) -> Tensor:
        """The nearest n = offset + 4 j to `t`, in half steps, with k inside the codes of `base`."""
        j_NS2 = torch.round((t_NS2 - offset_S2) * 0.25)
        high, k0_S2 = self.base.high, torch.floor(offset_S2 * 0.5)
        # k = 2 j + k0, and k0 is 0 or 1. The upper copy reaches one code further down, so that both ends are alike.
        low_S2 = torch.ceil((-high - offset_S2 % 2 - k0_S2) / 2)
        high_S2 = torch.floor((high - k0_S2) / 2)
        return torch.minimum(torch.maximum(j_NS2, low_S2), high_S2) * 4 + offset_S2


@dataclass(frozen=True)
class Path:
    """Codes (N, C) int8 along the best path, the errors made (divided by GPTQ's diagonal), and the last states (N,)."""

    codes: Tensor
    errors: Tensor
    state: Tensor


def sides(codes_NC: Tensor, *, states: int) -> Tensor:
    """Which of the two grids each code stands on, 0 or 1, from the parities of the codes before it in its row."""
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
def _arrivals(states: int) -> tuple[Tensor, Tensor]:
    """For each state, the two states it is reached from, and n mod 4 on the way: both (S, 2)."""
    ways: list[list[tuple[int, int]]] = [[] for _ in range(states)]
    for s in range(states):
        for parity in (0, 1):
            to = 2 * s % states | parity ^ ((s & MACHINES[states]).bit_count() & 1)
            ways[to].append((s, 2 * parity + (s & 1)))
    came = torch.tensor([[s for s, _ in way] for way in ways])
    return came, torch.tensor([[float(offset) for _, offset in way] for way in ways])


def _pick(x_NS2: Tensor, best_NS: Tensor) -> Tensor:
    return x_NS2.gather(-1, best_NS[..., None])[..., 0]


def _trace(cost_NS: Tensor, history: list[tuple[Tensor, Tensor, Tensor]]) -> Path:
    """Walk back from the cheapest last state."""
    last_N = cost_NS.argmin(1)
    at_N1 = last_N[:, None]
    codes, errors = [], []
    for n_NS, error_NS, parent_NS in reversed(history):
        codes.append(torch.floor(n_NS.gather(1, at_N1) * 0.5).to(torch.int8))
        errors.append(error_NS.gather(1, at_N1))
        at_N1 = parent_NS.gather(1, at_N1)
    return Path(torch.cat(codes[::-1], 1), torch.cat(errors[::-1], 1), last_N)
