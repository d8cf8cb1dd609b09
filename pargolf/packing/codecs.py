"""General-purpose compression codecs behind one interface, with bounded decoding.

    encode(data) -> bytes            decode(data, size=n) -> exactly n bytes, or `Damage`

A decoder is told how many bytes to expect and stops one byte after that, so a few hostile bytes cannot fill the memory.
On the codes of a trained model brotli-11 comes within 1 % of order-0 entropy, zstd-22 within 2 %, xz within 6 %, zlib
within 16 %; our own coder (`packing/coder.py`) is below it. Published artifacts use zlib-9, zstd-22, xz-6 and
brotli-11.
"""

import importlib
import json
import lzma
import zlib
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import brotli

from pargolf.core.errors import UserError
from pargolf.core.ranges import Within
from pargolf.core.spec import dump, load
from pargolf.core.strict import parse_json

_XZ_ROOM = 1 << 20  # memory that reading xz needs besides its window


class Damage(ValueError):
    """The bytes do not decode to what was declared."""


class Codec(Protocol):
    """Turns bytes into fewer bytes and back."""

    @property
    def name(self) -> str:
        """Its name in artifacts."""
        ...

    def encode(self, data: bytes) -> bytes:
        """Compress."""
        ...

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress to exactly `size` bytes. Raises `Damage` if that fails."""
        ...


@dataclass(frozen=True)
class Raw:
    """No compression."""

    name = "raw"

    def encode(self, data: bytes) -> bytes:
        """Return `data`."""
        return data

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Return `data`. Raises `Damage` when it is not `size` bytes."""
        return _exactly(data, size, True)


@dataclass(frozen=True)
class Zlib:
    """Deflate, level 1 to 9."""

    level: Annotated[int, Within(1, 9)] = 9
    name = "zlib"

    def encode(self, data: bytes) -> bytes:
        """Compress."""
        return zlib.compress(data, self.level)

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress to exactly `size` bytes. Raises `Damage`."""
        reader = zlib.decompressobj()
        try:
            out = reader.decompress(data, size + 1)
        except zlib.error as error:
            raise Damage(f"zlib: {error}") from error
        return _exactly(out, size, reader.eof and not reader.unused_data)


@dataclass(frozen=True)
class Lzma:
    """xz with preset 0 to 9; `extreme` is the `e` of `xz -9e`."""

    preset: Annotated[int, Within(0, 9)] = 9
    extreme: bool = True
    name = "xz"

    def encode(self, data: bytes) -> bytes:
        """Compress, without xz's own checksum, because sections of an artifact have one."""
        preset = self.preset | (lzma.PRESET_EXTREME if self.extreme else 0)
        # Preset 9 takes 674 MB for its 64 MiB window, whatever the data; a window of the data's size loses nothing.
        window = max(1 << 12, min(1 << 26, 1 << (len(data) - 1).bit_length() if data else 0))
        filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": window}]
        return lzma.compress(data, check=lzma.CHECK_NONE, filters=filters)

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress to exactly `size` bytes. Raises `Damage`."""
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * size + _XZ_ROOM)
        try:
            out = reader.decompress(data, size + 1)
        except (lzma.LZMAError, MemoryError) as error:
            raise Damage(f"xz: {error}") from error
        return _exactly(out, size, reader.eof and not reader.unused_data)


@dataclass(frozen=True)
class Zstd:
    """Zstandard, level 1 to 22. Needs Python 3.14 or the package backports.zstd."""

    level: Annotated[int, Within(1, 22)] = 22
    name = "zstd"

    def encode(self, data: bytes) -> bytes:
        """Compress."""
        out: bytes = _zstd().compress(data, level=self.level)
        return out

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress to exactly `size` bytes. Raises `Damage`."""
        reader = zstd_reader()
        try:
            out = reader.decompress(data, size + 1)
        except _zstd().ZstdError as error:
            raise Damage(f"zstd: {error}") from error
        return _exactly(out, size, reader.eof and not reader.unused_data)


@dataclass(frozen=True)
class Brotli:
    """Brotli, quality 0 to 11, the widest standard window. Needs the package brotli 1.2 or newer."""

    quality: Annotated[int, Within(0, 11)] = 11
    name = "brotli"

    def encode(self, data: bytes) -> bytes:
        """Compress."""
        out: bytes = brotli.compress(data, quality=self.quality, lgwin=24)
        return out

    def decode(self, data: bytes, *, size: int) -> bytes:
        """Decompress to exactly `size` bytes. Raises `Damage`."""
        reader = brotli.Decompressor()
        parts: list[bytes] = []
        remaining = size + 1
        try:
            parts.append(reader.process(data, output_buffer_limit=remaining))
            while remaining > len(parts[-1]) > 0:
                remaining -= len(parts[-1])
                parts.append(reader.process(b"", output_buffer_limit=remaining))
        except brotli.error as error:
            raise Damage(f"brotli: {error}") from error
        return _exactly(b"".join(parts), size, reader.is_finished())


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Raw(), Zlib(), Lzma(), Zstd(), Brotli())}


def stored_as(codec: Codec) -> str:
    """The name of a codec in artifacts; for a user-defined codec the JSON of its spec."""
    dumped = dump(codec)
    return json.dumps(dumped, separators=(",", ":")) if "@" in dumped["is"] else codec.name


def codec_of(name: str) -> Codec:
    """The codec that `stored_as` named. Raises `KeyError` on an unknown name, `NotRead` if its file was not read."""
    if not name.startswith("{"):
        return CODECS[name]
    codec: Codec = load(parse_json(name, "The artifact's codec"), Codec, within=(), at="The artifact's codec")
    return codec


def zstd_reader() -> Any:
    """A zstd decompressor for one frame, with a window of at most 128 MiB."""
    library = _zstd()
    return library.ZstdDecompressor(options={library.DecompressionParameter.window_log_max: 27})


def _zstd() -> Any:
    """The zstd library: Python's own from 3.14 on, else the package; imported on first use."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        pass
    try:
        return importlib.import_module("backports.zstd")
    except ImportError as error:
        raise UserError("The codec zstd needs the package backports.zstd: pip install backports.zstd.") from error


def _exactly(data: bytes, size: int, finished: bool) -> bytes:
    """Return `data`. Raises `Damage` unless it is exactly what was declared."""
    if len(data) != size or not finished:
        raise Damage(
            f"{size} bytes were declared and the data holds {'another number' if finished else 'a part of one'}"
        )
    return data
