"""The layout of an artifact: which arrays each section holds, in which order, derived from the header.

    header's groups: role, shape, type, names   ->   section name: [(tensor, field, shape, type), ...]

A section holds the codes of one role, or all scales, or all unquantized numbers of one width, so that similar data are
compressed together. Reader and writer both use this.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.packing.tensors import DTYPES, columns
from pargolf.quant.trellis import sides

ANY_CODEC = True
"""False in a script whose recipe names one codec for all sections, so that code for other codecs is left out."""
PREFIX = struct.Struct("<8sBIII")
"""The bytes before the header: magic, format, the header's stored and raw length, its crc32."""
CRC = 4
"""The size of the crc32 after each section, in bytes."""
DIGEST = 16
"""The size of `body_digest` at the end, in bytes."""
MAX_TENSORS = 1 << 16
MAX_NAME = 256
Orders = Mapping[tuple[str, str], NDArray[Any] | None]
"""(tensor, "order") -> the classes of its columns; other fields do not matter."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a section: its tensor, the tensor's field, shape and type."""

    tensor: str
    field: str
    shape: tuple[int, ...]
    dtype: str
    states: int = 0

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size of the array in memory, in bytes."""
        return self.count * DTYPES[self.dtype].itemsize

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """The two-dimensional shapes that the array is split into: a stack of matrices is coded matrix by matrix."""
        if not self.count:
            return []
        width = self.shape[-1] if self.shape else 1
        if len(self.shape) > 2 and self.shape[-2] * width >= 4096:
            return [(self.shape[-2], width)] * (self.count // (self.shape[-2] * width))
        return [(self.count // width, width)]


def sections_of(groups: Any) -> dict[str, list[ArraySpec]]:
    """Sections and their arrays, in file order, from the header's groups. Raises `ValueError` on bad names."""
    layout: dict[str, list[ArraySpec]] = {}
    seen: set[str] = set()

    def add(section: str, name: str, field: str, shape: Any, dtype: str, states: int = 0) -> None:
        layout.setdefault(section, []).append(ArraySpec(name, field, tuple(shape), dtype, states))

    for group in groups:
        for name in unfold(group["names"]):
            if name in seen or len(name) > MAX_NAME or len(seen) >= MAX_TENSORS:
                raise ValueError("names repeat, or are too many or too long")
            seen.add(name)
            width = DTYPES[group["dtype"]].itemsize
            if "grid" in group:
                states = group.get("states", 0)
                add(f"codes of {group['role']}", name, "codes", group["shape"], group["dtype"], states)
                scales = f"scales of {8 * DTYPES[group['of']].itemsize} bits"
                add(scales, name, "scales", group["scales"], group["of"])
                if states and group.get("order"):
                    add("orders of columns", name, "order", [columns(group["shape"])], "int8")
            else:
                add(raw_section(width), name, "data", group["shape"], group["dtype"])
    # Orders first, because reading codes needs them; then codes by role, then side data.
    ranks = {"orders": 0, "codes": 1}
    return dict(sorted(layout.items(), key=lambda item: (ranks.get(item[0].split()[0], 2), item[0])))


def unfold(names: list[Any]) -> Iterator[str]:
    """Expand the names of a group: `["blocks.*.q", [0, 1]]` stands for two."""
    for entry in names:
        if isinstance(entry, str):
            yield entry
        else:
            pattern, numbers = entry
            yield from (pattern.replace("*", str(int(number))) for number in numbers)


def raw_section(width: int) -> str:
    """The section of unquantized numbers of `width` bytes."""
    return f"raw numbers of {8 * width} bits"


def residues(
    parts: Sequence[ArraySpec], odd: Iterator[NDArray[np.uint8]], orders: Orders
) -> list[NDArray[np.uint8] | None]:
    """The `sides` of the coder for each matrix: the quarter of a step that its halved trellis codes are shifted by.

    `odd` are the parities of the codes. None for matrices without a trellis.
    """
    out: list[NDArray[np.uint8] | None] = []
    for part in parts:
        if not part.states:
            out += [None for _ in part.matrices]
            continue
        own = [next(odd) for _ in part.matrices]
        if not own:
            continue
        # A row of the trellis is everything under one index of the first dimension.
        flat = np.concatenate([piece.ravel() for piece in own])
        rows = flat.reshape(part.shape[0], -1) if len(part.shape) > 1 else flat[None]
        order = orders.get((part.tensor, "order"))
        classes = None if order is None else torch.from_numpy(order)
        side = sides(torch.from_numpy(rows), states=part.states, classes_C=classes).numpy().astype(np.uint8)
        residue = (2 * rows + side).ravel()
        ends = np.cumsum([piece.size for piece in own])[:-1]
        out += [r.reshape(piece.shape) for r, piece in zip(np.split(residue, ends), own)]
    return out


def ordered(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Signed integers in the order of the 16-bit floats with these bits; its own inverse."""
    return np.where(bits < 0, bits ^ np.int16(0x7FFF), bits)


def body_digest(body: bytes) -> bytes:
    """The digest at the end of an artifact: 16 bytes of BLAKE2b over everything before it."""
    return blake2b(body, digest_size=DIGEST).digest()
