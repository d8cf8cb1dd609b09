"""Read JSON lines (`.jsonl`): one object or string per line; blank lines are skipped."""

import json
from collections.abc import Iterator
from typing import IO

from pargolf.core.errors import UserError
from pargolf.data.read.columns import TEXT_LIMIT, Choose, TextRow, column_of_record, decoded, row_of_record


def read_lines(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Yield the text of each line; the first object decides the column. Raises `UserError` with the line number."""
    number, column = 0, ""
    while line := file.readline(TEXT_LIMIT + 1):
        number += 1
        here = f"{where}:{number}"
        text = decoded(line, here)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{here} is not JSON ({error}); a .jsonl file has one JSON object a line.") from error
        column = column or column_of_record(record, choose, here)
        yield row_of_record(record, column, str(number), here)
