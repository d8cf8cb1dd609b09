"""Bits per byte: the only place where nats, tokens and bytes are combined.

    bpb = nats / (ln 2 * bytes)        loss = nats / tokens        loss / bpb = ln 2 * bytes / tokens

Bits per byte are comparable between models with different tokenizers; nats per token are not. The ratio of both is a
constant of tokenizer and split, so it identifies them (sp1024 on the official validation split: 1.6884581,
`data/official.py`; plain bytes: ln 2).
"""

import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pargolf.evaluate.windows import Stream, document_spans, document_starts


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Bits per byte of a total negative log-likelihood in nats; `n_bytes` is positive."""
    assert n_bytes > 0, "no bytes were graded"
    return nats / (math.log(2) * n_bytes)


def bits(nats: float) -> float:
    """Convert nats to bits."""
    return nats / math.log(2)


def nats_per_token(nats: float, n_tokens: int) -> float:
    """The loss: total negative log-likelihood in nats per token; `n_tokens` is positive."""
    assert n_tokens > 0, "no tokens were graded"
    return nats / n_tokens


def loss_per_bpb(n_tokens: int, n_bytes: int) -> float:
    """The constant of tokenizer and split: nats per token over bits per byte."""
    assert n_tokens > 0, "no tokens were graded"
    return math.log(2) * n_bytes / n_tokens


class DocumentRow(TypedDict):
    """The score of one document; `bpb` is None for a document without bytes."""

    index: int
    tokens: int
    bytes: int
    loss: float
    bpb: float | None


def by_document(tokens: Stream, nats: NDArray[np.floating[Any]], byte_counts: Stream, bos: int) -> list[DocumentRow]:
    """The score of each document.

    `tokens` is the stream of N+1 tokens; `nats` and `byte_counts` belong to its N positions. A document consists of the
    positions from its `bos` up to the next one, so the rows sum to the whole stream. Documents with an ungraded
    position (NaN) are left out; `index` still counts them.
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
