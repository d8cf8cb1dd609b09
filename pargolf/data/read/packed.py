"""Open compressed files by their last suffix: `.xz`, `.gz`, `.zst`, `.bz2`, with one frame or several."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pargolf.core.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKINGS = ("", ".xz", ".gz", ".zst", ".bz2")
_MAGIC = {b"\xfd7zXZ\x00": ".xz", b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"BZh": ".bz2"}
_DAMAGE = (lzma.LZMAError, zlib.error, zstd.ZstdError, gzip.BadGzipFile, EOFError)


@contextmanager
def opened(path: Path, packing: str) -> Iterator[IO[bytes]]:
    """Open a file and decompress it. Raises `UserError` that names the file if it cannot be read or unpacked."""
    try:
        with _open(path, packing) as file:
            yield file
    except _DAMAGE as error:
        raise UserError(f"{path} does not unpack ({error}); it is damaged or cut. Fetch it again.") from error
    except OSError as error:
        if packing == ".bz2" and error.errno is None:  # bz2 has no error of its own
            raise UserError(f"{path} does not unpack ({error}); it is damaged or cut. Fetch it again.") from error
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def packing_of(head: bytes) -> str:
    """The compression suffix that a file's first bytes show; empty for none."""
    return next((packing for magic, packing in _MAGIC.items() if head.startswith(magic)), "")


def _open(path: Path, packing: str) -> IO[bytes]:
    if packing == ".xz":
        return lzma.open(path)
    if packing == ".gz":
        return io.BufferedReader(gzip.open(path))
    if packing == ".zst":
        return io.BufferedReader(zstd.ZstdFile(path))
    if packing == ".bz2":
        return bz2.open(path)
    return path.open("rb")
