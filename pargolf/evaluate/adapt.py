"""Score-first adaptation: a model that learns from what it has already been graded on.

    for each piece of the stream:  1. grade it with the weights as they are   2. train on it   3. go on

Legal because the grade comes first: the published rule (pull requests 402, 549; issue 1017, condition 3) allows
training on validation tokens only after they have been scored. Here that order is no promise: an adapter never holds
the tokens, it asks the ledger, and the ledger refuses those that have no grade yet.

Adapters stand in files of their own: `adapt_chunks` (SGD and AdamW over chunks of the stream), `adapt_documents`
(low-rank weights per document, with phases of SGD between), `tilt` (counts of what followed what, alone or over
adaptation by chunks). The result always carries the same model's score without adaptation beside it, and says plainly
when adapting made it worse.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pargolf.core.budget import Clock
from pargolf.core.errors import UserError, near
from pargolf.core.events import Progress
from pargolf.core.roles import matches, role
from pargolf.core.spec import show
from pargolf.core.world import World
from pargolf.evaluate.bpb import bits_per_byte
from pargolf.evaluate.lookahead import Predictor
from pargolf.evaluate.score import Ledger, Score, batches, progress, score, suits
from pargolf.evaluate.text import Text
from pargolf.evaluate.watched import Watched, replays
from pargolf.evaluate.windows import IntArray, PerDocument, Stream, Window, Windows, document_starts

Work = Literal["grade", "train"]
_REPLAYED = 0.1  # of a scoring's time, the most that its replays take


class Book(Protocol):
    """What an adapter is given of the ledger, or of what stands before it."""

    positions: int
    world: World

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
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
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
        ledger: Book,
        windows: Windows,
        *,
        starts: IntArray,
        batch_windows: int,
        device: torch.device | str,
    ) -> Iterator[Work]:
        """Grade every position."""
        for batch in batches(windows.over(ledger.positions, starts=starts), batch_windows):
            yield "grade"
            ledger.grade(model, batch, device=device)


@dataclass(frozen=True, eq=False)
class Adapted:
    """A score with adaptation and, beside it, the same model's without, over the same windows."""

    adapter: str
    score: Score
    without: Score

    @property
    def saved(self) -> float:
        """Bits per byte that adaptation saved, over the positions that both graded; negative when it did harm."""
        if self.score.complete and self.without.complete:
            return self.without.bpb - self.score.bpb
        both = ~(np.isnan(self.score.nats_N) | np.isnan(self.without.nats_N))
        nats = self.without.nats_N[both].sum(dtype=np.float64) - self.score.nats_N[both].sum(dtype=np.float64)
        return bits_per_byte(float(nats), self.score.bytes)

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        now = f"{self.score.bpb:.6f} bpb adapted, {self.without.bpb:.6f} without"
        part = "" if self.score.complete else f", over the {self.score.tokens:,} positions graded in time"
        if self.saved > 0:
            return f"adapting saved {self.saved:.6f} bpb ({now}{part})"
        if self.saved == 0:
            return f"adapting changed nothing ({now}{part})"
        return f"adapting made it worse by {-self.saved:.6f} bpb ({now}{part}): leave it out"

    def row(self) -> dict[str, Any]:
        """Everything but the arrays, for a JSON file."""
        return {
            "adapter": self.adapter,
            **self.score.row(),
            "without": self.without.row(),
            "saved_bpb": self.saved,
            "verdict": self.verdict,
        }


def score_adapted(
    model: nn.Module,
    text: Text,
    windows: Windows,
    adapter: Adapter,
    *,
    batch_windows: int | None = None,
    device: torch.device | str = "cpu",
    seconds: float | None = None,
    clock: Clock | None = None,
    without: Score | None = None,
    world: World | None = None,
    probe: bool = True,
) -> Iterator[Progress | Adapted]:
    """Grade `text` while a copy of `model` adapts, yielding progress and at the end `Adapted`.

    Arguments are those of `score`. `seconds` limits the adapted scoring alone; the one without adaptation follows
    it, unless the caller has that `Score` of the same model and windows and passes it as `without`. The processes of
    a `world` share the work, and each ends with the whole result. With `probe` and time left, a complete scoring is
    followed by `replays` of its beginning, which find out whether model or adapter looks ahead.
    Raises `UserError`, `LogitsError` (training diverged, for one).
    """
    clock, world = clock or Clock(), world or World()
    began = clock.seconds
    text.check()
    rows = batch_windows or suits(windows, device)

    def starts_of(tokens: Stream) -> NDArray[np.int64]:
        return document_starts(tokens, text.bos) if isinstance(windows, PerDocument) else np.zeros(0, dtype=np.int64)

    def run(ledger: Ledger, starts: IntArray) -> Iterator[Work]:
        own, size = copy.deepcopy(model).eval(), rows * ledger.world.size
        return adapter.run(own, ledger, windows, starts=starts, batch_windows=size, device=device)

    def again(part: Text, since: int) -> tuple[Watched, Iterator[Work]]:
        starts = starts_of(part.tokens)
        apart = starts if adapter.by_document else ()
        watched = Watched(part, since=since, once=windows.in_turn, documents=apart)
        return watched, run(watched, starts)

    starts = starts_of(text.tokens)
    ledger = Ledger(
        text,
        once=windows.in_turn,
        documents=starts if adapter.by_document else (),
        world=world,
    )
    for _ in _in_time(run(ledger, starts), ledger, clock=clock, seconds=seconds):
        yield progress(ledger, f"adapt {windows}", elapsed=clock.seconds - began)
    text.check()
    graded = ledger.score(windows, seconds=clock.seconds - began)
    ends = clock.seconds + _REPLAYED * world.size * graded.seconds
    if probe and graded.complete and (seconds is None or world.max(ends)[0] <= seconds):
        steady = torch.device(device).type == "cpu"
        look = yield from replays(again, text, windows, steady=steady)
        graded = replace(graded, look=look)
    if without is None:
        for event in score(model, text, windows, batch_windows=batch_windows, device=device):
            if isinstance(event, Score):
                without = event
            else:
                yield event
    assert without is not None
    if (without.windows, without.positions) != (graded.windows, graded.positions):
        raise UserError(f"the score without adaptation is of {without.windows}, and this one of {graded.windows}")
    yield Adapted(show(adapter), graded, without)


def _in_time(work: Iterator[Work], ledger: Ledger, *, clock: Clock, seconds: float | None) -> Iterator[None]:
    """Let the work go on until its next step might not fit, judged by the slowest of its kind's last few."""
    recent: dict[Work, deque[float]] = {"grade": deque(maxlen=8), "train": deque(maxlen=8)}
    for kind in work:
        before = clock.seconds
        expected = before + max(recent[kind], default=max(recent["grade"], default=0.0))
        if seconds is not None and ledger.bytes and ledger.world.max(expected)[0] > seconds:
            return
        yield
        recent[kind].append(clock.seconds - before)


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
