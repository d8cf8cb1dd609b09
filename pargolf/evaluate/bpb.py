"""Bits per byte: the one place that combines nats, tokens and bytes, and the only one with a logarithm of 2.

    bpb = nats / (ln 2 * bytes)        loss = nats / tokens        loss / bpb = ln 2 * bytes / tokens

Bits per byte compares models with different tokenizers; nats per token does not. Their ratio is a constant
of the tokenizer and the split, so it tells which of both a number was made with (sp1024 on the official
validation split: 1.6884581, `data/official.py`; plain bytes: ln 2).
"""

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pargolf.evaluate.windows import Stream, document_spans, document_starts


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Total negative log-likelihood in nats over UTF-8 bytes, as bits per byte; `n_bytes` is positive."""
    assert n_bytes > 0, "no bytes were graded"
    return nats / (math.log(2) * n_bytes)


def bits(nats: float) -> float:
    """Nats as bits."""
    return nats / math.log(2)


def nats_per_token(nats: float, n_tokens: int) -> float:
    """Total negative log-likelihood in nats over tokens: the loss; `n_tokens` is positive."""
    assert n_tokens > 0, "no tokens were graded"
    return nats / n_tokens


def loss_per_bpb(n_tokens: int, n_bytes: int) -> float:
    """The constant of tokenizer and split: multiply bits per byte by it to get nats per token."""
    assert n_tokens > 0, "no tokens were graded"
    return math.log(2) * n_bytes / n_tokens


class DocumentRow(TypedDict):
    """One document's score; `bpb` is None for a document without bytes."""

    index: int
    tokens: int
    bytes: int
    loss: float
    bpb: float | None


def by_document(tokens: Stream, nats: NDArray[np.floating[Any]], byte_counts: Stream, bos: int) -> list[DocumentRow]:
    """Score each document by itself.

    `tokens` is the stream of N+1, `nats` and `byte_counts` belong to its N positions. A document holds the
    positions from its `bos` up to the next one, so the rows sum to the whole stream. Documents with an
    ungraded position (NaN) are left out; `index` still counts them.
    """
    positions = len(tokens) - 1
    assert len(nats) == len(byte_counts) == positions, "nats and byte counts belong to the predicted positions"
    rows: list[DocumentRow] = []
    for index, (begin, stop) in enumerate(document_spans(positions, document_starts(tokens, bos))):
        total = float(nats[begin:stop].sum(dtype=np.float64))
        n_bytes = int(byte_counts[begin:stop].sum(dtype=np.int64))
        if math.isnan(total):
            continue
        rows.append(
            {
                "index": index,
                "tokens": stop - begin,
                "bytes": n_bytes,
                "loss": nats_per_token(total, stop - begin),
                "bpb": bits_per_byte(total, n_bytes) if n_bytes else None,
            }
        )
    return rows
