"""The artifact container `.pargolf`: a model as bytes, without pickle, with checksums over every byte.

    magic 8 | format 1 | header: stored, raw length 4 + 4, crc32 4 | header | sections, each with its crc32 | blake2b 16

The header is brotli-compressed JSON: the caller's `meta` (model spec, recipe, digest), each distinct grid once, the
tensors in groups of one role, shape and kind, and the sections with codec and length (`layout`). If the recipe names no
codec, a section uses the range coder of `coder`, or a general codec when that is smaller (repeated rows). For trellis
codes the parities are stored as plain bits, because they determine the states, and the rest is coded given the states;
the column orders come first. `writer` makes sections, `reader` turns them into arrays. Reading checks lengths, then
each checksum, then decodes; the size of the file limits what the header may claim.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import brotli

from pargolf.core.errors import NotRead, UserError
from pargolf.core.ranges import Index, Within
from pargolf.core.spec import build
from pargolf.core.strict import parse_json
from pargolf.packing.codecs import Brotli, Codec, Damage
from pargolf.packing.layout import (
    CRC,
    DIGEST,
    MAX_NAME,
    MAX_TENSORS,
    PREFIX,
    ArraySpec,
    body_digest,
    raw_section,
    sections_of,
)
from pargolf.packing.reader import Arrays, arrays_of, rebuild
from pargolf.packing.tensors import DTYPES, CodesTensor, RawTensor, Stored
from pargolf.packing.writer import compact, describe, encode_section, numbers
from pargolf.quant.trellis import MACHINES

MAGIC = b"\x9bpargolf"
FORMAT = 2  # 1 had no column orders
_MAX_HEADER = 1 << 22
_MAX_DIMS = 8
_DECODED = 1 << 26, 64  # a file of n bytes may decode to at most first + second * n bytes
# Errors that a header of valid JSON with wrong content can cause.
_SHAPELESS = KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError


class ArtifactError(UserError):
    """The file is not an intact artifact. `section` names the damaged part."""

    def __init__(self, section: str, why: str) -> None:
        super().__init__(f"The artifact is damaged in {section}: {why}. Fetch the file again, or pack the run again.")
        self.section = section


class NewerFormat(ArtifactError):
    """The file was written by a newer pargolf."""

    def __init__(self, version: int) -> None:
        UserError.__init__(self, f"The artifact has format {version} and this pargolf reads {FORMAT}. Upgrade pargolf.")
        self.section = "the container"


@dataclass(frozen=True)
class Section:
    """A section of the file: `offset` and `size` of its payload, without the checksum that follows."""

    name: str
    codec: str
    offset: int
    size: int


class RoleRow(TypedDict):
    """The bytes of one role in an artifact; `bits_per_weight` is None for rows without weights, such as the header."""

    role: str
    tensors: int
    weights: int
    bytes: int
    bits_per_weight: float | None


@dataclass(frozen=True)
class Artifact:
    """The content of a file: `tensors` by name, in order of role; `size` is that of the whole file in bytes."""

    meta: Any
    tensors: dict[str, Stored]
    sections: list[Section]
    size: int

    def by_role(self) -> list[RoleRow]:
        """Rows of role, tensors, weights, bytes and bits_per_weight; their bytes sum to the file's size.

        Unquantized numbers of several roles share a section, which is divided by their sizes. `(scales)` (with column
        orders), `(header)` and `(container)` are separate rows without weights.
        """
        size = {section.name: section.size for section in self.sections}
        rows: dict[str, RoleRow] = {}
        raw: dict[str, dict[str, int]] = {}
        for tensor in self.tensors.values():
            row = rows.setdefault(tensor.role, _role_row(tensor.role, 0))
            numbers = tensor.codes if isinstance(tensor, CodesTensor) else tensor.data
            row["tensors"] += 1
            row["weights"] += numbers.size
            if isinstance(tensor, RawTensor):
                shares = raw.setdefault(raw_section(DTYPES[tensor.dtype].itemsize), {})
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
            rows[name] = _role_row(name, part)
        for row in rows.values():
            row["bits_per_weight"] = 8 * row["bytes"] / row["weights"] if row["weights"] else None
        return list(rows.values())


def _role_row(role: str, size: int) -> RoleRow:
    """A row without tensors."""
    return {"role": role, "tensors": 0, "weights": 0, "bytes": size, "bits_per_weight": None}


def to_bytes(meta: Any, tensors: Sequence[Stored], *, codec: Codec | None = None) -> bytes:
    """Write an artifact of `tensors`, with any plain JSON value as `meta`.

    With a `codec` of None the smallest is chosen for each section; otherwise the codec is used for every section, on
    plain bytes, as in the published systems. Raises `UserError` on repeated names and on more than the container
    allows.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.role)
    names = [tensor.name for tensor in ordered]
    if len(set(names)) != len(names) or len(names) > MAX_TENSORS or any(len(name) > MAX_NAME for name in names):
        raise UserError(f"An artifact holds up to {MAX_TENSORS} tensors of different names of {MAX_NAME} letters.")
    groups, grids = describe(ordered)
    layout = sections_of(groups)
    arrays = {tensor.name: tensor for tensor in ordered}
    orders = {(tensor.name, "order"): tensor.order for tensor in ordered if isinstance(tensor, CodesTensor)}
    sections: list[list[Any]] = []
    payloads: list[bytes] = []
    for parts in layout.values():
        pieces = [numbers(arrays[part.tensor], part) for part in parts]
        method, payload = encode_section(codec, parts, pieces, orders)
        sections.append([method, len(payload)])
        payloads.append(_with_crc(payload))
    header = {"meta": meta, "grids": grids, "tensors": groups, "sections": sections}
    out = _assemble(header, payloads)
    if sum(part.bytes for parts in layout.values() for part in parts) > _DECODED[0] + _DECODED[1] * len(out):
        raise UserError("These tensors hold too many weights for so few bytes; leave out what is constant.")
    return out


def from_bytes(data: bytes) -> Artifact:
    """Read an artifact. Raises `ArtifactError` on anything but complete, undamaged bytes of this format."""
    header, start, stored = _open(data)
    groups, grids, declared = header["tensors"], header["grids"], header["sections"]
    try:
        layout = sections_of(groups)
        limit = _DECODED[0] + _DECODED[1] * len(data)
        if sum(part.bytes for parts in layout.values() for part in parts) > limit:
            raise ArtifactError("the header", "it claims more weights than so short a file can hold")
        sections = _place(layout, declared, start)
    except ArtifactError:
        raise
    except _SHAPELESS as error:
        raise ArtifactError("the header", f"it does not describe tensors ({type(error).__name__})") from error
    _verify(data, sections, start)
    arrays: Arrays = {}
    for section, parts in zip(sections, layout.values()):
        payload = data[section.offset : section.offset + section.size]
        try:
            arrays |= arrays_of(section.codec, payload, parts, arrays)
        except NotRead:
            raise
        except (Damage, *_SHAPELESS) as error:
            raise ArtifactError(section.name, str(error)) from error
    try:
        tensors = {tensor.name: tensor for tensor in rebuild(groups, grids, arrays)}
    except _SHAPELESS as error:
        raise ArtifactError("the header", f"it does not describe tensors ({type(error).__name__})") from error
    whole = [Section("the header", "brotli", PREFIX.size, stored), *sections]
    return Artifact(header["meta"], tensors, whole, len(data))


_Shape = Annotated[tuple[Index, ...], Within(0, _MAX_DIMS)]
_Dtype = Literal["float16", "bfloat16", "float32", "int8", "int16", "int32"]


@dataclass(frozen=True)
class _Group:
    """A group of alike tensors in the header; `scales`, `of` and `grid` are present for codes only."""

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
        """Raise `UserError` when fields of codes and of plain numbers are mixed, or do not fit each other."""
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
        """Raise `UserError` when a group refers to a missing grid."""
        if any(group.grid is not None and group.grid >= len(self.grids) for group in self.tensors):
            raise UserError(f"tensors name a grid past the {len(self.grids)} that there are.")


def _assemble(header: Any, payloads: Sequence[bytes]) -> bytes:
    """Magic, lengths, header, sections and the digest over all of it."""
    text = compact(header).encode()
    stored: bytes = brotli.compress(text, quality=11, lgwin=24)
    if len(text) > _MAX_HEADER:
        raise UserError(f"The header of the artifact takes {len(text)} bytes; {_MAX_HEADER} is the most. Shorten meta.")
    lengths = struct.pack("<II", len(stored), len(text))
    body = MAGIC + bytes([FORMAT]) + lengths + struct.pack("<I", zlib.crc32(lengths + stored)) + stored
    body += b"".join(payloads)
    return body + body_digest(body)


def _open(data: bytes) -> tuple[dict[str, Any], int, int]:
    """The checked header, the offset of the first section, and the header's stored length."""
    if not data.startswith(MAGIC[: max(1, len(data))]):
        raise ArtifactError("the container", "it does not begin like a .pargolf file")
    if len(data) < PREFIX.size + DIGEST:
        raise ArtifactError("the container", f"it is cut after {len(data)} bytes")
    _, version, stored, raw, crc = PREFIX.unpack_from(data)
    if version > FORMAT:
        raise NewerFormat(version)
    start = PREFIX.size + stored
    if version < 1 or start + DIGEST > len(data) or raw > _MAX_HEADER:
        raise ArtifactError("the container", "its first lengths do not fit the file")
    if zlib.crc32(data[9:17] + data[PREFIX.size : start]) != crc:
        raise ArtifactError("the header", "its checksum differs")
    try:
        header = parse_json(Brotli().decode(data[PREFIX.size : start], size=raw), "it")
        build(_Header, header)
    except (Damage, UserError) as error:
        raise ArtifactError("the header", str(error).rstrip(".")) from error
    return header, start, stored


def _place(layout: dict[str, list[ArraySpec]], declared: Any, offset: int) -> list[Section]:
    """Give every section of the layout its declared codec and length."""
    if len(declared) != len(layout):
        raise ValueError("sections do not match the tensors")
    sections = []
    for name, (method, size) in zip(layout, declared):
        sections.append(Section(name, method, offset, size))
        offset += size + CRC
    return sections


def _verify(data: bytes, sections: Sequence[Section], end: int) -> None:
    """Check lengths, every section's checksum and the digest over all, in that order."""
    for section in sections:
        stop = section.offset + section.size
        if stop + CRC + DIGEST > len(data):
            raise ArtifactError(section.name, "the file ends before it does")
        if zlib.crc32(data[section.offset : stop]) != int.from_bytes(data[stop : stop + CRC], "little"):
            raise ArtifactError(section.name, "its checksum differs")
        end = stop + CRC
    if end + DIGEST != len(data):
        raise ArtifactError("the container", "bytes follow the last section")
    if body_digest(data[:-DIGEST]) != data[-DIGEST:]:
        raise ArtifactError("the container", "the digest over all differs")


def _shares(total: int, weights: dict[str, int]) -> dict[str, int]:
    """Divide `total` by weight into whole numbers that sum to it."""
    out, so_far, given = {}, 0, 0
    everything = max(1, sum(weights.values()))
    for i, (name, weight) in enumerate(weights.items()):
        so_far += weight
        upto = total if i == len(weights) - 1 else total * so_far // everything
        out[name], given = upto - given, upto
    return out


def _with_crc(payload: bytes) -> bytes:
    return payload + zlib.crc32(payload).to_bytes(CRC, "little")
