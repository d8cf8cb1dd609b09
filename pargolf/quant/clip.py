"""Clip rules: the magnitude at which a row of weights is clipped before it is divided into integer codes.

A rule gets a matrix `w_NC` (N rows that each get one scale) and returns `limit_N1`, the magnitude of the largest code;
the scale is then `limit / (2^(bits-1) - 1)`.

    Amax()          max |w|                            nothing is clipped
    Percentile(p)   p-quantile of |w|                  the official baseline, p = .9999984
    Search(ps)      the percentile of least error      "GPTQ-lite" of pull requests 549, 910, 1009, 543
    StdDev(k)       k * std(w)                         SDClip, pull request 1394: k sets the entropy of the codes
    MeanAbs(k)      k * mean |w|                       with two bits: the ternary grid of BitNet b1.58, arXiv:2402.17764

`Amax`, `StdDev` and `MeanAbs` need one pass and suit training; the two with percentiles sort every row.
One rule also uses the Hessian from calibration (`quant/calibrate.py`), if there is one:

    HessianStdDev(k, strength)    k * std(w) * (1 + strength * (a - 1)),    a = mean |w| by diag(H), over its own mean

of pull request 1412, which found that the importance of rows is noise (correlation .12 across seeds) and the gain tiny.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.ranges import Positive, Rate, Within

SquaredError = Callable[[Tensor], Tensor]  # limit_N1 -> squared error of every weight, (N, C)


class Clip(Protocol):
    """A clip rule.

    Optional methods: `limit_seen(w_NC, hessian)` is called instead of `limit` when calibration gave a Hessian (C, C);
    `at(k)` returns the rule for a limit of `k` standard deviations, for the bit allocation solver.
    """

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """Return `limit_N1 >= 0`; `squared_error` gives the error of quantizing `w_NC` at a limit."""
        ...


def magnitude_quantile(w_NC: Tensor, *, p: tuple[float, ...]) -> Tensor:
    """The p-quantiles of |w| along the columns, linearly interpolated: shape (len(p), N, 1).

    The rank `p * (C - 1)` is a float32 product, as in `torch.quantile`, and so are the published numbers: with
    p = .9999984 and 512 columns the result is .0008 of the last gap below the maximum.
    """
    return torch.quantile(w_NC.abs(), w_NC.new_tensor(p), dim=1, keepdim=True)


@dataclass(frozen=True)
class Amax:
    """The largest magnitude of the row."""

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        return w_NC.abs().amax(dim=1, keepdim=True)


@dataclass(frozen=True)
class Percentile:
    """The `p`-quantile of the row's magnitudes."""

    p: float

    def __post_init__(self) -> None:
        _check_percentiles((self.p,))

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        return magnitude_quantile(w_NC, p=(self.p,))[0]


@dataclass(frozen=True)
class Search:
    """The percentile with the least mean squared error; the first of equals.

    `each`: one choice for the whole "tensor" (as published), or one for every "row" (never worse).
    """

    percentiles: Annotated[tuple[float, ...], Within(1, 64)] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    each: str = "tensor"

    def __post_init__(self) -> None:
        _check_percentiles(self.percentiles)
        if self.each not in ("tensor", "row"):
            raise UserError(f"Search(each=...) takes 'tensor' or 'row', not {self.each!r}.")

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        limits_PN1 = magnitude_quantile(w_NC, p=self.percentiles)
        best_N1: Tensor = limits_PN1[0]
        least = self._mean(squared_error(best_N1))
        for limit_N1 in limits_PN1[1:]:
            error = self._mean(squared_error(limit_N1))
            better = error < least
            best_N1, least = torch.where(better, limit_N1, best_N1), torch.where(better, error, least)
        return best_N1

    def _mean(self, error_NC: Tensor) -> Tensor:
        return error_NC.mean() if self.each == "tensor" else error_NC.mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class StdDev:
    """`k` standard deviations of the row; a row of equal values takes their magnitude."""

    k: Positive

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        std_N1 = w_NC.std(dim=1, keepdim=True, correction=min(1, w_NC.shape[1] - 1))
        return torch.where(std_N1 > 0, self.k * std_N1, w_NC.abs().amax(dim=1, keepdim=True))


@dataclass(frozen=True)
class MeanAbs:
    """`k` times the row's mean magnitude."""

    k: Positive = 1.0

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        return self.k * w_NC.abs().mean(dim=1, keepdim=True)


@dataclass(frozen=True)
class HessianStdDev:
    """`StdDev`, but wider for rows with large weights in important columns; plain `StdDev` without a Hessian."""

    k: Positive
    strength: Rate = 0.175

    def limit(self, w_NC: Tensor, squared_error: SquaredError) -> Tensor:
        """See `Clip.limit`."""
        return StdDev(self.k).limit(w_NC, squared_error)

    def limit_seen(self, w_NC: Tensor, hessian: Tensor) -> Tensor:
        """`limit`, given the Hessian over the columns, (C, C)."""
        columns_C = hessian.diagonal().clamp(min=1e-30)
        importance_N1 = (w_NC.abs() * (columns_C / columns_C.mean())).mean(1, keepdim=True)
        relative_N1 = importance_N1 / importance_N1.mean().clamp(min=1e-30)
        return self.limit(w_NC, _unasked) * (1 + self.strength * (relative_N1 - 1)).clamp(min=0.1)

    def at(self, k: float) -> "HessianStdDev":
        """The rule for another number of standard deviations."""
        return replace(self, k=k)


def _unasked(limit_N1: Tensor) -> Tensor:
    raise AssertionError("a rule that searches nothing asked what a limit costs")


def _check_percentiles(percentiles: tuple[float, ...]) -> None:
    if not percentiles or not all(0 < p <= 1 for p in percentiles):
        raise UserError(f"Percentiles are fractions over 0 and up to 1, for example 0.9999, not {percentiles}.")
