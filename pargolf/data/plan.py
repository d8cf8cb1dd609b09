"""First pass over a corpus: which documents are used, and which of them are validation.

    drop blank and repeated texts -> take at most `max_bytes` -> split the rest by the rule of `documents.py`

Only about 40 bytes are remembered per document, not its text or name, so millions of documents fit in memory; the
sources are read again for encoding. `max_bytes` takes the documents with the smallest hashes of their ids: the same
ones in any order, and a smaller share is part of a larger one.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.work import Events
from pargolf.data.documents import SPLITS, Document, share_rank, split_rank, val_ratio

Read = Callable[[], Iterator[Document]]
DROPPED, TRAIN, VAL = 0, 1, 2
REPORT_BYTES = 1 << 20
_DIGEST = 16


@dataclass(frozen=True)
class Shares:
    """How a corpus is divided: the validation fraction, the fraction of the rest that trains, and a limit in bytes."""

    val_fraction: float = 0.1
    train_fraction: float = 1.0
    max_bytes: int | None = None

    def check(self) -> Fraction:
        """The validation fraction as p/q. Raises `UserError` when a share leaves nothing."""
        ratio = val_ratio(self.val_fraction)
        if not 0.001 <= self.train_fraction <= 1:
            raise UserError(f"A training fraction of {self.train_fraction} leaves nothing to train on; take .001 to 1.")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UserError(f"At most {self.max_bytes} bytes leave nothing to read; take 1 or more for --max-bytes.")
        return ratio


@dataclass(frozen=True)
class Plan:
    """The split of each document, in the order of the sources: uint8 (N,) of DROPPED, TRAIN, VAL.

    `bytes_N` are the sizes in UTF-8; `dropped` counts the left-out documents by reason.
    """

    read: Read
    split_N: npt.NDArray[np.uint8]
    digests: bytes
    bytes_N: npt.NDArray[np.uint64]
    dropped: dict[str, int]

    def size(self, *splits: int) -> int:
        """Bytes of the documents of some splits."""
        return int(self.bytes_N[np.isin(self.split_N, splits)].sum())

    def documents(self, *splits: int) -> Iterator[tuple[Document, bytes, int]]:
        """Read the documents of these splits again, with UTF-8 and split. Raises `UserError` if a source changed."""
        number = -1
        for number, document in enumerate(self.read()):
            split = int(self.split_N[number]) if number < len(self.split_N) else DROPPED
            if split not in splits:
                continue
            raw = document.text.encode()
            if _digest(raw) != self.digests[number * _DIGEST : (number + 1) * _DIGEST]:
                raise UserError(f"Document {document.id!r} changed while it was being read; run the command again.")
            yield document, raw, split
        if number + 1 != len(self.split_N):
            raise UserError("A source changed while it was being read; run the command again.")


@dataclass
class _Facts:
    """What the first pass remembers of each document."""

    digests: bytearray = field(default_factory=bytearray)
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    blank: bytearray = field(default_factory=bytearray)
    ranks: "array[int]" = field(default_factory=lambda: array("H"))
    shares: "array[int]" = field(default_factory=lambda: array("H"))
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))

    def add(self, document: Document, raw: bytes, ratio: Fraction) -> None:
        self.digests += _digest(raw)
        self.sizes.append(len(raw))
        self.blank.append(not document.text.strip())
        self.ranks.append(split_rank(document.id, ratio))
        share, number = share_rank(document.id, ratio)
        self.shares.append(share)
        self.hashes.append(number)


def plan_documents(read: Read, shares: Shares) -> Events[Plan]:
    """Read everything once. Raises `UserError` when there is no text, or when shares leave a split empty."""
    ratio, facts, size = shares.check(), _Facts(), 0
    for document in read():
        raw = _utf8(document)
        facts.add(document, raw, ratio)
        if size // REPORT_BYTES != (size := size + len(raw)) // REPORT_BYTES:
            yield Progress("reading", size, 0, document.id)
    bytes_N = np.frombuffer(facts.sizes, dtype=np.uint64)
    blank_N = np.frombuffer(facts.blank, dtype=np.bool_)
    kept_N = ~blank_N & _first_of_each(facts.digests)
    dropped = {"duplicates": int((~blank_N & ~kept_N).sum()), "blank": int(blank_N.sum()), "unused": 0}
    if shares.max_bytes is not None:
        kept_N &= _within(bytes_N, np.frombuffer(facts.hashes, dtype=np.uint64), kept_N, shares.max_bytes)
    if not kept_N.any():
        raise UserError("The sources hold no text; name files with at least one document that is not blank.")
    if kept_N.sum() == 1:
        return _halves(read, int(np.flatnonzero(kept_N)[0]), shares, ratio, dropped)
    split_N = _assign(np.frombuffer(facts.ranks, dtype=np.uint16), kept_N, ratio)
    trains_N = np.frombuffer(facts.shares, dtype=np.uint16) < round(1000 * shares.train_fraction)
    split_N[(split_N == TRAIN) & ~trains_N] = DROPPED
    if not (split_N == TRAIN).any():
        raise UserError(f"A training fraction of {shares.train_fraction} takes none of these documents; take more.")
    dropped["unused"] = int((split_N == DROPPED).sum()) - dropped["blank"] - dropped["duplicates"]
    return Plan(read, split_N, bytes(facts.digests), bytes_N, dropped)


def _first_of_each(digests: bytearray) -> npt.NDArray[np.bool_]:
    """Whether each document is the first with its text."""
    pairs_N = np.frombuffer(digests, dtype=[("a", "<u8"), ("b", "<u8")])
    first_N = np.zeros(len(pairs_N), dtype=np.bool_)
    first_N[np.unique(pairs_N, return_index=True)[1]] = True
    return first_N


def _within(
    bytes_N: npt.NDArray[np.uint64], hash_N: npt.NDArray[np.uint64], kept_N: npt.NDArray[np.bool_], limit: int
) -> npt.NDArray[np.bool_]:
    """The documents with the smallest hashes that have at most `limit` bytes together, and at least one."""
    order = np.flatnonzero(kept_N)[np.argsort(hash_N[kept_N], kind="stable")]
    count = max(1, int(np.searchsorted(np.cumsum(bytes_N[order]), limit, side="right")))
    taken_N = np.zeros(len(bytes_N), dtype=np.bool_)
    taken_N[order[:count]] = True
    return taken_N


def _assign(rank_N: npt.NDArray[np.uint16], kept_N: npt.NDArray[np.bool_], ratio: Fraction) -> npt.NDArray[np.uint8]:
    """Each document's split by the rule; a split that would be empty gets the document nearest to it."""
    split_N = np.where(rank_N < ratio.numerator, VAL, TRAIN).astype(np.uint8)
    split_N[~kept_N] = DROPPED
    remaining = np.flatnonzero(kept_N)
    if not (split_N == VAL).any():
        split_N[remaining[np.argmin(rank_N[remaining])]] = VAL
    elif not (split_N == TRAIN).any():
        split_N[remaining[np.argmax(rank_N[remaining])]] = TRAIN
    return split_N


def _halves(read: Read, number: int, shares: Shares, ratio: Fraction, dropped: dict[str, int]) -> Plan:
    """The plan of a single document: its first part is training, the rest is validation."""
    if shares.train_fraction < 1:
        raise UserError("A single document is cut in two, and a training fraction takes whole ones; give several.")
    halves = _halve(next(each for index, each in enumerate(read()) if index == number), ratio)
    raws = [half.text.encode() for half in halves]
    sizes = np.array([len(raw) for raw in raws], dtype=np.uint64)
    digests = b"".join(_digest(raw) for raw in raws)
    return Plan(lambda: iter(halves), np.array([TRAIN, VAL], dtype=np.uint8), digests, sizes, dropped)


def _halve(document: Document, ratio: Fraction) -> list[Document]:
    """Cut a single document in two by the ratio, at the nearest newline, else at the nearest space."""
    text = document.text
    if len(text) < 2:
        raise UserError(f"{document.id!r} is the only document and has one character; there is nothing to split.")
    goal = min(max(1, round(len(text) * (1 - ratio))), len(text) - 1)
    reach = max(1, min(goal, len(text) - goal) // 2)
    for mark in ("\n", " "):
        before = text.rfind(mark, goal - reach, goal) + 1
        after = text.find(mark, goal, goal + reach) + 1
        cuts = [cut for cut in (before, after) if 0 < cut < len(text)]
        whole = [cut for cut in cuts if text[:cut].strip() and text[cut:].strip() and text[:cut] != text[cut:]]
        if whole:
            goal = min(whole, key=lambda cut: abs(cut - goal))
            break
    return [Document(f"{document.id}#{split}", part) for split, part in zip(SPLITS, (text[:goal], text[goal:]))]


def _digest(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST).digest()


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"Document {document.id!r} holds a lone surrogate at character {error.start}; it is not Unicode text."
        ) from error
