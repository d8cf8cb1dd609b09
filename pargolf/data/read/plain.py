"""Plain text, Markdown and reStructuredText (`.txt`, `.md`, `.rst`): one document per file, with its markup."""

from collections.abc import Iterator
from typing import IO

from pargolf.data.read.columns import TEXT_LIMIT, Choose, TextRow, decoded


def read_plain(file: IO[bytes], where: str, choose: Choose) -> Iterator[TextRow]:
    """The whole file. Raises `UserError` where it is not UTF-8."""
    yield TextRow("", None, decoded(file.read(TEXT_LIMIT + 1), where))
