"""The README of a submission: scores, checks, how to run it, and every row of the recipe."""

from collections.abc import Mapping, Sequence
from typing import Any

from pargolf.core.spec import rows
from pargolf.core.stats import spread
from pargolf.recipes.recipe import Recipe
from pargolf.study.compare import Finished

_CHECKED = (
    "When this folder was written, each artifact was scored again on the data, without a limit of seconds. Every score "
    "of the unpacked model, each document's, the counts of tokens and bytes, what the bytes rest on, the hashes and "
    "the overlap with the training text came out as the run says; result, recipe, artifact, events and log agree. Not "
    "checked: seconds, the steps of training, and the score before packing, which only training again would show."
)


def readme(
    runs: Sequence[Finished], recipe: Recipe, facts: Mapping[str, Any], rescored: Mapping[int, float], *, script: str
) -> str:
    """The README as Markdown; `facts` is `submission.json`, `rescored` the bits per byte of each seed scored again."""
    bpb = spread([run.bpb for run in runs])
    sd = "" if bpb.sd is None else f", standard deviation {bpb.sd:.6f}"
    lines = [
        f"# {recipe.name}: {bpb.mean:.4f} bits per byte",
        "",
        f"Mean of {bpb.n} seed(s): val_bpb {bpb.mean:.6f}{sd}. "
        f"Artifact {facts['bytes_total']:,} bytes at most (model {facts['bytes_model']:,} + code "
        f"{facts['bytes_code']:,}) of {recipe.budget.bytes:,}.",
        "",
        "| seed | val_loss | val_bpb | scored again | artifact bytes | steps | train s | eval s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, row in facts["seed_results"].items():
        lines.append(
            f"| {seed} | {row['val_loss']:.8f} | {row['val_bpb']:.8f} | {rescored[int(seed)]:.8f} "
            f"| {row['artifact_bytes']:,} | {row['steps']:,} "
            f"| {row['train_time_seconds']:.1f} | {row['eval_time_seconds']:.1f} |"
        )
    lines += ["", f"Measured on {facts['hardware']}.", ""]
    lines += ["## What was scored, and checked", ""]
    lines += [f"- seed {run.seed}: {run.result.sentence}" for run in runs]
    lines += ["", _CHECKED, "", *_hashes(runs[0])]
    lines += ["## Run it", "", "```", *_commands(runs, script), "```", ""]
    lines += [
        "The script needs torch, numpy, sentencepiece, constriction and brotli (and backports.zstd for zstd).",
        "",
    ]
    lines += ["## Credits", "", f"{recipe.source}. Trained, packed and written with pargolf.", ""]
    lines += ["## Recipe", "", "| row | value |", "|---|---|"]
    lines += [f"| `{_cell(path)}` | {_cell(value)} |" for path, value in rows(recipe).items()]
    return "\n".join(lines) + "\n"


def _hashes(run: Finished) -> list[str]:
    """SHA-256 of the tokenizer and the validation shards, if the run recorded them."""
    proof = run.result.proof
    if proof is None:
        return []
    shards = [f"| `{_cell(name)}` | `{digest}` |" for name, digest in proof.shards_sha256.items()]
    return ["| file | SHA-256 |", "|---|---|", f"| tokenizer | `{proof.tokenizer_sha256}` |", *shards, ""]


def _commands(runs: Sequence[Finished], script: str) -> list[str]:
    """Commands that train each seed and score an artifact, with the run's number of threads for equal bits."""
    threads = runs[0].result.machine.threads
    train = [f"python {script} --data DIR --seed {run.seed} --out model_seed{run.seed}.pargolf" for run in runs]
    return [*train, f"python {script} --evaluate model_seed{runs[0].seed}.pargolf --data DIR --threads {threads}"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
