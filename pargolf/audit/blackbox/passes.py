"""Find the losses behind a printed score: each observed loss is located in the validation text.

A loss is sent with its target token only. Twelve targets in a row occur at one place of a text, so the numbers
themselves give the place, for any windows, batches and order. A score is explained if it is the mean of one loss per
position, among the losses since some earlier printed score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pargolf.audit.blackbox.texts import TARGETS, ValidationText
from pargolf.audit.blackbox.trial import Trace
from pargolf.audit.blackbox.wire import Printed, Scored
from pargolf.audit.read.logs import read_log

Places = npt.NDArray[np.int64]
Losses = npt.NDArray[np.float64]

RUN = 12
_CLOSE = 5e-6
_DIGITS = 6


@dataclass(frozen=True)
class Score:
    """A score that the script printed: nats per token, bits per byte, digits after the point, and the frame."""

    tag: str
    loss: float
    bpb: float
    digits: int
    frame: int

    @property
    def ratio(self) -> float:
        """Bytes per token that these two numbers imply."""
        return self.loss / math.log(2) / self.bpb

    @property
    def rounding(self) -> float:
        """The relative error of the ratio from digits that were not printed."""
        return float(0.51 * 10.0**-self.digits * (1 / self.loss + 1 / self.bpb))


@dataclass(frozen=True, eq=False)
class Pass:
    """The losses whose mean is a printed score.

    `losses` and `frames` (TARGETS,) are by position, NaN and -1 where there is none. `which` of several losses of a
    position was taken: the first, the last, or the least. `again` are rows of losses that count a second time, as where
    windows run out at the end of a text.
    """

    which: str
    since: int
    losses: Losses
    frames: Places
    again: Places

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Positions that were scored, (TARGETS,)."""
        return self.frames >= 0


class Reading:
    """One run's losses, each at its position in the text, and the scores that the run printed."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        scored = [(i, frame) for i, frame in enumerate(trace.frames) if isinstance(frame, Scored)]
        sizes = [len(frame.targets) for _, frame in scored]
        self.frames: Places = np.repeat([i for i, _ in scored], sizes).astype(np.int64)
        self.trained = np.repeat([frame.trained for _, frame in scored], sizes).astype(np.bool_)
        empty: list[npt.NDArray[np.float64]] = [np.zeros(0)]
        self.nats = np.concatenate([*empty, *(frame.nats for _, frame in scored)])
        targets = np.concatenate([*empty, *(frame.targets for _, frame in scored)]).astype(np.int64)
        offsets = np.concatenate([np.arange(n) for n in (0, *sizes)])
        self.places = locate(trace.text, targets, offsets)

    @cached_property
    def scores(self) -> list[Score]:
        """Printed scores that have both numbers, in order."""
        scores: list[Score] = []
        for i, frame in enumerate(self.trace.frames):
            if isinstance(frame, Printed) and "bpb" in frame.text:
                log = read_log("", frame.text)
                named = [Score(score.tag, score.loss, score.bpb, score.digits, i) for score in log.scores]
                named += [Score("step", row.loss, row.bpb, row.digits, i) for row in log.rows]
                scores += [score for score in named if 0 < score.loss < 100 and 0 < score.bpb < 100]
        return scores

    def explain(self, score: Score) -> Pass | None:
        """The losses behind a printed score; None if no choice of the observed losses has its mean."""
        starts = [0, *(earlier.frame for earlier in self.scores if earlier.frame < score.frame)]
        for which in ("first", "last", "least") if score.digits >= _DIGITS else ("first",):
            for since in reversed(starts):
                for trained in (False, True):
                    for candidate in self._choices(which, since, score.frame, trained=trained):
                        if abs(self.mean(candidate) - score.loss) <= _CLOSE * score.loss + 0.6 * 10.0**-score.digits:
                            return candidate
        return None

    def seen(self, score: Score) -> list[Pass]:
        """The first losses since the nearest earlier score, whether or not they explain this one."""
        starts = [0, *(earlier.frame for earlier in self.scores if earlier.frame < score.frame)]
        choices = (list(self._choices("first", since, score.frame, trained=False)) for since in reversed(starts))
        return next((passes for passes in choices if passes), [])

    def true_ratio(self, score: Score) -> float:
        """Bytes per token of what a score counts: the nearest to its own of all that its losses allow."""
        could = [self.trace.text.ratio, *map(self.bytes_per_token, self.seen(score))]
        return min(could, key=lambda ratio: abs(ratio - score.ratio))

    def mean(self, losses: Pass) -> float:
        """The mean of a pass, in nats."""
        total = losses.losses[losses.covered].sum() + self.nats[losses.again].sum()
        return float(total / (losses.covered.sum() + len(losses.again)))

    def bytes_per_token(self, losses: Pass) -> float:
        """Bytes per token of the tokens that a pass counts."""
        counted = self.trace.text.bytes
        total = counted[losses.covered].sum() + counted[self.places[losses.again]].sum()
        return float(total / (losses.covered.sum() + len(losses.again)))

    def _choices(self, which: str, since: int, until: int, *, trained: bool) -> Iterator[Pass]:
        """One loss for each position from the frames between two, if they cover half a text or more."""
        mask = (self.places >= 0) & (self.frames >= since) & (self.frames < until) & (self.nats >= 0)
        rows = np.flatnonzero(mask if trained else mask & ~self.trained)
        if which == "first":
            rows = rows[::-1]
        elif which == "least":
            rows = rows[np.argsort(-self.nats[rows], kind="stable")]
        losses = np.full(TARGETS, np.nan)
        frames = np.full(TARGETS, -1, dtype=np.int64)
        losses[self.places[rows]] = self.nats[rows]
        frames[self.places[rows]] = self.frames[rows]
        if 2 * (frames >= 0).sum() < TARGETS:
            return
        yield Pass(which, since, losses, frames, rows[:0])
        if which == "first" and len(repeated := self._ends(np.sort(rows))):
            yield Pass(which, since, losses, frames, repeated)

    def _ends(self, rows: Places) -> Places:
        """Rows of losses that windows without a new position count: their last ones, as many as others add."""
        places = self.places[rows]
        windows = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(places) != 1) + 1)
        new = np.zeros(len(rows), dtype=np.bool_)
        new[np.unique(places, return_index=True)[1]] = True
        counts = [int(new[window].sum()) for window in windows]
        stride = int(np.median([c for c in counts if c]))
        ends = [rows[window[-stride:]] for window, count in zip(windows, counts) if not count]
        return np.concatenate(ends) if ends else rows[:0]


def locate(text: ValidationText, targets: Places, offsets: Places | None = None) -> Places:
    """Positions (N,) in a text of target tokens (N,) in the order they were scored; -1 for tokens of other texts.

    If the tokens at the end of one window could also continue it, the cut is the roundest of `offsets`, which count
    from the beginning of each call that computed losses.
    """
    stream = text.tokens[1:].astype(np.int64)
    if len(targets) < RUN:
        return np.full(len(targets), -1, dtype=np.int64)
    text_runs, target_runs = _runs(stream), _runs(targets)
    order = np.argsort(text_runs)
    spots = np.searchsorted(text_runs, target_runs, sorter=order).clip(0, len(text_runs) - 1)
    begins = np.flatnonzero(text_runs[order[spots]] == target_runs)
    starts = order[spots][begins]
    onward, backward = (np.full(len(targets), -1, dtype=np.int64) for _ in range(2))
    for offset in range(RUN):
        backward[begins + offset] = starts + offset
        last = RUN - 1 - offset
        onward[begins + last] = starts + last
    offsets = np.arange(len(targets)) if offsets is None else offsets
    unclear = np.flatnonzero(onward != backward)
    for part in np.split(unclear, np.flatnonzero(np.diff(unclear) != 1) + 1) if len(unclear) else ():
        cut = max((*part, part[-1] + 1), key=lambda i: _roundness(int(offsets[i]) if i < len(offsets) else 0))
        onward[part[0] : cut] = backward[part[0] : cut]
    return onward


def _roundness(number: int) -> int:
    """The largest power of two that divides a number."""
    return int(number & -number) if number else 1 << 40


def _runs(tokens: Places) -> npt.NDArray[np.uint64]:
    """A hash of each run of tokens, (N - RUN + 1,)."""
    base = np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(tokens) - RUN + 1, dtype=np.uint64)
    for offset in range(RUN):
        total = total * base + tokens[offset : len(tokens) - RUN + 1 + offset].astype(np.uint64) + np.uint64(1)
    return total
