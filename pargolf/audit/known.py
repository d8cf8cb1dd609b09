"""What is known about the validation set: how many nats one bit per byte is worth, for every published tokenizer.

`val_loss / val_bpb = ln 2 x bytes / tokens` is a constant of tokenizer and validation set, whatever the model. So a
quotient that is off proves a wrong byte count without any GPU. The values were read off 3,300 public logs; the byte
total of the standard validation set is 151,074,309. Tokens per set: sp1024 62,021,632 (63,779,840 in the first days),
sp4096 45,508,608, sp8192 40,540,160, sp8192 with CaseOps 47,851,520.
"""

import math
from dataclasses import dataclass

BYTES = 151_074_309
CASEOPS_BYTES = 164_594_398
CANONICAL_TOKENS = {62_021_632, 63_779_840, 45_508_608, 40_540_160, 47_851_520, 36_632_576}


@dataclass(frozen=True)
class Denominator:
    """A quotient of loss and bits per byte, the tokenizer it belongs to, and whether it is right.

    `true` is the quotient that should stand there; `why` says what went wrong.
    """

    ratio: float
    name: str
    vocab: int
    true: float | None = None
    why: str = ""


GOOD = (
    Denominator(1.68846, "sp1024", 1024),
    Denominator(1.69288, "sp1024 on the first days' validation set", 1024),
    Denominator(2.30100, "sp4096", 4096),
    Denominator(2.58320, "sp8192", 8192),
    Denominator(math.log(2) * BYTES / 47_851_520, "sp8192 with CaseOps, raw bytes", 8192),
    Denominator(2.74400, "sp10240", 10240),
    Denominator(math.log(2), "bytes", 256),
)
BAD = (
    Denominator(
        3.04000,
        "sp8192, leading spaces counted twice",
        8192,
        2.58320,
        "the byte table already counts the leading space",
    ),
    Denominator(
        math.log(2) * CASEOPS_BYTES / 47_851_520,
        "CaseOps, transformed bytes",
        8192,
        math.log(2) * BYTES / 47_851_520,
        "it divides by the 164,594,398 bytes of the transformed text, not by the 151,074,309 of the raw one",
    ),
)
NON_CANONICAL = Denominator(2.14900, "CaseOps on 10,000 documents", 8192)


def rounding(value: float, digits: int) -> float:
    """The relative error that printing `value` with so many decimals leaves."""
    return 0.5 * 10.0**-digits / value


def match(ratio: float, slack: float) -> Denominator | None:
    """The known denominator nearest to `ratio`, within 0.0016 and what rounding adds."""
    near = min((*GOOD, *BAD, NON_CANONICAL), key=lambda d: abs(d.ratio - ratio))
    return near if abs(near.ratio - ratio) <= 0.0016 + slack * ratio else None
