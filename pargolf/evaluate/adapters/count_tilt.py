"""Our n-gram tilt: raise the logits of all tokens that followed the current contexts, with weights learned online.

The weights start at zero. After each window, with the tokens that followed,

    w += lr g / sqrt(1 + sum g^2)    g = sum over positions of (1 where a followed, else 0) - p'(a)

which is AdaGrad (Duchi, Hazan, Singer 2011) on the log-likelihood of a log-linear model. Only the buckets are fixed:
how often a followed the context (1, 2-3, 4-7, ... 32 or more), in which share of the context's occurrences, and its
probability under the model, because a token that the model predicts anyway needs no push.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import nn

from pargolf.core.ranges import Positive, Size, Within
from pargolf.evaluate.adapters.adapter import Adapter, LedgerView, StepKind, Unadapted
from pargolf.evaluate.adapters.context_counts import Seen, check_orders
from pargolf.evaluate.adapters.tilt import SIZES, Pushed, TiltedAlong
from pargolf.evaluate.windows import IntArray, Windows

_COUNTS, _SHARES = 6, (0.04, 0.15, 0.4, 0.8)
_SEEN = _COUNTS * (len(_SHARES) + 1)
_MANY = 64  # with this many different continuations or more, rare ones are ignored


@dataclass(frozen=True)
class CountTilt:
    """Push every token that followed one of the contexts of `orders` tokens, with weights learned online.

    `lr` is AdaGrad's. `adapter` is another adapter that learns at the same time, from the model's own distribution.
    """

    orders: Annotated[tuple[Size, ...], Within(1, 64)] = (1, 2, 3, 4, 5, 6, 8)
    lr: Positive = 0.2
    adapter: Adapter | None = None
    by_document: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_orders(self.orders, self.adapter)

    def run(
        self,
        model: nn.Module,
        ledger: LedgerView,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade everything with the tilt, while the adapter learns."""
        weights = np.zeros(len(self.orders) * _SEEN * SIZES)
        book = TiltedAlong(ledger, windows, self.orders, _followers, weights, lr=self.lr)
        adapter = self.adapter or Unadapted()
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)


def _followers(seen: Seen) -> Pushed:
    """Every token that followed a context, with the number of its weight (by context, count and share)."""
    least_C = np.where(seen.kinds_C < _MANY, 0, seen.total_C // (4 * _MANY))
    pushed = seen.count_N > least_C[seen.of_N]
    of_N, count_N = seen.of_N[pushed], seen.count_N[pushed]
    cell_N, share_N = seen.cell_C[of_N], count_N / seen.total_C[of_N]
    digits_N = np.minimum(np.frexp(count_N)[1], _COUNTS)  # the count's length in bits
    bucket_N = digits_N - 1 + _COUNTS * np.searchsorted(_SHARES, share_N, side="right")
    number_N = cell_N % seen.contexts * _SEEN + bucket_N
    return Pushed(cell_N // seen.contexts, seen.token_N[pushed], number_N)
