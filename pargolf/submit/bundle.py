"""The folder of a submission: one script, the score of each seed, and the logs that prove them.

    records/TRACK/DATE_NAME/  README.md  submission.json  train_gpt.py  train_seed42.log ...  model_seed42.pargolf ...

The runs must have the same recipe and data, and different seeds. The bytes are those of this script and of each run's
artifact; the total is that of the largest artifact. The folder is created completely or not at all.
"""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.files import write_bytes, write_json, write_text
from pargolf.core.result import UNRECORDED, Grids, mixture
from pargolf.core.stats import Spread, spread
from pargolf.core.work import Events
from pargolf.data.folder import open_data
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_artifact
from pargolf.run.verify import SecondScore, contradictions, rescore
from pargolf.ship.program import addresses, program, shipped
from pargolf.ship.size import SOLVED
from pargolf.study.compare import Finished, finished
from pargolf.submit.readme import readme

SEEDS_OF_A_RECORD = 3
SCRIPT = "train_gpt.py"


@dataclass(frozen=True)
class Bundle:
    """The written submission: folder, bytes of the script in both forms and as shipped, total, cap and score.

    `rescored` is the bits per byte of each seed, scored again from its artifact.
    """

    path: Path
    readable: int
    squeezed: int
    code: int
    total: int
    cap: int
    bpb: Spread
    rescored: dict[int, float]

    @property
    def squeezed_to_fit(self) -> bool:
        """Whether the script was squeezed because the readable one does not fit under the cap."""
        return self.total - self.code + self.readable > self.cap


@dataclass(frozen=True)
class Author:
    """The author, with the fields of `submission.json`."""

    name: str = ""
    github_id: str = ""
    blurb: str = ""


def bundle(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    squeeze: bool = False,
    artifacts: bool = False,
    author: Author | None = None,
    data: str | Path | None = None,
    device: str | None = None,
) -> Events[Bundle]:
    """Check the runs, score their artifacts again on `data` (None: each run's own data), and write the folder `out`.

    The script is squeezed on request, or if the readable one does not fit under the cap. Raises `UserError` if the runs
    do not belong together, contradict their own files, do not count or do not reproduce their score; if there are too
    few seeds for a record track; and if the folder exists.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists. Choose another --out, as records/track_10min_16mb/2026-05-01_Name.")
    finished_runs = sorted(finished(runs), key=lambda run: run.seed)
    recipe = _one_recipe(finished_runs)
    if "10min" in out.parent.name and len(finished_runs) < SEEDS_OF_A_RECORD:
        raise UserError(
            f"{out.parent.name} wants {SEEDS_OF_A_RECORD} seeds and {len(finished_runs)} was given. Run the others: "
            "pargolf seeds; or submit to a non-record track."
        )
    solved = any(run.result.grids is Grids.SOLVED for run in finished_runs)
    also = (*_parts(finished_runs), *(SOLVED if solved or recipe.quant.fill else ()))
    readable = program(recipe, fitted=solved, also=also).encode()
    small = shipped(recipe, fitted=solved, also=also)
    script = _fitting(finished_runs, recipe, readable, small, squeeze=squeeze)
    rescored: dict[int, float] = {}
    for run in finished_runs:
        second = yield from _scored_again(run, data, device)
        rescored[run.seed] = second.bpb
    facts = _facts(finished_runs, recipe, len(script), out, author or Author())
    with _new_folder(out) as folder:
        write_bytes(folder / SCRIPT, script)
        write_json(folder / "submission.json", facts)
        write_text(folder / "README.md", readme(finished_runs, recipe, facts, rescored, script=SCRIPT))
        for run in finished_runs:
            files = RunFolder.open(run.path)
            shutil.copyfile(files["train.log"], folder / f"train_seed{run.seed}.log")
            if artifacts:
                shutil.copyfile(files["model.pargolf"], folder / f"model_seed{run.seed}.pargolf")
    scores = spread([run.bpb for run in finished_runs])
    total, cap = facts["bytes_total"], recipe.budget.bytes
    return Bundle(out, len(readable), len(small), len(script), total, cap, scores, rescored)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when all is written; on an error nothing of it stays."""
    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fitting(runs: Sequence[Finished], recipe: Recipe, readable: bytes, small: bytes, *, squeeze: bool) -> bytes:
    """The script to ship: readable if that fits beside the largest artifact, else squeezed. Raises `UserError`."""
    model, cap = max(run.result.bytes.model for run in runs), recipe.budget.bytes
    if not squeeze and model + len(readable) <= cap:
        return readable
    if model + len(small) > cap:
        raise UserError(
            f"The model takes {model:,} bytes and the squeezed script {len(small):,}: over the cap of {cap:,}. "
            "Pack the runs smaller."
        )
    return small


def _one_recipe(runs: Sequence[Finished]) -> Recipe:
    """The recipe of all runs. Raises `UserError` if they differ in recipe or data, or if one does not count."""
    if not runs:
        raise UserError("Name at least one run folder.")
    recipes = [RunFolder.open(run.path).read_recipe() for run in runs]
    if len({recipe.digest for recipe in recipes}) > 1:
        other = next(i for i, recipe in enumerate(recipes) if recipe.digest != recipes[0].digest)
        raise UserError(
            f"{runs[0].path} and {runs[other].path} are of different recipes. A submission has one; compare them with "
            "`pargolf compare`."
        )
    if len({run.seed for run in runs}) < len(runs):
        raise UserError("Two of the runs have the same seed. Name each seed's run once.")
    if mixed := mixture([run.result for run in runs]):
        raise UserError(f"The runs were scored on {mixed}. A submission's seeds share one validation set.")
    if len({run.result.artifact_sha256 for run in runs}) < len(runs):
        raise UserError("Two of the runs have the same artifact, so they are copies. Run each seed.")
    for run in runs:
        _refuse_unsound(run)
    return recipes[0]


def _refuse_unsound(run: Finished) -> None:
    """Raise `UserError` if a run does not count, started from other weights, or contradicts its own files."""
    if run.result.origin is not None:
        raise UserError(
            f"{run.path} started from the weights of {run.result.origin.path}, which a script does not have. Train "
            "the recipe from its initial weights."
        )
    # A missing proof is no reason to refuse the run, because scoring it again proves the bytes.
    if reasons := [reason for reason in run.result.why_not if reason != UNRECORDED]:
        raise UserError(f"{run.path} does not count: {'; '.join(reasons)}. Run that seed again.")
    if wrong := contradictions(RunFolder.open(run.path)):
        raise UserError(f"{run.path}: {wrong[0]} Run that seed again.")


def _scored_again(run: Finished, data: str | Path | None, device: str | None) -> Events[SecondScore]:
    """Score a run's artifact again. Raises `UserError` on any difference from the run's result."""
    own = data or run.result.data or _data_named(run.result.command)
    if not own:
        raise UserError(f"{run.path} does not say which data it was scored on. Name them with --data.")
    if not Path(own).is_dir():
        raise UserError(f"{run.path} was scored on {own}, which is missing. Name the data with --data.")
    second = yield from rescore(RunFolder.open(run.path), open_data(own), device=device)
    if second.differences:
        raise UserError(f"{run.path}: {second.differences[0]} Run that seed again, or name its own --data.")
    return second


def _data_named(command: str) -> str:
    """The folder after `--data` in a command; empty if there is none."""
    try:
        words = shlex.split(command)
    except ValueError:  # a quote that is never closed
        return ""
    return next((folder for option, folder in pairwise(words) if option == "--data"), "")


def _parts(runs: Sequence[Finished]) -> tuple[str, ...]:
    """The classes and functions that the artifacts name; solved grids may differ from the recipe's."""
    in_artifacts: set[str] = set()
    for run in runs:
        artifact = read_artifact(RunFolder.open(run.path)["model.pargolf"]).artifact
        in_artifacts |= addresses(artifact.meta)
        for tensor in artifact.tensors.values():
            in_artifacts |= addresses(getattr(tensor, "grid", None))
    return tuple(sorted(in_artifacts))


def _facts(runs: Sequence[Finished], recipe: Recipe, code: int, out: Path, author: Author) -> dict[str, Any]:
    """The content of `submission.json`: the published fields, and every seed."""
    bpb, loss = spread([run.bpb for run in runs]), spread([run.result.val_loss for run in runs])
    model = max(run.result.bytes.model for run in runs)
    return {
        "author": author.name,
        "github_id": author.github_id,
        "name": recipe.name,
        "blurb": author.blurb or f"{recipe.name}, mean of {len(runs)} seed(s). {recipe.source}",
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "track": out.parent.name,
        "val_loss": loss.mean,
        "val_bpb": bpb.mean,
        "val_bpb_std": bpb.sd,
        "bytes_total": model + code,
        "bytes_code": code,
        "bytes_model": model,
        "val_tokens": runs[0].result.val_tokens,
        "val_bytes": runs[0].result.val_bytes,
        "val_proof": None if runs[0].result.proof is None else asdict(runs[0].result.proof),
        "train_time_seconds": max(run.result.train_seconds for run in runs),
        "eval_time_seconds": max(run.result.eval_seconds for run in runs),
        "hardware": _hardware(runs[0]),
        "recipe_digest": recipe.digest,
        "seed_results": {str(run.seed): _seed(run, code) for run in runs},
    }


def _seed(run: Finished, code: int) -> dict[str, Any]:
    result = run.result
    return {
        "val_loss": result.val_loss,
        "val_bpb": result.val_bpb,
        "artifact_bytes": result.bytes.model + code,
        "steps": result.steps,
        "train_time_seconds": result.train_seconds,
        "eval_time_seconds": result.eval_seconds,
    }


def _hardware(run: Finished) -> str:
    machine = run.result.machine
    return f"{machine.world_size}x {machine.processor}, torch {machine.torch}"
