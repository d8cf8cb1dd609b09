"""N-gram tilt: raise the logits of tokens that followed the same contexts earlier in the text.

    p'(a) ~ p(a) exp(s(a))          s(a) = sum over contexts k of w[k, count and share of a after it, size of p(a)]

For every k in `orders`, the last k tokens are looked up in the text so far. Each token a that followed them there gets
a push, and the ledger normalizes over the whole vocabulary, as for all logits. So the result is a distribution that
depends only on the prefix; hashed caches of the true token alone are not (pull requests 677, 982: ruled out; 1514: this
form ruled legal).

`hint_tilt` is the published form, `count_tilt` ours; `count_mix` mixes distributions where these multiply. This file
has the common part: a ledger whose predictors are tilted, for one stream, or for documents that are graded in groups.
The counts are taken from the ids that a predictor is shown, position by position, window by window, so the windows must
follow each other as in one pass over the stream. With documents in groups (`LowRank`), a push comes from the document's
own text so far and from the groups before its own.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.evaluate.adapters.adapter import LedgerView
from pargolf.evaluate.adapters.context_counts import ContextCounts, Seen, gathered, joined
from pargolf.evaluate.lookahead import Predictor, part_of
from pargolf.evaluate.windows import IntArray, Window, Windows, document_spans

_CHANCES = (-8.0, -5.0, -3.0, -1.5)  # bounds between the classes of log p(a), in nats
SIZES = len(_CHANCES) + 1


@dataclass
class Pushed:
    """The pushes of one window, an entry per push: position, token, and the number of the weight that is added.

    `chance` is the token's probability after the tilt.
    """

    position: NDArray[np.int64]
    token: NDArray[np.int64]
    weight: NDArray[np.int64]
    chance: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


Pushes = Callable[[Seen], Pushed]


@dataclass
class _Tilted:
    """A predictor for some `windows` with tilted logits; it may be called only once, because the tilt counts tokens."""

    predictor: Predictor
    windows: Sequence[Window]
    tilt: Callable[[Window, list[int], Tensor], Tensor]
    begun: bool = False

    def __call__(self, ids_BT: Tensor, *, first: int) -> Tensor:
        """The tilted logits."""
        logits_BSV = self.predictor(ids_BT, first=first)
        if logits_BSV.ndim != 3 or len(logits_BSV) != len(ids_BT):
            return logits_BSV  # the ledger reports wrong shapes
        shown = zip(self.windows, ids_BT[:, first:].tolist(), logits_BSV.float(), strict=True)
        self.begun = True
        return torch.stack([self.tilt(window, ids, logits_SV) for window, ids, logits_SV in shown])

    def part(self, begin: int, end: int) -> Predictor | None:
        """The same for some of the windows; None if the predictor cannot be split, or windows were already counted."""
        inner = None if self.begun else part_of(self.predictor, begin, end)
        return None if inner is None else _Tilted(inner, self.windows[begin:end], self.tilt)


class TiltedLedger:
    """A wrapper of the ledger that tilts predictors; an adapter uses it in place of the ledger."""

    turn: Callable[[int], None] | None = None

    def __init__(self, ledger: LedgerView, orders: tuple[int, ...]) -> None:
        self.positions = ledger.positions
        self.graded = ledger.graded
        self.world = ledger.world
        self.train = ledger.train
        self._ledger = ledger
        self.memory = ContextCounts(orders)

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        rows: Sequence[int] | None = None,
    ) -> None:
        """Show the predictor a batch of windows and record the grades of its tilted logits."""
        rows = self._rows(len(batch), rows)
        tilted = _Tilted(predictor, [batch[row] for row in rows], self._tilt)
        self._ledger.grade(tilted, batch, device=device, rows=rows)

    def _rows(self, count: int, rows: Sequence[int] | None) -> Sequence[int]:
        """The rows, out of `count`, that this process handles."""
        raise NotImplementedError

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """The tilted logits of one window; `ids` are the inputs of the graded positions."""
        raise NotImplementedError


class AlongLedger(TiltedLedger):
    """For one stream, where each window continues the previous one."""

    def __init__(self, ledger: LedgerView, windows: Windows, orders: tuple[int, ...]) -> None:
        if not windows.in_turn:
            raise UserError(f"a tilt learns from each token once, and {windows} scores some several times")
        super().__init__(ledger, orders)
        if isinstance(ledger, AlongLedger) and ledger.memory.orders == orders:
            self.memory = ledger.memory  # shared with the mixture on top of this tilt, so that tokens are counted once
        self.memory.readers += 1

    def _rows(self, count: int, rows: Sequence[int] | None) -> Sequence[int]:
        """All rows on the first process and none on others, because the tables need every token in order."""
        return range(count) if self.world.main else ()


class TiltedAlong(AlongLedger):
    """A ledger that tilts along one stream; with `lr` above 0 it learns its weights from the tokens that follow.

    `pushes` turns the counts of each context (None: never seen) into tokens and the numbers of their weights.
    """

    def __init__(
        self,
        ledger: LedgerView,
        windows: Windows,
        orders: tuple[int, ...],
        pushes: Pushes,
        weights: NDArray[np.float64],
        *,
        lr: float,
    ) -> None:
        super().__init__(ledger, windows, orders)
        self._pushes, self._weights = pushes, weights
        self._lr = lr
        self._squares = np.ones(len(weights))
        self._before: tuple[list[int], Pushed] | None = None

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """Learn from the previous window (the first of `ids` was its last target), then tilt this one."""
        self._learn(ids)
        pushed = self._pushes(self.memory.over(window.first, ids))
        tilted_SV = _tilt(logits_SV, pushed, self._weights, by_chance=self._lr > 0)
        if self._lr:
            row = torch.from_numpy(pushed.position).to(logits_SV.device)
            flat = row * logits_SV.shape[1] + torch.from_numpy(pushed.token).to(row)
            pushed.chance = (tilted_SV.flatten()[flat] - tilted_SV.logsumexp(-1)[row]).exp().double().cpu().numpy()
            self._before = ids, pushed
        return tilted_SV

    def _learn(self, ids: list[int]) -> None:
        """One step on the previous window, whose targets are its inputs shifted by one and the first of `ids`."""
        if self._before is None:
            return
        shown, before = self._before
        targets = np.array([*shown[1:], ids[0]])
        wrong = (before.token == targets[before.position]) - before.chance
        gradient = np.bincount(before.weight, weights=wrong, minlength=len(self._weights))
        self._squares += gradient**2
        self._weights += self._lr * gradient / np.sqrt(self._squares)


class TiltedApart(TiltedLedger):
    """For documents in groups: tilted by the document's own text so far, and by the groups before its own.

    Groups come in the order of the stream, and no document learns from others of its group: which of them ends first
    depends on their lengths, which no grade may know. (Pull request 2135 counts all text before a position.)
    """

    def __init__(
        self,
        ledger: LedgerView,
        starts: IntArray,
        orders: tuple[int, ...],
        pushes: Pushes,
        weights: NDArray[np.float64],
    ) -> None:
        super().__init__(ledger, orders)
        self._pushes, self._weights = pushes, weights
        self._orders = orders
        self._spans = list(document_spans(ledger.positions, starts))
        self._own: dict[int, ContextCounts] = {}
        self._counted = 0  # documents that the shared counts include
        self.turn = self._turn

    def _turn(self, first: int) -> None:
        """Add all documents before position `first` to the shared counts."""
        self._own.clear()
        while self._spans[self._counted][0] < first:
            begin, stop = self._spans[self._counted]
            self.memory.begin()
            for token in self.graded(begin, stop + 1).tolist():
                self.memory.step(token)
            self._counted += 1

    def _rows(self, count: int, rows: Sequence[int] | None) -> Sequence[int]:
        return range(count)[self.world.share(count)] if rows is None else rows

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        own = self._own.setdefault(self._document(window), ContextCounts(self._orders))
        found = ([joined(self.memory.after(key), own.after(key)) for key in own.step(token)] for token in ids)
        return _tilt(logits_SV, self._pushes(gathered(found, len(self._orders))), self._weights)

    def _document(self, window: Window) -> int:
        return bisect_right(self._spans, (window.first, self.positions)) - 1


def _tilt(logits_SV: Tensor, pushed: Pushed, weights: NDArray[np.float64], *, by_chance: bool = False) -> Tensor:
    """Logits plus the pushes; `by_chance`: the weights depend on the class of p(a) too."""
    flat = torch.from_numpy(pushed.position * logits_SV.shape[1] + pushed.token).to(logits_SV.device)
    if by_chance:
        own = logits_SV.flatten()[flat] - logits_SV.logsumexp(-1)[torch.from_numpy(pushed.position).to(flat)]
        pushed.weight = pushed.weight * SIZES + np.searchsorted(_CHANCES, own.cpu().numpy())
    push = torch.from_numpy(weights[pushed.weight]).to(logits_SV)
    return logits_SV.flatten().index_add(0, flat, push).view_as(logits_SV)
