"""From text to a data folder: tokenizer, shards, and a record of every document.

    OUT/tokenizer.model            SentencePiece BPE, trained on the training documents only (none for plain bytes;
                                   tokenizer.json where a Hugging Face one was given)
    OUT/text_train_000000.bin ...  the published shard format, BOS + pieces of each document, in source order
    OUT/text_val_000000.bin
    OUT/documents.jsonl            split, id, SHA-256, bytes and tokens of every document
    OUT/meta.json                  format, vocabulary, sizes per split, SHA-256 of every file above

Documents of equal text are one document (the first is kept), so no split shares a text with the other. Every
document is decoded again and compared before a byte of it counts. The folder is built beside its place and renamed
when whole; the same sources give the same bytes.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import write_bytes, write_json, write_text
from pargolf.core.work import Events
from pargolf.data.documents import SPLITS, Document, Row, rows_to_text, split_rank, trains, val_ratio
from pargolf.data.folder import open_tokenizer
from pargolf.data.huggingface import HuggingFaceTokenizer
from pargolf.data.learn import train_bpe
from pargolf.data.meta import FORMAT, file_sha256
from pargolf.data.shards import Tokens, write_shard
from pargolf.data.sources import find_files, read_documents
from pargolf.data.tokens import ByteTokenizer, SentencePieceTokenizer, Tokenizer, count_bytes

SHARD_TOKENS = 100_000_000
SAMPLE_BYTES = 64 << 20
REPORT_BYTES = 1 << 20
OURS = ("meta.json", "documents.jsonl", "tokenizer.model", "tokenizer.json", "text_train_*.bin", "text_val_*.bin")

Read = Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class Plan:
    """What the first reading found: a row for each document to keep and None for each to drop, in source order."""

    read: Read
    rows: tuple[Row | None, ...]
    duplicates: int
    blank: int
    unused: int = 0

    def documents(self) -> Iterator[tuple[Document, Row]]:
        """Read the kept documents again. Raises `UserError` if a source changed meanwhile."""
        kept = 0
        for document, row in zip(self.read(), self.rows):
            if row is None:
                continue
            if hashlib.sha256(document.text.encode()).hexdigest() != row.sha256:
                raise UserError(f"Document {row.id!r} changed while it was being read; run the command again.")
            kept += 1
            yield document, row
        if kept != len(self.kept):
            raise UserError("A source changed while it was being read; run the command again.")

    @property
    def kept(self) -> list[Row]:
        """The rows of the documents to keep."""
        return [row for row in self.rows if row is not None]


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    vocab: int = 1024,
    val_fraction: float = 0.1,
    train_fraction: float = 1.0,
    caseops: bool = False,
    tokenizer: str | Path | None = None,
    force: bool = False,
) -> Events[None]:
    """Make the data folder `out` from `sources` (`sources.py` says what may be one), yielding progress.

    Nothing happens until the iterator is advanced, and the folder stands when it ends. A `total` of 0 is not known
    yet. `train_fraction` is the share of the documents not held out that is trained on; the rest is left out, so less
    text is scored on the same. `vocab=257` is plain bytes. `caseops` spells capitals as symbols (`caseops.py`).
    `tokenizer`, a `.model` or `tokenizer.json`, is used in place of learning one. Raises `UserError` for sources
    without text, text that cannot be read or tokenized exactly, too little text for `vocab` or the fractions, or an
    `out` that holds something (`force` replaces prepared data).
    """
    out = Path(out).resolve()
    ratio = val_ratio(val_fraction)
    _refuse_to_overwrite(out, force=force)
    files = find_files(sources)
    if not 0.001 <= train_fraction <= 1:
        raise UserError(f"A training fraction of {train_fraction} leaves nothing to train on; take .001 to 1.")
    plan = yield from _plan(lambda: read_documents(files), ratio, train_fraction)
    words: Tokenizer
    if tokenizer is None:
        words = yield from _learn(plan, vocab, caseops=caseops)
    else:
        words = open_tokenizer(tokenizer)
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        rows = yield from _write_tokens(plan, words, beside)
        _write_records(beside, plan, rows, words, {"val_fraction": val_fraction, "train_fraction": train_fraction})
        _put_in_place(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _plan(read: Read, ratio: Fraction, train_fraction: float) -> Events[Plan]:
    rows: list[Row | None] = []
    seen: set[str] = set()
    blank = size = 0
    for document in read():
        raw = _utf8(document)
        digest = hashlib.sha256(raw).hexdigest()
        is_blank = not document.text.strip()
        blank += is_blank
        rows.append(None if is_blank or digest in seen else Row("", document.id, digest, len(raw), 0))
        seen.add(digest)
        if size // REPORT_BYTES != (size := size + len(raw)) // REPORT_BYTES:
            yield Progress("reading", size, 0, document.id)
    kept = sum(row is not None for row in rows)
    if kept == 0:
        raise UserError("The sources hold no text; name files with at least one document that is not blank.")
    if kept == 1:
        if train_fraction < 1:
            raise UserError("A single document is cut in two, and a training fraction takes whole ones; give several.")
        halves = _halve(next(d for d, row in zip(read(), rows) if row is not None), ratio)
        hashed = [(d.id, hashlib.sha256(d.text.encode()).hexdigest(), len(d.text.encode())) for d in halves]
        both = tuple(Row(split, *parts, tokens=0) for split, parts in zip(SPLITS, hashed))
        return Plan(lambda: iter(halves), both, len(rows) - 1 - blank, blank)
    assigned = _thinned(_assign(rows, ratio), ratio, train_fraction)
    return Plan(read, assigned, len(rows) - kept - blank, blank, kept - sum(row is not None for row in assigned))


def _thinned(rows: Sequence[Row | None], ratio: Fraction, share: float) -> tuple[Row | None, ...]:
    """Leave out the training documents that are not of the `share`. Raises `UserError` where none is."""
    out = tuple(row if row is None or row.split == "val" or trains(row.id, ratio, share) else None for row in rows)
    if not any(row is not None and row.split == "train" for row in out):
        raise UserError(f"A training fraction of {share} takes none of these documents; take a larger one.")
    return out


def _assign(rows: Sequence[Row | None], ratio: Fraction) -> tuple[Row | None, ...]:
    """Give each document its split by the rule; a split left empty gets the document nearest to it."""
    ranks = {row.id: split_rank(row.id, ratio) for row in rows if row is not None}
    val = {name for name, rank in ranks.items() if rank < ratio.numerator}
    if not val:
        val = {min(ranks, key=lambda name: (ranks[name], name))}
    elif len(val) == len(ranks):
        val.remove(max(ranks, key=lambda name: (ranks[name], name)))
    return tuple(None if row is None else replace(row, split="val" if row.id in val else "train") for row in rows)


def _halve(document: Document, ratio: Fraction) -> list[Document]:
    """Cut a lone document in two where the ratio says, moved to the nearest newline, or else space."""
    text = document.text
    if len(text) < 2:
        raise UserError(f"{document.id!r} is the only document and has one character; there is nothing to split.")
    goal = min(max(1, round(len(text) * (1 - ratio))), len(text) - 1)
    reach = max(1, min(goal, len(text) - goal) // 2)
    for mark in ("\n", " "):
        before = text.rfind(mark, goal - reach, goal) + 1
        after = text.find(mark, goal, goal + reach) + 1
        places = [place for place in (before, after) if 0 < place < len(text)]
        whole = [p for p in places if text[:p].strip() and text[p:].strip() and text[:p] != text[p:]]
        if whole:
            goal = min(whole, key=lambda place: abs(place - goal))
            break
    return [Document(f"{document.id}#train", text[:goal]), Document(f"{document.id}#val", text[goal:])]


def _learn(plan: Plan, vocab: int, *, caseops: bool) -> Events[Tokenizer]:
    """Train on the training documents, every k-th of them where they are more than 64 MiB."""
    if vocab == ByteTokenizer.vocab:
        if caseops:
            raise UserError("Plain bytes have no pieces to spell capitals with; leave --caseops out, or take more.")
        return ByteTokenizer()
    yield Progress("learning the tokenizer", 0, 1, f"{vocab} pieces")
    total = sum(row.bytes for row in plan.kept if row.split == "train")
    stride = -(-total // SAMPLE_BYTES)
    training = (document.text for document, row in plan.documents() if row.split == "train")
    sample = [text[: SAMPLE_BYTES // 4] for number, text in enumerate(training) if number % stride == 0]
    tokenizer = train_bpe(sample, vocab=vocab, caseops=caseops)
    yield Progress("learning the tokenizer", 1, 1, f"{vocab} pieces")
    return tokenizer


def _write_tokens(plan: Plan, tokenizer: Tokenizer, folder: Path) -> Events[list[Row]]:
    """Encode, check and write every document; return the rows with their token counts."""
    table = tokenizer.byte_table()
    writers = {split: _Writer(folder, split) for split in SPLITS}
    rows: list[Row] = []
    total = sum(row.bytes for row in plan.kept)
    done = 0
    for document, row in plan.documents():
        ids = np.concatenate([np.array([tokenizer.bos], dtype=np.uint16), tokenizer.encode(document.text)])
        raw = document.text.encode()
        free = int(raw.startswith(b" ") and bool(table.leading_space_V[ids[1]]))
        counted = int(count_bytes(table, ids[:-1], ids[1:]).sum())
        if tokenizer.raw(ids[1:]) != raw or counted != len(raw) - free:
            raise UserError(f"Document {row.id!r} does not survive the tokenizer byte for byte; leave it out.")
        rows.append(replace(row, tokens=len(ids) - 1))
        writers[row.split].add(ids)
        if done // REPORT_BYTES != (done := done + len(raw)) // REPORT_BYTES:
            yield Progress("encoding", done, total, row.id)
    for writer in writers.values():
        writer.write()
    yield Progress("encoding", total, total)
    return rows


@dataclass
class _Writer:
    """Gathers the tokens of one split and writes a shard whenever one is full."""

    folder: Path
    split: str
    held: list[Tokens] = field(default_factory=list)
    waiting: int = 0
    shards: int = 0

    def add(self, tokens: Tokens) -> None:
        while self.waiting + len(tokens) >= SHARD_TOKENS:
            room = SHARD_TOKENS - self.waiting
            self.held.append(tokens[:room])
            self.write()
            tokens = tokens[room:]
        self.held.append(tokens)
        self.waiting += len(tokens)

    def write(self) -> None:
        """Write what is held, if anything, as the next shard."""
        if any(len(part) for part in self.held):
            write_shard(self.folder / f"text_{self.split}_{self.shards:06d}.bin", self.held)
            self.shards += 1
        self.held, self.waiting = [], 0


def _write_records(folder: Path, plan: Plan, rows: list[Row], tokenizer: Tokenizer, shares: dict[str, float]) -> None:
    kind = "bytes"
    if isinstance(tokenizer, SentencePieceTokenizer):
        kind = "sentencepiece-bpe"
        write_bytes(folder / "tokenizer.model", tokenizer.proto)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        kind = "huggingface-bpe"
        write_bytes(folder / "tokenizer.json", tokenizer.proto)
    write_text(folder / "documents.jsonl", rows_to_text(rows))
    splits = {}
    for split in SPLITS:
        mine = [row for row in rows if row.split == split]
        splits[split] = {
            "documents": len(mine),
            "bytes": sum(row.bytes for row in mine),
            "tokens": sum(row.tokens + 1 for row in mine),
        }
    meta = {
        "format": FORMAT,
        "tokenizer": kind,
        "vocab": tokenizer.vocab,
        "bos": tokenizer.bos,
        **shares,
        "splits": splits,
        "dropped": {"duplicates": plan.duplicates, "blank": plan.blank, "unused": plan.unused},
        "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "meta.json", meta)


def _utf8(document: Document) -> bytes:
    try:
        return document.text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"Document {document.id!r} holds a lone surrogate at character {error.start}; it is not Unicode text."
        ) from error


def _refuse_to_overwrite(out: Path, *, force: bool) -> None:
    """Only prepared data is ever replaced, and only when told to."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the data.")
    foreign = [path.name for path in out.iterdir() if not any(path.match(pattern) for pattern in OURS)]
    if foreign:
        raise UserError(f"{out} holds other files ({foreign[0]}); name a new folder for the data.")
    if any(out.iterdir()) and not force:
        raise UserError(f"{out} already holds data; name another folder, or pass --force to replace it.")


def _put_in_place(beside: Path, out: Path) -> None:
    """Rename the finished folder; data that stood there is moved aside first, and back if that fails."""
    aside = beside.with_suffix(".old")
    if not out.exists():
        beside.rename(out)
        return
    out.rename(aside)
    try:
        beside.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside)
