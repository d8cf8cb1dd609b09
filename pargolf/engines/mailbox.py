"""The mailbox between the workers of a cluster and the first process: events one way, commands the other way.

It is a Ray actor in a process of its own, and imports as little as possible.
"""

from pargolf.core.events import Event


class Mailbox:
    """An actor between workers and the first process: events go one way, commands to stop the other way."""

    def __init__(self) -> None:
        self._events: list[tuple[int, int, Event]] = []
        self._stopped: set[int] = set()
        self._ends = False

    def push(self, number: int, attempt: int, events: list[Event]) -> str:
        """Add a task's events; returns a command for it: `stop`, `end`, or an empty string."""
        self._events += [(number, attempt, event) for event in events]
        return "end" if self._ends else "stop" if number in self._stopped else ""

    def take(self) -> list[tuple[int, int, Event]]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self, number: int) -> None:
        """Stop a task between two of its events."""
        self._stopped.add(number)

    def end(self) -> None:
        """Let all tasks store their state and end."""
        self._ends = True
