"""Standard streams that cannot break a command: closed, full, gone, or in an encoding that lacks a character.

A failure to print must not lose work. Characters that an encoding lacks become ASCII (`·` becomes `-`), or `?`. If the
reader has ended (`pargolf recipes | head -1`), the rest is dropped; if output is lost because the disk is full,
`output_error` says so at the end.
"""

import codecs
import errno
import io
import os
import sys
import unicodedata
from typing import Any, TextIO

_PLAIN = {
    **{"·": "-", "–": "-", "—": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "±": "+-", "×": "x", "→": "->"},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "━": "-", "│": "|", "╸": "-", "╺": "-"},
}
_ERRORS = "pargolf.plain"


class _Sink(io.FileIO):
    """A file that stores write errors instead of raising them."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data`, and report success in any case."""
        try:
            return super().write(data) or len(memoryview(data))
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.lost = error
            return len(memoryview(data))


def settle_streams() -> None:
    """Replace standard output and error by streams that cannot fail; open the three descriptors if closed.

    Otherwise the next opened file would get the closed descriptor, and messages could be written into it.
    """
    codecs.register_error(_ERRORS, _plain)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    sys.stdout = _settled(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _settled(sys.stderr, sys.__stderr__, 2)


def output_error() -> str | None:
    """Why some of standard output could not be written; None if all was, or if its reader has ended."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost.strerror if isinstance(raw, _Sink) and raw.lost is not None else None


def _settled(stream: TextIO | None, own: TextIO | None, descriptor: int) -> TextIO:
    """The stream to use from now on; a stream that a test or a notebook has set stays."""
    if stream is not own and stream is not None:
        return stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if os.name != "posix":  # Windows consoles have their own file type
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)
            return stream
        return open(os.devnull, "w", encoding=encoding)  # noqa: PTH123
    if isinstance(stream, io.TextIOWrapper):
        stream.flush()
    buffer = io.BufferedWriter(_Sink(descriptor, "w", closefd=False))
    lines = descriptor == 2 or os.isatty(descriptor)
    return io.TextIOWrapper(buffer, encoding=encoding, errors=_ERRORS, line_buffering=lines)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The error handler: replaces each character by the nearest in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return bare or "?"
