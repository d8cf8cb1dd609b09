"""Facts of a text that a plan needs: its size, its tokens, and how hard it is to predict.

Hardness is measured with xz: bits per byte of a sample of at most 1 MiB, divided by the same for an equally large
sample of the text that the law was fitted on. This is crude: it sees repeats and spelling, not meaning. The forecast's
interval allows for that.
"""

import hashlib
import lzma
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.ranges import Count, Positive
from pargolf.core.work import Events
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.read.files import EMBEDDED, STANDARD_INPUT, find_files, read_documents
from pargolf.data.read.hub import with_fetched
from pargolf.study.planning.law import Law

SAMPLE = 1 << 20
LEAST = 20_000
"""Fewest bytes of text for a plan: enough for some batches, and for a part held out to score."""
_PIECE = 1 << 14  # bytes of one document in the sample
_TOKENS = 1 << 19  # tokens of a prepared folder that are read for the sample


@dataclass(frozen=True)
class TextFacts:
    """A text: training bytes and held-out bytes, its hardness (1: like the law's own text), and its vocabulary.

    `vocab` is set if the text is prepared, and then `bytes_per_token` is measured; otherwise the plan chooses both.
    `known` says that it is the law's own text. `most` is the number of different pieces in the text, if a plan wanted
    more.
    """

    name: str
    train_bytes: Count
    val_bytes: Count
    hardness: Positive
    known: bool
    vocab: Count | None = None
    bytes_per_token: Positive | None = None
    most: Count | None = None

    def spelled(self, vocab: int, law: Law) -> float:
        """Bytes per token with a vocabulary of this size."""
        return self.bytes_per_token or law.pieces(math.log2(vocab))


def read_text(sources: Sequence[str | Path], law: Law, *, val_fraction: float = 0.1) -> Events[TextFacts]:
    """Facts of text files, or of one prepared data folder, with progress.

    Raises `UserError` if there is too little text, or if it can be read only once.
    """
    if STANDARD_INPUT in map(str, sources):
        raise UserError("A plan reads the text twice, and standard input once. Put it into a file.")
    if len(sources) == 1 and is_prepared(Path(sources[0])):
        return _of_folder(open_data(sources[0]), law)
    digests: set[bytes] = set()
    sizes: list[int] = []
    pieces: list[bytes] = []
    files = yield from with_fetched(sources, find_files)
    yield Progress("reading the text", 0, 1)
    for document in read_documents(files):
        raw = document.text.encode(errors="replace")
        digest = hashlib.sha256(raw).digest()
        if raw.strip() and digest not in digests:
            digests.add(digest)
            sizes.append(len(raw))
            pieces.append(raw[:_PIECE] if len(sizes) > 1 else raw[:SAMPLE])
    size = sum(sizes)
    _check_size(size, " ".join(map(str, sources)))
    held_out = round(size * val_fraction)
    known = [str(source) for source in sources] == [EMBEDDED]
    return TextFacts(
        " ".join(map(str, sources)), size - held_out, held_out, 1.0 if known else hardness(pieces, law), known
    )


def is_prepared(path: Path) -> bool:
    """Whether a folder contains shards instead of text."""
    return path.is_dir() and any(path.glob("*_train_*.bin"))


def hardness(pieces: Iterable[bytes], law: Law) -> float:
    """Bits per byte of a sample under xz, divided by the same for as much of the law's text."""
    bits, size = xz_bits(pieces)
    return bits / law.hardness(math.log2(size))


def xz_bits(pieces: Iterable[bytes]) -> tuple[float, int]:
    """Bits per byte of pieces taken evenly from a text, and how many bytes were taken."""
    texts = list(pieces)
    every = max(1, sum(map(len, texts)) // SAMPLE)
    sample = b"".join(texts[::every])[:SAMPLE]
    return 8 * len(lzma.compress(sample, preset=6)) / len(sample), len(sample)


def _of_folder(data: DataFolder, law: Law) -> TextFacts:
    """Facts of prepared text; its bytes are counted from a sample with its own tokenizer."""
    count = min(len(data.train), _TOKENS)
    ids = data.train.take(0, count).astype(np.int64)
    raw = data.tokenizer.raw(ids[ids != data.bos])
    splits = data.meta.get("splits", {})
    per_token = len(raw) / count
    train = int(splits["train"]["bytes"]) if splits else round(len(data.train) * per_token)
    val = int(splits["val"]["bytes"]) if splits else round(len(data.val) * per_token)
    _check_size(train, str(data.path))
    pieces = [raw[first : first + _PIECE] for first in range(0, len(raw), _PIECE)]
    hard = hardness(pieces, law)
    return TextFacts(str(data.path), train, val, hard, abs(hard - 1) < 0.02, data.vocab, train / len(data.train))


def _check_size(size: int, name: str) -> None:
    if size < LEAST:
        raise UserError(f"{name} holds {size:,} bytes of text, too few to train on. Give {LEAST // 1000} kB or more.")
