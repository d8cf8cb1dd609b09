"""Published facts about validation sets: the nats per bit per byte of every known tokenizer.

`val_loss / val_bpb = ln 2 x bytes / tokens` is a constant of tokenizer and validation set, for every model. So a wrong
quotient proves a wrong byte count without a GPU. The numbers are in `known.toml`, with facts about single pull
requests.
"""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KNOWN: dict[str, Any] = tomllib.loads(Path(__file__).with_name("known.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Denominator:
    """A quotient of loss and bits per byte, its tokenizer, and whether it is right.

    `true` is the right quotient; `why` says what went wrong.
    """

    ratio: float
    name: str
    vocab: int
    true: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Split:
    """Validation tokens, and training shards if they matter, that show a split other than the standard one."""

    tokens: int
    train_shards: tuple[int, ...]
    says: str


BYTES: int = _KNOWN["bytes"]["text"]
CASEOPS_BYTES: int = _KNOWN["bytes"]["caseops"]
SHORT_DOCUMENTS: int = _KNOWN["short_split"]["documents"]
WHOLE_TOKENS: int = _KNOWN["short_split"]["whole_tokens"]


def _ratio(row: dict[str, Any]) -> float:
    return float(row["ratio"] if "ratio" in row else math.log(2) * row.get("bytes", BYTES) / row["tokens"])


def _right(name: str) -> float:
    return _ratio(next(row for row in _KNOWN["tokenizer"] if row["name"] == name))


GOOD = tuple(Denominator(_ratio(row), row["name"], row["vocab"]) for row in _KNOWN["tokenizer"])
BAD = tuple(
    Denominator(_ratio(row), row["name"], row["vocab"], _right(row["right"]), row["why"]) for row in _KNOWN["wrong"]
)
NON_CANONICAL = Denominator(_KNOWN["partial"]["ratio"], _KNOWN["partial"]["name"], _KNOWN["partial"]["vocab"])
CANONICAL_TOKENS = frozenset(
    [row["tokens"] for row in _KNOWN["tokenizer"] if "tokens" in row] + [row["count"] for row in _KNOWN["tokens"]]
)
OTHER_TEXTS = frozenset(row["tokens"] for row in _KNOWN["tokenizer"] if row.get("other_text"))
SPLITS = tuple(Split(row["tokens"], tuple(row.get("train_shards", ())), row["says"]) for row in _KNOWN["split"])


def rounding(value: float, digits: int) -> float:
    """The relative error from printing `value` with this many decimals."""
    return 0.5 * 10.0**-digits / value


def match(ratio: float, slack: float) -> Denominator | None:
    """The known denominator nearest to `ratio`, within 0.0016 and the rounding error."""
    near = min((*GOOD, *BAD, NON_CANONICAL), key=lambda d: abs(d.ratio - ratio))
    return near if abs(near.ratio - ratio) <= 0.0016 + slack * ratio else None
