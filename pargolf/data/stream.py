"""The training data loader: each batch is a pure function of seed and step. Three orders of the sequences exist:

Sequential   The published loader: micro-batch j of rank r is the span of m + 1 tokens that starts at
             (j * world + r) * (m + 1), with m = batch_tokens / (world * accumulation); inputs are its first m tokens,
             targets its last m. Source: openai/parameter-golf, `DistributedTokenLoader`.
Shuffled     Cuts the ring of N tokens into (N - 1) // T windows of T + 1 tokens; neighbours share one token. Visits
             each window once per epoch in a random permutation, and shifts the cuts in every epoch. The permutation is
             a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): it
             gives any position of any epoch in constant memory, so a resumed run needs only its step.
Strided      Visits the same windows at a constant stride that is coprime to their number, so each comes once: the
             coprime loader of pull requests 726 and 1060 (they used it inside each shard). A batch is then an even
             sample of the whole split. (Pull request 1394 went back to shuffling.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pargolf.core.errors import UserError
from pargolf.data.hashing import mix64, mix_words
from pargolf.data.shards import TokenSource

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class MicroBatch:
    """A request for `count` sequences of `seq_len` tokens, out of a split of `tokens` tokens.

    first: the number of the first sequence, counted through all steps and processes
    turn: the number of the micro-batch, counted in the order in which processes take them
    """

    first: int
    turn: int
    count: int
    seq_len: int
    tokens: int
    seed: int


class WindowOrder(Protocol):
    """The slot for the order in which training sequences are seen."""

    def starts(self, batch: MicroBatch) -> npt.NDArray[np.int64]:
        """The start of each sequence in the ring of tokens: int64 (count,). A pure function of `batch`."""
        ...


@dataclass(frozen=True)
class Sequential:
    """The stream in the order of the shards, in the published spans; the seed is not used."""

    def starts(self, batch: MicroBatch) -> npt.NDArray[np.int64]:
        """One span: each sequence begins with the last target of the one before."""
        return batch.turn * (batch.count * batch.seq_len + 1) + np.arange(batch.count, dtype=np.int64) * batch.seq_len


@dataclass(frozen=True)
class Shuffled:
    """Windows in a new random order every epoch; `shift` also moves the borders of the windows."""

    shift: bool = True

    def starts(self, batch: MicroBatch) -> npt.NDArray[np.int64]:
        """By the permutation of the epoch."""
        return _visited(batch, permute, shift=self.shift)


@dataclass(frozen=True)
class Strided:
    """Windows at a stride coprime to their number; stride and borders are drawn anew every epoch."""

    def starts(self, batch: MicroBatch) -> npt.NDArray[np.int64]:
        """By the stride of the epoch."""
        return _visited(batch, stride, shift=True)


class TrainStream:
    """One rank's share of every global batch of `batch_tokens` tokens in sequences of `seq_len`.

    With `Shuffled` and `Strided`, the concatenated batches of all ranks are the same for every world size; with
    `Sequential`, for the same product of world and accumulation. Raises `UserError` when the batch does not divide into
    whole sequences, or the source is shorter than one.
    """

    def __init__(
        self,
        source: TokenSource,
        *,
        batch_tokens: int,
        seq_len: int,
        seed: int,
        order: WindowOrder = Shuffled(),
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
    ) -> None:
        assert 0 <= rank < world and accumulation > 0
        share = seq_len * world * accumulation
        if seq_len < 1 or batch_tokens < 1 or batch_tokens % share:
            raise UserError(
                f"A batch of {batch_tokens} tokens does not divide into whole sequences of {seq_len} over {world} "
                f"processes x {accumulation} micro-batches; take a multiple of {share}."
            )
        if len(source) < seq_len + 1:
            raise UserError(
                f"The training split has {len(source)} tokens and a sequence needs {seq_len + 1}; "
                "add text or shorten the sequence."
            )
        self.source, self.order, self.seed = source, order, seed
        self.batch_tokens, self.seq_len = batch_tokens, seq_len
        self.rank, self.world, self.accumulation = rank, world, accumulation

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All micro-batches of this rank at `step`: inputs and targets, int64 (B, T) each."""
        xs, ys = zip(*(self.micro(step, index) for index in range(self.accumulation)))
        return torch.cat(xs), torch.cat(ys)

    def micro(self, step: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Micro-batch `index` of `step`: inputs and targets, int64 (B / accumulation, T) each."""
        assert step >= 0 and 0 <= index < self.accumulation
        rows = self.batch_tokens // self.seq_len
        count = rows // (self.world * self.accumulation)
        batch = MicroBatch(
            first=step * rows + (self.rank * self.accumulation + index) * count,
            turn=(step * self.accumulation + index) * self.world + self.rank,
            count=count,
            seq_len=self.seq_len,
            tokens=len(self.source),
            seed=self.seed,
        )
        windows = np.stack([self.source.take(start, self.seq_len + 1) for start in self.order.starts(batch).tolist()])
        window_BT = torch.from_numpy(windows.astype(np.int64))
        return window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()

    def epoch(self, step: int) -> float:
        """How many times `step` batches have covered the split."""
        return step * self.batch_tokens / len(self.source)


def _visited(batch: MicroBatch, visit: Callable[..., npt.NDArray[np.int64]], *, shift: bool) -> npt.NDArray[np.int64]:
    """Starts of windows that are visited once per epoch, in the order that `visit` gives: int64 (count,)."""
    per_epoch = (batch.tokens - 1) // batch.seq_len
    number_N = np.arange(batch.first, batch.first + batch.count)
    start_N = np.empty(batch.count, dtype=np.int64)
    for epoch in range(batch.first // per_epoch, (batch.first + batch.count - 1) // per_epoch + 1):
        here_N = number_N // per_epoch == epoch
        offset = mix_words(batch.seed, epoch, 1) % batch.seq_len if shift else 0
        windows = visit(number_N[here_N] % per_epoch, size=per_epoch, key=mix_words(batch.seed, epoch, 0))
        start_N[here_N] = offset + windows * batch.seq_len
    return start_N


def permute(index_N: npt.NDArray[np.integer], *, size: int, key: int) -> npt.NDArray[np.int64]:
    """Map each index below `size` through the permutation of 0 .. size - 1 that `key` selects: int64 (N,)."""
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(mix_words(key, number)) for number in range(FEISTEL_ROUNDS)]
    out_N = index_N.astype(np.uint64)
    assert size > 0 and bool((out_N < size).all())
    outside_N = np.ones(len(out_N), dtype=np.bool_)
    while outside_N.any():
        high, low = out_N[outside_N] >> half, out_N[outside_N] & mask
        for round_key in keys:
            high, low = low, high ^ (mix64(low ^ round_key) & mask)
        out_N[outside_N] = (high << half) | low
        outside_N = out_N >= size
    return out_N.astype(np.int64)


def stride(index_N: npt.NDArray[np.integer], *, size: int, key: int) -> npt.NDArray[np.int64]:
    """Map each index below `size` to `(start + index * step) % size`, start and step drawn by `key`: int64 (N,).

    The step is coprime to `size` and at least a quarter of it.
    """
    start, step = mix_words(key, 0) % size, size // 4 + mix_words(key, 1) % max(size // 2, 1)
    while math.gcd(step, size) != 1:
        step += 1
    return (start + index_N.astype(np.int64) * step) % size
