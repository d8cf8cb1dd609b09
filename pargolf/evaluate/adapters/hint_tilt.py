"""The published n-gram tilt: raise the logit of one hinted token by a fixed amount (pull requests 1145, 1514, 2135).

The hint is the token that followed a long context in at least `threshold` of its earlier occurrences.
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
    """Push the dominant token by `boost`, from the longest of `contexts` that has one.

    `adapter` is another adapter that learns at the same time, from the model's own distribution. The defaults are those
    of pull request 2135.
    """

    contexts: Annotated[tuple[Size, ...], Within(1, 64)] = (15,)
    threshold: Annotated[float, Within(0, 1, over=True)] = 0.8
    boost: float = 2.625
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        check_orders(self.contexts)

    @property
    def by_document(self) -> bool:
        """As the adapter."""
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
        """Grade everything with the tilt, while the adapter learns."""
        adapter, weights = self.adapter or Unadapted(), np.array([self.boost])
        book: TiltedLedger
        if self.by_document:
            book = TiltedApart(ledger, starts, self.contexts, self._hint, weights)
        else:
            book = TiltedAlong(ledger, windows, self.contexts, self._hint, weights, lr=0.0)
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)

    def _hint(self, seen: Seen) -> Pushed:
        """For each position, the dominant token of its longest context that has one; of equals the smaller id."""
        first_N = np.lexsort((seen.token_N, -seen.count_N, seen.of_N))
        best_C = first_N[np.unique(seen.of_N[first_N], return_index=True)[1]]
        sure = seen.count_N[best_C] >= self.threshold * seen.total_C
        position, best = seen.cell_C[sure] // seen.contexts, best_C[sure]
        longest = np.append(position[1:] != position[:-1], True)[: len(position)]
        token = seen.token_N[best[longest]]
        return Pushed(position[longest], token, np.zeros_like(token))
