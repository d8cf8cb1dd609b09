"""Many runs under torchrun: the first process decides what to run, and the others take part.

    @on_main_process
    def run_seeds(...):                                  decides, reads and writes; only on the first process
        yield from run_together(job, data, device)       trains on all processes

The other processes decide nothing, read no results and write no files. They yield no events, and end with the first.
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
from pargolf.engines.task import Engine, Place, Task
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe
from pargolf.run.signals import Interrupted

T = TypeVar("T")
P = ParamSpec("P")
JobFields = dict[str, Any]
"""A job as plain data, to send to another process."""
_PROCESS_LOST = "Another process of this job is gone. What has ended is kept: run the same command again to go on."


@dataclass(frozen=True)
class StudyOptions:
    """How the runs of a study are made.

    engine: runs them side by side, here or on other machines; None: in turn in this process
    device: as `find_world` reads it; None: CUDA if there is one
    checkpoint_every: seconds between two checkpoints; 0: after every step
    command: the command that repeats the study, for the results
    """

    engine: Engine | None = None
    device: str | None = None
    checkpoint_every: float = 60.0
    command: str = ""


DEFAULT_OPTIONS = StudyOptions()


@dataclass(frozen=True)
class Job:
    """A run to make: a recipe with a seed, in a folder. `label` is its name on the screen.

    data: its text, if not the common one (another tokenizer has another folder)
    command, checkpoint_every: as in `StudyOptions`
    """

    label: str
    recipe: Recipe
    seed: int
    folder: Path
    command: str = ""
    data: DataFolder | None = None
    checkpoint_every: float = 60.0


def make_job(
    label: str, recipe: Recipe, seed: int, folder: Path, options: StudyOptions, data: DataFolder | None = None
) -> Job:
    """A run of a study."""
    return Job(label, recipe, seed, folder, options.command, data, options.checkpoint_every)


def on_main_process(function: Callable[P, Events[T]]) -> Callable[P, Events[T]]:
    """Decorate a generator function with an `options` keyword (`StudyOptions`), so that only the first process runs it.

    The other processes follow the first until it ends; there the function returns None.
    """

    @wraps(function)
    def run_on_main(*args: P.args, **kwargs: P.kwargs) -> Events[T]:
        options = kwargs.get("options")
        world = find_world(options.device if isinstance(options, StudyOptions) else None)
        if world.size == 1:
            return (yield from function(*args, **kwargs))
        if world.main:
            try:
                value = yield from function(*args, **kwargs)
            except (UserError, GeneratorExit) as error:
                if not isinstance(error, Interrupted):  # an interruption reaches the others by itself
                    _send_call(world, None)
                raise
            _send_call(world, None)
            return value
        while (call := pickle.loads(_broadcast(world, b""))) is not None:
            follow(call)
        return cast(T, None)

    return run_on_main


def follow(call: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
    """Run the first process's call here too, and drop its events, which the first process reports."""
    work, arguments = call
    try:
        for _ in work(*arguments):
            pass
    except Interrupted:
        raise
    except UserError:
        return


def run_together(job: Job, data: DataFolder, device: str | None, *, force: bool = True) -> Iterator[Event]:
    """Run a job on all processes; with `force` it continues from a checkpoint, or replaces what is in the folder."""
    if find_world(device).size == 1:
        return _alone(job, job.data or data, device, force)
    place = Place(device, torch.get_num_threads())
    resume = force and can_resume(job.folder)
    return on_all_processes(run_job, place, *job_message(job, data), force, resume, device=device)


def task_of(job: Job, data: DataFolder, *, force: bool = True) -> Task:
    """Convert a job to a task for another process, on this machine or another one."""
    return Task(job.label, run_alone, (*job_message(job, data), force), job.folder.absolute())


def can_resume(folder: Path) -> bool:
    """Whether a folder holds an interrupted run that can continue."""
    return any((folder / "checkpoints").glob("s*"))  # of a step, or of a later stage


def on_all_processes(work: Callable[..., Iterator[T]], *arguments: Any, device: str | None) -> Iterator[T]:
    """Run `work(*arguments)` on all processes; both are sent to the others, so they must be picklable."""
    world = find_world(device)
    if world.size > 1 and world.main:
        _send_call(world, (work, arguments))
    return work(*arguments)


def job_message(job: Job, data: DataFolder) -> tuple[JobFields, own.Files, Parcel]:
    """A job in the form that is sent to another process: plain data, the user's files it needs, and its text."""
    job_row = {field.name: getattr(job, field.name) for field in fields(job) if field.name not in ("recipe", "data")}
    dumped = spec.dump(job.recipe)
    job_row |= {"recipe": dumped, "folder": job.folder.absolute()}
    return job_row, own.files_of(dumped), parcel_of(job.data or data)


def run_job(
    place: Place, job_row: JobFields, files: own.Files, parcel: Parcel, force: bool, resume: bool
) -> Iterator[Event]:
    """Run a job from a `job_message`; yields its events."""
    own.use_files(files)
    job = Job(**(job_row | {"recipe": spec.load(job_row["recipe"])}))
    return _run(job, (place.find or open_parcel)(parcel), place.device, force, resume)


def run_alone(place: Place, job_row: JobFields, files: own.Files, parcel: Parcel, force: bool) -> Iterator[Event]:
    """Run a job from a `job_message` on a single process; a run that was lost before continues."""
    torch.set_num_threads(place.threads)
    own.use_files(files)
    job = Job(**(job_row | {"recipe": spec.load(job_row["recipe"])}))
    return _alone(job, (place.find or open_parcel)(parcel), place.device, force or place.attempt > 1)


def _alone(job: Job, data: DataFolder, device: str | None, force: bool) -> Iterator[Event]:
    """Run a job while no other process runs it; with `force`, a finished run is not replaced."""
    with claimed(job.folder):  # another process may still be running it, if its signal to stop has not arrived yet
        folder = RunFolder(job.folder)
        if force and folder.has_ended and not folder.read_result().interrupted:
            return
        yield from _run(job, data, device, force, force and can_resume(job.folder))


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


def _send_call(world: World, call: Any) -> None:
    _broadcast(world, pickle.dumps(call))


def _broadcast(world: World, data: bytes) -> bytes:
    try:
        return world.broadcast(data)
    except RuntimeError as error:
        raise Interrupted(_PROCESS_LOST) from error
