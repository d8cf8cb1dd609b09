"""Documents, and the rule that splits them into training and validation.

A document is a name and a text. Its split depends only on its name and on the validation fraction p/q:

    validation  <=>  int(sha256(id), 16) mod q < p

so adding documents never moves old ones. For the default of one tenth this is `mod 10 == 0`, the rule of the embedded
corpus. Training may use only a share of the other documents, chosen by the same hash (`share_rank`): a smaller share is
part of a larger one, and all are scored on the same documents. A `Row` is the record of a document in a data folder:
its split, name, hash and sizes, without its text.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.files import reading
from pargolf.core.ranges import Amount
from pargolf.core.spec import build
from pargolf.core.strict import parse_json

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Document:
    """One text and its id, which is unique in its corpus."""

    id: str
    text: str


@dataclass(frozen=True)
class Row:
    """The record of a prepared document: `sha256` and `bytes` of its UTF-8 text, `tokens` without BOS."""

    split: str
    id: str
    sha256: str
    bytes: Amount
    tokens: Amount


def val_ratio(val_fraction: float) -> Fraction:
    """The fraction p/q with q up to 1,000. Raises `UserError` when that leaves a split empty."""
    ratio = Fraction(val_fraction).limit_denominator(1000) if 0 < val_fraction < 1 else Fraction(0)
    if not 0 < ratio < 1:
        raise UserError(f"A validation fraction of {val_fraction} leaves a split empty; take .001 to .999.")
    return ratio


def split_rank(document_id: str, ratio: Fraction) -> int:
    """`sha256(id) mod q`: below p the document is validation; a smaller rank is nearer to it."""
    return _number(document_id) % ratio.denominator


def share_rank(document_id: str, ratio: Fraction) -> tuple[int, int]:
    """Hashes that shares are chosen by: 0 to 999 for a share of the training documents, 64 bits for a share of all."""
    number = _number(document_id)
    return number // ratio.denominator % 1000, number >> 192


def _number(document_id: str) -> int:
    return int(hashlib.sha256(document_id.encode()).hexdigest(), 16)


def validates(document_id: str, val_fraction: float = 0.1) -> bool:
    """Whether this document belongs to validation."""
    ratio = val_ratio(val_fraction)
    return split_rank(document_id, ratio) < ratio.numerator


def rows_to_text(rows: Iterable[Row]) -> str:
    """One JSON line per document, in the order of the token stream."""
    return "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: str | Path) -> list[Row]:
    """Read what `rows_to_text` wrote. Raises `UserError` with the line and the field that is wrong."""
    rows = []
    with reading(path), Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                rows.append(build(Row, parse_json(line, where), where=where))
            except UserError as error:
                raise UserError(f"{error} Prepare the data again, or delete the file.") from error
    return rows
