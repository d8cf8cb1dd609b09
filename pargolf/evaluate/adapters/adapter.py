"""The slot for techniques that adapt a model while it is scored; each has its own file in this folder.

    for each piece of the stream:  1. grade it with the weights as they are   2. train on it   3. go on

Legal because the grade comes first: the published rule (pull requests 402, 549; issue 1017, condition 3) allows
training on validation tokens only after they have been scored. An adapter cannot break that order: it never holds the
tokens, it asks the ledger for them, and the ledger refuses those that have no grade yet.

    sgd, adamw               all or some of the weights, over chunks of the stream (`chunks`)
    online                   the same, window by window, from the very graph that was graded
    low_rank, phases         small weights of each document's own, and SGD over finished documents
    hint_tilt, count_tilt    what followed the same tokens earlier (`context_counts`), pushed in the logits (`tilt`)
    count_mix                the same, mixed into the distribution
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
    """What an adapter is given of the ledger, or of what stands before it."""

    positions: int
    world: World
    turn: Callable[[int], None] | None
    """Told the position at which each group of documents that take turns begins; then all before it is graded.

    None where the order of documents does not matter.
    """

    def grade(
        self,
        predictor: Predictor,
        batch: list[Window],
        *,
        device: torch.device | str = "cpu",
        mine: Sequence[int] | None = None,
    ) -> None:
        """Grade a batch of windows of one shape (`Ledger.grade`)."""
        ...

    @property
    def train(self) -> Callable[[int, Callable[[int], None], torch.device | str], None]:
        """Have a function compute the gradients of some rows, told how many to take at once (`Ledger.train`).

        It begins anew where memory runs out, and is then told fewer.
        """
        ...

    @property
    def graded(self) -> Callable[[int, int], IntArray]:
        """The tokens from one to another index, all of which have been graded (`Ledger.graded`)."""
        ...


class Adapter(Protocol):
    """The slot: how a model adapts while it is scored. A frozen dataclass that a recipe can name.

    With `by_document` each document is a pass of its own, and documents may take turns.
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
        """Grade every position through the ledger and change `model`, saying what comes next before each step.

        `model` is a copy that the adapter may spoil; `starts` are the positions where documents begin. Stopping
        between steps must leave the ledger sound. Raises `UserError` when windows or model do not suit.
        """
        ...


@dataclass(frozen=True)
class Unadapted:
    """Grades and learns nothing: what a tilt (`tilt.py`) works on where nothing else adapts."""

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
    """Parameters that match any of `globs` and none of `frozen`; all others stop asking for gradients.

    Globs speak of roles as in every table (`mlp.up`, `*scale`, `blocks.0.*`). Raises `UserError` for a glob that
    matches nothing, and when nothing is left to train.
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
