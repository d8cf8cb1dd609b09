"""Online adaptation: each window is shown once, graded, and trained on with the gradient of that same forward pass.

    grade window i with w_i    then    w_{i+1} = Adam(w_i, gradient of its mean nats), moved back towards w_0 by a share

With half-overlapping windows, adaptation by chunks (`chunks`) shows each position three times: twice for grades and
once for training. Here the context of a window is not shown again: its keys and values are cached from the steps in
which it was graded (`model/cache.py`). So a graded position costs one forward and one backward pass, and its lesson is
used for the next window. The gradient flows only through the graded positions.

Sources: dynamic evaluation (Krause, Kahembwe, Murray, Renals, ICML 2018, arXiv:1709.07432); kept keys and values as in
Transformer-XL (Dai et al. 2019, arXiv:1901.02860); score before update as everywhere here (issue 1017, condition 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pargolf.core.errors import UserError
from pargolf.core.ranges import Fraction, Positive
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, choose
from pargolf.evaluate.adapters.chunks import sum_gradients
from pargolf.evaluate.windows import IntArray, Windows
from pargolf.model.cache import Cache
from pargolf.model.transformer import Transformer

_LENGTH = 4096  # positions that the cache holds; then the context is shown again


@dataclass(frozen=True)
class Online:
    """Adam without momentum over the parameters matching `globs`, a step per window, with an `anchor` to the start."""

    lr: Positive = 0.0005
    beta: Fraction = 0.999
    anchor: Fraction = 0.01
    clip: Positive = 1.0
    globs: tuple[str, ...] = ("*",)
    by_document: ClassVar[bool] = False

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
        """Grade and learn, window by window; of several processes only the first runs the model."""
        assert isinstance(model, Transformer), "a model that keeps what it was shown"
        if any(block.attn.rope.ntk_from for block in model.spec.blocks):
            raise UserError("Online continues past a window, and rope.ntk_from depends on its length. Use AdamW.")
        weights: list[Tensor] = list(choose(model, self.globs))
        start = [weight.detach().clone() for weight in weights]
        optimizer = torch.optim.AdamW(weights, lr=self.lr, betas=(0.0, self.beta), weight_decay=0.0, fused=True)
        cache = Cache(model, max(_LENGTH, 2 * windows.length))
        reader, rows, shown = _Reader(cache), range(ledger.world.main), 0
        for window in windows.over(ledger.positions, starts=starts):
            yield "grade"
            if window.first != shown:
                cache.forget()
            shown = window.end
            ledger.grade(reader, [window], device=device, rows=rows)
            if shown == ledger.positions:
                continue  # nothing is graded after it
            yield "train"
            targets_S = torch.from_numpy(ledger.graded(window.first + 1, shown + 1).astype("int64")).to(device)
            for weight in weights:
                weight.grad = torch.zeros_like(weight) if ledger.world.size > 1 else None
            if rows:
                torch.autograd.backward(cross_entropy(reader.logits_1SV[0], targets_S))
            sum_gradients(weights, ledger.world)
            nn.utils.clip_grad_norm_(weights, self.clip)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(weights, start, self.anchor)


class _Reader:
    """A predictor with a cache, which also keeps the logits (1, S, V) of the last window with their graph."""

    logits_1SV: Tensor

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def __call__(self, ids_BT: Tensor, *, first: int) -> Tensor:
        """Logits (1, T - first, V) of a window; positions before `first` are in the cache, or are shown now."""
        cache, further_BT = self.cache, ids_BT[:, first:]
        if not first or not cache.shown or cache.shown + further_BT.shape[1] > cache.length:
            cache.forget()
            if first:
                cache(ids_BT[:, :first])
        with torch.enable_grad():
            self.logits_1SV = cache.show(further_BT, sees=first).float()
        return self.logits_1SV.detach()
