"""GPTQ: quantize column by column, and let the remaining columns compensate for the error on calibration data.

    least  tr((W - Q) H (W - Q)^T),   H = E[x x^T] of the inputs x;   U^T U = (H + damp)^-1,  U upper
    e_j = (w_j - q_j) / U_jj;   w_{j+1:} -= e_j U_{j,j+1:}

Frantar et al., arXiv:2210.17323; columns in order of descending diag(H), damp 1 % of its mean, feedback inside a block
column by column, to later blocks in one product. The field's records use it since pull request 1019, on the tied
embedding since 1394 (H of the final hidden state). `quant/calibrate.py` computes H. Rows are independent; a row that
comes out no better than by plain rounding is rounded. Rounding and decoding are those of the grid.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.ranges import Positive, Size, Within
from pargolf.core.smaller import Smaller
from pargolf.quant.grid import Codes, Grid, Rounds, check_finite
from pargolf.quant.trellis import rows_of, spread_scales

_DAMPED = 8  # attempts, each with ten times the damping, until the damping dominates the matrix
Hessians = dict[str, Tensor]
"""Parameter name -> (columns, columns), in nats: tr(E H E^T) is the loss caused by an error E of the weights."""


@dataclass(frozen=True)
class OwnText:
    """Calibrate on sequences that the model samples from BOS at `temperature`, instead of training batches."""

    temperature: Positive = 0.8


@dataclass(frozen=True)
class GPTQ:
    """Error feedback with Hessians from `batches` training batches; `damp` is relative to the mean diagonal.

    `calibration=OwnText()` uses the same amount of text sampled from the model; sampling counts as training time.
    """

    batches: Annotated[int, Within(1, 4096)] = 16
    damp: Positive = 0.01
    block: Size = 128
    calibration: OwnText | None = None

    def encode(self, w: Tensor, grid: Grid, hessian: Tensor) -> Codes:
        """Codes of `w` on `grid` with small Hessian-weighted error; plainly rounded if the grid supports no feedback.

        Raises `UserError` on NaN, infinite or no weights.
        """
        check_finite(w)
        columns = rows_of(w).shape[1]
        assert hessian.shape == (columns, columns), f"a Hessian of {tuple(hessian.shape)} for {tuple(w.shape)}"
        if hasattr(grid, "follow_feedback"):
            codes: Codes = grid.follow_feedback(w.detach(), hessian.to(w.device), self)
            return codes
        return self._rounded(w.detach(), grid, hessian.to(w.device)) if hasattr(grid, "round") else grid.encode(w)

    def _rounded(self, w: Tensor, grid: Any, hessian: Tensor) -> Codes:
        """Codes of a grid that rounds column by column (`Rounds`)."""
        w_NC = rows_of(w).float()
        scales = grid.scales(w, hessian)
        scale_NC = grid.spread(scales, w_NC) if hasattr(grid, "spread") else spread_scales(scales, w_NC)
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        back = torch.argsort(order)
        upper_CC = self.factor(hessian[order][:, order])
        fed_NC = self._feed(w_NC[:, order], grid, scale_NC[:, order], upper_CC)[:, back]
        plain_NC = grid.round(w_NC, scales=scale_NC)
        fed_N, plain_N = (_cost(w_NC - grid.values(c, scales=scale_NC), hessian) for c in (fed_NC, plain_NC))
        codes = torch.where((fed_N < plain_N)[:, None], fed_NC, plain_NC)
        return Codes(codes.to(torch.int8).reshape(w.shape), scales)

    def left_over(self, hessian: Tensor) -> float:
        """sum_j 1 / U_jj^2, in order of descending diag(H): the cost of a unit error in every column after feedback."""
        mean = hessian.diagonal().mean()
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
        return float(mean * self.factor(hessian[order][:, order]).diagonal().square().reciprocal().sum())

    def _feed(self, w_NC: Tensor, grid: Rounds, scale_NC: Tensor, upper_CC: Tensor) -> Tensor:
        """Quantize column after column with error feedback; returns codes as floats."""
        rest_NC, codes_NC = w_NC.clone(), torch.empty_like(w_NC)
        for begin, end in self._blocks(w_NC.shape[1]):
            block_NB, error_NB = rest_NC[:, begin:end], torch.empty_like(rest_NC[:, begin:end])
            for j in range(end - begin):
                column, scale_N = begin + j, scale_NC[:, begin + j]
                code_N = grid.round(block_NB[:, j], scales=scale_N)
                error_N = (block_NB[:, j] - grid.values(code_N, scales=scale_N)) / upper_CC[column, column]
                block_NB[:, j + 1 :].addr_(error_N, upper_CC[column, column + 1 : end], alpha=-1)
                codes_NC[:, column], error_NB[:, j] = code_N, error_N
            rest_NC[:, end:] -= error_NB @ upper_CC[begin:end, end:]
        return codes_NC

    def _blocks(self, columns: int) -> Iterator[tuple[int, int]]:
        for begin in range(0, columns, self.block):
            yield begin, min(begin + self.block, columns)

    def factor(self, hessian: Tensor) -> Tensor:
        """The upper Cholesky factor of the inverse of the damped Hessian.

        Damping is increased while the matrix is indefinite; if nothing helps, the identity is returned (no feedback).
        Raises `UserError` on NaN and infinite numbers.
        """
        eye = torch.eye(len(hessian), device=hessian.device)
        mean = float(hessian.diagonal().mean())
        if not math.isfinite(mean + float(hessian.abs().max())):
            raise UserError("A Hessian holds NaN or infinite numbers.")
        for damp in (self.damp * 10**k for k in range(_DAMPED if mean > 0 else 0)):
            lower, failed = torch.linalg.cholesky_ex(hessian / mean + damp * eye)
            upper: Tensor
            upper, failed_too = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and not int(failed_too):
                return upper
        return eye

    def at_scale(self, to: Smaller) -> "GPTQ":
        """Fewer batches, for fewer weights."""
        return replace(self, batches=max(self.batches // to.factor, 1))


def weighted_error(error: Tensor, hessian: Tensor | None) -> float:
    """tr(E H E^T); the plain sum of squares without a Hessian."""
    error_NC = rows_of(error).float()
    return float(error_NC.square().sum() if hessian is None else _cost(error_NC, hessian).sum())


def _cost(error_NC: Tensor, hessian: Tensor) -> Tensor:
    """Hessian-weighted error of each row."""
    return ((error_NC @ hessian) * error_NC).sum(1)
