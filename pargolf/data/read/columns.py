"""Choose the text column of a table: the one that was asked for, a usual name, or the only column of strings.

Between two candidates nothing is guessed: the error names both, and `--text-field` decides. A row of a table becomes a
`TextRow`: a label that is unique in its file, the table's own id if there is one, and the text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pargolf.core.errors import UserError, near

USUAL = ("text", "content", "body", "document")
ID = "id"
TEXT_LIMIT = 1 << 30
"""The largest document that is read, in bytes."""


class TextRow(NamedTuple):
    """One text of a file. With an `id` of None, the file's name and `label` are used instead."""

    label: str
    id: str | None
    text: str


Choose = Callable[[Sequence[str], Sequence[str]], str]
"""Called with the string columns and all columns of a file, returns the text column. Raises `UserError`."""


def choose_column(strings: Sequence[str], names: Sequence[str], *, asked: str | None, where: str) -> str:
    """The text column of `where`. Raises `UserError` when there is no candidate, or more than one."""
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
    """The column's name. Raises `UserError` if several columns have it."""
    if names.count(column) > 1:
        raise UserError(f'{where} has {names.count(column)} columns "{column}". Rename all but one.')
    return column


def row_of_record(record: Any, column: str, label: str, where: str) -> TextRow:
    """The text of a JSON object or a JSON string. Raises `UserError` when there is none."""
    if isinstance(record, str):
        return TextRow(label, None, record)
    if not isinstance(record, Mapping) or not isinstance(record.get(column, 0), str | None):
        raise UserError(f'{where} has no "{column}" string; each record must be like {{"{column}": "..."}}.')
    given = record.get(ID)
    return TextRow(label, None if given is None else str(given), record[column] or "")


def column_of_record(record: Any, choose: Choose, where: str) -> str:
    """The text column of a file, decided by its first record. Raises `UserError`."""
    if isinstance(record, str):
        return USUAL[0]
    if not isinstance(record, Mapping):
        raise UserError(f'{where} has no "text" string; each record must be like {{"text": "..."}}.')
    names = [str(name) for name in record]
    usual = [name for name in names if record[name] is None and name.lower() in USUAL]
    return choose([name for name in names if isinstance(record[name], str) or name in usual], names)


def decoded(raw: bytes, where: str) -> str:
    """Decode UTF-8, without a byte-order mark. Raises `UserError` when it is not UTF-8, or too long."""
    if len(raw) > TEXT_LIMIT:
        raise UserError(f"{where} is one document of over {TEXT_LIMIT} bytes; split it.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 (byte {error.start}); convert it, for instance with iconv.") from error
