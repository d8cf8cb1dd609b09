"""Unigram frequencies of the training tokens: the initial bias of the model's head.

    log p(v) = log((count(v) + 1) / (N + V))

over N tokens taken evenly from the whole split, so that text sorted by period or source is sampled from end to end. A
head with this bias (`Head(bias=True)`) starts at the unigram entropy instead of log V, and the first steps do not have
to learn frequencies through the embedding. Suggested for runs of a few hundred steps in the notes of several
small-scale entries of the field; common in language models since Mnih & Hinton 2008.
"""

import numpy as np
import torch
from torch import Tensor

from pargolf.data.shards import TokenSource

SAMPLE, SPAN = 4_194_304, 4096
"""The number of tokens that are counted at most, and the length of the spans they are read in."""


def log_unigram(source: TokenSource, vocab: int) -> Tensor:
    """Log frequencies with add-one smoothing: float32 (vocab,)."""
    spans = max(min(SAMPLE, len(source)) // SPAN, 1)
    length = min(SPAN, len(source))
    starts = np.linspace(0, len(source) - length, spans).astype(np.int64)
    counts = np.zeros(vocab, dtype=np.int64)
    for start in starts.tolist():
        counts += np.bincount(source.take(start, length), minlength=vocab)
    return torch.from_numpy(np.log((counts + 1.0) / (counts.sum() + vocab))).float()
