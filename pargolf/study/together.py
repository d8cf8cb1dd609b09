"""Many runs under torchrun: the first process decides what to run, and the others run it along.

    @led
    def run_seeds(...):                                  decides, reads and writes; on the first process only
        yield from run_together(job, data, device)       what it takes all for

The others decide nothing, read no results and write no files. They yield nothing, and end when the first one does.
"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch

from pargolf.core import own, spec
from pargolf.core.devices import find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.core.files import claimed
from pargolf.core.work import Events
from pargolf.core.world import World
from pargolf.data.folder import DataFolder
from pargolf.engines.parcels import Parcel, open_parcel, parcel_of
from pargolf.engines.task import Place, Task
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe
from pargolf.run.signals import Interrupted

T = TypeVar("T")
P = ParamSpec("P")
JobFields = dict[str, Any]
"""A job as plain data, which another process reads."""
_GONE = "Another process of this job is gone. What has ended is kept: run the same command again to go on."


@dataclass(frozen=True)
class Job:
    """One run to be had: a recipe with a seed, in a folder. `label` is what it is called while it runs.

    `data` is where its text lies, where that is not the text of all: another tokenizer has another folder.
    `checkpoint_every` are the seconds between two checkpoints; 0: after every step.
    """

    label: str
    recipe: Recipe
    seed: int
    folder: Path
    command: str = ""
    data: DataFolder | None = None
    checkpoint_every: float = 60.0


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
    if find_world(device).size == 1:
        return _alone(job, job.data or data, device, force)
    place = Place(device, torch.get_num_threads())
    return all_run(run_job, place, *sent(job, data), force, force and goes_on(job.folder), device=device)


def task_of(job: Job, data: DataFolder, *, force: bool = True) -> Task:
    """A job as a task that another process does, on this machine or another one."""
    return Task(job.label, run_alone, (*sent(job, data), force), job.folder.absolute())


def goes_on(folder: Path) -> bool:
    """Whether a folder holds a run that was cut off and can go on."""
    return any((folder / "checkpoints").glob("s*"))  # of a step, or of a later stage


def all_run(work: Callable[..., Iterator[T]], *arguments: Any, device: str | None) -> Iterator[T]:
    """`work(*arguments)`, on all processes there are; both are sent to the others, so they must be picklable."""
    world = find_world(device)
    if world.size > 1 and world.main:
        _say(world, (work, arguments))
    return work(*arguments)


def sent(job: Job, data: DataFolder) -> tuple[JobFields, own.Files, Parcel]:
    """What another process is told of a job: its recipe as plain data, the files that this needs, and its text."""
    job_row = {field.name: getattr(job, field.name) for field in fields(job) if field.name not in ("recipe", "data")}
    dumped = spec.dump(job.recipe)
    job_row |= {"recipe": dumped, "folder": job.folder.absolute()}
    return job_row, own.files_of(dumped), parcel_of(job.data or data)


def run_job(
    place: Place, job_row: JobFields, files: own.Files, parcel: Parcel, force: bool, resume: bool
) -> Iterator[Event]:
    """The events of one run, from what `sent` told."""
    own.use_files(files)
    job = Job(**(job_row | {"recipe": spec.load(job_row["recipe"])}))
    return _run(job, (place.find or open_parcel)(parcel), place.device, force, resume)


def run_alone(place: Place, job_row: JobFields, files: own.Files, parcel: Parcel, force: bool) -> Iterator[Event]:
    """The same on one process alone; one that was lost before goes on."""
    torch.set_num_threads(place.threads)
    own.use_files(files)
    job = Job(**(job_row | {"recipe": spec.load(job_row["recipe"])}))
    return _alone(job, (place.find or open_parcel)(parcel), place.device, force or place.attempt > 1)


def _alone(job: Job, data: DataFolder, device: str | None, force: bool) -> Iterator[Event]:
    """A run that no other process makes at the same time; with `force`, one that has ended meanwhile stays."""
    with claimed(job.folder):  # by a process that was told to make it, and has not heard yet that it shall end
        folder = RunFolder(job.folder)
        if force and folder.has_ended and not folder.read_result().interrupted:
            return
        yield from _run(job, data, device, force, force and goes_on(job.folder))


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
        checkpoint_every=job.checkpoint_every,
    )


def _say(world: World, call: Any) -> None:
    _broadcast(world, pickle.dumps(call))


def _broadcast(world: World, data: bytes) -> bytes:
    try:
        return world.broadcast(data)
    except RuntimeError as error:
        raise Interrupted(_GONE) from error
