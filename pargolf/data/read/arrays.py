"""Read JSON files (`.json`): arrays of objects or strings, or objects one after another, one value at a time.

The file is never in memory as a whole: text is added to a buffer until the next value is complete.
"""

import io
import json
import re
from collections.abc import Iterator
from typing import IO, Any

from pargolf.core.errors import UserError
from pargolf.data.read.columns import TEXT_LIMIT, Choose, TextRow, column_of_record, row_of_record

_PIECE = 1 << 20
_BETWEEN = {False: re.compile(r"\s*"), True: re.compile(r"[\s,]*")}
"""What may separate values, outside an array and in one."""
_EDGE = 16  # characters before the end within which an error may come of a value that is cut off


def read_arrays(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Yield the text of each value; the first object decides the column. Raises `UserError` with the value's number."""
    column = ""
    try:
        for number, record in enumerate(_values(io.TextIOWrapper(file, encoding="utf-8-sig"), where), 1):
            here = f"{where}, record {number}"
            column = column or column_of_record(record, choose, here)
            yield row_of_record(record, column, str(number), here)
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8; convert it, for instance with iconv.") from error


def _values(file: IO[str], where: str) -> Iterator[Any]:
    decoder, text, start, more, opened = json.JSONDecoder(), "", 0, True, False
    while True:
        between = _BETWEEN[opened].match(text, start)
        start = between.end() if between else start
        mark = text[start : start + 1]
        if mark == ("]" if opened else "["):
            start, opened = start + 1, not opened
            continue
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            cut = isinstance(error, json.JSONDecodeError) and (
                error.msg.startswith("Unterminated string") or error.pos >= len(text) - _EDGE
            )
            if cut and more and len(text) - start < TEXT_LIMIT:
                piece = file.read(max(_PIECE, len(text) - start))
                text, start, more = text[start:] + piece, 0, bool(piece)
                continue
            if not mark and not opened:
                return
            raise UserError(f"{where} is not JSON ({error}); is it complete?") from error
        yield value
