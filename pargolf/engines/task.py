"""Tasks and engines: what a task needs, where it runs, and what an engine reports of it.

    engine.run(tasks)         iterate it: Happened(number, event) ... TaskEnded(number, error) for each task
    running.stop(number)      ends one task between two events
    running.close()           ends all of them; each keeps its state

An engine is `Processes` (this machine) or `Cluster` (Ray); `choose` takes the one that `--on` names. A task is a
function that yields events. Whatever engine runs it, it is called with the same arguments, so what it writes is the
same; only a `Place` says which device and how many threads it has. A task that is lost with its process or machine is
begun again, a few times: `Tries` counts.
"""

import pickle
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

from pargolf.core.errors import UserError
from pargolf.core.events import Event, Resumed
from pargolf.core.units import parse_bytes
from pargolf.core.work import Events
from pargolf.run.signals import Interrupted

GO_ON = "Interrupted. What has ended is kept: run the same command again to go on."
MOST_LOSSES = 3
"""How often in a row a task may be lost without having kept anything new."""


@dataclass(frozen=True)
class Needs:
    """What each task needs: CPU cores (as many threads), GPUs or a share of one, bytes of memory.

    0 and None: not said.
    """

    cores: int = 0
    gpus: float | None = None
    memory: int = 0

    @classmethod
    def parse(cls, text: str) -> "Needs":
        """Read `cores=4,gpus=0.5,memory=8GB`, any of the three. Raises `UserError` on anything else."""
        values: dict[str, Any] = {}
        for word in filter(None, (word.strip() for word in text.split(","))):
            name, _, value = word.partition("=")
            try:
                values[name] = {"cores": int, "gpus": float, "memory": parse_bytes}[name](value)  # type: ignore[operator]
            except (KeyError, UserError, ValueError):
                raise UserError(
                    f"'{word}' is not a need of a job. Write --needs cores=4,gpus=0.5,memory=8GB."
                ) from None
        needs = cls(**values)
        gpus = needs.gpus or 0.0
        if needs.cores < 0 or gpus < 0 or (gpus > 1 and gpus != int(gpus)) or ("cores" in values and not needs.cores):
            raise UserError(f"'{text}' cannot be had. A job needs whole cores, and a share of one GPU or whole GPUs.")
        return needs

    def __str__(self) -> str:
        """As it is written."""
        amounts = {field.name: getattr(self, field.name) for field in fields(self)}
        return ",".join(f"{name}={value:g}" for name, value in amounts.items() if value)


@dataclass(frozen=True)
class Place:
    """Where a task runs: its device and CPU threads, and which attempt this is.

    `find` opens a parcel (`parcels.py`) on a machine that may not have it; None where it is this one.
    """

    device: str | None = None
    threads: int = 1
    attempt: int = 1
    find: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Task:
    """A job: `work(place, *arguments)` yields its events; both can be pickled.

    `folder` is where it writes, which every machine must see.
    """

    label: str
    work: Callable[..., Iterator[Event]]
    arguments: tuple[Any, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Happened(Event):
    """An event of task `number`."""

    number: int
    event: Event


@dataclass(frozen=True)
class TaskEnded(Event):
    """Task `number` is over: with an `error`, or `stopped` because somebody asked for it, or done."""

    number: int
    error: Exception | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Waiting(Event):
    """Said every two seconds: the tasks that run."""

    running: tuple[int, ...]


class Running(Protocol):
    """Tasks on their way; iterate it once."""

    def __iter__(self) -> Iterator[Event]:
        """What happens, to the last `TaskEnded`. Raises `Interrupted` on a signal."""

    def stop(self, number: int) -> None:
        """End a task between two of its events."""


class Engine(Protocol):
    """Runs tasks, several at a time."""

    def run(self, tasks: Sequence[Task]) -> Running:
        """Run them all, in the order given as far as there is room."""

    def room(self) -> int:
        """How many tasks run at a time."""


class Tries:
    """How often each task was lost; one that has gone on from a later state than before begins to count anew."""

    def __init__(self) -> None:
        self.attempts: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._kept: dict[int, int] = {}

    def saw(self, number: int, event: Event) -> None:
        """Take note of where a task went on from."""
        if isinstance(event, Resumed) and event.step > self._kept.get(number, 0):
            self._kept[number] = event.step
            self._losses[number] = 0

    def lost(self, number: int) -> int:
        """Count a loss; how many it is in a row."""
        self._losses[number] += 1
        return self._losses[number]


@dataclass(frozen=True)
class Outcome:
    """What a task came to where it ran."""

    error: Exception | None = None
    stopped: bool = False


def perform(task: Task, place: Place, tell: Callable[[Event], bool]) -> Outcome:
    """Run a task here; `tell` takes each event, and says whether to stop."""
    try:
        with closing(cast(Events[None], task.work(place, *task.arguments))) as events:
            for event in events:
                if tell(event):
                    return Outcome(stopped=True)
    except BaseException as error:
        return Outcome(error=portable(error))
    return Outcome()


def portable(error: BaseException) -> Exception:
    """An error as another process can read it, with the lines of code it came from."""
    if not isinstance(error, Exception):
        return Interrupted(GO_ON)
    if isinstance(error, UserError):
        return error
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class GivenUp(UserError):
    """A task was lost with its process or machine too often in a row."""

    def __init__(self, label: str, why: str) -> None:
        super().__init__(
            f"{label} was lost {MOST_LOSSES} times without progress, since {why}. Too little memory? See --needs."
        )
