"""The budget of a track: bytes of the artifact, seconds to train, seconds to score, and which seconds count.

The rules of Parameter Golf: 16,000,000 bytes (decimal) of code and compressed weights, 600 s of training and,
apart from those, 600 s of scoring. `counts="all"` counts everything from the first instruction that touches the model
(compile, warm-up, calibration, averaging, packing); `counts="published"` leaves warm-up and validation out, as the
published scripts do; `counts="cpu"` counts everything in seconds of this process's processor, not of the wall, so that
recipes can be compared on a shared machine. No track counts this way.
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
        """A clock that counts training seconds as this track does; `already` seconds were used before."""
        return Clock(time.process_time if self.counts == "cpu" else time.perf_counter, already=already)


class Clock:
    """A stopwatch that starts at once and can be paused; tests can inject the time source.

    already: seconds that a resumed run has used before
    now: the time source itself, which never pauses
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
