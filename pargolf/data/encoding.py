"""Second pass over a corpus: encode each document, check its tokens byte for byte, store them until splits are final.

A document is accepted unchanged when its tokens decode to it and count exactly its bytes. When the tokenizer changes
it, the error says by which rule; with `normalize`, the text that the tokenizer keeps is counted instead (`losses.py`),
and the lost bytes are counted, too. Documents are encoded in batches, on all cores when the tokenizer's library
supports it, while the previous batch is checked and written.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.work import Events
from pargolf.data.byte_table import ByteTable, count_bytes
from pargolf.data.documents import SPLITS, Document, Row
from pargolf.data.losses import kept_text, losses, lost_bytes
from pargolf.data.plan import DROPPED, TRAIN, VAL, Plan
from pargolf.data.shards import Tokens, split_documents
from pargolf.data.tokens import Tokenizer

Batch = list[tuple[Document, bytes, int]]
"""Documents, each with its UTF-8 bytes and its split."""
BATCH_BYTES = 1 << 20
_READ = 1 << 20


@dataclass(frozen=True)
class Normalized:
    """What a tokenizer's normalization changed.

    documents: changed documents; bytes: of all original texts; lost: how many of these bytes were lost
    repeats: documents that were left out because another one had become the same text
    """

    documents: int
    bytes: int
    lost: int
    repeats: int


@dataclass(frozen=True)
class Encoded:
    """Encoded documents on disk in `folder`, in order, with split and length (BOS included) of each.

    Callers change `split_N` in place until the splits are final.
    """

    folder: Path
    bos: int
    split_N: npt.NDArray[np.uint8]
    tokens_N: npt.NDArray[np.uint64]
    normalized: Normalized | None

    def documents(self, *splits: int) -> Iterator[tuple[int, Tokens]]:
        """Yield the number and the tokens (BOS first) of each document of these splits."""
        with (self.folder / "tokens").open("rb") as file:
            blocks = (np.frombuffer(raw, dtype="<u2") for raw in iter(lambda: file.read(2 * _READ), b""))
            for number, tokens in enumerate(split_documents(blocks, self.bos)):
                if self.split_N[number] in splits:
                    yield number, tokens

    def rows(self) -> Iterator[Row]:
        """Yield the record of each document that is not dropped."""
        with (self.folder / "rows").open("rb") as file:
            for split, line in zip(self.split_N.tolist(), file):
                if split != DROPPED:
                    yield Row(**{**json.loads(line), "split": SPLITS[split - TRAIN]})

    def remove(self) -> None:
        """Delete the files on disk."""
        for name in ("tokens", "rows"):
            (self.folder / name).unlink()


@dataclass
class _Checked:
    """Checks documents one by one, and gathers their splits, lengths and what normalization changed."""

    tokenizer: Tokenizer
    table: ByteTable
    normalize: bool
    split: bytearray = field(default_factory=bytearray)
    tokens: "array[int]" = field(default_factory=lambda: array("Q"))
    seen: set[bytes] = field(default_factory=set)
    changed: int = 0
    original: int = 0
    lost: int = 0
    repeats: int = 0

    def add(self, document: Document, raw: bytes, split: int, body: Tokens) -> tuple[Row, Tokens] | None:
        """The record and the tokens (BOS first) of a document; None when it is left out.

        Raises `UserError` for a document that the tokenizer changes, unless `normalize`.
        """
        ids = np.concatenate([np.array([self.tokenizer.bos], dtype=np.uint16), body])
        self.original += len(raw)
        if not self._keeps(ids, document.text, raw):
            if not self.normalize:
                raise UserError(
                    f"The tokenizer does not keep document {document.id!r} as it is: it "
                    f"{losses(self.tokenizer, document.text)}. Add --normalize to count the text that it keeps "
                    "(every result then says that it is not lossless), or use another tokenizer."
                )
            text, body = kept_text(self.tokenizer, document.text)
            ids = np.concatenate([ids[:1], body])
            normalized = text.encode()
            self.changed, self.lost = self.changed + 1, self.lost + lost_bytes(raw, normalized)
            if normalized.strip() and not self._keeps(ids, text, normalized):
                raise UserError(f"The byte table of the tokenizer does not fit document {document.id!r}; leave it out.")
            raw = normalized
        digest = hashlib.sha256(raw).hexdigest()
        if self.normalize:
            short = bytes.fromhex(digest[:32])
            if not raw.strip() or short in self.seen:
                self.repeats += 1
                return None
            self.seen.add(short)
        self.split.append(split)
        self.tokens.append(len(ids))
        return Row("", document.id, digest, len(raw), len(ids) - 1), ids

    def _keeps(self, ids: Tokens, text: str, raw: bytes) -> bool:
        """Whether tokens decode to a text and count its bytes; a first space may go uncounted."""
        counted = int(count_bytes(self.table, ids[:-1], ids[1:]).sum())
        first = len(ids) > 1 and bool(self.table.leading_space_V[ids[1]])
        if len(raw) - counted not in ((0, 1) if first and raw.startswith(b" ") else (0,)):
            return False
        return self.tokenizer.raw(ids[1:]) == raw or self.tokenizer.decode(ids[1:]) == text


def encode_documents(plan: Plan, tokenizer: Tokenizer, folder: Path, *, normalize: bool = False) -> Events[Encoded]:
    """Encode and check the planned documents. Raises `UserError` for a document that the tokenizer changes."""
    checked = _Checked(tokenizer, tokenizer.byte_table(), normalize)
    total, done = plan.size(TRAIN, VAL), 0
    with (folder / "tokens").open("wb") as tokens, (folder / "rows").open("w", encoding="utf-8") as rows:
        for batch, bodies in _encoded(plan, tokenizer):
            for (document, raw, split), body in zip(batch, bodies):
                done += len(raw)
                if (accepted := checked.add(document, raw, split, body)) is not None:
                    rows.write(json.dumps(vars(accepted[0]), ensure_ascii=False) + "\n")
                    tokens.write(accepted[1].astype("<u2").tobytes())
            yield Progress("encoding", done, total, batch[-1][0].id)
    normalized = Normalized(checked.changed, checked.original, checked.lost, checked.repeats) if normalize else None
    split_N = np.frombuffer(checked.split, dtype=np.uint8).copy()
    for split in (TRAIN, VAL):
        if not (split_N == split).any():
            raise UserError("The tokenizer keeps nothing of the documents that train, or of those that validate.")
    return Encoded(folder, tokenizer.bos, split_N, np.frombuffer(checked.tokens, dtype=np.uint64), normalized)


def _encoded(plan: Plan, tokenizer: Tokenizer) -> Iterator[tuple[Batch, list[Tokens]]]:
    """Batches of documents with their tokens; the next batch is encoded while the caller handles one."""
    before: tuple[Batch, Future[list[Tokens]]] | None = None
    with ThreadPoolExecutor(1) as worker:
        for batch in _batches(plan):
            bodies = worker.submit(tokenizer.encode_many, [document.text for document, _, _ in batch])
            if before:
                yield before[0], before[1].result()
            before = batch, bodies
        if before:
            yield before[0], before[1].result()


def _batches(plan: Plan) -> Iterator[Batch]:
    batch: Batch = []
    size = 0
    for item in plan.documents(TRAIN, VAL):
        batch.append(item)
        size += len(item[1])
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
