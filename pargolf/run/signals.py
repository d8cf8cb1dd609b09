"""What Ctrl-C, SIGTERM and SIGHUP do to a run, and when.

The first one while training ends it after the step at hand: Ctrl-C packs and scores what was trained, the other two end
the run. A second one, or any outside training, ends the run at once. Nothing ends while a checkpoint is being written
or in the middle of an update, and none in the code of whoever reads the events: there it waits until the run is asked
for the next one.
"""

import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Protocol, Self, TypeVar

from pargolf.core.errors import UserError
from pargolf.core.events import Event

T = TypeVar("T")
_REASONS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}
_IMPATIENT = 4  # signals after which even a reader that does not come back is ended


class Interrupted(UserError):
    """A signal ended the work; what was done is kept, and the message says how to go on."""


class Stop(KeyboardInterrupt):
    """Raised by a signal wherever the run is; `run_recipe` makes `Interrupted` of it."""


class Stoppable(Protocol):
    """Training that ends after the step at hand where `stop` is a reason; `whole` between two steps."""

    stop: str
    whole: bool


class Signals:
    """A context in which the process's signals are a run's. Outside the main thread it changes nothing."""

    def __init__(self) -> None:
        self.training: Stoppable | None = None
        self.reason = ""
        self._count = self._shields = 0
        self._inside = self._due = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = _handle(self._take)
        return self

    def __exit__(self, *error: object) -> None:
        _restore(self._previous)

    def advance(self, events: Generator[Event, None, T]) -> Event:
        """`next(events)`, which a signal may end by `Stop`, raised where `events` stand."""
        self._inside = True
        try:
            return events.throw(Stop()) if self._due else next(events)
        except Stop:
            if getgeneratorstate(events) == GEN_CLOSED:
                raise
            return events.throw(Stop())  # it came before the first or after the last instruction of theirs
        finally:
            self._inside = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Nothing ends in here; what was asked for meanwhile comes at its end."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._due and not self._shields and self._inside:
            raise Stop

    @contextmanager
    def ending(self, training: Stoppable) -> Iterator[None]:
        """While it lasts, the first signal sets `training.stop`."""
        self.training = training
        try:
            yield
        finally:
            self.training = None

    def _take(self, number: int, frame: Any) -> None:
        first, self.reason = not self.reason, _REASONS[signal.Signals(number).name]
        self._count += 1
        if first and self.training is not None:
            self.training.stop = self.reason
        elif self._shields or not self._inside or not (self.training is None or self.training.whole):
            self._due = True
            if self._count >= _IMPATIENT and not self._shields:
                raise Stop if self._inside else KeyboardInterrupt
        else:
            raise Stop


@contextmanager
def noted() -> Iterator[list[str]]:
    """A context in which signals end nothing: whoever waits for others' work looks at their names, and ends it."""
    names: list[str] = []

    def take(number: int, frame: Any) -> None:
        names.append(signal.Signals(number).name)
        if len(names) >= _IMPATIENT:
            raise KeyboardInterrupt

    previous = _handle(take)
    try:
        yield names
    finally:
        _restore(previous)


def ignore_the_terminal() -> None:
    """Let Ctrl-C and a closed terminal end no process that has no run; its first process tells it what to do."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _handle(take: Any) -> dict[int, Any]:
    """Give this process's signals to `take`; returns whose they were."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _REASONS:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # nohup has SIGHUP ignored, and means it.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                previous[number] = signal.signal(number, take)
    return previous


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
