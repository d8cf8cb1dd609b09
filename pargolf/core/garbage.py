"""Keep Python's garbage collector from scanning the same objects again and again.

It runs whenever enough new objects exist, and then scans old ones, too. A program that makes many small objects and
drops few, such as syntax trees or graphs of autograd, spends a third of its time there. Two remedies: set aside what
exists already, or run it less often.
"""

import contextlib
import gc
from collections.abc import Iterator

_NEW_OBJECTS, _YOUNG, _MIDDLE = 50_000, 20, 20
"""The collector's thresholds: new objects until it scans them, and scans until it scans older ones (700, 10, 10)."""


@contextlib.contextmanager
def settled_objects() -> Iterator[None]:
    """Keep the collector away from all objects that exist now, for as long as the block runs.

    Otherwise it walks over all of torch again and again while a run makes its graphs, for some hundredths of a step.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Run the collector a hundred times less often in the block; memory grows by some tens of MB."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG, _MIDDLE)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
