"""A ledger with a log of all requests and the full distribution of each grade; and the causality test for adapters.

A plain predictor can be shown the same window twice (`lookahead.py`). An adapter changes with everything it has seen,
so `replays` runs its whole scoring again: over the beginning of the text as it is, and with tokens near the end of that
part changed. No distribution before the changed tokens may differ.
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
_LEAST, _MOST = 400, 100  # a replay covers 1/400 of the text, or up to 1/100 until something was learned
_MARGIN = 4.0  # tolerance in units of the noise of a device that does not repeat itself


class Watched(Ledger):
    """A ledger that records every grade and every request for tokens.

    `log` has entries ("grade", first, end) and ("learn", start, stop). `logs_NV` are the log-probabilities (float64) at
    the positions from `since` on.
    """

    def __init__(self, text: Text, *, since: int = 0, **options: Any) -> None:
        super().__init__(text, **options)
        self.log: list[Entry] = []
        self.since = since
        self.logs_NV = torch.full((self.positions - since, self.vocab), torch.nan, dtype=torch.float64)

    @property
    def learned(self) -> bool:
        """Whether anything was graded after something was learned."""
        kinds = [kind for kind, *_ in self.log]
        return "learn" in kinds and "grade" in kinds[kinds.index("learn") :]

    def grade(self, predictor: Predictor, batch: list[Window], **options: Any) -> None:
        """As in `Ledger`, with an entry in the log."""
        super().grade(predictor, batch, **options)
        self.log += [("grade", window.first, window.end) for window in batch]

    def graded(self, start: int, stop: int) -> IntArray:
        """As in `Ledger`, with an entry in the log."""
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
"""Starts a new scoring: (text, position from which distributions are kept) -> (ledger, steps)."""


def replays(
    begin: Begin, text: Text, windows: Windows, *, steady: bool, seed: int = 0
) -> Generator[Progress, None, LookAhead]:
    """Test the beginning of a text for looks ahead, yielding progress.

    The part is 1/400 of the text, at least two windows, and up to 1/100 until something was learned. It is scored once
    as it is, and once each with one token, with the last token, and with all tokens from one on changed. On a device
    that does not repeat itself (`steady` is False) the unchanged part is scored twice, and the tolerance is raised to
    a multiple of the difference.
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
        altered = changed(tokens, places, vocab=text.vocab, bos=text.bos, random=random)
        after = yield from _ended(begin(replace(part, tokens=altered), since), windows)
        look = look.joined(_far(before, after, int(places[0]), tolerance))
    return look


def _ended(begun: tuple[Watched, Iterator[object]], windows: Windows) -> Generator[Progress, None, Watched]:
    ledger, steps = begun
    for _ in steps:
        yield Progress(f"probe {windows}", ledger.frontier, ledger.positions)
    return ledger


def _far(before: Watched, after: Watched, place: int, tolerance: float) -> LookAhead:
    """How far ahead any position before `place` looked, by distributions, or by grades where those were not kept."""
    grades = [torch.from_numpy(ledger.nats_N[: min(place - 1, before.since), None]) for ledger in (before, after)]
    early = moved(*grades, start=0, place=place, tolerance=tolerance)
    late = moved(before.logs_NV, after.logs_NV, start=before.since, place=place, tolerance=tolerance)
    return replace(early.joined(late), windows=1)
