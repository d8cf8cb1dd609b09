"""Many runs: skip those that have ended, run the missing ones, in turn or side by side, here or on other machines.

If a folder holds a finished run of this recipe, seed and data, it is not run again. An interrupted run continues from
its checkpoint, or starts again if it has none. Side by side (`engines/`), each run is a process with its own threads,
so there are fewer steps per second than on an idle machine: run jobs with a limit in seconds one after another, or
count processor seconds (`budget.counts=cpu`). A run that fails does not stop the others. A signal to this process, or
its end for any reason, ends all runs; each writes a checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from pargolf.core.devices import check_device, find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event, JobEnded, JobEvent, Progress, Scored
from pargolf.core.result import Result
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder
from pargolf.engines.task import RESUME_HINT, Happened, Heartbeat, Running, TaskEnded
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.run.folder import RunFolder
from pargolf.run.score import tokenizer_file
from pargolf.run.signals import Interrupted
from pargolf.study.compare import Finished, read_finished
from pargolf.study.together import DEFAULT_OPTIONS, Job, StudyOptions, run_together, task_of


@dataclass(frozen=True)
class JobDone(Event):
    """A job has ended, now or earlier (`resumed`); `run` is None if it failed with `error`."""

    job: Job
    run: Finished | None
    resumed: bool = False
    error: Exception | None = None


class RunningSequence:
    """A `Running` that makes runs one after another in this process; under torchrun, all processes share each run."""

    def __init__(self, jobs: Sequence[Job], begin: Callable[[Job], Iterator[Event]]) -> None:
        self._jobs = jobs
        self._begin = begin
        self._stopped: set[int] = set()

    def __iter__(self) -> Iterator[Event]:
        """The events of all runs. Raises `Interrupted` if the user ended a run."""
        for number, job in enumerate(self._jobs):
            error: Exception | None = None
            try:
                with closing(cast(Events[None], self._begin(job))) as events:
                    for event in events:
                        yield event
                        if number in self._stopped:
                            break
            except Interrupted as stop:
                raise Interrupted(f"{RESUME_HINT} {stop}" if "process" in str(stop) else RESUME_HINT) from None
            except Exception as fault:  # an error in one recipe must not lose the others
                error = fault
            yield TaskEnded(number, error, number in self._stopped)

    def stop(self, number: int) -> None:
        """End the run between two events."""
        self._stopped.add(number)


def start_jobs(jobs: Sequence[Job], data: DataFolder, options: StudyOptions) -> Running:
    """Start runs on the engine, or one after another in this process without one."""
    if options.engine is None:
        return RunningSequence(jobs, lambda job: run_together(job, data, options.device))
    return options.engine.run([task_of(job, data) for job in jobs])


def run_jobs(jobs: Sequence[Job], data: DataFolder, options: StudyOptions = DEFAULT_OPTIONS) -> Iterator[Event]:
    """Run the jobs that have not ended yet, in the given order; yields their events, and a `JobDone` for each job.

    Without an `engine` they run one after another in this process; with one, their events are wrapped in `JobEvent`.
    Raises `UserError` before anything runs if a folder holds another recipe or other data, and after an interruption;
    the same call then continues.
    """
    check_options(options)
    finished_runs = [finished_run(job.recipe, job.data or data, job.folder) for job in jobs]
    missing = [job for job, run in zip(jobs, finished_runs, strict=True) if run is None]
    for job, run in zip(jobs, finished_runs, strict=True):
        if run is not None:
            yield JobDone(job, run, resumed=True)
    ended_count = len(jobs) - len(missing)
    running = start_jobs(missing, data, options)
    for event in running:
        if isinstance(event, TaskEnded):
            done = _done(missing[event.number], data, event.error)
            ended_count += 1
            yield from [] if options.engine is None else [JobEnded(done.job.label, str(done.error or ""))]
            yield done
            yield from [] if done.run is None else [_score_event(done.job, done.run)]
            yield Progress("runs", ended_count, len(jobs))
        else:
            yield job_event(event, missing, Progress("runs", ended_count, len(jobs)))


def check_options(options: StudyOptions) -> None:
    """Raise `UserError` if the device is missing, or if each of several processes of torchrun would start all runs."""
    check_device(options.device)
    if options.engine is not None and find_world(options.device).size > 1:
        raise UserError("Under torchrun all processes share each run. Leave out --jobs and --on.")


def job_event(event: Event, jobs: Sequence[Job], progress: Progress) -> Event:
    """Convert an engine's event to the events that watchers of runs know."""
    if isinstance(event, Happened):
        return JobEvent(jobs[event.number].label, event.event)
    if isinstance(event, Heartbeat):
        return replace(progress, note=", ".join(jobs[number].label for number in event.running))
    return event


def finished_run(recipe: Recipe, data: DataFolder, path: Path) -> Finished | None:
    """The finished run in a folder; None if there is none, or an interrupted run of this job.

    Raises `UserError` if the folder holds a run of another recipe or on other data.
    """
    if not (path / "recipe.json").is_file():
        return None
    folder = RunFolder.open(path)
    if folder.read_recipe().digest != fit_to_data(recipe, data).digest:
        raise UserError(f"{path} holds a run of another recipe. Choose another --out, or remove it.")
    source, copy = tokenizer_file(data), folder["tokenizer.model"]
    if source is not None and copy.is_file() and copy.read_bytes() != source.read_bytes():
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    if not folder.has_ended:
        return None
    run = read_finished(path)
    if not _scored_on(run.result, data):
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    return None if run.result.interrupted else run


def _scored_on(result: Result, data: DataFolder) -> bool:
    """Whether a run was scored on this validation text, by its hashes; by its length if it recorded no hashes."""
    proof = result.proof
    same = proof is None or sorted(proof.shards_sha256.values()) == sorted(data.val_hashes.values())
    return same and result.val_tokens == len(data.val) - 1


def _done(job: Job, data: DataFolder, error: Exception | None) -> JobDone:
    """The outcome of a job, from its folder. Raises `Interrupted` if the user ended the run."""
    if error is not None:
        return JobDone(job, None, error=error)
    try:
        run, data = read_finished(job.folder), job.data or data
    except UserError as damage:
        return JobDone(job, None, error=damage)
    if run.result.interrupted:
        raise Interrupted(RESUME_HINT)
    if not _scored_on(run.result, data):
        error = UserError(f"{data.path} was changed after the first run: {job.folder} was scored on other text.")
        return JobDone(job, None, error=error)
    return JobDone(job, run)


def _score_event(job: Job, run: Finished) -> Scored:
    """The score event of a finished run, whose line stays on the screen."""
    result = run.result
    windows = list(result.scores.values())[-1].windows
    return Scored(
        job.label, windows, result.val_loss, run.bpb, result.val_tokens, result.val_bytes, result.eval_seconds
    )
