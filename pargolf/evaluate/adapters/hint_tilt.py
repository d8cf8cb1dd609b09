"""The published n-gram tilt: raises one hinted token by a fixed amount (pull requests 1145, 1514, 2135).

One long context; the hint is the token that followed it at least `threshold` of the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import nn

from pargolf.core.ranges import Size, Within
from pargolf.evaluate.adapters.adapter import Adapter, LedgerView, StepKind, Unadapted
from pargolf.evaluate.adapters.context_counts import Seen, check_orders
from pargolf.evaluate.adapters.tilt import Pushed, TiltedAlong, TiltedApart, TiltedLedger
from pargolf.evaluate.windows import IntArray, Windows


@dataclass(frozen=True)
class HintTilt:
    """Push the one token that mostly followed, by `boost`, in the longest of `contexts` where there is one.

    `adapter` is what else learns meanwhile, from the model's own distribution. The defaults are pull request 2135's.
    """

    contexts: Annotated[tuple[Size, ...], Within(1, 64)] = (15,)
    threshold: Annotated[float, Within(0, 1, over=True)] = 0.8
    boost: float = 2.625
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        check_orders(self.contexts)

    @property
    def by_document(self) -> bool:
        """As the adapter does it."""
        return self.adapter is not None and self.adapter.by_document

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
        """Grade everything tilted, while the adapter does its part."""
        adapter, weights = self.adapter or Unadapted(), np.array([self.boost])
        book: TiltedLedger
        if self.by_document:
            book = TiltedApart(ledger, starts, self.contexts, self._hint, weights)
        else:
            book = TiltedAlong(ledger, windows, self.contexts, self._hint, weights, lr=0.0)
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)

    def _hint(self, seen: Seen) -> Pushed:
        """In each position's longest context that mostly came to one token, that; of two, the one of smaller id."""
        first_N = np.lexsort((seen.token_N, -seen.count_N, seen.of_N))
        best_C = first_N[np.unique(seen.of_N[first_N], return_index=True)[1]]
        sure = seen.count_N[best_C] >= self.threshold * seen.total_C
        position, best = seen.cell_C[sure] // seen.contexts, best_C[sure]
        longest = np.append(position[1:] != position[:-1], True)[: len(position)]
        token = seen.token_N[best[longest]]
        return Pushed(position[longest], token, np.zeros_like(token))
