"""Many runs under torchrun: the first process decides what runs and says it to the others, which run it along.

    @led
    def run_seeds(...):                                  decides, reads and writes; on the first process only
        yield from run_together(job, data, device)       what it takes all for

The others decide nothing, read no results and write no files. They yield nothing, and end when the first one does.
"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from pargolf.core import own, spec
from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.core.work import Events
from pargolf.core.world import World
from pargolf.data.folder import DataFolder, open_data
from pargolf.recipes.recipe import Recipe
from pargolf.run.pipeline import run_recipe
from pargolf.run.signals import Interrupted

T = TypeVar("T")
P = ParamSpec("P")
Told = dict[str, Any]
"""A job as plain data, which another process reads."""
_GONE = "Another process of this job is gone. What has ended is kept: run the same command again to go on."


@dataclass(frozen=True)
class Job:
    """One run to be had: a recipe with a seed, in a folder. `label` is what it is called while it runs.

    `data` is where its text lies, where that is not the text of all: another tokenizer has another folder.
    """

    label: str
    recipe: Recipe
    seed: int
    folder: Path
    command: str = ""
    data: DataFolder | None = None


def led(function: Callable[P, Events[T]]) -> Callable[P, Events[T]]:
    """Make a generator function with a `device` one of the first process, which the others follow to its end.

    There its value is None.
    """

    @wraps(function)
    def begun(*args: P.args, **kwargs: P.kwargs) -> Events[T]:
        world = find_world(str(kwargs["device"]) if kwargs.get("device") is not None else None)
        if world.size == 1:
            return (yield from function(*args, **kwargs))
        if world.main:
            try:
                value = yield from function(*args, **kwargs)
            except (UserError, GeneratorExit) as error:
                if not isinstance(error, Interrupted):  # which the others are by themselves
                    _say(world, None)
                raise
            _say(world, None)
            return value
        while (call := pickle.loads(_broadcast(world, b""))) is not None:
            follow(call)
        return cast(T, None)

    return begun


def follow(call: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
    """Run along. What the first process is told, it says; here it is enough to be in step."""
    work, arguments = call
    try:
        for _ in work(*arguments):
            pass
    except Interrupted:
        raise
    except UserError:
        return


def run_together(job: Job, data: DataFolder, device: str | None, *, force: bool = True) -> Iterator[Event]:
    """A job's run, on all processes there are; with `force` it goes on from a checkpoint, or replaces what is there."""
    resume = force and goes_on(job.folder)
    if find_world(device).size == 1:
        return _run(job, job.data or data, device, force, resume)
    return all_run(run_job, *sent(job, data), device, force, resume, device=device)


def goes_on(folder: Path) -> bool:
    """Whether a folder holds a run that was cut off and can go on."""
    return any((folder / "checkpoints").glob("s*"))  # of a step, or of a later stage


def all_run(work: Callable[..., Iterator[T]], *arguments: Any, device: str | None) -> Iterator[T]:
    """`work(*arguments)`, on all processes there are; both are sent to the others, so they must be picklable."""
    world = find_world(device)
    if world.size > 1 and world.main:
        _say(world, (work, arguments))
    return work(*arguments)


def sent(job: Job, data: DataFolder) -> tuple[Told, list[Path], Path, Path | None]:
    """What another process is told of a job: its recipe as plain data, the files that this needs, paths of its text."""
    data = job.data or data
    dumped = spec.dump(job.recipe)
    how = {"label": job.label, "recipe": dumped, "seed": job.seed, "folder": job.folder, "command": job.command}
    return how, own.files_of(dumped), data.path, data.tokenizer_path


def run_job(
    how: Told, files: list[Path], data: Path, tokenizer: Path | None, device: str | None, force: bool, resume: bool
) -> Iterator[Event]:
    """The events of one run, from what `sent` told."""
    own.use(files)
    job = Job(**(how | {"recipe": spec.load(how["recipe"])}))
    return _run(job, open_data(data, tokenizer=tokenizer), device, force, resume)


def _run(job: Job, data: DataFolder, device: str | None, force: bool, resume: bool) -> Iterator[Event]:
    return run_recipe(
        job.recipe,
        data,
        job.folder,
        seed=job.seed,
        force=force,
        resume=resume,
        device=device,
        command=job.command,
    )


def _say(world: World, call: Any) -> None:
    _broadcast(world, pickle.dumps(call))


def _broadcast(world: World, data: bytes) -> bytes:
    try:
        return world.broadcast(data)
    except RuntimeError as error:
        raise Interrupted(_GONE) from error
