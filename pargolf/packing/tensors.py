"""Tensors as an artifact stores them: codes with scales on a grid, or plain numbers.

Arrays are numpy's. bfloat16 numbers, which numpy does not have, are stored as their 16 bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargolf.core.errors import UserError

# bfloat16 has no numpy dtype and is stored as its bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
}


@dataclass(frozen=True)
class CodesTensor:
    """A quantized tensor: int8 or int16 `codes`, float16, float32 or bfloat16 `scales` (bfloat16 as uint16 bits).

    states: number of states of the trellis that the codes of each row follow (`quant/trellis.py`); 0: none
    order: the class of each column, int8, which determines the order of the walk; None: from left to right
    """

    name: str
    role: str
    codes: NDArray[Any]
    scales: NDArray[Any]
    grid: Any
    states: int = 0
    order: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        if self.codes.dtype not in (np.int8, np.int16):
            raise UserError(f"Codes of '{self.name}' are int8 or int16, not {self.codes.dtype}.")
        if self.order is not None and self.order.shape != (columns(self.codes.shape),):
            raise UserError(f"The order of '{self.name}' has another number of columns than its codes.")
        _check_dtype(self.name, self.scales, self.scale_dtype)

    @property
    def scale_dtype(self) -> str:
        """The type of the scales, as named in `DTYPES`."""
        return "bfloat16" if self.scales.dtype == np.uint16 else self.scales.dtype.name


@dataclass(frozen=True)
class RawTensor:
    """A tensor kept as numbers of `dtype`, one of `DTYPES` (bfloat16 as uint16 bits)."""

    name: str
    role: str
    data: NDArray[Any]
    dtype: str = "float16"

    def __post_init__(self) -> None:
        _check_dtype(self.name, self.data, self.dtype)


Stored = CodesTensor | RawTensor


def columns(shape: Sequence[int]) -> int:
    """The number of columns in a row of the first dimension; a vector is one row."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)


def _check_dtype(name: str, array: NDArray[Any], dtype: str) -> None:
    if dtype not in DTYPES or array.dtype != DTYPES[dtype]:
        known = ", ".join(DTYPES)
        raise UserError(
            f"'{name}' is said to hold {dtype} and holds {array.dtype}. Known: {known} (bfloat16 as uint16)."
        )
