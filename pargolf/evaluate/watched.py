"""A ledger that is watched: who asked it for what, and the whole distribution behind each grade.

`replays` asks with it whether a model that adapts looks ahead. A predictor alone can be shown one window twice
(`lookahead.py`); what adapts changes with all that it was shown, so here its whole scoring is begun afresh: over the
text's beginning as it is, and with tokens near that beginning's end changed. No distribution before them may move.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.events import Progress
from pargolf.evaluate.lookahead import TOLERANCE, LookAhead, Predictor, changed, moved
from pargolf.evaluate.score import Ledger
from pargolf.evaluate.text import Text
from pargolf.evaluate.windows import IntArray, Window, Windows, per_document

Entry = tuple[str, int, int]
_LEAST, _MOST = 400, 100  # a replay covers one part in so many of the text; the more until something was learned
_MARGIN = 4.0  # times the noise of a device that does not repeat itself


class Watched(Ledger):
    """A ledger that writes down every grade and every request for tokens, for somebody else to judge.

    `log` has ("grade", first, end) and ("learn", start, stop). `logs_NV` are the natural logarithms (float64) of the
    distributions at the positions from `since` on.
    """

    def __init__(self, text: Text, *, since: int = 0, **options: Any) -> None:
        super().__init__(text, **options)
        self.log: list[Entry] = []
        self.since = since
        self.logs_NV = torch.full((self.positions - since, self.vocab), torch.nan, dtype=torch.float64)

    @property
    def learned(self) -> bool:
        """Whether anything was graded after something had been learned."""
        kinds = [kind for kind, *_ in self.log]
        return "learn" in kinds and "grade" in kinds[kinds.index("learn") :]

    def grade(self, predictor: Predictor, batch: list[Window], **options: Any) -> None:
        """As the ledger does."""
        super().grade(predictor, batch, **options)
        self.log += [("grade", window.first, window.end) for window in batch]

    def graded(self, start: int, stop: int) -> IntArray:
        """As the ledger does."""
        tokens = super().graded(start, stop)
        self.log.append(("learn", start, stop))
        return tokens

    def _normalize(self, logits_BSV: Tensor, targets_BS: Tensor, batch: list[Window]) -> NDArray[np.float32]:
        nats_BS = super()._normalize(logits_BSV, targets_BS, batch)
        for window, logits_SV in zip(batch, logits_BSV):
            late = max(window.first, self.since)
            if late < window.end:
                logs_SV = logits_SV[late - window.first :].double().log_softmax(-1)
                self.logs_NV[late - self.since : window.end - self.since] = logs_SV.cpu()
        return nats_BS


Begin = Callable[[Text, int], tuple[Watched, Iterator[object]]]
"""Begins a scoring afresh: a text, and from which position on distributions are kept, to its ledger and its steps."""


def replays(
    begin: Begin, text: Text, windows: Windows, *, steady: bool, seed: int = 0
) -> Generator[Progress, None, LookAhead]:
    """Look for a look ahead in the beginning of a text, yielding progress.

    One part in 400 of the text, two windows at least; and up to one in 100, until something was learned. It is gone
    through once as it is, and once each with one token, the last one, and all from one on changed. A device that does
    not repeat itself (`steady` is False) goes through the first twice, and what it does not repeat is forgiven.
    """
    random, size = np.random.default_rng(seed), min(text.positions, max(2 * windows.length, text.positions // _LEAST))
    while True:
        tokens, since = np.array(text.tokens[0 : size + 1], dtype=np.int64), max(0, size - 2 * windows.length)
        if per_document(windows) and text.bos not in tokens[:size]:
            return LookAhead()
        part = replace(text, tokens=tokens, byte_counts=np.ones(size, dtype=np.int64))
        before = yield from _ended(begin(part, since), windows)
        if before.learned or size >= min(text.positions, text.positions // _MOST):
            break
        size = min(2 * size, text.positions)
    free = np.flatnonzero(tokens[:size] != text.bos)
    free = free[free > max(1, size - windows.length)]
    if not len(free) or text.vocab <= 2:
        return LookAhead()
    tolerance = TOLERANCE
    if not steady:
        again = yield from _ended(begin(part, since), windows)
        tolerance = max(tolerance, _MARGIN * float((again.logs_NV - before.logs_NV).abs().max()))
    look, middle = LookAhead(), int(random.integers(len(free)))
    for places in (free[middle : middle + 1], free[-1:], free[middle:]):
        other = changed(tokens, places, vocab=text.vocab, bos=text.bos, random=random)
        after = yield from _ended(begin(replace(part, tokens=other), since), windows)
        look = look.joined(_far(before, after, int(places[0]), tolerance))
    return look


def _ended(begun: tuple[Watched, Iterator[object]], windows: Windows) -> Generator[Progress, None, Watched]:
    ledger, steps = begun
    for _ in steps:
        yield Progress(f"probe {windows}", ledger.frontier, ledger.positions)
    return ledger


def _far(before: Watched, after: Watched, place: int, tolerance: float) -> LookAhead:
    """How far ahead any position before `place` looked, by distributions, and before those were kept by grades."""
    grades = [torch.from_numpy(ledger.nats_N[: min(place - 1, before.since), None]) for ledger in (before, after)]
    early = moved(*grades, start=0, place=place, tolerance=tolerance)
    late = moved(before.logs_NV, after.logs_NV, start=before.since, place=place, tolerance=tolerance)
    return replace(early.joined(late), windows=1)
