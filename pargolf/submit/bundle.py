"""The folder of a submission: one script, what it scored seed by seed, and the logs that say so.

    records/TRACK/DATE_NAME/  README.md  submission.json  train_gpt.py  train_seed42.log ...  model_seed42.pargolf ...

The runs must be of one recipe, on one data, each with another seed. Bytes are those of this very script and of each
run's artifact, and the total is that of the largest. The folder appears whole or not at all.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pargolf.core.errors import UserError
from pargolf.core.files import write_bytes, write_json, write_text
from pargolf.core.spec import rows
from pargolf.core.stats import Spread, spread
from pargolf.data.meta import file_sha256
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_artifact
from pargolf.ship.program import addresses, program, shipped
from pargolf.ship.size import SOLVED
from pargolf.study.compare import Finished, finished

SEEDS_OF_A_RECORD = 3
SCRIPT = "train_gpt.py"


@dataclass(frozen=True)
class Bundle:
    """What was written: the folder, the script's bytes in both forms and as shipped, the total, the cap."""

    path: Path
    readable: int
    squeezed: int
    code: int
    total: int
    cap: int
    bpb: Spread


@dataclass(frozen=True)
class Author:
    """Who submits, as `submission.json` has it."""

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
) -> Bundle:
    """Write the folder `out`. Raises `UserError` on runs that do not belong together, and on a folder that exists.

    Also on fewer than three seeds where the track is one of records, and on an artifact that is not its run's.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists. Choose another --out, as records/track_10min_16mb/2026-05-01_Name.")
    found = sorted(finished(runs), key=lambda run: run.seed)
    recipe = _one_recipe(found)
    if "10min" in out.parent.name and len(found) < SEEDS_OF_A_RECORD:
        raise UserError(
            f"{out.parent.name} wants {SEEDS_OF_A_RECORD} seeds and {len(found)} was given. Run the others: "
            "pargolf seeds; or submit to a non-record track."
        )
    narrowed = any(run.result.get("grids", "").startswith("narrowed") for run in found)
    also = (*_parts(found), *(SOLVED if narrowed or recipe.quant.fill else ()))
    readable = program(recipe, fitted=narrowed, also=also).encode()
    small = shipped(recipe, fitted=narrowed, also=also)
    script = small if squeeze else readable
    _check_cap(found, recipe, len(script), len(small))
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        write_bytes(beside / SCRIPT, script)
        facts = _facts(found, recipe, len(script), out, author or Author())
        write_json(beside / "submission.json", facts)
        write_text(beside / "README.md", _readme(found, recipe, facts))
        for run in found:
            folder = RunFolder.open(run.path)
            shutil.copyfile(folder["train.log"], beside / f"train_seed{run.seed}.log")
            if artifacts:
                shutil.copyfile(folder["model.pargolf"], beside / f"model_seed{run.seed}.pargolf")
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    scores = spread([run.bpb for run in found])
    total, cap = facts["bytes_total"], recipe.budget.bytes
    return Bundle(out, len(readable), len(small), len(script), total, cap, scores)


def _check_cap(runs: Sequence[Finished], recipe: Recipe, code: int, small: int) -> None:
    """Raise `UserError` where the largest artifact and the script together are over the recipe's cap."""
    model, cap = max(int(run.result["bytes"]["model"]) for run in runs), recipe.budget.bytes
    if model + code > cap:
        fits = f"With --squeeze it takes {small:,} and fits." if model + small <= cap else "Pack the runs smaller."
        raise UserError(f"The model takes {model:,} bytes and this script {code:,}: over the cap of {cap:,}. {fits}")


def _one_recipe(runs: Sequence[Finished]) -> Recipe:
    """The recipe of all runs. Raises `UserError` where they are not of one kind."""
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
        raise UserError("Two of the runs have one seed. Name each seed's run once.")
    if len({(run.result["val_tokens"], run.result["val_bytes"]) for run in runs}) > 1:
        raise UserError("The runs graded different data. A submission's seeds share one validation set.")
    tokenizers = set()
    for run in runs:
        folder = RunFolder.open(run.path)
        held = read_artifact(folder["model.pargolf"])
        tokenizers.add(held.tokenizer)
        if file_sha256(folder["model.pargolf"]) != run.result.get("artifact_sha256"):
            raise UserError(
                f"{folder['model.pargolf']} is not what {run.path} scored: it was packed again. Run it again."
            )
        if run.result.get("interrupted"):
            raise UserError(f"{run.path} was interrupted before its budget was spent. Run that seed again.")
        if not folder["train.log"].is_file():
            raise UserError(f"{run.path} has no train.log, and nobody can check a run without one. Run it again.")
    if len(tokenizers) > 1:
        raise UserError("The runs were trained with different tokenizers. A submission's seeds share one data.")
    return recipes[0]


def _parts(runs: Sequence[Finished]) -> tuple[str, ...]:
    """Classes and functions that the artifacts name: a filled cap may have chosen others than the recipe has."""
    named: set[str] = set()
    for run in runs:
        held = read_artifact(RunFolder.open(run.path)["model.pargolf"]).artifact
        named |= addresses(held.meta)
        for tensor in held.tensors.values():
            named |= addresses(getattr(tensor, "grid", None))
    return tuple(sorted(named))


def _facts(runs: Sequence[Finished], recipe: Recipe, code: int, out: Path, author: Author) -> dict[str, Any]:
    """What `submission.json` says: the published fields, and every seed."""
    bpb, loss = (spread([float(run.result[key]) for run in runs]) for key in ("val_bpb", "val_loss"))
    model = max(int(run.result["bytes"]["model"]) for run in runs)
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
        "val_tokens": runs[0].result["val_tokens"],
        "val_bytes": runs[0].result["val_bytes"],
        "train_time_seconds": max(float(run.result["train_seconds"]) for run in runs),
        "eval_time_seconds": max(float(run.result["eval_seconds"]) for run in runs),
        "hardware": _hardware(runs[0]),
        "recipe_digest": recipe.digest,
        "seed_results": {str(run.seed): _seed(run, code) for run in runs},
    }


def _seed(run: Finished, code: int) -> dict[str, Any]:
    result = run.result
    return {
        "val_loss": result["val_loss"],
        "val_bpb": result["val_bpb"],
        "artifact_bytes": result["bytes"]["model"] + code,
        "steps": result["steps"],
        "train_time_seconds": result["train_seconds"],
        "eval_time_seconds": result["eval_seconds"],
    }


def _hardware(run: Finished) -> str:
    machine = run.result.get("machine", {})
    return f"{machine.get('world_size', 1)}x {machine.get('processor', 'unknown')}, torch {machine.get('torch', '?')}"


def _readme(runs: Sequence[Finished], recipe: Recipe, facts: dict[str, Any]) -> str:
    """What it is, what it scored, how to run it, where it comes from, and every row of the recipe."""
    bpb = spread([run.bpb for run in runs])
    sd = "" if bpb.sd is None else f", standard deviation {bpb.sd:.6f}"
    lines = [
        f"# {recipe.name}: {bpb.mean:.4f} bits per byte",
        "",
        f"Mean of {bpb.n} seed(s): val_bpb {bpb.mean:.6f}{sd}. "
        f"Artifact {facts['bytes_total']:,} bytes at most (model {facts['bytes_model']:,} + code "
        f"{facts['bytes_code']:,}) of {recipe.budget.bytes:,}.",
        "",
        "| seed | val_loss | val_bpb | artifact bytes | steps | train s | eval s |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, row in facts["seed_results"].items():
        lines.append(
            f"| {seed} | {row['val_loss']:.8f} | {row['val_bpb']:.8f} | {row['artifact_bytes']:,} | {row['steps']:,} "
            f"| {row['train_time_seconds']:.1f} | {row['eval_time_seconds']:.1f} |"
        )
    lines += ["", f"Measured on {facts['hardware']}. Every token is graded once, by what was unpacked.", ""]
    lines += ["## Run it", "", "```", *_commands(runs), "```", ""]
    lines += [
        "The script needs torch, numpy, sentencepiece, constriction and brotli (and backports.zstd for zstd).",
        "",
    ]
    lines += ["## Credits", "", f"{recipe.source}. Trained, packed and written with pargolf.", ""]
    lines += ["## Recipe", "", "| row | value |", "|---|---|"]
    lines += [f"| `{_cell(path)}` | {_cell(value)} |" for path, value in rows(recipe).items()]
    return "\n".join(lines) + "\n"


def _commands(runs: Sequence[Finished]) -> list[str]:
    """Train each seed; and score an artifact, with the threads that the run had, for the same last bit."""
    threads = runs[0].result.get("machine", {}).get("threads", 1)
    train = [f"python {SCRIPT} --data DIR --seed {run.seed} --out model_seed{run.seed}.pargolf" for run in runs]
    return [*train, f"python {SCRIPT} --evaluate model_seed{runs[0].seed}.pargolf --data DIR --threads {threads}"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
