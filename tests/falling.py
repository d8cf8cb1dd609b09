"""Tasks that fail or end their process, in a file that loads no torch, so that processes begin at once."""

import os
import time

from pargolf.core.errors import UserError
from pargolf.core.events import Started, Step


def falls(place, marks):
    """Ends its process the first two times, each of which leaves a file in the folder `marks`."""
    yield Started("x", "", 1, 1, 1, 1, 4, 9.0, {})
    if len(list(marks.iterdir())) < 2:
        (marks / str(time.monotonic_ns())).touch()
        os._exit(9)
    yield Step(2, 1.0, 1.0, 64, 1.0)
    yield Step(4, 1.0, 1.0, 64, 2.0)


def always_falls(place):
    os._exit(9)
    yield


def fails(place):
    yield Step(1, 1.0, 1.0, 64, 1.0)
    raise UserError("It diverged.")
