"""The plain forms of the `..._events` functions: the same parameters, run to the end."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args

from pargolf.core.events import Event

P = ParamSpec("P")
R = TypeVar("R")


def last(events: Iterator[Any]) -> Any:
    """The last thing of a stream that is no event; None where there is none, as on all processes but the first."""
    result = None
    for event in events:
        result = result if isinstance(event, Event) else event
    return result


def to_the_end(events: Callable[P, Iterator[Event | R]], name: str) -> Callable[P, R]:
    """A function that runs `events` to its end and returns the last value, with its parameters, as `name`.

    Under torchrun it returns None on all processes but the first.
    """

    @wraps(events)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        value: R = last(events(*args, **kwargs))
        return value

    signature = inspect.signature(events)
    (yields,) = get_args(signature.return_annotation)
    value = [kind for kind in get_args(yields) if kind not in get_args(Event)]
    plain.__name__ = plain.__qualname__ = name
    plain.__doc__ = f"{inspect.cleandoc(events.__doc__ or '')}\n\nRuns to the end and returns the value."
    plain.__dict__["__signature__"] = signature.replace(return_annotation=value[0] if value else Any)
    return plain
