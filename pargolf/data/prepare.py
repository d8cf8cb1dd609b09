"""Prepare a data folder from text: train a tokenizer, write token shards, and record every document.

    OUT/tokenizer.model            SentencePiece BPE, trained on the training documents only (none for plain bytes;
                                   tokenizer.json where a Hugging Face one was given)
    OUT/text_train_000000.bin ...  the published shard format, BOS + pieces of each document, in source order
    OUT/text_val_000000.bin
    OUT/documents.jsonl            split, id, SHA-256, bytes and tokens of every document
    OUT/meta.json                  format, vocabulary, sizes per split, SHA-256 of every file above

    read (plan.py) -> learn -> read again and encode (encoding.py) -> near-copies (copies.py) -> write

Of documents with equal text only the first is kept, so the splits share no text; a validation document that is a
near-copy of training text is moved to training. Every document is decoded again and compared before its bytes count.
Memory grows with the number of documents, not with their text. The folder is built beside its target and renamed when
complete; the same sources give the same bytes.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.files import replacing, write_bytes, write_json
from pargolf.core.work import Events
from pargolf.data.copies import copied_in_training, copies_of_earlier
from pargolf.data.documents import SPLITS, rows_to_text
from pargolf.data.encoding import Encoded, encode_documents
from pargolf.data.huggingface import HuggingFaceTokenizer
from pargolf.data.learn import train_bpe
from pargolf.data.meta import FORMAT, file_sha256
from pargolf.data.plan import DROPPED, TRAIN, VAL, Plan, Shares, plan_documents
from pargolf.data.read.files import Sources, find_files, read_documents
from pargolf.data.read.hub import with_fetched
from pargolf.data.shards import Tokens, write_shard
from pargolf.data.tokenizer_files import open_tokenizer
from pargolf.data.tokens import ByteExport, ByteTokenizer, SentencePieceTokenizer, Tokenizer

Sizes = dict[str, dict[str, int]]
"""Documents, bytes and tokens of each split."""
SHARD_TOKENS = 50_000_000
SAMPLE_BYTES = 64 << 20
OURS = ("meta.json", "documents.jsonl", "tokenizer.model", "tokenizer.json", "text_train_*.bin", "text_val_*.bin")


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    vocab: int = 1024,
    val_fraction: float = 0.1,
    train_fraction: float = 1.0,
    max_bytes: int | None = None,
    text_field: str | None = None,
    dedupe: bool = False,
    normalize: bool = False,
    caseops: bool = False,
    tokenizer: str | Path | None = None,
    force: bool = False,
) -> Events[None]:
    """Make the data folder `out` from `sources` (`read/files.py` lists their kinds), yielding progress.

    Nothing happens until the iterator is advanced; the folder is complete when it ends. A progress `total` of 0 means
    not known yet.

    vocab: pieces of the tokenizer to train; 257 means plain bytes
    train_fraction: the share of the non-validation documents to train on; the rest is left out
    max_bytes: use only a part of all documents, always the same one
    text_field: the text column of tables
    dedupe: drop near-copies of earlier documents
    normalize: accept a tokenizer that changes text, and count the text that it keeps
    caseops: write capitals as symbols (`caseops.py`)
    tokenizer: a tokenizer file to use instead of training one
    force: replace prepared data in `out`

    Raises `UserError` for sources without text, text that cannot be read or tokenized exactly, too little text for
    `vocab` or the fractions, or an `out` that already holds files.
    """
    out = Path(out).resolve()
    shares = Shares(val_fraction, train_fraction, max_bytes)
    shares.check()
    _refuse_to_overwrite(out, force=force)
    with tempfile.TemporaryDirectory(prefix="pargolf-") as spool:
        files = yield from with_fetched(sources, lambda local: find_files(local, spool=Path(spool)))
        plan = yield from plan_documents(lambda: read_documents(files, text_field=text_field), shares)
        encoder: Tokenizer
        if tokenizer is None:
            encoder = yield from _learn(plan, vocab, caseops=caseops)
        else:
            encoder = open_tokenizer(tokenizer)
        beside = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            beside.mkdir(parents=True)
            encoded = yield from encode_documents(plan, encoder, beside, normalize=normalize)
            copies = yield from _separate(encoded, dedupe=dedupe)
            yield Progress("writing", 0, 1)
            sizes = _write(encoded, beside)
            _write_records(beside, _Record(plan, files, encoded, encoder, shares, copies, sizes))
            _put_in_place(beside, out)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@dataclass(frozen=True)
class Copies:
    """Near-copies that were dropped or moved to training; `left` when all of validation is near-copies and stays."""

    dropped: int = 0
    moved: int = 0
    left: bool = False

    @property
    def notes(self) -> list[str]:
        """One line for each thing that was done; empty when there were no near-copies."""
        out = []
        if self.dropped:
            out.append(f"{self.dropped:,} near-copies of other documents are dropped.")
        if self.moved:
            out.append(f"{self.moved:,} near-copies of training text are moved from validation to training.")
        if self.left:
            out.append("All of validation is near-copies of training text: add other documents, or take longer ones.")
        return out


def _separate(encoded: Encoded, *, dedupe: bool) -> Events[Copies]:
    """Remove near-copies of training text from validation, unless that would leave no validation document."""
    yield Progress("looking for near-copies", 0, 1)
    before_N = encoded.split_N.copy()
    if dedupe:
        encoded.split_N[copies_of_earlier(encoded.documents, int(encoded.tokens_N.sum()), encoded.bos)] = DROPPED
    dropped = int((encoded.split_N == DROPPED).sum())
    kept_N = encoded.split_N.copy()
    moved = copied_in_training(encoded.documents, encoded.split_N, encoded.tokens_N, encoded.bos)
    yield Progress("looking for near-copies", 1, 1)
    if not (encoded.split_N == VAL).any():
        encoded.split_N[:] = kept_N if (kept_N == VAL).any() else before_N
        return Copies(dropped if (kept_N == VAL).any() else 0, left=True)
    if dedupe:
        encoded.split_N[moved] = DROPPED
        return Copies(dropped + len(moved))
    return Copies(moved=len(moved))


def _learn(plan: Plan, vocab: int, *, caseops: bool) -> Events[Tokenizer]:
    """Train a tokenizer on the training documents, or on every k-th when they have more than 64 MiB."""
    if vocab == ByteTokenizer.vocab:
        if caseops:
            raise UserError("Plain bytes have no pieces to spell capitals with; leave --caseops out, or take more.")
        return ByteTokenizer()
    yield Progress("learning the tokenizer", 0, 1, f"{vocab} pieces")
    stride = -(-plan.size(TRAIN) // SAMPLE_BYTES)
    training = (document.text for document, _, _ in plan.documents(TRAIN))
    sample = [text[: SAMPLE_BYTES // 4] for number, text in enumerate(training) if number % stride == 0]
    tokenizer = train_bpe(sample, vocab=vocab, caseops=caseops)
    yield Progress("learning the tokenizer", 1, 1, f"{vocab} pieces")
    return tokenizer


def _write(encoded: Encoded, folder: Path) -> Sizes:
    """Write the shards of both splits and the record of the documents; return the sizes of each split."""
    for name, split in zip(SPLITS, (TRAIN, VAL)):
        writer = _Writer(folder, name)
        for _, tokens in encoded.documents(split):
            writer.add(tokens)
        writer.write()
    sizes = {name: {"documents": 0, "bytes": 0, "tokens": 0} for name in SPLITS}
    with replacing(folder / "documents.jsonl") as file:
        for row in encoded.rows():
            file.write(rows_to_text([row]).encode())
            for what, count in (("documents", 1), ("bytes", row.bytes), ("tokens", row.tokens + 1)):
                sizes[row.split][what] += count
    encoded.remove()
    return sizes


@dataclass
class _Writer:
    """Gathers the tokens of one split and writes a shard whenever one is full."""

    folder: Path
    split: str
    parts: list[Tokens] = field(default_factory=list)
    waiting: int = 0
    shards: int = 0

    def add(self, tokens: Tokens) -> None:
        while self.waiting + len(tokens) >= SHARD_TOKENS:
            room = SHARD_TOKENS - self.waiting
            self.parts.append(tokens[:room])
            self.write()
            tokens = tokens[room:]
        self.parts.append(tokens)
        self.waiting += len(tokens)

    def write(self) -> None:
        """Write the gathered tokens, if any, as the next shard."""
        if any(len(part) for part in self.parts):
            write_shard(self.folder / f"text_{self.split}_{self.shards:06d}.bin", self.parts)
            self.shards += 1
        self.parts, self.waiting = [], 0


@dataclass(frozen=True)
class _Record:
    """What `meta.json` is made of."""

    plan: Plan
    sources: Sources
    encoded: Encoded
    tokenizer: Tokenizer
    shares: Shares
    copies: Copies
    sizes: Sizes

    @property
    def notes(self) -> list[str]:
        """Notes for readers of the data, a line each."""
        lost = self.encoded.normalized
        normal = [
            f"Not lossless: the tokenizer's normalization changed {lost.documents:,} documents, and {lost.lost:,} of "
            f"{lost.bytes:,} bytes are lost."
        ] if lost is not None and lost.documents else []  # fmt: skip
        return [*self.sources.notes, *normal, *self.copies.notes]


def _write_records(folder: Path, record: _Record) -> None:
    kind, tokenizer = "bytes", record.tokenizer
    if isinstance(tokenizer, SentencePieceTokenizer):
        kind = "sentencepiece-bpe"
        write_bytes(folder / "tokenizer.model", tokenizer.proto)
    if isinstance(tokenizer, HuggingFaceTokenizer | ByteExport):
        kind = "huggingface-bpe" if isinstance(tokenizer, HuggingFaceTokenizer) else "bytes-260"
        write_bytes(folder / "tokenizer.json", tokenizer.proto)
    lost = record.encoded.normalized
    meta = {
        "format": FORMAT,
        "tokenizer": kind,
        "vocab": tokenizer.vocab,
        "bos": tokenizer.bos,
        "val_fraction": record.shares.val_fraction,
        "train_fraction": record.shares.train_fraction,
        "max_bytes": record.shares.max_bytes,
        "lossless": lost is None or not lost.documents,
        "normalized": None if lost is None else asdict(lost),
        "splits": record.sizes,
        "dropped": record.plan.dropped | {"near_copies": record.copies.dropped},
        "moved_to_training": record.copies.moved,
        "notes": record.notes,
        "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / "meta.json", meta)


def _refuse_to_overwrite(out: Path, *, force: bool) -> None:
    """Raise `UserError` when `out` holds anything, except prepared data with `force`."""
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
    """Rename the finished folder to `out`; old data is moved aside first, and back if that fails."""
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
