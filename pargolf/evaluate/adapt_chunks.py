"""Adaptation by chunks: grade a chunk of the stream, train on it for a few epochs, go on with the next.

    lr_c = lr * (1 + cos(pi c / (n - 1))) / 2        c = 0 .. n-1 of n = ceil(N / chunk) chunks

A window belongs to the chunk of its first graded position. A chunk's sequences are as long as the windows, do not
overlap, and are trained in order; a remainder is left out, and so is the last chunk, since nothing is graded after it.
The optimizer's state lives on from chunk to chunk.

`SGD` over all weights: pull requests 549, 910, 1009 (chunk 32,768, 3 epochs, lr .002, momentum .9, clip 1).
`AdamW` over the MLP and all scales: pull request 861 (1 epoch, lr .0004). An `anchor` takes a step back after each,

    w <- w + anchor (w_0 - w)        w_0: the weights before anything was learned here

so that what was learned fades over 1 / anchor steps: Krause, Kahembwe, Murray, Renals, "Dynamic evaluation of neural
sequence models" (ICML 2018, arXiv:1709.07432).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Protocol

import torch
from torch import nn

from pargolf.core.ranges import Count, Fraction, Index, Length, Positive, Rate
from pargolf.core.world import World
from pargolf.evaluate.adapt import Book, Work, choose, mean_nats
from pargolf.evaluate.score import batches
from pargolf.evaluate.windows import IntArray, Windows


class Lessons(Protocol):
    """How a piece of the stream is trained on: `batch` sequences a step, clipped to a global norm of `clip`."""

    @property
    def lr(self) -> float:
        """Learning rate of the first chunk."""
        ...

    @property
    def epochs(self) -> int:
        """Passes over each chunk."""
        ...

    @property
    def chunk(self) -> int:
        """Tokens of a chunk."""
        ...

    @property
    def batch(self) -> int:
        """Sequences of a step."""
        ...

    @property
    def clip(self) -> float:
        """Largest norm of the gradient over all trained weights."""
        ...

    @property
    def cosine(self) -> bool:
        """Whether the learning rate falls to zero over the chunks."""
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum over all weights but the `frozen` globs."""

    lr: Positive = 0.002
    momentum: Fraction = 0.9
    epochs: Index = 3
    chunk: Length = 32_768
    batch: Count = 32
    clip: Positive = 1.0
    cosine: bool = True
    frozen: tuple[str, ...] = ()
    by_document: ClassVar[bool] = False

    def run(
        self,
        model: nn.Module,
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
        """Grade and train, chunk by chunk."""
        weights = choose(model, ("*",), frozen=self.frozen)
        optimizer = torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum)
        return _by_chunks(self, model, optimizer, ledger, windows, starts, batch_windows, device)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay over the parameters that match `globs`, less the `frozen` ones, and an `anchor`.

    The default globs are pull request 861's rule, "name contains up_proj, down_proj or scale", said in roles.
    """

    lr: Positive = 0.0004
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Rate = 0.0
    anchor: Fraction = 0.0
    epochs: Index = 1
    chunk: Length = 32_768
    batch: Count = 32
    clip: Positive = 1.0
    cosine: bool = True
    globs: tuple[str, ...] = ("mlp.up", "mlp.down", "*scale")
    frozen: tuple[str, ...] = ()
    by_document: ClassVar[bool] = False

    def run(
        self,
        model: nn.Module,
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
        """Grade and train, chunk by chunk."""
        weights = choose(model, self.globs, frozen=self.frozen)
        optimizer = torch.optim.AdamW(weights, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        if self.anchor:
            _hold(optimizer, weights, self.anchor)
        return _by_chunks(self, model, optimizer, ledger, windows, starts, batch_windows, device)


def _hold(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], anchor: float) -> None:
    """After each step, bring the weights back by a share of the way they have come."""
    start = [weight.detach().clone() for weight in weights]

    def back(*_: object) -> None:
        with torch.no_grad():
            for weight, began in zip(weights, start, strict=True):
                weight.lerp_(began, anchor)

    optimizer.register_step_post_hook(back)


def _by_chunks(
    spec: Lessons,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ledger: Book,
    windows: Windows,
    starts: IntArray,
    batch_windows: int,
    device: torch.device | str,
) -> Iterator[Work]:
    """Grade the windows of a chunk, and before those of a later one train on all that lies before."""
    chunks, trained = math.ceil(ledger.positions / spec.chunk), 0
    cut = windows.over(ledger.positions, starts=starts)
    for chunk, members in groupby(cut, key=lambda window: window.first // spec.chunk):
        for past in range(trained, chunk):
            set_lr(optimizer, spec, past, chunks)
            tokens = ledger.graded(past * spec.chunk, (past + 1) * spec.chunk + 1)
            yield from train_on(spec, model, optimizer, tokens, windows.length, device, ledger.world)
        trained = chunk
        for batch in batches(members, batch_windows):
            yield "grade"
            ledger.grade(model, batch, device=device)


def set_lr(optimizer: torch.optim.Optimizer, spec: Lessons, chunk: int, chunks: int) -> None:
    """The learning rate of a chunk."""
    share = 0.5 * (1 + math.cos(math.pi * chunk / max(chunks - 1, 1))) if spec.cosine else 1.0
    for group in optimizer.param_groups:
        group["lr"] = spec.lr * share


def train_on(
    spec: Lessons,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokens: IntArray,
    length: int,
    device: torch.device | str,
    world: World,
) -> Iterator[Work]:
    """Train on graded `tokens` (n + 1 of them) in sequences of `length`, the remainder left out.

    Each process of a `world` takes its share of a step's sequences, and the gradients are summed.
    """
    count = (len(tokens) - 1) // length
    ids_N = torch.from_numpy(tokens.astype("int64")).to(device)
    x_BT, y_BT = (ids_N[by : by + count * length].view(count, length) for by in (0, 1))
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for _ in range(spec.epochs):
        for at in range(0, count, spec.batch):
            yield "train"
            optimizer.zero_grad(set_to_none=True)
            whole = min(spec.batch, count - at)
            mine = world.share(whole)
            # One without a share works with nothing, so that the same weights have gradients everywhere.
            rows, part = slice(at + mine.start, at + max(mine.stop, mine.start + 1)), (mine.stop - mine.start) / whole
            torch.autograd.backward(mean_nats(model, x_BT[rows], y_BT[rows]) * part)
            _sum_gradients(weights, world)
            nn.utils.clip_grad_norm_(weights, spec.clip)
            optimizer.step()


def _sum_gradients(weights: list[torch.Tensor], world: World) -> None:
    """Give every process the gradient of all, in one message."""
    if world.size > 1:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        whole = world.sum(torch.cat([g.flatten() for g in gradients]))
        for g, summed in zip(gradients, torch.split(whole, [g.numel() for g in gradients])):
            g.copy_(summed.view_as(g))
