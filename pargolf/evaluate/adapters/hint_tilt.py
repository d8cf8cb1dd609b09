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
from pargolf.evaluate.adapters.context_counts import TOTAL, Followed, check_orders
from pargolf.evaluate.adapters.tilt import Push, TiltedAlong, TiltedApart, TiltedLedger
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

    def _hint(self, found: list[Followed | None]) -> list[Push]:
        for after in filter(None, reversed(found)):
            count, token = max((count, -token) for token, count in after.items() if token != TOTAL)
            if count >= self.threshold * after[TOTAL]:
                return [(-token, 0)]
        return []
