"""Try the ways out of the sandbox at every level that this system has: python benchmarks/audit.py --escapes.

The ways are in `tests/escapes`. The level "none" shows how many of them work without a guard, so the other levels have
something to stop. The last two columns are the least of three times: a child that does nothing, and one that imports
torch, takes two training steps on two threads, and saves and loads the model.
"""

import sys
import timeit
from pathlib import Path

from pargolf.audit.sandbox import bubblewrap, landlock, seccomp
from pargolf.audit.sandbox.jail import Level

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import escapes


def print_escapes() -> bool:
    """Print a row for each level; return whether nothing was reached behind a guard."""
    works = {Level.BUBBLEWRAP: bubblewrap.works(), Level.KERNEL: landlock.version() >= landlock.ENOUGH}
    levels = [level for level in works if works[level] and seccomp.supported()]
    reached = {Level.NONE: escapes.attempt_unguarded()} | {level: escapes.attempt(level) for level in levels}
    print(f"{'level':14}{'tried':>8}{'reached':>9}{'s to start':>12}{'s to train':>12}")
    for level, ways in reached.items():
        names = [name for name, result in ways.items() if result is not None]
        starting, training = _seconds(level, ""), _seconds(level, escapes.TRAINING)
        print(f"{level:14}{len(ways):>8}{len(names):>9}{starting:>12.2f}{training:>12.2f}  ", end="")
        print("" if level is Level.NONE else ", ".join(names))
    print(f"Levels not on this system: {', '.join(set(works) - set(levels)) or 'none'}.")
    return not any(result for level in levels for result in reached[level].values())


def _seconds(level: Level, script: str) -> float:
    """The least of three times that a script takes in a child, from start to end."""
    return min(timeit.repeat(lambda: escapes.train(level, script), number=1, repeat=3))
