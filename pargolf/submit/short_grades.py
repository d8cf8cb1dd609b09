"""Scoring of the shipped form: the arithmetic of `evaluate/score.py` without its books.

What the ledger proves (each position once, in order, from a full distribution) it has proved of the run; here the same
batches meet the same model, and the same sums are taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pargolf.core.world import World
from pargolf.evaluate.bpb import bits_per_byte, nats_per_token
from pargolf.evaluate.score import _BLOCK, batches, suits
from pargolf.evaluate.windows import Window, document_starts
from pargolf.submit.script import read_recipe
from pargolf.submit.short_data import ShortData


@dataclass
class Grades:
    """The sums over what is graded; in the place of a `Ledger`, that trusts who asks."""

    tokens: npt.NDArray[np.uint16]
    byte_counts: npt.NDArray[np.int64]
    count: int = 0
    bytes: int = 0
    nats: float = 0.0
    world: World = World()

    @property
    def positions(self) -> int:
        """Positions to grade."""
        return len(self.tokens) - 1

    def grade(self, predictor: Any, batch: list[Window], *, device: Any, mine: Any = None) -> None:
        """Show a batch of windows of one shape, all of which are `mine`, and add up."""
        targets_BS = self._gather([(w.first + 1, w.end + 1) for w in batch]).to(device)
        with torch.no_grad():
            logits_BSV = predictor(
                self._gather([(w.start, w.end) for w in batch]).to(device), first=batch[0].first - batch[0].start
            )
        rows = max(1, _BLOCK // logits_BSV[0].numel())
        parts = [
            cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").cpu().numpy()
            for logits, targets in zip(torch.split(logits_BSV, rows), torch.split(targets_BS, rows))
        ]
        for window, nats_S in zip(batch, np.concatenate(parts).reshape(targets_BS.shape)):
            self.nats += float(nats_S.sum(dtype=np.float64))
            self.bytes += int(self.byte_counts[window.first : window.end].sum())
            self.count += window.end - window.first

    def graded(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """A copy of tokens."""
        return np.array(self.tokens[start:stop])

    def _gather(self, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.tokens[a:b] for a, b in spans]).astype(np.int64))


@dataclass
class Graded:
    """What is printed."""

    tag: str
    loss: float
    bpb: float


def grade_alone(model: nn.Module, data: ShortData) -> Graded:
    """Grade the validation text by the recipe's windows."""
    windows = read_recipe().windows
    grades = Grades(*data.validation())
    device = next(model.parameters()).device
    starts = document_starts(grades.tokens, data.bos)
    for batch in batches(windows.over(grades.positions, starts=starts), suits(windows, device)):
        grades.grade(model, batch, device=device)
    sliding = (
        "final_pargolf_sliding_window_exact"
        if getattr(windows, "word", "") == "sliding"
        else "final_pargolf_roundtrip_exact"
    )
    return _result(sliding, grades)


def adapt_alone(model: nn.Module, data: ShortData) -> Graded:
    """Grade with the recipe's adapter, which learns from what is graded; stands in for `grade_alone`."""
    windows, adapter = read_recipe().windows, read_recipe().adapt
    assert adapter is not None
    grades: Any = Grades(*data.validation())
    device = next(model.parameters()).device
    starts = document_starts(grades.tokens, data.bos)
    for _ in adapter.run(model, grades, windows, starts=starts, batch_windows=suits(windows, device), device=device):
        pass
    return _result("legal_ttt_exact", grades)


def starts_of(tokens: npt.NDArray[np.uint16], bos: int) -> npt.NDArray[np.int64]:
    """Where documents begin; stands in for `document_starts`, which reads a stream piece by piece."""
    return np.flatnonzero(tokens[:-1] == bos)


def alone(weights: Any, world: World) -> None:
    """Nothing to sum; stands in for `_sum_gradients`."""


def _result(tag: str, grades: Grades) -> Graded:
    return Graded(tag, nats_per_token(grades.nats, grades.count), bits_per_byte(grades.nats, grades.bytes))
