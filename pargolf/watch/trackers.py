"""Send a run's numbers to TensorBoard, trackio or Weights & Biases.

`track` is a filter like `live.draw`: it yields the events it is given, unchanged and in order, and sends their numbers
by step: `train/loss`, `train/lr`, `val/bpb`, `bytes/forecast`, `bytes/total`, `score/adapted`. A tracker's package is
an extra of this one, imported only if used. A tracker that fails during the run is dropped with a warning, so that no
run is lost because of a network.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pargolf.core.errors import UserError, near
from pargolf.core.events import Event, Packed, Scored, Started, Step, Validated, Weighed

TRACKERS = ("tensorboard", "trackio", "wandb")
PROJECT = "pargolf"


class Tracker(Protocol):
    """A receiver of numbers."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Record the numbers of one step."""
        ...

    def close(self) -> None:
        """Send everything that is still buffered."""
        ...


class TensorBoard:
    """Files in `RUN/tensorboard`, for `tensorboard --logdir RUN`."""

    def __init__(self, started: Started, folder: Path) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = module.SummaryWriter(log_dir=str(folder / "tensorboard"))
        facts = "\n".join(f"    {key} = {value}" for key, value in asdict(started).items())
        self._writer.add_text("run", facts, 0)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Add scalars."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class Board:
    """trackio or wandb, which have the same interface; the run is named after its folder."""

    def __init__(self, package: str, started: Started, folder: Path) -> None:
        self._module: Any = importlib.import_module(package)
        self._module.init(project=PROJECT, name=folder.resolve().name, config=asdict(started))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log a row."""
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        """Finish the run."""
        self._module.finish()


def check_trackers(kinds: Sequence[str]) -> None:
    """Raise `UserError` on a tracker that is unknown, or whose package is not installed."""
    for kind in kinds:
        if kind not in TRACKERS:
            raise UserError(f"No tracker is called '{kind}'.{near(kind, TRACKERS)}")
        if importlib.util.find_spec(kind) is None:
            raise UserError(f"--track {kind} needs a package that is not here: pip install 'pargolf[{kind}]'.")


def track(events: Iterable[Event], kinds: Sequence[str], *, folder: str | Path) -> Iterator[Event]:
    """Yield `events` unchanged; their numbers go to each tracker of `kinds` from the first `Started` on."""
    handler, step = _Held(), 0
    try:
        for event in events:
            if isinstance(event, Started) and not handler.trackers:
                handler.open(kinds, event, Path(folder))
            step = getattr(event, "step", step)
            if numbers := numbers_of(event):
                handler.log(numbers, step)
            yield event
    finally:
        handler.close()


def numbers_of(event: Event) -> dict[str, float]:
    """The numbers in an event, by name; empty if there are none."""
    match event:
        case Step():
            return {"train/loss": event.loss, "train/lr": event.lr, "train/tokens": event.tokens} | {
                "train/seconds": event.seconds
            }
        case Validated():
            return {"val/loss": event.loss, "val/bpb": event.bpb}
        case Weighed():
            return {"bytes/forecast": event.model_bytes + event.code_bytes}
        case Packed():
            total = event.model_bytes + event.code_bytes
            return {"bytes/model": event.model_bytes, "bytes/code": event.code_bytes, "bytes/total": total}
        case Scored():
            return {f"score/{event.name}": event.bpb}
        case _:
            return {}


class _Held:
    """The trackers that still work; one that fails is dropped with a warning."""

    def __init__(self) -> None:
        self.trackers: dict[str, Tracker] = {}

    def open(self, kinds: Sequence[str], started: Started, folder: Path) -> None:
        for kind in kinds:
            with self._tried(kind):
                self.trackers[kind] = (
                    TensorBoard(started, folder) if kind == "tensorboard" else Board(kind, started, folder)
                )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for kind, tracker in list(self.trackers.items()):
            with self._tried(kind):
                tracker.log(numbers, step)

    def close(self) -> None:
        for kind, tracker in list(self.trackers.items()):
            with self._tried(kind):
                tracker.close()

    @contextmanager
    def _tried(self, kind: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # no error of a tracker may stop the run
            self.trackers.pop(kind, None)
            warnings.warn(f"Tracking by {kind} ended: {type(error).__name__}: {error}", stacklevel=4)
