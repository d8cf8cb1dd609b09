"""Encode arrays as sections of an artifact: with the recipe's codec, or with whichever method gives the fewest bytes.

The candidates are the range coder of `coder`, and general codecs on the plain bytes or on the transposed bytes.
`describe` makes the header's groups of alike tensors.
"""

import json
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargolf.packing import coder
from pargolf.packing.codecs import Brotli, Codec, Lzma, Zstd, stored_as
from pargolf.packing.layout import ANY_CODEC, ArraySpec, Orders, ordered, residues
from pargolf.packing.tensors import DTYPES, RawTensor, Stored

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_GENERAL: tuple[Codec, ...] = (Brotli(), Zstd(), Lzma())
_SMALL = 1 << 14  # up to this size a section's general codecs may save an eighth of what a fast one gives


def describe(tensors: Sequence[Stored]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The header's groups of alike tensors, and the list of distinct grids."""
    grids: list[Any] = []
    numbers_of: dict[str, int] = {}
    groups: list[dict[str, Any]] = []

    def like(tensor: Stored) -> str:
        return compact(_kind(tensor, numbers_of, grids))

    for kind, members in groupby(tensors, key=like):
        group = json.loads(kind)
        group["names"] = _fold([member.name for member in members])
        groups.append(group)
    return groups, grids


def _kind(tensor: Stored, numbers_of: dict[str, int], grids: list[Any]) -> dict[str, Any]:
    """What the tensors of one group share. A new grid is added to `grids`, and its number to `numbers_of`."""
    if isinstance(tensor, RawTensor):
        return {"role": tensor.role, "shape": list(tensor.data.shape), "dtype": tensor.dtype}
    key = compact(tensor.grid)
    if key not in numbers_of:
        numbers_of[key] = len(grids)
        grids.append(tensor.grid)
    return {
        "role": tensor.role,
        "shape": list(tensor.codes.shape),
        "dtype": tensor.codes.dtype.name,
        "scales": list(tensor.scales.shape),
        "of": tensor.scale_dtype,
        "grid": numbers_of[key],
        **({"states": tensor.states} if tensor.states else {}),
        **({"order": True} if tensor.order is not None else {}),
    }


def _fold(names: list[str]) -> list[Any]:
    """Fold `blocks.0.q, blocks.1.q` to `["blocks.*.q", [0, 1]]`; a name without such a number stays as it is."""
    out: list[Any] = []
    for name in names:
        match = _NUMBER.search(name)
        if not match or "*" in name or str(int(match[0])) != match[0]:
            out.append(name)
            continue
        pattern = f"{name[: match.start()]}*{name[match.end() :]}"
        if out and isinstance(out[-1], list) and out[-1][0] == pattern:
            out[-1][1].append(int(match[0]))
        else:
            out.append([pattern, [int(match[0])]])
    return out


def numbers(tensor: Stored, part: ArraySpec) -> NDArray[Any]:
    """The array of one field of a tensor, in its stored type."""
    array: NDArray[Any] = getattr(tensor, part.field)
    return np.ascontiguousarray(array, DTYPES[part.dtype])


def encode_section(
    codec: Codec | None, parts: Sequence[ArraySpec], pieces: Sequence[NDArray[Any]], orders: Orders
) -> tuple[str, bytes]:
    """The name of the method a section is stored with, and its payload."""
    if ANY_CODEC and codec is None:
        return _smallest(parts, pieces, orders)
    assert codec is not None
    return stored_as(codec), codec.encode(_join(pieces))


def _smallest(parts: Sequence[ArraySpec], pieces: Sequence[NDArray[Any]], orders: Orders) -> tuple[str, bytes]:
    """The method and payload with the fewest bytes among the range coder, general codecs and plain bytes.

    The general codecs take long, so they are only tried where a fast one comes close.
    """
    across = [_turn(part, piece) for part, piece in zip(parts, pieces)]
    layouts = {"": _join(pieces), "/turned": b"".join(across)}
    best = "raw", layouts[""]
    if all(piece.itemsize <= 2 for piece in pieces):
        best = min(best, ("range", _range_encode(parts, _matrices(parts, pieces), orders)), key=_size)
    for suffix, data in layouts.items():
        close = len(best[1]) * (9 if len(data) <= _SMALL else 8) // 8
        if len(Zstd(3).encode(data)) <= close:
            best = min(best, *((codec.name + suffix, codec.encode(data)) for codec in _GENERAL), key=_size)
    return best


def _size(candidate: tuple[str, bytes]) -> int:
    return len(candidate[1])


def _join(pieces: Sequence[NDArray[Any]]) -> bytes:
    return b"".join(piece.tobytes() for piece in pieces)


def _range_encode(parts: Sequence[ArraySpec], matrices: Sequence[NDArray[Any]], orders: Orders) -> bytes:
    """The parities of trellis codes as plain bits, followed by the range coder's stream."""
    walked = [part.states > 0 for part in parts for _ in part.matrices]
    odd = [(matrix & 1).astype(np.uint8) for matrix, walks in zip(matrices, walked) if walks]
    bits = np.packbits(np.concatenate([o.ravel() for o in odd])).tobytes() if odd else b""
    halves = [matrix >> 1 if walks else matrix for matrix, walks in zip(matrices, walked)]
    return bits + coder.encode(halves, residues(parts, iter(odd), orders))


def _matrices(parts: Sequence[ArraySpec], pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Two-dimensional integers for the range coder; floats become integers in the order of their values."""
    out: list[NDArray[Any]] = []
    for part, piece in zip(parts, pieces):
        integers = piece if part.dtype in ("int8", "int16") else ordered(piece.view("<i2"))
        offset = 0
        for height, width in part.matrices:
            out.append(integers.reshape(-1)[offset : offset + height * width].reshape(height, width))
            offset += height * width
    return out


def _turn(part: ArraySpec, piece: NDArray[Any]) -> bytes:
    """Transpose for compression: int8 by columns; wider numbers by bytes, all first bytes, then all second bytes."""
    if part.dtype == "int8":
        return piece.reshape(-1, part.shape[-1] if part.shape else 1).T.tobytes() if part.count else b""
    return piece.reshape(-1).view(np.uint8).reshape(-1, piece.itemsize).T.tobytes()


def compact(value: Any) -> str:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
