"""Read plain text, Markdown and reStructuredText (`.txt`, `.md`, `.rst`): a file is one document, with its markup."""

from collections.abc import Iterator
from typing import IO

from pargolf.data.read.columns import TEXT_LIMIT, Choose, TextRow, decoded


def read_plain(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """Yield the whole file. Raises `UserError` when it is not UTF-8."""
    yield TextRow("", None, decoded(file.read(TEXT_LIMIT + 1), where))
