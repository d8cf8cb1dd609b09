"""Test-time adaptation by AdamW over chosen weights, chunk by chunk, with an anchor to the original weights.

    w <- w + anchor (w_0 - w)        after each step; w_0: the weights before any adaptation

So the effect of a step fades over 1 / anchor steps. Sources: pull request 861 (the MLP and all scales, 1 epoch, lr
.0004); Krause, Kahembwe, Murray, Renals, "Dynamic evaluation of neural sequence models" (ICML 2018, arXiv:1709.07432).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from pargolf.core.ranges import Count, Fraction, Index, Length, Positive, Rate
from pargolf.core.smaller import Smaller
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, choose
from pargolf.evaluate.adapters.chunks import train_by_chunks
from pargolf.evaluate.windows import IntArray, Windows


@dataclass(frozen=True)
class AdamW:
    """AdamW over the parameters that match `globs` but not `frozen`, with an `anchor` to the original weights.

    The default globs are pull request 861's rule, "name contains up_proj, down_proj or scale", written as roles.
    """

    lr: Positive = 0.0004
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Rate = 0.0
    anchor: Fraction = 0.0
    epochs: Index = 1
    chunk: Length = 32_768
    batch: Count = 32
    clip: Positive = 1.0
    cosine: bool = True
    globs: tuple[str, ...] = ("mlp.up", "mlp.down", "*scale")
    frozen: tuple[str, ...] = ()
    by_document: ClassVar[bool] = False

    def at_scale(self, to: Smaller) -> "AdamW":
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
        weights = choose(model, self.globs, frozen=self.frozen)
        optimizer = torch.optim.AdamW(weights, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        if self.anchor:
            _anchor(optimizer, weights, self.anchor)
        return train_by_chunks(self, model, optimizer, ledger, windows, starts, batch_windows, device)


def _anchor(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], anchor: float) -> None:
    """After each step, move the weights back towards their original values by a share of the difference."""
    start = [weight.detach().clone() for weight in weights]

    def back(*_: object) -> None:
        with torch.no_grad():
            for weight, began in zip(weights, start, strict=True):
                weight.lerp_(began, anchor)

    optimizer.register_step_post_hook(back)
