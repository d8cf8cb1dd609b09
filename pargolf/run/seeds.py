"""One recipe, several seeds: run what is missing, then say the mean and how sure it is.

    OUT/seed-42  OUT/seed-314  OUT/seed-999        each a run folder like any other

A seed whose folder has ended under this recipe and data stays as it is; one that was cut off is run again. Side by
side, each run is a process of its own and the threads are shared out among them: seconds then buy fewer steps than on
a quiet machine, so let runs that are bounded by seconds take turns.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pargolf.core.errors import UserError
from pargolf.core.events import Event
from pargolf.data.folder import DataFolder, open_data
from pargolf.run.compare import Finished, read_finished
from pargolf.run.folder import RunFolder
from pargolf.run.pipeline import run_recipe
from pargolf.run.recipe import Recipe, fit_to_data
from pargolf.run.score import tokenizer_file


@dataclass(frozen=True)
class SeedDone:
    """One seed has ended, now or before."""

    run: Finished
    resumed: bool


def seed_folder(out: str | Path, seed: int) -> Path:
    """Where a seed's run goes."""
    return Path(out) / f"seed-{seed}"


def run_seeds(
    recipe: Recipe,
    data: DataFolder,
    out: str | Path,
    *,
    seeds: Sequence[int],
    jobs: int = 1,
    device: str | None = None,
    command: str = "",
) -> Iterator[Event | SeedDone]:
    """Run every seed that has not ended yet; the events of runs in turn, and a `SeedDone` for each seed.

    Raises `UserError` on no or repeated seeds, and where a folder holds a run of another recipe or other data.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError("Name each seed once, as --seeds 42,314,999.")
    if jobs < 1:
        raise UserError("--jobs is at least 1.")
    held = {seed: _held(recipe, data, seed_folder(out, seed)) for seed in seeds}
    for seed in seeds:
        if (done := held[seed]) is not None:
            yield SeedDone(done, True)
    missing = [seed for seed in seeds if held[seed] is None]
    if jobs == 1:
        for seed in missing:
            folder = seed_folder(out, seed)
            yield from run_recipe(recipe, data, folder, seed=seed, force=True, device=device, command=command)
            yield SeedDone(read_finished(folder), False)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    spawn = multiprocessing.get_context("spawn")  # a forked copy of torch's threads hangs
    with ProcessPoolExecutor(min(jobs, max(len(missing), 1)), mp_context=spawn) as pool:
        going = [
            pool.submit(_run_one, recipe, data.path, data.tokenizer_path, seed_folder(out, seed), seed, device, threads)
            for seed in missing
        ]
        for ended in as_completed(going):
            yield SeedDone(read_finished(ended.result()), False)


def _held(recipe: Recipe, data: DataFolder, path: Path) -> Finished | None:
    """The finished run in a folder; None where there is none, or one of ours that was cut off."""
    if not (path / "recipe.json").is_file():
        return None
    folder = RunFolder.open(path)
    if folder.read_recipe().digest != fit_to_data(recipe, data).digest:
        raise UserError(f"{path} holds a run of another recipe. Choose another --out, or remove it.")
    source, kept = tokenizer_file(data), folder["tokenizer.model"]
    if source is not None and kept.is_file() and kept.read_bytes() != source.read_bytes():
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    if not folder["result.json"].is_file():
        return None
    run = read_finished(path)
    graded = int(run.result["val_tokens"]), run.result.get("interrupted")
    if graded[0] != len(data.val) - 1:
        raise UserError(f"{path} holds a run on other data than {data.path}. Choose another --out, or remove it.")
    return None if graded[1] else run


def _run_one(
    recipe: Recipe, data: Path, tokenizer: Path | None, folder: Path, seed: int, device: str | None, threads: int
) -> Path:
    """The body of one process."""
    torch.set_num_threads(threads)
    opened = open_data(data, tokenizer=tokenizer)
    said = f"pargolf seeds --data {data} --out {folder.parent} --seeds {seed}"
    for _ in run_recipe(recipe, opened, folder, seed=seed, force=True, device=device, command=said):
        pass
    return folder


def seed_rows(runs: Sequence[Finished]) -> list[dict[str, Any]]:
    """A table's rows, by seed."""
    return [
        {
            "seed": run.seed,
            "bpb": run.bpb,
            "loss": float(run.result["val_loss"]),
            "steps": int(run.result["steps"]),
            "bytes": int(run.result["bytes"]["total"]),
            "train_seconds": float(run.result["train_seconds"]),
            "eval_seconds": float(run.result["eval_seconds"]),
            "run": str(run.path),
        }
        for run in sorted(runs, key=lambda run: run.seed)
    ]
