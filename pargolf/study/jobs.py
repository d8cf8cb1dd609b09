"""Many runs: what has ended stays, what is missing runs, in turn or side by side.

A run whose folder has ended under this recipe, seed and data is not run again; one that was cut off goes on from its
checkpoint, or begins again where it has none. Side by side, each run is a process of its own and the threads are shared
out among them: seconds of the wall then buy fewer steps than on a quiet machine, so let runs that are bounded by those
take turns, or count seconds of the processor (`budget.counts=cpu`). One run that fails stops no other. A signal to this
process ends all of them, and so does its end, whatever that was: each writes a checkpoint.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from pargolf.core.devices import check_device, find_world
from pargolf.core.errors import UserError
from pargolf.core.events import Event, Progress, Scored
from pargolf.core.result import Result
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe, fit_to_data
from pargolf.run.folder import RunFolder
from pargolf.run.score import tokenizer_file
from pargolf.run.signals import Interrupted, ignore_the_terminal, noted
from pargolf.study.compare import Finished, read_finished
from pargolf.study.together import Job, Told, goes_on, run_job, run_together, sent

_LOOK_SECONDS = 0.5
_SAID_EVERY = 2.0  # seconds between words on what runs
_STEP_SECONDS, _PATIENCE = 10.0, 6  # a run that does not end in so many seconds is told again, so many times
_GO_ON = "Interrupted. What has ended is kept: run the same command again to go on."
_KILLED = "A process of these runs was killed; too little memory? What has ended is kept: run the same command again."
_running = threading.Lock()  # held by a process while it has a run


@dataclass(frozen=True)
class JobDone(Event):
    """A job has ended, now or before (`resumed`); `run` is None where it failed, with the `error`."""

    job: Job
    run: Finished | None
    resumed: bool = False
    error: Exception | None = None


def run_jobs(wanted: Sequence[Job], data: DataFolder, *, jobs: int = 1, device: str | None = None) -> Iterator[Event]:
    """Run what has not ended yet, in the order given; the events of runs in turn, and a `JobDone` for each job.

    Raises `UserError` before anything runs where a folder holds another recipe or other data, and when it is
    interrupted; the same call then goes on.
    """
    check_device(device)
    if jobs < 1:
        raise UserError("--jobs is at least 1.")
    if jobs > 1 and find_world(device).size > 1:
        raise UserError("Under torchrun all processes share each run. Leave out --jobs.")
    held = [held_run(job.recipe, job.data or data, job.folder) for job in wanted]
    missing = [job for job, run in zip(wanted, held, strict=True) if run is None]
    for job, run in zip(wanted, held, strict=True):
        if run is not None:
            yield JobDone(job, run, resumed=True)
    ended = _in_turn(missing, data, device) if jobs == 1 else _beside(missing, data, jobs, device)
    already = len(wanted) - len(missing)
    for event in ended:
        yield event
        if isinstance(event, JobDone):
            already += 1
            yield from [] if event.run is None else [_said(event.job, event.run)]
            yield Progress("runs", already, len(wanted))


def held_run(recipe: Recipe, data: DataFolder, path: Path) -> Finished | None:
    """The finished run in a folder; None where there is none, or one of ours that was cut off.

    Raises `UserError` where the folder holds a run of another recipe or on other data.
    """
    if not (path / "recipe.json").is_file():
        return None
    folder = RunFolder.open(path)
    if folder.read_recipe().digest != fit_to_data(recipe, data).digest:
        raise UserError(f"{path} holds a run of another recipe. Choose another --out, or remove it.")
    source, kept = tokenizer_file(data), folder["tokenizer.model"]
    if source is not None and kept.is_file() and kept.read_bytes() != source.read_bytes():
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    if not folder.has_ended:
        return None
    run = read_finished(path)
    if not _scored_on(run.result, data):
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    return None if run.result.interrupted else run


def _scored_on(result: Result, data: DataFolder) -> bool:
    """Whether a run was scored on this validation text, by its hashes; by its length where it recorded none."""
    proof = result.proof
    same = proof is None or sorted(proof.shards_sha256.values()) == sorted(data.val_hashes.values())
    return same and result.val_tokens == len(data.val) - 1


def _in_turn(wanted: Sequence[Job], data: DataFolder, device: str | None) -> Iterator[Event]:
    """One after the other, in this process."""
    for job in wanted:
        events = run_together(job, data, device)
        try:
            yield from events
            done = _ended(job, data)
        except Interrupted as error:
            raise Interrupted(f"{_GO_ON} {error}" if "process" in str(error) else _GO_ON) from None
        except Exception as error:  # one recipe's fault is no reason to lose the others
            done = JobDone(job, None, error=error)
        yield done


def _beside(wanted: Sequence[Job], data: DataFolder, jobs: int, device: str | None) -> Iterator[Event]:
    """`jobs` processes at a time; while nothing ends, what runs is said every two seconds."""
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked copy of torch's threads hangs
    end, hold = multiprocessing.Pipe(duplex=False)  # the other processes see when this end of it is closed
    size, said = min(jobs, max(len(wanted), 1)), time.monotonic()
    with noted() as signals, ProcessPoolExecutor(size, mp_context=spawn, initializer=_begin, initargs=(end,)) as pool:
        try:
            going: dict[Future[None], Job] = {
                pool.submit(_run_one, *sent(job, data), device, threads): job for job in wanted
            }
            while going:
                done, _ = wait(going, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                if signals:
                    raise Interrupted(_GO_ON)
                for future in done:
                    job = going.pop(future)
                    error = future.exception()
                    if isinstance(error, BrokenProcessPool):
                        raise Interrupted(_KILLED)
                    if isinstance(error, Interrupted) or not isinstance(error, Exception | None):
                        raise Interrupted(_GO_ON)
                    yield _ended(job, data) if error is None else JobDone(job, None, error=error)
                if done or time.monotonic() - said > _SAID_EVERY:
                    said = time.monotonic()
                    running = [job.label for future, job in going.items() if future.running()][:jobs]
                    yield Progress("runs", len(wanted) - len(going), len(wanted), ", ".join(running))
        except BaseException:
            hold.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            hold.close()


def _begin(end: Connection) -> None:
    """What a process does before its first run: it ends when `end` does, and by no key."""
    ignore_the_terminal()
    threading.Thread(target=_follow, args=(end,), daemon=True).start()


def _follow(end: Connection) -> None:
    """Wait until the first process is gone or wants no more; then end the run, if there is one, and this process."""
    multiprocessing.connection.wait([end])
    idle = _running.acquire(blocking=False)
    for _ in range(0 if idle else _PATIENCE):
        os.kill(os.getpid(), signal.SIGTERM)  # the first ends a run after its step, the second at once
        if _running.acquire(timeout=_STEP_SECONDS):
            break
    os._exit(1)


def _run_one(
    how: Told, files: list[Path], data: Path, tokenizer: Path | None, device: str | None, threads: int
) -> None:
    """The body of one process."""
    torch.set_num_threads(threads)
    with _running:
        for _ in run_job(how, files, data, tokenizer, device, True, goes_on(how["folder"])):
            pass


def _ended(job: Job, data: DataFolder) -> JobDone:
    """What a job's folder holds now. Raises `Interrupted` where somebody ended the run."""
    run, data = read_finished(job.folder), job.data or data
    if run.result.interrupted:
        raise Interrupted(_GO_ON)
    if not _scored_on(run.result, data):
        raise UserError(f"{data.path} was changed after the first run: {job.folder} was scored on other text.")
    return JobDone(job, run)


def _said(job: Job, run: Finished) -> Scored:
    """The line that stays on the screen."""
    result = run.result
    windows = list(result.scores.values())[-1].windows
    return Scored(
        job.label, windows, result.val_loss, run.bpb, result.val_tokens, result.val_bytes, result.eval_seconds
    )
