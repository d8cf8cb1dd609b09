"""What each token of a text costs the model, without adaptation and with it, score first.

Every `STEP` new tokens are scored before the model learns from them, with the artifact's own adapter if its recipe has
one, else with `_ADAPTER`. Both scorings use the same windows, so the difference is the gain by adaptation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pargolf.core.events import Progress
from pargolf.data.byte_table import count_bytes
from pargolf.evaluate.adapted import Adapted, score_adapted
from pargolf.evaluate.adapters.adamw import AdamW
from pargolf.evaluate.adapters.count_tilt import CountTilt
from pargolf.evaluate.probes import shortened
from pargolf.evaluate.score import Score, score
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Window
from pargolf.exporting.source import Source
from pargolf.serving.completions import shown

STEP = 8
_ADAPTER = CountTilt(
    adapter=AdamW(lr=0.001, betas=(0.0, 0.999), anchor=0.02, globs=("*",), chunk=STEP, batch=1, cosine=False)
)


@dataclass(frozen=True)
class Growing:
    """Windows that begin at the text's first token and grow by `stride` up to `length`, then slide."""

    length: int
    stride: int
    in_turn: ClassVar[bool] = True

    def over(self, positions: int, *, starts: Sequence[int] | IntArray = ()) -> Iterator[Window]:
        """Yield ceil(positions / stride) windows."""
        for first in range(0, positions, self.stride):
            end = min(first + self.stride, positions)
            yield Window(max(0, end - self.length), end, first)


def read(source: Source, ids: list[int], *, adapt: bool) -> Iterator[dict[str, Any]]:
    """Yield progress, and at last the result: pieces, bits and bytes per token, and with `adapt` the `adapted` bits."""
    tokens = np.array(ids, dtype=np.int64)
    vocab, words = source.model.spec.vocab, source.tokenizer
    counts = count_bytes(words.byte_table(vocab), tokens[:-1], tokens[1:])
    text = Text(tokens, counts, vocab, words.bos)
    windows = Growing(source.length, min(STEP, source.length))
    plain: Score | None = None
    for event in score(source.model, text, windows, batch_windows=1, probe=False):
        if isinstance(event, Score):
            plain = event
        yield {}
    assert plain is not None
    row: dict[str, Any] = {
        "pieces": [shown(words, int(token)) for token in tokens[1:]],
        "bytes": counts.tolist(),
        "bits": _bits(plain),
    }
    yield row
    if not adapt:
        return
    chosen = shortened(source.adapt or _ADAPTER, chunk=windows.stride, batch=1)
    for step in score_adapted(source.model, text, windows, chosen, batch_windows=1, without=plain, probe=False):
        if isinstance(step, Progress):
            yield {}
        else:
            assert isinstance(step, Adapted)
            yield {"adapted": _bits(step.score), "verdict": step.verdict}


def _bits(scored: Score) -> list[float]:
    return [round(float(nats) / float(np.log(2)), 4) for nats in scored.nats_N]
