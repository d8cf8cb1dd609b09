"""One recipe with several seeds: run what is missing, then give the mean and its confidence interval.

OUT/seed-42  OUT/seed-314  OUT/seed-999        each a run folder like any other
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pargolf.core.errors import UserError
from pargolf.core.ranges import check_seed
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder
from pargolf.recipes.recipe import Recipe
from pargolf.study.compare import Finished
from pargolf.study.jobs import JobDone, run_jobs
from pargolf.study.together import DEFAULT_OPTIONS, StudyOptions, make_job, on_main_process


def seed_folder(out: str | Path, seed: int) -> Path:
    """The run folder of a seed."""
    return Path(out) / f"seed-{seed}"


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise `UserError` on missing, negative or repeated seeds."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError("Name each seed once, for example --seeds 42,314,999.")
    for seed in seeds:
        check_seed(seed)


@on_main_process
def run_seeds(
    recipe: Recipe,
    data: DataFolder,
    out: str | Path,
    *,
    seeds: Sequence[int],
    options: StudyOptions = DEFAULT_OPTIONS,
) -> Events[list[Finished]]:
    """Run every seed that has not ended yet (`study/jobs.py`); returns the finished runs in the order of the seeds.

    Raises `UserError` on missing or repeated seeds, and if a folder holds a run of another recipe or other data.
    """
    check_seeds(seeds)
    jobs = [make_job(f"seed {seed}", recipe, seed, seed_folder(out, seed), options) for seed in seeds]
    runs_by_seed: dict[int, Finished] = {}
    for event in run_jobs(jobs, data, options):
        yield event
        if isinstance(event, JobDone):
            if event.run is None:
                assert event.error is not None
                raise event.error
            runs_by_seed[event.job.seed] = event.run
    return [runs_by_seed[seed] for seed in seeds]


class SeedRow(TypedDict):
    """A run of a seed, as a row of a table; bits per byte, nats per token, bytes in all, seconds."""

    seed: int
    bpb: float
    loss: float
    steps: int
    bytes: int
    train_seconds: float
    eval_seconds: float
    run: str


def seed_rows(runs: Sequence[Finished]) -> list[SeedRow]:
    """A table's rows, by seed."""
    return [
        {
            "seed": run.seed,
            "bpb": run.bpb,
            "loss": run.result.val_loss,
            "steps": run.result.steps,
            "bytes": run.result.bytes.total,
            "train_seconds": run.result.train_seconds,
            "eval_seconds": run.result.eval_seconds,
            "run": str(run.path),
        }
        for run in sorted(runs, key=lambda run: run.seed)
    ]
