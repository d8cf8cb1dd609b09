"""A track's limits as a value: bytes, seconds to train, seconds to score, and which seconds count.

The rules of Parameter Golf: 16,000,000 bytes (decimal) of code and compressed weights, 600 s of training and,
apart from those, 600 s of scoring. `counts="all"` counts everything from the first instruction that touches the model
(compile, warm-up, calibration, averaging, packing); `counts="published"` leaves warm-up and validation out, as the
published scripts do; `counts="cpu"` counts everything in seconds of this process's processor, not of the wall, so that
recipes can be compared on a machine that others use as well. No track counts so.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pargolf.core.ranges import Count, Positive


@dataclass(frozen=True)
class Budget:
    """Caps of a track: `bytes` of artifact and code, `train_seconds`, `eval_seconds`."""

    bytes: Count = 16_000_000
    train_seconds: Positive = 600.0
    eval_seconds: Positive = 600.0
    counts: Literal["all", "published", "cpu"] = "all"

    def clock(self, *, already: float = 0.0) -> "Clock":
        """The clock that this track's training goes by."""
        return Clock(time.process_time if self.counts == "cpu" else time.perf_counter, already=already)


class Clock:
    """Seconds since it was made, less what was paused; the time source can be injected for tests.

    `already` are the seconds that a resumed run had used before. `now` is the time source itself, which never pauses.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter, *, already: float = 0.0) -> None:
        self.now = now
        self._start = now() - already
        self._paused = 0.0
        self._pause_began: float | None = None

    @property
    def seconds(self) -> float:
        """Elapsed seconds that count."""
        until = self.now() if self._pause_began is None else self._pause_began
        return until - self._start - self._paused

    def pause(self) -> None:
        """Stop counting until `resume`."""
        assert self._pause_began is None
        self._pause_began = self.now()

    def resume(self) -> None:
        """Count again."""
        assert self._pause_began is not None
        self._paused += self.now() - self._pause_began
        self._pause_began = None
