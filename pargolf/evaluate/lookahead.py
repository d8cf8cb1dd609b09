"""The causality test: change tokens to the right of a position, and see whether its distribution changes.

    p(. | tokens[..t])   must be the same whatever tokens[t+1..] are         issue 1017, C1

The whole distribution is compared, not only the grade of the true token. So a look at the very next token, which is the
target itself, is as visible as a look further ahead. `Flips` runs the test while a text is scored: in a few windows,
spread over the text, it changes one token at a random place, or the last token of the window, or all tokens from a
random place on, and shows the predictor both the true and the changed batch. A changed token at place p tests all
graded positions before it at once: a look one token ahead moves position p - 1, a look two tokens ahead p - 2, and so
on.

The test covers only the places that were tried. It says nothing about what the weights have memorized.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pargolf.evaluate.windows import IntArray, Window

TOLERANCE = 1e-4
"""Nats by which rounding may change a log-probability. A smaller look ahead cannot gain more than this per token."""
_ONE_IN = 64  # one in so many batches is shown twice
_ROWS = 8  # at most so many windows of a batch are changed, because their logits need extra memory
_KINDS = 3


class Predictor(Protocol):
    """Anything that predicts tokens: a module, a function, an ensemble, a foreign script.

    `ids_BT` (int64) holds the input tokens. Return floating-point logits (B, T - first, vocab) for the positions from
    `first` on, each computed from ids[:, :t+1] only, and the same for the same ids. The predictor itself must be in
    evaluation mode.
    """

    def __call__(self, ids_BT: Tensor, *, first: int) -> Tensor:
        """Logits of the positions first..T-1."""
        ...


class PartedPredictor(Predictor, Protocol):
    """A predictor bound to one batch that can also predict only some of its rows, if memory is too small for all."""

    def part(self, begin: int, end: int) -> Predictor | None:
        """The predictor for rows begin..end-1 only; None if there is none."""
        ...


def part_of(predictor: Predictor, begin: int, end: int) -> Predictor | None:
    """The predictor for some rows of its batch; None if it cannot be split."""
    part: Callable[[int, int], Predictor | None] | None = getattr(predictor, "part", None)
    if part is not None:
        return part(begin, end)
    return predictor if isinstance(predictor, nn.Module) else None


@dataclass(frozen=True)
class LookAhead:
    """The result of changing tokens in `windows` windows: the farthest look ahead that was seen.

    `ahead` is the distance in tokens from a position to the changed token that moved its distribution, `position` that
    position's index in the stream, `nats` by how much the log-probability of some token moved. Where all moves were
    within rounding, `ahead` is 0 and `nats` the largest of them. `unsteady` where the same tokens moved it as well.
    """

    windows: int = 0
    ahead: int = 0
    position: int = 0
    nats: float = 0.0
    unsteady: bool = False

    @property
    def probed(self) -> bool | None:
        """Whether the predictor passed the test; None when no tokens were changed."""
        return self.ahead == 0 if self.windows else None

    def joined(self, other: "LookAhead") -> "LookAhead":
        """Combine two results: the farther look, over the windows of both."""
        worst = max(self, other, key=lambda look: (look.ahead, look.nats))
        return replace(worst, windows=self.windows + other.windows)

    def __str__(self) -> str:
        if not self.windows:
            return "No token was changed to see whether the predictor looks ahead."
        if not self.ahead:
            return f"Tokens were changed in {self.windows:,} windows, and no distribution before them moved."
        if self.unsteady:
            return (
                f"Not repeatable: shown the same tokens again, the model moved position {self.position:,}. Something "
                "in it is random while it scores, as a dropout that evaluation does not end."
            )
        return (
            f"Not causal: position {self.position:,} looked {self.ahead:,} token{'s' * (self.ahead > 1)} ahead; "
            f"a change there moved its log-probabilities by up to {self.nats:.2g} nats."
        )


def moved(before_SV: Tensor, after_SV: Tensor, *, start: int, place: int, tolerance: float = TOLERANCE) -> LookAhead:
    """How far ahead the positions start..start+S-1 looked, when `place` is the first changed token.

    `before_SV` and `after_SV` are log-probabilities, or other values that must not change; positions from `place` on
    are ignored.
    """
    count = min(place - start, len(before_SV))
    if count <= 0:
        return LookAhead()
    moved_S = (after_SV[:count].double() - before_SV[:count].double()).abs().flatten(1).amax(1)
    far = torch.nonzero(~(moved_S <= tolerance)).flatten()  # NaN counts as moved
    if not len(far):
        return LookAhead(1, nats=float(moved_S.max()))
    first = int(far[0])
    return LookAhead(1, ahead=place - start - first, position=start + first, nats=float(moved_S[first]))


def changed(
    tokens: IntArray, places: IntArray, *, vocab: int, bos: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """A copy with another random token (never `bos`) at each of `places`, which must not hold `bos`."""
    out = np.array(tokens, dtype=np.int64)
    rank = out[places] - (out[places] > bos)  # among the vocab - 1 tokens that are not bos
    rank = (rank + random.integers(1, vocab - 1, len(places))) % (vocab - 1)
    out[places] = rank + (rank >= bos)
    return out


class Flips:
    """Tests whether the predictor looks ahead, while a text is scored in `batches` of up to `rows` windows.

    About one batch in 64 is shown a second time, in the same shape, with other tokens in up to eight of its windows;
    BOS tokens stay. `look` is the result so far.
    """

    def __init__(self, predictor: Predictor, *, batches: int, rows: int, vocab: int, bos: int, seed: int = 0) -> None:
        self.look = LookAhead()
        self.predictor = predictor
        self._vocab, self._bos = vocab, bos
        self._random = np.random.default_rng(seed)
        count = min(batches, max(-(-_KINDS // rows), batches // _ONE_IN)) if vocab > 2 else 0
        edges = np.linspace(0, batches, count + 1).astype(np.int64)
        self._due = deque(self._random.integers(edges[:-1], edges[1:]).tolist())
        self._shown = 0
        self._turn = 0

    def around(self, batch: list[Window]) -> Predictor:
        """The predictor for this batch: the original, or one that first sees the changed batch, then the true one."""
        self._shown += 1
        if not self._due or self._shown <= self._due[0]:
            return self.predictor
        self._due.popleft()

        return _Watched(self, batch)

    def watched(self, batch: list[Window], ids_BT: Tensor, first: int) -> Tensor:
        """Run the batch with changed tokens and then the true batch; compare, and return the true logits."""
        places = self._changes(ids_BT, first)
        flipped_BT = ids_BT.clone()
        for row, (_, ids_T) in places.items():
            flipped_BT[row] = torch.from_numpy(ids_T).to(ids_BT.device)
        after = self.predictor(flipped_BT, first=first)[list(places)].clone() if places else None
        logits_BSV = self.predictor(ids_BT, first=first)
        for index, (row, (place, _)) in enumerate(places.items()):
            if after is None or after[index].shape != logits_BSV[row].shape or logits_BSV.ndim != 3:
                break  # the ledger reports wrong shapes
            before_SV, after_SV = (x.float().log_softmax(-1) for x in (logits_BSV[row], after[index]))
            start = batch[row].start
            look = moved(before_SV, after_SV, start=start + first, place=start + place)
            if look.ahead:
                again_SV = self.predictor(ids_BT, first=first)[row].float().log_softmax(-1)
                same = moved(before_SV, again_SV, start=start + first, place=start + place)
                look = replace(look, unsteady=same.ahead > 0)
            self.look = self.look.joined(look)
        return logits_BSV

    def _changes(self, ids_BT: Tensor, first: int) -> dict[int, tuple[int, NDArray[np.int64]]]:
        """For some rows, the first changed place and the changed ids; the kinds of change alternate."""
        out = {}
        rows = self._random.permutation(len(ids_BT))[:_ROWS]
        for row in map(int, rows):
            ids_T = ids_BT[row].cpu().numpy()
            free = np.flatnonzero(ids_T != self._bos)
            free = free[free > first]
            if len(free):
                index = (int(self._random.integers(len(free))), len(free) - 1)[self._turn % _KINDS == 1]
                places = free[index:] if self._turn % _KINDS == 2 else free[index : index + 1]
                changed_T = changed(ids_T, places, vocab=self._vocab, bos=self._bos, random=self._random)
                out[row] = int(places[0]), changed_T
                self._turn += 1
        return out


@dataclass(frozen=True)
class _Watched:
    """The predictor for a batch that is shown twice."""

    flips: Flips
    batch: list[Window]

    def __call__(self, ids_BT: Tensor, *, first: int) -> Tensor:
        """Logits of the true batch."""
        return self.flips.watched(self.batch, ids_BT, first)

    def part(self, begin: int, end: int) -> Predictor:
        """The plain predictor: if memory is too small for the batch, nothing is tested."""
        return self.flips.predictor
