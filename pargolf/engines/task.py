"""Tasks and engines: what a task needs, where it runs, and what an engine reports of it.

    running = engine.run(tasks)   iterate it: Happened(number, event) ... TaskEnded(number, error) for each task
    running.stop(number)          ends one task between two events

An engine is `Processes` (this machine) or `Cluster` (Ray); `choose` returns the one that `--on` names. A task is a
function that yields events. Every engine calls it with the same arguments, so it writes the same files; only `Place`
(its device and threads) differs. A task that is lost with its process or machine is started again, a few times:
`Attempts` counts.
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

RESUME_HINT = "Interrupted. What has ended is kept: run the same command again to go on."
MAX_LOSSES = 3
"""How many times in a row a task may be lost without progress."""


@dataclass(frozen=True)
class Needs:
    """What each task needs: CPU cores (and threads), GPUs or a share of one, bytes of memory.

    0 and None mean not specified.
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
            raise UserError(f"'{text}' is not possible. A job needs whole cores, and a share of one GPU or whole GPUs.")
        return needs

    def __str__(self) -> str:
        """The text that `parse` reads."""
        amounts = {field.name: getattr(self, field.name) for field in fields(self)}
        return ",".join(f"{name}={value:g}" for name, value in amounts.items() if value)


@dataclass(frozen=True)
class Place:
    """Where a task runs: its device, its CPU threads, and the number of the attempt.

    `find` opens a parcel (`parcels.py`) on another machine; None on this one.
    """

    device: str | None = None
    threads: int = 1
    attempt: int = 1
    find: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Task:
    """A task: `work(place, *arguments)` yields its events; both must be picklable.

    `folder` is where it writes; every machine must see it.
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
    """Task `number` has ended: with an `error`, or `stopped` on request, or done."""

    number: int
    error: Exception | None = None
    stopped: bool = False


@dataclass(frozen=True)
class Heartbeat(Event):
    """A report, every two seconds, of the running tasks."""

    running: tuple[int, ...]


class Running(Protocol):
    """Running tasks; iterate it once."""

    def __iter__(self) -> Iterator[Event]:
        """Yield events up to the last `TaskEnded`. Raises `Interrupted` on a signal."""

    def stop(self, number: int) -> None:
        """End a task between two of its events."""


class Engine(Protocol):
    """Runs tasks, several at a time."""

    def run(self, tasks: Sequence[Task]) -> Running:
        """Run all tasks, started in the given order."""

    def room(self) -> int:
        """How many tasks run at a time."""


class Attempts:
    """Counts how often each task was lost in a row; progress (resuming from a later state) resets the count."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self._losses: Counter[int] = Counter()
        self._resumed_steps: dict[int, int] = {}

    def note(self, number: int, event: Event) -> None:
        """Note the step that a task resumed from."""
        if isinstance(event, Resumed) and event.step > self._resumed_steps.get(number, 0):
            self._resumed_steps[number] = event.step
            self._losses[number] = 0

    def count_loss(self, number: int) -> int:
        """Count a loss; returns the number of losses in a row."""
        self._losses[number] += 1
        return self._losses[number]


@dataclass(frozen=True)
class Outcome:
    """How a task ended, reported by the worker."""

    error: Exception | None = None
    stopped: bool = False


def perform(task: Task, place: Place, report: Callable[[Event], bool]) -> Outcome:
    """Run a task in this process; `report` gets each event and returns whether to stop."""
    try:
        with closing(cast(Events[None], task.work(place, *task.arguments))) as events:
            for event in events:
                if report(event):
                    return Outcome(stopped=True)
    except BaseException as error:
        return Outcome(error=portable(error))
    return Outcome()


def portable(error: BaseException) -> Exception:
    """An error in a form that another process can read, with its traceback as a note."""
    if not isinstance(error, Exception):
        return Interrupted(RESUME_HINT)
    if isinstance(error, UserError):
        return error
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class GivenUp(UserError):
    """A task was lost with its process or machine too many times in a row."""

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(
            f"{label} was lost {MAX_LOSSES} times without progress, since {reason}. Too little memory? See --needs."
        )
