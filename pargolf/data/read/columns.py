"""Which column of a table is the text: the one asked for, one with a usual name, or the only text column.

Between two candidates nothing is guessed: both are named, and `--text-field` decides. A row of a table becomes a
`TextRow`: a label that tells it from the others of its file, the id that the table gives it, if any, and its text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pargolf.core.errors import UserError, near

USUAL = ("text", "content", "body", "document")
ID = "id"
TEXT_LIMIT = 1 << 30
"""Bytes of the largest document that is read."""


class TextRow(NamedTuple):
    """One text of a file. `id` None takes the file's name and `label`."""

    label: str
    id: str | None
    text: str


Choose = Callable[[Sequence[str], Sequence[str]], str]
"""Given the columns of strings and all columns of a file, the one that is the text. Raises `UserError`."""


def choose_column(strings: Sequence[str], names: Sequence[str], *, asked: str | None, where: str) -> str:
    """The column of `where` that holds the text. Raises `UserError` where none does, or several may."""
    shown = ", ".join(f'"{name}"' for name in names[:12]) + (" ..." if len(names) > 12 else "")
    if asked is not None:
        if asked in strings:
            return _single(asked, names, where)
        what = "is not one of strings" if asked in names else f"is not there.{near(asked, list(names))}"
        raise UserError(f'{where}: the text field "{asked}" {what}')
    usual = [name for name in strings if name.lower() in USUAL]
    candidates = usual or [name for name in strings if name != ID]
    if len({*candidates}) == 1:
        return _single(candidates[0], names, where)
    if not candidates:
        raise UserError(f'{where} has no "text" string, nor another one; it has {shown or "nothing"}.')
    both = " and ".join(f'"{name}"' for name in candidates[:4])
    raise UserError(f"{where}: {both} may each be the text. Choose one with --text-field {candidates[0]}.")


def _single(column: str, names: Sequence[str], where: str) -> str:
    """The column, of which there is one. Raises `UserError` where several have its name."""
    if names.count(column) > 1:
        raise UserError(f'{where} has {names.count(column)} columns "{column}". Rename all but one.')
    return column


def row_of_record(record: Any, column: str, label: str, where: str) -> TextRow:
    """The text of a JSON object, or of a JSON string. Raises `UserError` where there is none."""
    if isinstance(record, str):
        return TextRow(label, None, record)
    if not isinstance(record, Mapping) or not isinstance(record.get(column, 0), str | None):
        raise UserError(f'{where} has no "{column}" string; each record must be like {{"{column}": "..."}}.')
    given = record.get(ID)
    return TextRow(label, None if given is None else str(given), record[column] or "")


def column_of_record(record: Any, choose: Choose, where: str) -> str:
    """The column that the first record of a file chooses for all. Raises `UserError`."""
    if isinstance(record, str):
        return USUAL[0]
    if not isinstance(record, Mapping):
        raise UserError(f'{where} has no "text" string; each record must be like {{"text": "..."}}.')
    names = [str(name) for name in record]
    usual = [name for name in names if record[name] is None and name.lower() in USUAL]
    return choose([name for name in names if isinstance(record[name], str) or name in usual], names)


def decoded(raw: bytes, where: str) -> str:
    """UTF-8 as text, a mark at the start left out. Raises `UserError` where it is not UTF-8, or too much."""
    if len(raw) > TEXT_LIMIT:
        raise UserError(f"{where} is one document of over {TEXT_LIMIT} bytes; split it.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start}); convert it, for instance with iconv.") from error
