"""Phases of global SGD between documents, in addition to low-rank adaptation (pull requests 1610, 1626).

When the first `at[0]` documents of the stream (then `at[1]`, ...) are finished, one pass of SGD over the documents
finished since the last phase updates the shared weights.
"""

from dataclasses import dataclass
from itertools import pairwise

from pargolf.core.errors import UserError
from pargolf.core.ranges import Count
from pargolf.evaluate.adapters.sgd import SGD


@dataclass(frozen=True)
class Phases:
    """Global SGD between documents: `at` are counts of finished documents, `sgd` the optimizer settings."""

    at: tuple[Count, ...] = (2000,)
    sgd: SGD = SGD(lr=0.001, epochs=1)

    def __post_init__(self) -> None:
        if not self.at or any(a >= b for a, b in pairwise((0, *self.at))):
            raise UserError(f"phases at {self.at} should be rising counts of documents, for example (833, 1666)")
