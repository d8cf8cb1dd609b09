"""The search: all members of the house that fit the cap, ranked by the score that the law forecasts in the time.

    steps = (seconds - start - end) / seconds of a step      end: packing, in rehearsal and twice more, as a run keeps
    bits  = 8 (cap - code - what is stored whole) / weights  net, of tables and matrices

Some thousand shapes are weighed in a second, so there is no cleverness here. What cannot be trained is refused with
the smallest budget that can.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from pargolf.core.budget import Budget
from pargolf.core.errors import UserError
from pargolf.core.units import size_text, time_text
from pargolf.data.learn import SMALLEST
from pargolf.data.tokens import ByteTokenizer
from pargolf.recipes.family import HEADS, Shape
from pargolf.study.planning.law import Law, interval
from pargolf.study.planning.sample import TextFacts
from pargolf.study.planning.throughput import Throughput

PIECES = (512, 1024, 2048, 4096)
"""Vocabularies that the law has runs of."""
WIDTHS = tuple(dim for dim in HEADS if dim >= 64)
"""Likewise widths: nothing narrower was trained."""
BLOCKS = (2, 3, 4, 6, 8, 11)
BATCHES = (2048, 4096, 8192, 16_384, 32_768)
"""Tokens of a step: the first one on a CPU, which it fills; on a GPU larger ones cost little more."""
RATIOS = (2, 3, 4)
"""Hidden units of an MLP over the width."""
ALTERNATIVES = 3
CODE = 27_300
"""About what the code of a member takes, to begin with: a few bytes of it are the shape's own numbers."""
_LEAST_STEPS = 40
_LEAST_BITS, _MOST_BITS = 2.4, 7.5  # net: fewer are not known by the law, more are not stored
_COST_SPREAD = 0.5  # relative deviation of what packing costs: long-trained weights lose more at as many bits
_EACH_SEEN = 20  # times that a piece must occur on average, for a vocabulary to be learned
_BY_HEART = 10  # weights for each token of the text, with which a model learns it by heart; the runs had up to 3
_START = 1.5  # seconds before the first step
_OWN_BITS, _FINEST = 3.7, 2.5  # net bits of the recipe's own steps, and times those of the finest
_SOLVED, _FILLED, _PACKED = 10.5, 6.0, 3.0  # packings that a run takes or keeps seconds for (`_packings`)
_LOOKS = 35  # steps' worth of looks at the validation split while training: ten, of two to five steps each
_ROOM = 300  # bytes that a shape's own numbers may add to the code


@dataclass(frozen=True)
class Prospect:
    """What one shape should come to: steps, times through the text, net bits per weight, bytes and bits per byte.

    `before` is before packing, `packed` after it, `bpb` at the end; `low` to `high` is a 95 % interval of `bpb`.
    """

    shape: Shape
    steps: int
    passes: float
    bits: float
    bytes: int
    before: float
    packed: float
    bpb: float
    low: float
    high: float


@dataclass(frozen=True)
class Search:
    """What is fixed while shapes are weighed; `code` bytes come with every artifact."""

    budget: Budget
    text: TextFacts
    pace: Throughput
    law: Law
    code: int

    def best(self) -> list[Prospect]:
        """Every shape that can be trained, the best first. Raises `UserError` where there is none."""
        ranked = sorted(self.prospects(), key=lambda prospect: prospect.bpb)
        if not ranked:
            raise UserError(self._too_small())
        return ranked

    def prospects(self) -> Iterator[Prospect]:
        """What each shape of the family should come to, where it fits the budget."""
        for shape in self.shapes():
            prospect = self.weigh(shape)
            if prospect is not None:
                yield prospect

    def shapes(self) -> Iterator[Shape]:
        """The family within reach of this text and cap."""
        base = Shape(half=self.pace.half, cap=self.budget.bytes, seconds=self.budget.train_seconds)
        for vocab, dim, blocks, ratio, batch in product(self.pieces, WIDTHS, BLOCKS, RATIOS, self.batches):
            tokens = self.text.train_bytes / self.text.spelled(vocab, self.law)
            shape = replace(base, vocab=vocab, dim=dim, blocks=blocks, hidden=ratio * dim, batch_tokens=batch)
            known = tokens >= _EACH_SEEN * vocab or self.text.vocab or vocab == self.pieces[0]
            small = shape.weights <= _BY_HEART * tokens or (dim, blocks, ratio) == (WIDTHS[0], BLOCKS[0], RATIOS[0])
            if known and small and blocks >= least_blocks(dim):
                yield shape

    @property
    def pieces(self) -> tuple[int, ...]:
        """Vocabularies that come into question for this text: its own, or those that it holds enough pieces for."""
        if self.text.vocab:
            return (self.text.vocab,)
        most = self.text.most or PIECES[-1]
        return tuple(vocab for vocab in PIECES if vocab <= most) or (most if most >= SMALLEST else ByteTokenizer.vocab,)

    @property
    def batches(self) -> tuple[int, ...]:
        """Tokens of a step that come into question on this machine."""
        return BATCHES[:1] if self.pace.machine.startswith("cpu") else BATCHES

    def weigh(self, shape: Shape) -> Prospect | None:
        """What a shape should come to; None where it does not fit the bytes or the seconds."""
        bits = self.bits(shape)
        steps = self.steps(shape)
        per_token = self.text.spelled(shape.vocab, self.law)
        unique = self.text.train_bytes / per_token
        if bits < _LEAST_BITS or steps < _LEAST_STEPS or unique <= shape.batch_tokens:
            return None
        how = {"tokens": float(steps * shape.batch_tokens), "unique": unique, "bytes_per_token": per_token}
        scale = self.text.hardness
        before = scale * self.law.constants.loss(shape, **how)
        packed = before + scale * self.law.cost(bits)
        bpb = packed if shape.adapt is None else scale * self.law.adapted(packed / scale)
        own = self.law.constants.deviation(shape, **how)
        other = 0.0 if self.text.known else self.law.elsewhere
        low, high = interval(bpb, math.hypot(own, other, _COST_SPREAD * (packed - before) / bpb))
        passes = steps * shape.batch_tokens / unique
        size = min(self.budget.bytes, self._whole(shape) + round(_MOST_BITS * shape.weights / 8))
        return Prospect(shape, steps, passes, min(bits, _MOST_BITS), size, before, packed, bpb, low, high)

    def bits(self, shape: Shape) -> float:
        """Net bits for each weight of tables and matrices."""
        return 8 * (self.budget.bytes - self._whole(shape)) / shape.weights

    def steps(self, shape: Shape) -> int:
        """Training steps that the seconds hold."""
        return max(0, int((self.budget.train_seconds - self._overhead(shape)) / self.pace.step(shape)) - _LOOKS)

    def scoring(self, shape: Shape) -> float:
        """Seconds that scoring the artifact takes, with what adapts."""
        return self.pace.score(shape, self.text.val_bytes / self.text.spelled(shape.vocab, self.law))

    def _overhead(self, shape: Shape) -> float:
        """Seconds of the start and of packing."""
        slower = self.pace.step(Shape()) / self.law.step_seconds
        return _START + self._packings(shape) * slower * self.law.packing(shape.weights / 1e6) + 0.5

    def _packings(self, shape: Shape) -> float:
        """Packings in rehearsal, and twice those that it expects at the end (`run/training.py`).

        Steps that are solved for take three or four packings, in rehearsal as at the end. Where the recipe's own fit
        the cap, one is rehearsed, and two or three follow; one, where the finest fit.
        """
        bits = self.bits(shape)
        return _SOLVED if bits < _OWN_BITS else _FILLED if bits < _FINEST * _OWN_BITS else _PACKED

    def _whole(self, shape: Shape) -> int:
        """Bytes of code, header, scales, and what is stored in 16 bits."""
        return self.code + _ROOM + stored_whole(shape)

    def _too_small(self) -> str:
        """One line that says what is lacking, and the smallest budget that can."""
        shapes = sorted(self.shapes(), key=lambda shape: shape.weights)
        least = shapes[0]
        cap = self._whole(least) + math.ceil(_LEAST_BITS * least.weights / 8)
        cap = math.ceil(cap / 1000) * 1000
        seconds = math.ceil(self._overhead(least) + (_LEAST_STEPS + _LOOKS + 1) * self.pace.step(least))
        if self.budget.bytes < cap:
            under = (
                "under the code alone" if self.budget.bytes <= self.code else "too small for any member of the house"
            )
            return (
                f"A cap of {size_text(self.budget.bytes)} is {under} ({self.code:,} bytes of it). "
                f"The smallest that can be trained takes --cap {cap // 1000}kB."
            )
        return (
            f"{time_text(self.budget.train_seconds)} are too few to train anything under {size_text(self.budget.bytes)}"
            f" here. The smallest member takes --seconds {seconds}."
        )


def least_blocks(dim: int) -> int:
    """Fewest blocks of a width: the law counts weights and not depth, and flatter models have no run."""
    return {64: 2, 96: 3}.get(dim, 4)


def stored_whole(shape: Shape) -> int:
    """Bytes of an artifact that are not codes: header, scales of rows, and the head's bias and vectors in 16 bits."""
    keys = HEADS[shape.dim] * 32
    rows = shape.vocab + shape.blocks * (3 * shape.dim + 2 * keys + shape.hidden)
    vectors = shape.vocab + 4 * shape.blocks * shape.dim
    return 1000 + round(2 * (0.9 * rows + 0.8 * vectors))


def alternatives(ranked: list[Prospect]) -> tuple[Prospect, ...]:
    """The best that differ from the first and each other in pieces, width or depth; then the best of the rest."""
    first: dict[tuple[int, int, int], Prospect] = {}
    for prospect in ranked:
        first.setdefault(_frame(prospect.shape), prospect)
    others = [*first.values(), *(prospect for prospect in ranked if prospect not in first.values())]
    return tuple(sorted(others[1 : 1 + ALTERNATIVES], key=lambda prospect: prospect.bpb))


def _frame(shape: Shape) -> tuple[int, int, int]:
    return shape.vocab, shape.dim, shape.blocks
