"""Quantize one tensor exactly as a published system's script does: the same integer codes, the same stored scales.

Each system has its own rule for a width: 8 bits mean its "int8 path", for tensors that its narrower grids do not cover.
The grids are in `quant/published.py`; the recipe's table says which tensor gets which width.
"""

from dataclasses import replace

from torch import Tensor

from pargolf.core.errors import UserError, near
from pargolf.quant.clip import Amax
from pargolf.quant.grid import Int
from pargolf.quant.published import (
    INT5_861,
    INT5_VECTOR_861,
    INT8,
    INT8_SEARCHED_543,
    INT8_VECTOR,
    amax_295,
    lite_549,
    lite_1009,
)

_NARROW = (4, 5, 6)
_WIDTHS: dict[str, dict[int, Int]] = {
    "baseline": {8: INT8},
    "pr549": {**{bits: lite_549(bits) for bits in _NARROW}, 8: INT8},
    "pr910": {**{bits: lite_549(bits) for bits in _NARROW}, 8: INT8},
    "pr1009": {**{bits: lite_1009(bits) for bits in _NARROW}, 8: INT8},
    "pr543": {8: INT8},
    "pr295": {**{bits: amax_295(bits) for bits in _NARROW}, 8: INT8},
    "pr861": {5: INT5_861},
}


def quantize(system: str, tensor: Tensor, *, bits: int = 8, gptq_lite: bool = False) -> tuple[Tensor, Tensor]:
    """Return `(codes, scales)`: int8 in the tensor's shape, and one scale per row (a vector has one), as stored.

    `gptq_lite` enables pull request 543's percentile search (the default of its script); its rounding to multiples of
    four, which depends on the layer, is `INT8_BY_FOURS_543`. Raises `UserError` on a system, a width or an option
    that was not published, and on NaN or infinite weights.
    """
    if system not in _WIDTHS:
        raise UserError(f"No published system is called '{system}'.{near(system, list(_WIDTHS))}")
    widths = _WIDTHS[system]
    if bits not in widths:
        raise UserError(f"{system} has no {bits}-bit quantizer. It has: {', '.join(map(str, widths))} bits.")
    if gptq_lite and system != "pr543":
        raise UserError(f"gptq_lite is an option of pr543; {system} has no such switch.")
    grid = INT8_SEARCHED_543 if gptq_lite else widths[bits]
    if tensor.dim() < 2:
        grid = _vector_rule(grid)
    codes = grid.encode(tensor)
    return codes.codes, codes.scales


def _vector_rule(grid: Int) -> Int:
    """How the script that owns `grid` treats a vector: the int8 family by percentile in float32, others by amax."""
    if grid == INT5_861:
        return INT5_VECTOR_861
    return INT8_VECTOR if grid.bits == 8 else replace(grid, clip=Amax(), floor=0.0)
