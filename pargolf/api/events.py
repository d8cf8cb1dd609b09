"""What the `..._events` forms yield, run to the end."""

from collections.abc import Iterator
from typing import Any

from pargolf.core.events import Event


def last(events: Iterator[Any]) -> Any:
    """The last thing of a stream that is no event; None where there is none, as on all processes but the first."""
    result = None
    for event in events:
        result = result if isinstance(event, Event) else event
    return result
