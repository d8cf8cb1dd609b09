"""Long work as one value: iterate it for events, call `.result()` for the value.

    work = pargolf.train("baseline", data="data", out="runs/a")
    for event in work: ...          progress, steps, scores (core/events.py)
    result = work.result()          runs whatever is left, then the value

Nothing runs before the first of the two. `close` stops the work where it stands and lets it put its things in order;
`with` closes at the end of the block. A function that does long work is a generator of events that returns its value,
and `@working` makes its call a `Work`. Inside such a generator, `value = yield from work` passes the events on.
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
"""A generator of events that returns a T: how long work is written."""


class Work(Generic[T]):
    """Work that yields events and ends with a T. An error in the work is raised where it is iterated."""

    def __init__(self, events: Events[T], *, name: str = "work") -> None:
        self.name = name
        self._events = events
        self._values: list[T] = []
        self._state = "not begun"

    def __iter__(self) -> Events[T]:
        # Itself. It has what `yield from` asks of a generator, and so a type checker sees the value that this gives.
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
        """Run what is left, without looking at its events, and return the value.

        Raises `UserError` where the work was closed before its end or has failed.
        """
        for _ in self:
            pass
        if not self._values:
            raise UserError(f"{self.name} was stopped before it had a result. Call it again.")
        return self._values[0]

    def close(self) -> None:
        """Stop the work where it stands; what it wrote so far is whole. Nothing happens where it has ended."""
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
    """Make the call of a generator function a `Work`, with the function's own name, signature and docstring."""

    @wraps(function)
    def begun(*args: P.args, **kwargs: P.kwargs) -> Work[T]:
        return Work(function(*args, **kwargs), name=f"{function.__name__}(...)")

    return begun
