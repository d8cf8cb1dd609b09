"""Read trained models back: the model with its tokenizer, the cost of a text, weights to start from.

source = read_source("runs/a/model.pargolf")        model, tokenizer, window, recipe
losses = losses_of(source, "a text")                nats and bytes of each token
start = read_start("runs/a")                        weights for another run, and their origin
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pargolf.core.errors import UserError
from pargolf.core.result import StartedFrom
from pargolf.core.spec import diff
from pargolf.data.byte_table import count_bytes
from pargolf.data.folder import DataFolder
from pargolf.data.meta import file_sha256
from pargolf.data.tokens import Tokenizer
from pargolf.evaluate.bpb import bits_per_byte
from pargolf.evaluate.texts import score_texts
from pargolf.exporting.source import Source, tokenizer_of
from pargolf.model.transformer import Model, Transformer, shapes
from pargolf.recipes.recipe import Recipe
from pargolf.run.folder import RunFolder
from pargolf.run.pack import read_artifact
from pargolf.run.score import tokenizer_digest


class LoadedModel(NamedTuple):
    """A model in eval mode, `ids (B, T) int64 -> logits (B, T, V)` float32, and its tokenizer."""

    model: Transformer
    tokenizer: Tokenizer


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """The cost of each of a text's N tokens: `nats` (N,) float32 for `bytes` (N,) int64 of text.

    `ids` (N,) int64 and `pieces` are the tokens; the joined pieces are the text, unless a character is split.
    """

    ids: NDArray[np.int64]
    pieces: tuple[str, ...]
    nats: NDArray[np.float32]
    bytes: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The score, and a row per token, for JSON: id, piece, cost in nats, bytes of text."""
        columns = zip(self.ids.tolist(), self.pieces, self.nats.tolist(), self.bytes.tolist())
        tokens = [{"id": i, "piece": piece, "nats": nats, "bytes": size} for i, piece, nats, size in columns]
        return {"bpb": self.bpb, "tokens": tokens}

    @property
    def bpb(self) -> float:
        """Bits per byte of the whole text."""
        return bits_per_byte(float(self.nats.sum(dtype=np.float64)), int(self.bytes.sum()))


def read_source(artifact: str | Path, tokenizer: str | Path | None = None) -> Source:
    """Read an artifact with its tokenizer: the file beside it, or the given one.

    Raises `UserError` when the artifact is damaged or of a newer format, and when its tokenizer is missing or a
    different one.
    """
    unpacked = read_artifact(artifact)
    codec = tokenizer_of(artifact, unpacked.tokenizer, tokenizer)
    size = Path(artifact).stat().st_size
    return Source(unpacked.model, codec, unpacked.plain.length, unpacked.recipe, unpacked.digest, size, unpacked.adapt)


def losses_of(source: Source, text: str) -> TokenLosses:
    """The cost of each token of a text, read as one document. Raises `UserError` for an empty text."""
    tokenizer, vocab = source.tokenizer, source.model.spec.vocab
    ids = np.asarray(tokenizer.encode(text), dtype=np.int64)
    if not len(ids):
        raise UserError("The text is empty, so there is no token to score.")
    (grades,) = score_texts(source.model, [[tokenizer.bos, *ids]], vocab=vocab, length=source.length)
    stream = np.concatenate([[tokenizer.bos], ids])
    counts = count_bytes(tokenizer.byte_table(vocab), stream[:-1], stream[1:])
    return TokenLosses(ids, tuple(tokenizer.decode([int(token)]) for token in ids), grades.nats, counts)


@dataclass(frozen=True, eq=False)
class Start:
    """Weights to start a run from, by name; their model, the SHA-256 of their tokenizer, and their origin."""

    weights: dict[str, Tensor]
    model: Model
    tokenizer: str
    origin: StartedFrom

    def fits(self, recipe: Recipe, data: DataFolder) -> None:
        """Raise `UserError` when the data has another tokenizer, or the recipe's model has other weight shapes."""
        if tokenizer_digest(data) != self.tokenizer:
            raise UserError(
                f"{data.path} has another tokenizer than {self.origin.path} was trained with. Prepare the data with "
                "that one: data prepare --tokenizer."
            )
        expected = {name: tuple(shape) for name, shape in shapes(recipe.model).items() if not _ahead(name)}
        shapes_here = {name: tuple(w.shape) for name, w in self.weights.items() if not _ahead(name)}
        if expected == shapes_here:
            return
        rows = diff(self.model, recipe.model)
        named = "; ".join(f"model.{row}: {old or 'absent'} -> {new or 'absent'}" for row, (old, new) in rows.items())
        raise UserError(f"The weights of {self.origin.path} do not fit the recipe ({named}). Change these rows back.")


def read_start(path: str | Path) -> Start:
    """Read the trained weights of a run folder, or the unpacked weights of an artifact.

    Raises `UserError` when there are none, or they are damaged.
    """
    path = Path(path)
    if path.is_dir():
        folder = RunFolder.open(path)
        recipe, weights, _ = folder.read_packable()
        tokenizer = folder.tokenizer_digest()
        origin = _origin(path, file_sha256(folder["weights.safetensors"]), recipe.name, recipe.digest, path)
        return Start(weights, recipe.model, tokenizer, origin)
    unpacked = read_artifact(path)
    weights = {name: p.detach() for name, p in unpacked.model.named_parameters()}
    origin = _origin(path, file_sha256(path), unpacked.recipe, unpacked.digest, path.parent)
    return Start(weights, unpacked.model.spec, unpacked.tokenizer, origin)


def _origin(path: Path, sha256: str, recipe: str, digest: str, run: Path) -> StartedFrom:
    """The origin of weights; their training time is taken from the result of their run, if there is one."""
    seconds = None
    if (run / "result.json").is_file():
        result = RunFolder(run).read_result()
        if path.is_dir() or result.artifact_sha256 == sha256:
            seconds = result.all_train_seconds
    return StartedFrom(str(path), sha256, recipe, digest, seconds)


def _ahead(name: str) -> bool:
    """Whether a parameter belongs to a multi-token head, which only training uses."""
    return name.startswith("head.ahead.")
