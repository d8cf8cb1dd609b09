"""Read the pieces of a SentencePiece model from its bytes, without the library.

A model file is a protocol buffer. Field 1, repeated, is a piece; the piece's field 1 is its text and field 3 its type.
Only these are read. Lengths are compared with the bytes that are there; a file that does not fit is no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

SPACE = "\u2581"
MOST_PIECES = 1_000_000
_NORMAL, _USER = 1, 4


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer's file and the text of its pieces, without control, unknown, unused and byte pieces."""

    path: str
    pieces: tuple[str, ...]

    @property
    def inner_spaces(self) -> tuple[str, ...]:
        """Pieces that contain the mark of a space after their first character."""
        return tuple(piece for piece in self.pieces if SPACE in piece[1:])

    @property
    def has_space(self) -> bool:
        """Whether a space alone is a piece."""
        return SPACE in self.pieces


def read_tokenizer(path: str, data: bytes) -> Tokenizer | None:
    """The pieces of a SentencePiece model; None if the bytes are no model."""
    try:
        pieces = tuple(text for field in _fields(data, 1) if (text := _piece(field)) is not None)
    except (ValueError, IndexError):
        return None
    return Tokenizer(path, pieces) if pieces else None


def _piece(data: bytes) -> str | None:
    text = next(_fields(data, 1), b"").decode("utf-8")
    kind = next(_numbers(data, 3), _NORMAL)
    return text if kind in (_NORMAL, _USER) else None


def _fields(data: bytes, wanted: int) -> Iterator[bytes]:
    """The byte strings of a message's field."""
    return (value for number, value in _parts(data) if number == wanted and isinstance(value, bytes))


def _numbers(data: bytes, wanted: int) -> Iterator[int]:
    return (value for number, value in _parts(data) if number == wanted and isinstance(value, int))


def _parts(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a message. Raises `ValueError` or `IndexError` if it is none."""
    offset = count = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        count += 1
        kind = key & 7
        if count > MOST_PIECES:
            raise ValueError("too many fields")
        if kind == 0:
            value, offset = _varint(data, offset)
            yield key >> 3, value
            continue
        if kind == 2:
            size, offset = _varint(data, offset)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if offset + size > len(data):
            raise ValueError("a field is cut short")
        yield key >> 3, data[offset : offset + size]
        offset += size


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[offset]
        value |= (byte & 127) << shift
        offset += 1
        if byte < 128:
            return value, offset
        shift += 7
    raise ValueError("a number is too long")
