"""Going on with a run: same recipe, seed and data, from the newest sound checkpoint, its events trimmed to it.

Where there is no checkpoint yet, the run begins again in its folder.
"""

from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Event, PhaseBegan, Resumed, Started, Step, Validated, Weighed
from pargolf.core.world import World
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.score import tokenizer_file
from pargolf.run.training import Keeping
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
) -> Keeping:
    """The run's folder, made by the first process or found by all, and the checkpoint to go on from.

    Raises `UserError` when the folder holds a run and is to be new, or is to be resumed and was begun otherwise.
    """
    if not resume:
        folder = RunFolder.create(out, force=force) if world.main else RunFolder(Path(out))
        if world.main:
            folder.write_recipe(recipe)
            folder.keep_tokenizer(tokenizer_file(data))
        return Keeping(folder, Checkpoints(folder.checkpoints, every))
    folder = RunFolder.resume(out, recipe)
    checkpoints = Checkpoints(folder.checkpoints, every)
    found = checkpoints.newest()
    for key, value in (("seed", seed), ("train_tokens", len(data.train))) if found else ():
        if found and found.facts[key] != value:
            raise UserError(f"{out} was begun with {key} {found.facts[key]}, not {value}. Resume it with what it had.")
    return Keeping(folder, checkpoints, found)


def earlier_events(keeping: Keeping) -> list[Event]:
    """What happened before the checkpoint that the run goes on from; the files of events are then begun anew."""
    folder, found = keeping.folder, keeping.resumed
    kept: list[Event] = []
    for event in read_events(folder["events.jsonl"]) if found else ():
        step = found.facts["step"] if found else 0
        before = isinstance(event, Step | Validated | Weighed | Resumed) and event.step <= step
        # A phase begins before the step it names, which the checkpoint after as many steps has not seen.
        if before or isinstance(event, Started) or (isinstance(event, PhaseBegan) and event.step < step):
            kept.append(event)
    for name in ("events.jsonl", "train.log"):
        folder[name].unlink(missing_ok=True)
    return kept
