"""Sidecar files of byte counts: how many bytes of the original text each validation token stands for.

    fineweb_val_bytes_000000.bin      the shard format, one uint16 per token of fineweb_val_000000.bin, BOS has 0

Text that was transformed before tokenization (CaseOps, pull request 1729: lower case, and private-use characters that
mark capitals) has other bytes than its tokens. When such files lie beside the shards, bits per byte divides by their
counts and not by the tokenizer's table.

They are checked as far as possible without the original: there must be one count per token, and the counts of a
document must add up to the recorded bytes of a prepared folder, or else to the bytes of the decoded text without its
private-use characters. A letter whose lower case has another length can make a small difference, so a document may be
off by one hundredth plus 16 bytes, and the whole by one hundred-thousandth. Counts with any difference are not proved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np

from pargolf.core.errors import UserError
from pargolf.core.events import Progress
from pargolf.core.result import Rests
from pargolf.data.documents import Row
from pargolf.data.proof import Proving, SplitProof, Tally, verdict
from pargolf.data.shards import ShardFile, Shards, Tokens
from pargolf.data.tokens import Tokenizer

_OFF_ONE, _OFF_ALL = 100, 100_000


@dataclass(frozen=True)
class Sidecar:
    """Bytes of each predicted position; `counts` also has an entry for the first token, which is not predicted."""

    counts: Shards

    def __len__(self) -> int:
        return len(self.counts) - 1

    def __getitem__(self, span: slice) -> Tokens:
        start, stop, _ = span.indices(len(self))
        return self.counts[start + 1 : stop + 1]


def sidecar_paths(folder: Path) -> list[Path]:
    """The sidecar files of the validation split; an empty list when there are none."""
    return sorted(folder.glob("*_val_bytes_*.bin"))


def open_sidecar(paths: Sequence[Path], tokens: Shards, *, kind: Callable[[Path], ShardFile] = ShardFile) -> Sidecar:
    """Open a sidecar. Raises `UserError` when it does not have one count per token."""
    counts = Shards([kind(path) for path in paths], names=[str(path) for path in paths])
    if len(counts) != len(tokens):
        raise UserError(
            f"{paths[0].name} and its kin hold {len(counts):,} byte counts for {len(tokens):,} tokens of validation: "
            "fetch both from one place, or remove the counts."
        )
    return Sidecar(counts)


def proving_sidecar(
    tokenizer: Tokenizer, stream: Shards, sidecar: Sidecar, *, rows: Sequence[Row] | None = None
) -> Proving[SplitProof]:
    """Check a sidecar against the documents. Raises `UserError` that names the first document that differs."""
    tally, position = Tally(), 0
    for span in stream.documents(tokenizer.bos):
        counted = sidecar.counts[position : position + len(span)]
        position += len(span)
        name, text = f"number {tally.documents}", tokenizer.decode(span[span != tokenizer.bos])
        size = _plain_bytes(text)
        room = size // _OFF_ONE + 16
        if rows is not None and tally.documents < len(rows):
            row = rows[tally.documents]
            name, size, room = repr(row.id), row.bytes, 0
        total = int(counted.sum(dtype=np.int64))
        if abs(total - size) > room or counted[span == tokenizer.bos].any():
            raise UserError(
                f"Document {name} counts {total:,} bytes in the sidecar and its text has {size:,}; the byte counts are "
                "not of these tokens, so no bits per byte can be given."
            )
        if rows is None and not np.array_equal(tokenizer.encode(text), span[1:]):
            tally.strange.append(name)
            tally.strange_tokens += len(span)
        tally.off += [name] if total != size else []
        tally.add(total, size)
        yield Progress("prove the bytes", position, len(stream), f"{tally.documents:,} documents")
    if abs(tally.bytes - tally.text_bytes) > tally.text_bytes // _OFF_ALL:
        raise UserError(
            f"The sidecar counts {tally.bytes:,} bytes of validation and its text has {tally.text_bytes:,}: no bits "
            "per byte can be given. Fetch tokens and counts from one place."
        )
    return verdict(tally, len(stream), Rests.ROUND_TRIP if rows is None else Rests.DOCUMENTS)


def _plain_bytes(text: str) -> int:
    """Bytes of a text without its private-use characters."""
    return len("".join(c for c in text if category(c) != "Co").encode())
