"""Try the ways out of the sandbox at every level that this system has: python benchmarks/audit.py --escapes.

The ways are those of `tests/escapes`. The first column says how many reach something with no guard at all, which is
what shows that the others could fail.
"""

import sys
import time
from pathlib import Path

from pargolf.audit.sandbox import bubblewrap, landlock, seccomp
from pargolf.audit.sandbox.jail import Level

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import escapes


def print_escapes() -> bool:
    """Print a row for each level; whether none reached anything behind a guard."""
    levels = {
        Level.BUBBLEWRAP: bubblewrap.works(),
        Level.KERNEL: landlock.version() >= landlock.ENOUGH,
    }
    reached = {Level.NONE: escapes.attempt_unguarded()}
    seconds = {}
    for level, works in levels.items():
        if works and seccomp.supported():
            began = time.perf_counter()
            reached[level] = escapes.attempt(level)
            seconds[level] = time.perf_counter() - began
    print(f"{'level':14}{'tried':>8}{'reached':>9}{'seconds':>9}")
    for level, ways in reached.items():
        got = [name for name, what in ways.items() if what is not None]
        clock = f"{seconds[level]:.1f}" if level in seconds else ""
        print(f"{level:14}{len(ways):>8}{len(got):>9}{clock:>9}  {', '.join(got) if level != Level.NONE else ''}")
    missing = [str(level) for level in levels if level not in reached]
    print(f"Not on this system: {', '.join(missing)}." if missing else "Both levels were tried.")
    return not any(what for level in seconds for what in reached[level].values())
