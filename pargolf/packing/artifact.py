"""The container `.pargolf`: a model as bytes, without pickle, every byte of it accounted for.

    magic 8 | format 1 | header: stored, raw length 4 + 4, crc32 4 | header | sections, each with its crc32 | blake2b 16

The header is brotli-compressed JSON: the caller's `meta` (model spec, recipe, digest), the distinct grids once each,
the tensors in groups of one role, shape and kind, and the sections with codec and length. A section holds the codes
of one role, or all scales, or all raw numbers of one width, so that alike data meet in one stream. Without a codec
named, a section takes the range coder of `pack/coder.py`, or a general codec where that turns out smaller (repeated
rows). Of codes that walk a trellis it stores the parities as bits, which tell the states, and codes the rest given
those; the orders in which columns are walked come first. Reading checks lengths, then each checksum, then decodes; the
size of the file bounds what the header may claim.
"""

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pargolf.core.errors import NotRead, UserError
from pargolf.core.ranges import Index, Within
from pargolf.core.spec import build
from pargolf.core.strict import parse_json
from pargolf.packing import coder
from pargolf.packing.codecs import Brotli, Codec, Damage, Lzma, Zstd, codec_of, stored_as
from pargolf.quant.trellis import MACHINES, sides

MAGIC = b"\x9bpargolf"
FORMAT = 2  # 1 knew no orders of columns
# Numbers without a numpy dtype travel as their bits.
DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
    "int16": np.dtype("<i2"),
    "int32": np.dtype("<i4"),
}
_PREFIX = struct.Struct("<8sBIII")
_DIGEST = 16
_CRC = 4
_MAX_HEADER = 1 << 22
_MAX_TENSORS = 1 << 16
_MAX_NAME = 256
_MAX_DIMS = 8
_DECODED = 1 << 26, 64  # a file of n bytes may decode to this much plus so many times n
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
_GENERAL: tuple[Codec, ...] = (Brotli(), Zstd(), Lzma())
# What reading a header that is JSON, but not of our making, may end in.
_SHAPELESS = KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError
_SMALL = 1 << 14  # sections up to this size are tried with every general codec


class ArtifactError(UserError):
    """The file is no whole artifact. `section` says which part is damaged."""

    def __init__(self, section: str, why: str) -> None:
        super().__init__(f"The artifact is damaged in {section}: {why}. Fetch the file again, or pack the run again.")
        self.section = section


class NewerFormat(ArtifactError):
    """A later pargolf wrote the file."""

    def __init__(self, version: int) -> None:
        UserError.__init__(self, f"The artifact has format {version} and this pargolf reads {FORMAT}. Upgrade pargolf.")
        self.section = "the container"


@dataclass(frozen=True)
class CodesTensor:
    """A quantized tensor: int8 or int16 `codes`, float16, float32 or bfloat16 `scales` (bfloat16 as uint16 bits).

    `states` of the trellis that the codes of each row walk (`quant/trellis.py`); 0: none. `order`: the class of each
    column, int8, that says in which order; None: from left to right.
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
        if self.order is not None and self.order.shape != (_columns(self.codes.shape),):
            raise UserError(f"The order of '{self.name}' has another number of columns than its codes.")
        _check_dtype(self.name, self.scales, self.scale_dtype)

    @property
    def scale_dtype(self) -> str:
        """The name of the scales' type in `DTYPES`."""
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
Orders = Mapping[tuple[str, str], NDArray[Any] | None]
"""(tensor, "order") -> the classes of its columns; other fields do not matter."""


@dataclass(frozen=True)
class Section:
    """A run of bytes of the file: `offset` and `size` count its payload, without the checksum that follows."""

    name: str
    codec: str
    offset: int
    size: int


@dataclass(frozen=True)
class Artifact:
    """What a file held. `tensors` by name, grouped by role; `size` of the whole file in bytes."""

    meta: Any
    tensors: dict[str, Stored]
    sections: list[Section]
    size: int

    def by_role(self) -> list[dict[str, Any]]:
        """Rows of role, tensors, weights, bytes and bits_per_weight whose bytes sum to the file's size.

        Raw numbers of several roles share a section; it is divided by their sizes. `(scales)`, which holds orders of
        columns as well, `(header)` and `(container)` are rows of their own, without weights.
        """
        size = {section.name: section.size for section in self.sections}
        rows: dict[str, dict[str, Any]] = {}
        raw: dict[str, dict[str, int]] = {}
        for tensor in self.tensors.values():
            row = rows.setdefault(tensor.role, {"role": tensor.role, "tensors": 0, "weights": 0, "bytes": 0})
            numbers = tensor.codes if isinstance(tensor, CodesTensor) else tensor.data
            row["tensors"] += 1
            row["weights"] += numbers.size
            if isinstance(tensor, RawTensor):
                shares = raw.setdefault(_raw_section(DTYPES[tensor.dtype].itemsize), {})
                shares[tensor.role] = shares.get(tensor.role, 0) + numbers.nbytes
        for name, shares in raw.items():
            for role, part in _shares(size[name], shares).items():
                rows[role]["bytes"] += part
        for role, row in rows.items():
            row["bytes"] += size.get(f"codes of {role}", 0)
        scales = sum(n for name, n in size.items() if name.startswith(("scales", "orders")))
        header = size["the header"]
        container = self.size - sum(row["bytes"] for row in rows.values()) - scales - header
        for name, part in (("(scales)", scales), ("(header)", header), ("(container)", container)):
            rows[name] = {"role": name, "tensors": 0, "weights": 0, "bytes": part}
        return [
            row | {"bits_per_weight": 8 * row["bytes"] / row["weights"] if row["weights"] else None}
            for row in rows.values()
        ]


def to_bytes(meta: Any, tensors: Sequence[Stored], *, codec: Codec | None = None) -> bytes:
    """The artifact of `tensors`, under any plain JSON value `meta`.

    `codec` None chooses the smallest for each section; a codec is used for every section, on plain bytes, as the
    published systems do. Raises `UserError` on a name that comes twice and on more than the container holds.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.role)
    names = [tensor.name for tensor in ordered]
    if len(set(names)) != len(names) or len(names) > _MAX_TENSORS or any(len(name) > _MAX_NAME for name in names):
        raise UserError(f"An artifact holds up to {_MAX_TENSORS} tensors of different names of {_MAX_NAME} letters.")
    groups, grids = _describe(ordered)
    layout = _layout(groups)
    arrays = {tensor.name: tensor for tensor in ordered}
    orders = {(tensor.name, "order"): tensor.order for tensor in ordered if isinstance(tensor, CodesTensor)}
    sections: list[list[Any]] = []
    payloads: list[bytes] = []
    for parts in layout.values():
        pieces = [_numbers(arrays[part.tensor], part) for part in parts]
        method, payload = _encode(codec, parts, pieces, orders)
        sections.append([method, len(payload)])
        payloads.append(_with_crc(payload))
    header = {"meta": meta, "grids": grids, "tensors": groups, "sections": sections}
    out = _assemble(header, payloads)
    if sum(part.bytes for parts in layout.values() for part in parts) > _DECODED[0] + _DECODED[1] * len(out):
        raise UserError("These tensors hold too many weights for so few bytes; leave out what is constant.")
    return out


def from_bytes(data: bytes) -> Artifact:
    """Read an artifact. Raises `ArtifactError` on anything but whole, undamaged bytes of this format."""
    header, start, stored = _open(data)
    groups, grids, declared = header["tensors"], header["grids"], header["sections"]
    try:
        layout = _layout(groups)
        limit = _DECODED[0] + _DECODED[1] * len(data)
        if sum(part.bytes for parts in layout.values() for part in parts) > limit:
            raise ArtifactError("the header", "it claims more weights than so short a file can hold")
        sections = _place(layout, declared, start)
    except ArtifactError:
        raise
    except _SHAPELESS as error:
        raise ArtifactError("the header", f"it does not describe tensors ({type(error).__name__})") from error
    _verify(data, sections, start)
    decoded: dict[tuple[str, str], NDArray[Any]] = {}
    for section, parts in zip(sections, layout.values()):
        payload = data[section.offset : section.offset + section.size]
        try:
            arrays = _decode(section.codec, payload, parts, decoded)
        except NotRead:
            raise
        except (Damage, *_SHAPELESS) as error:
            raise ArtifactError(section.name, str(error)) from error
        decoded |= {(part.tensor, part.field): array for part, array in zip(parts, arrays)}
    try:
        tensors = {tensor.name: tensor for tensor in _rebuild(groups, grids, decoded)}
    except _SHAPELESS as error:
        raise ArtifactError("the header", f"it does not describe tensors ({type(error).__name__})") from error
    whole = [Section("the header", "brotli", _PREFIX.size, stored), *sections]
    return Artifact(header["meta"], tensors, whole, len(data))


_Shape = Annotated[tuple[Index, ...], Within(0, _MAX_DIMS)]
_Dtype = Literal["float16", "bfloat16", "float32", "int8", "int16", "int32"]


@dataclass(frozen=True)
class _Group:
    """What the header says of alike tensors; `scales`, `of` and `grid` where they are codes."""

    role: str
    shape: _Shape
    dtype: _Dtype
    names: tuple[str | tuple[str, tuple[Index, ...]], ...]
    scales: _Shape | None = None
    of: _Dtype | None = None
    grid: Index | None = None
    states: Index = 0
    order: bool = False

    def check_fields(self) -> None:
        """Raise `UserError` where a group is half of codes and half of whole numbers, or has no such codes."""
        if {self.grid is None, self.scales is None, self.of is None} != {self.grid is None}:
            raise UserError("grid, scales and of stand together.")
        if self.grid is None and (self.states or self.order):
            raise UserError("states is of codes only, and so is order.")
        if self.grid is not None and self.dtype not in ("int8", "int16"):
            raise UserError("dtype of codes is int8 or int16.")
        if self.states and self.states not in MACHINES:
            raise UserError(f"states is one of {', '.join(map(str, MACHINES))}.")


@dataclass(frozen=True)
class _Header:
    """The header's parts; `meta` and `grids` are the caller's."""

    meta: Any
    grids: tuple[Any, ...]
    tensors: tuple[_Group, ...]
    sections: tuple[tuple[str, Index], ...]

    def check_fields(self) -> None:
        """Raise `UserError` where a group names a grid that is not there."""
        if any(group.grid is not None and group.grid >= len(self.grids) for group in self.tensors):
            raise UserError(f"tensors name a grid past the {len(self.grids)} that there are.")


@dataclass(frozen=True)
class _Part:
    """One array of a section: which tensor's which field, and what it looks like."""

    tensor: str
    field: str
    shape: tuple[int, ...]
    dtype: str
    states: int = 0

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * DTYPES[self.dtype].itemsize

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Two-dimensional shapes that the array splits into: a bank is coded matrix by matrix."""
        if not self.count:
            return []
        width = self.shape[-1] if self.shape else 1
        if len(self.shape) > 2 and self.shape[-2] * width >= 4096:
            return [(self.shape[-2], width)] * (self.count // (self.shape[-2] * width))
        return [(self.count // width, width)]


def _describe(tensors: Sequence[Stored]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The header's groups of alike tensors, and the distinct grids."""
    grids: list[Any] = []
    places: dict[str, int] = {}
    groups: list[dict[str, Any]] = []

    def like(tensor: Stored) -> str:
        return _compact(_kind(tensor, places, grids))

    for kind, members in groupby(tensors, key=like):
        group = json.loads(kind)
        group["names"] = _fold([member.name for member in members])
        groups.append(group)
    return groups, grids


def _kind(tensor: Stored, places: dict[str, int], grids: list[Any]) -> dict[str, Any]:
    """What tensors of one group share. A new grid is added to `grids`."""
    if isinstance(tensor, RawTensor):
        return {"role": tensor.role, "shape": list(tensor.data.shape), "dtype": tensor.dtype}
    key = _compact(tensor.grid)
    if key not in places:
        places[key] = len(grids)
        grids.append(tensor.grid)
    return {
        "role": tensor.role,
        "shape": list(tensor.codes.shape),
        "dtype": tensor.codes.dtype.name,
        "scales": list(tensor.scales.shape),
        "of": tensor.scale_dtype,
        "grid": places[key],
        **({"states": tensor.states} if tensor.states else {}),
        **({"order": True} if tensor.order is not None else {}),
    }


def _fold(names: list[str]) -> list[Any]:
    """`blocks.0.q, blocks.1.q` become `["blocks.*.q", [0, 1]]`; a name without such a number stands for itself."""
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


def _unfold(names: list[Any]) -> Iterator[str]:
    for entry in names:
        if isinstance(entry, str):
            yield entry
        else:
            pattern, numbers = entry
            yield from (pattern.replace("*", str(int(number))) for number in numbers)


def _layout(groups: Any) -> dict[str, list[_Part]]:
    """Sections and their arrays, in the order of the file, from the header's groups; names are checked."""
    layout: dict[str, list[_Part]] = {}
    seen: set[str] = set()

    def add(section: str, name: str, field: str, shape: Any, dtype: str, states: int = 0) -> None:
        layout.setdefault(section, []).append(_Part(name, field, tuple(shape), dtype, states))

    for group in groups:
        for name in _unfold(group["names"]):
            if name in seen or len(name) > _MAX_NAME or len(seen) >= _MAX_TENSORS:
                raise ValueError("names repeat, or are too many or too long")
            seen.add(name)
            width = DTYPES[group["dtype"]].itemsize
            if "grid" in group:
                states = group.get("states", 0)
                add(f"codes of {group['role']}", name, "codes", group["shape"], group["dtype"], states)
                scales = f"scales of {8 * DTYPES[group['of']].itemsize} bits"
                add(scales, name, "scales", group["scales"], group["of"])
                if states and group.get("order"):
                    add("orders of columns", name, "order", [_columns(group["shape"])], "int8")
            else:
                add(_raw_section(width), name, "data", group["shape"], group["dtype"])
    # Orders, which codes are read by, then codes by role, then side data; whichever groups came first.
    ranks = {"orders": 0, "codes": 1}
    return dict(sorted(layout.items(), key=lambda item: (ranks.get(item[0].split()[0], 2), item[0])))


def _columns(shape: Sequence[int]) -> int:
    """How many columns the rows of the first dimension have; a vector is one row."""
    return math.prod(shape[1:] if len(shape) > 1 else shape)


def _raw_section(width: int) -> str:
    return f"raw numbers of {8 * width} bits"


def _numbers(tensor: Stored, part: _Part) -> NDArray[Any]:
    array: NDArray[Any] = getattr(tensor, part.field)
    return np.ascontiguousarray(array, DTYPES[part.dtype])


def _join(pieces: Sequence[NDArray[Any]]) -> bytes:
    return b"".join(piece.tobytes() for piece in pieces)


def _encode(
    codec: Codec | None, parts: Sequence[_Part], pieces: Sequence[NDArray[Any]], orders: Orders
) -> tuple[str, bytes]:
    """How a section is stored, and its payload."""
    return _smallest(parts, pieces, orders) if codec is None else (stored_as(codec), codec.encode(_join(pieces)))


def _smallest(parts: Sequence[_Part], pieces: Sequence[NDArray[Any]], orders: Orders) -> tuple[str, bytes]:
    """The method and payload that come out smallest among the range coder, general codecs and the plain bytes.

    The general codecs take minutes on large sections, so there they are only tried when a fast one comes near.
    """
    across = [_turn(part, piece) for part, piece in zip(parts, pieces)]
    layouts = {"": _join(pieces), "/turned": b"".join(across)}
    best = "raw", layouts[""]
    if all(piece.itemsize <= 2 for piece in pieces):
        best = min(best, ("range", _range_encode(parts, _matrices(parts, pieces), orders)), key=_size)
    for suffix, data in layouts.items():
        if len(data) <= _SMALL or len(Zstd(3).encode(data)) <= len(best[1]):
            best = min(best, *((codec.name + suffix, codec.encode(data)) for codec in _GENERAL), key=_size)
    return best


def _size(candidate: tuple[str, bytes]) -> int:
    return len(candidate[1])


def _decode(method: str, payload: bytes, parts: Sequence[_Part], orders: Orders) -> list[NDArray[Any]]:
    """The arrays of a section. Raises `Damage`, or `KeyError` on an unknown codec."""
    if method == "range":
        found = iter(_range_decode(parts, payload, orders))
        return [_from_ordered(part, [next(found) for _ in part.matrices]) for part in parts]
    name, _, turned = (method, "", "") if method.startswith("{") else method.partition("/")
    if turned not in ("", "turned"):
        raise Damage("the codec is unknown")
    data = codec_of(name).decode(payload, size=sum(part.bytes for part in parts))
    out: list[NDArray[Any]] = []
    at = 0
    for part in parts:
        piece = data[at : at + part.bytes]
        plain = np.frombuffer(piece, DTYPES[part.dtype]).reshape(part.shape)
        # A copy, since torch wants memory that it may write to.
        out.append(_turn_back(part, piece) if turned else plain.copy())
        at += part.bytes
    return out


def _range_encode(parts: Sequence[_Part], matrices: Sequence[NDArray[Any]], orders: Orders) -> bytes:
    """The range coder's stream, after the parities of the codes that walk a trellis, bit by bit."""
    walked = [part.states > 0 for part in parts for _ in part.matrices]
    odd = [(matrix & 1).astype(np.uint8) for matrix, walks in zip(matrices, walked) if walks]
    bits = np.packbits(np.concatenate([o.ravel() for o in odd])).tobytes() if odd else b""
    halves = [matrix >> 1 if walks else matrix for matrix, walks in zip(matrices, walked)]
    return bits + coder.encode(halves, _residues(parts, iter(odd), orders))


def _range_decode(parts: Sequence[_Part], payload: bytes, orders: Orders) -> list[NDArray[np.int16]]:
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
    found = coder.decode(payload[stored:], shapes, _residues(parts, iter(odd), orders))
    left = iter(odd)
    walks = [part.states > 0 for part in parts for _ in part.matrices]
    return [2 * matrix + next(left) if w else matrix for matrix, w in zip(found, walks)]


def _residues(
    parts: Sequence[_Part], odd: Iterator[NDArray[np.uint8]], orders: Orders
) -> list[NDArray[np.uint8] | None]:
    """For every matrix that walks a trellis, which quarter of a step its halved codes stand on, from the parities."""
    out: list[NDArray[np.uint8] | None] = []
    for part in parts:
        if not part.states:
            out += [None for _ in part.matrices]
            continue
        own = [next(odd) for _ in part.matrices]
        if not own:
            continue
        # A row of the trellis is what lies under one index of the first dimension, whole.
        flat = np.concatenate([piece.ravel() for piece in own])
        rows = flat.reshape(part.shape[0], -1) if len(part.shape) > 1 else flat[None]
        order = orders.get((part.tensor, "order"))
        classes = None if order is None else torch.from_numpy(order)
        side = sides(torch.from_numpy(rows), states=part.states, classes_C=classes).numpy().astype(np.uint8)
        residue = (2 * rows + side).ravel()
        ends = np.cumsum([piece.size for piece in own])[:-1]
        out += [r.reshape(piece.shape) for r, piece in zip(np.split(residue, ends), own)]
    return out


def _matrices(parts: Sequence[_Part], pieces: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Two-dimensional integers for the range coder; floats by their bits, in the order of their values."""
    out: list[NDArray[Any]] = []
    for part, piece in zip(parts, pieces):
        integers = piece if part.dtype in ("int8", "int16") else _ordered(piece.view("<i2"))
        at = 0
        for height, width in part.matrices:
            out.append(integers.reshape(-1)[at : at + height * width].reshape(height, width))
            at += height * width
    return out


def _from_ordered(part: _Part, matrices: Sequence[NDArray[np.int16]]) -> NDArray[Any]:
    """Undo `_matrices` for one array."""
    flat = np.concatenate([matrix.ravel() for matrix in matrices]) if matrices else np.zeros(0, np.int16)
    if part.dtype in ("float16", "bfloat16"):
        flat = _ordered(flat)
        return flat.astype("<i2").view(DTYPES[part.dtype]).reshape(part.shape)
    if part.dtype == "int8" and flat.size and not -128 <= flat.min() <= flat.max() <= 127:
        raise Damage("codes are wider than their type")
    return flat.astype(DTYPES[part.dtype]).reshape(part.shape)


def _ordered(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Signed integers in the order of the 16-bit floats with these bits; its own inverse."""
    return np.where(bits < 0, bits ^ np.int16(0x7FFF), bits)


def _turn(part: _Part, piece: NDArray[Any]) -> bytes:
    """Integers by columns, floats byte by byte: all first bytes, then all second bytes."""
    if part.dtype == "int8":
        return piece.reshape(-1, part.shape[-1] if part.shape else 1).T.tobytes() if part.count else b""
    return piece.reshape(-1).view(np.uint8).reshape(-1, piece.itemsize).T.tobytes()


def _turn_back(part: _Part, data: bytes) -> NDArray[Any]:
    """Undo `_turn`."""
    dtype = DTYPES[part.dtype]
    lines = dtype.itemsize
    if part.dtype == "int8" and part.count and part.shape:
        lines = part.shape[-1]
    turned = np.frombuffer(data, np.uint8).reshape(lines, -1).T
    return np.ascontiguousarray(turned).reshape(-1).view(dtype).reshape(part.shape)


def _assemble(header: Any, payloads: Sequence[bytes]) -> bytes:
    """Magic, lengths, header, sections and the digest over all of it."""
    text = _compact(header).encode()
    stored = _press(text)
    if len(text) > _MAX_HEADER:
        raise UserError(f"The header of the artifact takes {len(text)} bytes; {_MAX_HEADER} is the most. Shorten meta.")
    lengths = struct.pack("<II", len(stored), len(text))
    body = MAGIC + bytes([FORMAT]) + lengths + struct.pack("<I", zlib.crc32(lengths + stored)) + stored
    body += b"".join(payloads)
    return body + _digest(body)


def _press(text: bytes) -> bytes:
    """The header as it is stored."""
    return Brotli().encode(text)


def _open(data: bytes) -> tuple[dict[str, Any], int, int]:
    """The checked header, the offset of the first section, and the header's stored length."""
    if not data.startswith(MAGIC[: max(1, len(data))]):
        raise ArtifactError("the container", "it does not begin like a .pargolf file")
    if len(data) < _PREFIX.size + _DIGEST:
        raise ArtifactError("the container", f"it is cut after {len(data)} bytes")
    _, version, stored, raw, crc = _PREFIX.unpack_from(data)
    if version > FORMAT:
        raise NewerFormat(version)
    start = _PREFIX.size + stored
    if version < 1 or start + _DIGEST > len(data) or raw > _MAX_HEADER:
        raise ArtifactError("the container", "its first lengths do not fit the file")
    if zlib.crc32(data[9:17] + data[_PREFIX.size : start]) != crc:
        raise ArtifactError("the header", "its checksum differs")
    try:
        header = parse_json(Brotli().decode(data[_PREFIX.size : start], size=raw), "it")
        build(_Header, header)
    except (Damage, UserError) as error:
        raise ArtifactError("the header", str(error).rstrip(".")) from error
    return header, start, stored


def _place(layout: dict[str, list[_Part]], declared: Any, at: int) -> list[Section]:
    """Give every section of the layout its declared codec and length."""
    if len(declared) != len(layout):
        raise ValueError("sections do not match the tensors")
    sections = []
    for name, (method, size) in zip(layout, declared):
        sections.append(Section(name, method, at, size))
        at += size + _CRC
    return sections


def _verify(data: bytes, sections: Sequence[Section], end: int) -> None:
    """Check lengths, every section's checksum and the digest over all, in that order."""
    for section in sections:
        stop = section.offset + section.size
        if stop + _CRC + _DIGEST > len(data):
            raise ArtifactError(section.name, "the file ends before it does")
        if zlib.crc32(data[section.offset : stop]) != int.from_bytes(data[stop : stop + _CRC], "little"):
            raise ArtifactError(section.name, "its checksum differs")
        end = stop + _CRC
    if end + _DIGEST != len(data):
        raise ArtifactError("the container", "bytes follow the last section")
    if _digest(data[:-_DIGEST]) != data[-_DIGEST:]:
        raise ArtifactError("the container", "the digest over all differs")


def _rebuild(groups: Any, grids: Any, decoded: dict[tuple[str, str], NDArray[Any]]) -> Iterator[Stored]:
    """Tensors from the header's groups and the decoded arrays."""
    for group in groups:
        for name in _unfold(group["names"]):
            if "grid" in group:
                codes, scales = decoded[name, "codes"], decoded[name, "scales"]
                grid, states = grids[group["grid"]], group.get("states", 0)
                order = decoded.get((name, "order"))
                yield CodesTensor(name, str(group["role"]), codes, scales, grid, states, order)
            else:
                yield RawTensor(name, str(group["role"]), decoded[name, "data"], group["dtype"])


def _shares(total: int, weights: dict[str, int]) -> dict[str, int]:
    """Divide `total` by weight into whole numbers that sum to it."""
    out, so_far, given = {}, 0, 0
    everything = max(1, sum(weights.values()))
    for i, (name, weight) in enumerate(weights.items()):
        so_far += weight
        upto = total if i == len(weights) - 1 else total * so_far // everything
        out[name], given = upto - given, upto
    return out


def _check_dtype(name: str, array: NDArray[Any], dtype: str) -> None:
    if dtype not in DTYPES or array.dtype != DTYPES[dtype]:
        known = ", ".join(DTYPES)
        raise UserError(
            f"'{name}' is said to hold {dtype} and holds {array.dtype}. Known: {known} (bfloat16 as uint16)."
        )


def _with_crc(payload: bytes) -> bytes:
    return payload + zlib.crc32(payload).to_bytes(_CRC, "little")


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=_DIGEST).digest()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
