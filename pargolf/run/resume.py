"""Store a run's state while it trains, and continue it: from the newest sound checkpoint, with its events cut to it.

A run is only continued with the same recipe, seed and data. If its training has ended, it continues with packing or
scoring. If it was interrupted, packed and scored, it continues with training. If there is no checkpoint yet, it starts
again in its folder. If a checkpoint cannot be written, training continues, because it is worth more.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargolf.core.devices import from_first
from pargolf.core.errors import UserError
from pargolf.core.events import Event, PhaseBegan, Resumed, Started, Step, Stopped, Unsaved, Validated, Weighed
from pargolf.core.world import World
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.score import tokenizer_digest, tokenizer_file
from pargolf.run.signals import Signals
from pargolf.run.stage import Stage, read_stage
from pargolf.training.checkpoint import Checkpoint, Checkpoints
from pargolf.training.loop import Training
from pargolf.watch.runlog import read_events


@dataclass(frozen=True)
class Checkpointer:
    """Where a run stores its state, and what it continues from: a checkpoint, or a stage if training has ended.

    `ready` flushes the logs before a later state is stored; it raises `OSError` if it cannot.
    """

    folder: RunFolder
    checkpoints: Checkpoints
    resumed: Checkpoint | None = None
    stage: Stage | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    ready: Callable[[], None] = lambda: None

    @property
    def seconds(self) -> float:
        """The seconds of training that were used before."""
        return self.stage.seconds if self.stage else float(self.resumed.facts["seconds"]) if self.resumed else 0.0


class Saver:
    """Writes a run's checkpoints on the first process, when one is due and the time allows it."""

    def __init__(self, training: Training, checkpointer: Checkpointer | None, *, cost: float) -> None:
        self.training, self.checkpointer = training, checkpointer
        self.signals = checkpointer.signals if checkpointer else Signals()
        self.path = checkpointer.resumed.path if checkpointer and checkpointer.resumed else None
        self.failed = ""
        if checkpointer is not None:
            checkpointer.checkpoints.last, checkpointer.checkpoints.cost = training.clock.seconds, cost

    def save_if_due(self, now: float) -> Iterator[Unsaved]:
        """Save when a checkpoint is due and fits the time; `now` is by the clock of all processes."""
        checkpoints = self.checkpointer.checkpoints if self.checkpointer else None
        if checkpoints is not None and checkpoints.due(now) and now + checkpoints.cost <= self.training.seconds:
            yield from self.save()

    def save(self) -> Iterator[Unsaved]:
        """Write the state, or yield why it failed. All processes must call it; signals wait until it is done."""
        if self.checkpointer is None:
            return
        training, checkpoints = self.training, self.checkpointer.checkpoints
        with self.signals.shielded():
            tensors, facts = training.state()
            self.failed = ""
            if training.world.main:
                try:
                    self.checkpointer.ready()
                    self.path = checkpoints.write(tensors, facts | self.checkpointer.facts)
                except OSError as error:
                    self.failed = error.strerror or str(error)
            cost, now = training.world.max(training.clock.seconds - facts["seconds"], training.clock.seconds)
            checkpoints.cost, checkpoints.last = cost, now
        if self.failed:
            yield Unsaved(training.step, self.failed, now)

    def resume_hint(self) -> str:
        """One sentence about what the run can be resumed from."""
        failed = f"Its state could not be written ({self.failed}). " if self.failed else ""
        if self.path is None:
            return f"{failed}Nothing of it was stored."
        return f"{failed}{'An earlier state is in' if failed else 'Its state is kept in'} {self.path}."


def open_run(
    recipe: Recipe,
    data: DataFolder,
    out: str | Path,
    *,
    seed: int,
    force: bool,
    resume: bool,
    world: World,
    every: float,
    start: str = "",
) -> Checkpointer:
    """Create or open the run's folder, and find the checkpoint to continue from.

    `start` is the SHA-256 of the weights that the run starts from; empty for a fresh initialization.

    Raises `UserError` when a new run would overwrite another, or a resumed run was started with other settings.
    """
    facts = {"seed": seed, "train_tokens": len(data.train), "tokenizer_sha256": tokenizer_digest(data), **data.facts}
    facts["start_sha256"] = start
    if not resume:
        folder = RunFolder(Path(out))

        def create() -> None:
            RunFolder.create(out, force=force)
            folder.write_recipe(recipe)
            folder.keep_tokenizer(tokenizer_file(data))

        from_first(world, create)
        return Checkpointer(folder, Checkpoints(folder.checkpoints, every), facts=facts)
    folder = RunFolder.resume(out, recipe)
    checkpoints, stage = Checkpoints(folder.checkpoints, every), read_stage(folder)
    newest = None if stage else checkpoints.newest()
    stored = json.loads(stage.begun_with) if stage else newest.facts if newest else {}
    for key, value in facts.items():
        if stored.get(key, value) != value:
            raise UserError(f"{out} was begun with {key} {stored[key]}, not {value}. Resume it with what it had.")
    if world.main:
        folder["result.json"].unlink(missing_ok=True)  # an interrupted run has one; it now continues
        folder.write_recipe(recipe)  # both are unchanged, unless the disk was full when they were written
        folder.keep_tokenizer(tokenizer_file(data))
    return Checkpointer(folder, checkpoints, newest, stage, facts)


def earlier_events(checkpointer: Checkpointer) -> list[Event]:
    """The events before the state that the run continues from, each step once."""
    events = (
        []
        if checkpointer.stage is None and checkpointer.resumed is None
        else read_events(checkpointer.folder["events.jsonl"])
    )
    if checkpointer.stage is not None:
        last = max((i for i, event in enumerate(events) if isinstance(event, Stopped)), default=len(events) - 1)
        return events[: last + 1]
    earlier: list[Event] = []
    step, phases = (
        (checkpointer.resumed.facts["step"], len(checkpointer.resumed.facts["begun"]))
        if checkpointer.resumed
        else (0, 0)
    )
    for event in events:
        is_earlier = isinstance(event, Step | Validated | Weighed | Unsaved | Resumed) and event.step <= step
        is_begun_phase = isinstance(event, PhaseBegan) and event.step <= step and phases > 0
        phases -= is_begun_phase
        if is_earlier or is_begun_phase or isinstance(event, Started):
            earlier.append(event)
    return earlier
