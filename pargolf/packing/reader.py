"""Decode an artifact's sections to arrays, and these to tensors; shared by `artifact` and a submission's script.

Only what decoding itself shows is checked here. `artifact.from_bytes` verifies lengths, checksums and the header
first; a submission's script compares the digest over all bytes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import brotli
import numpy as np
from numpy.typing import NDArray

from pargolf.packing import coder
from pargolf.packing.codecs import Codec, Damage, codec_of
from pargolf.packing.layout import ANY_CODEC, CRC, PREFIX, ArraySpec, Orders, ordered, residues, sections_of, unfold
from pargolf.packing.tensors import DTYPES, CodesTensor, RawTensor, Stored

Arrays = dict[tuple[str, str], NDArray[Any]]
"""(tensor, field) -> the array."""


def read_header(data: bytes) -> tuple[Any, int]:
    """The header of an artifact, and the offset of its first section. For bounded reading see `artifact.from_bytes`."""
    start = PREFIX.size + PREFIX.unpack_from(data)[2]
    return json.loads(brotli.decompress(data[PREFIX.size : start])), start


def read_tensors(header: Any, data: bytes, start: int, *, codec: Codec | None = None) -> Iterator[Stored]:
    """The tensors of an artifact with this header; `codec` is the recipe's, if it names one for all sections."""
    arrays: Arrays = {}
    for parts, (method, size) in zip(sections_of(header["tensors"]).values(), header["sections"]):
        arrays |= arrays_of(method, data[start : start + size], parts, arrays, codec)
        start += size + CRC
    return rebuild(header["tensors"], header["grids"], arrays)


def arrays_of(
    method: str, payload: bytes, parts: Sequence[ArraySpec], orders: Orders, codec: Codec | None = None
) -> Arrays:
    """The arrays of a section. Raises `Damage`, or `KeyError` on an unknown codec."""
    pieces = _decode_section(method, payload, parts, orders, codec)
    return {(part.tensor, part.field): piece for part, piece in zip(parts, pieces)}


def _decode_section(
    method: str, payload: bytes, parts: Sequence[ArraySpec], orders: Orders, codec: Codec | None
) -> list[NDArray[Any]]:
    if ANY_CODEC and method == "range":
        matrices = iter(_range_decode(parts, payload, orders))
        return [_from_ordered(part, [next(matrices) for _ in part.matrices]) for part in parts]
    name, _, turned = (method, "", "") if method.startswith("{") else method.partition("/")
    if turned not in ("", "turned"):
        raise Damage("the codec is unknown")
    chosen = codec_of(name) if ANY_CODEC else codec
    assert chosen is not None
    data = chosen.decode(payload, size=sum(part.bytes for part in parts))
    pieces: list[NDArray[Any]] = []
    start = 0
    for part in parts:
        piece = data[start : start + part.bytes]
        plain = np.frombuffer(piece, DTYPES[part.dtype]).reshape(part.shape)
        # A copy, because torch needs writable memory.
        pieces.append(_turn_back(part, piece) if ANY_CODEC and turned else plain.copy())
        start += part.bytes
    return pieces


def rebuild(groups: Any, grids: Any, decoded: dict[tuple[str, str], NDArray[Any]]) -> Iterator[Stored]:
    """Tensors from the header's groups and the decoded arrays."""
    for group in groups:
        for name in unfold(group["names"]):
            if "grid" in group:
                codes, scales = decoded[name, "codes"], decoded[name, "scales"]
                grid, states = grids[group["grid"]], group.get("states", 0)
                order = decoded.get((name, "order"))
                yield CodesTensor(name, str(group["role"]), codes, scales, grid, states, order)
            else:
                yield RawTensor(name, str(group["role"]), decoded[name, "data"], group["dtype"])


def _range_decode(parts: Sequence[ArraySpec], payload: bytes, orders: Orders) -> list[NDArray[np.int16]]:
    """The matrices of `_range_encode`. Raises `Damage`."""
    shapes = [shape for part in parts for shape in part.matrices]
    walked = [shape for part in parts if part.states for shape in part.matrices]
    counts = [height * width for height, width in walked]
    stored = -(-sum(counts) // 8)
    if len(payload) < stored:
        raise Damage("the stream is cut")
    bits = np.unpackbits(np.frombuffer(payload[:stored], np.uint8), count=sum(counts))
    pieces = np.split(bits, np.cumsum(counts)[:-1]) if counts else []
    odd = [piece.reshape(shape) for piece, shape in zip(pieces, walked)]
    decoded = coder.decode(payload[stored:], shapes, residues(parts, iter(odd), orders))
    parities = iter(odd)
    walks = [part.states > 0 for part in parts for _ in part.matrices]
    return [2 * matrix + next(parities) if w else matrix for matrix, w in zip(decoded, walks)]


def _from_ordered(part: ArraySpec, matrices: Sequence[NDArray[np.int16]]) -> NDArray[Any]:
    """Undo `_matrices` for one array."""
    flat = np.concatenate([matrix.ravel() for matrix in matrices]) if matrices else np.zeros(0, np.int16)
    if part.dtype in ("float16", "bfloat16"):
        flat = ordered(flat)
        return flat.astype("<i2").view(DTYPES[part.dtype]).reshape(part.shape)
    if part.dtype == "int8" and flat.size and not -128 <= flat.min() <= flat.max() <= 127:
        raise Damage("codes are wider than their type")
    return flat.astype(DTYPES[part.dtype]).reshape(part.shape)


def _turn_back(part: ArraySpec, data: bytes) -> NDArray[Any]:
    """Undo `_turn`."""
    dtype = DTYPES[part.dtype]
    lines = dtype.itemsize
    if part.dtype == "int8" and part.count and part.shape:
        lines = part.shape[-1]
    turned = np.frombuffer(data, np.uint8).reshape(lines, -1).T
    return np.ascontiguousarray(turned).reshape(-1).view(dtype).reshape(part.shape)
