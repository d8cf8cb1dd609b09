"""The folder of a model for Hugging Face transformers: its code, its tokenizer's code, and a card with its score.

The score is that of the run whose folder contains the artifact, if that run made exactly this artifact.
"""

from pathlib import Path

from pargolf.core.result import Result
from pargolf.data.meta import file_sha256
from pargolf.exporting.card import model_card
from pargolf.exporting.huggingface import write_folder
from pargolf.exporting.source import Source
from pargolf.recipes.describe import describe
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.ship.modeling import modeling_file, tokenization_file


def write_model_folder(source: Source, artifact: str | Path, out: Path, *, licence: str, force: bool) -> Path:
    """Write the folder `out` and return its path. `licence` is the licence of the weights, for the card."""
    recipe, result = _run_around(artifact)
    rows = f"digest {source.digest}" if recipe is None else describe(recipe)
    return write_folder(
        source,
        out,
        modeling=modeling_file(source.model.spec, source.recipe),
        tokenization=tokenization_file(source.recipe),
        card=model_card(source, rows=rows, result=result, licence=licence),
        force=force,
    )


def _run_around(artifact: str | Path) -> tuple[Recipe | None, Result | None]:
    """The recipe and result of the run whose folder contains the artifact; None if there is none."""
    folder = Path(artifact).parent
    if not (folder / "recipe.json").is_file() or not (folder / "result.json").is_file():
        return None, None
    run = RunFolder.open(folder)
    result = run.read_result()
    return (run.read_recipe(), result) if result.artifact_sha256 == file_sha256(Path(artifact)) else (None, None)
