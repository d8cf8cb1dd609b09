"""Three validation texts with known bytes, and the shards and the tokenizer that a small run needs.

The first text is English in ASCII. The second changes to words with accents in the middle, the third to Han characters
after a quarter. So the three texts have three numbers of bytes per token, and each is also the first text with every
token replaced from some position on. Documents begin at the same positions in all of them.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import chain

import numpy as np
import numpy.typing as npt

from pargolf.data.byte_table import count_bytes
from pargolf.data.corpus import embedded
from pargolf.data.learn import train_bpe
from pargolf.data.shards import HEADER_BYTES, MAGIC, VERSION
from pargolf.data.tokens import SentencePieceTokenizer

Ids = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

VOCAB, TARGETS, TRAINING, SHARDS = 1024, 2048, 40_000, 2
_ACCENTS = """été façon naïve élève garçon déjà où forêt hôtel œuvre cœur août noël maïs über Straße schön grün Äpfel
müde Größe für fährt señor mañana corazón años niño pingüino ação irmã português manhã öppna ålder människa fjäll smør
brød æble ø łódź żółć księga świat česky říjen žluť kůň ďábel tiếng Việt người đường học trẻ những ở đâu được"""
_HAN = (
    "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁"
    "律吕调阳云腾致雨露结为霜金生丽水玉出昆冈剑号巨阙珠称夜光果珍李柰菜重芥姜"
)


@dataclass(frozen=True, eq=False)
class ValidationText:
    """One validation text.

    `tokens` (TARGETS + 1,) begin with BOS. `bytes` (TARGETS,) are those of each predicted token. From `flip` on, its
    tokens differ from those of the first text.
    """

    name: str
    tokens: Ids
    bytes: Counts
    flip: int

    @property
    def ratio(self) -> float:
        """Bytes per predicted token."""
        return float(self.bytes.mean())


@dataclass(frozen=True, eq=False)
class Corpus:
    """The files of a small run: a tokenizer, training shards, three validation texts."""

    tokenizer: bytes
    training: tuple[Ids, ...]
    texts: tuple[ValidationText, ...]

    def files(self, text: ValidationText, *, sidecar: bool) -> dict[str, bytes]:
        """Its files by path, laid out like the published data. `sidecar` adds the bytes of each token."""
        shards = f"datasets/fineweb10B_sp{VOCAB}/fineweb"
        files = {f"{shards}_train_{i:06d}.bin": _shard(tokens) for i, tokens in enumerate(self.training)}
        files |= {f"{shards}_val_000000.bin": _shard(text.tokens)}
        files |= {f"tokenizers/fineweb_{VOCAB}_bpe.model": self.tokenizer}
        counts = np.concatenate(([0], text.bytes))
        return files | ({f"{shards}_val_bytes_000000.bin": _shard(counts)} if sidecar else {})


def _shard(tokens: npt.NDArray[np.integer]) -> bytes:
    """A shard file's bytes."""
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    return header.tobytes() + tokens.astype("<u2").tobytes()


@cache
def corpus() -> Corpus:
    """The corpus; the same in every process."""
    words = _english()
    accents = _ACCENTS.split()
    han = list(_HAN)
    rng = np.random.default_rng(20240520)
    samples = [" ".join(rng.choice(words, 400)) for _ in range(60)]
    samples += [" ".join(rng.choice(accents, 60)) for _ in range(10)] + ["".join(rng.choice(han, 60)) for _ in range(4)]
    tokenizer = train_bpe(samples, vocab=VOCAB)
    lengths = _lengths(rng)
    english = _Writer(tokenizer, [f" {word}" for word in words], rng)
    first = english.documents(lengths)
    training = tuple(english.documents([250] * (TRAINING // 250)) for _ in range(SHARDS))
    second = _Writer(tokenizer, [f" {word}" for word in accents], rng).documents(lengths)
    third = _Writer(tokenizer, han, rng).documents(lengths)
    texts = (
        _text(tokenizer, "ASCII", first, first, TARGETS + 1),
        _text(tokenizer, "accents", first, second, TARGETS // 2 + 40),
        _text(tokenizer, "Han", first, third, TARGETS // 4 + 40),
    )
    return Corpus(tokenizer.proto, training, texts)


def _english() -> list[str]:
    """The 1,500 commonest words of the embedded text, ASCII only."""
    words = Counter(chain.from_iterable(document.text.split() for document in embedded()[:40]))
    return sorted(word for word, _ in words.most_common(2200) if word.isascii())[:1500]


def _lengths(rng: np.random.Generator) -> list[int]:
    """Tokens of the documents of a validation text; their sum is one more than the number of targets."""
    lengths: list[int] = []
    while (remaining := TARGETS + 1 - sum(lengths)) > 250:
        lengths.append(int(rng.integers(60, 240)))
    return [*lengths, remaining]


class _Writer:
    """Writes documents of given lengths from words in random order."""

    def __init__(self, tokenizer: SentencePieceTokenizer, words: list[str], rng: np.random.Generator) -> None:
        self.bos, self.rng = tokenizer.bos, rng
        self.words = [tokenizer.encode(word) for word in words]
        self.end = tokenizer.encode(".")

    def documents(self, lengths: list[int]) -> Ids:
        """Token ids (sum of lengths,). Every document begins with BOS and contains whole characters."""
        return np.concatenate([self._document(length) for length in lengths])

    def _document(self, length: int) -> Ids:
        parts = [np.array([self.bos], dtype=np.uint16)]
        size = 1
        while len(word := self.words[self.rng.integers(len(self.words))]) <= length - size:
            parts.append(word)
            size += len(word)
        return np.concatenate([*parts, *[self.end] * (length - size)])


def _text(tokenizer: SentencePieceTokenizer, name: str, first: Ids, other: Ids, flip: int) -> ValidationText:
    tokens = np.concatenate([first[:flip], other[flip:]])
    if flip <= TARGETS:
        while tokens[flip] == first[flip] or tokens[flip] == tokenizer.bos:
            flip += 1
    return ValidationText(name, tokens, count_bytes(tokenizer.byte_table(), tokens[:-1], tokens[1:]), flip)
