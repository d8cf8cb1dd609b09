"""Commands that hand a model to other tools: export it."""

from pathlib import Path
from typing import Annotated

import typer

from pargolf.cli.terminal import ForceOpt, OwnOpt, console, set_threads

ArtifactArg = Annotated[Path, typer.Argument(help="A model.pargolf file.")]
TokenizerOpt = Annotated[Path | None, typer.Option(help="The .model file; beside the artifact when left out.")]


def export(
    artifact: ArtifactArg,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    to: Annotated[str, typer.Option(help="hf: a folder for Hugging Face transformers.")] = "hf",
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
