"""Continue a run: same recipe, seed and data, from the newest sound checkpoint, with its events cut to it.

A run whose training has ended continues with packing or scoring. A run that was interrupted, packed and scored
continues with training. If there is no checkpoint yet, the run starts again in its folder.
"""

import json
from pathlib import Path

from pargolf.core.devices import from_first
from pargolf.core.errors import UserError
from pargolf.core.events import Event, PhaseBegan, Resumed, Started, Step, Stopped, Unsaved, Validated, Weighed
from pargolf.core.world import World
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.score import tokenizer_digest, tokenizer_file
from pargolf.run.stage import read_stage
from pargolf.run.training import Checkpointer
from pargolf.training.checkpoint import Checkpoints
from pargolf.watch.runlog import read_events


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

    Raises `UserError` when a new run would overwrite another, or a resumed run was begun with other settings.
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
    begun = json.loads(stage.begun_with) if stage else newest.facts if newest else {}
    for key, value in facts.items():
        if begun.get(key, value) != value:
            raise UserError(f"{out} was begun with {key} {begun[key]}, not {value}. Resume it with what it had.")
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
        before = isinstance(event, Step | Validated | Weighed | Unsaved | Resumed) and event.step <= step
        begun = isinstance(event, PhaseBegan) and event.step <= step and phases > 0
        phases -= begun
        if before or begun or isinstance(event, Started):
            earlier.append(event)
    return earlier
