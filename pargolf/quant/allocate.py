"""The bit allocation solver: choose the step of each role's grid so that the artifact fills the cap at the least loss.

    least  sum_r A_r D_r(q_r)   under   sum_r N_r H_r(q_r) / 8 <= bytes        q = step / standard deviation of the row
    D(q) = E (u - q round(u / q))^2,  H(q) = entropy of round(u / q),  u the role's weights over their rows' deviations
    A_r = sum over tensors of sum_rows std^2 * sum_j 1 / U_jj^2,  U of `gptq.py`: what GPTQ leaves; tr(H) without it

At the optimum one more byte lowers the error of every role by the same amount (equal slope; Shoham and Gersho 1988). At
fine steps this means equal error per weight, the reverse water-filling of rate-distortion theory. The step is
continuous: StdDev(k) with k = q * largest code, and as many bits as the largest weight needs, because with entropy
coding only the step costs bytes, not the width of the codes. The curves are measured on a sample, so solving needs no
packing; the caller corrects the estimate with a real packing. Errors are in nats when there are Hessians (a tensor
without one counts as average), else plain squares. Pruning before the grid is not a variable: at equal error it saved
at most .1 % of the bytes (docs/LOG.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.roles import layer_part, matches, role
from pargolf.quant.gptq import GPTQ, Hessians
from pargolf.quant.grid import Codes, Grid, Rounds
from pargolf.quant.plan import Drop, Quantize
from pargolf.quant.trellis import rows_of

_SAMPLE = 1 << 16  # weights on which a role's curves are measured
_OCTAVES = -7.0, 1.0  # log2 of the finest and the coarsest step, in deviations: 6 to 9 bits, and 1.2
_MEASURED, _FINE = 33, 2049  # points of a curve: measured, and interpolated
_RAW, _SCALE = 0.8, 0.9  # first guess of coded over uncoded bytes, for unquantized numbers and for scales
_HEADER = 1000


class Stepped(Rounds, Protocol):
    """A grid that exists at every step size."""

    def at_step(self, step: float, widest: float) -> Grid:
        """The grid with this step, whose largest code reaches `widest`; both in standard deviations of a row."""
        ...


@dataclass(frozen=True)
class Curve:
    """Bytes and error of one role by step size, on one fine axis of steps for all roles.

    at: the row of the grid table; glob: the role (or layers); widest: largest weight in deviations of its row
    """

    at: int
    glob: str
    grid: Stepped
    bytes_F: NDArray[np.float64]
    error_F: NDArray[np.float64]
    widest: float

    def grid_at(self, index: int) -> Grid:
        """The role's grid at point `index` of the axis, with the fewest bits that reach the largest weight."""
        return self.grid.at_step(float(_axis()[index]), self.widest)


@dataclass(frozen=True)
class Allocation:
    """A solved grid table, its estimated bytes by role, and whether all steps are at the coarsest or finest end."""

    quant: Quantize
    by_role: dict[str, float]
    coarsest: bool
    finest: bool

    @property
    def bytes(self) -> float:
        """Estimated bytes of all codes."""
        return sum(self.by_role.values())


class Allocator:
    """The curves of a model's roles, measured once; each `solve` then takes milliseconds."""

    def __init__(self, quant: Quantize, weights: dict[str, Tensor], hessians: Hessians | None = None) -> None:
        self.quant = quant
        grids: dict[str, Any] = quant.grids(weights)
        self.groups = _groups(quant, grids)
        hessians = {n: h for n, h in (hessians or {}).items() if n in grids}
        columns = sum(len(h) for h in hessians.values())
        average = sum(float(h.diagonal().sum()) for h in hessians.values()) / columns if columns else 1.0
        self.curves = []
        for (row, glob), names in self.groups.items():
            grid: Any = grids[names[0]]
            tensors = {n: quant.prune(n, weights[n]) for n in names}
            leaks = {n: _leak(hessians.get(n), quant.solver, average * rows_of(w).shape[1]) for n, w in tensors.items()}
            self.curves.append(_curve(row, glob, grid, tensors, leaks))
        solved = {name: grids[name] for names in self.groups.values() for name in names}
        scales = sum(2 * grid.scales(weights[n]).numel() for n, grid in solved.items())
        coded = {n: grid.encode(weights[n]) for n, grid in grids.items() if n not in solved}
        whole = sum(c.codes.nbytes for c in coded.values() if c.whole)
        others = sum(_bytes_of(c) for c in coded.values() if not c.whole)
        self.fixed = _HEADER + _RAW * whole + _SCALE * scales + others
        """Estimated bytes of everything except the codes that are solved for."""

    def solve(self, bytes_of_codes: float) -> Allocation:
        """The table of least error whose codes take about `bytes_of_codes`, or come nearest to it.

        Raises `UserError` when no grid of the table has a variable step.
        """
        if not self.curves:
            raise UserError("No grid of the table has an at_step(step, widest), so none can be solved for the cap.")
        sizes = np.stack([c.bytes_F for c in self.curves])
        errors = np.stack([c.error_F for c in self.curves])
        rows = np.arange(len(sizes))
        low, high = -80.0, 80.0  # log2 of the slope, in error per byte
        for _ in range(60):
            slope = (low + high) / 2
            chosen = np.argmin(errors + 2.0**slope * sizes, axis=1)
            low, high = (slope, high) if sizes[rows, chosen].sum() > bytes_of_codes else (low, slope)
        chosen = np.argmin(errors + 2.0**high * sizes, axis=1)
        by_role = {c.glob: float(c.bytes_F[i]) for c, i in zip(self.curves, chosen)}
        finest = [int(np.argmin(c.error_F)) for c in self.curves]
        coarsest = [int(np.argmin(c.bytes_F)) for c in self.curves]
        chosen_list = chosen.tolist()
        return Allocation(self._plan(chosen_list), by_role, chosen_list == coarsest, chosen_list == finest)

    def _plan(self, chosen: list[int]) -> Quantize:
        """The table, with each solved row replaced by one row per role."""
        rows: list[tuple[str, Grid | Drop]] = []
        for row, (glob, value) in enumerate(self.quant.table):
            solved = [(c.glob, c.grid_at(i)) for c, i in zip(self.curves, chosen) if c.at == row]
            rows += solved or [(glob, value)]
        return replace(self.quant, table=tuple(rows))


def land(
    allocator: Allocator, room: int, pack: Callable[[Quantize], bytes], *, tries: int = 5
) -> tuple[Quantize, bytes]:
    """Solve and pack until the artifact fits `room` bytes and fills at least 99.8 % of them; usually 2 or 3 packings.

    If even the coarsest steps do not fit, their packing is returned, larger than `room`.
    """
    best: tuple[Quantize, bytes] | None = None
    correction, aim = 1.0, 0.9992 * room
    for _ in range(tries):
        plan = allocator.solve((aim - allocator.fixed) / correction)
        data = pack(plan.quant)
        if len(data) <= room and (best is None or len(data) > len(best[1])):
            best = plan.quant, data
        if plan.coarsest and len(data) > room:
            return plan.quant, data
        if 0.998 * room <= len(data) <= room or (plan.finest and len(data) <= room):
            break
        correction = max(0.05, (len(data) - allocator.fixed) / max(plan.bytes, 1.0))
    if best is None:
        plan = allocator.solve(0.0)
        best = plan.quant, pack(plan.quant)
    return best


def _groups(quant: Quantize, grids: dict[str, Grid]) -> dict[tuple[int, str], list[str]]:
    """Names by (row of the table, glob): one group per role, or per row that names single layers."""
    groups: dict[tuple[int, str], list[str]] = {}
    for name, grid in grids.items():
        if hasattr(grid, "at_step"):
            row, glob = next((i, glob) for i, (glob, _) in enumerate(quant.table) if matches(name, glob))
            by_place = glob.startswith("blocks.") or layer_part(glob) is not None
            groups.setdefault((row, glob if by_place else role(name)), []).append(name)
    return groups


def _leak(hessian: Tensor | None, solver: GPTQ | None, otherwise: float) -> float:
    """The cost of a unit error in every column of a row: tr(H) after rounding, sum 1 / U_jj^2 after error feedback."""
    if hessian is None:
        return otherwise
    return float(hessian.diagonal().sum()) if solver is None else solver.left_over(hessian)


def _curve(row: int, glob: str, grid: Stepped, tensors: dict[str, Tensor], leaks: dict[str, float]) -> Curve:
    """Measure one group."""
    count = sum(w.numel() for w in tensors.values())
    weight, widest, samples = 0.0, 0.0, []
    for name, w in tensors.items():
        w_NC = rows_of(w)
        std_N1 = w_NC.std(1, keepdim=True, correction=min(1, w_NC.shape[1] - 1))
        u_NC = torch.where(std_N1 > 0, w_NC / std_N1.clamp(min=1e-30), 0.0)
        weight += float(std_N1.square().sum()) * leaks[name]
        widest = max(widest, float(u_NC.abs().max()))
        every = max(1, w.numel() * len(tensors) // _SAMPLE)
        samples.append(u_NC.reshape(-1)[::every])
    u = torch.cat(samples)
    bits, mean_square = zip(*(_measure(u, float(q)) for q in 2.0 ** np.linspace(*_OCTAVES, _MEASURED)))
    fine, coarse = np.linspace(0, 1, _FINE), np.linspace(0, 1, _MEASURED)
    bytes_F = np.interp(fine, coarse, bits) * count / 8
    error_F = np.exp(np.interp(fine, coarse, np.log(np.maximum(mean_square, 1e-12)))) * weight
    # With a smaller step the largest weights would be clipped.
    error_F[_axis() < widest / 128] = np.inf
    return Curve(row, glob, grid, bytes_F, error_F, widest)


def _measure(u: Tensor, step: float) -> tuple[float, float]:
    """Entropy in bits per weight, and mean squared error, of rounding to multiples of `step`."""
    codes = torch.round(u / step)
    counts = torch.bincount((codes - codes.min()).long()).double()
    share = counts[counts > 0] / len(u)
    return float(-(share * share.log2()).sum()), float((u - codes * step).square().mean())


def _axis() -> NDArray[np.float64]:
    """The axis of steps, in standard deviations."""
    axis: NDArray[np.float64] = 2.0 ** np.linspace(*_OCTAVES, _FINE)
    return axis


def _bytes_of(coded: Codes) -> float:
    """Estimated bytes of codes and scales of a grid with a fixed step."""
    bits = _measure(coded.codes.float().reshape(-1), 1.0)[0]
    return bits * coded.codes.numel() / 8 + _SCALE * coded.scales.nbytes
