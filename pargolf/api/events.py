"""What the `..._events` forms yield, run to the end."""

from collections.abc import Iterator
from typing import Any

from pargolf.core.events import Event


def last(events: Iterator[Event | dict[str, Any]]) -> dict[str, Any]:
    """The result at the end of a stream of events."""
    result: dict[str, Any] = {}
    for event in events:
        result = event if isinstance(event, dict) else result
    return result
