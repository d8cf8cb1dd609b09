"""Prove the byte count of a split, document by document, before anything is scored. There are four grades of proof:

    documents     the folder was prepared here: each document decodes to the text whose hash was recorded
    published     shards and tokenizer have the hashes of a known split (`official.py`)
    round trip    each document decodes to a text that encodes to the same tokens, and the UTF-8 of this text is counted
    table         none of these: only the tokenizer's own table gives the byte count, and no score on it is legal

A document is the tokens from one BOS to the next, without the BOS. It *encodes to itself* when `encode(decode(tokens))`
gives exactly those tokens, with the tokenizer's own library and settings, as the published exporter calls it
(`encode(text)`, BOS in front; openai/parameter-golf, `data/download_hf_docs_and_tokenize.py`). So the counted text is
the part of the original that the tokenizer keeps: normalized if the tokenizer normalizes, and without the space of a
dummy prefix. SentencePiece encodes a space and U+2581 alike, so a text with that character is also tried with spaces
instead, and the shortest text that encodes to the tokens is counted. (A real tokenizer without a piece for the space
spells each space as three bytes; its table counts 5,347 bytes for 4,128.)

The last document may be cut off. Then its last tokens may encode differently, and only their byte count is checked.
"""

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import sentencepiece

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import cache_folder, write_json
from pargolf.core.result import Rests
from pargolf.data.byte_table import SPACE_MARK, ByteTable, count_bytes
from pargolf.data.documents import Row
from pargolf.data.official import Official
from pargolf.data.shards import Shards, Tokens
from pargolf.data.tokens import Tokenizer

T = TypeVar("T")
Proving = Generator[Progress, None, T]

STRANGE = 0.01
"""The share of tokens that may be in documents which do not encode to themselves; more means a wrong tokenizer."""
_EDGE = 64  # tokens near a cut that may encode differently
_REPORT = 1 << 20
_SLOW = 5.0  # a proof that takes longer (seconds) is cached
_VERSION = f"1 sentencepiece {sentencepiece.__version__}"


@dataclass(frozen=True)
class SplitProof:
    """The proof of a split: `bytes` of the `tokens` predicted, and its grade (`rests`).

    `free` counts the first spaces of documents, which are not part of `bytes`. `note` says what a missing proof lacks.
    """

    rests: Rests
    documents: int
    tokens: int
    bytes: int
    free: int
    note: str = ""


class Counts(Protocol):
    """Bytes of each predicted token."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> npt.NDArray[np.integer[Any]]: ...


@dataclass
class Tally:
    """Counts so far; `strange` documents do not encode to themselves, `off` ones count other bytes than their text."""

    documents: int = 0
    bytes: int = 0
    text_bytes: int = 0
    free: int = 0
    strange: list[str] = field(default_factory=list)
    strange_tokens: int = 0
    off: list[str] = field(default_factory=list)

    def add(self, counted: int, size: int, *, free: int = 0) -> None:
        """Add a document of `size` bytes, of which `counted` are counted and `free` rightly are not."""
        self.documents, self.free = self.documents + 1, self.free + free
        self.bytes, self.text_bytes = self.bytes + counted, self.text_bytes + size


def finish(work: Proving[T]) -> T:
    """Run the work to its end, ignoring progress, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def prove(tokenizer: Tokenizer, stream: Shards, *, rows: Sequence[Row] | None = None) -> SplitProof:
    """Run `proving` and return its proof."""
    return finish(proving(tokenizer, stream, rows=rows))


def proving(tokenizer: Tokenizer, stream: Shards, *, rows: Sequence[Row] | None = None) -> Proving[SplitProof]:
    """Prove the bytes of a token stream in which every token after the first is predicted.

    With `rows` (the records of this split, in order) each document must be the recorded text. Raises `UserError` that
    names the first document that differs, or when more than `STRANGE` of the tokens do not encode to themselves.
    """
    tally, table, reported = Tally(), tokenizer.byte_table(), 0
    tokens_seen = 0
    for span, following in pairwise(chain(stream.documents(tokenizer.bos), (None,))):
        assert span is not None
        if rows is not None and tally.documents < len(rows):
            _add_recorded(tally, tokenizer, table, span, rows[tally.documents])
        else:
            _add(tally, tokenizer, table, span, last=following is None)
        tokens_seen += len(span)
        if tokens_seen // _REPORT != reported:
            reported = tokens_seen // _REPORT
            yield Progress("prove the bytes", tokens_seen, len(stream), f"{tally.documents:,} documents")
    if rows is not None and tally.documents != len(rows):
        raise UserError(
            f"The shards hold {tally.documents} documents, documents.jsonl {len(rows)}; prepare the data again."
        )
    return verdict(tally, len(stream), Rests.ROUND_TRIP if rows is None else Rests.DOCUMENTS)


def proved_by_name(known: Official, counts: Counts, stream: Shards, bos: int) -> SplitProof:
    """The proof of a split with the hashes of a published one; `counts` are the bytes of each predicted token.

    Raises `UserError` when the published tokens do not have the published bytes.
    """
    sums = [0, 0]
    for begin in range(0, len(counts), _REPORT):
        for index, end in enumerate((known.scored, len(counts))):
            sums[index] += int(counts[begin : min(begin + _REPORT, end)].sum(dtype=np.int64)) if begin < end else 0
    if known.bytes not in (None, sums[0]):
        raise UserError(f"The published split {known.name} has {known.bytes:,} bytes, and {sums[0]:,} were counted.")
    documents = sum(int(np.count_nonzero(block == bos)) for block in stream.blocks())
    return SplitProof(Rests.PUBLISHED, documents, len(stream) - 1, sums[1], 0)


def remembered(facts: Sequence[str], work: Proving[SplitProof]) -> Proving[SplitProof]:
    """The result of `work`, from the user's cache if it is there; `facts` are everything it depends on."""
    key = hashlib.sha256("\n".join([_VERSION, *facts]).encode()).hexdigest()
    path = cache_folder() / "proofs" / f"{key}.json"
    if (earlier := _read_kept(path)) is not None:
        return earlier
    clock = Clock()
    proof = yield from work
    if clock.seconds > _SLOW:
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(proof))
    return proof


def _read_kept(path: Path) -> SplitProof | None:
    """A proof from the cache; None when there is none, or it cannot be read."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: int(earlier[name]) for name in ("documents", "tokens", "bytes", "free")}
        return SplitProof(Rests(earlier["rests"]), **numbers, note=str(earlier["note"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _add_recorded(tally: Tally, tokenizer: Tokenizer, table: ByteTable, span: Tokens, row: Row) -> None:
    """Count a document that must be the recorded one. Raises `UserError` when it is not."""
    _check_ids(tokenizer, span, repr(row.id))
    text = tokenizer.decode(span[1:])
    raw = text.encode()
    if (len(raw), hashlib.sha256(raw).hexdigest()) != (row.bytes, row.sha256) or _shorter(tokenizer, text, span[1:]):
        raise UserError(f"Document {row.id!r} does not decode to the text that was prepared; prepare the data again.")
    counted = int(count_bytes(table, span[:-1], span[1:]).sum())
    free = len(raw) - counted
    if free not in _free(table, span, text):
        raise UserError(
            f"Document {row.id!r} counts {counted} bytes and its text has {len(raw)}; the byte table does not fit this "
            "tokenizer, so no bits per byte can be given."
        )
    tally.add(counted, len(raw), free=free)


def _add(tally: Tally, tokenizer: Tokenizer, table: ByteTable, span: Tokens, *, last: bool) -> None:
    """Count a document without a record."""
    name, body, begins = f"number {tally.documents}", span[1:], int(span[0]) == tokenizer.bos
    _check_ids(tokenizer, span, name)
    counted = int(count_bytes(table, span[:-1], body).sum())
    text = tokenizer.decode(body)
    text = _shorter(tokenizer, text, body) or text
    again = tokenizer.encode(text)
    same, weight = np.array_equal(again, body), len(body)
    size, free = len(text.encode()), _free(table, span, text)
    if not begins or (last and not same):  # cut off: count the bytes of pieces, compare tokens away from the cut
        size, free = len(tokenizer.raw(body)), _free(table, span, " ")
        inner = body[0 if begins else _EDGE : max(0, len(body) - (_EDGE if last else 0))]
        weight = weight if len(inner) > _EDGE or tally.documents > len(tally.strange) else 0
        same = same or (weight > 0 and inner.tobytes() in again.tobytes())
    if not same:
        tally.strange.append(name)
        tally.strange_tokens += weight
    if size - counted not in free:
        tally.off.append(name)
    tally.add(counted, size, free=size - counted if size - counted in free else 0)


def _shorter(tokenizer: Tokenizer, text: str, body: Tokens) -> str:
    """The text with spaces for U+2581, if that encodes to the same tokens; else empty."""
    if SPACE_MARK not in text:
        return ""
    spaced = text.replace(SPACE_MARK, " ")
    ways = [spaced[1:], spaced] if spaced.startswith(" ") else [spaced]
    return next((way for way in ways if np.array_equal(tokenizer.encode(way), body)), "")


def _free(table: ByteTable, span: Tokens, text: str) -> tuple[int, ...]:
    """How many first spaces of a document may go uncounted: none, or also one that its first piece begins with."""
    opens = len(span) > 1 and bool(table.leading_space_V[span[1]] and table.boundary_V[span[0]])
    return (0, 1) if opens and text.startswith(" ") else (0,)


def _check_ids(tokenizer: Tokenizer, span: Tokens, name: str) -> None:
    if int(span.max()) >= tokenizer.vocab:
        raise UserError(f"Document {name} holds token id {int(span.max())}, past the tokenizer's {tokenizer.vocab}.")


def verdict(tally: Tally, tokens: int, rests: Rests) -> SplitProof:
    """The proof that the counts give. Raises `UserError` when the stream was made with another tokenizer."""
    notes = []
    if tally.strange:
        count = f"{len(tally.strange):,} of {tally.documents:,} documents do"
        if tally.strange_tokens > STRANGE * tokens:
            raise UserError(
                f"Document {tally.strange[0]} does not encode to itself: decoded and encoded again it is other tokens "
                f"({count} so). These shards were made with another tokenizer; put theirs beside them."
            )
        notes.append(f"{count} not encode to themselves, first {tally.strange[0]}")
    if tally.off:
        notes.append(
            f"{tally.bytes:,} bytes are counted and the text has {tally.text_bytes:,}, other first in document "
            f"{tally.off[0]}"
        )
    rests = Rests.TABLE if notes else rests
    return SplitProof(rests, tally.documents, tokens - 1, tally.bytes, tally.free, "; ".join(notes))
