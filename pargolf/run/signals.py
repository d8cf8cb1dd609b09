"""What Ctrl-C, SIGTERM and SIGHUP do to a run, and when.

The first signal during training ends training after the current step: after Ctrl-C the run packs and scores what was
trained, after the other two it ends. A second signal, or any signal outside training, ends the run at once. A signal
never interrupts the writing of a checkpoint or an update of the weights. It does not interrupt the code of the caller
either: there it waits until the caller asks for the next event.
"""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from inspect import GEN_CLOSED, getgeneratorstate
from types import FrameType
from typing import Protocol, Self, TypeVar

from pargolf.core.errors import UserError
from pargolf.core.events import Event

T = TypeVar("T")
Handler = Callable[[int, FrameType | None], object] | int | None
"""A signal handler, in the form that `signal.signal` takes and returns."""
_REASONS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated"}
_IMPATIENT = 4  # signals after which the caller's code is interrupted as well


class Interrupted(UserError):
    """A signal ended the work; finished parts are kept, and the message says how to continue."""


class Stop(KeyboardInterrupt):
    """Raised by a signal anywhere in a run; `run_recipe` turns it into `Interrupted`."""


class Stoppable(Protocol):
    """Training that ends after the current step when `stop` is set to a reason; `whole` is True between steps."""

    stop: str
    whole: bool


class Signals:
    """A context that handles the process's signals for a run. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.training: Stoppable | None = None
        self.reason = ""
        self._count = self._shields = 0
        self._inside = self._due = False
        self._previous: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        self._previous = _handle(self._take)
        return self

    def __exit__(self, *error: object) -> None:
        _restore(self._previous)

    def advance(self, events: Generator[Event, None, T]) -> Event:
        """`next(events)`; a signal raises `Stop` inside the generator."""
        self._inside = True
        try:
            return events.throw(Stop()) if self._due else next(events)
        except Stop:
            if getgeneratorstate(events) == GEN_CLOSED:
                raise
            return events.throw(Stop())  # the signal came before the generator's first or after its last instruction
        finally:
            self._inside = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Delay signals until the end of the block."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._due and not self._shields and self._inside:
            raise Stop

    @contextmanager
    def ending(self, training: Stoppable) -> Iterator[None]:
        """During the block, the first signal sets `training.stop`."""
        self.training = training
        try:
            yield
        finally:
            self.training = None

    def _take(self, number: int, frame: FrameType | None) -> None:
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
    """A context in which signals are only recorded by name; the caller looks at the list and ends its work itself."""
    names: list[str] = []

    def take(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)
        if len(names) >= _IMPATIENT:
            raise KeyboardInterrupt

    previous = _handle(take)
    try:
        yield names
    finally:
        _restore(previous)


def ignore_the_terminal() -> None:
    """Ignore Ctrl-C and a closed terminal in a worker process; the first process tells it when to stop."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _handle(take: Handler) -> dict[int, Handler]:
    """Set `take` as the handler of the signals; returns the previous handlers."""
    previous: dict[int, Handler] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _REASONS:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # Under nohup SIGHUP is ignored, and stays ignored.
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                previous[number] = signal.signal(number, take)
    return previous


def _restore(previous: dict[int, Handler]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)
