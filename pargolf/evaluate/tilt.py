"""N-gram tilt: what the text has repeated so far, as a push on the model's own distribution.

    p'(a) ~ p(a) exp(s(a))          s(a) = sum over contexts k of w[k, count and share of a after it, size of p(a)]

For every k in `orders` the last k tokens are looked up among all that came before; each token a that has followed them
there gets its push, and the ledger normalizes the sum over the whole vocabulary, as it does all logits. So the result
is a distribution fixed by the prefix, which hashed caches of the true token alone were not (pull requests 677, 982:
ruled out; 1514: this form ruled legal).

`HintTilt` is the published form (pull requests 1145, 1514, 2135): one long context, one hinted token a = h where it
followed at least `threshold` of the time, one fixed push `boost`. `CountTilt` is ours: many contexts, and the pushes
are learned as the text goes by. They begin at zero, and after each window, with the tokens that followed,

    w += lr g / sqrt(1 + sum g^2)    g = sum over positions of (1 where a followed, else 0) - p'(a)

which is AdaGrad (Duchi, Hazan, Singer 2011) on the log-likelihood of a log-linear model. Nothing is fixed beforehand
but the buckets: how often a was seen there (1, 2-3, 4-7, ... 32 or more), in which share of the context's visits, and
how probable the model holds it, since what the model knows by itself needs no push.

Everything is read off the ids that a predictor is shown, position by position, window after window; so the windows have
to follow each other as they do in one pass over the stream. Where documents take turns (`LowRank`), a hint is from the
document's own text so far and from those before it. The tables are dictionaries of this process: a few hundred bytes
and a few microseconds for each token and context, so this is for validation texts of some millions of tokens.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.ranges import Positive, Size, Within
from pargolf.evaluate.adapt import Adapter, Book, Unadapted, Work
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.windows import IntArray, Window, Windows, document_spans

_COUNTS, _SHARES = 6, (0.04, 0.15, 0.4, 0.8)
_CHANCES = (-8.0, -5.0, -3.0, -1.5)  # between sizes of p(a), in nats
_SEEN = _COUNTS * (len(_SHARES) + 1)
_SIZES = len(_CHANCES) + 1
_MANY = 64  # continuations of a context up to which all are looked at, above only those of some weight
_TOTAL = -1  # where a context keeps how often it was seen; no token has this id
_Push = tuple[int, int]  # a token, and the number of the weight that pushes it
_Followed = dict[int, int]  # how often each token followed a context, and how often any did


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
        _check(self.contexts)

    @property
    def by_document(self) -> bool:
        """As the adapter does it."""
        return self.adapter is not None and self.adapter.by_document

    def run(
        self,
        model: nn.Module,
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
        """Grade everything tilted, while the adapter does its part."""
        adapter, weights = self.adapter or Unadapted(), np.array([self.boost])
        book: _Tilted
        if self.by_document:
            book = _TiltedApart(ledger, starts, self.contexts, self._hint, weights)
        else:
            book = _TiltedAlong(ledger, windows, self.contexts, self._hint, weights, lr=0.0)
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)

    def _hint(self, found: list[_Followed | None]) -> list[_Push]:
        for after in filter(None, reversed(found)):
            count, token = max((count, -token) for token, count in after.items() if token != _TOTAL)
            if count >= self.threshold * after[_TOTAL]:
                return [(-token, 0)]
        return []


@dataclass(frozen=True)
class CountTilt:
    """Push every token that followed one of the contexts of `orders` tokens, by weights learned as it goes.

    `lr` is AdaGrad's. `adapter` is what else learns meanwhile, from the model's own distribution.
    """

    orders: Annotated[tuple[Size, ...], Within(1, 64)] = (1, 2, 3, 4, 5, 6, 8)
    lr: Positive = 0.2
    adapter: Adapter | None = None
    by_document: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.orders)
        if self.adapter is not None and self.adapter.by_document:
            raise UserError("counts learn along one text, and documents that take turns are many: tilt by chunks")

    def run(
        self,
        model: nn.Module,
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
        """Grade everything tilted, while the adapter does its part."""
        weights = np.zeros(len(self.orders) * _SEEN * _SIZES)
        book = _TiltedAlong(ledger, windows, self.orders, _followers, weights, lr=self.lr)
        adapter = self.adapter or Unadapted()
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)


_Pushes = Callable[[list[_Followed | None]], list[_Push]]


class _Tilted:
    """A book whose predictors are tilted: what an adapter writes its grades in, in place of the ledger.

    `pushes` turns what followed each context (None: it was never seen) into tokens and the numbers of their weights.
    """

    def __init__(self, ledger: Book, orders: tuple[int, ...], pushes: _Pushes, weights: NDArray[np.float64]) -> None:
        self.positions = ledger.positions
        self.graded = ledger.graded
        self.world = ledger.world
        self._ledger = ledger
        self._memory = _Memory(orders)
        self._pushes = pushes
        self._weights = weights

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        mine: Sequence[int] | None = None,
    ) -> None:
        """Show the predictor a batch of windows and write down the grades that it gets tilted."""
        rows = self._rows(len(batch), mine)

        def tilted(ids_BT: Tensor, *, first: int) -> Tensor:
            logits_BSV = predictor(ids_BT, first=first)
            if logits_BSV.ndim != 3 or len(logits_BSV) != len(ids_BT):
                return logits_BSV  # the ledger says what is wrong with them
            shown = zip(rows, ids_BT[:, first:].tolist(), logits_BSV.float(), strict=True)
            return torch.stack([self._tilt(batch[row], ids, logits_SV) for row, ids, logits_SV in shown])

        self._ledger.grade(tilted, batch, device=device, mine=rows)

    def _rows(self, count: int, mine: Sequence[int] | None) -> Sequence[int]:
        """Which of `count` windows this process tilts."""
        raise NotImplementedError

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """One window's tilted logits; `ids` are the inputs of the positions that it grades."""
        raise NotImplementedError


class _TiltedAlong(_Tilted):
    """Along one stream: each window continues the one before, and with `lr` its weights learn from that."""

    def __init__(
        self,
        ledger: Book,
        windows: Windows,
        orders: tuple[int, ...],
        pushes: _Pushes,
        weights: NDArray[np.float64],
        *,
        lr: float,
    ) -> None:
        if not windows.in_turn:
            raise UserError(f"a tilt learns from each token once, and {windows} grades some several times")
        super().__init__(ledger, orders, pushes, weights)
        self._lr = lr
        self._squares = np.ones(len(weights))
        self._expected: _Pushed | None = None

    def _rows(self, count: int, mine: Sequence[int] | None) -> Sequence[int]:
        """The tables need every token in its turn, so of several processes the first one grades alone."""
        return range(count) if self.world.main else ()

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """The first of `ids` was the last window's last target."""
        self._learn(ids)
        memory = self._memory
        found = [self._pushes([memory.after(key) for key in memory.step(token)]) for token in ids]
        tilted_SV, pushed = _tilt(logits_SV, ids, found, self._weights, by_chance=self._lr > 0)
        if self._lr:
            row = torch.from_numpy(pushed.position).to(logits_SV.device)
            flat = row * logits_SV.shape[1] + torch.from_numpy(pushed.token).to(row)
            pushed.chance = (tilted_SV.flatten()[flat] - tilted_SV.logsumexp(-1)[row]).exp().double().cpu().numpy()
            self._expected = pushed
        return tilted_SV

    def _learn(self, ids: list[int]) -> None:
        """One step on the window before, whose targets are its inputs moved on by one and the first of `ids`."""
        if self._expected is None:
            return
        before = self._expected
        targets = np.array([*before.ids[1:], ids[0]])
        wrong = (before.token == targets[before.position]) - before.chance
        gradient = np.bincount(before.weight, weights=wrong, minlength=len(self._weights))
        self._squares += gradient**2
        self._weights += self._lr * gradient / np.sqrt(self._squares)


class _TiltedApart(_Tilted):
    """For documents that take turns: tilted by a document's own text so far, and by documents before it.

    Of those it counts the ones that have no unfinished document before them: so whichever turns they take, no grade
    depends on text that stands after it in the stream. (Pull request 2135 counts all text before a position.)
    """

    def __init__(
        self,
        ledger: Book,
        starts: IntArray,
        orders: tuple[int, ...],
        pushes: _Pushes,
        weights: NDArray[np.float64],
    ) -> None:
        super().__init__(ledger, orders, pushes, weights)
        self._orders = orders
        self._spans = list(document_spans(ledger.positions, starts))
        self._own: dict[int, _Memory] = {}
        self._finished: set[int] = set()
        self._counted = 0  # documents that the shared memory knows

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        mine: Sequence[int] | None = None,
    ) -> None:
        """As every tilted book; then the documents that end here, and have none unfinished before them, are counted."""
        super().grade(predictor, batch, device=device, mine=mine)
        ends = ((window.end, self._document(window)) for window in batch)
        self._finished |= {document for end, document in ends if end == self._spans[document][1]}
        while self._counted in self._finished:
            self._count(self._counted)
            self._counted += 1

    def _rows(self, count: int, mine: Sequence[int] | None) -> Sequence[int]:
        return range(count)[self.world.share(count)] if mine is None else mine

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        own = self._own.setdefault(self._document(window), _Memory(self._orders))
        found = []
        for token in ids:
            keys = own.step(token)
            found.append(self._pushes([_together(self._memory.after(key), own.after(key)) for key in keys]))
        return _tilt(logits_SV, ids, found, self._weights)[0]

    def _document(self, window: Window) -> int:
        return bisect_right(self._spans, (window.first, self.positions)) - 1

    def _count(self, document: int) -> None:
        """Let the documents after this one know it."""
        begin, stop = self._spans[document]
        self._memory.begin()
        for token in self.graded(begin, stop + 1).tolist():
            self._memory.step(token)
        self._own.pop(document, None)
        self._finished.remove(document)


@dataclass
class _Pushed:
    """What was pushed in one window, an entry per push, and the probability that each token then had."""

    ids: list[int]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    weight: NDArray[np.int64]
    chance: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))


class _Memory:
    """Which tokens followed which contexts, of a stream that is told token by token."""

    def __init__(self, orders: tuple[int, ...]) -> None:
        self._widths = [4 * order for order in orders]
        self._text = bytearray()  # the last tokens, four bytes each, so that a slice of it is a context's key
        self._after: dict[bytes, _Followed | int] = {}

    def begin(self) -> None:
        """Forget the last tokens, so that no context reaches from one document into the next."""
        self._text.clear()

    def step(self, token: int) -> list[bytes | None]:
        """Count the token after each context that it follows; returns the contexts that it ends, None: too long yet."""
        text, widths = self._text, self._widths
        for width in widths:
            if len(text) >= width:
                self._count(bytes(text[-width:]), token)
        text += token.to_bytes(4, "little")
        del text[: -widths[-1]]
        return [bytes(text[-width:]) if len(text) >= width else None for width in widths]

    def after(self, context: bytes | None) -> _Followed | None:
        """What followed a context, how often, and under `_TOTAL` how often anything did; None where nothing did."""
        held = None if context is None else self._after.get(context)
        return {held: 1, _TOTAL: 1} if isinstance(held, int) else held

    def _count(self, context: bytes, token: int) -> None:
        held = self._after.get(context)
        if held is None:
            self._after[context] = token  # most contexts are seen once, and a number is a tenth of a dictionary
            return
        if isinstance(held, int):
            held = self._after[context] = {held: 1, _TOTAL: 1}
        held[token] = held.get(token, 0) + 1
        held[_TOTAL] += 1


def _together(a: _Followed | None, b: _Followed | None) -> _Followed | None:
    """What followed a context in either of two texts."""
    if a is None or b is None:
        return a or b
    return {token: a.get(token, 0) + b.get(token, 0) for token in {**a, **b}}


def _tilt(
    logits_SV: Tensor,
    ids: list[int],
    found: list[list[_Push]],
    weights: NDArray[np.float64],
    *,
    by_chance: bool = False,
) -> tuple[Tensor, _Pushed]:
    """Logits with the pushes of each position added, and what was pushed; `by_chance`: weights by size of p(a)."""
    at = np.array([(s, *push) for s, pushes in enumerate(found) for push in pushes], dtype=np.int64).reshape(-1, 3)
    pushed = _Pushed(ids, at[:, 0], at[:, 1], at[:, 2])
    flat = torch.from_numpy(at[:, 0] * logits_SV.shape[1] + at[:, 1]).to(logits_SV.device)
    if by_chance:
        own = logits_SV.flatten()[flat] - logits_SV.logsumexp(-1)[torch.from_numpy(at[:, 0]).to(flat)]
        pushed.weight = pushed.weight * _SIZES + np.searchsorted(_CHANCES, own.cpu().numpy())
    push = torch.from_numpy(weights[pushed.weight]).to(logits_SV)
    return logits_SV.flatten().index_add(0, flat, push).view_as(logits_SV), pushed


def _followers(found: list[_Followed | None]) -> list[_Push]:
    """Every token that followed a context, pushed by the weight of context, count and share."""
    pushes = []
    for number, after in enumerate(found):
        if after is None:
            continue
        total = after[_TOTAL]
        least = total // (4 * _MANY) if len(after) > _MANY else 0
        for token, count in after.items():
            if count > least and token != _TOTAL:
                pushes.append((token, number * _SEEN + _bucket(count, total)))
    return pushes


def _bucket(count: int, total: int) -> int:
    share = bisect_right(_SHARES, count / total)
    return min(count.bit_length(), _COUNTS) - 1 + _COUNTS * share


def _check(orders: tuple[int, ...]) -> None:
    if not orders or any(a >= b for a, b in pairwise((0, *orders))):
        raise UserError(f"contexts of {orders} tokens should be rising lengths, for example (1, 2, 4)")
