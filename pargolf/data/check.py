"""The checks of `pargolf data check DIR` on a data folder, as a list of findings.

    shards       format, ids within the vocabulary, recorded hashes, BOS first, no shard twice
    bytes        proof of the validation bytes, the same as before each run (`proof.py`)
    round trip   decoding and encoding again gives the same tokens
    overlap      validation text that also occurs in training

The bytes also give the constant that converts nats per token to bits per byte, a fingerprint of tokenizer and split:

    val_loss / val_bpb = ln 2 * bytes / tokens

(sp1024 on the official split: 1.6884581, `official.py`; plain bytes: ln 2.)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from pargolf.core.errors import UserError
from pargolf.data.content import refuse_repeats
from pargolf.data.documents import SPLITS
from pargolf.data.folder import DataFolder, open_data
from pargolf.data.meta import file_sha256
from pargolf.data.overlap import check_overlap
from pargolf.data.shards import split_paths

ROUND_TRIP_TOKENS = 16 << 20


@dataclass(frozen=True)
class Finding:
    """One check: its name, whether it passed, one line for people, and its numbers for machines."""

    name: str
    ok: bool
    summary: str
    numbers: Mapping[str, float] = field(default_factory=dict)


def bpb_constant(tokens: int, graded_bytes: int) -> float:
    """Nats per token over bits per byte: ln 2 * bytes / tokens."""
    return math.log(2) * graded_bytes / tokens


def check(folder: str | Path) -> list[Finding]:
    """Check a data folder. A check that cannot run counts as failed. Raises `UserError` if there is no such folder."""
    return list(checks(folder))


def checks(folder: str | Path) -> Iterator[Finding]:
    """Yield the findings of `check`, each as soon as it is known."""
    data = open_data(folder)
    rows: list[tuple[str, Callable[[DataFolder], Finding]]] = [
        ("train shards", lambda data: _shards(data, "train")),
        ("val shards", lambda data: _shards(data, "val")),
        ("recorded hashes", _hashes),
        ("bytes", _bytes),
        ("round trip", _round_trip),
        ("overlap", _overlap),
    ]
    for name, run_check in rows:
        try:
            yield run_check(data)
        except UserError as error:
            yield Finding(name, False, str(error))


def _shards(data: DataFolder, split: str) -> Finding:
    name = f"{split} shards"
    shards = data.train if split == "train" else data.val
    documents = sum(int(np.count_nonzero(block == data.bos)) for block in shards.blocks())
    numbers = {"shards": len(shards.parts), "tokens": len(shards), "documents": documents}
    facts = f"{len(shards.parts)} shards, {len(shards):,} tokens, {documents:,} documents"
    refuse_repeats(*((data.train, data.val) if split == "train" else (data.val,)))
    if int(shards.take(0, 1)[0]) != data.bos:
        return Finding(
            name, False, f"{facts}; the first token is not BOS ({data.bos}). Is this its tokenizer?", numbers
        )
    return Finding(name, True, f"{facts}, ids below {data.vocab}", numbers)


def _hashes(data: DataFolder) -> Finding:
    recorded = data.meta.get("sha256", {})
    if not recorded:
        return Finding("recorded hashes", True, "none recorded (not made by `pargolf data prepare`)")
    present = {path.name for split in SPLITS for path in split_paths(data.path, split)}
    for name in sorted(present | set(recorded)):
        path = data.path / Path(name).name
        if name not in recorded or not path.is_file() or file_sha256(path) != recorded[name]:
            return Finding("recorded hashes", False, f"{name} is not as recorded in meta.json; prepare the data again.")
    return Finding("recorded hashes", True, f"{len(recorded)} files as recorded")


def _bytes(data: DataFolder) -> Finding:
    proof = data.prove("val")
    constant = bpb_constant(proof.tokens, proof.bytes)
    numbers = {
        "documents": proof.documents,
        "tokens": proof.tokens,
        "bytes": proof.bytes,
        "free": proof.free,
        "constant": constant,
    }
    counted = f"{proof.tokens:,} graded tokens of validation are {proof.bytes:,} bytes"
    if not proof.rests.proved:
        return Finding("bytes", False, f"{counted} by the tokenizer's table alone: {proof.note}", numbers)
    summary = (
        f"{counted}, the documents' own ({proof.free} first spaces free), by {proof.rests}; "
        f"nats per token / bits per byte = {constant:.7f}"
    )
    return Finding("bytes", not proof.note, f"{summary}. {proof.note}" if proof.note else summary, numbers)


def _round_trip(data: DataFolder) -> Finding:
    """Decode and encode documents; also in a folder prepared here, where the bytes are proved by its record instead."""
    tokens = documents = 0
    whole_end = data.rows("val") is not None
    for number, (span, following) in enumerate(pairwise(chain(data.val.documents(data.bos), (None,)))):
        assert span is not None
        if int(span[0]) != data.bos or (following is None and not whole_end):
            continue  # a stream cut inside a document may end inside a word or a character
        if not np.array_equal(data.tokenizer.encode(data.tokenizer.decode(span[1:])), span[1:]):
            return Finding("round trip", False, f"document number {number} of validation encodes to other tokens.")
        documents, tokens = documents + 1, tokens + len(span)
        if tokens > ROUND_TRIP_TOKENS:
            break
    return Finding("round trip", True, f"{documents:,} validation documents decode and encode to the same tokens")


def _overlap(data: DataFolder) -> Finding:
    overlap = check_overlap(data)
    numbers = {
        "copied": len(overlap.copied),
        "ngrams": overlap.ngrams,
        "shared": overlap.shared,
        "share": overlap.share,
    }
    facts = f"{overlap.share:.2%} of validation's 13-grams occur in training"
    if overlap.found:
        first = overlap.copied[0]
        more = f"{len(overlap.copied)} validation documents are copied in training, first {first.id}"
        return Finding("overlap", False, f"{more} ({first.share:.0%} of its 13-grams); {facts}", numbers)
    return Finding("overlap", True, f"no validation document is copied in training; {facts}", numbers)
