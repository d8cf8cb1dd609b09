"""Commands that hand a model to other tools: export it, evaluate other people's tasks on it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pargolf.cli.terminal import ForceOpt, JsonOpt, OwnOpt, ThreadsOpt, console, set_threads

ArtifactArg = Annotated[Path, typer.Argument(help="A model.pargolf file.")]
TokenizerOpt = Annotated[Path | None, typer.Option(help="The .model file; beside the artifact when left out.")]


def export(
    artifact: ArtifactArg,
    out: Annotated[Path, typer.Option(help="The folder or file to write.")],
    to: Annotated[str, typer.Option(help="hf (a folder for transformers), onnx or safetensors (a file).")] = "hf",
    licence: Annotated[str, typer.Option(help="The weights' licence, for the model card.")] = "unknown",
    tokenizer: TokenizerOpt = None,
    force: ForceOpt = False,
    own: OwnOpt = None,
) -> None:
    """Write an artifact as another tool reads it."""
    set_threads(1)
    from pargolf import api

    made = api.export(artifact, to=to, out=out, licence=licence, tokenizer=tokenizer, force=force, own=own or ())
    console.print(f"wrote {made}", soft_wrap=True)


def evaluate(
    artifact: ArtifactArg,
    tasks: Annotated[str, typer.Option(help="Names of tasks, as lambada_openai,blimp.")],
    include: Annotated[Path | None, typer.Option(help="A folder with YAML files of tasks of one's own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Samples of each task at the most.", min=1)] = None,
    tokenizer: TokenizerOpt = None,
    as_json: JsonOpt = False,
    threads: ThreadsOpt = 0,
    own: OwnOpt = None,
) -> None:
    """Evaluate tasks of lm-evaluation-harness on an artifact."""
    set_threads(threads)
    from pargolf import api

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    rows = api.evaluate_tasks(artifact, names, include=include, limit=limit, tokenizer=tokenizer, own=own or ())
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    table = Table("task", "metric", "value", "standard error", "samples", box=None, header_style="bold")
    for row in rows:
        error = "" if row.stderr is None else f"{row.stderr:.4f}"
        table.add_row(*map(Text, (row.task, row.metric, f"{row.value:.6f}", error, f"{row.samples:,}")))
    console.print(table)
