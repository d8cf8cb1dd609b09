"""The slot for test-time adaptation: techniques that adapt a model while it is scored, one file each in this folder.

    for each piece of the stream:  1. grade it with the current weights   2. train on it   3. continue

This is legal because the grade comes first: the published rule (pull requests 402, 549; issue 1017, condition 3) allows
training on validation tokens only after they were scored. An adapter cannot break that order, because it does not have
the tokens: it requests them from the ledger, which refuses tokens without a grade.

    sgd, adamw               train all or some weights, over chunks of the stream (`chunks`)
    online                   the same, window by window, with gradients of the forward pass that was graded
    low_rank, phases         low-rank weights for each document, and SGD over finished documents
    hint_tilt, count_tilt    n-gram counts of the text so far (`context_counts`), added to the logits (`tilt`)
    count_mix                the same counts, mixed into the distribution
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pargolf.core.errors import UserError, near
from pargolf.core.roles import matches, role
from pargolf.core.world import World
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.score import batches
from pargolf.evaluate.windows import IntArray, Window, Windows

StepKind = Literal["grade", "train"]
"""What an adapter does next: score a batch of windows, or take a training step."""


class LedgerView(Protocol):
    """The part of the ledger (or of a wrapper around it) that an adapter may use."""

    positions: int
    world: World
    turn: Callable[[int], None] | None
    """Called with the first position of each group of documents; everything before it must then be graded.

    None when the order of documents does not matter.
    """

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        rows: Sequence[int] | None = None,
    ) -> None:
        """Grade a batch of windows of one shape (`Ledger.grade`)."""
        ...

    @property
    def train(self) -> Callable[[int, Callable[[int], None], torch.device | str], None]:
        """Let a function compute the gradients of some rows, given how many to take at once (`Ledger.train`).

        When memory runs out, it is called again with fewer.
        """
        ...

    @property
    def graded(self) -> Callable[[int, int], IntArray]:
        """The tokens between two indices, all of which were graded (`Ledger.graded`)."""
        ...


class Adapter(Protocol):
    """The slot for how a model adapts while it is scored: a frozen dataclass that a recipe can name.

    With `by_document` each document is a pass of its own, and documents may be graded in any order.
    """

    @property
    def by_document(self) -> bool:
        """Whether documents are graded apart."""
        ...

    def run(
        self,
        model: nn.Module,
        ledger: LedgerView,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade every position through the ledger and adapt `model`; yields the kind of each step before it.

        `model` is a copy that the adapter may change; `starts` are the positions where documents begin. The caller may
        stop between steps. Raises `UserError` when windows or model are not suitable.
        """
        ...


@dataclass(frozen=True)
class Unadapted:
    """Grades without learning: the base of a tilt (`tilt.py`) when there is no other adapter."""

    by_document: ClassVar[bool] = False

    def run(
        self,
        model: nn.Module,
        ledger: LedgerView,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[StepKind]:
        """Grade every position."""
        for batch in batches(windows.over(ledger.positions, starts=starts), batch_windows):
            yield "grade"
            ledger.grade(model, batch, device=device)


def choose(model: nn.Module, globs: Sequence[str], *, frozen: Sequence[str] = ()) -> list[nn.Parameter]:
    """The parameters that match any of `globs` and none of `frozen`; only these require gradients afterwards.

    Globs match roles as in every table (`mlp.up`, `*scale`, `blocks.0.*`). Raises `UserError` for a glob that matches
    nothing, and when nothing is left to train.
    """
    names = dict(model.named_parameters())
    for glob in (*globs, *frozen):
        if not any(matches(name, glob) for name in names):
            known = sorted({role(name) for name in names})
            raise UserError(f"'{glob}' of the adapter matches no parameter.{near(glob, known)}")
    chosen = []
    for name, weight in names.items():
        wanted = any(matches(name, glob) for glob in globs) and not any(matches(name, glob) for glob in frozen)
        weight.requires_grad_(wanted)
        if wanted:
            chosen.append(weight)
    if not chosen:
        raise UserError("the adapter's globs leave no parameter to train")
    return chosen


def mean_nats(model: nn.Module, ids_BT: Tensor, targets_BT: Tensor, *, first: int = 0) -> Tensor:
    """Mean loss in nats per token of the positions from `first` on, in float32, for a backward pass."""
    logits_BSV = model(ids_BT, first=first)
    return cross_entropy(logits_BSV.flatten(0, 1).float(), targets_BT[:, first:].flatten())
