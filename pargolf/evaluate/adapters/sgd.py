"""Test-time adaptation by SGD with momentum over all weights, chunk by chunk (see `chunks`).

Source: pull requests 549, 910, 1009 (chunk 32,768, 3 epochs, lr .002, momentum .9, clip 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from pargolf.core.ranges import Count, Fraction, Index, Length, Positive
from pargolf.core.smaller import Smaller
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, choose
from pargolf.evaluate.adapters.chunks import train_by_chunks
from pargolf.evaluate.windows import IntArray, Windows


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum over all weights except those that `frozen` globs match."""

    lr: Positive = 0.002
    momentum: Fraction = 0.9
    epochs: Index = 3
    chunk: Length = 32_768
    batch: Count = 32
    clip: Positive = 1.0
    cosine: bool = True
    frozen: tuple[str, ...] = ()
    by_document: ClassVar[bool] = False

    def at_scale(self, to: Smaller) -> "SGD":
        """Chunks of as many sequences, of the smaller context."""
        return replace(self, chunk=to.chunk(self.chunk))

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
        """Grade and train, chunk by chunk."""
        weights = choose(model, ("*",), frozen=self.frozen)
        optimizer = torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum)
        return train_by_chunks(self, model, optimizer, ledger, windows, starts, batch_windows, device)
