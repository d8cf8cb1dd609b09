"""The arithmetic of a score: show windows to a model, normalize its logits, sum nats and bytes.

    nats_i = -log softmax(logits_i)[tokens[i+1]]        position i sees tokens[..i] and predicts tokens[i+1]

Nats are computed in float32 over the whole vocabulary and summed in float64 window by window, so the sum does not
depend on the batching of windows. `Grades` accepts any windows; the ledger (`score.py`) extends it and refuses a
position that is out of order or graded twice. A submission's script uses `Grades` alone, because its run has passed the
ledger.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from pargolf.core.errors import UserError
from pargolf.core.world import World
from pargolf.evaluate.bpb import bits_per_byte, nats_per_token
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Window

_BLOCK = 1 << 22  # logits that are normalized at once: 16 MiB in float32, small enough for the caches


class LogitsError(UserError):
    """The predictor's logits give no distribution over this vocabulary: not finite, or of another shape."""


class Grades:
    """Sums over the graded positions of a text: `tokens`, their `bytes` and their `nats`."""

    turn: Callable[[int], None] | None = None

    def __init__(self, text: Text) -> None:
        self.text = text
        self.positions = text.positions
        self.world = World()
        self.tokens = 0
        self.bytes = 0
        self.nats = 0.0

    @property
    def loss(self) -> float:
        """Nats per graded token."""
        return nats_per_token(self.nats, self.tokens)

    @property
    def bpb(self) -> float:
        """Bits per graded byte."""
        return bits_per_byte(self.nats, self.bytes)

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        rows: Sequence[int] | None = None,
    ) -> None:
        """Show the predictor a batch of windows of one shape and add its grades.

        `rows` are those of this process; here it is alone and takes all of them.
        """
        for window, nats_S in zip(batch, self._nats(predictor, batch, device)):
            self._add(window, nats_S)

    def graded(self, start: int, stop: int) -> IntArray:
        """A copy of tokens[start:stop]."""
        return np.array(self.text.tokens[start:stop])

    def _add(self, window: Window, nats_S: NDArray[np.float32]) -> None:
        self.nats += float(nats_S.sum(dtype=np.float64))
        self.bytes += int(self.text.byte_counts[window.first : window.end].sum(dtype=np.int64))
        self.tokens += window.end - window.first

    def train(self, rows: int, gradients: Callable[[int], None], device: torch.device | str) -> None:
        """Call `gradients` with the number of rows to take at once: all `rows`."""
        gradients(rows)

    def _nats(self, predictor: Predictor, batch: list[Window], device: torch.device | str) -> NDArray[np.float32]:
        """Nats of each graded position, (windows, positions). Raises `LogitsError`."""
        ids_BT = self._gather([(w.start, w.end) for w in batch]).to(device)
        targets_BS = self._gather([(w.first + 1, w.end + 1) for w in batch])
        # no_grad, not inference_mode: tensors that a model caches here (rotary tables, for example) would become
        # inference tensors, and a later backward of an adapter fails on those.
        with torch.no_grad():
            return self._normalize(predictor(ids_BT, first=batch[0].first - batch[0].start), targets_BS, batch)

    def _gather(self, spans: list[tuple[int, int]]) -> Tensor:
        return torch.from_numpy(np.stack([self.text.tokens[a:b] for a, b in spans]).astype(np.int64))

    def _normalize(self, logits_BSV: Tensor, targets_BS: Tensor, batch: list[Window]) -> NDArray[np.float32]:
        expected = (*targets_BS.shape, self.text.vocab)
        if tuple(logits_BSV.shape) != expected or not logits_BSV.is_floating_point():
            raise LogitsError(
                f"the predictor returned {logits_BSV.dtype} of shape {tuple(logits_BSV.shape)}, expected "
                f"floating-point logits of shape {expected}: check that model and tokenizer belong together"
            )
        step = max(1, _BLOCK // logits_BSV[0].numel())
        parts = []
        for row in range(0, len(batch), step):
            block_BSV = logits_BSV[row : row + step]
            wide_BSV = block_BSV if block_BSV.dtype == torch.float64 else block_BSV.float()
            targets = targets_BS[row : row + step].flatten().to(wide_BSV.device)
            nats = cross_entropy(wide_BSV.flatten(0, 1), targets, reduction="none")
            # Minimum and maximum are NaN or infinite if any logit is; unlike isfinite() they need no large mask.
            if not torch.stack([*wide_BSV.aminmax(), nats.max()]).isfinite().all():
                raise LogitsError(
                    f"the predictor's logits are not finite within positions {batch[row].first} to "
                    f"{batch[row + len(block_BSV) - 1].end}; graded so far: {self.tokens} positions"
                )
            parts.append(nats.float().cpu().numpy())
        return np.concatenate(parts).reshape(targets_BS.shape)
