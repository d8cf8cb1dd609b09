"""Read tables (`.csv`, `.tsv`): a header names the columns; quoted fields may contain line breaks.

The text is the column with a usual name, or the only column that holds more than numbers. The separator is a tab if the
header has one, else the most frequent of comma, semicolon and bar in the header.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import IO

from pargolf.core.errors import UserError
from pargolf.data.read.columns import ID, TEXT_LIMIT, USUAL, Choose, TextRow

_LOOKED_AT = 100


def read_tables(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Yield each row's text. Raises `UserError` with the number of a row that does not fit the header."""
    csv.field_size_limit(TEXT_LIMIT)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    lines: Iterator[list[str]] | None = None
    try:
        head = next((line for line in iter(lambda: text.readline(TEXT_LIMIT), "") if line.strip()), "")
        if head.lstrip().lower().startswith(("<!doctype", "<html", "<!--")):
            raise UserError(f"{where} is no table.")  # `reading` says that it is HTML
        separator = "\t" if "\t" in head else max(",;|", key=head.count)
        reader = csv.reader(chain([head], text), delimiter=separator, strict=True)
        names = next(reader, [])
        lines = reader
        first = list(islice(lines, _LOOKED_AT))
        column = choose(_texts(names, first), names)
        text_index, id_index = names.index(column), names.index(ID) if ID in names else None
        for number, row in enumerate(chain(first, lines), 1):
            if not row:
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{where}, row {number} has {len(row)} fields and the header {len(names)}. Quote texts that have "
                    f"{separator!r} in them."
                )
            yield TextRow(str(number), None if id_index is None else row[id_index], row[text_index])
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8; convert it, for instance with iconv.") from error
    except csv.Error as error:
        raise UserError(f"{where} is no table ({error}). Is a quote missing?") from error


def _texts(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The columns that hold more than numbers in the first rows; an empty column counts if its name is in `USUAL`."""
    columns = [(name, [row[at] for row in rows if at < len(row) and row[at]]) for at, name in enumerate(names)]
    return [name for name, cells in columns if (not all(map(_is_number, cells)) if cells else name.lower() in USUAL)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
