"""N-gram mixing: mix the distributions of n-gram counts into the model's distribution, shortest context first.

    p_0 = the model's;    p_k = (1 - g_k) p_{k-1} + g_k c_k(a) / C_k        k: the contexts, from the shortest up

Of the C_k tokens that followed the last k tokens earlier in the text, c_k(a) were a. A gate g_k is the sigmoid of a
weight that depends on the length of the context, how often it was seen, and how many different tokens followed it, as
in the escapes of PPM (Cleary, Witten 1984). After each window the weights are updated by AdaGrad on the log-likelihood
of its tokens. A tilt (`count_tilt`) multiplies, so it needs a model that gives a token some probability; a mixture does
not: a name that the model has never seen becomes likely the second time. So mixing can be applied on top of a tilt.

Each p_k sums to 1 if p_{k-1} does, independent of the next token; the ledger normalizes anyway.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pargolf.core.ranges import Positive, Size, Within
from pargolf.evaluate.adapters.adapter import Adapter, LedgerView, StepKind, Unadapted
from pargolf.evaluate.adapters.context_counts import Seen, check_orders
from pargolf.evaluate.adapters.tilt import AlongLedger
from pargolf.evaluate.windows import IntArray, Window, Windows

_SIZES, _SPREADS = 8, 5  # classes of how often a context was seen, and of how many different tokens followed


@dataclass(frozen=True)
class CountMix:
    """Mix in the counts of contexts of `orders` tokens, with gates that start at the sigmoid of `start`.

    `lr` is AdaGrad's. `adapter` is another adapter that learns at the same time, from the distribution without the
    counts.
    """

    orders: Annotated[tuple[Size, ...], Within(1, 64)] = (1, 2, 3, 4, 5, 6, 8)
    lr: Positive = 0.3
    start: float = -4.0
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
        """Grade everything with the mixture, while the adapter learns."""
        book = _MixedLedger(ledger, windows, self)
        adapter = self.adapter or Unadapted()
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)


@dataclass
class _Stack:
    """The mixture of one window with S positions and K contexts.

    `number_SK` is the number of each gate's weight (-1: a context never seen), `gate_SK` the gate's value, and
    `over_SK` the share that the longer contexts leave. For each follower there is an entry: the `cell` s * K + k, the
    `token` and its `share`.
    """

    ids: list[int]
    number_SK: NDArray[np.int64]
    gate_SK: NDArray[np.float64]
    over_SK: NDArray[np.float64]
    cell: NDArray[np.int64]
    token: NDArray[np.int64]
    share: NDArray[np.float64]
    logs_SV: Tensor


class _MixedLedger(AlongLedger):
    """A ledger that mixes along one stream, and learns the gates' weights from the tokens that follow."""

    def __init__(self, ledger: LedgerView, windows: Windows, spec: CountMix) -> None:
        super().__init__(ledger, windows, spec.orders)
        self._lr, self._many = spec.lr, len(spec.orders)
        self._weights = np.full(self._many * _SIZES * _SPREADS, spec.start)
        self._squares = np.ones(len(self._weights))
        self._before: _Stack | None = None

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """Learn from the previous window (the first of `ids` was its last target), then mix this one."""
        if self._before is not None:
            self._learn(self._before, np.array([*self._before.ids[1:], ids[0]]))
        seen = self.memory.over(window.first, ids)
        self._before = stack = self._stack(ids, seen, logits_SV.float().log_softmax(-1))
        size = logits_SV.shape[1]
        position = stack.cell // self._many
        spots, of_N = np.unique(position * size + stack.token, return_inverse=True)
        added = np.bincount(of_N, weights=stack.share * (stack.gate_SK * stack.over_SK).flatten()[stack.cell])
        own_S = stack.over_SK[:, 0] * (1 - stack.gate_SK[:, 0])  # the model's share
        # Divided by the model's share, so that only tokens with counts are touched; the ledger makes up for it.
        flat, at = stack.logs_SV.flatten().clone(), torch.from_numpy(spots).to(logits_SV.device)
        flat[at] = (flat[at].exp() + torch.from_numpy(added / own_S[spots // size]).to(flat)).log()
        return flat.view_as(logits_SV)

    def _stack(self, ids: list[int], seen: Seen, logs_SV: Tensor) -> _Stack:
        """The gates and shares for the counts of each position's contexts."""
        size_C = np.minimum(np.frexp(seen.total_C)[1], _SIZES) - 1
        spread_C = np.minimum(_SPREADS * seen.kinds_C // (seen.total_C + 1), _SPREADS - 1)
        number_SK = np.full((len(ids), self._many), -1)
        number_SK.flat[seen.cell_C] = (seen.cell_C % self._many * _SIZES + size_C) * _SPREADS + spread_C
        gate_SK = np.where(number_SK < 0, 0.0, 1 / (1 + np.exp(-self._weights[number_SK])))
        left_SK = np.cumprod(1 - gate_SK[:, ::-1], 1)[:, ::-1]
        over_SK = np.concatenate([left_SK[:, 1:], np.ones((len(ids), 1))], 1)
        share_N = seen.count_N / seen.total_C[seen.of_N]
        return _Stack(ids, number_SK, gate_SK, over_SK, seen.cell_C[seen.of_N], seen.token_N, share_N, logs_SV)

    def _learn(self, stack: _Stack, target_S: IntArray) -> None:
        """One AdaGrad step of the gates' weights, which raises the log-probability of the targets."""
        hit = stack.token == target_S[stack.cell // self._many]
        shape = stack.gate_SK.shape
        share_SK = np.bincount(stack.cell[hit], stack.share[hit], minlength=stack.gate_SK.size).reshape(shape)
        row = torch.arange(len(target_S)).to(stack.logs_SV.device)
        p_S = stack.logs_SV[row, torch.from_numpy(target_S).to(row)].double().exp().cpu().numpy()
        slope_SK = np.zeros(shape)
        for k in range(self._many):
            slope_SK[:, k] = share_SK[:, k] - p_S
            p_S = p_S + stack.gate_SK[:, k] * slope_SK[:, k]
        slope_SK *= stack.over_SK * stack.gate_SK * (1 - stack.gate_SK) / p_S[:, None]
        seen = stack.number_SK >= 0
        gradient = np.bincount(stack.number_SK[seen], slope_SK[seen], minlength=len(self._weights))
        self._squares += gradient**2
        self._weights += self._lr * gradient / np.sqrt(self._squares)
