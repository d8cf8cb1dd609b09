"""Overlap check: does validation text occur in training, as whole documents or as runs of 13 tokens?

A validation document is a copy when training holds the same tokens as a whole document, or when half or more of its
13-grams occur anywhere in training. A few shared 13-grams are boilerplate (dates, forms of address, quoted law); half
of them are a copy. Runs of 13 tokens are the usual measure since GPT-3 (Brown et al., arXiv 2005.14165, appendix C).

Each 13-gram inside a document becomes one 64-bit hash. Training is read in blocks, so memory is a few times 8 bytes per
validation token, whatever the size of training. If validation has more than 16 Mi tokens, only every 2nd, 4th, ... hash
is compared, chosen by its value, so that both splits use the same ones.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pargolf.data.folder import DataFolder
from pargolf.data.hashing import U64, distinct, mix64
from pargolf.data.shards import Shards, Tokens

GRAM = 13
COPY_SHARE = 0.5
WORST = 20
COMPARED = 1 << 24
"""Up to this many 13-grams of validation are all compared; of more, a sample."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class DocumentOverlap:
    """One validation document: its 13-grams, how many of them occur in training, and whether all of it does."""

    id: str
    ngrams: int
    shared: int
    identical: bool

    @property
    def share(self) -> float:
        """Shared 13-grams over all, 0 for a document shorter than one."""
        return self.shared / self.ngrams if self.ngrams else 0.0

    @property
    def copied(self) -> bool:
        """Whether this counts as a copy: identical, or half or more of its 13-grams shared."""
        return self.identical or self.share >= COPY_SHARE


@dataclass(frozen=True)
class Overlap:
    """The whole validation split: totals, every copied document, and the documents that share most."""

    documents: int
    ngrams: int
    shared: int
    copied: tuple[DocumentOverlap, ...]
    worst: tuple[DocumentOverlap, ...]

    @property
    def share(self) -> float:
        """Validation 13-grams that occur in training, over all."""
        return self.shared / self.ngrams if self.ngrams else 0.0

    @property
    def found(self) -> bool:
        """Whether any validation document is copied in training."""
        return bool(self.copied)


def check_overlap(data: DataFolder) -> Overlap:
    """Compare the two splits of a data folder. Raises `UserError` when a split cannot be read."""
    rows = data.rows("val")
    every = sampling(len(data.val))
    identical = _identical([_digest(body) for body in _bodies(data.val, data.bos)], data)
    seen = Occurrence([sample(hash_ngrams(body, data.bos), every) for body in _bodies(data.val, data.bos)])
    tail = np.zeros(0, dtype=np.uint16)
    for block in data.train.blocks():
        joined = np.concatenate([tail, block])
        seen.add(sample(hash_ngrams(joined, data.bos), every))
        tail = joined[-(GRAM - 1) :]
    copies = []
    for number, body in enumerate(_bodies(data.val, data.bos)):
        name = rows[number].id if rows and number < len(rows) else f"number {number}"
        gram_M = sample(hash_ngrams(body, data.bos), every)
        copies.append(DocumentOverlap(name, len(gram_M), seen.shared(gram_M), identical[number]))
    ordered = sorted(copies, key=lambda copy: (-copy.identical, -copy.share, copy.id))
    return Overlap(
        documents=len(copies),
        ngrams=sum(copy.ngrams for copy in copies),
        shared=sum(copy.shared for copy in copies),
        copied=tuple(copy for copy in ordered if copy.copied),
        worst=tuple(ordered[:WORST]),
    )


class Occurrence:
    """Which 13-grams of given documents occur in other text. A bitmap over their top bits avoids most searches."""

    def __init__(self, documents: list[U64]) -> None:
        self._distinct_N = distinct(np.concatenate([np.zeros(0, dtype=np.uint64), *documents]))
        self._occurs_N = np.zeros(len(self._distinct_N), dtype=np.bool_)
        bits = min(30, max(12, (8 * len(self._distinct_N)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=np.bool_)
        self._maybe[self._distinct_N >> self._shift] = True

    def add(self, gram_M: U64) -> None:
        """Mark the 13-grams of more text as occurring."""
        if not len(self._distinct_N):
            return
        gram_M = gram_M[self._maybe[gram_M >> self._shift]]
        place_M = np.minimum(np.searchsorted(self._distinct_N, gram_M), len(self._distinct_N) - 1)
        self._occurs_N[place_M[self._distinct_N[place_M] == gram_M]] = True

    def shared(self, gram_M: U64) -> int:
        """How many 13-grams of one of the documents occur in the text added so far."""
        return int(self._occurs_N[np.searchsorted(self._distinct_N, gram_M)].sum()) if len(gram_M) else 0

    def share(self, gram_M: U64) -> float:
        """The share of a document's 13-grams that occur; 0 for a document with none."""
        return self.shared(gram_M) / len(gram_M) if len(gram_M) else 0.0


def sampling(tokens: int) -> int:
    """The sampling step of a split of `tokens` tokens: one of `step` hashes is compared; a power of two."""
    return 1 << max(0, (tokens - 1) // COMPARED).bit_length()


def sample(gram_M: U64, every: int) -> U64:
    """The hashes that are compared: one in `every`, chosen by value."""
    return gram_M if every == 1 else gram_M[gram_M % np.uint64(every) == 0]


def hash_ngrams(tokens_N: Tokens, bos: int) -> U64:
    """Hash every run of 13 tokens that does not cross into the next document: uint64, at most (N - 12,)."""
    count = len(tokens_N) - GRAM + 1
    if count <= 0:
        return np.zeros(0, dtype=np.uint64)
    words_N = mix64(tokens_N.astype(np.uint64))
    hash_M = np.zeros(count, dtype=np.uint64)
    for i in range(GRAM):
        hash_M = hash_M * _BASE + words_N[i : i + count]
    borders_N = np.concatenate([[0], np.cumsum(tokens_N == bos)])
    inside_M = borders_N[GRAM:] == borders_N[:-GRAM]
    return mix64(hash_M[inside_M])


def _bodies(split: Shards, bos: int) -> Iterator[Tokens]:
    """The documents of a split without their BOS, empty ones left out."""
    for span in split.documents(bos):
        body = span[1:] if int(span[0]) == bos else span
        if len(body):
            yield body


def _digest(body: Tokens) -> bytes:
    return hashlib.sha256(body.tobytes()).digest()


def _identical(digests: list[bytes], data: DataFolder) -> list[bool]:
    wanted = set(digests)
    seen = {digest for body in _bodies(data.train, data.bos) if (digest := _digest(body)) in wanted}
    return [digest in seen for digest in digests]
