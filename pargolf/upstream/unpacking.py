"""Decompress checkpoints; the compression is recognized by the first bytes.

zlib, gzip, zstd, xz and lzma-alone have a signature, and may be one or several streams; brotli has none, and is tried
if nothing else fits. Byte-shuffled data (pull request 1218 and its successors: `BSHF`, a stride n, then every n-th byte
from each start) is put back in order. The output is limited to `LIMIT` bytes.
"""

import importlib
import lzma
import zlib
from typing import Any

import numpy as np

from pargolf.core.errors import UserError
from pargolf.packing.codecs import zstd_reader

LIMIT = 1 << 31
"""The largest size of a file, and of its decompressed content, in bytes."""
_ZIP, _PICKLE, _SHUFFLED, _GROUPED, _LRZIP = b"PK\x03\x04", b"\x80", b"BSHF", b"PGRP", b"LRZI"
_LAYERS = 3


def unpack(data: bytes, name: str) -> bytes:
    """Decompress to a zip, a pickle or safetensors. Raises `UserError` that says what the content is otherwise."""
    if not data:
        raise UserError(f"{name} is empty. Was it written in full?")
    for _ in range(_LAYERS):
        if data[:4] == _SHUFFLED:
            data = _unshuffled(data)
        if data[:4] in (_GROUPED, _LRZIP):
            raise UserError(
                f"{name} is packed group by group with lrzip, which is not read here. Import the script's "
                "final_model.pt, or an artifact of its brotli form (COMPRESSOR=brotli)."
            )
        if data[:4] == _ZIP or data[:1] == _PICKLE or is_safetensors(data):
            return data
        data = _decompressed(data, name)
    raise UserError(f"{name} is compressed more than {_LAYERS} times over. Decompress it first.")


def is_safetensors(data: bytes) -> bool:
    """Whether bytes begin as a safetensors file: the length of a JSON header, and the header."""
    return len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8


def _decompressed(data: bytes, name: str) -> bytes:
    """Remove one layer of compression. Raises `UserError`."""
    try:
        make = _reader_of(data)
        if make is None:
            return _from_brotli(data, name)
        return _streams(data, make, name)
    except UserError:
        raise
    except Exception as error:  # each library has its own error class
        raise UserError(f"{name} does not decompress ({error}). Fetch it again.") from error


def _reader_of(data: bytes) -> Any:
    """The function that makes a decompressor for one stream, by the first bytes; None if they are unknown."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return zstd_reader
    if data[:6] == b"\xfd7zXZ\x00":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    if data[:3] == b"\x5d\x00\x00":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=1 << 28)
    if data[:2] == b"\x1f\x8b":
        return lambda: zlib.decompressobj(31)
    if data[:1] == b"\x78" and len(data) > 1 and (data[0] << 8 | data[1]) % 31 == 0:
        return zlib.decompressobj
    return None


def _streams(data: bytes, make: Any, name: str) -> bytes:
    """Decompress streams one after another, at most `LIMIT` bytes together."""
    out: list[bytes] = []
    size = 0
    while data:
        reader = make()
        part = reader.decompress(data, LIMIT - size + 1)
        out.append(part)
        size += len(part)
        if size > LIMIT or not reader.eof:
            raise UserError(f"{name} is cut off, or holds over {LIMIT:,} bytes. Fetch it again.")
        data = reader.unused_data.lstrip(b"\0")
    return b"".join(out)


def _from_brotli(data: bytes, name: str) -> bytes:
    """Try to decompress as brotli, which has no signature."""
    library: Any = importlib.import_module("brotli")
    reader = library.Decompressor()
    strange = UserError(
        f"{name} is no checkpoint that is known here: neither of torch.save, safetensors or MLX, nor compressed with "
        "zlib, gzip, zstd, xz, lzma or brotli. Is it one of these scripts'?"
    )
    out: list[bytes] = []
    try:
        part = reader.process(data, output_buffer_limit=LIMIT + 1)
        while part and sum(map(len, out)) <= LIMIT:
            out.append(part)
            part = b"" if reader.is_finished() else reader.process(b"", output_buffer_limit=LIMIT + 1)
    except library.error as error:
        raise strange from error
    whole = b"".join(out)
    if len(whole) > LIMIT:
        raise UserError(f"{name} is cut off, or holds over {LIMIT:,} bytes. Fetch it again.")
    if not reader.is_finished():
        raise strange
    return whole


def _unshuffled(data: bytes) -> bytes:
    """Undo the byte shuffle: the k-th of `stride` runs holds the bytes at positions k modulo the stride."""
    stride = data[4] if len(data) > 4 else 0
    shuffled = np.frombuffer(data, dtype=np.uint8, offset=min(5, len(data)))
    if stride < 2:
        return shuffled.tobytes()
    out = np.empty_like(shuffled)
    begin = 0
    for k in range(stride):
        count = len(out[k::stride])
        out[k::stride] = shuffled[begin : begin + count]
        begin += count
    return out.tobytes()
