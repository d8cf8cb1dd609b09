"""The grids of the published systems as values of `Int`, faults included, each with its source and its peculiarity.

    exported      the grid of the artifact
    train_...     the grid of the forward pass in training: float32 scales, and rarely the same as the exported grid

Floors: with a floor of 1/c, every row with magnitudes below 1 uses the absolute step 1/c, whatever the clip search
finds (int4: .143, so all weights under .07 become zero). The floors of 1009 and 295 do not matter: 2^-14 is the
smallest normal float16. Ours are plain `Int(bits)`: no floor, symmetric codes, one grid for training and export.
"""

from dataclasses import replace

from pargolf.quant.clip import Percentile, Search
from pargolf.quant.grid import Int

_NORMAL_FLOAT16 = 2.0**-14

# The official baseline, and the "int8 path" of 549, 910, 1009 and 295. Vectors have one scale, in float32, no floor.
INT8 = Int(8, clip=Percentile(0.9999984), floor=1 / 127, round_with="exact")
INT8_VECTOR = Int(8, clip=Percentile(0.9999984), scale="float32", round_with="exact")

# Pull request 543: the int8 rule with a search on top; its layers 1 to 9 then keep every fourth code.
INT8_SEARCHED_543 = replace(INT8, clip=Search((0.9999, 0.99999, 0.999999, 0.9999984, 1.0)))
INT8_BY_FOURS_543 = replace(INT8_SEARCHED_543, multiple=4)

# Pull request 861: the int8 rule with 15 instead of 127, for everything over 65,536 weights.
INT5_861 = replace(INT8, bits=5, floor=1 / 15)
INT5_VECTOR_861 = replace(INT8_VECTOR, bits=5)


def lite_549(bits: int) -> Int:
    """Pull requests 549 and 910, "GPTQ-lite": five candidates, one choice per tensor, floor 1/c, symmetric codes."""
    return Int(bits, clip=Search(), floor=1 / (2 ** (bits - 1) - 1))


def lite_1009(bits: int) -> Int:
    """Pull request 1009: the same search without the floor, and with the extra negative code."""
    return Int(bits, clip=Search(), floor=_NORMAL_FLOAT16, extra_code=True)


def amax_295(bits: int) -> Int:
    """Pull request 295: no search. The extra code is in its range but cannot be reached."""
    return Int(bits, floor=_NORMAL_FLOAT16, extra_code=True)


def train_549(bits: int = 6) -> Int:
    """Pull request 549 (two small projections only), and those same two in 910: floor 1/c, the extra negative code."""
    return Int(bits, floor=1 / (2 ** (bits - 1) - 1), scale="float32", extra_code=True)


def train_910(bits: int) -> Int:
    """Pull requests 910 (its banks: attention 6 bits, MLP 4, on the bfloat16 copy) and 1009: no floor, extra code."""
    return Int(bits, floor=1e-12 / (2 ** (bits - 1) - 1), scale="float32", extra_code=True)


def train_543(bits: int = 6) -> Int:
    """Pull request 543: `amax / 31`, where the exported grid is `amax / 31.75` after its multiples of four."""
    return Int(bits, floor=1e-8 / (2 ** (bits - 1) - 1), scale="float32")


def train_295(bits: int) -> Int:
    """Pull request 295: MLP 5 bits, other matrices 6."""
    return Int(bits, floor=1e-12 / (2 ** (bits - 1) - 1), scale="float32")


def train_861(bits: int = 5) -> Int:
    """Pull request 861: floor 1/15, as in its exported grid."""
    return Int(bits, floor=1 / (2 ** (bits - 1) - 1), scale="float32")
