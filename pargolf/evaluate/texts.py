"""Score many separate texts at once: the cost in nats of each token of each text.

    score_texts(model, [[bos, 17, 4], [bos, 9]], length=256)  ->  the nats of 17, 4 and of 9

The first token of a text is given (usually BOS). Every other token is graded once, through the ledger, from the tokens
before it in its own text. Texts of equal length share a batch, so a thousand short questions cost little more than one
long text of their total length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.score import Ledger, batches, suits
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Sliding, Window


class _Ranking(Ledger):
    """A ledger that also records the most likely token at each position."""

    def __init__(self, text: Text, *, documents: IntArray) -> None:
        super().__init__(text, documents=documents)
        self.likeliest_N = np.zeros(self.positions, dtype=np.int64)

    def _normalize(self, logits_BSV: Tensor, targets_BS: Tensor, batch: list[Window]) -> NDArray[np.float32]:
        nats_BS = super()._normalize(logits_BSV, targets_BS, batch)
        for window, likeliest_S in zip(batch, logits_BSV.argmax(-1).cpu().numpy()):
            self.likeliest_N[window.first : window.end] = likeliest_S
        return nats_BS


@dataclass(frozen=True, eq=False)
class TextGrades:
    """For each graded token of a text: its cost in nats (N,) float32, and whether it was the most likely (N,) bool."""

    nats: NDArray[np.float32]
    likeliest: NDArray[np.bool_]


def score_texts(
    predictor: Predictor,
    texts: Sequence[Sequence[int]],
    *,
    vocab: int,
    length: int,
    stride: int | None = None,
    device: torch.device | str = "cpu",
) -> list[TextGrades]:
    """Grade each token after the first of each text.

    Windows hold `length` tokens and move on by `stride` (None: a quarter of the length). Raises `UserError` for a text
    of fewer than two tokens and for ids outside the vocabulary.
    """
    if not texts:
        return []
    if min(map(len, texts)) < 2:
        raise UserError("Scoring needs a text of at least two tokens, the first of which is given (BOS).")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    starts = np.cumsum([0, *(len(texts[i]) for i in order)])
    stream = np.array([token for i in order for token in texts[i]], dtype=np.int64)
    text = Text(stream, np.ones(len(stream) - 1, dtype=np.int64), vocab, bos=-1)
    ledger = _Ranking(text, documents=starts[:-1])
    windows = Sliding(length, stride or max(1, length // 4))
    # The last token of a text predicts the first token of the next text, which is not graded.
    spans = [(int(begin), int(stop) - 1) for begin, stop in pairwise(starts)]
    cut = (_moved(window, begin) for begin, stop in spans for window in windows.over(stop - begin))
    for batch in batches(cut, suits(windows, device)):
        ledger.grade(predictor, batch, device=device)
    graded: dict[int, TextGrades] = {}
    for i, (begin, stop) in zip(order, spans):
        likeliest = ledger.likeliest_N[begin:stop] == stream[begin + 1 : stop + 1]
        graded[i] = TextGrades(ledger.nats_N[begin:stop].copy(), likeliest)
    return [graded[i] for i in range(len(texts))]


def _moved(window: Window, by: int) -> Window:
    return Window(window.start + by, window.end + by, window.first + by)
