"""A sidecar of byte counts: how many bytes of the original text each token of validation stands for.

    fineweb_val_bytes_000000.bin      the shard format, one uint16 per token of fineweb_val_000000.bin, BOS has 0

Text that was transformed before it was cut into tokens (CaseOps, pull request 1729: small letters, and private-use
characters that say where capitals were) has other bytes than its tokens. Where such files lie beside the shards, they
are what bits are divided by, and no table of the tokenizer.

They are checked as far as they can be without the original: one count per token; per document what the record of a
prepared folder says, or else the bytes of the decoded text without its private-use characters, which have no bytes of
their own. A letter whose small form has another length may put a document off, so a hundredth is let pass in one (and
16 bytes), and a hundred-thousandth in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np

from pargolf.core.errors import UserError
from pargolf.data.documents import Row
from pargolf.data.shards import Shards, Tokens, read_shard
from pargolf.data.tokens import SplitBytes, Tokenizer

_OFF_ONE, _OFF_ALL = 100, 100_000


@dataclass(frozen=True)
class Sidecar:
    """Bytes of each predicted position; `counts` has one for the first token too, which nothing predicts."""

    counts: Shards

    def __len__(self) -> int:
        return len(self.counts) - 1

    def __getitem__(self, span: slice) -> Tokens:
        start, stop, _ = span.indices(len(self))
        return self.counts[start + 1 : stop + 1]


def open_sidecar(folder: Path, tokens: Shards) -> Sidecar | None:
    """The sidecar of the validation split, where there is one. Raises `UserError` when it is not of these tokens."""
    paths = sorted(folder.glob("*_val_bytes_*.bin"))
    if not paths:
        return None
    counts = Shards([read_shard(path) for path in paths], names=[str(path) for path in paths])
    if len(counts) != len(tokens):
        raise UserError(
            f"{paths[0].name} and its kin hold {len(counts):,} byte counts for {len(tokens):,} tokens of validation: "
            "fetch both from one place, or remove the counts."
        )
    return Sidecar(counts)


def prove_sidecar(
    tokenizer: Tokenizer, stream: Shards, sidecar: Sidecar, *, rows: Sequence[Row] | None = None
) -> SplitBytes:
    """Check a sidecar against the documents. Raises `UserError` naming the first document that differs."""
    graded = expected = number = at = 0
    for span in stream.documents(tokenizer.bos):
        counted = sidecar.counts[at : at + len(span)]
        at += len(span)
        name, text = f"number {number}", _plain_bytes(tokenizer, span)
        room = text // _OFF_ONE + 16
        if rows is not None and number < len(rows):
            name, text, room = repr(rows[number].id), rows[number].bytes, 0
        total = int(counted.sum(dtype=np.int64))
        if abs(total - text) > room or counted[span == tokenizer.bos].any():
            raise UserError(
                f"Document {name} counts {total:,} bytes in the sidecar and its text has {text:,}; the byte counts are "
                "not of these tokens, so no bits per byte can be given."
            )
        graded, expected, number = graded + total, expected + text, number + 1
    if abs(graded - expected) > expected // _OFF_ALL:
        raise UserError(
            f"The sidecar counts {graded:,} bytes of validation and its text has {expected:,}: no bits per byte can be "
            "given. Fetch tokens and counts from one place."
        )
    return SplitBytes(number, len(stream) - 1, graded, 0)


def _plain_bytes(tokenizer: Tokenizer, span: Tokens) -> int:
    """Bytes of a document's text without its private-use characters."""
    text = tokenizer.decode(span[span != tokenizer.bos])
    return len("".join(c for c in text if category(c) != "Co").encode())
