"""Score a model that adapts at test time: each token is graded before anything learns from it.

An adapter (`adapters/`) works on a copy of the model and records its grades through the ledger. The result also
contains the same model's score without adaptation, and says plainly when adaptation made it worse. After a complete
score, `replays` of its beginning test whether model or adapter looks ahead.
"""

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Narrowed, Progress
from pargolf.core.spec import show
from pargolf.core.world import World
from pargolf.evaluate.adapters.adapter import Adapter, StepKind
from pargolf.evaluate.bpb import bits_per_byte
from pargolf.evaluate.score import Ledger, Score, progress, score, suits
from pargolf.evaluate.text import Text
from pargolf.evaluate.watched import Watched, replays
from pargolf.evaluate.windows import IntArray, Windows, starts_for

_REPLAYED = 0.1  # the largest share of a scoring's time that its replays may take


@dataclass(frozen=True, eq=False)
class Adapted:
    """A score with adaptation, and the same model's score without it over the same windows."""

    adapter: str
    score: Score
    without: Score

    @property
    def saved(self) -> float:
        """Bits per byte that adaptation saved, over the positions that both graded; negative if it made it worse."""
        if self.score.complete and self.without.complete:
            return self.without.bpb - self.score.bpb
        both = ~(np.isnan(self.score.nats_N) | np.isnan(self.without.nats_N))
        nats = self.without.nats_N[both].sum(dtype=np.float64) - self.score.nats_N[both].sum(dtype=np.float64)
        return bits_per_byte(float(nats), self.score.bytes)

    @property
    def verdict(self) -> str:
        """One sentence that says whether adaptation helped, and by how much."""
        now = f"{self.score.bpb:.6f} bpb adapted, {self.without.bpb:.6f} without"
        part = "" if self.score.complete else f", over the {self.score.tokens:,} positions graded in time"
        if self.saved > 0:
            return f"adapting saved {self.saved:.6f} bpb ({now}{part})"
        if self.saved == 0:
            return f"adapting changed nothing ({now}{part})"
        return f"adapting made it worse by {-self.saved:.6f} bpb ({now}{part}): leave it out"

    def row(self) -> dict[str, Any]:
        """Everything except the arrays, for a JSON file."""
        return {
            "adapter": self.adapter,
            **self.score.row(),
            "without": self.without.row(),
            "saved_bpb": self.saved,
            "verdict": self.verdict,
        }


def score_adapted(
    model: nn.Module,
    text: Text,
    windows: Windows,
    adapter: Adapter,
    *,
    batch_windows: int | None = None,
    device: torch.device | str = "cpu",
    seconds: float | None = None,
    clock: Clock | None = None,
    without: Score | None = None,
    world: World | None = None,
    probe: bool = True,
) -> Iterator[Progress | Narrowed | Adapted]:
    """Score `text` while a copy of `model` adapts, yielding progress and at the end `Adapted`.

    Arguments are those of `score`. `seconds` limits the adapted scoring only. The scoring without adaptation follows,
    unless the caller passes that `Score` (of the same model and windows) as `without`. The processes of a `world` share
    the work, and each returns the whole result. With `probe` and enough time, a complete scoring is followed by
    `replays` of its beginning, which test whether model or adapter looks ahead.
    Raises `UserError`, and `LogitsError` (for example when training diverged).
    """
    clock, world = clock or Clock(), world or World()
    began = clock.seconds
    text.check()
    rows = batch_windows or suits(windows, device)

    def run(ledger: Ledger, starts: IntArray) -> Iterator[StepKind]:
        own, size = copy.deepcopy(model).eval(), rows * ledger.world.size
        return adapter.run(own, ledger, windows, starts=starts, batch_windows=size, device=device)

    def again(part: Text, since: int) -> tuple[Watched, Iterator[StepKind]]:
        starts = starts_for(windows, part.tokens, text.bos)
        apart = starts if adapter.by_document else ()
        watched = Watched(part, since=since, once=windows.in_turn, documents=apart)
        return watched, run(watched, starts)

    starts = starts_for(windows, text.tokens, text.bos)
    ledger = Ledger(
        text,
        once=windows.in_turn,
        documents=starts if adapter.by_document else (),
        world=world,
    )
    for _ in _in_time(run(ledger, starts), ledger, clock=clock, seconds=seconds):
        yield progress(ledger, f"adapt {windows}", elapsed=clock.seconds - began)
    yield from ledger.narrowed(clock.seconds - began)
    text.check()
    graded = ledger.score(windows, seconds=clock.seconds - began)
    ends = clock.seconds + _REPLAYED * world.size * graded.seconds
    if probe and graded.complete and (seconds is None or world.max(ends)[0] <= seconds):
        steady = torch.device(device).type == "cpu"
        look = yield from replays(again, text, windows, steady=steady)
        graded = replace(graded, look=look)
    if without is None:
        for event in score(model, text, windows, batch_windows=batch_windows, device=device):
            if isinstance(event, Score):
                without = event
            else:
                yield event
    assert without is not None
    if (without.windows, without.positions) != (graded.windows, graded.positions):
        raise UserError(f"the score without adaptation is of {without.windows}, and this one of {graded.windows}")
    yield Adapted(show(adapter), graded, without)


def _in_time(work: Iterator[StepKind], ledger: Ledger, *, clock: Clock, seconds: float | None) -> Iterator[None]:
    """Run the work until its next step might not fit, judged by the slowest of the last few steps of its kind."""
    recent: dict[StepKind, deque[float]] = {"grade": deque(maxlen=8), "train": deque(maxlen=8)}
    for kind in work:
        before = clock.seconds
        expected = before + max(recent[kind], default=max(recent["grade"], default=0.0))
        if seconds is not None and ledger.bytes and ledger.world.max(expected)[0] > seconds:
            return
        yield
        recent[kind].append(clock.seconds - before)
