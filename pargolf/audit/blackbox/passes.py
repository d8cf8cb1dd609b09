"""Which losses a printed score is made of: every one that was seen is found again in the validation text.

A loss is sent with its target token alone. Twelve targets in a row stand at one place of a text, so the place follows
from the numbers themselves, whatever windows, batches and order a script scores in. A score is explained when the mean
of one loss per position, of those since some score that was printed before, is the number that was printed.
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
        """How far the digits that were not printed can move the ratio, relative."""
        return float(0.51 * 10.0**-self.digits * (1 / self.loss + 1 / self.bpb))


@dataclass(frozen=True, eq=False)
class Pass:
    """The losses that a printed score is the mean of.

    `losses` and `frames` (TARGETS,) by position, NaN and -1 where there is none; `which` of several losses of a
    position was taken: the first, the last, or the least. `again` are rows of losses that count a second time, as
    where windows run out at the end of a text.
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
    """One run's losses, each at its place in the text, and the scores that it printed."""

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
        """Printed scores with both numbers, in order."""
        scores: list[Score] = []
        for i, frame in enumerate(self.trace.frames):
            if isinstance(frame, Printed) and "bpb" in frame.text:
                log = read_log("", frame.text)
                named = [Score(score.tag, score.loss, score.bpb, score.digits, i) for score in log.scores]
                named += [Score("step", row.loss, row.bpb, row.digits, i) for row in log.rows]
                scores += [score for score in named if 0 < score.loss < 100 and 0 < score.bpb < 100]
        return scores

    def explain(self, score: Score) -> Pass | None:
        """The losses behind a printed score; None when no choice of those seen has its mean."""
        starts = [0, *(earlier.frame for earlier in self.scores if earlier.frame < score.frame)]
        for which in ("first", "last", "least") if score.digits >= _DIGITS else ("first",):
            for since in reversed(starts):
                for trained in (False, True):
                    for candidate in self._choices(which, since, score.frame, trained=trained):
                        if abs(self.mean(candidate) - score.loss) <= _CLOSE * score.loss + 0.6 * 10.0**-score.digits:
                            return candidate
        return None

    def seen(self, score: Score) -> list[Pass]:
        """The first losses since the nearest earlier score, whether they explain this one or not."""
        starts = [0, *(earlier.frame for earlier in self.scores if earlier.frame < score.frame)]
        choices = (list(self._choices("first", since, score.frame, trained=False)) for since in reversed(starts))
        return next((passes for passes in choices if passes), [])

    def true_ratio(self, score: Score) -> float:
        """Bytes per token of what a score counts: the nearest to its own of all choices that its losses leave open."""
        could = [self.trace.text.ratio, *map(self.bytes_per_token, self.seen(score))]
        return min(could, key=lambda ratio: abs(ratio - score.ratio))

    def mean(self, found: Pass) -> float:
        """The mean of a pass, in nats."""
        total = found.losses[found.covered].sum() + self.nats[found.again].sum()
        return float(total / (found.covered.sum() + len(found.again)))

    def bytes_per_token(self, found: Pass) -> float:
        """The bytes of the text's tokens that a pass counts, per token."""
        counted = self.trace.text.bytes
        total = counted[found.covered].sum() + counted[self.places[found.again]].sum()
        return float(total / (found.covered.sum() + len(found.again)))

    def _choices(self, which: str, since: int, until: int, *, trained: bool) -> Iterator[Pass]:
        """One loss for each position out of the frames between two, where they cover half a text or more."""
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
        if which == "first" and len(again := self._ends(np.sort(rows))):
            yield Pass(which, since, losses, frames, again)

    def _ends(self, rows: Places) -> Places:
        """Rows of losses that windows without a new position count: their last ones, as many as others have new."""
        places = self.places[rows]
        windows = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(places) != 1) + 1)
        new = np.zeros(len(rows), dtype=np.bool_)
        new[np.unique(places, return_index=True)[1]] = True
        counts = [int(new[window].sum()) for window in windows]
        stride = int(np.median([c for c in counts if c]))
        ends = [rows[window[-stride:]] for window, count in zip(windows, counts) if not count]
        return np.concatenate(ends) if ends else rows[:0]


def locate(text: ValidationText, targets: Places, offsets: Places | None = None) -> Places:
    """Positions (N,) in a text of target tokens (N,) in the order they were scored; -1 for those of other texts.

    Where one window ends and the next begins by tokens that would also go on, the cut is the roundest of `offsets`,
    which count from the beginning of each call that computed losses.
    """
    stream = text.tokens[1:].astype(np.int64)
    if len(targets) < RUN:
        return np.full(len(targets), -1, dtype=np.int64)
    known, seen = _runs(stream), _runs(targets)
    order = np.argsort(known)
    spots = np.searchsorted(known, seen, sorter=order).clip(0, len(known) - 1)
    begins = np.flatnonzero(known[order[spots]] == seen)
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
    """The largest power of two that divides it."""
    return int(number & -number) if number else 1 << 40


def _runs(tokens: Places) -> npt.NDArray[np.uint64]:
    """A hash of each run of tokens, (N - RUN + 1,)."""
    base = np.uint64(0x9E3779B97F4A7C15)
    total = np.zeros(len(tokens) - RUN + 1, dtype=np.uint64)
    for offset in range(RUN):
        total = total * base + tokens[offset : len(tokens) - RUN + 1 + offset].astype(np.uint64) + np.uint64(1)
    return total
