"""Long work as one value: iterate it for its events, call `.result()` for its value.

    work = pargolf.train("baseline", data="data", out="runs/a")
    for event in work: ...          progress, steps, scores (core/events.py)
    result = work.result()          runs the rest, then returns the value

Nothing runs before the first of these two calls. `close` stops the work early and lets it clean up; `with` closes it at
the end of the block. A function that does long work is written as a generator of events that returns its value, and
`@working` turns a call of it into a `Work`. Inside such a generator, `value = yield from work` passes the events on.
"""

import warnings
from collections.abc import Callable, Generator
from functools import wraps
from types import TracebackType
from typing import Generic, ParamSpec, Self, TypeVar, cast

from pargolf.core.errors import UserError
from pargolf.core.events import Event

T = TypeVar("T")
P = ParamSpec("P")
Events = Generator[Event, None, T]
"""A generator of events that returns a T: the form in which long work is written."""


class Work(Generic[T]):
    """Work that yields events and returns a T. An error in the work is raised from the iteration."""

    def __init__(self, events: Events[T], *, name: str = "work") -> None:
        self.name = name
        self._events = events
        self._values: list[T] = []
        self._state = "not begun"

    def __iter__(self) -> Events[T]:
        # `self` is no generator, but has all that `yield from` needs; the cast shows a type checker the value's type.
        return cast(Events[T], self)

    def __next__(self) -> Event:
        """The next event. At the end `StopIteration` carries the value, for `yield from`."""
        if self._state in ("done", "closed"):
            raise StopIteration(*self._values)
        self._state = "running"
        try:
            return next(self._events)
        except StopIteration as end:
            self._state = "done"
            self._values = [end.value]
            raise StopIteration(end.value) from None
        except BaseException:
            self._state = "closed"
            raise

    def result(self) -> T:
        """Run the rest, ignoring its events, and return the value.

        Raises `UserError` when the work was closed early or has failed.
        """
        for _ in self:
            pass
        if not self._values:
            raise UserError(f"{self.name} was stopped before it had a result. Call it again.")
        return self._values[0]

    def close(self) -> None:
        """Stop the work; files written so far are whole. Does nothing when the work has ended."""
        if self._state != "done":
            self._state = "closed"
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.name}: {self._state}; iterate it, or call .result()>"

    def __del__(self) -> None:
        if getattr(self, "_state", "") == "not begun":
            warnings.warn(f"{self.name} never ran: iterate it, or call .result()", ResourceWarning, stacklevel=2)


def working(function: Callable[P, Events[T]]) -> Callable[P, Work[T]]:
    """Turn calls of a generator function into `Work`; name, signature and docstring stay."""

    @wraps(function)
    def begun(*args: P.args, **kwargs: P.kwargs) -> Work[T]:
        return Work(function(*args, **kwargs), name=f"{function.__name__}(...)")

    return begun
