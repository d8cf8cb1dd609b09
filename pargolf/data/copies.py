"""Near-copies: documents that share half or more of their 13-grams with others, found before a split is written.

    copied_in_training   validation documents that are copies of training text (as `data check` counts them) are moved
                         to training; this repeats until validation has none
    copies_of_earlier    documents whose 13-grams occur to one half or more in earlier documents are to be dropped

The first is exact and uses the hashes of `overlap.py`. The second keeps one table of flags over the hashes of all
earlier 13-grams. Two 13-grams can share a flag, so the shared part is corrected for how full the table is. In a large
corpus only every 2nd, 4th, ... hash is compared, so that the table never takes more than 128 MiB.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pargolf.data.hashing import U64, distinct
from pargolf.data.overlap import COPY_SHARE, Occurrence, hash_ngrams, sample, sampling
from pargolf.data.plan import TRAIN, VAL
from pargolf.data.shards import BLOCK, Tokens

Documents = Callable[..., Iterator[tuple[int, Tokens]]]
"""Called with splits, yields the number and the tokens (BOS first) of each of their documents, in order."""
_SLOTS, _FEWEST = 1 << 27, 1 << 16
_ROOM = 8  # slots for each 13-gram


def copied_in_training(
    documents: Documents, split_N: npt.NDArray[np.uint8], tokens_N: npt.NDArray[np.integer], bos: int
) -> list[int]:
    """Move validation documents to training until none is a copy of training text; return their numbers, sorted.

    split_N, tokens_N: split and length of each document; `split_N` is changed in place
    """
    moved: list[int] = []
    while True:
        every = sampling(int(tokens_N[split_N == VAL].sum()))
        copied = _copied(documents, every, bos)
        split_N[copied] = TRAIN
        moved += copied
        if not copied or sampling(int(tokens_N[split_N == VAL].sum())) == every:
            return sorted(moved)


def _copied(documents: Documents, every: int, bos: int) -> list[int]:
    """Validation documents that are copies of training text, or of training text and such copies together."""
    rest = {number: sample(hash_ngrams(tokens, bos), every) for number, tokens in documents(VAL)}
    seen = Occurrence(list(rest.values()))
    for block in _blocks(documents):
        seen.add(sample(hash_ngrams(block, bos), every))
    out: list[int] = []
    while fresh := [number for number, gram_M in rest.items() if seen.share(gram_M) >= COPY_SHARE]:
        for number in fresh:
            seen.add(rest.pop(number))
        out += fresh
    return out


def _blocks(documents: Documents) -> Iterator[Tokens]:
    """Training tokens, about a block at a time, in whole documents."""
    parts: list[Tokens] = []
    for _, tokens in documents(TRAIN):
        parts.append(tokens)
        if sum(map(len, parts)) >= BLOCK:
            yield np.concatenate(parts)
            parts = []
    if parts:
        yield np.concatenate(parts)


def copies_of_earlier(documents: Documents, tokens: int, bos: int) -> list[int]:
    """Numbers of the documents that share half or more of their 13-grams with earlier documents that are kept.

    `tokens` is the number of tokens in all documents.
    """
    every = 1 << max(0, (_ROOM * tokens - 1) // _SLOTS).bit_length()
    bits = max(_FEWEST, min(_SLOTS, _ROOM * tokens // every)).bit_length()
    seen_S, used = np.zeros(1 << bits, dtype=np.bool_), 0
    out: list[int] = []
    for number, document in documents(TRAIN, VAL):
        slot_M: U64 = sample(hash_ngrams(document, bos), every) >> np.uint64(64 - bits)
        if not len(slot_M):
            continue
        full = used / len(seen_S)
        if (float(seen_S[slot_M].mean()) - full) / (1 - full) >= COPY_SHARE:
            out.append(number)
            continue
        fresh_M = distinct(slot_M)
        used += int((~seen_S[fresh_M]).sum())
        seen_S[fresh_M] = True
    return out
