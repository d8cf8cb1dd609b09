"""Standard streams that cannot break a command: closed, full, gone, or in an encoding that lacks a character.

Work is worth more than the words about it. What an encoding lacks is spelled in ASCII (`·` as `-`), or as `?`. Where
the reader has left (`pargolf recipes | head -1`), the rest goes nowhere; where output is lost to a full disk,
`lost_output` says so at the end.
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
    """A file whose failures to write are kept, not raised."""

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        """All of `data`, or as if."""
        try:
            return super().write(data) or len(memoryview(data))
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.lost = error
            return len(memoryview(data))


def settle_streams() -> None:
    """Put streams that cannot fail in the place of standard output and error; open the three where they are closed.

    A descriptor that is closed would otherwise become that of the next file, and stray words would go into it.
    """
    codecs.register_error(_ERRORS, _plain)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one, which is this
    sys.stdout = _settled(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _settled(sys.stderr, sys.__stderr__, 2)


def lost_output() -> str | None:
    """Why some of standard output could not be written; None where all was, or its reader has left."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost.strerror if isinstance(raw, _Sink) and raw.lost is not None else None


def _settled(stream: TextIO | None, own: TextIO | None, descriptor: int) -> TextIO:
    """The stream to use from now on; one that somebody else put there (a test, a notebook) stays."""
    if stream is not own and stream is not None:
        return stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if os.name != "posix":  # a console of Windows has a file type of its own
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
    """The error handler: each character in the nearest that ASCII has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(letter: str) -> str:
    if letter in _PLAIN:
        return _PLAIN[letter]
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return bare or "?"
