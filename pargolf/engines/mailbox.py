"""The mailbox between the workers of a cluster and the first process: events one way, commands the other way.

It is an actor of Ray's, in a process of its own, which loads nothing that it does not need.
"""

from pargolf.core.events import Event


class Mailbox:
    """An actor between workers and the first process: events go one way, words to stop the other way."""

    def __init__(self) -> None:
        self._events: list[tuple[int, int, Event]] = []
        self._stopped: set[int] = set()
        self._ends = False

    def push(self, number: int, attempt: int, events: list[Event]) -> str:
        """Take a task's events; `stop`, `end`, or nothing: what it is to do."""
        self._events += [(number, attempt, event) for event in events]
        return "end" if self._ends else "stop" if number in self._stopped else ""

    def take(self) -> list[tuple[int, int, Event]]:
        """What has come since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self, number: int) -> None:
        """Have a task stop between two of its events."""
        self._stopped.add(number)

    def end(self) -> None:
        """Have all tasks keep their state and end."""
        self._ends = True
