"""JSON (`.json`): an array of objects or strings, or objects one after another, read one at a time.

The file is never whole in memory: text is added to a buffer until the next value is complete.
"""

import io
import json
from collections.abc import Iterator
from typing import IO, Any

from pargolf.core.errors import UserError
from pargolf.data.read.columns import TEXT_LIMIT, Choose, TextRow, column_of_record, row_of_record

_PIECE = 1 << 20
_EDGE = 16  # characters before the end within which an error may come of a value that is cut off


def read_arrays(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Each value's text; the first object chooses the column. Raises `UserError` with the number of the value."""
    column = ""
    try:
        for number, record in enumerate(_values(io.TextIOWrapper(file, encoding="utf-8-sig"), where), 1):
            here = f"{where}, record {number}"
            column = column or column_of_record(record, choose, here)
            yield row_of_record(record, column, str(number), here)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8; convert it, for instance with iconv.") from error


def _values(file: IO[str], where: str) -> Iterator[Any]:
    decoder, text, more, opened = json.JSONDecoder(), "", True, False
    while True:
        text = text.lstrip(" \t\r\n,") if opened else text.lstrip()
        if not opened and text.startswith("["):
            text, opened = text[1:], True
            continue
        if text and (text[0] == "]" or not text.strip()):
            return
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            cut = isinstance(error, json.JSONDecodeError) and (
                error.msg.startswith("Unterminated string") or error.pos >= len(text) - _EDGE
            )
            if cut and more and len(text) < TEXT_LIMIT:
                piece = file.read(max(_PIECE, len(text)))
                text, more = text + piece, bool(piece)
                continue
            if not text.strip() and not opened:
                return
            raise UserError(f"{where} is not JSON ({error}); is it whole?") from error
        text = text[end:]
        yield value
