"""The seconds kept for the end of a run; they follow the load on the machine.

    kept = 2 needed load + .5,   load = recent / usual, between 1 and 4

`needed` is the time of the rehearsal of packing and writing. On a shared machine other jobs may start later and slow
down packing as they slow down the steps: `usual` is the median time of the first 16 steps, soon after the rehearsal,
`recent` that of the latest 16. The factor 2 allows for an even slower moment during packing.
"""

import statistics
from collections import deque

_STEPS = 16
_HEAVIEST = 4.0


class Reserve:
    """The part of `total` seconds to keep for the end, which took `needed` seconds in rehearsal."""

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
        """Note the seconds of a step, of which `slower` are due to later phases; returns the new limit."""
        if len(self._first) < _STEPS:
            self._first.append(seconds)
        self._latest.append(max(seconds - slower, 0.0))
        if len(self._latest) == _STEPS:
            usual, recent = statistics.median(self._first), statistics.median(self._latest)
            self.load = min(max(recent / usual, 1.0), _HEAVIEST) if usual > 0 else 1.0
        return self.limit
