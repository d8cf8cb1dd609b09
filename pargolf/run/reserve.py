"""The seconds kept for the end of a run; they follow the load on the machine.

    kept = 2 needed load + .5,   load = recent / usual, between 1 and 4

`needed` is what the rehearsal of packing and writing took. Others may come to a shared machine after it, and slow
packing as they slow the steps: `usual` is the median of the first 16 steps' seconds, which were near the rehearsal,
`recent` that of the latest 16. Twice, since packing may meet a slower moment still.
"""

import statistics
from collections import deque

_STEPS = 16
_HEAVIEST = 4.0


class Reserve:
    """What to keep of `total` seconds for an end that took `needed` in rehearsal."""

    def __init__(self, total: float, needed: float) -> None:
        self.total, self.needed = total, needed
        self.load = 1.0
        self._first: list[float] = []
        self._latest: deque[float] = deque(maxlen=_STEPS)

    @property
    def kept(self) -> float:
        """Seconds to keep."""
        return 2.0 * self.needed * self.load + 0.5

    @property
    def limit(self) -> float:
        """Seconds after which nothing else may begin."""
        return self.total - self.kept

    def saw(self, seconds: float, *, slower: float = 0.0) -> float:
        """Take in one step's seconds, `slower` of them by phases that the first steps had not; returns the limit."""
        if len(self._first) < _STEPS:
            self._first.append(seconds)
        self._latest.append(max(seconds - slower, 0.0))
        if len(self._latest) == _STEPS:
            usual, recent = statistics.median(self._first), statistics.median(self._latest)
            self.load = min(max(recent / usual, 1.0), _HEAVIEST) if usual > 0 else 1.0
        return self.limit
