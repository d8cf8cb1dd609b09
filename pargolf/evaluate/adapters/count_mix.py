"""N-gram mixing: the model's distribution, mixed with n-gram counts of the text so far, shortest contexts first.

    p_0 = the model's;    p_k = (1 - g_k) p_{k-1} + g_k c_k(a) / C_k        k: the contexts, from the shortest up

c_k(a) of the C_k tokens that followed the last k tokens earlier were a. A gate is the sigmoid of a weight that belongs
to the context's length, to how often it was seen and to how many different tokens followed it, as in the escapes of PPM
(Cleary, Witten 1984). The weights learn after each window, by AdaGrad on the log of what the stack gave the tokens that
came. A tilt (`count_tilt`) multiplies and so needs a model that holds a token possible; a mixture does not: a name that
the model never saw is likely the second time. So the stack stands on the tilt.

Each p_k sums to 1 where p_{k-1} does, whatever comes next; the ledger normalizes anyway.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pargolf.core.errors import UserError
from pargolf.core.ranges import Positive, Size, Within
from pargolf.evaluate.adapters.adapter import Adapter, LedgerView, StepKind, Unadapted
from pargolf.evaluate.adapters.context_counts import Seen, check_orders
from pargolf.evaluate.adapters.tilt import AlongLedger
from pargolf.evaluate.windows import IntArray, Window, Windows

_SIZES, _SPREADS = 8, 5  # classes of how often a context was seen, and of how many different tokens followed


@dataclass(frozen=True)
class CountMix:
    """Mix in what followed the contexts of `orders` tokens, by gates that begin at the sigmoid of `start`.

    `lr` is AdaGrad's. `adapter` is what else learns meanwhile, from the distribution without these.
    """

    orders: Annotated[tuple[Size, ...], Within(1, 64)] = (1, 2, 3, 4, 5, 6, 8)
    lr: Positive = 0.3
    start: float = -4.0
    adapter: Adapter | None = None
    by_document: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_orders(self.orders)
        if self.adapter is not None and self.adapter.by_document:
            raise UserError("counts learn along one text, not along documents in turns: use an adapter by chunks")

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
        """Grade everything mixed, while the adapter does its part."""
        book = _MixedLedger(ledger, windows, self)
        adapter = self.adapter or Unadapted()
        return adapter.run(model, book, windows, starts=starts, batch_windows=batch_windows, device=device)


@dataclass
class _Stack:
    """What a window was mixed with, of S positions and K contexts.

    `number_SK` is each gate's weight (-1: that context was never seen) and `gate_SK` its value; `over_SK` is the share
    that the contexts above leave. An entry for each follower: the `cell` s * K + k, the `token` and its `share`.
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
    """Mixes along one stream, and learns the gates' weights from what followed."""

    def __init__(self, ledger: LedgerView, windows: Windows, spec: CountMix) -> None:
        super().__init__(ledger, windows, spec.orders)
        self._lr, self._many = spec.lr, len(spec.orders)
        self._weights = np.full(self._many * _SIZES * _SPREADS, spec.start)
        self._squares = np.ones(len(self._weights))
        self._before: _Stack | None = None

    def _tilt(self, window: Window, ids: list[int], logits_SV: Tensor) -> Tensor:
        """The first of `ids` was the last window's last target."""
        if self._before is not None:
            self._learn(self._before, np.array([*self._before.ids[1:], ids[0]]))
        seen = self.memory.over(window.first, ids)
        self._before = stack = self._stack(ids, seen, logits_SV.float().log_softmax(-1))
        size = logits_SV.shape[1]
        position = stack.cell // self._many
        spots, of_N = np.unique(position * size + stack.token, return_inverse=True)
        added = np.bincount(of_N, weights=stack.share * (stack.gate_SK * stack.over_SK).flatten()[stack.cell])
        own_S = stack.over_SK[:, 0] * (1 - stack.gate_SK[:, 0])  # the share that is left to the model
        # Divided by the model's share, so that only tokens with counts are touched; the ledger makes up for it.
        flat, at = stack.logs_SV.flatten().clone(), torch.from_numpy(spots).to(logits_SV.device)
        flat[at] = (flat[at].exp() + torch.from_numpy(added / own_S[spots // size]).to(flat)).log()
        return flat.view_as(logits_SV)

    def _stack(self, ids: list[int], seen: Seen, logs_SV: Tensor) -> _Stack:
        """Gates and shares of what had followed each position's contexts."""
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
        """One step of the gates towards those that would have given the targets more."""
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
