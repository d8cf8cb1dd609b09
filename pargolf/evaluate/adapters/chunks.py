"""Test-time adaptation by chunks: grade a chunk of the stream, train on it for a few epochs, continue with the next.

    lr_c = lr * (1 + cos(pi c / (n - 1))) / 2        c = 0 .. n-1 of n = ceil(N / chunk) chunks

A window belongs to the chunk of its first graded position. The sequences of a chunk are as long as the windows, do not
overlap, and are trained in order. The remainder of a chunk is not trained on, nor is the last chunk, because nothing is
graded after it. The optimizer keeps its state between chunks. The optimizers are in `sgd` and `adamw`.
"""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Protocol

import torch
from torch import nn

from pargolf.core.world import World
from pargolf.evaluate.adapters.adapter import LedgerView, StepKind, mean_nats
from pargolf.evaluate.score import batches
from pargolf.evaluate.windows import IntArray, Windows


class ChunkTraining(Protocol):
    """How a chunk is trained on: `batch` sequences per step, gradients clipped to a global norm of `clip`."""

    @property
    def lr(self) -> float:
        """Learning rate of the first chunk."""
        ...

    @property
    def epochs(self) -> int:
        """The number of passes over each chunk."""
        ...

    @property
    def chunk(self) -> int:
        """The number of tokens in a chunk."""
        ...

    @property
    def batch(self) -> int:
        """The number of sequences in a step."""
        ...

    @property
    def clip(self) -> float:
        """Largest norm of the gradient over all trained weights."""
        ...

    @property
    def cosine(self) -> bool:
        """Whether the learning rate falls to zero over the chunks."""
        ...


def train_by_chunks(
    spec: ChunkTraining,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ledger: LedgerView,
    windows: Windows,
    starts: IntArray,
    batch_windows: int,
    device: torch.device | str,
) -> Iterator[StepKind]:
    """Grade the windows of each chunk; before that, train on all earlier chunks that were not trained on yet."""
    chunks, trained = math.ceil(ledger.positions / spec.chunk), 0
    cut = windows.over(ledger.positions, starts=starts)
    for chunk, members in groupby(cut, key=lambda window: window.first // spec.chunk):
        for past in range(trained, chunk):
            set_lr(optimizer, spec, past, chunks)
            tokens = ledger.graded(past * spec.chunk, (past + 1) * spec.chunk + 1)
            yield from train_on(spec, model, optimizer, tokens, windows.length, device, ledger)
        trained = chunk
        for batch in batches(members, batch_windows):
            yield "grade"
            ledger.grade(model, batch, device=device)


def set_lr(optimizer: torch.optim.Optimizer, spec: ChunkTraining, chunk: int, chunks: int) -> None:
    """Set the learning rate of a chunk."""
    share = 0.5 * (1 + math.cos(math.pi * chunk / max(chunks - 1, 1))) if spec.cosine else 1.0
    for group in optimizer.param_groups:
        group["lr"] = spec.lr * share


def train_on(
    spec: ChunkTraining,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokens: IntArray,
    length: int,
    device: torch.device | str,
    ledger: LedgerView,
) -> Iterator[StepKind]:
    """Train on graded `tokens` (n + 1 of them) in sequences of `length`; the remainder is left out.

    Each process of the ledger's world takes its share of the sequences of a step, and the gradients are summed.
    """
    count = (len(tokens) - 1) // length
    ids_N = torch.from_numpy(tokens.astype("int64")).to(device)
    x_BT, y_BT = (ids_N[by : by + count * length].view(count, length) for by in (0, 1))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for _ in range(spec.epochs):
        for begin in range(0, count, spec.batch):
            yield "train"
            whole = min(spec.batch, count - begin)
            span = ledger.world.share(whole)
            # A process without a share takes a row with weight 0, so that the same weights have gradients everywhere.
            rows = range(begin + span.start, begin + max(span.stop, span.start + 1))
            share = (span.stop - span.start) / whole

            def gradients(most: int, rows: range = rows, share: float = share) -> None:
                optimizer.zero_grad(set_to_none=True)
                for part in (rows[i : i + most] for i in range(0, len(rows), most)):
                    loss = mean_nats(model, x_BT[part.start : part.stop], y_BT[part.start : part.stop])
                    torch.autograd.backward(loss * (share * (len(part) / len(rows))))

            ledger.train(len(rows), gradients, device)
            sum_gradients(weights, ledger.world)
            nn.utils.clip_grad_norm_(weights, spec.clip)
            optimizer.step()


def sum_gradients(weights: list[torch.Tensor], world: World) -> None:
    """Sum the gradients over all processes, in one message."""
    if world.size > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        whole = world.sum(torch.cat([g.flatten() for g in gradients]))
        for g, summed in zip(gradients, torch.split(whole, [g.numel() for g in gradients])):
            g.copy_(summed.view_as(g))
