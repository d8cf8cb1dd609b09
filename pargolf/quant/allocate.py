"""The solver: how coarse each role's grid may be, so that the artifact fills the cap and the loss suffers least.

    least  sum_r A_r D_r(q_r)   under   sum_r N_r H_r(q_r) / 8 <= bytes        q = step / standard deviation of the row
    D(q) = E (u - q round(u / q))^2,  H(q) = entropy of round(u / q),  u the role's weights over their rows' deviations
    A_r = sum over tensors of sum_rows std^2 * sum_j 1 / U_jj^2,  U of `gptq.py`: what GPTQ leaves; tr(H) without it

At the optimum all roles gain the same error by one more byte (equal slope; Shoham and Gersho 1988): at fine steps that
is the same error per weight, the reverse water-filling of rate-distortion theory. The step is continuous: StdDev(k)
with k = q * largest code, and as many bits as the largest weight needs, for a width alone costs nothing once codes are
entropy coded; only the step does. Curves are measured on a sample, so solving takes no packing; the caller
corrects the estimate by a real one. Errors are in nats where there are Hessians, and a tensor that has none is taken
for an average one; without any they are plain squares.
Pruning before the grid is no variable: at equal error it saved .1 % of the bytes at the most (docs/LOG.md).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.roles import layer_part, matches, role
from pargolf.quant.clip import HessianStdDev, StdDev
from pargolf.quant.gptq import GPTQ, Hessians
from pargolf.quant.grid import Grid, Int, Keep
from pargolf.quant.plan import Drop, Quantize
from pargolf.quant.trellis import Trellis, rows_of

_SAMPLE = 1 << 16  # weights that a role's curves are measured on
_OCTAVES = -7.0, 1.0  # log2 of the finest and the coarsest step, in deviations: 6 to 9 bits, and 1.2
_MEASURED, _FINE = 33, 2049  # points of a curve: measured, and between them
_RAW, _SCALE = 0.8, 0.9  # bytes after and before coding, of numbers kept whole and of scales: a first guess
_HEADER = 1000


@dataclass(frozen=True)
class Curve:
    """One role's rows of the table: bytes and error by step, on the same fine axis of steps for all roles."""

    at: int
    glob: str
    grid: Int | Trellis
    bytes_F: NDArray[np.float64]
    error_F: NDArray[np.float64]
    widest: float

    def grid_at(self, index: int) -> Int | Trellis:
        """The role's grid at a step: the fewest bits whose largest code reaches the largest weight."""
        step = float(_axis()[index])
        base = self.grid.base if isinstance(self.grid, Trellis) else self.grid
        bits = next((b for b in range(2, 9) if step * (2 ** (b - 1) - 1) >= self.widest), 8)
        # Four digits keep headers short, and move the step by less than a ten-thousandth.
        k = float(f"{step * (2 ** (bits - 1) - 1):.5g}")
        clip = replace(base.clip, k=k) if isinstance(base.clip, HessianStdDev) else StdDev(k)
        wide = replace(
            base, bits=bits, clip=clip, floor=0.0, extra_code=False, round_with="stored", multiple=1, scale="float16"
        )
        return replace(self.grid, base=wide) if isinstance(self.grid, Trellis) else wide


@dataclass(frozen=True)
class Allocation:
    """A plan, what its codes should take by role, and whether no step can be coarser or finer."""

    quant: Quantize
    by_role: dict[str, float]
    coarsest: bool
    finest: bool

    @property
    def bytes(self) -> float:
        """Estimated bytes of all codes."""
        return sum(self.by_role.values())


class Allocator:
    """Curves of a model's roles, measured once; `solve` then takes milliseconds."""

    def __init__(self, quant: Quantize, weights: dict[str, Tensor], hessians: Hessians | None = None) -> None:
        self.quant = quant
        grids = quant.grids(weights)
        self.groups = _groups(quant, grids)
        hessians = {n: h for n, h in (hessians or {}).items() if n in grids}
        columns = sum(len(h) for h in hessians.values())
        average = sum(float(h.diagonal().sum()) for h in hessians.values()) / columns if columns else 1.0
        self.curves = []
        for (at, glob), names in self.groups.items():
            grid = grids[names[0]]
            assert isinstance(grid, Int | Trellis)
            tensors = {n: quant.prune(n, weights[n]) for n in names}
            leaks = {n: _leak(hessians.get(n), quant.solver, average * rows_of(w).shape[1]) for n, w in tensors.items()}
            self.curves.append(_curve(at, glob, grid, tensors, leaks))
        kept = sum(_whole(grids[n]) * weights[n].numel() for n in grids if _whole(grids[n]))
        coded = ((grid, weights[n]) for n, grid in grids.items() if isinstance(grid, Int | Trellis))
        scales = sum(2 * grid.scales(w).numel() for grid, w in coded)
        self.fixed = _HEADER + _RAW * kept + _SCALE * scales
        """Estimated bytes of everything but codes."""

    def solve(self, bytes_of_codes: float) -> Allocation:
        """The plan of least error whose codes should take so many bytes, or the nearest there is."""
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
        """The table with each row of a grid replaced by a row per role."""
        rows: list[tuple[str, Grid | Drop]] = []
        for at, (glob, value) in enumerate(self.quant.table):
            solved = [(c.glob, c.grid_at(i)) for c, i in zip(self.curves, chosen) if c.at == at]
            rows += solved or [(glob, value)]
        return replace(self.quant, table=tuple(rows))


def land(
    allocator: Allocator, room: int, pack: Callable[[Quantize], bytes], *, tries: int = 5
) -> tuple[Quantize, bytes]:
    """Pack into `room` bytes, at best into the last .2 % of them, in two or three real packings.

    Where even the coarsest steps do not fit, what they gave comes back all the same, larger than `room`.
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
    """(row of the table, glob) -> names: one group per role, or per row that names single layers."""
    groups: dict[tuple[int, str], list[str]] = {}
    for name, grid in grids.items():
        if isinstance(grid, Int | Trellis):
            at, glob = next((i, glob) for i, (glob, _) in enumerate(quant.table) if matches(name, glob))
            by_place = glob.startswith("blocks.") or layer_part(glob) is not None
            groups.setdefault((at, glob if by_place else role(name)), []).append(name)
    return groups


def _leak(hessian: Tensor | None, solver: GPTQ | None, otherwise: float) -> float:
    """What errors of one unit in every column of a row cost: rounding makes them alike, feedback leaves 1 / U_jj^2."""
    if hessian is None:
        return otherwise
    return float(hessian.diagonal().sum()) if solver is None else solver.left_over(hessian)


def _curve(at: int, glob: str, grid: Int | Trellis, tensors: dict[str, Tensor], leaks: dict[str, float]) -> Curve:
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
    # Under this step the largest weights would be cut off.
    error_F[_axis() < widest / 128] = np.inf
    return Curve(at, glob, grid, bytes_F, error_F, widest)


def _measure(u: Tensor, step: float) -> tuple[float, float]:
    """Entropy in bits, and squared error, of rounding to multiples of `step`."""
    codes = torch.round(u / step)
    counts = torch.bincount((codes - codes.min()).long()).double()
    share = counts[counts > 0] / len(u)
    return float(-(share * share.log2()).sum()), float((u - codes * step).square().mean())


def _axis() -> NDArray[np.float64]:
    """Steps, in deviations."""
    axis: NDArray[np.float64] = 2.0 ** np.linspace(*_OCTAVES, _FINE)
    return axis


def _whole(grid: Grid) -> int:
    """Bytes of each number where it is kept whole, else 0."""
    return {"float32": 4}.get(grid.dtype, 2) if isinstance(grid, Keep) else 0
