"""LQER: correct the quantization error of a matrix by a low-rank product of two thin matrices.

    W ~ Q + A B,    E = W - Q,    E L = U S V^T with L L^T = H,    A = round(U_r),    B = round((A^T A)^-1 A^T E)

Zhang et al., arXiv:2402.02446, in the asymmetric form of pull requests 1797 to 2135: for the tensors with the largest
error norm, A has two bits and one scale, and B four bits in groups of columns. There A and B come from a plain
decomposition. Here the directions are weighted by the Hessian, B is fitted to the stored A, and a tensor whose error
would not fall is not corrected. After GPTQ the remaining error has almost no dominant directions, so expect little:
1797's own table has .2 mBPB for 4 kB. The factors are ordinary tensors of the artifact, and their bytes count.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.ranges import Count, Size
from pargolf.core.smaller import Smaller
from pargolf.quant.clip import MeanAbs
from pargolf.quant.gptq import Hessians, weighted_error
from pargolf.quant.grid import Codes, Grid, Int

_LEFT, _RIGHT = ".lqer_left", ".lqer_right"
_DAMP = 0.01


@dataclass(frozen=True)
class LQER:
    """Correct the `tensors` with the largest error by `rank` directions; `group` columns of B share a scale."""

    tensors: Count = 3
    rank: Size = 4
    group: Size = 64

    def factors(
        self, weights: Mapping[str, Tensor], coded: Mapping[str, tuple[Grid, Codes]], hessians: Hessians | None
    ) -> dict[str, tuple[Grid, Codes]]:
        """Factors by their stored names, for the tensors whose error they lower."""
        errors = {
            name: weights[name].float() - grid.decode(codes)
            for name, (grid, codes) in coded.items()
            if not codes.whole and weights[name].dim() == 2
        }
        worst = sorted(errors, key=lambda name: -float(errors[name].norm()))[: self.tensors]
        out: dict[str, tuple[Grid, Codes]] = {}
        for name in worst:
            hessian = (hessians or {}).get(name)
            left, right = self._fit(errors[name], hessian)
            rest = errors[name] - _product(left[0].decode(left[1]), right[0].decode(right[1]))
            if weighted_error(rest, hessian) < weighted_error(errors[name], hessian):
                stem = name.removesuffix(".weight")
                out |= {stem + _LEFT: left, stem + _RIGHT: right}
        return out

    def _fit(self, error_NC: Tensor, hessian: Tensor | None) -> tuple[tuple[Grid, Codes], tuple[Grid, Codes]]:
        """Both factors on their grids."""
        seen_NC = error_NC
        if hessian is not None and float(hessian.diagonal().mean()) > 0:
            damped = hessian / hessian.diagonal().mean() + _DAMP * torch.eye(len(hessian))
            lower, failed = torch.linalg.cholesky_ex(damped)
            seen_NC = error_NC if int(failed) else error_NC @ lower
        u_NR = torch.linalg.svd(seen_NC, full_matrices=False)[0][:, : self.rank]
        ternary = Int(2, clip=MeanAbs(), per="tensor")
        left = ternary.encode(u_NR)
        right_RC = torch.linalg.pinv(ternary.decode(left)) @ error_NC
        fits = error_NC.shape[1] % self.group == 0
        grid = Int(4, per=self.group if fits else "row")
        return (ternary, left), (grid, grid.encode(right_RC))

    def at_scale(self, to: Smaller) -> "LQER":
        """Unchanged: the number of directions does not depend on scale."""
        return self


def corrected(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the products of LQER factors to decoded tensors; the factors themselves are left out.

    Raises `UserError` when a factor lacks its other half or the tensor it corrects.
    """
    out = {name: value for name, value in values.items() if not name.endswith((_LEFT, _RIGHT))}
    for name in values:
        if not name.endswith((_LEFT, _RIGHT)):
            continue
        stem = name.removesuffix(_LEFT).removesuffix(_RIGHT)
        whole = f"{stem}.weight" if f"{stem}.weight" in out else stem
        if whole not in out or stem + _LEFT not in values or stem + _RIGHT not in values:
            raise UserError(f"The artifact's '{name}' has nothing to correct. Was it made by another version?")
        if name.endswith(_LEFT):
            left_NR, right_RC = values[stem + _LEFT], values[stem + _RIGHT]
            fits = left_NR.dim() == right_RC.dim() == 2 and left_NR.shape[1] == right_RC.shape[0]
            if not fits or out[whole].shape != (len(left_NR), right_RC.shape[1]):
                raise UserError(f"The artifact's '{name}' does not fit. Was it made by another version?")
            out[whole] = out[whole] + _product(left_NR, right_RC)
    return out


def _product(left_NR: Tensor, right_RC: Tensor) -> Tensor:
    """A B, summed direction by direction in a fixed order, so that every machine gets the same bits."""
    out_NC = torch.zeros(len(left_NR), right_RC.shape[1])
    for k in range(left_NR.shape[1]):
        out_NC = out_NC + left_NR[:, k : k + 1] * right_RC[k : k + 1]
    return out_NC
