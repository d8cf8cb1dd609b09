"""A packed model as Python values: the model with its tokenizer, and what each token of a text costs it.

source = read_source("runs/a/model.pargolf")            model, tokenizer, window, who made it
losses = losses_of(source, "a text")                    nats and bytes of each of its tokens
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pargolf.core.errors import UserError
from pargolf.data.tokens import Tokenizer, count_bytes
from pargolf.evaluate.bpb import bits_per_byte
from pargolf.evaluate.texts import score_texts
from pargolf.exporting.source import Source, tokenizer_of
from pargolf.model.transformer import Transformer
from pargolf.run.pack import read_artifact


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


def read_source(artifact: str | Path, tokenizer: str | Path | None = None) -> Source:
    """Read an artifact with its tokenizer: the file beside it, or the one named.

    Raises `UserError` where the artifact is damaged or of a newer format, and where its tokenizer is not there or is
    another one.
    """
    unpacked = read_artifact(artifact)
    words = tokenizer_of(artifact, unpacked.tokenizer, tokenizer)
    size = Path(artifact).stat().st_size
    return Source(unpacked.model, words, unpacked.plain.length, unpacked.recipe, unpacked.digest, size, unpacked.adapt)


def losses_of(source: Source, text: str) -> TokenLosses:
    """What each token of a text costs, read as one document. Raises `UserError` for an empty text."""
    words, vocab = source.tokenizer, source.model.spec.vocab
    ids = np.asarray(words.encode(text), dtype=np.int64)
    if not len(ids):
        raise UserError("The text is empty, so there is no token to score.")
    (grades,) = score_texts(source.model, [[words.bos, *ids]], vocab=vocab, length=source.length)
    stream = np.concatenate([[words.bos], ids])
    counts = count_bytes(words.byte_table(vocab), stream[:-1], stream[1:])
    return TokenLosses(ids, tuple(words.decode([int(token)]) for token in ids), grades.nats, counts)
