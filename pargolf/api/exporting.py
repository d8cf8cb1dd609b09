"""A model that leaves the house: loaded in Python, exported for other tools, evaluated by other people's tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pargolf.api.recipes import Own
from pargolf.core.errors import UserError, near
from pargolf.core.extras import extra
from pargolf.core.own import use
from pargolf.core.result import Result
from pargolf.data.meta import file_sha256
from pargolf.data.tokens import Tokenizer, count_bytes
from pargolf.evaluate.bpb import bits_per_byte
from pargolf.evaluate.texts import score_texts
from pargolf.exporting.card import model_card
from pargolf.exporting.huggingface import write_folder
from pargolf.exporting.source import Source, tokenizer_of
from pargolf.exporting.tensors import write_tensors
from pargolf.model.transformer import Transformer
from pargolf.recipes.describe import describe
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_artifact
from pargolf.ship.modeling import modeling_file, tokenization_file

if TYPE_CHECKING:
    from pargolf.exporting.harness import TaskScore

TARGETS = ("hf", "onnx", "safetensors")
"""What an artifact can be exported to."""


class Loaded(NamedTuple):
    """A model in eval mode, `ids (B, T) int64 -> logits (B, T, V)` float32, and its tokenizer."""

    model: Transformer
    tokenizer: Tokenizer


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """What each of a text's N tokens costs: `nats` (N,) float32, and the `bytes` (N,) int64 of text it stands for.

    `ids` (N,) int64 and `pieces` are the tokens; the pieces' texts, joined, are the text where no character is split.
    """

    ids: NDArray[np.int64]
    pieces: tuple[str, ...]
    nats: NDArray[np.float32]
    bytes: NDArray[np.int64]

    @property
    def bpb(self) -> float:
        """Bits per byte of the whole text."""
        return bits_per_byte(float(self.nats.sum(dtype=np.float64)), int(self.bytes.sum()))


def load(artifact: str | Path, *, tokenizer: str | Path | None = None, own: Own = ()) -> Loaded:
    """Read an artifact: `model, tokenizer = pargolf.load("model.pargolf")`.

    The tokenizer is the file beside the artifact, or the one named. `own`: files of techniques that the artifact uses,
    which are run. Raises `UserError` where the artifact is damaged or of a newer format, and where its tokenizer is not
    there or is another one.
    """
    source = read_source(artifact, tokenizer, own)
    return Loaded(source.model, source.tokenizer)


def token_losses(artifact: str | Path, text: str, *, tokenizer: str | Path | None = None, own: Own = ()) -> TokenLosses:
    """What each token of a text costs the model, read as one document.

    Each token sees at least three quarters of a window of the artifact's length, or all of the text before it. Raises
    `UserError` as `load` does, and for an empty text.
    """
    source = read_source(artifact, tokenizer, own)
    words = source.tokenizer
    ids = np.asarray(words.encode(text), dtype=np.int64)
    if not len(ids):
        raise UserError("The text is empty, so there is no token to score.")
    (grades,) = score_texts(source.model, [[words.bos, *ids]], vocab=source.model.spec.vocab, length=source.length)
    stream = np.concatenate([[words.bos], ids])
    counts = count_bytes(words.byte_table(source.model.spec.vocab), stream[:-1], stream[1:])
    return TokenLosses(ids, tuple(words.decode([int(token)]) for token in ids), grades.nats, counts)


def export(
    artifact: str | Path,
    *,
    to: str = "hf",
    out: str | Path,
    licence: str = "unknown",
    tokenizer: str | Path | None = None,
    force: bool = False,
    own: Own = (),
) -> Path:
    """Write an artifact as another tool reads it; returns what was written.

    `hf`: a folder for `AutoModelForCausalLM` and `AutoTokenizer` of Hugging Face transformers, with a model card that
    takes the score from the run's folder around the artifact, where there is one. `licence` is what the card says of
    the weights. `onnx`: a graph that was checked in ONNX Runtime. `safetensors`: the weights alone, float32. Raises
    `UserError` as `load` does, where `out` exists and `force` is not given, and for a model that cannot be traced.
    """
    if to not in TARGETS:
        raise UserError(f"'{to}' is no target of an export.{near(to, TARGETS)}")
    source, out = read_source(artifact, tokenizer, own), Path(out)
    if to == "hf":
        return _folder(source, artifact, out, licence=licence, force=force)
    if out.is_dir() or (out.exists() and not force):
        raise UserError(f"{out} exists. Choose another --out" + ("." if out.is_dir() else ", or say --force."))
    out.parent.mkdir(parents=True, exist_ok=True)
    if to == "onnx":
        extra("pargolf.exporting.onnx", "onnx").write_onnx(source, out)
    else:
        write_tensors(source, out)
    return out


def _folder(source: Source, artifact: str | Path, out: Path, *, licence: str, force: bool) -> Path:
    """The folder for transformers."""
    recipe, result = _run_of(artifact)
    rows = f"digest {source.digest}" if recipe is None else describe(recipe)
    return write_folder(
        source,
        out,
        modeling=modeling_file(source.model.spec, source.recipe),
        tokenization=tokenization_file(source.recipe),
        card=model_card(source, rows=rows, result=result, licence=licence),
        force=force,
    )


def evaluate_tasks(
    artifact: str | Path,
    tasks: Sequence[str],
    *,
    include: str | Path | None = None,
    limit: int | None = None,
    tokenizer: str | Path | None = None,
    own: Own = (),
) -> "list[TaskScore]":
    """Evaluate tasks of lm-evaluation-harness by name (`lambada_openai`, `blimp`); a row per metric.

    `include` is a folder with YAML files of tasks of one's own, and `limit` caps the samples of each task. Raises
    `UserError` for a task that the harness does not know, and where its data cannot be had.
    """
    if not tasks:
        raise UserError("Name at least one task, as lambada_openai.")
    source = read_source(artifact, tokenizer, own)
    harness = extra("pargolf.exporting.harness", "eval")
    rows: list[TaskScore] = harness.run_tasks(harness.HarnessModel(source), tasks, include=include, limit=limit)
    return rows


def read_source(artifact: str | Path, tokenizer: str | Path | None = None, own: Own = ()) -> Source:
    """The artifact with its tokenizer."""
    use(own)
    unpacked = read_artifact(artifact)
    words = tokenizer_of(artifact, unpacked.tokenizer, tokenizer)
    size = Path(artifact).stat().st_size
    return Source(unpacked.model, words, unpacked.plain.length, unpacked.recipe, unpacked.digest, size)


def _run_of(artifact: str | Path) -> tuple[Recipe | None, Result | None]:
    """The recipe and result of the run in whose folder an artifact lies; None where it lies in none."""
    folder = Path(artifact).parent
    if not (folder / "recipe.json").is_file() or not (folder / "result.json").is_file():
        return None, None
    run = RunFolder.open(folder)
    result = run.read_result()
    return (run.read_recipe(), result) if result.artifact_sha256 == file_sha256(Path(artifact)) else (None, None)
